"""All weights of a cheaper network together, moved so that it does what the original does.

Distillation (Hinton et al. 2015) without labels: what the original makes of the same inputs is the target, at
its outputs, channel by channel as quality is measured, and at values on the way, which give every input many
targets more (Romero et al. 2015). onnxruntime runs the network, its derivatives and the original; the steps
are those of `numerics.optimiser`. The best that was met is kept, by inputs that no step is taken on; whether
it is better than the start, which may have been fitted to these, other inputs have to say.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from graphopt import progress
from graphopt.calibration.samples import Samples
from graphopt.compression.tuning.checkpoint import Checkpoint
from graphopt.compression.tuning.course import Check, Course, Place
from graphopt.compression.tuning.student import Student, Target, Teacher
from graphopt.numerics.optimiser import Soap, rate_at
from graphopt.numerics.spread import Spread, squares_of
from graphopt.types import Array, Float64

BATCH = 32
"""Inputs of a step. Derived: twice as many take half the steps in the same time, and take off 3 dB of noise
that the falling rate takes off anyway."""
THREADS = 2
"""Parts of a step that are run beside each other. Derived: two cores are what most machines have at least; a
step has so many parts on one core too, and they are summed up in their order."""
RATE = 5e-4
"""The highest rate of a run of `RATED_AT` steps and more. Measured by benchmarks.tuning on a ResNet-20 at 0.3
of the MACs: in 1,000 steps with 1.67e-4, this and 1.5e-3 the error .0439 became .0375, .0354 and .0357."""
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
        place, course = self._begun(start), Course({})
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in range(timed):
                began = time.perf_counter()
                self._step(place, 0.0, course, pool)
                took.append(time.perf_counter() - began)
        began = time.perf_counter()
        self.error(start)
        left = seconds - CHECKS * (time.perf_counter() - began)
        tried.recipe = replace(self.recipe, steps=max(fewest, int(left / min(took))))
        return tried

    def run(
        self, start: Mapping[str, Array], checkpoint: Checkpoint | None = None, *, keep_best: bool = False
    ) -> Course:
        """Tunes weights.

        Those to begin with are none to choose: what they were fitted to may be among the inputs apart.

        Args:
            start: the weights to begin with, by name.
            checkpoint: the file to go on from where there is one, and to keep the run in.
            keep_best: whether Ctrl-C ends the run with the best weights so far.

        Returns:
            The best weights that were met on the way.

        Raises:
            InputError: onnxruntime can't run the derivatives, or the checkpoint is none of this run.
            KeyboardInterrupt: the user ended it, and the best so far is not asked for, or there is none yet.
        """
        kept = None if checkpoint is None else checkpoint.read()
        if kept is not None:
            steps, course, place = kept
            self.recipe = replace(self.recipe, steps=steps)
        else:
            course, place = Course(dict(start), rate=self.recipe.rate), self._begun(start)
            with course.spent("judge"):
                course.checks = [Check(0, self.error(start))]
        try:
            with ThreadPoolExecutor(THREADS) as pool:
                while not self._descend(place, course, checkpoint, pool):
                    first, place = course.checks[0], self._begun(start)
                    course.rate, course.cuts = course.rate / CUT, course.cuts + 1
                    course.checks, course.best = [first], Check(0, math.inf)
        except KeyboardInterrupt:
            if not (keep_best and course.best.step):
                raise
            course.ended = place.step
        return course

    def _begun(self, start: Mapping[str, Array]) -> Place:
        return Place(dict(start), Soap(), np.random.default_rng(self.recipe.seed))

    def _descend(self, place: Place, course: Course, checkpoint: Checkpoint | None, pool: Executor) -> bool:
        """Takes the steps with one rate; False where it was too high, and another may be tried."""
        recipe, last = self.recipe, course.cuts == CUTS
        every = max(1, recipe.steps // CHECKS)
        tried = min(TRIED_FOR, recipe.steps // 2)
        ahead = range(place.step, recipe.steps)
        for step in progress.track(ahead, "steps", describe=lambda _: f"error {course.checks[-1].error:.4f}"):
            self._step(place, rate_at(step, recipe.steps, course.rate), course, pool)
            if place.step % every == 0 or place.step in (tried, recipe.steps):
                with course.spent("judge"):
                    check = Check(place.step, self.error(place.weights))
                course.checks.append(check)
                if check.error < course.best.error or not course.best.step:
                    course.best, course.weights = check, dict(place.weights)
                if place.step == tried and not last and not check.error <= WORSE * course.checks[0].error:
                    return False
            if checkpoint is not None:
                checkpoint.keep(recipe.steps, course, place)
        return True

    def _step(self, place: Place, rate: float, course: Course, pool: Executor) -> None:
        """One step on some inputs, run in parts that memory has room for, several beside each other."""
        samples = self._fit.chosen(place.picked(len(self._fit), self.recipe.batch))
        total: dict[str, Array] = {}
        if self._changed is not None:
            samples = self._changed(samples, place.rng)

        def derivative(part: Samples) -> dict[str, Array]:
            feeds = part.joined()
            return self._student.derivative(place.weights, feeds, self._teacher.values(feeds))[1]

        with course.spent("derivatives"):
            for found in pool.map(derivative, samples.cut(self.recipe.at_once)):
                for name, each in found.items():
                    total[name] = total[name] + each if name in total else each
        with course.spent("steps"):
            place.optimiser.step(place.weights, total, rate)
        place.step += 1
