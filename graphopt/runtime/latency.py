"""Latency of two models in onnxruntime, interleaved, so that a busy machine slows both."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt import progress
from graphopt.analysis.snapshot import Analysis
from graphopt.errors import InputError
from graphopt.runtime import session, subgraph
from graphopt.types import Candidate, Change

WARM_UP = 3
"""Runs of each model before the clock counts; measured by benchmarks.thresholds: clocks, without them 5 pairs
were once off by a factor of 8, 100 pairs not at all."""
GATE_REPEAT = 30
"""Pairs of runs by which a changed region is judged; measured by benchmarks.thresholds: clocks, on a loaded
machine 2 to 3 of 10 medians of so many were beyond `NOISE`, of 5 pairs 7."""
PAIRS_SECONDS = 2.0
"""How long two models are timed where nobody says how often. Derived: `MOST` pairs of models of 10 ms, of
slower ones fewer."""
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
        candidate_ms: median milliseconds of the candidate.
        speedup: reference / candidate, the median of paired ratios.
        spread: 10th and 90th percentile of those ratios.
        threads: threads that one operator may use.
        repeat: number of pairs.
        provider: onnxruntime's execution provider.
    """

    reference_ms: float
    candidate_ms: float
    speedup: float
    spread: tuple[float, float]
    threads: int
    repeat: int
    provider: str

    @property
    def ratio(self) -> float:
        """The candidate's latency as a part of the reference's."""
        return 1.0 / self.speedup

    @property
    def clear(self) -> bool:
        """Whether the spread of the ratios leaves no doubt which of the two is faster."""
        low, high = self.spread
        return high < 1 or low > 1

    @property
    def outcome(self) -> str:
        """In words that the candidate is slower, or that nothing is clear; "" where it is faster."""
        if not self.clear:
            return "no clear difference in latency"
        return "" if self.speedup > 1 else "the model got slower"

    @property
    def range(self) -> str:
        """How many times as fast it is in the middle of the pairs."""
        low, high = self.spread
        return f"{low:.2f}–{high:.2f}"

    @property
    def verdict(self) -> str:
        """What is to be said before any figure: that it did not get faster, or not clearly; else ""."""
        if not self.outcome:
            return ""
        times = f"{self.reference_ms:.3f} → {self.candidate_ms:.3f} ms"
        return f"{self.outcome}: {times}, {self.range} times as fast (10–90 % of the pairs)"


def time_pair(
    reference: ir.Model,
    candidate: ir.Model,
    feed: session.Feeds,
    *,
    threads: int = session.THREADS,
    repeat: int | None = None,
    provider: str = session.PROVIDER,
) -> Timing:
    """Times both models on the same input, one run of each in turn, the first of a pair changing.

    Args:
        reference: the original.
        candidate: the rewritten model.
        feed: the input, by name.
        threads: threads that one operator may use.
        repeat: pairs of runs; None for as many as fit into `PAIRS_SECONDS`.
        provider: onnxruntime's execution provider.

    Returns:
        Medians in milliseconds, and the speed-up with the range of its middle 80 %.

    Raises:
        InputError: onnxruntime can't load or run one of them, or does not have the provider.
    """
    import onnxruntime as ort

    if provider not in ort.get_available_providers():
        raise InputError(f"no provider {provider}; there are {', '.join(ort.get_available_providers())}")
    parts = (session.structure(reference), session.structure(candidate))
    seconds = _paired(parts, feed, threads, repeat, provider)
    ratios = seconds[:, 0] / seconds[:, 1]
    low, high = np.percentile(ratios, [10, 90])
    before, after = np.median(seconds, axis=0) * 1e3
    return Timing(
        float(before),
        float(after),
        float(np.median(ratios)),
        (float(low), float(high)),
        threads,
        len(seconds),
        provider,
    )


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
        seconds = _paired(parts, feed, session.THREADS, GATE_REPEAT, session.PROVIDER)
        speedup = float(np.median(seconds[:, 0] / seconds[:, 1]))
        if speedup < (1.0 if candidate.macs_saved else 1.0 - NOISE):
            before, after = np.median(seconds, axis=0) * 1e6
            found[candidate] = f"measured slower ({before:.0f} → {after:.0f} µs): the latency gate drops it"
    return found


def _paired(
    parts: Sequence[session.Structure], feed: session.Feeds, threads: int, repeat: int | None, provider: str
) -> npt.NDArray[np.float64]:
    """Seconds [repeat, 2] of two models on one input, run in turn, the first of a pair changing."""
    sessions = [session.session(p, optimised=True, threads=threads, provider=provider) for p in parts]
    for running in sessions * WARM_UP:
        session.run(running, feed)
    if repeat is None:
        start = time.perf_counter()
        for running in sessions:
            running.run(None, feed)
        repeat = min(max(int(PAIRS_SECONDS / (time.perf_counter() - start)), FEWEST), MOST)
    alone = threads == 1 and provider == session.PROVIDER
    return in_turn(sessions, feed, progress.track(range(repeat), "pairs of runs"), alone=alone)


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
