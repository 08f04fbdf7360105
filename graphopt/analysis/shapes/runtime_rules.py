"""Output shapes by onnxruntime's rules, for the operators where those of onnx say something else.

What runs decides. Poolings have rules of their own (`analysis.shapes.windows`). A ConvTranspose may name its
output_shape with or without batch and channels, and its auto_pad=SAME pads by nothing below 0. A Resize
multiplies size and scale in single precision. A PRelu spreads both of its inputs. A Slice that goes backwards
may end at INT_MAX.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphopt.analysis.attributes import FAR, Content, slice_ranges, taken
from graphopt.analysis.operators import WINDOWS
from graphopt.analysis.shapes.windows import PoolShape
from graphopt.types import Shape


def _pool(node: ir.Node, shape: Shape, weight: Shape | None, content: Content) -> Shape | None:
    window = PoolShape.of(node)
    if window is None or len(shape) != 2 + len(window.kernel):
        return None
    sizes = window.outputs(shape[2:])
    return None if any(size is not None and size < 0 for size in sizes) else (*shape[:2], *sizes)


def _conv_transpose(node: ir.Node, shape: Shape, weight: Shape | None, content: Content) -> Shape | None:
    if weight is None or len(weight) != len(shape) or weight[1] is None:
        return None
    axes, ints = len(shape) - 2, node.attributes.get_ints
    channels = weight[1] * node.attributes.get_int("group", 1)
    named = ints("output_shape", ())
    if named:
        return (shape[0], channels, *named[-axes:]) if len(named) >= axes else None
    kernel = ints("kernel_shape", ()) or weight[2:]
    strides, dilations = (ints(key, ()) or (1,) * axes for key in ("strides", "dilations"))
    mode = node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET"
    pads = (ints("pads", ()) if mode == "NOTSET" else ()) or (0,) * 2 * axes
    added = ints("output_padding", ()) or (0,) * axes
    sizes: list[int | None] = []
    for a, size in enumerate(shape[2:]):
        taps = kernel[a]
        if size is None or taps is None:
            sizes.append(None)
        else:
            whole = (size - 1) * strides[a] + dilations[a] * (taps - 1) + 1 + added[a]
            same = mode.startswith("SAME")
            sizes.append(min(whole, size * strides[a]) if same else whole - pads[a] - pads[a + axes])
    return (shape[0], channels, *sizes)


def scaled_size(size: int, scale: float) -> int | None:
    """The size that a Resize by a scale gives an axis; None where that is none, and nothing runs."""
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.float32(size) * np.float32(scale)
    return int(scaled) if 0 <= scaled <= FAR else None


def _resize(node: ir.Node, shape: Shape, weight: Shape | None, content: Content) -> Shape | None:
    rank = len(shape)
    given = node.attributes.get_ints("axes", range(rank))
    axes = [axis % rank for axis in given]
    sizes = content(node.inputs[3]) if len(node.inputs) > 3 else None
    policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    found = list(shape)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        if policy == "stretch" or sizes is None or len(sizes) != len(axes):
            return None  # onnx's rules say the same
        if min(given) < 0 or any(shape[axis] in (None, 0) for axis in axes):
            return (None,) * rank
        factors = [np.float32(n) / np.float32(shape[a]) for a, n in zip(axes, sizes.tolist(), strict=True)]
        scale = min(factors) if policy == "not_larger" else max(factors)
        for axis in axes:
            found[axis] = math.floor(scale * np.float32(shape[axis]) + np.float32(0.5))
        return tuple(found)
    place = 1 if node.op_type == "Upsample" or len(node.inputs) == 2 else 2
    scales = content(node.inputs[place]) if len(node.inputs) > place else None
    if "scales" in node.attributes:
        scales = np.array(node.attributes["scales"].as_floats(), np.float32)
    if scales is None or scales.size != len(axes):
        return None
    for axis, scale in zip(axes, scales.reshape(-1).tolist(), strict=True):
        size = shape[axis]
        found[axis] = None if size is None else scaled_size(size, scale)
    return tuple(found)


def _slice(node: ir.Node, shape: Shape, weight: Shape | None, content: Content) -> Shape | None:
    ranges = slice_ranges(node, content)
    if ranges is None:
        return None
    found = list(shape)
    for axis, entry in ranges.items():
        size = shape[axis]
        found[axis] = None if size is None else len(taken(entry, size))
    return tuple(found)


def _prelu(node: ir.Node, shape: Shape, weight: Shape | None, content: Content) -> Shape | None:
    """Slopes are spread like a factor, and may make a map of one larger."""
    if weight is None:
        return None
    rank = max(len(shape), len(weight))
    pairs = zip((*(1,) * (rank - len(shape)), *shape), (*(1,) * (rank - len(weight)), *weight), strict=True)
    return tuple(x if slope == 1 or (x or 1) > 1 else slope for x, slope in pairs)


RUNTIME_RULES: dict[str, Callable[[ir.Node, Shape, Shape | None, Content], Shape | None]] = {
    **dict.fromkeys(WINDOWS, _pool),
    "ConvTranspose": _conv_transpose,
    "PRelu": _prelu,
    "Resize": _resize,
    "Slice": _slice,
    "Upsample": _resize,
}
"""The shape of the output, from the node, the shapes of its first two inputs, and what is known of the
others; None where onnx's rules may be followed."""
