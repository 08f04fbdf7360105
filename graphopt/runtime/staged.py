"""Runs a model piece by piece, in order, over many inputs, and keeps only what is read later.

So statistics of every layer of a network that changes on the way cost two passes over the inputs in all,
not two passes a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx

from graphopt.model.serde import new_proto
from graphopt.runtime import session
from graphopt.runtime.program import Program, reads
from graphopt.runtime.session import Feeds
from graphopt.runtime.spill import Store
from graphopt.types import Replacement


class StagedRun:
    """The inputs on their way through a program, up to some operator.

    Args:
        program: the operators.
        batches: the inputs; every value is held batch by batch.
        store: holds what is read later.
        beside: another walk over the same inputs, of the original network; what is equal there is read from
        it.
        decided: names of values that are read from it though they may differ: what operators decide, so that
            both walk on with the same rows. It has to keep them.
    """

    def __init__(
        self,
        program: Program,
        batches: Sequence[Feeds],
        store: Store,
        beside: StagedRun | None = None,
        decided: Iterable[str] = (),
    ) -> None:
        self._program = program
        self._store = store
        self._beside = beside
        self._decided = frozenset(decided)
        self._count = len(batches)
        self._fed = {} if beside is not None else {name: [b[name] for b in batches] for name in batches[0]}
        self.place = 0
        """The first operator that was not run yet."""

    def differs(self, name: str) -> bool:
        """Whether a value is not that of the walk beside this one."""
        return name in self._store

    def values(self, name: str) -> list[npt.NDArray[Any]]:
        """The content of a value for each batch; it is there when an operator still to come reads it."""
        if name in self._store:
            return self._store[name]
        if self._beside is not None:
            return self._beside.values(name)
        return self._fed[name]

    def holds(self, name: str) -> bool:
        """Whether a value is at hand."""
        if name in self._store or name in self._fed:
            return True
        return self._beside is not None and self._beside.holds(name)

    def advance(self, stop: int, keep: Iterable[str] = ()) -> None:
        """Runs the operators before ``stop``; nothing is dropped before `forget` is called.

        Args:
            stop: the place of the first operator not to be run.
            keep: values to hold besides those that operators from ``stop`` on read.
        """
        every = range(self.place, stop)
        places = every if self._beside is None else self._differing(every)
        self._run([self._program.nodes[i] for i in places], {}, stop, keep)
        self.place = stop

    def _differing(self, places: Sequence[int]) -> list[int]:
        """The operators that read what is not the same in the walk beside, and those of the piece they need.

        The walk beside keeps no value that only operators of the piece read; such values are made once more.
        """
        found, changed = set(), set(self._store)
        for place in places:
            outputs = self._program.nodes[place].output
            if self._decided.isdisjoint(outputs) and not changed.isdisjoint(self._program.reads(place)):
                found.add(place)
                changed.update(outputs)
        needed = {name for place in found for name in self._program.reads(place)}
        for place in reversed(places):
            outputs = self._program.nodes[place].output
            if place not in found and any(name in needed and not self.holds(name) for name in outputs):
                found.add(place)
                needed.update(self._program.reads(place))
        return sorted(found)

    def replace(self, index: int, replacement: Replacement, keep: Iterable[str] = ()) -> None:
        """Runs what takes the place of the operator that comes next.

        Args:
            index: place of the operator in the program; it must be the next to run.
            replacement: what to run instead.
            keep: names of values to keep though nothing behind reads them.
        """
        assert index == self.place
        prefix = f"{self._program.nodes[index].output[0]}/refit/"
        local = {*replacement.constants, *(name for node in replacement.nodes for name in node.outputs)}
        finals = {new: old for old, new in replacement.outputs.items()}

        def renamed(name: str | None) -> str:
            if name is None:
                return ""
            return finals.get(name) or (f"{prefix}{name}" if name in local else name)

        nodes = [new_proto(node, renamed) for node in replacement.nodes]
        constants = {renamed(name): array for name, array in replacement.constants.items()}
        self._run(nodes, constants, index + 1, keep)
        self.place = index + 1

    def _run(
        self,
        nodes: Sequence[onnx.NodeProto],
        constants: Mapping[str, npt.NDArray[Any]],
        stop: int,
        keep: Iterable[str],
    ) -> None:
        if not nodes:
            return
        kept = set(keep)
        made = list(dict.fromkeys(name for node in nodes for name in node.output if name))
        outputs = [name for name in made if self._program.last_use(name) >= stop or name in kept]
        if not outputs:
            return
        known = set(made) | set(constants)
        read = dict.fromkeys(name for node in nodes for name in sorted(reads(node)) if name not in known)
        given = [name for name in read if self.holds(name)]
        kinds = {name: self.values(name)[0].dtype for name in given}
        running = session.session(self._program.piece(nodes, kinds, outputs, constants), optimised=True)
        for number in range(self._count):
            feeds = {name: self.values(name)[number] for name in given}
            for name, value in zip(outputs, session.run(running, feeds, outputs), strict=True):
                self._store.add(name, value)

    def forget(self, keep: Iterable[str] = ()) -> None:
        """Drops what no operator still to come reads."""
        kept = set(keep)
        for name in [n for n in self._store if self._program.last_use(n) < self.place and n not in kept]:
            self._store.drop(name)
