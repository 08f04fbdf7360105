"""Progress: what the library tells, and what a person at a terminal sees of it."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import graphopt
from graphopt import progress
from tests.builders import classifier, samples, saved

COMMAND = (sys.executable, "-m", "graphopt")
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


@dataclass
class Recorder:
    """A display that notes down what it is told."""

    events: list[tuple[object, ...]] = field(default_factory=list)
    open: dict[int, str] = field(default_factory=dict)

    def begin(self, name: str, total: int | None) -> int:
        handle = len(self.events)
        self.events.append(("begin", name, total))
        self.open[handle] = name
        return handle

    def at(self, handle: int, done: int, item: str) -> None:
        self.events.append(("at", self.open[handle], done, item))

    def end(self, handle: int) -> None:
        self.events.append(("end", self.open.pop(handle)))


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


@dataclass(frozen=True)
class Seen:
    code: int
    terminal: str
    out: str


def at_terminal(*arguments: object, interrupt: bool = False, program: Sequence[str] = COMMAND) -> Seen:
    """A command whose standard error is a pseudo-terminal; Ctrl-C once it shows progress, if asked."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    child = subprocess.Popen(
        [*program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + 60
    with suppress(OSError):  # the other end is gone
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.1)[0]:
                if child.poll() is not None:
                    break
                continue
            part = os.read(ours, 65536)
            if not part:
                break
            shown += part
            if interrupt and b"pairs of runs" in shown:
                child.send_signal(signal.SIGINT)
                interrupt = False
    assert child.stdout is not None
    out = child.stdout.read().decode()
    code = child.wait(10)
    os.close(ours)
    return Seen(code, shown.decode(), out)


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


@pytest.fixture
def slow(tmp_path: Path) -> tuple[object, ...]:
    """A command that takes some seconds, whatever the machine."""
    path = saved(classifier(), tmp_path / "model.onnx")
    return ("bench", path, path, "--shape", "x=64x8x8x8", "--repeat", "10000")


def test_slow_work_is_shown_and_leaves_no_trace(slow: tuple[object, ...]) -> None:
    seen = at_terminal(*slow)
    assert seen.code == 0
    assert "pairs of runs" in seen.terminal
    assert re.search(r"\d:\d\d", seen.terminal), "the time left is shown"
    assert seen.terminal.count(HIDE) == seen.terminal.count(SHOW) == 1
    assert left_behind(seen.terminal) == ""
    assert "times as fast" in seen.out and "\x1b" not in seen.out


def test_lines_fit_80_columns(slow: tuple[object, ...]) -> None:
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", at_terminal(*slow).terminal)
    assert max(map(len, re.split(r"[\r\n]+", plain))) <= 80


def test_ctrl_c_leaves_one_line_and_the_cursor(slow: tuple[object, ...]) -> None:
    seen = at_terminal(*slow, interrupt=True)
    assert seen.code == 130
    assert seen.terminal.count(HIDE) == seen.terminal.count(SHOW) == 1
    assert left_behind(seen.terminal) == "graphopt: interrupted; nothing was written"


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
    assert seen.code == 2 and "analyse" in seen.terminal
    assert seen.terminal.count(HIDE) == seen.terminal.count(SHOW) == 1
    assert left_behind(seen.terminal) == "graphopt: the model is odd"


@pytest.mark.parametrize("silent", ["--quiet", "-q", "--json"])
def test_silent_when_asked(slow: tuple[object, ...], silent: str) -> None:
    seen = at_terminal(*slow, silent)
    assert seen.terminal == ""
    assert seen.code == 0 and seen.out


def test_quick_work_shows_nothing(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path / "model.onnx")
    seen = at_terminal("rewrites")
    assert seen.terminal == ""
    seen = at_terminal("scan", tmp_path / "missing.onnx")
    assert left_behind(seen.terminal).startswith("graphopt: ") and HIDE not in seen.terminal
    assert path.is_file()


def test_silent_when_standard_error_is_no_terminal(slow: tuple[object, ...]) -> None:
    environment = {**os.environ, "FORCE_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "graphopt", *map(str, slow)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0 and done.stderr == ""
