"""``graphopt rewrites``."""

from __future__ import annotations

from graphopt.cli import common


@common.takes("json")
def rewrites(*, json: bool) -> int:
    """List the rewrites and their options.

    Example: graphopt rewrites
    """
    from graphopt.rewrites import registry as catalogue

    available = list(catalogue.registry().values())
    common.tell("rewrites", available, json=json)
    return 0
