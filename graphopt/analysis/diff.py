"""What changed between two models, layer by layer and operator by operator.

A layer is a linear operator: Conv, ConvTranspose, Gemm or MatMul. Layers of the two models are brought
together in this order, each once:

1. what a rewrite made, with the layers that it came from: graphopt stamps their names on the new nodes;
2. layers with the same weights, where no other layer has those;
3. layers of the same name and operator;
4. layers that make a value of the same name;
5. what is left, in the order of the models, where form and channels are the same.
"""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.analysis import costs
from graphopt.analysis.groups import Groups
from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis
from graphopt.model.edit import STAMP_REWRITE, STAMP_SOURCE
from graphopt.model.io import Source
from graphopt.types import Totals

LayerStatus: TypeAlias = Literal["changed", "weights", "added", "removed", "same"]


@dataclass(frozen=True, slots=True)
class LayerChange:
    """Layers that became others.

    Attributes:
        change: ``added``, ``removed``, ``weights`` (the same layer with other weights or another bias),
            ``changed``, or ``same`` (nothing did).
        before: the layers in the first model; none when added.
        after: the layers in the second; none when removed.
        rewrites: the rewrites of graphopt that made those; empty where none did.
    """

    change: LayerStatus
    before: tuple[Linear, ...]
    after: tuple[Linear, ...]
    rewrites: tuple[str, ...] = ()

    @property
    def macs_before(self) -> int | None:
        """MACs of the layers in the first model; None where a size is unknown."""
        return _macs(self.before)

    @property
    def macs_after(self) -> int | None:
        """MACs of the layers in the second model, likewise."""
        return _macs(self.after)


@dataclass(frozen=True, slots=True)
class OperatorChange:
    """An operator that is no layer, in both models, whose attributes or constants differ."""

    name: str
    op: str
    attributes: bool
    constants: bool


@dataclass(frozen=True, slots=True)
class Diff:
    """What changed between two models; truthy when anything did.

    Attributes:
        before: the first model.
        after: the second.
        totals_before: figures of the first.
        totals_after: figures of the second.
        layers: the layers that changed, in the order of the models.
        same_layers: how many layers of the first are in the second as they were.
        operators: number of each operator in both models, where it differs.
        other: operators that are no layers and have other attributes or constants.
        interface: how inputs or outputs differ; "" where they don't.
    """

    before: Source
    after: Source
    totals_before: Totals
    totals_after: Totals
    layers: tuple[LayerChange, ...]
    same_layers: int
    operators: Mapping[str, tuple[int, int]]
    other: tuple[OperatorChange, ...]
    interface: str = ""

    def __bool__(self) -> bool:
        return bool(self.layers or self.operators or self.other or self.interface)


def match_layers(before: Analysis, after: Analysis) -> tuple[tuple[LayerChange, ...], int]:
    """The layers that changed, and how many did not."""
    layers = aligned(before, after)
    changes = tuple(layer for layer in layers if layer.change != "same")
    return changes, len(layers) - len(changes)


def aligned(before: Analysis, after: Analysis) -> tuple[LayerChange, ...]:
    """All layers of two models, those that belong together side by side, in the order of the models."""
    digests = _digests(before), _digests(after)
    found = []
    for old, new in _groups(before, after, *digests):
        made = (linear.node.metadata_props.get(STAMP_REWRITE) for linear in new)
        rewrites = tuple(dict.fromkeys(name for name in made if name))
        found.append(LayerChange(_change(old, new, *digests), old, new, rewrites))
    return tuple(found)


def _change(
    old: Sequence[Linear], new: Sequence[Linear], before: Mapping[str, str], after: Mapping[str, str]
) -> LayerStatus:
    if not old:
        return "added"
    if not new:
        return "removed"
    if len(old) > 1 or len(new) > 1 or _form(old[0]) != _form(new[0]) or old[0].macs != new[0].macs:
        return "changed"
    return "weights" if before[old[0].name] != after[new[0].name] else "same"


def _macs(linears: Iterable[Linear]) -> int | None:
    counts = [linear.macs for linear in linears]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _form(linear: Linear) -> Hashable:
    """What a layer is apart from its weights."""
    return linear.op, linear.kernel, linear.in_channels, linear.out_channels, linear.form


def _digests(analysis: Analysis) -> dict[str, str]:
    """A digest of each layer's weights and bias, by its name."""
    return {linear.name: _digest(analysis, linear.node.inputs[1:]) for linear in analysis.linears}


def _digest(analysis: Analysis, values: Iterable[ir.Value | None]) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    for value in values:
        array = analysis.constant(value)
        if array is None:
            digest.update(b"-")
        else:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return digest.hexdigest()


# ---------------------------------------------------------------- which layers belong together


class _Pairing:
    """Layers of two models in groups."""

    def __init__(self, before: Sequence[Linear], after: Sequence[Linear]) -> None:
        self.old = {linear.name: linear for linear in before}
        self.new = {linear.name: linear for linear in after}
        self._groups = Groups[tuple[str, str]]()

    def join(self, old: str, new: str) -> None:
        """Puts two layers, and what they are with already, into one group."""
        self._groups.join(("old", old), ("new", new))

    def free(self) -> tuple[list[Linear], list[Linear]]:
        """The layers that are in no group yet."""
        return (
            [linear for name, linear in self.old.items() if ("old", name) not in self._groups],
            [linear for name, linear in self.new.items() if ("new", name) not in self._groups],
        )

    def by(self, key: Callable[[Linear], Hashable], key_after: Callable[[Linear], Hashable]) -> None:
        """Joins layers that are alike, where no other layer is."""
        old, new = self.free()
        ours, theirs = _unique(old, key), _unique(new, key_after)
        for shared in [k for k in ours if k in theirs]:
            self.join(ours[shared].name, theirs[shared].name)

    def groups(self) -> list[tuple[tuple[Linear, ...], tuple[Linear, ...]]]:
        """All groups in the order of the first model, then what only the second has."""
        order = [*(("old", name) for name in self.old), *(("new", name) for name in self.new)]
        return [
            (
                tuple(self.old[name] for side, name in members if side == "old"),
                tuple(self.new[name] for side, name in members if side == "new"),
            )
            for members in self._groups.of(order)
        ]


def _unique(linears: Iterable[Linear], key: Callable[[Linear], Hashable]) -> dict[Hashable, Linear]:
    listed = list(linears)
    times = Counter(key(linear) for linear in listed)
    return {key(linear): linear for linear in listed if times[key(linear)] == 1}


def _groups(
    before: Analysis, after: Analysis, old_digests: Mapping[str, str], new_digests: Mapping[str, str]
) -> list[tuple[tuple[Linear, ...], tuple[Linear, ...]]]:
    pairing = _Pairing(before.linears, after.linears)
    for linear in after.linears:
        stamp = linear.node.metadata_props.get(STAMP_SOURCE)
        for name in sources(stamp, before.nodes) if stamp else ():
            if name in pairing.old:
                pairing.join(name, linear.name)
    pairing.by(lambda x: (_form(x), old_digests[x.name]), lambda x: (_form(x), new_digests[x.name]))
    pairing.by(lambda x: (x.op, x.name), lambda x: (x.op, x.name))
    pairing.by(lambda x: x.y, lambda x: x.y)
    old, new = pairing.free()
    matcher = difflib.SequenceMatcher(None, [_form(x) for x in old], [_form(x) for x in new], autojunk=False)
    for block in matcher.get_matching_blocks():
        for i in range(block.size):
            pairing.join(old[block.a + i].name, new[block.b + i].name)
    return pairing.groups()


def sources(stamp: str, known: Mapping[str, ir.Node]) -> list[str]:
    """The nodes of the first model that a stamp names.

    A name in it that the first model lacks is that of a node which an earlier rewrite made: it begins with
    the name of the node that it came from.
    """
    found = []
    parts = stamp.split(",")
    while parts:
        length = next((n for n in range(len(parts), 0, -1) if ",".join(parts[:n]) in known), 0)
        if length:
            found.append(",".join(parts[:length]))
        else:
            length = 1
            ends = (parts[0][:end] for end in range(len(parts[0]) - 1, 0, -1))
            found += [name for name in ends if name in known][:1]
        del parts[:length]
    return found


# ---------------------------------------------------------------- other operators


def operators(before: Analysis, after: Analysis) -> dict[str, tuple[int, int]]:
    """How often each operator stands in both models, where that differs; by name."""
    ours, theirs = _counts(before), _counts(after)
    return {op: (ours[op], theirs[op]) for op in sorted(ours | theirs) if ours[op] != theirs[op]}


def _counts(analysis: Analysis) -> Counter[str]:
    return Counter(_op(node) for node in analysis.nodes.values())


def _op(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def others(before: Analysis, after: Analysis) -> tuple[OperatorChange, ...]:
    """Operators that are no layers, of one name in both models, with other attributes or constants."""
    found = []
    for name, node in before.nodes.items():
        other = after.nodes.get(name)
        if other is None or costs.is_linear(node) or _op(node) != _op(other):
            continue
        attributes = _attributes(node) != _attributes(other)
        constants = _digest(before, node.inputs) != _digest(after, other.inputs)
        if attributes or constants:
            found.append(OperatorChange(name, _op(node), attributes, constants))
    return tuple(found)


def _attributes(node: ir.Node) -> dict[str, bytes]:
    """The attributes but subgraphs, whose operators are compared themselves."""
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return {
        name: ir.serde.serialize_attribute(attribute).SerializeToString()
        for name, attribute in node.attributes.items()
        if attribute.type not in graphs
    }
