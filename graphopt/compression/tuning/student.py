"""A network whose weights are fed, with its derivatives in them; and the original that it learns of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx

from graphopt.analysis.snapshot import Analysis
from graphopt.compression.autodiff.gradients import free_prefix, gradients
from graphopt.runtime import exposure, session
from graphopt.runtime.program import Program, reads
from graphopt.runtime.session import Feeds, Session, Structure
from graphopt.types import Array


@dataclass(frozen=True)
class Target:
    """A value in which the network is to do what the original does.

    Attributes:
        name: of the value in the original.
        twin: of that in the network.
        scale: what its channels are multiplied with to count alike, in a shape that spreads over it.
        axis: that holds the channels; None for a value that is one channel.
        judged: whether the network is judged by it, and not just led.
    """

    name: str
    twin: str
    scale: npt.NDArray[np.float32]
    axis: int | None
    judged: bool


class Student:
    """A network with its derivatives in weights, which are fed.

    Args:
        analysis: a snapshot of it, at the sizes that are run.
        weights: names of those that may move.
        targets: what it is led by.
        kinds: the type of each input.

    Attributes:
        weights: names of those that have a derivative.
        stopped: operators, by type, that no derivative leads through.
    """

    def __init__(
        self,
        analysis: Analysis,
        weights: Sequence[str],
        targets: Sequence[Target],
        kinds: Mapping[str, np.dtype[np.generic]],
    ) -> None:
        self._program, self._kinds, self._targets = Program(analysis.model), kinds, targets
        prefix = free_prefix(analysis.model)
        self._fed = {target.name: f"{prefix}/target/{i}" for i, target in enumerate(targets)}
        constants: dict[str, npt.NDArray[np.generic]] = {}
        given: dict[str, str] = {}
        nodes, losses = [], []
        for i, target in enumerate(targets):
            gap, counted, loss = (f"{prefix}/{kind}/{i}" for kind in ("gap", "counted", "loss"))
            constants[f"{counted}/scale"] = (2 * target.scale**2).astype(np.float32)
            nodes += [
                onnx.helper.make_node("Sub", [target.twin, self._fed[target.name]], [gap]),
                onnx.helper.make_node("Mul", [gap, f"{counted}/scale"], [counted]),
                onnx.helper.make_node("Mul", [gap, counted], [f"{loss}/parts"]),
                onnx.helper.make_node("ReduceSum", [f"{loss}/parts"], [loss], keepdims=0),
            ]
            given[target.twin] = counted
            losses.append(loss)
        made = gradients(analysis, self._program, weights, given, prefix)
        self.stopped = made.stopped
        self.weights = tuple(name for name in weights if name in made.names)
        self._outputs = [*losses, *(made.names[name] for name in self.weights)]
        self._behind = [*self._program.nodes, *nodes, *made.nodes]
        self._constants = {**constants, **made.constants}

    def derivative(
        self, weights: Mapping[str, Array], feeds: Feeds, targets: Mapping[str, Array]
    ) -> tuple[float, dict[str, Array]]:
        """The loss of some inputs at once, and its derivative.

        Args:
            weights: by name.
            feeds: the inputs.
            targets: what the original makes of them, by name of the target.

        Returns:
            The sum over targets of the gaps' mean part of the variance, and its derivative in each weight.

        Raises:
            InputError: onnxruntime can't run the derivatives.
        """
        fed = {self._fed[name]: array for name, array in targets.items()}
        found = session.run(self._backward, {**feeds, **fed, **weights}, self._outputs)
        count = len(self._targets)
        loss = 0.5 * sum(float(each) for each in found[:count])
        return loss, dict(zip(self.weights, found[count:], strict=True))

    def values(self, weights: Mapping[str, Array], feeds: Feeds) -> dict[str, Array]:
        """What the network makes of some inputs of what it is judged by, by name of the target."""
        found = session.run(self._forward, {**feeds, **weights}, list(self._judged.values()))
        return dict(zip(self._judged, found, strict=True))

    @cached_property
    def _judged(self) -> dict[str, str]:
        return {target.name: target.twin for target in self._targets if target.judged}

    @cached_property
    def _backward(self) -> Session:
        nodes = _needed(self._behind, self._outputs, self.weights)
        kinds = dict.fromkeys((*self.weights, *self._fed.values()), np.dtype(np.float32))
        parts = self._program.piece(nodes, {**self._kinds, **kinds}, self._outputs, self._constants)
        return session.session(parts, optimised=True)

    @cached_property
    def _forward(self) -> Session:
        names = list(self._judged.values())
        nodes = _needed(self._program.nodes, names, self.weights)
        kinds = dict.fromkeys(self.weights, np.dtype(np.float32))
        parts = self._program.piece(nodes, {**self._kinds, **kinds}, names)
        return session.session(parts, optimised=True)


class Teacher:
    """The original, and what it makes of inputs.

    Args:
        parts: the original.
        targets: what is asked of it.
    """

    def __init__(self, parts: Structure, targets: Sequence[Target]) -> None:
        self._names = [target.name for target in targets]
        self._session = session.session(exposure.exposed(parts, self._names), optimised=True)

    def values(self, feeds: Feeds) -> dict[str, Array]:
        """What it makes of some inputs, by name of the target."""
        return dict(zip(self._names, session.run(self._session, feeds, self._names), strict=True))


def _needed(
    nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], fed: Collection[str]
) -> list[onnx.NodeProto]:
    """Those operators that outputs depend on, in order, without those of what is fed."""
    wanted, found = set(outputs) - set(fed), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            found.append(node)
            wanted |= reads(node) - set(fed)
    return found[::-1]
