"""Operators with random attributes, near the conditions of rewrites: each function adds some to a draft."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from onnx import TensorProto

from tests.builders import Array, Net
from tests.fuzz.draft import Draft, tensor

Step: TypeAlias = Callable[[Draft, str], str]

UNARY = ("Relu", "Sigmoid", "Tanh", "Abs", "LeakyRelu", "Elu", "HardSigmoid", "Softplus")
UNARY += ("Neg", "Clip", "PRelu")
NEWER = {"Erf": 9, "HardSwish": 14, "Mish": 18, "Gelu": 20}
"""Activations, and from which opset newer ones are there."""
COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric")
COORDINATES += ("tf_half_pixel_for_nn", "tf_crop_and_resize")
FEW_BYTES = 4096
"""Weights that an operator may have: wider ones cost time and show nothing more."""


# ---------------------------------------------------------------- weights


def kernel(g: Draft, out: int, inside: int, taps: Sequence[int]) -> Array:
    """Weights [out, in, *taps] of the kinds that rewrites look for, dense ones most often."""
    w = g.weights(out, inside, *taps)
    kind = g.dice.random()
    if kind < 0.5 or not w.size:
        return w
    if kind < 0.6:  # filters, or inputs, that are zero
        axis = g.between(0, 1)
        w[(slice(None),) * axis + (g.dice.sample(range(w.shape[axis]), g.between(1, w.shape[axis])),)] = 0
    elif kind < 0.7:  # taps that are zero: a side, a ring, every second one, all but one
        axis = g.between(0, len(taps) - 1)
        sides = [0], [-1], [0, -1], list(range(1, taps[axis], 2)), list(range(1, taps[axis]))
        w[(slice(None),) * (2 + axis) + (g.pick(*sides),)] = 0
    elif kind < 0.75:  # equal filters
        w[g.between(0, out - 1)] = w[g.between(0, out - 1)]
    elif kind < 0.82:  # hands on its input, scaled or not
        w[:] = 0
        for o in range(out):
            place = tuple(size // 2 for size in taps) if g.chance(0.8) else tuple(0 for _ in taps)
            w[(o, o % inside, *place)] = g.pick(1.0, 1.0, 1.0, 2.0)
    elif kind < 0.9:  # of low rank: few channels, or an outer product of columns and rows
        if g.chance(0.5):
            rank = g.between(1, max(1, min(out, inside) // 2))
            w = np.einsum("or,ri...->oi...", g.weights(out, rank), g.weights(rank, inside, *taps))
        else:
            for axis in range(len(taps)):
                w *= g.normal(*(taps[axis] if i == axis + 2 else 1 for i in range(w.ndim)))
            w = np.broadcast_to(w.mean(axis=0, keepdims=True), w.shape) * g.normal(out, *(1,) * (w.ndim - 1))
    elif kind < 0.95:  # blocks
        blocks = g.between(2, 4)
        for o in range(out):
            for i in range(inside):
                if o * blocks // out != i * blocks // inside:
                    w[o, i] = 0
    else:
        w[:] = 0
    return np.array(w)


def pads(g: Draft, taps: Sequence[int], dilations: Sequence[int]) -> dict[str, Any]:
    """Pads of every kind, as attributes."""
    extents = [d * (k - 1) + 1 for k, d in zip(taps, dilations, strict=True)]
    kind = g.dice.random()
    if kind < 0.25:
        return {}
    if kind < 0.55:
        return {"pads": [e // 2 for e in extents] + [(e - 1) // 2 for e in extents]}
    if kind < 0.75:
        return {"pads": [g.between(0, e) for e in (*extents, *extents)]}
    if kind < 0.8:
        return {"pads": [e - 1 for e in (*extents, *extents)]}
    if kind < 0.95:
        return {"auto_pad": g.pick("SAME_UPPER", "SAME_LOWER")}
    return {"auto_pad": g.pick("VALID", "NOTSET")}


def window(g: Draft, axes: int, largest: int = 4) -> list[int]:
    """Sizes of a window, mostly square."""
    square = [g.between(1, largest)] * axes
    return square if g.chance(0.7) else [g.between(1, largest) for _ in range(axes)]


def strides(g: Draft, axes: int, part: float = 0.3) -> list[int]:
    """Strides, mostly 1."""
    if not g.chance(part):
        return [1] * axes
    return [g.between(1, 3) for _ in range(axes)] if g.chance(0.3) else [2] * axes


def divisor(g: Draft, *numbers: int) -> int:
    """A common divisor, 1 most often."""
    most = math.gcd(*numbers)
    return g.pick(1, 1, 1, *(n for n in range(1, most + 1) if most % n == 0))


# ---------------------------------------------------------------- linear operators


def conv(g: Draft, x: str, out: int | None = None, taps: Sequence[int] | None = None, **attrs: Any) -> str:
    """A Conv; what is not given is drawn."""
    axes = len(g.spatial(x))
    inside = g.shape(x)[1]
    out = out or g.pick(2, 3, 4, 4, 6, 8, inside)
    taps = taps or window(g, axes)
    group = attrs.pop("group", None) or divisor(g, inside, out)
    g.need(out * inside * math.prod(taps) // group <= FEW_BYTES and inside % group == 0 and out % group == 0)
    dilations = attrs.setdefault("dilations", [g.pick(1, 1, 1, 1, 2, 3)] * axes)
    attrs.setdefault("strides", strides(g, axes))
    if not {"pads", "auto_pad"} & attrs.keys():
        attrs.update(pads(g, taps, dilations))
    weight = attrs.pop("weight", None)
    if weight is None:
        weight = g.held(kernel(g, out, inside // group, taps))
    bias = attrs.pop("bias", None)
    if bias is None and g.chance(0.6):
        bias = g.held(g.normal(out) * g.pick(0.0, 1.0, 1.0, 1.0))
    if g.chance(0.3):
        attrs = _less(attrs)
    return g.op("Conv", x, weight, *([bias] if bias else []), group=group, **attrs)


def _less(attrs: dict[str, Any]) -> dict[str, Any]:
    """Attributes without those that are at their defaults."""
    return {k: v for k, v in attrs.items() if k not in ("strides", "dilations") or set(v) != {1}}


def same(g: Draft, x: str, out: int | None = None, size: int = 3, **attrs: Any) -> str:
    """A Conv that keeps the size of the map: pads of half an odd kernel, stride 1."""
    axes = len(g.spatial(x))
    given = {"strides": [1] * axes, "dilations": [1] * axes, "pads": [size // 2] * (2 * axes), "group": 1}
    return conv(g, x, out, [size] * axes, **{**given, **attrs})


def pointwise(g: Draft, x: str, out: int | None = None, **attrs: Any) -> str:
    """A 1x1 Conv without padding."""
    axes = len(g.spatial(x))
    given = {"strides": [1] * axes, "dilations": [1] * axes, "pads": [0] * 2 * axes}
    return conv(g, x, out, [1] * axes, **{**given, **attrs})


def transposed(
    g: Draft, x: str, out: int | None = None, taps: Sequence[int] | None = None, **attrs: Any
) -> str:
    """A ConvTranspose."""
    axes = len(g.spatial(x))
    inside = g.shape(x)[1]
    out = out or g.pick(2, 3, 4, inside)
    taps = taps or window(g, axes)
    group = attrs.pop("group", None) or divisor(g, inside, out)
    g.need(out * inside * math.prod(taps) // group <= FEW_BYTES)
    steps = attrs.setdefault("strides", g.pick([1] * axes, [2] * axes, strides(g, axes, 1.0)))
    dilations = attrs.setdefault("dilations", [g.pick(1, 1, 1, 2)] * axes)
    if g.chance(0.2) and max(steps) > 1:
        attrs["output_padding"] = [g.between(0, s - 1) for s in steps]
    if not {"pads", "auto_pad"} & attrs.keys():
        if g.chance(0.1):
            sizes = g.spatial(x)
            attrs["output_shape"] = [n * s + g.between(-1, 1) for n, s in zip(sizes, steps, strict=True)]
        else:
            attrs.update(pads(g, taps, dilations))
    inputs = [x, g.held(kernel(g, inside, out // group, taps))]
    if g.chance(0.6):
        inputs.append(g.held(g.normal(out)))
    return g.op("ConvTranspose", *inputs, group=group, **attrs)


def gemm(g: Draft, x: str, out: int | None = None) -> str:
    """A Gemm, alpha and beta sometimes not 1."""
    g.need(g.rank(x) == 2 and g.shape(x)[1] <= FEW_BYTES // 4)
    out = out or g.pick(2, 3, 5)
    weight, trans = kernel(g, out, g.shape(x)[1], [1])[..., 0], g.between(0, 1)
    inputs = [x, g.held(weight if trans else np.ascontiguousarray(weight.T))]
    if g.opset < 11 or g.chance(0.7):
        inputs.append(g.held(g.normal(*g.pick((out,), (1, out), (1,), ()))))
    attrs = {"alpha": 0.5, "beta": 2.0} if g.chance(0.15) else {}
    return g.op("Gemm", *inputs, transB=trans, **attrs)


def matmul(g: Draft, x: str, out: int | None = None) -> str:
    """A MatMul by a constant over the last axis, and mostly the Add of its bias."""
    g.need(g.rank(x) >= 2)
    inside, out = g.shape(x)[-1], out or g.pick(2, 3, 4, 6)
    g.need(inside * out <= FEW_BYTES)
    y = g.op("MatMul", x, g.held(np.ascontiguousarray(kernel(g, out, inside, [1])[..., 0].T)))
    return g.op("Add", *_either(g, y, g.held(g.normal(out)))) if g.chance(0.6) else y


def flattened(g: Draft, x: str) -> str:
    """A map in two axes, by any of the operators for it."""
    g.need(g.rank(x) > 2 and math.prod(g.shape(x)[1:]) <= 256)
    kind = g.dice.random()
    if kind < 0.4:
        return g.op("Flatten", x, axis=1)
    if kind < 0.7:
        return g.op("Reshape", x, g.const(np.array(g.pick([0, -1], [-1, math.prod(g.shape(x)[1:])]))))
    batch = g.op("Gather", g.op("Shape", x), g.const(np.array([0])), axis=0)
    return g.op("Reshape", x, g.op("Concat", batch, g.const(np.array([-1])), axis=0))


# ---------------------------------------------------------------- affine operators and activations


def _either(g: Draft, x: str, c: str) -> tuple[str, str]:
    return (x, c) if g.chance(0.7) else (c, x)


def affine(g: Draft, x: str, kind: str | None = None) -> str:
    """BatchNormalization, or arithmetic with a constant of any broadcast."""
    kind = kind or g.pick("BatchNormalization", "Mul", "Add", "Sub", "Div", "Neg", "Mul", "Add")
    g.need(g.rank(x) >= 2)
    channels, axes = g.shape(x)[1], g.rank(x) - 2
    if kind == "Neg":
        return g.op("Neg", x)
    if kind == "BatchNormalization":
        return normalised(g, x)
    shapes: list[tuple[int, ...]] = [(1, channels, *(1,) * axes)] * 4 + [(channels, *(1,) * axes)] * 3
    shapes += [(), (1,), (1,) * (axes + 2), g.shape(x)[1:], (1, 1, *g.shape(x)[2:]), g.shape(x)[2:]]
    shapes += [(channels,)]
    shapes += [g.shape(x), (1, 1, channels, *(1,) * axes), (g.shape(x)[0], *(1,) * (axes + 1))]
    shape = g.pick(*shapes)
    c = g.dice.choice((1.0, 1.0, -1.0, 0.5)) * (0.5 + np.abs(g.normal(*shape)))
    kept = g.dice.random()
    if kept < 0.2:
        c = g.normal(*shape) + 0.0
    elif kept < 0.25 and kind != "Div":
        c = np.where(g.random.random(shape) < 0.5, 0.0, c)
    elif kept < 0.32:
        c = np.full(shape, 0.0 if kind in ("Add", "Sub") else 1.0)
    constant = g.held(np.asarray(c) + (0.0 if kind != "Div" else np.sign(c) * 0.2 + 1e-3))
    first, second = _either(g, x, constant)
    g.need(kind != "Div" or second == constant or g.chance(0.3))
    return g.op(kind, first, second)


def normalised(g: Draft, x: str) -> str:
    """A BatchNormalization, in the forms of its opsets; some γ are 0."""
    channels = g.shape(x)[1]
    scale = g.random.uniform(0.5, 1.5, channels) * g.dice.choice((1.0, 1.0, -1.0))
    if g.chance(0.2):
        scale[g.dice.sample(range(channels), g.between(1, channels))] = 0
    attrs: dict[str, Any] = {"epsilon": 1e-3} if g.chance(0.3) else {}
    if g.opset >= 14 and g.chance(0.05):
        attrs["training_mode"] = 1
    if g.opset < 9 and g.chance(0.3):
        attrs["spatial"] = 1
    arrays = scale, g.normal(channels), g.normal(channels) * 0.3, g.random.uniform(0.5, 1.5, channels)
    outputs = 3 if attrs.get("training_mode") else 1
    return g.op("BatchNormalization", x, *(g.held(a) for a in arrays), outputs=outputs, **attrs)


def activation(g: Draft, x: str, kind: str | None = None) -> str:
    """An operator on each element by itself."""
    newer = [name for name, opset in NEWER.items() if g.opset >= opset]
    kind = kind or g.pick(*UNARY, "Relu", "Relu", "Relu", *newer)
    channels, axes = g.shape(x)[1] if g.rank(x) > 1 else 1, max(0, g.rank(x) - 2)
    if kind == "PRelu":
        ones = (1,) * axes
        shape = g.pick((channels, *ones), (1,), (1, channels, *ones), (1, *ones))
        return g.op("PRelu", x, g.held(g.normal(*shape)))
    if kind == "LeakyRelu":
        return g.op(kind, x, alpha=g.pick(0.1, 0.01, -0.5, 0.0, 1.0))
    if kind == "Clip":
        low, high = g.pick((0.0, 6.0), (-1.0, 1.0), (0.5, 2.0))
        if g.opset < 11:
            return g.op(kind, x, min=low, max=high)
        return g.op(kind, x, *(g.held(np.array(bound)) for bound in (low, high)[: g.between(1, 2)]))
    return g.op(kind, x)


# ---------------------------------------------------------------- poolings


def pool(g: Draft, x: str, kind: str | None = None) -> str:
    """A pooling or reduction over positions."""
    axes = len(g.spatial(x))
    kinds = "MaxPool", "AveragePool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"
    kind = kind or g.pick(*kinds, "ReduceMean", "ReduceSum", "ReduceMax", "LpPool")
    if kind.startswith("Global"):
        return g.op(kind, x)
    if kind.startswith("Reduce"):
        return reduced(g, x, kind, list(range(2, axes + 2)) if g.chance(0.7) else [g.between(0, axes + 1)])
    taps = window(g, axes, 3)
    attrs: dict[str, Any] = {"kernel_shape": taps, "strides": g.pick([1] * axes, [2] * axes, list(taps))}
    attrs.update(pads(g, taps, [1] * axes) if g.chance(0.5) else {})
    if "pads" in attrs:
        attrs["pads"] = [min(p, k - 1) for p, k in zip(attrs["pads"], taps * 2, strict=True)]
    if g.opset >= 10 and kind != "LpPool" and g.chance(0.25):
        attrs["ceil_mode"] = 1
    if kind == "AveragePool" and g.chance(0.4):
        attrs["count_include_pad"] = 1
    if g.chance(0.1) and ((kind == "MaxPool" and g.opset >= 10) or g.opset >= 19):
        attrs["dilations"] = [2] * axes
    return g.op(kind, x, **attrs)


def reduced(g: Draft, x: str, kind: str, axes: list[int], keepdims: int | None = None) -> str:
    """A reduction in the form of the opset."""
    keepdims = g.pick(1, 1, 0) if keepdims is None else keepdims
    if g.chance(0.2):
        axes = [axis - g.rank(x) for axis in axes]
    if g.opset >= (13 if kind == "ReduceSum" else 18):
        return g.op(kind, x, g.held(np.array(axes)), keepdims=keepdims)
    return g.op(kind, x, axes=axes, keepdims=keepdims)


# ---------------------------------------------------------------- resizing


def resize(g: Draft, x: str, factor: float | None = None, mode: str | None = None) -> str:
    """A Resize or Upsample in any of its modes."""
    axes = len(g.spatial(x))
    factor = factor or g.pick(2.0, 2.0, 3.0, 0.5, 1.0, 1.5, 0.75, 4.0)
    factors = [factor] * axes if g.chance(0.8) else [g.pick(1.0, 2.0, factor) for _ in range(axes)]
    mode = mode or g.pick("nearest", "nearest", "linear", "cubic")
    if g.opset < 11:
        g.need(mode != "cubic")
        return g.resize(x, factors, mode=mode)
    attrs: dict[str, Any] = {"mode": mode}
    if g.chance(0.75):
        attrs["coordinate_transformation_mode"] = g.pick(*COORDINATES[:4], *COORDINATES)
    if mode == "nearest" and g.chance(0.75):
        attrs["nearest_mode"] = g.pick("floor", "floor", "round_prefer_floor", "round_prefer_ceil", "ceil")
    if mode == "cubic" and g.chance(0.3):
        attrs["cubic_coeff_a"] = -0.5
    if mode == "cubic" and g.chance(0.3):
        attrs["exclude_outside"] = 1
    if g.opset >= 18 and mode != "nearest" and g.chance(0.2):
        attrs["antialias"] = 1
    if attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        g.need(axes == 2 and g.opset < 18)
        return g.resize(x, factors, **attrs)
    sizes = [max(1, int(f * n)) for f, n in zip(factors, g.spatial(x), strict=True)]
    if g.chance(0.3):
        if g.opset >= 18 and g.chance(0.3):
            attrs["keep_aspect_ratio_policy"] = g.pick("stretch", "not_larger", "not_smaller")
        if g.chance(0.5):
            return g.op("Resize", x, "", "", g.held(np.array([*g.shape(x)[:2], *sizes])), **attrs)
        head = sliced(g, g.op("Shape", x), [0], [2], [0])
        return g.op("Resize", x, "", "", g.op("Concat", head, g.const(np.array(sizes)), axis=0), **attrs)
    if g.opset >= 18 and g.chance(0.2):
        return g.op("Resize", x, "", g.scales(*factors), axes=list(range(2, axes + 2)), **attrs)
    return g.resize(x, factors, **attrs)


def resized_like(g: Draft, x: str, other: str) -> str:
    """A map resized to the size of another, by shape arithmetic."""
    g.need(g.opset >= 11 and g.rank(x) == g.rank(other))
    head, tail = sliced(g, g.op("Shape", x), [0], [2], [0]), sliced(g, g.op("Shape", other), [2], [9], [0])
    attrs = {"coordinate_transformation_mode": g.pick("asymmetric", "half_pixel")}
    attrs |= g.pick({"mode": "linear"}, {"mode": "nearest", "nearest_mode": "floor"})
    return g.op("Resize", x, "", "", g.op("Concat", head, tail, axis=0), **attrs)


# ---------------------------------------------------------------- what moves elements


def padded(g: Draft, x: str) -> str:
    """A Pad of any mode, mostly of zeros around the spatial axes, sometimes negative or on channels."""
    axes = len(g.spatial(x))
    amounts = [g.between(0, 2) for _ in range(2 * axes)] if g.chance(0.6) else [1] * (2 * axes)
    if g.chance(0.15):
        amounts[g.between(0, 2 * axes - 1)] = -1
    channel = g.between(0, 1) if g.chance(0.1) else 0
    every = [0, channel, *amounts[:axes], 0, 0, *amounts[axes:]]
    mode = g.pick("constant", "constant", "constant", "reflect", "edge", *(["wrap"] if g.opset >= 19 else []))
    value = g.pick(None, None, 0.0, 0.0, 1.5) if mode == "constant" else None
    attrs = {} if mode == "constant" and g.chance(0.5) else {"mode": mode}
    return g.pad(x, every, value, **attrs)


def sliced(
    g: Draft, x: str, starts: list[int], ends: list[int], axes: list[int], steps: list[int] | None = None
) -> str:
    """A Slice in the form of the opset."""
    if g.opset < 10:
        g.need(steps is None)
        return g.op("Slice", x, starts=starts, ends=ends, axes=axes)
    parts = [np.array(part) for part in (starts, ends, axes, *([] if steps is None else [steps]))]
    return g.op("Slice", x, *(g.const(part) for part in parts))


def cropped(g: Draft, x: str) -> str:
    """A Slice of positions: strided, cropping, backwards, or of everything."""
    axes = g.dice.sample(range(2, g.rank(x)), g.between(1, len(g.spatial(x))))
    kind = g.dice.random()
    if kind < 0.4 and g.opset >= 10:
        step = g.pick(2, 2, 3)
        return sliced(g, x, [g.between(0, 1) for _ in axes], [1 << 31] * len(axes), axes, [step] * len(axes))
    if kind < 0.45 and g.opset >= 10:
        return sliced(g, x, [-1] * len(axes), [-(1 << 31)] * len(axes), axes, [-1] * len(axes))
    ends = [g.pick(-1, -2, 1 << 31, 3, 1) for _ in axes]
    return sliced(g, x, [g.between(0, 2) for _ in axes], ends, axes)


def channels(g: Draft, x: str) -> str:
    """Some of the channels: by Slice, Gather or Split."""
    g.need(g.rank(x) > 1)
    count = g.shape(x)[1]
    g.need(count >= 2)
    kind = g.dice.random()
    if kind < 0.4:
        start = g.between(0, count - 1)
        return sliced(g, x, [start], [g.between(start + 1, count)], [1])
    if kind < 0.7:
        chosen = g.dice.sample(range(count), g.between(1, count))
        return g.op("Gather", x, g.held(np.array(chosen)), axis=g.pick(1, 1 - g.rank(x)))
    first = g.between(1, count - 1)
    return g.pick(*g.split(x, first, count - first))


def moved(g: Draft, x: str) -> str:
    """An operator that only moves elements."""
    rank = g.rank(x)
    kind = g.dice.random()
    if kind < 0.3:
        perm = g.pick([0, *range(2, rank), 1], g.dice.sample(range(rank), rank))
        return g.op("Transpose", x, perm=perm)
    if kind < 0.45 and rank == 4:
        if g.chance(0.5):
            return g.op("SpaceToDepth", x, blocksize=2)
        mode = {"mode": g.pick("DCR", "CRD")} if g.opset >= 11 else {}
        g.need(g.shape(x)[1] % 4 == 0)
        return g.op("DepthToSpace", x, blocksize=2, **mode)
    if kind < 0.6:
        return g.op("Reshape", x, g.const(np.array(g.pick([0, 0, -1], [0, -1], [-1, *g.shape(x)[1:]]))))
    if kind < 0.7:
        return g.op("Flatten", x, axis=g.between(0, rank))
    if kind < 0.8:
        axes = [g.between(0, rank)]
        if g.opset >= 13:
            return g.op("Unsqueeze", x, g.const(np.array(axes)))
        return g.op("Unsqueeze", x, axes=axes)
    if kind < 0.9:
        return shuffled(g, x)
    return g.op("Expand", x, g.const(np.array([1] * rank))) if g.opset >= 8 else g.op("Identity", x)


def shuffled(g: Draft, x: str) -> str:
    """A channel shuffle."""
    count, sizes = g.shape(x)[1], list(g.spatial(x))
    groups = divisor(g, count)
    g.need(groups > 1)
    if g.chance(0.25):  # with the channels last
        last = [0, *range(2, 2 + len(sizes)), 1]
        y = g.op("Transpose", x, perm=last)
        y = g.op("Reshape", y, g.const(np.array([0, *sizes, groups, count // groups])))
        axes = list(range(len(sizes) + 3))
        y = g.op("Transpose", y, perm=[*axes[:-2], axes[-1], axes[-2]])
        y = g.op("Reshape", y, g.const(np.array([0, *sizes, count])))
        return g.op("Transpose", y, perm=[last.index(axis) for axis in range(len(last))])
    inner = g.pick([*sizes], [-1]) if len(sizes) > 1 else sizes
    y = g.op("Reshape", x, g.const(np.array([g.pick(0, g.shape(x)[0]), groups, count // groups, *inner])))
    y = g.op("Transpose", y, perm=[0, 2, 1, *range(3, 3 + len(inner))])
    return g.op("Reshape", y, g.const(np.array([g.pick(0, g.shape(x)[0]), count, *sizes])))


def idle(g: Draft, x: str) -> str:
    """An operator that does nothing, or nearly so."""
    rank = g.rank(x)
    kinds: list[Callable[[], str]] = [
        lambda: g.op("Identity", x),
        lambda: g.op("Dropout", x, **({} if g.opset >= 12 else {"ratio": 0.5})),
        lambda: g.op("Cast", x, to=g.pick(TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)),
        lambda: g.op("Transpose", x, perm=list(range(rank))),
        lambda: g.op("Reshape", x, g.op("Shape", x)),
        lambda: g.op("Reshape", x, g.const(np.array([0] * rank))),
        lambda: g.op("Mul", x, g.held(np.ones(g.pick((), (1,), (1,) * rank, (1,) * (rank + 1), g.shape(x))))),
        lambda: g.op("Add", x, g.held(np.zeros(g.pick((), (1,), (1,) * rank, g.shape(x)[1:])))),
        lambda: g.pad(x, [0] * (2 * rank)),
        lambda: sliced(g, x, [0], [1 << 31], [g.between(0, rank - 1)]),
        lambda: g.op("Concat", x, axis=1),
        lambda: g.op("Sum", x),
        lambda: g.op("Relu", g.op("Relu", x)),
        lambda: g.op("Concat", *g.split(x, 1, g.shape(x)[1] - 1), axis=1),
        lambda: g.op("AveragePool", x, kernel_shape=[1] * max(rank - 2, 1)),
        lambda: reduced(g, x, "ReduceMean", [g.between(0, rank - 1)], 1),
        lambda: g.op("Tile", x, g.const(np.array([1] * rank))),
        lambda: g.op("Expand", x, g.op("Shape", x)),
        lambda: g.op("Pow", x, g.held(np.ones(g.pick((), (1,))))),
        lambda: resize(g, x, 1.0),
    ]
    y = g.dice.choice(kinds)()
    if g.arrays[y].dtype != g.dtype:
        y = g.op("Cast", y, to=helper_type(g))
    return y


def helper_type(g: Draft) -> int:
    """The model's float type as the format numbers it."""
    return int(tensor(np.zeros(1, g.dtype)).data_type)


# ---------------------------------------------------------------- several values, and bodies


def joined(g: Draft, x: str, other: str) -> str:
    """A sum, product or Concat of two values."""
    kind = g.pick("Add", "Add", "Sub", "Mul", "Sum", "Concat", "Concat", "Max")
    if kind == "Concat":
        return g.op(kind, *g.pick((x, other), (other, x), (x, other, x)), axis=1)
    return g.op(kind, x, other)


def opaque(g: Draft, x: str) -> str:
    """An operator that mixes what rewrites keep apart; of one axis one that does not."""
    if g.rank(x) < 2:
        return g.op("Relu", x)
    kind = g.pick("Softmax", "ReduceMax", *(("InstanceNormalization", "LRN") if g.rank(x) > 2 else ()))
    if kind == "Softmax":
        return g.op(kind, x, axis=g.between(1, g.rank(x) - 1))
    if kind == "InstanceNormalization":
        count = g.shape(x)[1]
        return g.op(kind, x, g.held(g.random.uniform(0.5, 1.5, count)), g.held(g.normal(count)))
    if kind == "LRN":
        return g.op(kind, x, size=3)
    return reduced(g, x, kind, [1], 1)


def branched(g: Draft, x: str, step: Step) -> str:
    """An If whose branches hold operators on a value from outside."""
    g.need(not g.nested and g.ir_version >= 4)
    bodies, results = [], []
    for number in (g.between(1, 8), g.between(11, 18)):
        inner = g.inside(number)
        y = x
        for each in (step, g.pick(conv, activation, affine)):
            with inner.attempt():
                y = each(inner, y)
        if y == x:
            y = inner.op("Identity", x)
        bodies.append(inner.body("body", y))
        results.append(inner.arrays[y])
    g.need(results[0].shape == results[1].shape and results[0].dtype == results[1].dtype)
    if "flag" not in g.arrays:
        g.input([], "flag", TensorProto.BOOL)
        g.arrays["flag"] = np.array(True)
    y = Net.op(g, "If", "flag", then_branch=bodies[0], else_branch=bodies[1])  # not run: it captures
    g._know(y, results[0])
    return y
