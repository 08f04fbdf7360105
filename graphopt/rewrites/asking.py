"""What a rewrite proposes, also where something goes wrong inside it: that costs it a site, and no more."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable

import onnx_ir as ir

from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis
from graphopt.errors import RewriteError, blaming
from graphopt.rewrites.patterns.common import site
from graphopt.types import Candidate, Rejection

OURS = (__name__, blaming.__module__)
"""The modules whose functions stand around a rewrite's."""
MOST = 8
"""Operators at which a rewrite may fail before it is asked no more. Derived: each costs a match of the whole
model, and so many cost less than the 20 rounds in which rewrites are asked anyway; a rewrite that fails is
broken, and what it still finds beyond them is left."""


def ask(
    name: str,
    propose: Callable[[Analysis], Iterable[Candidate | Rejection]],
    analysis: Analysis,
    failed: Callable[[RewriteError], None],
) -> list[Candidate | Rejection]:
    """What a rewrite finds in a snapshot; an operator at which it fails is rejected, and it is asked again.

    Args:
        name: the rewrite's.
        propose: its `match`, or what stands for that.
        analysis: the snapshot.
        failed: told of each failure.

    Returns:
        Its candidates and rejections. Where it fails at no operator that can be told, those before.
    """
    left: dict[ir.Node, Rejection] = {}
    while True:
        found: list[Candidate | Rejection] = []
        try:
            with blaming(name, "to match"):
                found.extend(propose(analysis.without(left) if left else analysis))
        except RewriteError as error:
            failed(error)
            node = _at_hand(error, analysis)
            if node is not None and node not in left and len(left) < MOST:
                left[node] = Rejection(name, site(analysis, [node]), f"{analysis.name(node)}: {error}")
                continue
        return [*found, *left.values()]


def _at_hand(error: RewriteError, analysis: Analysis) -> ir.Node | None:
    """The operator that a rewrite most likely looked at when it failed; None where none can be told.

    It is a guess, from the traceback: the first operator of the snapshot among the local variables of the
    outermost of the rewrite's functions that has one. A rewrite takes up one operator after the other in a
    variable of `match`, so that it is the one at hand; where it is another one, that is left out besides,
    and the rewrite fails again at the next question.
    """
    trace = error.__cause__.__traceback__ if error.__cause__ is not None else None
    for frame, _ in traceback.walk_tb(trace):
        held = () if frame.f_globals["__name__"] in OURS else frame.f_locals.values()
        nodes = (each.node if isinstance(each, Linear) else each for each in held)
        node = next((each for each in nodes if isinstance(each, ir.Node) and analysis.holds(each)), None)
        if node is not None:
            return node
    return None
