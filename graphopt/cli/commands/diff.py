"""``graphopt diff``."""

from __future__ import annotations

from graphopt.cli import common
from graphopt.cli.progress import shown


def diff(
    before: common.Before,
    after: common.After,
    json: common.Json = False,
    quiet: common.Quiet = False,
    shape: common.Shapes = None,
    seed: common.Seed = 0,
) -> int:
    """Show what changed between two models.

    Layer by layer and operator by operator, with MACs. Exits 0 when both were read, whether
    they differ or not.

    Example: graphopt diff model.onnx smaller.onnx
    """
    from graphopt import api

    with shown(quiet=quiet, json=json):
        found = api.diff(before, after, shapes=common.shapes(shape), seed=seed)
    common.tell("diff", found, json=json)
    return 0
