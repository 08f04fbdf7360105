"""The command's entry: turns every way to end into an exit code, and errors into one line."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys

from graphopt.deferred import defer

# NumPy's threads wait for each other on a busy machine, and mostly cost more than they give.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A command makes many objects that live until it ends; looking through them often finds nothing to free.
gc.set_threshold(50_000, 20, 20)

DEFERRED = ("sympy", "onnx_ir._symbolic_shapes")
"""What `onnx_ir` imports for arithmetic on symbolic sizes, which is rare. SymPy takes as long as the rest."""


def run() -> None:
    """Runs the command line; no traceback reaches the user."""
    defer(*DEFERRED)
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what was done stands
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # What had to be cleaned up has been. Freeing millions of objects one by one takes long, and a thread that
    # compares models can't be interrupted, and may wait for a module whose import was.
    os._exit(code)


def main() -> int:
    """Runs the command line and returns its exit code."""
    from graphopt.errors import INTERNAL, INTERRUPTED, told

    try:
        from graphopt.cli import app

        code = app()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("graphopt: interrupted; nothing was written", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return INTERNAL
    except Exception as error:
        code, line = told(error)
        if isinstance(error, OSError):
            _discard_output()
        print(f"graphopt: {line}", file=sys.stderr)  # noqa: T201
        return code


def _discard_output() -> None:
    """Points standard output at nothing: what can't be written would be tried again when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    run()
