"""The command line: in this process, and in one of its own at a terminal; and a display of progress."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from unittest import mock

COMMAND = (sys.executable, "-m", "graphopt")


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    def fine(self) -> Ran:
        """Exit code 0, and nothing on standard error."""
        assert (self.code, self.err) == (0, ""), self
        return self

    def refused(self, *naming: str, code: int = 2) -> None:
        """Nothing on standard output, and one line on standard error that holds these texts."""
        assert (self.code, self.out) == (code, ""), self
        self.one_line(*naming)

    def one_line(self, *naming: str) -> None:
        """One line on standard error that holds these texts."""
        assert self.err.startswith("graphopt: "), self
        assert self.err.count("\n") == 1 and self.err.endswith("\n"), self
        assert "Traceback" not in self.err
        assert all(text in self.err for text in naming), (naming, self.err)


class Screen(io.StringIO):
    """Standard output that says of itself that it is a terminal."""

    def isatty(self) -> bool:
        return True


def cli(*arguments: object, out: io.StringIO | None = None) -> Ran:
    """The command line, run in this process."""
    from graphopt.__main__ import main

    out, err = io.StringIO() if out is None else out, io.StringIO()
    argv = ["graphopt", *map(str, arguments)]
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return Ran(code, out.getvalue(), err.getvalue())


def at_terminal(
    *arguments: object,
    stream: str = "stderr",
    interrupt_at: bytes | None = None,
    program: Sequence[str] = COMMAND,
    **environment: str,
) -> Ran:
    """A command one of whose streams is a pseudo-terminal; Ctrl-C once it shows something, if asked."""
    ours, theirs = pty.openpty()
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, stream: theirs}
    child = subprocess.Popen(
        [*program, *map(str, arguments)],
        env={**kept, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", **environment},
        **streams,
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + 60
    with contextlib.suppress(OSError):  # the other end is gone
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.1)[0]:
                if child.poll() is not None:
                    break
                continue
            part = os.read(ours, 65536)
            if not part:
                break
            shown += part
            if interrupt_at and interrupt_at in shown:
                child.send_signal(signal.SIGINT)
                interrupt_at = None
    out = child.stdout.read().decode() if child.stdout is not None else ""
    code = child.wait(10)
    os.close(ours)
    return Ran(code, out, shown.decode()) if stream == "stderr" else Ran(code, shown.decode(), "")


@dataclass
class Recorder:
    """A display of progress that notes down what it is told."""

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


def on_80_columns(*arguments: object) -> str:
    """What a command shows on a terminal of 80 columns, without its colours."""
    with mock.patch.dict(os.environ, {"TERM": "xterm-256color", "COLUMNS": "80"}):
        for name in ("NO_COLOR", "FORCE_COLOR"):
            os.environ.pop(name, None)
        shown = cli(*arguments, out=Screen()).out
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
