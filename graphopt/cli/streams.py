"""The process's standard streams, whatever they lead to: nowhere, a full disk, a reader that left, ASCII."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from graphopt.errors import InputError
from graphopt.files import reason

MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}
"""The standard streams, in the order of their descriptors."""


def prepare() -> None:
    """Opens the streams that are closed, and makes the two for output safe to write to.

    The next file that is opened would take the place of a closed one, and get what a library prints. A
    character that the encoding lacks becomes a question mark.
    """
    for name, mode in MODES.items():
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(descriptor, mode))
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and stream.errors == "strict":
            reconfigure(errors="replace")
    sys.stdout = cast(TextIO, Output(sys.stdout, "standard output"))
    sys.stderr = cast(TextIO, Output(sys.stderr, ""))


class Output:
    """A stream for output whose reader may leave early, which is no error.

    Args:
        stream: where what is written goes.
        name: what messages call it when it can't be written to; without one, that is no error either.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name

    def write(self, text: str) -> int:
        """Writes a text.

        Raises:
            InputError: it can't be written, such as when the disk is full.
        """
        with self._guarded():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Writes what was held back.

        Raises:
            InputError: it can't be written, such as when the disk is full.
        """
        with self._guarded():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._discard()
            if self._name and error.errno not in (
                errno.EPIPE,
                errno.EINVAL,
            ):  # the second: so Windows says it
                raise InputError(f"{self._name}: can't be written: {reason(error)}") from error

    def _discard(self) -> None:
        """Lets the stream lead to nowhere: what it holds back would be tried again."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
