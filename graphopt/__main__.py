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
    from graphopt.errors import INTERNAL, INTERRUPTED, GraphOptError

    try:
        from graphopt.cli import app

        code = app()
        sys.stdout.flush()
        return code
    except GraphOptError as error:
        if error.exit_code == INTERNAL and os.environ.get("GRAPHOPT_TRACEBACK"):
            raise
        print(f"graphopt: {_one_line(error)}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        print("graphopt: interrupted; nothing was written", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return INTERNAL
    except MemoryError:
        print("graphopt: out of memory", file=sys.stderr)  # noqa: T201
        return INTERNAL
    except Exception as error:  # the last resort: a bug of ours
        if os.environ.get("GRAPHOPT_TRACEBACK"):
            raise
        if isinstance(error, OSError):
            _discard_output()
        where = _place(error)
        text = f"graphopt: internal error{where}: {type(error).__name__}: {_one_line(error)}"
        print(f"{text} (GRAPHOPT_TRACEBACK=1 shows more)", file=sys.stderr)  # noqa: T201
        return INTERNAL


def _discard_output() -> None:
    """Points standard output at nothing: what can't be written would be tried again when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _place(error: BaseException) -> str:
    """The module and line in which the error arose."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" in {trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"


if __name__ == "__main__":
    run()
