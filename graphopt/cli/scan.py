"""``graphopt scan``."""

from __future__ import annotations

from graphopt.cli import common


def scan(
    model: common.Model,
    json: common.Json = False,
    shape: common.Shapes = None,
    seed: common.Seed = 0,
) -> int:
    """Count what each convolution costs, and show what could be done about it.

    Example: graphopt scan model.onnx
    """
    from graphopt import api
    from graphopt.report import json as documents
    from graphopt.report import text

    found = api.scan(model, shapes=common.shapes(shape), seed=seed)
    if json:
        common.emit(documents.dumps(documents.scan(found)))
    else:
        text.scan(found)
    return 0
