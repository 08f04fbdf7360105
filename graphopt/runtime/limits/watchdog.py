"""Ends runs of a model that take too long, as one of a Loop without an end would."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from graphopt.errors import TooLongError

if TYPE_CHECKING:
    import onnxruntime

RUN_SECONDS = 600.0
"""Seconds after which a run is ended. Derived: a network of 1,000 GMACs on 32 inputs takes 320 s at the
100 GMACs a second of two cores; what takes double that has no end in sight."""
OFTEN = 0.5
"""Seconds between two looks at what runs; no result depends on it."""

_since: dict[onnxruntime.RunOptions, float] = {}
_lock = threading.Lock()
_thread: threading.Thread | None = None


@contextmanager
def limited() -> Iterator[onnxruntime.RunOptions]:
    """The options of a run, which ends with an error of onnxruntime after `RUN_SECONDS`.

    Raises:
        TooLongError: it was ended.
    """
    import onnxruntime as ort

    global _thread
    options, begun = ort.RunOptions(), time.monotonic()
    options.log_severity_level = 4
    with _lock:
        _since[options] = begun
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_watch, daemon=True)
            _thread.start()
    try:
        yield options
    except Exception as error:
        if not options.terminate:
            raise
        seconds = time.monotonic() - begun
        raise TooLongError(f"onnxruntime was stopped after {seconds:.0f} s at a single run of it") from error
    finally:
        with _lock:
            del _since[options]


def _watch() -> None:
    """Looks at what runs, until nothing does."""
    global _thread
    while True:
        time.sleep(OFTEN)
        with _lock:
            if not _since:
                _thread = None
                return
            now = time.monotonic()
            for options, begun in _since.items():
                if now - begun > RUN_SECONDS:
                    options.terminate = True
