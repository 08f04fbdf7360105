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

    with shown(quiet=quiet, json=json):
        found = api.diff(before, after, **asked)
    common.tell("diff", found, json=json)
    return 0
