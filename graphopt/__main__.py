"""The command's entry: turns every way to end into an exit code, and errors into one line."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import warnings

from graphopt.cli import streams
from graphopt.errors import INTERRUPTED, GraphOptError, told
from graphopt.jobs import process
from graphopt.pipeline.options.table import as_flag

# NumPy's threads wait for each other on a busy machine, and mostly cost more than they give.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A command makes many objects that live until it ends; looking through them often finds nothing to free.
gc.set_threshold(50_000, 20, 20)


def run() -> None:
    """Runs the command line; no traceback reaches the user, whatever a model does to the process."""
    streams.prepare()
    code, died = process.apart(_run)
    if died:
        print(f"graphopt: {died}", file=sys.stderr, flush=True)  # noqa: T201
    # Freeing millions of objects one by one takes long, and a thread that compares models can't be
    # interrupted, and may wait for a module whose import was.
    os._exit(code)


def _run() -> int:
    process.defer(*process.DEFERRED)
    logging.getLogger("onnx_ir").setLevel(logging.CRITICAL)  # what is wrong with a model we say ourselves
    if not sys.warnoptions:  # what a model's numbers do to ours is in the result, where it matters
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="graphopt|numpy")
    for number in process.SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores one
            signal.signal(number, signal.default_int_handler)
    code = main()
    process.ignore()  # what was done stands
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(GraphOptError):  # it was told
            stream.flush()
    return code  # what had to be cleaned up has been


def main() -> int:
    """Runs the command line and returns its exit code."""
    try:
        from graphopt.cli.app import app

        code = app()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("graphopt: interrupted; nothing was written", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except Exception as error:
        code, line = told(error, as_flag)
        print(f"graphopt: {line}", file=sys.stderr)  # noqa: T201
        return code


if __name__ == "__main__":
    run()
