"""``graphopt scan``."""

from __future__ import annotations

from graphopt.cli import common
from graphopt.cli.progress import shown


def scan(
    model: common.Model,
    json: common.Json = False,
    quiet: common.Quiet = False,
    shape: common.Shapes = None,
    seed: common.Seed = 0,
) -> int:
    """Show what each convolution costs, and what could be done.

    Example: graphopt scan model.onnx
    """
    from graphopt import api

    with shown(quiet=quiet, json=json):
        found = api.scan(model, shapes=common.shapes(shape), seed=seed)
    common.tell("scan", found, json=json)
    return 0
