"""A failing model reduced to the few nodes that make it fail: delta debugging on nodes and attributes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import onnx
from onnx import helper, numpy_helper

from tests.builders import Array, Feeds, session
from tests.fuzz.draft import NOMINAL

TRIES = 400
"""Models that are tried at most: each is optimised once."""


def shrink(
    model: onnx.ModelProto,
    fails: Callable[[onnx.ModelProto], bool],
    feeds: Callable[[onnx.ModelProto], list[Feeds]],
    tries: int = TRIES,
) -> onnx.ModelProto:
    """The smallest model found that still fails.

    Args:
        model: one that fails.
        fails: whether a model does.
        feeds: the inputs of a model, of several sizes.
        tries: how many models are tried at most.
    """
    left = tries
    progressed = True
    while progressed:
        progressed = False
        for smaller in _smaller(model, feeds):
            left -= 1
            if left < 0:
                return model
            try:
                holds = len(smaller.graph.node) > 0 and _size(smaller) < _size(model) and fails(smaller)
            except Exception:  # a model that is not even one
                continue
            if holds:
                model, progressed = smaller, True
                break
    return model


def _size(model: onnx.ModelProto) -> tuple[int, int, int]:
    graph = model.graph
    attributes = sum(len(node.attribute) + len(node.input) for node in graph.node)
    return len(graph.node), len(graph.output), attributes + len(graph.initializer) + len(graph.input)


def _smaller(
    model: onnx.ModelProto, feeds: Callable[[onnx.ModelProto], list[Feeds]]
) -> Iterator[onnx.ModelProto]:
    """Models with less in them, those with much less first."""
    graph = model.graph
    if len(graph.output) > 1:
        for keep in range(len(graph.output)):
            yield _cleaned(model, outputs=[graph.output[keep].name])
    known = _values(model, feeds(model))
    for node in graph.node:  # ends there
        yield _cleaned(model, outputs=[node.output[0]], known=known)
    for node in reversed(graph.node):  # begins there
        if all(name in known for name in node.output if name):
            yield _cleaned(model, cut=node, known=known)
    for node in graph.node:  # left out
        for source in dict.fromkeys(node.input):
            if source:
                yield _cleaned(model, bypass=(node, source))
    for number, node in enumerate(graph.node):
        for attribute in node.attribute:
            other = _copy(model)
            kept = [a for a in other.graph.node[number].attribute if a.name != attribute.name]
            del other.graph.node[number].attribute[:]
            other.graph.node[number].attribute.extend(kept)
            yield other
        if len(node.input) > 2 and node.op_type in ("Conv", "ConvTranspose", "Gemm", "Clip"):
            other = _copy(model)
            del other.graph.node[number].input[2:]
            yield _cleaned(other)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other


def _values(model: onnx.ModelProto, inputs: list[Feeds]) -> dict[str, list[Array]]:
    """The values of a model at those sizes at which it runs whole."""
    names = [name for node in model.graph.node for name in node.output if name]
    probe = _copy(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    found: dict[str, list[Array]] = {}
    try:
        running = session(probe)
    except Exception:
        return {}
    for feed in inputs:
        try:
            arrays = running.run(None, feed)
        except Exception:  # not at this size
            continue
        for name, array in itertools.chain(feed.items(), zip(names, arrays, strict=True)):
            found.setdefault(name, []).append(array)
    return found


def _cleaned(
    model: onnx.ModelProto,
    *,
    outputs: list[str] | None = None,
    cut: onnx.NodeProto | None = None,
    bypass: tuple[onnx.NodeProto, str] | None = None,
    known: dict[str, list[Array]] | None = None,
) -> onnx.ModelProto:
    """A copy without what nothing reads.

    Args:
        model: the model.
        outputs: names of the outputs; those of the model where not given.
        cut: a node whose outputs become inputs.
        bypass: a node, and the input that takes the place of its first output.
        known: the arrays of values at several sizes.
    """
    other = _copy(model)
    graph = other.graph
    if outputs is not None:
        present = {value.name: value for value in graph.output}
        kept = [present.get(name) or _info(name, known or {}, {}) for name in outputs]
        del graph.output[:]
        graph.output.extend(kept)
    if cut is not None:
        open_sizes = _open_sizes(model, known or {})
        made = [_info(name, known or {}, open_sizes) for name in cut.output if name]
        nodes = [node for node in graph.node if node != cut]
        del graph.node[:]
        graph.node.extend(nodes)
        graph.input.extend(made)
        _remember(other, open_sizes)
    if bypass is not None:
        node, source = bypass
        nodes = [each for each in graph.node if each != node]
        for each in nodes:
            for i, name in enumerate(each.input):
                if name == node.output[0]:
                    each.input[i] = source
        del graph.node[:]
        graph.node.extend(nodes)
        for value in graph.output:
            if value.name == node.output[0] and any(source in each.output for each in nodes):
                value.CopyFrom(onnx.ValueInfoProto(name=source, type=value.type))
    _prune(graph)
    return other


def _prune(graph: onnx.GraphProto) -> None:
    """Leaves out what no output needs."""
    needed = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= _reads(node)
    kept.reverse()
    del graph.node[:]
    graph.node.extend(kept)
    for field in (graph.initializer, graph.input):
        left = [each for each in field if each.name in needed]
        del field[:]
        field.extend(left)


def _reads(node: onnx.NodeProto) -> set[str]:
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                found |= _reads(inner)
            found |= {value.name for value in attribute.g.output}
    return found


def _open_sizes(model: onnx.ModelProto, known: dict[str, list[Array]]) -> dict[tuple[int, ...], str]:
    """The names of open sizes, by the sizes that they had."""
    found: dict[tuple[int, ...], str] = {}
    for value in model.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param and value.name in known:
                found[tuple(array.shape[axis] for array in known[value.name])] = dim.dim_param
    return found


def _info(
    name: str, known: dict[str, list[Array]], open_sizes: dict[tuple[int, ...], str]
) -> onnx.ValueInfoProto:
    """The type of a value: sizes that were always the same are fixed, the same open ones have one name."""
    arrays = known[name]
    shape: list[int | str] = []
    for axis in range(arrays[0].ndim):
        sizes = tuple(array.shape[axis] for array in arrays)
        fixed = len(set(sizes)) == 1 and sizes not in open_sizes
        shape.append(sizes[0] if fixed else open_sizes.setdefault(sizes, f"S{len(open_sizes)}"))
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(arrays[0].dtype), shape)


def _remember(model: onnx.ModelProto, open_sizes: dict[tuple[int, ...], str]) -> None:
    """Notes the nominal sizes of open ones, the first that were seen."""
    for entry in model.metadata_props:
        if entry.key == NOMINAL:
            entry.value = " ".join(f"{dim}={sizes[0]}" for sizes, dim in open_sizes.items() if sizes)


def described(model: onnx.ModelProto) -> str:
    """A model in a few lines: its text form, of weights the shapes and what is special about them."""
    graph = model.graph
    lines = [f"opset {model.opset_import[0].version}, IR {model.ir_version}"]
    lines += [f"  {_typed(value)} {value.name}" for value in graph.input]
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        content = f" = {array.tolist()}" if array.size <= 8 else f" ({int((array == 0).sum())} zeros)"
        lines.append(f"  {tensor.name}: {array.dtype}{list(array.shape)}{content}")
    lines += [f"  {onnx.printer.to_text(node).strip()[:300]}" for node in graph.node]
    return "\n".join([*lines, f"  → {', '.join(value.name for value in graph.output)}"])


def _typed(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    dims = [str(d.dim_value) if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim]
    return f"{onnx.TensorProto.DataType.Name(kind.elem_type).lower()}[{', '.join(dims)}]"
