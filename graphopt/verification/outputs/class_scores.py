"""Which values hold class scores: by the operators around them, by labels in the metadata, or by word.

A row of numbers may be scores as well as an embedding or a regression, of which the largest means nothing.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import onnx_ir as ir

from graphopt.analysis.channels import Channels, Shapes
from graphopt.analysis.operators import is_standard
from graphopt.model.traversal import topological
from graphopt.types import Shape
from graphopt.verification.difference import is_class_scores
from graphopt.verification.heads import MOVES, RANKED_ALONG, Heads, counted, declared, told

LABELS = frozenset({"names", "classes", "labels", "class_names", "class_labels", "id2label"})
"""Entries of the metadata in which exporters name the classes."""
NORMALISED = frozenset({"Softmax", "LogSoftmax"})
"""Operators that make probabilities of scores."""
ORDERED = MOVES | {"Cast", "Dropout", "Log"}
"""Operators of one value behind which the best class is the same."""
SCALED = frozenset({"Mul", "Div"})
"""Operators behind which it is the same where what they read besides is constant, as a temperature is."""
AVERAGED = frozenset({"Add", "Sum", "Mean"})
"""Operators that join the probabilities of several networks."""

Ranking: TypeAlias = tuple[int | None, bool]
"""The axis that is ranked along, None for that of class scores by their shape, and whether the least wins."""
BY_SHAPE: Ranking = (None, False)


class ClassScores:
    """Which of the values that are measured hold class scores, and how they are ranked.

    Args:
        model: the model; it is not changed.
        heads: its operators that decide, and the outputs that count.
        measured: the values.
        shape: tells the shape of a value, as far as it is known.
        asked: whether outputs of their shape are taken as class scores where nothing in the model tells.

    Attributes:
        ranked: the rankings of each value that holds class scores.
        taken: names of the outputs that are taken as such, since that was asked.
        untold: names of those that would be.
    """

    def __init__(
        self, model: ir.Model, heads: Heads, measured: Iterable[ir.Value], shape: Shapes, *, asked: bool
    ) -> None:
        self._heads, self._shape, self._labels = heads, shape, _labels(model)
        self._channels = Channels(model, shape, lambda value: None)
        self._by_operators = self._ends(model)
        values = list(measured)
        known = {value: ways for value in values if (ways := self._told(value))}
        likely = [] if known else [v for v in values if v in heads.outputs and _may_be(declared(v))]
        self.ranked = known or ({value: {BY_SHAPE} for value in likely} if asked else {})
        self.taken = tuple(value.name or "" for value in likely if asked)
        shaped = [v for v in likely if shape(v) is not None and _may_be(shape(v))]
        self.untold = tuple(value.name or "" for value in shaped if not asked)

    def _told(self, value: ir.Value) -> set[Ranking]:
        """How a value is ranked of which the model says that it holds class scores; none of another."""
        ways = self._heads.rankings(value)
        if ways or value not in self._heads.outputs:
            return ways
        shape = self._shape(value)
        if not _may_be(shape) or not (value in self._by_operators or self._is_labelled(shape)):
            return set()
        return {BY_SHAPE}

    def _is_labelled(self, shape: Shape | None) -> bool:
        """Whether there are as many labels as there would be classes."""
        return shape is not None and self._labels > 1 and shape[1] == self._labels

    # ------------------------------------------------------------ by operators

    def _ends(self, model: ir.Model) -> set[ir.Value]:
        """Probabilities, and what is made probabilities of, or ranked, with nothing else up to an output."""
        nodes = topological(model.graph)
        likely: dict[ir.Value, list[ir.Value]] = {}  # with what they were made of in the same order
        for node in nodes:
            read = self._through(node)
            normal = node.op_type in NORMALISED and is_standard(node) and self._across_channels(node)
            if read and (normal or all(value in likely for value in read)):
                likely[node.outputs[0]] = read
        stack = [value for value in model.graph.outputs if value in likely]
        stack += [value for output in model.graph.outputs for value in self._ranked(output)]
        found = set[ir.Value]()
        while stack:
            value = stack.pop()
            if value in found:
                continue
            found.add(value)
            maker = value.producer()
            if value in likely:
                stack += likely[value]
            elif maker is not None and maker.op_type not in AVERAGED:
                stack += self._through(maker)
        return found

    def _through(self, node: ir.Node) -> list[ir.Value]:
        """What an operator reads whose best class is that of what it makes; none of other operators."""
        if not is_standard(node) or not node.inputs:
            return []
        kind, read = node.op_type, self._heads.read(node)
        if kind in AVERAGED:
            return read
        if kind in NORMALISED | ORDERED | SCALED and read and read == [node.inputs[0]]:
            return read
        return []

    def _across_channels(self, node: ir.Node) -> bool:
        """Whether probabilities of an operator are those of classes, and not of the inputs of a batch."""
        return self._channels.axis(node.outputs[0]) != 0

    def _ranked(self, value: ir.Value) -> list[ir.Value]:
        """What is ranked to make a value, with nothing but another form of it behind."""
        while (node := value.producer()) is not None and is_standard(node):
            first = node.inputs[0] if node.inputs else None
            if node.op_type not in {*RANKED_ALONG, *ORDERED} or first is None:
                break
            if node.op_type in RANKED_ALONG:
                return [first]
            value = first
        return []


def may_agree(model: ir.Model, kept: Sequence[str] = ()) -> bool:
    """Whether an output that counts may hold class scores, or is made of what may.

    Args:
        model: the model.
        kept: names of the outputs that count; all when empty.
    """
    ranked = _asked(model, kept)
    return any(axis is None or shape is None or _chooses(shape, axis) for shape, axis in ranked)


def counts_inputs(model: ir.Model, kept: Sequence[str] = ()) -> bool:
    """Whether an agreement is one of inputs: each has one row of scores.

    Args:
        model: the model.
        kept: names of the outputs that count; all when empty.
    """
    ranked = _asked(model, kept)
    return bool(ranked) and all(shape is not None and is_class_scores(shape) for shape, _ in ranked)


def _asked(model: ir.Model, kept: Sequence[str]) -> list[tuple[Shape | None, int | None]]:
    """The shapes of what is ranked where an agreement is asked for, and the axes along which it is."""
    heads = Heads(model, counted(model, kept))
    dtype, shape = told(model)
    values = dict.fromkeys(value for output in heads.outputs for value in heads.measured(output, dtype))
    scores = ClassScores(model, heads, values, shape, asked=True)
    return [(shape(value), axis) for value, ways in scores.ranked.items() for axis, _ in ways]


def _labels(model: ir.Model) -> int:
    """How many classes the metadata name; 0 where they name none."""
    entries = model.metadata_props.items()
    return max((_listed(str(text)) for key, text in entries if key.lower() in LABELS), default=0)


def _listed(text: str) -> int:
    """How many names a text lists: as JSON or Python writes them, else one a line, or between commas."""
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return len(found) if isinstance(found, (list, tuple, dict)) else 0
    return len(list(filter(str.strip, text.splitlines() if "\n" in text.strip() else text.split(","))))


def _may_be(shape: Shape | None) -> bool:
    """Whether a value may hold class scores by its shape, as far as that is known."""
    return shape is None or is_class_scores(shape)


def _chooses(shape: tuple[int | None, ...], axis: int) -> bool:
    """Whether there is something to choose from along an axis, as far as is known."""
    return -len(shape) <= axis < len(shape) and shape[axis] != 1
