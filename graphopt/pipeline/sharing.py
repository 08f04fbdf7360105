"""Kernels that several operators read: what it adds to a model to rewrite them for some or all of those."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.groups import Groups
from graphopt.analysis.snapshot import Analysis
from graphopt.model.kernels import Kernels
from graphopt.types import Candidate, Change


@dataclass(frozen=True, slots=True)
class Copying:
    """Changes that put other kernels in the place of shared ones.

    Attributes:
        changes: those of one kernel, or of several that one of the changes has in common.
        partly: whether a kernel stays for an operator that none of them rewrites.
        grown: bytes of weights that they add, less those of what nothing reads any more.
    """

    changes: tuple[Change, ...]
    partly: bool
    grown: int

    @property
    def macs_saved(self) -> int:
        """MACs that they save together."""
        return sum(change.candidate.macs_saved for change in self.changes)


def copying(analysis: Analysis, changes: Sequence[Change]) -> Iterator[Copying]:
    """Those changes of a round that replace kernels which operators outside of their sites have too."""
    replaced = {change.candidate: list(_shared_kernels(analysis, change)) for change in changes}
    users: dict[ir.Value, list[Candidate]] = {}
    for candidate, kernels in replaced.items():
        for value in kernels:
            users.setdefault(value, []).append(candidate)
    groups = Groups[Candidate]()
    for together in users.values():
        groups.join(*together)
    made = {change.candidate: change for change in changes}
    for candidates in groups.of(candidate for candidate, kernels in replaced.items() if kernels):
        group = tuple(made[candidate] for candidate in candidates)
        inside = {node for change in group for node in _nodes(analysis, change)}
        shared = {value for candidate in candidates for value in replaced[candidate]}
        partly = any(not inside.issuperset(_users(analysis, value)) for value in shared)
        yield Copying(group, partly, _added(group) - _freed(analysis, group, inside))


def widening(analysis: Analysis, changes: Sequence[Change]) -> Copying | None:
    """Those changes of a round that store what the model computes from fewer bytes; None where none does.

    Weights that are stored as float16 behind a Cast are an example. Kernels that operators outside of a
    change's site have, too, are for `copying`.
    """
    group = []
    for change in changes:
        nodes = _nodes(analysis, change)
        kernels = [n.inputs[1] for n in nodes if analysis.linear(n) is not None]
        computed = any(v is not None and analysis.constants.is_computed(v) for v in kernels)
        if computed and _added([change]) > _freed(analysis, [change], set(nodes)):
            group.append(change)
    if not group:
        return None
    inside = {node for change in group for node in _nodes(analysis, change)}
    return Copying(tuple(group), False, _added(group) - _freed(analysis, group, inside))


def _nodes(analysis: Analysis, change: Change) -> list[ir.Node]:
    return [analysis.nodes[name] for name in change.candidate.site.nodes]


def _users(analysis: Analysis, value: ir.Value) -> set[ir.Node]:
    """The operators whose kernel a value is."""
    return {n for n in analysis.consumers(value) if analysis.linear(n) is not None and n.inputs[1] is value}


def _shared_kernels(analysis: Analysis, change: Change) -> Iterator[ir.Value]:
    """The kernels of a site that are those of others too, and that its replacement does not read any more."""
    nodes, still = _nodes(analysis, change), _read([change])
    for value in dict.fromkeys(node.inputs[1] for node in nodes if analysis.linear(node) is not None):
        if value is None or value.name in still or not analysis.constants.is_constant(value):
            continue
        if not set(nodes).issuperset(_users(analysis, value)):
            yield value


def _read(changes: Iterable[Change]) -> set[str | None]:
    """Names of what replacements read."""
    return {name for change in changes for node in change.replacement.nodes for name in node.inputs}


def _added(group: Iterable[Change]) -> int:
    """Bytes of the new constants; equal kernels are kept once."""
    total, seen = 0, Kernels[bool]()
    for change in group:
        for array in change.replacement.constants.values():
            if seen.get(array) is None:
                total += array.nbytes
                seen.put(array, True)
    return total


def _freed(analysis: Analysis, group: Sequence[Change], inside: set[ir.Node]) -> int:
    """Bytes of the constants that nothing reads any more, and of those that they are computed from."""
    still, gone, freed = _read(group), set(inside), dict[ir.Value, int]()
    pending = [value for node in inside for value in node.inputs if value is not None]
    while pending:
        value = pending.pop()
        if value in freed or value.name in still or value.is_graph_output():
            continue
        if not (analysis.constants.is_constant(value) and gone.issuperset(analysis.consumers(value))):
            continue
        node = value.producer() if analysis.constants.is_computed(value) else None
        freed[value] = analysis.constants.stored_bytes(value) if node is None else 0
        if node is not None and all(gone.issuperset(analysis.consumers(made)) for made in node.outputs):
            gone.add(node)
            pending.extend(each for each in node.inputs if each is not None)
    return sum(freed.values())
