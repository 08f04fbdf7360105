"""What comes of a run of tuning, and where it is."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from graphopt.numerics.optimiser import Soap
from graphopt.types import Array


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
        cuts: times that the rate was cut.
        seconds: where the time went, by kind of work.
        ended: steps after which the user ended the run; None where it came to its end.
    """

    weights: dict[str, Array]
    checks: list[Check] = field(default_factory=list)
    rate: float = 0.0
    best: Check = Check(0, math.inf)
    cuts: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    ended: int | None = None

    @contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """Counts the time of some work."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] += time.perf_counter() - began


@dataclass
class Place:
    """Where a run is: all that decides the steps to come.

    Attributes:
        weights: by name.
        optimiser: and what it remembers.
        rng: draws the order of inputs, and what is made of them.
        order: of the inputs, by number.
        at: the next one's place in it.
        step: steps that were taken.
    """

    weights: dict[str, Array]
    optimiser: Soap
    rng: np.random.Generator
    order: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    at: int = 0
    step: int = 0

    def picked(self, count: int, size: int) -> npt.NDArray[np.int64]:
        """The inputs of the next step, by number: all of them in another order each time.

        Args:
            count: of all inputs.
            size: of a step.
        """
        if self.at + size > len(self.order):
            self.order, self.at = self.rng.permutation(count), 0
        self.at += size
        return self.order[self.at - size : self.at]
