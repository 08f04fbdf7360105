"""``graphopt explain``."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import completion


def explain(
    rewrite: Annotated[
        str, typer.Argument(metavar="REWRITE", autocompletion=completion.rewrite, help="The rewrite's name.")
    ],
) -> int:
    """Explain a rewrite: its maths, conditions, exactness and cost.

    Example: graphopt explain bottleneck
    """
    from graphopt.rewrites import registry as catalogue

    (found,) = catalogue.select(catalogue.registry(), only=[rewrite])
    typer.echo(catalogue.explain(found))
    return 0
