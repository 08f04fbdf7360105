"""``graphopt scan``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.cli import common
from graphopt.cli.progress import shown


@common.takes("model json quiet shapes seed")
def scan(*, model: Path, json: bool, quiet: bool, **asked: Any) -> int:
    """Show what each convolution costs, and what could be done.

    Example: graphopt scan model.onnx
    """
    from graphopt import api
    from graphopt.report import json as documents
    from graphopt.report import text

    with shown(quiet=quiet, json=json):
        found = api.scan(model, **asked)
    if json:
        common.emit(documents.dumps(documents.scan(found)))
    else:
        text.scan(found)
    return 0
