"""All weights of a cheaper network together, moved so that it does what the original does.

Distillation (Hinton et al. 2015) without labels: what the original makes of the same inputs is the target, at
its outputs, channel by channel as quality is measured, and at values on the way, which give every input many
targets more (Romero et al. 2015). onnxruntime runs the network, its derivatives and the original; the steps
are those of `numerics.optimiser`. What comes of it is judged on inputs that no step is taken on, and the best
that was met is kept: never worse than the start.
"""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from graphopt import progress
from graphopt.calibration.samples import Samples
from graphopt.compression.tuning.student import Student, Target, Teacher
from graphopt.numerics.optimiser import Soap, rate_at
from graphopt.numerics.spread import Spread, squares_of
from graphopt.types import Array, Float64

BATCH = 32
"""Inputs of a step. Derived: twice as many take half the steps in the same time, and take off 3 dB of noise
that the falling rate takes off anyway."""
RATE = 5e-4
"""The highest rate of a run of `RATED_AT` steps and more. Measured by benchmarks.tuning on a ResNet-20 at 0.3
of the MACs: with 1.67e-4, this and 1.5e-3 the error .0439 became .0375, .0354 and, after two cuts, .0354."""
RATED_AT = 4000
"""Steps of that run; the rate of a shorter one goes by the root of its steps. Derived: rates that add up are
noise that grows by their root."""
CUT = 3.0
"""By which the rate is divided where it was too high: derived, half a decade."""
CUTS = 4
"""Times that it is, at most: derived, down to 6e-6, which moves no weight by 1 % in 1,000 steps."""
TRIED_FOR = 50
"""Steps after which a rate is judged: derived, twice `numerics.optimiser.TURNED_EVERY` and some, so that the
directions are found twice."""
WORSE = 1.5
"""Of the start's error, at most. Derived: that is on inputs which the start was fitted to, and a quarter too
small; and what the error on 128 inputs is off by, √(2/128), an eighth."""
CHECKS = 20
"""Times that the error on inputs apart is looked at in a run: derived, each takes about as long as `BATCH`
inputs a step, a twentieth of the run where there are 256 of them and 1,000 steps."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is tuned.

    Attributes:
        steps: of the run.
        seed: of the order of inputs and of what is made of them.
        batch: inputs of a step, as many as there are to take steps on at most.
        at_once: inputs that are run at once, a part of `batch` and of the inputs apart; it changes nothing
            but rounding.
    """

    steps: int
    seed: int
    batch: int
    at_once: int

    @property
    def rate(self) -> float:
        """The highest rate to begin with."""
        return RATE * min(1.0, math.sqrt(self.steps / RATED_AT))


@dataclass(frozen=True, slots=True)
class Check:
    """The error on inputs apart after some steps."""

    step: int
    error: float


@dataclass
class Course:
    """What came of tuning.

    Attributes:
        weights: those with which the network was nearest to the original, of the run with the last rate.
        checks: errors on the way, of the run with the last rate.
        rate: the highest rate of that run.
        best: of the checks, that of those weights.
        seconds: where the time went, by kind of work.
    """

    weights: dict[str, Array]
    checks: list[Check] = field(default_factory=list)
    rate: float = 0.0
    best: Check = Check(0, float("inf"))
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """Counts the time of some work."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] += time.perf_counter() - began


class Descent:
    """The joint fit of a network's weights.

    Args:
        student: the network.
        teacher: the original.
        targets: what the network is led by.
        fit: inputs to take steps on, all of one size.
        apart: inputs to judge and stop by.
        changed: makes other inputs of some, from random numbers; as they are where there is none.
        recipe: how.
    """

    def __init__(
        self,
        student: Student,
        teacher: Teacher,
        targets: Sequence[Target],
        fit: Samples,
        apart: Samples,
        recipe: Recipe,
        changed: Callable[[Samples, np.random.Generator], Samples] | None = None,
    ) -> None:
        self._student, self._teacher, self._targets = student, teacher, targets
        self._fit, self._changed, self.recipe = fit, changed, recipe
        self._apart = [part.joined() for part in apart.cut(recipe.at_once) if len(part) == recipe.at_once]
        self._wanted = [teacher.values(feeds) for feeds in self._apart]
        self._spreads = {t.name: Spread(t.axis) for t in targets if t.judged}
        for values in self._wanted:
            for name, spread in self._spreads.items():
                spread.add(values[name], recipe.at_once)

    def error(self, weights: Mapping[str, Array]) -> float:
        """The worst target's mean part of the variance that is lost on the inputs apart."""
        squares: dict[str, Float64] = {}
        for feeds, wanted in zip(self._apart, self._wanted, strict=True):
            for name, value in self._student.values(weights, feeds).items():
                more = squares_of(value.astype(np.float64) - wanted[name], self._spreads[name].axis)
                squares[name] = squares[name] + more if name in squares else more
        errors = [float(np.mean(self._spreads[name].errors(total))) for name, total in squares.items()]
        return max(errors)

    def within(self, seconds: float, fewest: int, timed: int, start: Mapping[str, Array]) -> Descent:
        """The same with as many steps as take so long, about, which a clock finds anew each time.

        Args:
            seconds: of the whole run.
            fewest: steps at least.
            timed: steps that are tried.
            start: weights to try them with.

        Returns:
            The tuning.
        """
        tried, took = copy.copy(self), list[float]()
        rng = np.random.default_rng(self.recipe.seed)
        picks, optimiser, weights, course = self._picks(rng), Soap(), dict(start), Course({})
        for _ in range(timed):
            began = time.perf_counter()
            self._step(weights, optimiser, next(picks), rng, 0.0, course)
            took.append(time.perf_counter() - began)
        began = time.perf_counter()
        self.error(start)
        left = seconds - CHECKS * (time.perf_counter() - began)
        tried.recipe = replace(self.recipe, steps=max(fewest, int(left / min(took))))
        return tried

    def run(self, start: Mapping[str, Array]) -> Course:
        """Tunes weights.

        Those to begin with are none to choose: what they were fitted to may be among the inputs apart.

        Args:
            start: the weights to begin with, by name.

        Returns:
            The best weights that were met on the way.

        Raises:
            InputError: onnxruntime can't run the derivatives.
        """
        course, rate = Course(dict(start)), self.recipe.rate
        with course.spent("judge"):
            first = Check(0, self.error(start))
        for cut in range(CUTS + 1):
            course.rate, course.checks, course.best = rate, [first], Check(0, math.inf)
            if self._descend(dict(start), course, rate, last=cut == CUTS):
                break
            rate /= CUT
        return course

    def _descend(self, weights: dict[str, Array], course: Course, rate: float, *, last: bool) -> bool:
        """Takes the steps with one rate; False where it was too high, and another may be tried."""
        recipe, first = self.recipe, course.checks[0].error
        rng = np.random.default_rng(recipe.seed)
        picks, optimiser = self._picks(rng), Soap()
        every = max(1, recipe.steps // CHECKS)
        tried = min(TRIED_FOR, recipe.steps // 2)
        for step in progress.track(range(recipe.steps), "steps"):
            self._step(weights, optimiser, next(picks), rng, rate_at(step, recipe.steps, rate), course)
            done = step + 1
            if done % every and done not in (tried, recipe.steps):
                continue
            with course.spent("judge"):
                check = Check(done, self.error(weights))
            course.checks.append(check)
            if check.error < course.best.error or not course.best.step:
                course.best, course.weights = check, dict(weights)
            if done == tried and not last and not check.error <= WORSE * first:
                return False
        return True

    def _step(
        self,
        weights: dict[str, Array],
        optimiser: Soap,
        samples: Samples,
        rng: np.random.Generator,
        rate: float,
        course: Course,
    ) -> None:
        """One step on some inputs, run in parts that memory has room for."""
        total: dict[str, Array] = {}
        if self._changed is not None:
            samples = self._changed(samples, rng)
        for part in samples.cut(self.recipe.at_once):
            feeds = part.joined()
            with course.spent("original"):
                targets = self._teacher.values(feeds)
            with course.spent("derivatives"):
                _, found = self._student.derivative(weights, feeds, targets)
            for name, each in found.items():
                total[name] = total[name] + each if name in total else each
        with course.spent("steps"):
            optimiser.step(weights, total, rate)

    def _picks(self, rng: np.random.Generator) -> Iterator[Samples]:
        """Inputs of a step, again and again: all of them in another order each time."""
        count, size = len(self._fit), self.recipe.batch
        while True:
            order = rng.permutation(count)
            for at in range(0, count - size + 1, size):
                yield self._fit.chosen(order[at : at + size])
