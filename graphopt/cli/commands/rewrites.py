"""``graphopt rewrites``."""

from __future__ import annotations

from graphopt.cli import common


@common.takes("json")
def rewrites(*, json: bool) -> int:
    """List the rewrites and their options.

    Example: graphopt rewrites
    """
    from graphopt.report import json as documents
    from graphopt.report import text
    from graphopt.rewrites import registry as catalogue

    available = list(catalogue.registry().values())
    if json:
        common.emit(documents.dumps(documents.rewrites(available)))
    else:
        text.rewrites(available)
    return 0
