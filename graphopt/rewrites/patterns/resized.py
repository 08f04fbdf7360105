"""One view of Resize and Upsample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import default_opset
from graphopt.analysis.evaluation import FOLDABLE_OPS
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.kernels import phases
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import attributes_of
from graphopt.rewrites.patterns.pixelwise import pass_cost
from graphopt.types import Cost, Shape

SIZING_OPS = FOLDABLE_OPS | {"Shape", "Size"}
"""The operators by which models compute sizes."""
RESIZE_OPS = frozenset({"Resize", "Upsample"})
MIXING_PASSES = 8
"""Times that a linear or cubic Resize takes longer than a copy of its output; nearest takes as long. Measured
by benchmarks.thresholds: in onnxruntime linear takes 1.5 to 2.3 times as long as nearest, cubic over 100
times, and this stands between; any value from 1 to 64 leaves the same of nine architectures."""


@dataclass(frozen=True, slots=True)
class Resize:
    """A Resize or Upsample that leaves the channels alone.

    Attributes:
        node: the operator.
        x: its input.
        y: its output.
        nearest: whether it picks pixels; else it takes means whose weights sum to 1.
        repeats: how often it repeats each pixel per spatial axis, where it does just that, and no sample;
            None otherwise.
        grows: whether every scale is known and at least 1, so that equal outputs come from equal inputs.
        obstacle: why it may not change places with anything; "" when it may.
        sizing: the operators that compute its sizes or scales. They stay, and are part of the site, so that
            the site can be run alone.
    """

    node: ir.Node
    x: ir.Value
    y: ir.Value
    nearest: bool
    repeats: tuple[int, ...] | None
    grows: bool
    obstacle: str
    sizing: tuple[ir.Node, ...]

    @property
    def passes(self) -> int:
        """How many copies of the output take as long."""
        return 1 if self.nearest else MIXING_PASSES


def resize_of(analysis: Analysis, node: ir.Node | None) -> Resize | None:
    """The view of an operator; None when it is neither Resize nor Upsample of something of known rank."""
    if node is None or node.op_type not in RESIZE_OPS or not is_standard(node):
        return None
    x, y = node.inputs[0], node.outputs[0]
    shape = analysis.shape(x)
    if x is None or shape is None or len(shape) < 3:
        return None
    mode = node.attributes.get_string("mode", "nearest") or "nearest"
    scales = _scales(analysis, node, len(shape))
    obstacle = _obstacle(analysis, node, scales)
    nearest = mode == "nearest"
    spatial = scales[2:]
    return Resize(
        node,
        x,
        y,
        nearest,
        _repeats(analysis, node, scales) if nearest and not obstacle else None,
        all(scale is not None and scale >= 1 for scale in spatial) and _sizes(node) is None,
        obstacle,
        _sizing(analysis, node),
    )


def _sizing(analysis: Analysis, node: ir.Node) -> tuple[ir.Node, ...]:
    found: dict[ir.Node, None] = {}
    pending = [value for value in node.inputs[1:] if value is not None]
    while pending:
        value = pending.pop()
        producer = value.producer()
        if producer is None or producer.graph is not node.graph or analysis.constants.is_constant(value):
            continue
        if producer in found or not is_standard(producer) or producer.op_type not in SIZING_OPS:
            continue
        found[producer] = None
        if producer.op_type not in ("Shape", "Size"):
            pending += [each for each in producer.inputs if each is not None]
    return tuple(found)


def _sizes(node: ir.Node) -> ir.Value | None:
    """The input that gives the output's size, rather than scales."""
    return node.inputs[3] if len(node.inputs) > 3 else None


def _transformation(node: ir.Node, opset: int) -> str:
    default = "half_pixel" if node.op_type == "Resize" and opset >= 11 else "asymmetric"
    return node.attributes.get_string("coordinate_transformation_mode", default) or default


def _scales(analysis: Analysis, node: ir.Node, rank: int) -> tuple[float | None, ...]:
    """The factor of each axis; None where it is not known to hold for every run."""
    axes = [axis % rank for axis in node.attributes.get_ints("axes", range(rank))]
    shape, output = analysis.fixed_shape(node.inputs[0]), analysis.fixed_shape(node.outputs[0])
    if _sizes(node) is not None:
        pairs = zip(shape or (None,) * rank, output or (None,) * rank, strict=True)
        factors = [None if a is None or b is None or a == 0 else b / a for a, b in pairs]
        return tuple(factor if axis in axes else 1.0 for axis, factor in enumerate(factors))
    if "scales" in node.attributes:  # Upsample up to opset 8
        return tuple(node.attributes["scales"].as_floats())
    place = 1 if node.op_type == "Upsample" or len(node.inputs) == 2 else 2
    given = _entries(analysis, node.inputs[place] if len(node.inputs) > place else None)
    named = dict(zip(axes, given, strict=False))
    return tuple(named.get(axis) if axis in axes else 1.0 for axis in range(rank))


def _entries(analysis: Analysis, value: ir.Value | None) -> list[float | None]:
    """The entries of a vector as far as they are constant: those of a Concat up to the first that is not."""
    array = analysis.constant(value)
    if array is not None:
        return [float(entry) for entry in np.asarray(array).reshape(-1)]
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "Concat" or not is_standard(producer):
        return []
    found: list[float | None] = []
    for part in producer.inputs:
        constant = analysis.constant(part)
        if constant is None:
            break
        found += [float(entry) for entry in np.asarray(constant).reshape(-1)]
    return found


def _obstacle(analysis: Analysis, node: ir.Node, scales: tuple[float | None, ...]) -> str:
    if _transformation(node, default_opset(analysis.model)) == "tf_crop_and_resize":
        return "tf_crop_and_resize puts a fixed value outside of its region"
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return "its keep_aspect_ratio_policy lets the sizes depend on each other"
    if scales[1] is None:
        return "it is not known that it leaves the channels alone"
    return "" if scales[1] == 1 else f"it scales the channels by {scales[1]:g}"


def _repeats(analysis: Analysis, node: ir.Node, scales: tuple[float | None, ...]) -> tuple[int, ...] | None:
    batches = [(analysis.fixed_shape(value) or (None,))[0] for value in (node.inputs[0], node.outputs[0])]
    if scales[0] != 1 and batches != [None, None]:
        return None
    opset = default_opset(analysis.model)
    transformation = _transformation(node, opset)
    default = "round_prefer_floor" if node.op_type == "Resize" and opset >= 11 else "floor"
    nearest_mode = node.attributes.get_string("nearest_mode", default) or default
    factors = []
    for scale in scales[2:]:
        if scale is None or scale < 1 or scale != int(scale):
            return None
        if not phases.repeats(int(scale), transformation, nearest_mode):
            return None
        factors.append(int(scale))
    return tuple(factors)


def resized(analysis: Analysis, builder: Builder, resize: Resize, x: str, channels: int) -> str:
    """Adds the same resizing of another value with so many channels.

    Args:
        analysis: the snapshot.
        builder: collects the nodes.
        resize: the resizing.
        x: the value to resize.
        channels: its channels.

    Returns:
        The result's local name.
    """
    node, sizes = resize.node, _sizes(resize.node)
    rank = len(analysis.shape(resize.x) or ())
    axes = [axis % rank for axis in node.attributes.get_ints("axes", range(rank))]
    inputs = [x, *(None if value is None else value.name for value in node.inputs[1:])]
    if sizes is not None and 1 in axes:
        inputs[3] = _with_channels(analysis, builder, sizes, axes.index(1), channels)
    return builder.node(node.op_type, inputs, attributes_of(node), "/resize")


def _with_channels(
    analysis: Analysis, builder: Builder, sizes: ir.Value, place: int, channels: int
) -> str | None:
    """The sizes of a resizing with another number of channels."""
    constant = analysis.constant(sizes)
    if constant is not None:
        changed = np.array(constant).reshape(-1)
        if changed[place] == channels:
            return sizes.name
        changed[place] = channels
        return builder.constant(changed, "sizes")
    place_and_entry = [np.array([place], np.int64), np.array([channels], np.int64)]
    inputs = [sizes.name, *(builder.constant(array, "channels") for array in place_and_entry)]
    return builder.node("ScatterElements", inputs, {}, "/sizes")


def resize_cost(analysis: Analysis, node: ir.Node, itemsize: int) -> Cost:
    """The cost of an operator that computes no products.

    Args:
        analysis: the snapshot.
        node: the operator, a resizing or one on each pixel.
        itemsize: bytes of one number.

    Returns:
        No MACs; bytes and seconds of passing over the output.
    """
    size = elements(analysis.shape(node.outputs[0]))
    resize = resize_of(analysis, node)
    return pass_cost(itemsize, size * (1 if resize is None else resize.passes), size)


def elements(shape: Shape | None) -> int:
    """The elements of a shape, unknown sizes counting 0."""
    return int(np.prod([size or 0 for size in shape])) if shape is not None else 0
