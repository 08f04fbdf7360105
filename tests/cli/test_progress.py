"""Progress: what the library tells, and what a person at a terminal sees of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import graphopt
from graphopt import progress
from tests.builders import classifier, samples
from tests.command import Recorder, at_terminal

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


# ---------------------------------------------------------------- the interface


def test_without_a_display_items_pass_through_and_nothing_is_described() -> None:
    def refuse(item: int) -> str:
        raise AssertionError(item)

    with progress.step("calibrate"):
        assert list(progress.track([1, 2], "fit", describe=refuse)) == [1, 2]


def test_a_display_sees_steps_and_items() -> None:
    seen = Recorder()
    with progress.shown_by(seen), progress.step("fit"):
        for _ in progress.track(["a", "b"], "layers", describe=str.upper):
            pass
    assert seen.events == [
        ("begin", "fit", None),
        ("begin", "layers", 2),
        ("at", "layers", 0, "A"),
        ("at", "layers", 1, "B"),
        ("end", "layers"),
        ("end", "fit"),
    ]
    with progress.step("after"):
        pass
    assert ("begin", "after", None) not in seen.events


def test_steps_end_when_the_work_fails_or_stops_early() -> None:
    seen = Recorder()
    with progress.shown_by(seen), pytest.raises(ValueError, match="no"), progress.step("fit"):
        for _ in progress.track(range(3), "layers"):
            raise ValueError("no")
    with progress.shown_by(seen):
        for _ in progress.track(range(3), "layers"):
            break
    assert not seen.open


def test_work_of_another_thread_is_seen_where_it_is_carried() -> None:
    seen = Recorder()

    def work(name: str) -> None:
        with progress.step(name):
            pass

    with progress.shown_by(seen), ThreadPoolExecutor(1) as pool:
        pool.submit(work, "unseen").result()
        pool.submit(progress.carried(work), "seen").result()
    assert [event[1] for event in seen.events] == ["seen", "seen"]


def test_a_run_tells_its_steps_and_layers() -> None:
    seen = Recorder()
    with progress.shown_by(seen):
        graphopt.optimize(classifier(), {"macs": 0.6}, {"x": samples(64)})
    names = [event[1] for event in seen.events if event[0] == "begin"]
    assert {"load", "analyse", "propose", "calibrate", "fit", "layers", "inputs", "regions"} <= set(names)
    assert any(event[0] == "at" and event[3] == "conv2" for event in seen.events)
    assert not seen.open


# ---------------------------------------------------------------- at a terminal


def left_behind(terminal: str) -> str:
    """What stands on the terminal in the end: a small emulation of the codes that a live display uses."""
    lines, row, column = [""], 0, 0
    for code, argument, text in re.findall(r"\x1b\[\??(?:([\d;]*)([A-Za-z]))|([^\x1b])", terminal):
        if text == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif text == "\r":
            column = 0
        elif text:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + text + line[column + 1 :]
            column += 1
        elif argument == "A":
            row = max(0, row - int(code or 1))
        elif argument == "K" and code == "2":
            lines[row] = ""
    return "\n".join(lines).strip()


SLOW = """
import time
from unittest import mock
from graphopt import __main__
from graphopt.runtime import latency

def unhurried(sessions, feed, turns, in_turn=latency.in_turn, **options):
    return in_turn(sessions, feed, (turn for turn in turns if not time.sleep(0.02)), **options)

with mock.patch.object(latency, "in_turn", unhurried):
    __main__.run()
"""
"""The command with pauses between pairs of runs: some seconds, and little of the processor's time."""


@pytest.fixture
def slow(scores: Path) -> tuple[str, ...]:
    """A command that takes some seconds, whatever the machine."""
    return (sys.executable, "-c", SLOW, "bench", str(scores), str(scores), "--repeat", "125")


def test_slow_work_is_shown_in_80_columns_and_leaves_no_trace(slow: tuple[str, ...]) -> None:
    seen = at_terminal(program=slow)
    assert seen.code == 0
    assert "pairs of runs" in seen.err
    assert re.search(r"\d:\d\d", seen.err), "the time left is shown"
    assert seen.err.count(HIDE) == seen.err.count(SHOW) == 1
    assert left_behind(seen.err) == ""
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", seen.err)
    assert max(map(len, re.split(r"[\r\n]+", plain))) <= 80
    assert "times as fast" in seen.out and "\x1b" not in seen.out


def test_ctrl_c_leaves_one_line_and_the_cursor(slow: tuple[str, ...]) -> None:
    seen = at_terminal(program=slow, interrupt_at=b"pairs of runs")
    assert seen.code == 130
    assert seen.err.count(HIDE) == seen.err.count(SHOW) == 1
    assert left_behind(seen.err) == "graphopt: interrupted; nothing was written"


FAILS = """
import sys, time
from unittest import mock
from graphopt import __main__, api, progress
from graphopt.errors import InputError

def slow(*_, **__):
    with progress.step("analyse"):
        time.sleep(1.8)
        raise InputError("the model is odd")

sys.argv = ["graphopt", "scan", "model.onnx"]
with mock.patch.object(api, "scan", slow):
    sys.exit(__main__.main())
"""


def test_an_error_leaves_one_line_and_the_cursor() -> None:
    seen = at_terminal(program=(sys.executable, "-c", FAILS))
    assert seen.code == 2 and "analyse" in seen.err
    assert seen.err.count(HIDE) == seen.err.count(SHOW) == 1
    assert left_behind(seen.err) == "graphopt: the model is odd"


@pytest.mark.parametrize("silent", ["--quiet", "-q", "--json"])
def test_silent_when_asked(slow: tuple[str, ...], silent: str) -> None:
    seen = at_terminal(silent, program=slow)
    assert seen.err == ""
    assert seen.code == 0 and seen.out


def test_quick_work_shows_nothing(tmp_path: Path) -> None:
    seen = at_terminal("rewrites")
    assert seen.err == ""
    seen = at_terminal("scan", tmp_path / "missing.onnx")
    assert left_behind(seen.err).startswith("graphopt: ") and HIDE not in seen.err


def test_silent_when_standard_error_is_no_terminal(slow: tuple[str, ...]) -> None:
    environment = {**os.environ, "FORCE_COLOR": "1"}
    done = subprocess.run(slow, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stderr == ""
