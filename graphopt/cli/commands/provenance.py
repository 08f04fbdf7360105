"""``graphopt provenance``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import common
from graphopt.cli.progress import shown
from graphopt.files import show


@common.takes("model input_ json quiet")
def provenance(
    *,
    model: Path,
    input_: Annotated[
        Path | None,
        typer.Option(
            "--input", metavar="ORIGINAL", help="Check that a run recorded in MODEL read this file."
        ),
    ] = None,
    json: bool,
    quiet: bool,
) -> int:
    """Show what graphopt recorded in a model.

    Version, input digest, options and rewrites of each run. With --input it exits 1 when no run read that
    file.

    Example: graphopt provenance smaller.onnx --input model.onnx
    """
    from graphopt import progress
    from graphopt.errors import VerificationError
    from graphopt.model import io
    from graphopt.report import provenance as records

    found = records.read(io.metadata(model), show(model))
    run = None
    if input_ is not None:
        with shown(quiet=quiet, json=json), progress.step("read"):
            original = io.load(input_)
            run = records.which(found, original.sha256, original.data_sha256)
    common.tell("provenance", found, model, input_, run, json=json)
    if input_ is not None and run is None:
        raise VerificationError(f"{show(model)}: no run recorded in it read {show(input_)}")
    return 0
