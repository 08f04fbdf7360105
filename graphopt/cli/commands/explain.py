"""``graphopt explain``."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import completion
from graphopt.errors import InputError

SURE = 0.6
"""Likeness of a name from which it is taken for what was meant."""


def explain(
    what: Annotated[
        str,
        typer.Argument(
            metavar="REWRITE|WORD",
            autocompletion=completion.explained,
            help="A rewrite's name, or a word of a report.",
        ),
    ],
) -> int:
    """Explain a rewrite, or a word of a report.

    Of a rewrite its maths, conditions, exactness and cost.

    Example: graphopt explain bottleneck
    """
    import difflib  # only where it is asked for

    from graphopt.report import glossary
    from graphopt.rewrites import registry as catalogue

    available = catalogue.registry()
    meant = None if what in available else glossary.meaning(what)
    if what not in available and meant is None:
        near = difflib.get_close_matches(what, [*available, *glossary.WORDS], 1, SURE)
        advice = f"did you mean {near[0]}?" if near else "graphopt rewrites lists the rewrites"
        raise InputError(f"{what!r} is no rewrite and no word of the glossary; {advice}")
    typer.echo(catalogue.explain(available[what]) if meant is None else f"{what}: {meant}")
    return 0
