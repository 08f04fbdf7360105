"""Gradients through what only moves numbers, and through Resize, which takes each axis apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.analysis.attributes import slice_ranges, taken
from graphopt.compression.autodiff.tape import Gradient, Matrix, Tape, UnsupportedError, name_of
from graphopt.runtime import session

LARGEST = 1 << 24
"""Numbers of a matrix by which an axis is multiplied, at most: derived, 64 MB of float32."""

# ---------------------------------------------------------------- the same numbers in another form


def same(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Identity."""
    return [g]


def dropout(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Dropout outside of training, where nothing is dropped."""
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is not None and tape.content(training).any():
        raise UnsupportedError
    return [g]


def cast(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Cast between equal types."""
    given = node.inputs[0]
    if given is None or tape.analysis.sizes.dtype(given) != ir.DataType.FLOAT:
        raise UnsupportedError
    return [g]


def reshape(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Reshape, Flatten, Squeeze and Unsqueeze: back in the shape of the input."""
    return [tape.like(g, name_of(node.inputs[0]))]


def transpose(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Transpose: the inverse permutation."""
    rank = len(tape.shape(node.inputs[0]))
    order = list(node.attributes.get_ints("perm", range(rank)[::-1]))
    return [tape.op("Transpose", g, perm=[order.index(axis) for axis in range(rank)])]


def depth_to_space(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of DepthToSpace: SpaceToDepth, with the channels in their order."""
    size, channels = node.attributes.get_int("blocksize"), tape.shape(node.inputs[0])[1]
    back = tape.op("SpaceToDepth", g, blocksize=size)
    if node.attributes.get_string("mode", "DCR") == "CRD":
        order = np.arange(channels).reshape(size * size, -1).T.ravel()
        back = tape.op("Gather", back, tape.constant(order, np.int64), axis=1)
    return [back]


def space_to_depth(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of SpaceToDepth: DepthToSpace."""
    return [tape.op("DepthToSpace", g, blocksize=node.attributes.get_int("blocksize"))]


def cumulative_sum(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of CumSum: the cumulative sum from the other side."""
    exclusive, turned = (node.attributes.get_int(key, 0) for key in ("exclusive", "reverse"))
    axis = name_of(node.inputs[1])
    return [tape.op("CumSum", g, axis, exclusive=exclusive, reverse=1 - turned)]


def triangle(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Trilu: the same triangle of it."""
    return [tape.again(node, g)]


# ---------------------------------------------------------------- taken apart and put together


def concat(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Concat: to each input its part."""
    axis = tape.axis(node)
    sizes = [tape.shape(value)[axis] for value in node.inputs]
    return tape.split(g, axis, sizes) if len(sizes) > 1 else [g]


def split(tape: Tape, node: ir.Node, gradients: Sequence[Gradient]) -> Sequence[Gradient]:
    """Gradient of Split: all parts joined; those that no output depends on are 0.

    Args:
        tape: takes down the operators that compute the gradient.
        node: the Split.
        gradients: of each of its outputs; None counts as zero.

    Returns:
        The gradient of its input.
    """
    parts = [
        tape.zeros(tape.shape(value)) if g is None else g
        for value, g in zip(node.outputs, gradients, strict=True)
    ]
    return [tape.op("Concat", *parts, axis=tape.axis(node, 0))]


def tile(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Tile: the sum over the copies."""
    inside, outside = tape.sizes(node)
    if 0 in inside:
        raise UnsupportedError
    pairs = [(m // n, n) for n, m in zip(inside, outside, strict=True)]
    copies = tape.reshape(g, [size for pair in pairs for size in pair])
    return [tape.reshape(tape.total(copies, range(0, 2 * len(pairs), 2)), inside)]


def slices(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Slice: zeros around what was taken; where rows were left out between, by a matrix."""
    inside = tape.shape(node.inputs[0])
    ranges = slice_ranges(node, tape.content)
    if ranges is None:
        raise UnsupportedError
    rows = [np.arange(size) for size in inside]
    for axis, entry in ranges.items():
        rows[axis] = np.array(taken(entry, inside[axis]), np.int64)
    return [_put_back(tape, g, rows, inside)]


def gather(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Gather: each number gets the gradients of its copies."""
    inside, axis = tape.shape(node.inputs[0]), tape.axis(node, 0)
    index = tape.content(node.inputs[1])
    rows = [np.arange(size) for size in inside]
    if not np.all((index >= -inside[axis]) & (index < inside[axis])):
        raise UnsupportedError
    rows[axis] = np.arange(inside[axis])[index.ravel()]
    flat = tape.reshape(g, [len(each) for each in rows])
    return [_put_back(tape, flat, rows, inside)]


def _put_back(tape: Tape, g: str, rows: Sequence[Matrix], inside: Sequence[int]) -> str:
    """Puts back what was taken of each axis, by the places it was taken from."""
    begin, end = [0] * len(inside), [0] * len(inside)
    for axis, (places, size) in enumerate(zip(rows, inside, strict=True)):
        if len(places) and np.array_equal(places, np.arange(places[0], places[0] + len(places))):
            begin[axis], end[axis] = int(places[0]), size - int(places[-1]) - 1
        else:
            g = tape.along(g, len(inside), axis, _chosen(places, size))
    return tape.padded(g, begin, end)


def _chosen(places: Matrix, size: int) -> Matrix:
    """The matrix ``[places, size]`` that takes some of so many numbers.

    Raises:
        UnsupportedError: it is too large.
    """
    if len(places) * size > LARGEST:
        raise UnsupportedError
    matrix = np.zeros((len(places), size), np.float32)
    matrix[np.arange(len(places)), places] = 1
    return matrix


def scatter(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of ScatterND and ScatterElements: what was overwritten gets none of it."""
    index = tape.content(node.inputs[1])
    nd = node.op_type == "ScatterND"
    shape, rank = tape.shape(node.inputs[0]), index.shape[-1] if nd else len(index.shape)
    if node.attributes.get_string("reduction", "none") != "none":
        raise UnsupportedError
    places: list[Matrix] = [index[..., i] for i in range(rank)] if nd else list(np.indices(index.shape))
    if not nd:
        places[tape.axis(node, 0)] = index
    flat = np.ravel_multi_index(tuple(p % n for p, n in zip(places, shape, strict=False)), shape[:rank])
    if len(np.unique(flat)) < flat.size:
        raise UnsupportedError
    where, zeros = name_of(node.inputs[1]), tape.zeros(tape.shape(node.inputs[2]))
    axis = {} if nd else {"axis": tape.axis(node, 0)}
    left = tape.op(node.op_type, g, where, zeros, **axis)
    return [left, None, tape.op("GatherND" if nd else "GatherElements", g, where, **axis)]


def crop(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Crop: zeros around what was taken."""
    inside, outside = tape.sizes(node)
    left, top, *_ = node.attributes.get_ints("border", [0, 0, 0, 0])
    begin = [0, 0, top, left]
    end = [n - m - b for n, m, b in zip(inside, outside, begin, strict=True)]
    return [tape.padded(g, begin, end)]


PADDING: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
"""Modes of Pad that repeat what is there, and NumPy's names for them."""


def pad(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Pad: what was put around is cut off, or added to what it repeats."""
    inside = tape.shape(node.inputs[0])
    rank = len(inside)
    pads = tape.numbers(node, "pads", 1)
    chosen = tape.numbers(node, "axes", 3)
    axes = list(range(rank)) if chosen is None else [axis % rank for axis in chosen]
    mode = node.attributes.get_string("mode", "constant")
    if pads is None or len(pads) != 2 * len(axes) or mode not in ("constant", *PADDING):
        raise UnsupportedError
    begin, end = [0] * rank, [0] * rank
    for axis, before, behind in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        begin[axis], end[axis] = before, behind
    if mode == "constant":
        return [tape.padded(g, [-n for n in begin], [-n for n in end])]
    for axis, (before, behind) in enumerate(zip(begin, end, strict=True)):
        if (before, behind) != (0, 0):
            kept = _chosen(np.arange(inside[axis]), inside[axis])
            rows = np.pad(kept, ((max(before, 0), max(behind, 0)), (0, 0)), PADDING[mode])
            rows = rows[max(-before, 0) : len(rows) - max(-behind, 0)]
            g = tape.along(g, rank, axis, rows)
    return [g]


# ---------------------------------------------------------------- Resize


def resize(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Resize and Upsample, an axis at a time: by what they make of unit vectors along it."""
    inside, outside = tape.sizes(node)
    attributes = node.attributes
    mode = attributes.get_string("coordinate_transformation_mode", "") or ""
    policy = attributes.get_string("keep_aspect_ratio_policy", "stretch")
    if mode == "tf_crop_and_resize" or policy != "stretch":
        raise UnsupportedError
    scales = _scales(tape, node, len(inside))
    for axis, (n, m) in enumerate(zip(inside, outside, strict=True)):
        scale = None if scales is None else scales[axis]
        if n != m or scale not in (None, 1.0):
            g = tape.along(g, len(inside), axis, _resized(tape, node, n, m, scale))
    return [g]


def _scales(tape: Tape, node: ir.Node, rank: int) -> list[float] | None:
    """The factor of each axis; None where sizes are given, or where they are no constants."""
    if "scales" in node.attributes:  # Upsample up to opset 8
        return list(node.attributes["scales"].as_floats())
    place = 1 if node.op_type == "Upsample" or tape.version == 10 else 2
    given = tape.analysis.constant(node.inputs[place]) if len(node.inputs) > place else None
    if given is None or not given.size:
        return None
    axes = [axis % rank for axis in node.attributes.get_ints("axes", range(rank))]
    found = [1.0] * rank
    for axis, factor in zip(axes, given.ravel(), strict=True):
        found[axis] = float(factor)
    return found


def _resized(tape: Tape, node: ir.Node, n: int, m: int, scale: float | None) -> Matrix:
    """The matrix ``[m, n]`` of a resizing of n numbers to m, seen by running it on unit vectors.

    Raises:
        UnsupportedError: it is too large, or of another size.
    """
    units = _chosen(np.arange(n), n)
    if m * n > LARGEST:
        raise UnsupportedError
    copy = ir.to_proto(node)
    for attribute in [a for a in copy.attribute if a.name in ("axes", "scales")]:
        copy.attribute.remove(attribute)
    scales = np.array([1, 1, 1, m / n if scale is None else scale], np.float32)
    weights = {"scales": scales}
    if "scales" in node.attributes:
        inputs = ["x"]
        copy.attribute.append(onnx.helper.make_attribute("scales", scales.tolist()))
    elif node.op_type == "Upsample" or tape.version == 10:
        inputs = ["x", "scales"]
    else:
        weights["none"] = np.zeros(0, np.float32)
        inputs = ["x", "none", "scales"]
        if scale is None:
            weights["sizes"] = np.array([1, 1, n, m], np.int64)
            inputs = ["x", "none", "none", "sizes"]
    del copy.input[:]
    copy.input.extend(inputs)
    copy.output[0] = "y"
    graph = onnx.helper.make_graph(
        [copy],
        "resize",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, n, n])],
        [onnx.ValueInfoProto(name="y")],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    versions = [onnx.helper.make_opsetid("", tape.version)]
    proto = onnx.helper.make_model(graph, opset_imports=versions, ir_version=4)
    running = session.session(session.Structure(proto, {}), optimised=False)
    (found,) = session.run(running, {"x": units[None, None]})
    if found.shape != (1, 1, n, m):
        raise UnsupportedError
    return np.asarray(found[0, 0].T)
