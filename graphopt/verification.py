"""Whether two models, or two forms of a region, compute the same, by running both in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from graphopt import runtime
from graphopt.analysis import Analysis
from graphopt.compare import Difference
from graphopt.core import Candidate, NewNode, Replacement, Verdict
from graphopt.errors import InputError
from graphopt.runtime import Feeds, Structure

REGION_BOUND = {"float64": 1e-12, "float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}
"""Relative difference that a changed region may show, by the type of its output."""
MODEL_BOUND = {"float64": 1e-10, "float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2}
"""Relative difference that a whole model may show, by the type of its output."""
OWN_DIFFERENCE_FACTOR = 4.0
"""A model may differ as much as this times what onnxruntime's own optimisation changes in the original."""
REGION_BYTES = 256 << 20
"""Regions are checked together in one session up to about this many bytes of weights and values."""
UNKNOWN_SIZE = 8
"""What stands for a size that nothing tells, in the inputs of a region."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of comparing two models; truthy when every check passed.

    Attributes:
        checks: the comparisons.
        notes: what was not compared, and why.
    """

    checks: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(self.checks)

    def __bool__(self) -> bool:
        return self.passed


def bound(dtype: np.dtype[Any], bounds: Mapping[str, float]) -> float:
    """The relative difference allowed for outputs of this type; 0 for integers."""
    return bounds.get(dtype.name, 0.0)


# ---------------------------------------------------------------- whole models


def interface(reference: ir.Model, candidate: ir.Model) -> Verdict | None:
    """A failed verdict when the models' inputs and outputs are not the same; None when they are."""
    for kind, ours, theirs in (
        ("inputs", _ports(reference.graph.inputs), _ports(candidate.graph.inputs)),
        ("outputs", _ports(reference.graph.outputs), _ports(candidate.graph.outputs)),
    ):
        if ours != theirs:
            odd = next((p for p in [*ours, *theirs] if p not in ours or p not in theirs), "their order")
            note = f"the {kind} differ: {odd}"
            return Verdict("interface", kind, False, math.inf, math.inf, -math.inf, 0.0, 0, note)
    return None


def _ports(values: Iterable[ir.Value]) -> list[str]:
    """Name, type and shape of each value that a caller meets; symbols count as unknown sizes."""
    return [
        f"{value.name} {value.dtype.name if value.dtype is not None else '?'}"
        + ("" if value.shape is None else str([d if isinstance(d, int) else "?" for d in value.shape]))
        for value in values
        if not value.is_initializer()
    ]


def outputs(parts: Structure, feeds: Sequence[Feeds], *, optimised: bool) -> list[list[npt.NDArray[Any]]]:
    """The model's outputs for every feed.

    Raises:
        InputError: onnxruntime can't load or run the model.
    """
    running = runtime.session(parts, optimised=optimised)
    return [runtime.run(running, feed) for feed in feeds]


def check_model(
    reference: ir.Model, candidate: ir.Model, feeds: Sequence[Feeds], kept: Sequence[str] = ()
) -> Verification:
    """Whether the candidate's outputs equal the reference's up to rounding.

    The reference runs as it stands, the candidate as it stands and as onnxruntime optimises it.

    Args:
        reference: the original.
        candidate: the rewritten model.
        feeds: inputs to compare on.
        kept: names of the outputs that count; all when empty.

    Raises:
        InputError: onnxruntime can't load or run the reference.
    """
    different = interface(reference, candidate)
    if different is not None:
        return Verification((different,))
    original = runtime.structure(reference)
    expected = outputs(original, feeds, optimised=False)
    rewritten = runtime.structure(candidate)
    names = [value.name or "" for value in reference.graph.outputs]
    counted = [i for i, name in enumerate(names) if not kept or name in kept]
    own: list[Difference] | None = None
    checks: list[Verdict] = []
    for optimised in (False, True):
        scope = "model, optimised session" if optimised else "model"
        try:
            found = differences(expected, outputs(rewritten, feeds, optimised=optimised), counted)
        except InputError as error:
            return Verification(tuple(checks) + tuple(_unrunnable(scope, names[i], error) for i in counted))
        limits = [bound(expected[0][i].dtype, MODEL_BOUND) for i in counted]
        if any(gap.max_rel > limit for gap, limit in zip(found, limits, strict=True)):
            own = own or differences(expected, outputs(original, feeds, optimised=True), counted)
            limits = [max(b, OWN_DIFFERENCE_FACTOR * o.max_rel) for b, o in zip(limits, own, strict=True)]
        checks += [
            _verdict(scope, names[i], gap, limit)
            for i, gap, limit in zip(counted, found, limits, strict=True)
        ]
    if all(checks):
        return Verification(tuple(checks))
    return _without_random(original, expected, feeds, counted, checks)


def differences(
    expected: Sequence[Sequence[npt.NDArray[Any]]],
    found: Sequence[Sequence[npt.NDArray[Any]]],
    counted: Sequence[int],
) -> list[Difference]:
    """The differences of the counted outputs, over all feeds."""
    gaps = [Difference() for _ in counted]
    for reference, candidate in zip(expected, found, strict=True):
        for gap, index in zip(gaps, counted, strict=True):
            gap.add(reference[index], candidate[index])
    return gaps


def _verdict(scope: str, output: str, gap: Difference, limit: float) -> Verdict:
    passed = gap.max_rel <= limit
    return Verdict(scope, output, passed, gap.max_abs, gap.max_rel, gap.sqnr, limit, gap.feeds, gap.note)


def _unrunnable(scope: str, output: str, error: InputError) -> Verdict:
    return Verdict(scope, output, False, math.inf, math.inf, -math.inf, 0.0, 0, str(error))


def _without_random(
    original: Structure,
    expected: Sequence[Sequence[npt.NDArray[Any]]],
    feeds: Sequence[Feeds],
    counted: Sequence[int],
    checks: Sequence[Verdict],
) -> Verification:
    """Failed checks, less those of outputs in which the original itself differs from run to run."""
    again = differences(expected, outputs(original, feeds, optimised=False), counted)
    random = {check.output for check, gap in zip(checks, again, strict=False) if gap.max_rel > 0}
    if not random:
        return Verification(tuple(checks))
    left = tuple(check for check in checks if check.output not in random)
    note = f"not compared, since the original itself is random there: {', '.join(sorted(random))}"
    return Verification(left, (note,))


# ---------------------------------------------------------------- regions


@dataclass(frozen=True, slots=True)
class Region:
    """A change as two little graphs on the same inputs, with names that clash with no other region's.

    Attributes:
        candidate: the change.
        nodes: the old and the new operators.
        inputs: shape and type of what both read, by name.
        sources: the name in the model of each of those.
        constants: their weights, by name.
        outputs: pairs of names, old and new.
    """

    candidate: Candidate
    nodes: tuple[onnx.NodeProto, ...]
    inputs: Mapping[str, tuple[tuple[int, ...], ir.DataType]]
    sources: Mapping[str, str]
    constants: Mapping[str, npt.NDArray[Any]]
    outputs: tuple[tuple[str, str, str], ...]

    @property
    def bytes(self) -> int:
        """Bytes of weights and inputs."""
        weights = sum(array.nbytes for array in self.constants.values())
        return weights + sum(4 * math.prod(shape) for shape, _ in self.inputs.values())


def check_regions(
    analysis: Analysis, changes: Sequence[tuple[Candidate, Replacement]], seed: int
) -> list[tuple[Candidate, Verdict]]:
    """Compares each change alone with what it replaces, on seeded random inputs, at ORT_DISABLE_ALL.

    Returns:
        A verdict for each output of each change.
    """
    regions = [region(analysis, candidate, change, f"r{i}/") for i, (candidate, change) in enumerate(changes)]
    verdicts: list[tuple[Candidate, Verdict]] = []
    for chunk in chunks(regions):
        verdicts += _check_chunk(analysis.model, chunk, seed)
    return verdicts


def chunks(regions: Iterable[Region], batch: int = 1) -> Iterator[list[Region]]:
    """Regions that are run together, with so many samples at once."""
    chunk: list[Region] = []
    size = 0
    for item in regions:
        if chunk and size + item.bytes * batch > REGION_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += item.bytes * batch
    if chunk:
        yield chunk


def _check_chunk(model: ir.Model, chunk: Sequence[Region], seed: int) -> list[tuple[Candidate, Verdict]]:
    """Checks regions in one session; one by one when that session can't be made."""
    try:
        running = runtime.session(assemble(model, chunk), optimised=False)
        rng = np.random.default_rng(seed)
        feeds = {n: runtime.random_array(rng, s, t) for r in chunk for n, (s, t) in r.inputs.items()}
        results = dict(zip(_output_names(chunk), runtime.run(running, feeds), strict=True))
    except InputError as error:
        if len(chunk) > 1:
            return [verdict for item in chunk for verdict in _check_chunk(model, [item], seed)]
        return [
            (chunk[0].candidate, _unrunnable(_scope(chunk[0]), name, error))
            for name, _, _ in chunk[0].outputs
        ]
    verdicts = []
    for item in chunk:
        for name, old, new in item.outputs:
            gap = Difference()
            gap.add(results[old], results[new])
            limit = bound(results[old].dtype, REGION_BOUND)
            verdicts.append((item.candidate, _verdict(_scope(item), name, gap, limit)))
    return verdicts


def _scope(item: Region) -> str:
    return f"region {item.candidate.site.nodes[0]}"


def _output_names(chunk: Sequence[Region]) -> list[str]:
    return list(dict.fromkeys(name for item in chunk for _, old, new in item.outputs for name in (old, new)))


def assemble(model: ir.Model, chunk: Sequence[Region], *, open_batch: bool = False) -> Structure:
    """One model of several regions side by side; with ``open_batch`` inputs take any number of samples."""
    inputs = [
        onnx.helper.make_tensor_value_info(name, int(dtype), [None, *shape[1:]] if open_batch else shape)
        for item in chunk
        for name, (shape, dtype) in item.inputs.items()
    ]
    constants = {name: array for item in chunk for name, array in item.constants.items()}
    graph = onnx.helper.make_graph(
        [node for item in chunk for node in item.nodes],
        "regions",
        inputs,
        [onnx.ValueInfoProto(name=name) for name in _output_names(chunk)],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=max(model.ir_version or 0, 4))
    return Structure(proto, {})


def region(analysis: Analysis, candidate: Candidate, change: Replacement, prefix: str) -> Region:
    """The two forms of a changed region, ready to run side by side."""
    old = [analysis.nodes[name] for name in candidate.site.nodes]
    made = {value for node in old for value in node.outputs}
    reads = dict.fromkeys(v for node in old for v in node.inputs if v is not None and v not in made)
    names = {value.name or "": value for value in (*reads, *made)}
    constants: dict[str, npt.NDArray[Any]] = {}
    inputs: dict[str, tuple[tuple[int, ...], ir.DataType]] = {}
    for value in reads:
        array = analysis.constant(value)
        if array is not None:
            constants[f"{prefix}old/{value.name}"] = array
        else:
            shape = tuple(s if s else UNKNOWN_SIZE for s in analysis.shape(value) or ())
            inputs[f"{prefix}old/{value.name}"] = (shape, value.dtype or ir.DataType.FLOAT)
    constants.update({f"{prefix}new/{name}": array for name, array in change.constants.items()})
    local = {*change.constants, *(name for node in change.nodes for name in node.outputs)}

    def new(name: str | None) -> str:
        if name is None:
            return ""
        return f"{prefix}new/{name}" if name in local else f"{prefix}old/{names[name].name}"

    nodes = [_renamed(analysis, node, f"{prefix}old/") for node in sorted_nodes(analysis, old)]
    nodes += [_new_proto(node, new) for node in change.nodes]
    pairs = [(name, f"{prefix}old/{name}", new(other)) for name, other in change.outputs.items()]
    sources = {name: name.removeprefix(f"{prefix}old/") for name in inputs}
    return Region(candidate, tuple(nodes), inputs, sources, constants, tuple(pairs))


def sorted_nodes(analysis: Analysis, nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """The nodes in the order of the model."""
    wanted = set(nodes)
    done: list[ir.Node] = []

    def visit(node: ir.Node) -> None:
        if node not in wanted:
            return
        wanted.discard(node)
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None:
                visit(producer)
        done.append(node)

    for node in nodes:
        visit(node)
    return done


def _renamed(analysis: Analysis, node: ir.Node, prefix: str) -> onnx.NodeProto:
    proto = ir.to_proto(node)
    for field in (proto.input, proto.output):
        field[:] = [f"{prefix}{name}" if name else "" for name in field]
    proto.name = f"{prefix}{analysis.name(node)}"
    return proto


def _new_proto(node: NewNode, rename: Callable[[str | None], str]) -> onnx.NodeProto:
    attributes: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value for name, value in node.attributes.items()
    }
    return onnx.helper.make_node(
        node.op_type,
        [rename(name) for name in node.inputs],
        [rename(name) for name in node.outputs],
        domain=node.domain,
        **attributes,
    )
