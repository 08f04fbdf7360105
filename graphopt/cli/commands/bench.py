"""``graphopt bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.cli import common
from graphopt.cli.progress import shown


@common.takes("reference candidate threads repeat provider json quiet shapes seed")
def bench(*, reference: Path, candidate: Path, json: bool, quiet: bool, **asked: Any) -> int:
    """Time two models in onnxruntime.

    They run in turn, so that a busy machine slows both.

    Example: graphopt bench model.onnx smaller.onnx
    """
    from graphopt import api

    with shown(quiet=quiet, json=json):
        found = api.bench(reference, candidate, **asked)
    common.tell("timing", found, json=json)
    return 0
