"""Whether two models have the same inputs and outputs, and which of their values count."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from itertools import zip_longest

import onnx_ir as ir

from graphopt.analysis.shapes.inputs import fixed
from graphopt.errors import InputError, Named
from graphopt.model.defaults import overridable
from graphopt.model.traversal import nested
from graphopt.types import Counted
from graphopt.verification.heads import Heads, Told, is_tensor, told
from graphopt.verification.verdict import Rule, Verdict

CLOSE = 0.6
"""How near a name has to be to be what was meant: derived, the default of difflib, by whose ratio it is."""


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


def counted(model: ir.Model, asked: Iterable[str]) -> Counted:
    """What counts, by names of values, each with the axis of its channels where ``:AXIS`` says it.

    Args:
        model: the model.
        asked: names as given. One that there is stays whole, whatever stands behind a colon in it.

    Raises:
        InputError: there is no such value, it can't be measured, or it has no such axis.
    """
    given = list(asked)
    if not given:
        return Counted()
    outputs = {value.name or "": value for value in model.graph.outputs}
    made = {value.name or "": value for node in model.graph for value in node.outputs if value.name}
    known, kinds = {**made, **outputs}, told(model)
    names, axes, inner = list[str](), dict[str, int](), list[str]()
    for text in given:
        name, colon, axis = (text, "", "") if text in known else text.rpartition(":")
        if not colon:
            name = text
        if name not in known:
            raise InputError(f"{Named('outputs', text)}: {_unknown(model, name, known)}")
        if name not in outputs:
            _require_numbers(text, known[name], kinds)
            inner.append(name)
        if colon:
            number = _axis(model, text, axis, known[name], kinds)
            if axes.setdefault(name, number) != number:
                raise InputError(
                    f"{Named('outputs', text)}: its channels lie on axis {axes[name]}, as is said besides; "
                    "name one axis"
                )
        names.append(name)
    return Counted(names, axes, inner)


def _unknown(model: ir.Model, name: str, known: Iterable[str]) -> str:
    """Why a name is none of a value that could count."""
    if any(value.name == name for value in (*model.graph.inputs, *model.graph.initializers.values())):
        return "is given to the model, and the same in every network"
    for node in (node for graph in nested(model.graph) if graph is not model.graph for node in graph):
        if any(value.name == name for value in node.outputs):
            return "stands in the body of a branch or loop: name a value outside of it"
    near = difflib.get_close_matches(name, list(known), 1, CLOSE)
    present = ", ".join(str(value.name) for value in model.graph.outputs)
    return f"the model's outputs are {present}{f'; did you mean {near[0]}?' if near else ''}"


def _require_numbers(text: str, value: ir.Value, kinds: Told) -> None:
    """Refuses an inner value of which nothing could be measured.

    Raises:
        InputError: it is no tensor of numbers.
    """
    kind = kinds[0](value)
    if kind is ir.DataType.STRING:
        raise InputError(
            f"{Named('outputs', text)}: holds texts: name a value of numbers that they are made of"
        )
    if not is_tensor(value):
        raise InputError(
            f"{Named('outputs', text)}: is a sequence or a map: name a tensor that it is made of"
        )


def _axis(model: ir.Model, text: str, axis: str, value: ir.Value, kinds: Told) -> int:
    """The axis that a text names, counted from the front.

    Raises:
        InputError: it is none of the value.
    """
    asked, shape = Named("outputs", text), kinds[1](value)
    try:
        number = int(axis)
    except ValueError:
        raise InputError(
            f"{asked}: {axis!r} is no number of an axis: expected NAME:AXIS, such as boxes:1"
        ) from None
    _require_numbers(text, value, kinds)
    instead = [each.name for each in Heads(model, [value]).measured(value, kinds[0])]
    if instead != [value.name]:
        made = ", ".join(map(str, instead)) or "nothing that can be"
        raise InputError(
            f"{asked}: {value.name} is measured by what it is made of, {made}: name that, and its axis"
        )
    if shape is None:
        if number < 0:
            raise InputError(f"{asked}: how many axes it has is not known: count them from 0 on")
        return number
    if not -len(shape) <= number < len(shape):
        sizes = ", ".join("?" if size is None else str(size) for size in shape)
        raise InputError(
            f"{asked}: there is no such axis: its shape is [{sizes}], and axes are counted from 0 on"
        )
    if number % len(shape) == 0 and shape[0] in (None, 1) and len(shape) > 1:
        size = "an open size" if shape[0] is None else "the size 1"
        raise InputError(f"{asked}: its axis 0 has {size}, as that of samples has: name that of the channels")
    return number % len(shape)
