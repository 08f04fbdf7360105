"""Latency of two models in onnxruntime, interleaved, so that a busy machine slows both."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt import progress
from graphopt.analysis.snapshot import Analysis
from graphopt.errors import InputError
from graphopt.planning import CONFIDENCE
from graphopt.planning.intervals import GROUPS, of_median
from graphopt.runtime import session, subgraph
from graphopt.types import Candidate, Change, Interval

WARM_UP = 3
"""Runs of each model before the clock counts; measured by benchmarks.thresholds: clocks, without them 5 pairs
were once off by a factor of 8, 100 pairs not at all."""
GATE_REPEAT = 30
"""Pairs of runs by which a changed region is judged; measured by benchmarks.thresholds: clocks, on a loaded
machine 2 to 3 of 10 medians of so many were beyond `NOISE`, of 5 pairs 7."""
PAIRS_SECONDS, LEAST_SECONDS = 2.0, 0.5
"""How long two models are timed where nobody says how often: up to `MOST` pairs, and at least so long.
Derived: `MOST` pairs of models of 10 ms, of slower ones fewer; and five times the slice of a scheduler,
0.1 s, so that other work that comes and goes is seen in a part of the pairs."""
PATIENCE = 4
"""Times that it is timed as long again where the limit that is asked about is missed, or the interval still
holds it. Derived: an interval gets narrower by the root, so that what is left undecided is nearer than half
of it."""
NEAREST = 0.01
"""Difference of two parts of a latency that is worth telling apart: derived, a third of `NOISE`."""
FEWEST, MOST = 5, 100
"""Pairs of runs that this may make; measured by benchmarks.thresholds: clocks, on a loaded machine 7 of 10
medians of 5 pairs were beyond `NOISE`, of 100 none."""
TICK = 1e-6
"""Seconds of a clock that can time a run: derived, a twentieth of the shortest that networks take."""
NOISE = 0.03
"""Difference of two latencies that means nothing; measured by benchmarks.thresholds: clocks, a model against
itself was off by 0.4 to 2 % (median of 100 and of 30 pairs), by 2.8 % at most with 100."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Latency of two models.

    Attributes:
        reference_ms: median milliseconds of the reference.
        candidate_ms: milliseconds of the candidate, beside those of the reference: by that ratio.
        speedup: reference / candidate, the median of paired ratios; of more than `MOST` pairs those count
            that took least, since what else a machine does only adds time.
        spread: 10th and 90th percentile of those ratios.
        interval: where their median lies with `CONFIDENCE`, as the medians of `GROUPS` parts tell, one after
            the other: what else a machine does lasts for many pairs.
        threads: threads that one operator may use.
        repeat: number of pairs.
        provider: onnxruntime's execution provider.
        inputs: the shape of each input that was timed.
    """

    reference_ms: float
    candidate_ms: float
    speedup: float
    spread: Interval
    interval: Interval
    threads: int
    repeat: int
    provider: str
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The candidate's latency as a part of the reference's."""
        return 1.0 / self.speedup

    @property
    def clear(self) -> bool:
        """Whether it is known which of the two is faster."""
        return self.tells(1.0)

    def tells(self, ratio: float) -> bool:
        """Whether it is known on which side of a part of the reference's latency the candidate's lies."""
        low, high = self.interval
        return not low <= 1 / ratio <= high

    @property
    def outcome(self) -> str:
        """In words that the candidate is slower, or that nothing is clear; "" where it is faster."""
        if not self.clear:
            return "no clear difference in latency"
        return "" if self.speedup > 1 else "the model got slower"

    @property
    def range(self) -> str:
        """How many times as fast it is, as far as that is known."""
        low, high = self.interval
        return f"{low:.2f}–{high:.2f}"

    @property
    def sure(self) -> str:
        """The confidence of that range."""
        return f"{100 * CONFIDENCE:g} %"

    @property
    def verdict(self) -> str:
        """What is to be said before any figure: that it did not get faster, or not clearly; else ""."""
        if not self.outcome:
            return ""
        times = f"{self.reference_ms:.3f} → {self.candidate_ms:.3f} ms"
        return f"{self.outcome}: {times}, {self.range} times as fast ({self.sure})"

    def undecided(self, ratio: float) -> str:
        """That it can't be told whether the candidate takes at most a part of the latency; "" where it can.

        Args:
            ratio: the part.

        Returns:
            That, with the pairs that would do.
        """
        if self.tells(ratio):
            return ""
        low, high = (1 / end for end in reversed(self.interval))
        missing = max(abs(self.ratio - ratio), NEAREST)
        needed = max(2 * self.repeat, math.ceil(self.repeat * ((high - low) / 2 / missing) ** 2))
        return (
            f"the machine is too busy to tell whether {ratio:g} of the latency is kept: {self.ratio:.3f} "
            f"({self.sure}: {low:.3f}–{high:.3f}) after {self.repeat} pairs; about {needed} would tell"
        )


def time_pair(
    reference: ir.Model,
    candidate: ir.Model,
    feed: session.Feeds,
    *,
    threads: int = session.THREADS,
    repeat: int | None = None,
    provider: str = session.PROVIDER,
    limit: float | None = None,
) -> Timing:
    """Times both models on the same input, one run of each in turn, the first of a pair changing.

    Args:
        reference: the original.
        candidate: the rewritten model.
        feed: the input, by name.
        threads: threads that one operator may use.
        repeat: pairs of runs; None for as many as fit into `PAIRS_SECONDS`.
        provider: onnxruntime's execution provider.
        limit: a part of the reference's latency that is to be kept; where it is not known to be, it is timed
            for longer, without ``repeat``.

    Returns:
        Medians in milliseconds, and the speed-up with where it lies.

    Raises:
        InputError: onnxruntime can't load or run one of them, or does not have the provider.
    """
    import onnxruntime as ort

    if provider not in ort.get_available_providers():
        raise InputError(f"no provider {provider}; there are {', '.join(ort.get_available_providers())}")
    parts = (session.structure(reference), session.structure(candidate))
    pairs = _Pairs(parts, feed, threads, provider)
    count = repeat or pairs.wanted()
    timing = pairs.timed(count)
    for _ in range(0 if repeat else PATIENCE):
        if limit is None or (timing.ratio < limit and timing.tells(limit)):
            break
        timing = pairs.timed(count)
    return timing


def slower(analysis: Analysis, changes: Sequence[Change], seed: int) -> dict[Candidate, str]:
    """The changes that did not make their region faster, each timed alone at one thread, with the figures.

    A change without a saving of MACs has to be at least as fast, give or take `NOISE`.

    Args:
        analysis: a snapshot of the model.
        changes: candidates of it, each with what takes its place.
        seed: of the inputs that the regions are run on.

    Returns:
        A reason, with both times in µs, for each candidate to be dropped.
    """
    found: dict[Candidate, str] = {}
    for candidate, change in progress.track(changes, "regions", describe=lambda c: c.candidate.site.nodes[0]):
        region = subgraph.region(analysis, candidate, change, "r/")
        feed = region.feeds(np.random.default_rng(seed))
        parts = tuple(subgraph.assemble(analysis.model, [form]) for form in region.forms())
        timing = _Pairs(parts, feed, session.THREADS, session.PROVIDER).timed(GATE_REPEAT)
        if timing.speedup < (1.0 if candidate.macs_saved else 1.0 - NOISE):
            times = f"{timing.reference_ms * 1e3:.0f} → {timing.candidate_ms * 1e3:.0f} µs"
            found[candidate] = f"measured slower ({times}): the latency gate drops it"
    return found


class _Pairs:
    """Runs of two models on one input, in turn, the first of a pair changing."""

    def __init__(
        self, parts: Sequence[session.Structure], feed: session.Feeds, threads: int, provider: str
    ) -> None:
        self._sessions = [
            session.session(p, optimised=True, threads=threads, provider=provider) for p in parts
        ]
        for running in self._sessions * WARM_UP:
            session.run(running, feed)
        self._feed, self._threads, self._provider = feed, threads, provider
        self._seconds = np.empty((0, 2))

    def wanted(self) -> int:
        """The pairs that tell enough where nobody says how many."""
        start = time.perf_counter()
        for running in self._sessions:
            running.run(None, self._feed)
        seconds = time.perf_counter() - start
        usual = min(max(int(PAIRS_SECONDS / seconds), FEWEST), MOST)
        return max(usual, int(LEAST_SECONDS / seconds))

    def timed(self, more: int) -> Timing:
        """What the pairs tell, after so many more of them."""
        alone = self._threads == 1 and self._provider == session.PROVIDER
        done = len(self._seconds)
        turns = progress.track(range(done, done + more), "pairs of runs")
        taken = in_turn(self._sessions, self._feed, turns, alone=alone)
        ticked = taken[(taken > 0).all(axis=1)]  # a busy machine's clock may stand still in a short run
        self._seconds = np.concatenate([self._seconds, ticked if len(ticked) else np.maximum(taken, TICK)])
        least = np.argsort(self._seconds.sum(axis=1), kind="stable")[:MOST]
        seconds = self._seconds[np.sort(least)]
        ratios = seconds[:, 0] / seconds[:, 1]
        medians = [float(np.median(part)) for part in np.array_split(ratios, min(len(ratios), GROUPS))]
        low, high = np.percentile(ratios, [10, 90])
        before, speedup = float(np.median(seconds[:, 0])) * 1e3, float(np.median(ratios))
        interval = of_median(medians, CONFIDENCE)
        return Timing(
            before,
            before / speedup,
            speedup,
            (float(low), float(high)),
            (min(interval[0], speedup), max(interval[1], speedup)),
            self._threads,
            len(self._seconds),
            self._provider,
            {name: array.shape for name, array in self._feed.items()},
        )


def in_turn(
    sessions: Sequence[Any], feed: session.Feeds, turns: Iterable[int], *, alone: bool = True
) -> npt.NDArray[np.float64]:
    """Seconds [turns, sessions] of a run of each session on one input, the first of a turn changing.

    Args:
        sessions: what to run.
        feed: the input, by name.
        turns: their numbers; in every second one the order is turned round.
        alone: whether all work is done by the thread that asks for it, whose processor time is taken then:
            what else runs on the machine does not count.

    Returns:
        ``[turns, sessions]``, seconds.
    """
    fine = time.get_clock_info("thread_time").resolution <= TICK
    clock = time.thread_time if alone and fine else time.perf_counter
    seconds = []
    for turn in turns:
        taken = [0.0] * len(sessions)
        for which in range(len(sessions)) if turn % 2 == 0 else reversed(range(len(sessions))):
            start = clock()
            sessions[which].run(None, feed)
            taken[which] = clock() - start
        seconds.append(taken)
    return np.array(seconds)
