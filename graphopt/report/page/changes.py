"""The structure around each change, before and after: what a page draws. It is read off both models.

A change is what a rewrite, or several in turn, made of some operators: those of the input that are gone, and
those of the result that graphopt stamped. Both sides are shown with their neighbours, which stayed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx_ir as ir

from graphopt.analysis.diff import sources
from graphopt.analysis.groups import Groups
from graphopt.analysis.linear import Linear
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.model.edit import STAMP_REWRITE, STAMP_SOURCE
from graphopt.report.results import Applied

State: TypeAlias = Literal["kept", "removed", "added", "elsewhere", "port"]

MOST_NEIGHBOURS = 8
"""Neighbours shown on a side."""


@dataclass(frozen=True, slots=True)
class DrawnOperator:
    """An operator as drawn, or an input or output of the graph.

    Attributes:
        name: the node's name, or the value's.
        op: the operator type; "input" and "output" for those.
        linear: its normal view where it is linear.
        state: ``removed`` (only in the input), ``added`` (only in the result), ``kept``, ``elsewhere`` (part
            of another change), or ``port``.
    """

    name: str
    op: str
    linear: Linear | None
    state: State


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a model.

    Attributes:
        operators: in the order of the model.
        edges: (producer, consumer) as positions in ``operators``.
        hidden: neighbours that are left out.
    """

    operators: tuple[DrawnOperator, ...]
    edges: tuple[tuple[int, int], ...]
    hidden: int = 0

    def changed(self) -> tuple[DrawnOperator, ...]:
        """The operators that are on this side alone."""
        return tuple(item for item in self.operators if item.state in ("removed", "added"))

    @property
    def macs(self) -> int | None:
        """MACs of the operators that are on this side alone; None where a size is unknown."""
        counts = [item.linear.macs for item in self.changed() if item.linear is not None]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None


@dataclass(frozen=True, slots=True)
class DrawnChange:
    """A change.

    Attributes:
        rewrites: the rewrites that made it, in their order.
        nodes: names of the input's operators that it concerns.
        before: the structure in the input.
        after: the structure in the result.
    """

    rewrites: tuple[str, ...]
    nodes: tuple[str, ...]
    before: Piece
    after: Piece

    @property
    def macs_saved(self) -> int:
        """MACs that the change saves; 0 where a size is unknown."""
        before, after = self.before.macs, self.after.macs
        return 0 if before is None or after is None else before - after

    def shape(self, describe: Callable[[DrawnOperator], str]) -> Hashable:
        """What two changes have in common when one drawing will do for both.

        Those that save MACs look the same, to every number; of others the operators alone are the same.

        Args:
            describe: what is written on an operator.
        """
        everything = self.macs_saved != 0
        sides = []
        for piece in (self.before, self.after):
            shown = [
                i for i, x in enumerate(piece.operators) if everything or x.state in ("removed", "added")
            ]
            place = {i: number for number, i in enumerate(shown)}
            drawn = [piece.operators[i] for i in shown]
            edges = [(place[a], place[b]) for a, b in piece.edges if a in place and b in place]
            labels = (describe(x) if everything else x.op for x in drawn)
            sides.append((tuple(labels), tuple(x.state for x in drawn), tuple(edges)))
        return self.rewrites, *sides


def regions(before: Analysis, after: Analysis, applied: Sequence[Applied]) -> tuple[DrawnChange, ...]:
    """The changes between a model and what graphopt made of it, in the order of the input.

    Args:
        before: the input.
        after: the result.
        applied: the rewrites that are in the result.

    Returns:
        Each change with its operators before and after.
    """
    made = {name for name, node in after.nodes.items() if _is_new(name, node, before)}
    gone = {
        name
        for name, node in before.nodes.items()
        if (name not in after.nodes or name in made) and not _is_data(node)
    }
    groups = Groups[tuple[str, str]]()
    rewrites: dict[str, dict[str, None]] = {}
    for item in applied:
        site = item.candidate.site
        origin = [name for name in sources(",".join(site.nodes), before.nodes) if name in gone]
        groups.join(*(("old", name) for name in origin))
        for name in origin:
            rewrites.setdefault(name, {})[item.candidate.rewrite] = None
    for name in made:
        stamp = after.nodes[name].metadata_props.get(STAMP_SOURCE, "")
        origin = [source for source in sources(stamp, before.nodes) if source in gone]
        groups.join(("new", name), *(("old", source) for source in origin))
    for name in reversed([name for name in before.nodes if name in gone]):
        groups.join(("old", name))
        if name not in rewrites:  # it went since nothing reads it any more: it belongs to its readers
            near = _neighbours(before, [name], producers=False)
            groups.join(*(("old", other) for other in (name, *near[:1]) if other in gone))
    found = []
    order = [*(("old", name) for name in before.nodes), *(("new", name) for name in after.nodes)]
    for members in groups.of(key for key in order if key in groups):
        old = tuple(name for side, name in members if side == "old")
        new = tuple(name for side, name in members if side == "new")
        by = dict.fromkeys(rewrite for name in old for rewrite in rewrites.get(name, ()))
        by.update(dict.fromkeys(str(after.nodes[name].metadata_props[STAMP_REWRITE]) for name in new))
        sides = _sides(before, after, old, new, gone, made)
        found.append(DrawnChange(tuple(by), old or new, *sides))
    return tuple(found)


def _is_data(node: ir.Node) -> bool:
    """Whether a node holds a constant, which is no structure: graphopt makes it an initializer."""
    return node.op_type == "Constant" and is_standard(node)


def _is_new(name: str, node: ir.Node, before: Analysis) -> bool:
    """Whether a node of the result was made; one that bears a stamp from an earlier run was not."""
    stamp = node.metadata_props.get(STAMP_REWRITE)
    other = before.nodes.get(name)
    if stamp is None:
        return False
    if other is None:
        return True
    keys = (STAMP_REWRITE, STAMP_SOURCE)
    return any(node.metadata_props.get(key) != other.metadata_props.get(key) for key in keys)


# ---------------------------------------------------------------- the two sides


def _sides(
    before: Analysis, after: Analysis, old: Sequence[str], new: Sequence[str], gone: set[str], made: set[str]
) -> tuple[Piece, Piece]:
    """Both sides of a change: what is there alone, and the neighbours of either side that are on both."""
    near = [*_neighbours(before, old), *_neighbours(after, new)]
    context = list(dict.fromkeys(near))
    first = [name for name in context if name in before.nodes and name not in old]
    second = [name for name in context if name in after.nodes and name not in new]
    return _piece(before, old, first, "removed", gone), _piece(after, new, second, "added", made)


def _neighbours(analysis: Analysis, names: Sequence[str], *, producers: bool = True) -> list[str]:
    """Names of the operators that read some, and that they read, without themselves."""
    own = set(names)
    found: dict[str, None] = {}
    for name in names:
        node = analysis.nodes[name]
        read = [value.producer() for value in node.inputs if value is not None] if producers else []
        readers = [reader for value in node.outputs for reader in analysis.consumers(value)]
        for other in (*read, *readers):
            if other is None or _is_data(other):
                continue
            if (near := analysis.name(other)) not in own:
                found[near] = None
    return list(found)


def _piece(
    analysis: Analysis, own: Sequence[str], context: Sequence[str], state: State, changed: set[str]
) -> Piece:
    shown = sorted(context, key=lambda name: analysis.position(analysis.nodes[name]))[:MOST_NEIGHBOURS]
    names = sorted({*own, *shown}, key=lambda name: analysis.position(analysis.nodes[name]))
    place = {analysis.nodes[name]: i for i, name in enumerate(names)}
    operators = [
        DrawnOperator(
            name,
            analysis.nodes[name].op_type,
            analysis.linear(analysis.nodes[name]),
            state if name in own else "elsewhere" if name in changed else "kept",
        )
        for name in names
    ]
    edges = {
        (place[producer], i): None
        for node, i in place.items()
        for value in node.inputs
        if value is not None and (producer := value.producer()) in place and producer is not None
    }
    ports = _ports(place, {analysis.nodes[name] for name in own} or set(place))
    for value, is_input, at in ports:
        operators.append(DrawnOperator(value, "input" if is_input else "output", None, "port"))
        end = len(operators) - 1
        edges[(end, at) if is_input else (at, end)] = None
    return Piece(tuple(operators), tuple(edges), len(context) - len(shown))


def _ports(place: Mapping[ir.Node, int], own: set[ir.Node]) -> list[tuple[str, bool, int]]:
    """Inputs and outputs of the graph at these operators: name, whether it is an input, and where."""
    found = []
    for node, i in place.items():
        if node not in own:
            continue
        for value in node.inputs:
            if value is not None and value.is_graph_input() and not value.is_initializer():
                found.append((value.name or "", True, i))
        found += [(value.name or "", False, i) for value in node.outputs if value.is_graph_output()]
    return found
