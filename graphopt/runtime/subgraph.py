"""Changed regions apart from the rest of the model: what a change replaces and what takes its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from graphopt.analysis.snapshot import Analysis
from graphopt.model.serde import new_proto
from graphopt.numerics.channel_gap import rounded
from graphopt.runtime import session
from graphopt.runtime.session import Feeds, Structure, random_array
from graphopt.types import Candidate, Replacement

SMALL_MAP = 40
"""Spatial size to which larger ones are cut down for a first look at a region: derived, 32 is wider than
kernels of 31 taps, and up to 8 more keep the rest by 8; what differs there is looked at again in full.
Measured by benchmarks.thresholds: 16 and 1000 give the same on nine architectures, in 4.5 and 5.7 seconds."""
UNKNOWN_SIZE = 8
"""What stands for a size that nothing tells, in the inputs of a region: derived, strides of 2, 4 and 8
divide it."""


@dataclass(frozen=True, slots=True)
class SubgraphPair:
    """A change as two little graphs on the same inputs, with names that clash with no other region's.

    Attributes:
        candidate: the change.
        old: the operators that are replaced.
        new: those that take their place.
        inputs: shape and type of what both read, by name.
        contents: what those inputs hold that are computed from shapes, by name.
        sources: the name in the model of each of those.
        constants: their weights, by name.
        outputs: pairs of names, old and new.
    """

    candidate: Candidate
    old: tuple[onnx.NodeProto, ...]
    new: tuple[onnx.NodeProto, ...]
    inputs: Mapping[str, tuple[tuple[int, ...], ir.DataType]]
    contents: Mapping[str, npt.NDArray[Any]]
    sources: Mapping[str, str]
    constants: Mapping[str, npt.NDArray[Any]]
    outputs: tuple[tuple[str, str, str], ...]

    @property
    def bytes(self) -> int:
        """Bytes of weights and inputs."""
        weights = sum(array.nbytes for array in self.constants.values())
        return weights + sum(4 * math.prod(shape) for shape, _ in self.inputs.values())

    def feeds(self, rng: np.random.Generator) -> Feeds:
        """Inputs: what is known of their content, the rest random."""
        known = self.contents
        return {n: known[n] if n in known else random_array(rng, *self.inputs[n]) for n in self.inputs}

    def forms(self) -> tuple[SubgraphPair, SubgraphPair]:
        """The old operators alone and the new ones alone, on inputs and outputs of the same names."""
        old = replace(self, new=(), outputs=tuple((name, old, old) for name, old, _ in self.outputs))
        new = replace(self, old=(), outputs=tuple((name, new, new) for name, _, new in self.outputs))
        return old._without_spare(), new._without_spare()

    def _without_spare(self) -> SubgraphPair:
        """The region without constants that nothing reads: onnxruntime fails on those when it optimises."""
        read = {name for node in (*self.old, *self.new) for name in node.input}
        read.update(name for _, *names in self.outputs for name in names)
        return replace(self, constants={n: array for n, array in self.constants.items() if n in read})

    def at(self, values: Feeds) -> SubgraphPair:
        """The same region on what a run of the model gives it, by the names of the model."""
        contents = {name: values[source] for name, source in self.sources.items()}
        inputs = {n: (contents[n].shape, kind) for n, (_, kind) in self.inputs.items()}
        return replace(self, inputs=inputs, contents=contents)

    def rounded(self, rounding: float, rng: np.random.Generator) -> SubgraphPair:
        """The same region with other roundings of biases, scales and means.

        A kernel is left as it is: its products move with the inputs.
        """
        vectors = {name: a for name, a in self.constants.items() if a.size == max(a.shape, default=1)}
        moved = {name: rounded(array, rounding, rng) for name, array in vectors.items()}
        return replace(self, constants={**self.constants, **moved})

    def shrunk(self) -> SubgraphPair:
        """The same region on small maps."""
        return replace(self, inputs={n: (_smaller(shape), kind) for n, (shape, kind) in self.inputs.items()})


def _smaller(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape whose sizes from axis 2 on are small and leave the same rest when divided by 8."""
    return (*shape[:2], *(size if size <= SMALL_MAP else SMALL_MAP - 8 + size % 8 for size in shape[2:]))


def output_names(chunk: Sequence[SubgraphPair]) -> list[str]:
    """Names of the outputs of some pairs, old and new, each once."""
    return list(dict.fromkeys(name for item in chunk for _, old, new in item.outputs for name in (old, new)))


def assemble(model: ir.Model, chunk: Sequence[SubgraphPair], *, open_sizes: bool = False) -> Structure:
    """One model of several regions side by side; with ``open_sizes`` inputs declare their rank alone.

    What onnxruntime infers of declared sizes when it loads a model may be wrong where the model runs.

    Args:
        model: the model that the regions are of; gives the operator sets.
        chunk: the regions, whose values have names of their own.
        open_sizes: whether inputs take any sizes.

    Returns:
        A model whose outputs are those of all regions, in both forms.
    """
    inputs = [
        onnx.helper.make_tensor_value_info(name, int(dtype), [None] * len(shape) if open_sizes else shape)
        for item in chunk
        for name, (shape, dtype) in item.inputs.items()
    ]
    constants = {name: array for item in chunk for name, array in item.constants.items()}
    initializers, weights = session.tensors(constants)
    graph = onnx.helper.make_graph(
        [node for item in chunk for node in (*item.old, *item.new)],
        "regions",
        inputs,
        [onnx.ValueInfoProto(name=name) for name in output_names(chunk)],
        initializers,
    )
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=max(model.ir_version or 0, 4))
    return Structure(proto, weights)


def region(analysis: Analysis, candidate: Candidate, change: Replacement, prefix: str) -> SubgraphPair:
    """The two forms of a changed region, ready to run side by side.

    Args:
        analysis: a snapshot of the model.
        candidate: the site.
        change: what takes its place.
        prefix: put in front of all names, so that regions can stand side by side.

    Returns:
        Both forms, with the inputs that they share and the outputs that should agree.
    """
    old = [analysis.nodes[name] for name in candidate.site.nodes]
    made = {value for node in old for value in node.outputs}
    reads = dict.fromkeys(v for node in old for v in node.inputs if v is not None and v not in made)
    names = {value.name or "": value for value in (*reads, *made)}
    constants: dict[str, npt.NDArray[Any]] = {}
    inputs: dict[str, tuple[tuple[int, ...], ir.DataType]] = {}
    contents: dict[str, npt.NDArray[Any]] = {}
    for value in reads:
        name, array, content = f"{prefix}old/{value.name}", analysis.constant(value), analysis.content(value)
        if array is not None:
            constants[name] = array
            continue
        shape = tuple(UNKNOWN_SIZE if s is None else s for s in analysis.likely_shape(value) or ())
        inputs[name] = (shape, analysis.sizes.dtype(value) or ir.DataType.FLOAT)
        if content is not None:
            contents[name] = content
    constants.update({f"{prefix}new/{name}": array for name, array in change.constants.items()})
    local = {*change.constants, *(name for node in change.nodes for name in node.outputs)}

    def new(name: str | None) -> str:
        if name is None:
            return ""
        return f"{prefix}new/{name}" if name in local else f"{prefix}old/{names[name].name}"

    in_order = sorted(old, key=analysis.position)
    pairs = [(name, f"{prefix}old/{name}", new(other)) for name, other in change.outputs.items()]
    sources = {name: name.removeprefix(f"{prefix}old/") for name in inputs}
    return SubgraphPair(
        candidate,
        tuple(_renamed(analysis, node, f"{prefix}old/") for node in in_order),
        tuple(new_proto(node, new) for node in change.nodes),
        inputs,
        contents,
        sources,
        constants,
        tuple(pairs),
    )


def _renamed(analysis: Analysis, node: ir.Node, prefix: str) -> onnx.NodeProto:
    proto = ir.serde.serialize_node(node)
    for field in (proto.input, proto.output):
        field[:] = [f"{prefix}{name}" if name else "" for name in field]
    proto.name = f"{prefix}{analysis.name(node)}"
    return proto
