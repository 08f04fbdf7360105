"""Wall time and peak memory of one child process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class Run:
    """One finished process; `failure` is None when it exited 0."""

    seconds: float
    peak_mb: float
    """Peak resident set in MB of 1e6 bytes, of the process and the children it waited for."""
    failure: str | None


def run(command: Sequence[str], folder: Path, timeout: float = 600) -> Run:
    """Run `command` in `folder` and measure it, start-up included; kill it after `timeout` seconds.

    The kernel counts the caller's own memory at the moment of the fork as the child's, so the caller
    must stay smaller than what it measures: build and load models in other processes. What the command
    imports is compiled once and kept, as pip does when it installs, whatever the environment says.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors
        )
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        expired = not timer.is_alive()
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        failure = f"over {timeout:g} s" if expired else _failure(process.returncode, errors.read())
    return Run(seconds, usage.ru_maxrss * _RSS_UNIT / 1e6, failure)


def _failure(code: int, errors: bytes) -> str | None:
    """Return why a process failed in one line: its last line of errors, or how it exited."""
    if code == 0:
        return None
    lines = errors.decode(errors="replace").strip().splitlines()
    how = f"exit {code}" if code > 0 else f"signal {-code}"
    return f"{how}: {lines[-1].strip()}" if lines else how
