"""By which clock models are timed, how often, and what is known then."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from graphopt.model.io import load
from graphopt.runtime import latency
from graphopt.runtime.latency import Timing
from tests.builders import conv_bn


class Waiting:
    """A session that waits for its turn, as on a busy machine, and works a little."""

    def run(self, outputs: None, feed: Any) -> None:
        time.sleep(0.01)
        sum(range(2000))


@pytest.mark.skipif(
    time.get_clock_info("thread_time").resolution > latency.TICK, reason="the clock of a thread is too coarse"
)
def test_what_else_runs_does_not_count_where_one_thread_does_the_work() -> None:
    seconds = latency.in_turn([Waiting()], {}, range(3))
    assert seconds.shape == (3, 1) and seconds.min() > 0 and seconds.max() < 0.005


def test_what_others_do_for_a_run_counts_where_they_do() -> None:
    assert latency.in_turn([Waiting()], {}, range(3), alone=False).min() >= 0.01


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Times pairs of models: the second takes so many times as long, up to noise, and others come and go."""

    def time_pair(true: float, noise: float, limit: float | None = None, repeat: int | None = None) -> Timing:
        rng = np.random.default_rng(0)

        def in_turn(sessions: Sequence[Any], feed: Any, turns: Iterable[int], **_: Any) -> Any:
            count = len(list(turns))
            noisy = 1 + noise * rng.uniform(-1, 1, (count, 2))
            busy = np.repeat(rng.uniform(1, 3, count // 5 + 1), 5)[:count]
            return 1e-3 * busy[:, None] * noisy * [1.0, true]

        monkeypatch.setattr(latency, "in_turn", in_turn)
        monkeypatch.setattr(latency, "LEAST_SECONDS", 0.0)
        model = load(conv_bn()).model
        feed = {"x": np.zeros((1, 8, 8, 8), np.float32)}
        return latency.time_pair(model, model, feed, limit=limit, repeat=repeat)

    return time_pair


def test_the_ratio_is_that_of_the_two_figures(timed: Any) -> None:
    timing = timed(0.8, 0.2)
    assert (
        timing.candidate_ms / timing.reference_ms
        == pytest.approx(timing.ratio)
        == pytest.approx(0.8, abs=0.1)
    )


def test_what_is_timed_near_a_limit_is_timed_for_longer(timed: Any) -> None:
    far, near = timed(0.5, 0.1, 0.83), timed(0.8, 0.1, 0.83)
    assert far.repeat == latency.MOST and far.tells(0.83) and far.undecided(0.83) == ""
    assert near.repeat > latency.MOST and near.tells(0.83)
    assert timed(0.9, 0.1, 0.83).repeat == (1 + latency.PATIENCE) * latency.MOST  # others may be guilty of it
    at_it = timed(0.5, 0.0, 0.5)
    assert at_it.repeat == (1 + latency.PATIENCE) * latency.MOST and not at_it.tells(0.5)
    told = "the machine is too busy to tell whether 0.5 of the latency is kept: 0.500 (95 %: 0.500–0.500)"
    assert at_it.undecided(0.5) == f"{told} after 500 pairs; about 1000 would tell"
    assert timed(0.799, 0.2, 0.8, repeat=30).repeat == 30  # as it was asked for


def test_a_difference_is_clear_where_the_median_is_known(timed: Any) -> None:
    """Single pairs may say anything."""
    noisy = timed(0.7, 0.4)
    assert noisy.spread[0] < 1 < noisy.spread[1] and noisy.clear and noisy.outcome == ""
    assert timed(1.4, 0.4).outcome == "the model got slower"
    assert timed(1.0, 0.4).outcome == "no clear difference in latency"


def test_short_runs_are_timed_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of runs of some microseconds a hundred take less time than what else the machine does at once."""
    model, feed = load(conv_bn()).model, {"x": np.zeros((1, 8, 8, 8), np.float32)}
    start = time.perf_counter()
    assert latency.time_pair(model, model, feed).repeat > latency.MOST
    assert time.perf_counter() - start > latency.LEAST_SECONDS / 2


def test_of_many_pairs_the_quietest_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """While others share the processor's caches a model may be slower that is faster alone."""

    def in_turn(sessions: Sequence[Any], feed: Any, turns: Iterable[int], **_: Any) -> Any:
        alone = np.array([turn % 1000 < 200 for turn in turns])
        return np.where(alone[:, None], [40e-6, 36e-6], [48e-6, 49e-6])

    model, feed = load(conv_bn()).model, {"x": np.zeros((1, 8, 8, 8), np.float32)}
    monkeypatch.setattr(latency, "in_turn", in_turn)
    timing = latency.time_pair(model, model, feed, repeat=1000)
    assert timing.ratio == pytest.approx(0.9) and timing.clear and timing.repeat == 1000
    assert timing.reference_ms == pytest.approx(0.04)


@pytest.mark.parametrize("every", [3, 1], ids=["some", "all"])
@pytest.mark.filterwarnings("error")
def test_pairs_in_which_the_clock_stood_still_say_nothing(
    monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    def in_turn(sessions: Sequence[Any], feed: Any, turns: Iterable[int], **_: Any) -> Any:
        still = np.array([turn % every == 0 for turn in turns])
        return np.where(still[:, None], [20e-6, 0.0] if every > 1 else 0.0, [20e-6, 40e-6])

    model, feed = load(conv_bn()).model, {"x": np.zeros((1, 8, 8, 8), np.float32)}
    monkeypatch.setattr(latency, "in_turn", in_turn)
    timing = latency.time_pair(model, model, feed, repeat=300)
    assert (timing.repeat, timing.speedup) == ((200, 0.5) if every > 1 else (300, 1.0))
