"""Whether two models have the same inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import zip_longest

import onnx_ir as ir

from graphopt.analysis.shapes.inputs import fixed
from graphopt.errors import InputError, Named
from graphopt.verification.verdict import Rule, Verdict


def interface(reference: ir.Model, candidate: ir.Model) -> Verdict | None:
    """A failed verdict when the models' inputs and outputs are not the same; None when they are."""
    for kind, ours, theirs in (
        ("inputs", _ports(reference.graph.inputs), _ports(candidate.graph.inputs)),
        ("outputs", _ports(reference.graph.outputs), _ports(candidate.graph.outputs)),
    ):
        if ours != theirs:
            note = f"the {kind} differ: {_odd(ours, theirs)}"
            return Verdict("interface", kind, False, math.inf, math.inf, -math.inf, 0.0, 0, note, Rule.PORTS)
    return None


def _odd(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """What two lists that differ first differ in."""
    if sorted(ours) == sorted(theirs):
        return "their order"
    one, other = next((a, b) for a, b in zip_longest(ours, theirs, fillvalue="") if a != b)
    if one and other:
        return f"{one} in the first, {other} in the second"
    return f"{one or other} only in the {'first' if one else 'second'}"


def _ports(values: Iterable[ir.Value]) -> list[str]:
    """Name, type and shape of each value that a caller meets; symbols count as unknown sizes."""
    return [
        f"{value.name} {value.dtype.name if value.dtype is not None else '?'}"
        + (
            ""
            if value.shape is None
            else f"[{', '.join('?' if (size := fixed(d)) is None else str(size) for d in value.shape)}]"
        )
        for value in values
        if not value.is_initializer()
    ]


def require_outputs(model: ir.Model, names: Iterable[str]) -> None:
    """Refuses names of outputs that the model does not have.

    Raises:
        InputError: one is no output.
    """
    present = [value.name for value in model.graph.outputs]
    for name in names:
        if name not in present:
            raise InputError(
                f"{Named('outputs', name)}: the model's outputs are {', '.join(str(p) for p in present)}"
            )
