"""``graphopt diff``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.cli import common
from graphopt.cli.progress import shown


@common.takes("before after json quiet shapes seed")
def diff(*, before: Path, after: Path, json: bool, quiet: bool, **asked: Any) -> int:
    """Show what changed between two models.

    Layer by layer and operator by operator, with MACs. Exits 0 when both were read, whether
    they differ or not.

    Example: graphopt diff model.onnx smaller.onnx
    """
    from graphopt import api
    from graphopt.report import json as documents
    from graphopt.report import text

    with shown(quiet=quiet, json=json):
        found = api.diff(before, after, **asked)
    if json:
        common.emit(documents.dumps(documents.diff(found)))
    else:
        text.diff(found)
    return 0
