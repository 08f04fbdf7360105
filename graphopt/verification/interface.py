"""Whether two models have the same inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import zip_longest

import onnx_ir as ir

from graphopt.analysis.shapes.inputs import fixed
from graphopt.errors import InputError, Named
from graphopt.model.defaults import overridable
from graphopt.verification.verdict import Rule, Verdict


def interface(reference: ir.Model, candidate: ir.Model, *, frozen: bool = False) -> Verdict | None:
    """A failed verdict when a caller of the one model can't call the other alike; None when it can.

    Args:
        reference: the original.
        candidate: the rewritten model.
        frozen: whether initializers of the original that are inputs too are constants: nobody overrides them.

    Returns:
        The verdict on the first difference, or None.
    """
    first, second = reference.graph, candidate.graph
    lost = "" if frozen else _lost(overridable(reference), second.inputs)
    for kind, odd in (
        ("inputs", _odd(_ports(_asked(first)), _ports(_asked(second))) or lost),
        ("outputs", _odd(_ports(first.outputs), _ports(second.outputs))),
    ):
        if odd:
            note = f"the {kind} differ: {odd}"
            return Verdict("interface", kind, False, math.inf, math.inf, -math.inf, 0.0, 0, note, Rule.PORTS)
    return None


def _odd(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """What two lists first differ in; "" where they are the same."""
    if ours == theirs:
        return ""
    if sorted(ours) == sorted(theirs):
        return "their order"
    return _apart(*next((a, b) for a, b in zip_longest(ours, theirs, fillvalue="") if a != b))


def _lost(defaults: Iterable[ir.Value], inputs: Iterable[ir.Value]) -> str:
    """The first default that can't be overridden as before; "" where all can."""
    known = {value.name: _port(value) for value in inputs}
    for value in defaults:
        ours, theirs = _port(value), known.get(value.name, "")
        if ours != theirs:
            return f"{_apart(ours, theirs)}, where a caller may override it unless initializers are frozen"
    return ""


def _apart(one: str, other: str) -> str:
    """What differs: what is in the first, and what is in its place in the second; "" for nothing."""
    if one and other:
        return f"{one} in the first, {other} in the second"
    return f"{one or other} only in the {'first' if one else 'second'}"


def _asked(graph: ir.Graph) -> list[ir.Value]:
    """The inputs that a caller has to feed."""
    return [value for value in graph.inputs if not value.is_initializer()]


def _ports(values: Iterable[ir.Value]) -> list[str]:
    return [_port(value) for value in values]


def _port(value: ir.Value) -> str:
    """Name, type and shape of a value that a caller meets; symbols count as unknown sizes."""
    shape = ""
    if value.shape is not None:
        sizes = [fixed(dim) for dim in value.shape]
        shape = f"[{', '.join('?' if size is None else str(size) for size in sizes)}]"
    return f"{value.name} {value.dtype.name if value.dtype is not None else '?'}{shape}"


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
