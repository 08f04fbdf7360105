"""Which values of a rewritten model stand for which of the original's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.analysis.constants import Constants
from graphopt.analysis.operators import IDEMPOTENT, VIEWS, is_standard
from graphopt.verification.heads import used


class Counterparts:
    """Pairs of values, found back from the outputs through operators that are the same in both models.

    Where operators differ, those that are the same and make values of the same names out of one of the same
    name are where the walk goes on.

    Args:
        reference: the original.
        candidate: the rewritten model, with the same outputs.
        constants: the original's constants.
    """

    def __init__(self, reference: ir.Model, candidate: ir.Model, constants: Constants) -> None:
        self._ours, self._theirs = constants, Constants(candidate)
        self._versions = reference.graph.opset_imports, candidate.graph.opset_imports
        self._functions = _functions(reference), _functions(candidate)
        self._pairs: dict[ir.Value, ir.Value] = {}
        self._same: set[ir.Node] = set()
        self._walk(zip(reference.graph.outputs, candidate.graph.outputs, strict=True))
        named = {value.name: value for node in candidate.graph for value in node.outputs}
        for node in reversed(list(reference.graph)):
            first = node.outputs[0] if node.outputs else None
            twin = None if first is None else named.get(first.name)
            if first is None or twin is None or first in self._pairs or not self._is_named_alike(node, twin):
                continue
            self._walk([(first, twin)])

    def of(self, value: ir.Value) -> ir.Value | None:
        """The value that stands for one of the original's; None where none was found."""
        return self._pairs.get(value)

    def same(self, node: ir.Node) -> bool:
        """Whether an operator of the original is there too, with the same constants, on paired values."""
        return node in self._same

    def _walk(self, pairs: Iterable[tuple[ir.Value, ir.Value]]) -> None:
        stack = list(pairs)
        while stack:
            ours, theirs = stack.pop()
            if self._pairs.setdefault(ours, theirs) is not theirs:
                continue
            node, twin = ours.producer(), theirs.producer()
            if node is None or twin is None or node in self._same or not self._is_same(node, twin):
                continue
            if node.outputs.index(ours) != twin.outputs.index(theirs):
                continue
            self._same.add(node)
            stack += zip(node.outputs, twin.outputs, strict=True)
            stack += [
                self._before_repeats(node, a, twin, b)
                for a, b in zip(used(node), used(twin), strict=True)
                if not self._ours.is_constant(a)
            ]

    def _before_repeats(
        self, node: ir.Node, a: ir.Value, twin: ir.Node, b: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """The pair that two operators read, in front of what only one of them repeats."""
        if not self._may_repeat(node):
            return a, b
        ours, theirs = list(_repeats(node, a)), list(_repeats(twin, b))
        if len(ours) == len(theirs):
            return a, b
        self._same.update(ours)
        one, other = ((repeats[-1].inputs[0] if repeats else None) for repeats in (ours, theirs))
        return one or a, other or b

    def _may_repeat(self, node: ir.Node) -> bool:
        """Whether an operator makes the same where another of its kind comes before it.

        A Reshape does where no size of its target is that of its input.
        """
        if node.op_type in IDEMPOTENT:
            return True
        target = (
            self._ours.array(node.inputs[1]) if node.op_type == "Reshape" and len(node.inputs) > 1 else None
        )
        return target is not None and 0 not in target

    def _is_named_alike(self, node: ir.Node, twin: ir.Value) -> bool:
        """Whether an operator and that which makes the other value are the same and have the same names."""
        other = twin.producer()
        if other is None or [v.name for v in node.outputs] != [v.name for v in other.outputs]:
            return False
        read = {value.name for value in used(other)}
        return self._is_same(node, other) and any(value.name in read for value in used(node))

    def _is_same(self, node: ir.Node, twin: ir.Node) -> bool:
        """Whether two operators compute the same of what they read that is no constant."""
        if node.op_identifier() != twin.op_identifier() or len(node.outputs) != len(twin.outputs):
            return False
        if [v is None for v in node.inputs] != [v is None for v in twin.inputs]:
            return False
        if (
            not self._calls_the_same(node)
            or not self._means_the_same(node)
            or _attributes(node) != _attributes(twin)
        ):
            return False
        ours, theirs = list(used(node)), list(used(twin))
        return len(ours) == len(theirs) and all(map(self._may_be_same, ours, theirs))

    def _may_be_same(self, ours: ir.Value, theirs: ir.Value) -> bool:
        if ours.const_value is not None and ours.const_value is theirs.const_value:
            return True
        if self._ours.is_constant(ours) != self._theirs.is_constant(theirs):
            return False
        one, other = self._ours.array(ours), self._theirs.array(theirs)
        if one is None or other is None:
            return one is other
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")

    def _calls_the_same(self, node: ir.Node) -> bool:
        """Whether the operator calls no function, or one that is in both models; no other may differ then."""
        ours, theirs = self._functions
        name = node.op_identifier()
        if name not in ours and name not in theirs:
            return True
        return (
            name in ours
            and name in theirs
            and all(ours[each] == theirs[each] for each in ours.keys() & theirs.keys())
        )

    def _means_the_same(self, node: ir.Node) -> bool:
        """Whether the operator is defined alike in the operator sets of both models."""
        ours, theirs = (imports.get(node.domain) for imports in self._versions)
        if ours == theirs or ours is None or theirs is None:
            return ours == theirs
        try:
            one, other = (
                onnx.defs.get_schema(node.op_type, version, node.domain) for version in (ours, theirs)
            )
        except onnx.defs.SchemaError:
            return False
        return bool(one.since_version == other.since_version)


def _repeats(node: ir.Node, value: ir.Value) -> Iterator[ir.Node]:
    """The operators that make a value of another, without which the one that reads it makes the same."""
    maker = value.producer()
    while maker is not None and maker.inputs and maker.inputs[0] is not None and is_standard(maker):
        again = maker.op_type == node.op_type and node.op_type in IDEMPOTENT
        if not again and not (maker.op_type in VIEWS and node.op_type in VIEWS):
            return
        yield maker
        maker = maker.inputs[0].producer()


def _functions(model: ir.Model) -> dict[ir.OperatorIdentifier, bytes]:
    return {
        name: ir.serde.serialize_function(function).SerializeToString(deterministic=True)
        for name, function in model.functions.items()
    }


def _attributes(node: ir.Node) -> dict[str, bytes]:
    return {
        name: ir.serde.serialize_attribute(attribute).SerializeToString(deterministic=True)
        for name, attribute in node.attributes.items()
        if not attribute.is_ref()
    }
