"""``graphopt bench``."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import common
from graphopt.cli.progress import shown


def bench(
    reference: common.Reference,
    candidate: common.Candidate,
    threads: Annotated[int, typer.Option(metavar="N", help="Threads that one operator may use.")] = 1,
    repeat: Annotated[int, typer.Option(metavar="N", help="Pairs of runs.")] = 50,
    provider: Annotated[
        str, typer.Option(metavar="NAME", help="onnxruntime's provider.")
    ] = "CPUExecutionProvider",
    json: common.Json = False,
    quiet: common.Quiet = False,
    shape: common.Shapes = None,
    seed: common.Seed = 0,
) -> int:
    """Time two models in onnxruntime.

    They run in turn, so that a busy machine slows both.

    Example: graphopt bench model.onnx smaller.onnx
    """
    from graphopt import api

    with shown(quiet=quiet, json=json):
        found = api.bench(
            reference,
            candidate,
            threads=threads,
            repeat=repeat,
            provider=provider,
            shapes=common.shapes(shape),
            seed=seed,
        )
    common.tell("timing", found, json=json)
    return 0
