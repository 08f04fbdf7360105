"""By which clock models are timed."""

from __future__ import annotations

import time
from typing import Any

import pytest

from graphopt.runtime import latency


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
