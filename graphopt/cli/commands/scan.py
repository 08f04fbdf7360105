"""``graphopt scan``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.cli import common
from graphopt.cli.progress import shown


@common.takes("model measure json quiet shapes seed")
def scan(*, model: Path, json: bool, quiet: bool, **asked: Any) -> int:
    """Show what each convolution costs, and what could be done.

    Example: graphopt scan model.onnx
    """
    from graphopt import api

    with shown(quiet=quiet, json=json):
        found = api.scan(model, **asked)
    common.tell("scan", found, json=json)
    return 0
