"""What each rewrite looks for, and what lies just outside of its conditions: one function a rewrite."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.fuzz.draft import Draft
from tests.fuzz.operators import (
    Step,
    activation,
    affine,
    channels,
    conv,
    cropped,
    divisor,
    flattened,
    gemm,
    idle,
    joined,
    kernel,
    matmul,
    moved,
    normalised,
    padded,
    pads,
    pointwise,
    pool,
    resize,
    resized_like,
    same,
    shuffled,
    strides,
    transposed,
    window,
)


def some(g: Draft, x: str, *steps: Step, most: int = 2) -> str:
    """Up to so many of the steps, drawn each for itself."""
    for _ in range(g.between(0, most)):
        x = g.pick(*steps)(g, x)
    return x


def linear(g: Draft, x: str) -> str:
    """A linear operator that the value's rank allows."""
    if g.rank(x) == 2:
        return g.pick(gemm, matmul)(g, x)
    return g.pick(conv, conv, same, pointwise, transposed)(g, x)


def alike(g: Draft, taps: Sequence[int]) -> dict[str, Any]:
    """Attributes that several convolutions share."""
    ones = [1] * len(taps)
    return {"dilations": ones, "strides": strides(g, len(taps)), "group": 1, **pads(g, taps, ones)}


# ---------------------------------------------------------------- folding


def fold_pad(g: Draft, x: str) -> str:
    y = some(g, padded(g, x), idle, activation, most=1)
    z = g.pick(conv, conv, pool, transposed)(g, y)
    return joined(g, z, g.pick(conv, pool)(g, y)) if g.chance(0.2) else z


def fold_affine(g: Draft, x: str) -> str:
    y = some(g, linear(g, x), affine, affine, activation, pool, idle, most=3)
    y = affine(g, y)
    return joined(g, y, x) if g.chance(0.1) else y


def fold_affine_before(g: Draft, x: str) -> str:
    y = some(g, affine(g, x), affine, affine, activation, pool, idle, most=2)
    if g.chance(0.2):
        y = g.op("Concat", y, x, axis=1)
    if g.rank(y) > 2 and g.chance(0.2):
        return gemm(g, flattened(g, y))
    z = linear(g, y)
    return joined(g, z, linear(g, y)) if g.chance(0.3) else z


def constant_folding(g: Draft, x: str) -> str:
    """A convolution whose weights, or bias, the model computes of constants."""
    axes, inside, out = len(g.spatial(x)), g.shape(x)[1], g.pick(2, 4, 6)
    taps = window(g, axes)
    shape = (out, inside, *taps)
    kind = g.pick("normalised", "scaled", "split", "turned", "spectral")
    if kind == "normalised":
        flat = g.op("LpNormalization", g.held(g.normal(out, math.prod(shape[1:]))), axis=1, p=g.pick(1, 2))
        w = g.op("Reshape", flat, g.const(np.array(shape, np.int64)))
    elif kind == "scaled":
        w = g.op(
            g.pick("Mul", "Div"),
            g.held(g.normal(*shape)),
            g.held(1 + np.abs(g.normal(out, *[1] * (axes + 1)))),
        )
    elif kind == "split":
        w = g.op("Split", g.held(g.normal(2 * out, *shape[1:])), outputs=2, axis=0)
    elif kind == "turned":
        w = g.op("Transpose", g.held(g.normal(inside, out, *taps)), perm=[1, 0, *range(2, axes + 2)])
    else:
        largest = g.op("MatMul", g.held(g.normal(out)), g.held(g.normal(out)))
        w = g.op("Div", g.held(g.normal(*shape)), largest)
    attrs = {"bias": g.op("Neg", g.held(g.normal(out)))} if g.chance(0.3) else {}
    y = conv(g, x, out, taps, weight=w, group=1, **attrs)
    return some(g, y, affine, activation, most=2)


def fold_sizes(g: Draft, x: str) -> str:
    """A view, or a map of another size, by sizes that the model computes."""
    y = some(g, x, conv, pool, activation, most=2)
    shape, axes = g.shape(y), list(range(g.rank(y)))
    whole = g.op("Shape", g.pick(x, y, y))

    def size(axis: int) -> str:
        place = g.const(np.array([axis], np.int64))
        if g.chance(0.5):
            return g.op("Gather", whole, place, axis=0)
        alone = g.op("Gather", whole, g.const(np.array(axis, np.int64)), axis=0)
        return g.op("Reshape", alone, g.const(np.array([1], np.int64)))

    if len(axes) == 4 and g.chance(0.4):
        factor = g.pick(1, 2)
        spatial = [g.op("Mul", size(axis), g.const(np.array([factor], np.int64))) for axis in (2, 3)]
        count = g.pick(size(0), g.const(np.array(shape[:1], np.int64)))
        sizes = g.op("Concat", count, g.const(np.array(shape[1:2], np.int64)), *spatial, axis=0)
        return g.op("Resize", y, "", "", sizes, mode="nearest")
    kept = g.between(0, len(axes) - 1)
    given = [g.const(np.array([n], np.int64)) for n in shape[:kept]]
    parts = [size(axis) if g.chance(0.6) else given[axis] for axis in axes[:kept]]
    rest = [size(axis) for axis in axes[kept:]]
    last = rest[0]
    for each in rest[1:]:
        last = g.op("Mul", last, each)
    last = g.pick(last, g.const(np.array([-1], np.int64)))
    y = g.op("Reshape", y, g.op("Concat", *parts, last, axis=0))
    return g.op("Reshape", y, g.op("Shape", x)) if g.chance(0.2) else y


def fold_constant(g: Draft, x: str) -> str:
    shape = (g.pick(1, 1, g.shape(x)[0]), *g.shape(x)[1:])
    y = some(g, g.held(g.normal(*shape)), affine, activation, idle)
    return joined(g, linear(g, x), linear(g, y)) if g.chance(0.3) else joined(g, x, same(g, y, g.shape(x)[1]))


# ---------------------------------------------------------------- collapsing


def collapse(g: Draft, x: str) -> str:
    y = pointwise(g, x, g.pick(8, 12, 16)) if g.chance(0.6) else linear(g, x)
    y = some(g, y, idle, affine, most=1)
    y = g.pick(conv, same, pointwise, transposed)(g, y, g.pick(2, 3))
    return g.pick(conv, pointwise, affine)(g, y) if g.chance(0.4) else y


def collapse_concat(g: Draft, x: str) -> str:
    size = g.pick(1, 1, 3)
    parts = [same(g, x, g.pick(4, 8), size)]
    for _ in range(g.between(1, 2)):
        kind = g.dice.random()
        if kind < 0.5:
            parts.append(same(g, x, g.pick(2, 8), g.pick(1, size, 3)))
        elif kind < 0.7:
            parts.append(x)
        elif kind < 0.85:
            parts.append(activation(g, x))
        else:
            parts.append(g.held(g.normal(g.pick(1, g.shape(x)[0]), 2, *g.spatial(x))))
    y = g.op("Concat", *g.dice.sample(parts, len(parts)), axis=1)
    return g.pick(conv, pointwise, same)(g, some(g, y, idle, most=1), g.pick(2, 3))


def collapse_fanout(g: Draft, x: str) -> str:
    y = g.pick(pointwise, pointwise, same)(g, x, g.pick(8, 12))
    count = g.shape(y)[1]
    parts = [y, y]
    if g.chance(0.6):
        first = g.between(1, count - 1)
        parts = g.split(y, first, count - first)
    read = [g.pick(pointwise, same)(g, part, g.pick(2, 3)) for part in parts]
    return joined(g, read[0], read[1])


def collapse_layout(g: Draft, x: str) -> str:
    y = g.pick(pointwise, same, transposed)(g, x, 8) if g.rank(x) > 2 else gemm(g, x)
    kind = g.dice.random()
    if kind < 0.3 and g.rank(y) > 2:
        return gemm(g, flattened(g, y))
    if kind < 0.6 and g.rank(y) > 2:
        z = g.op("Transpose", y, perm=[0, *range(2, g.rank(y)), 1])
        if g.chance(0.3):
            z = g.op("Reshape", z, g.const(np.array([g.shape(z)[0], -1, g.shape(z)[-1]])))
        return matmul(g, z, 3)
    if kind < 0.7 and g.rank(y) == 2:
        g.need(g.shape(y)[1] % 4 == 0)
        z = g.op("Reshape", y, g.const(np.array([-1, g.shape(y)[1] // 4, 2, 2])))
        return conv(g, z, 2)
    z = moved(g, y)
    return g.pick(pointwise, conv)(g, z, 3)


# ---------------------------------------------------------------- factors without loss


def lossless(g: Draft, x: str) -> str:
    """Weights of low rank in channels, along axes, or in kernels a channel; groups too."""
    axes, inside, out = len(g.spatial(x)), g.shape(x)[1], g.pick(4, 6, 8)
    taps, group = window(g, axes), divisor(g, inside, out)
    shape = (out, inside // group, *taps)
    w = np.zeros(shape)
    for _ in range(g.between(1, 2)):
        term = np.ones(shape)
        cut = g.between(1, (1 << len(shape)) - 2)
        for side in (0, 1):
            term = term * g.normal(*(n if cut >> i & 1 == side else 1 for i, n in enumerate(shape)))
        w += term
    g.need(w.size <= 4096)
    options = {"weight": g.held(w / math.sqrt(w[0].size)), "group": group}
    return some(g, conv(g, x, out, taps, **options), activation, affine, most=1)


# ---------------------------------------------------------------- merging


def merge_branches(g: Draft, x: str) -> str:
    steps, out = strides(g, len(g.spatial(x))), g.pick(g.shape(x)[1], 4)
    terms = []
    for _ in range(g.between(2, 4)):
        kind = g.dice.random()
        if kind < 0.45:
            group = divisor(g, g.shape(x)[1], out)
            terms.append(same(g, x, out, g.pick(1, 3, 3, 5), strides=steps, group=group))
        elif kind < 0.65:
            terms.append(two_in_a_row(g, x, out, steps))
        elif kind < 0.75:
            terms.append(conv(g, x, out, strides=steps))
        elif kind < 0.9:
            terms.append(g.pick(affine, normalised)(g, x))
        else:
            terms.append(x)
    y = terms[0]
    for term in terms[1:]:
        y = g.op(g.pick("Add", "Add", "Sub", "Sum"), *g.pick((y, term), (term, y)))
    return y


def two_in_a_row(g: Draft, x: str, out: int, steps: Sequence[int]) -> str:
    """A branch of a sum that two operators make: a 1x1, and a convolution or an average, in either order."""
    axes = len(g.spatial(x))
    taps = [3] * axes
    counts = {"count_include_pad": 1} if g.chance(0.7) else {}

    def average(g: Draft, y: str) -> str:
        return g.op("AveragePool", y, kernel_shape=taps, strides=steps, pads=[1] * 2 * axes, **counts)

    middle = g.pick(2, out)
    if g.chance(0.5):
        y = pointwise(g, x, middle)
        y = idle(g, y) if g.chance(0.2) else y
        if middle == out and g.chance(0.5):
            return average(g, y)
        return same(g, y, out, 3, strides=steps, group=divisor(g, middle, out))
    y = average(g, x) if g.chance(0.4) else same(g, x, middle, 3, strides=steps)
    return pointwise(g, y, out)


def sum_first(g: Draft, x: str) -> str:
    other = some(g, activation(g, x), affine, pool, most=1)
    taps, out = window(g, len(g.spatial(x)), 3), 4
    w = g.held(kernel(g, out, g.shape(x)[1], taps))
    attrs = alike(g, taps)
    terms = [conv(g, value, out, taps, weight=w, **attrs) for value in g.dice.sample((x, other), 2)]
    return g.op(g.pick("Add", "Sub", "Sum"), *terms)


def merge_siblings(g: Draft, x: str) -> str:
    taps = window(g, len(g.spatial(x)), 3)
    attrs = alike(g, taps)
    follow = g.pick("Relu", "LeakyRelu", "Clip", "PRelu", "Mul", "Add", "")
    found = []
    for _ in range(g.between(2, 4)):
        y = conv(g, x, g.pick(2, 3), taps, **attrs)
        if follow in ("Mul", "Add"):
            y = affine(g, y, follow)
        elif follow and g.chance(0.9):
            y = activation(g, y, follow)
        found.append(y)
    if g.chance(0.7):
        return g.op("Concat", *found, axis=1)
    return g.op("Sum", *(pointwise(g, y, 2) for y in found))


def join_split_branches(g: Draft, x: str) -> str:
    count = g.pick(2, 2, 3)
    g.need(g.shape(x)[1] % count == 0)
    size = g.shape(x)[1] // count
    taps = window(g, len(g.spatial(x)), 3)
    attrs = alike(g, taps)
    kind = g.pick("Relu", "LeakyRelu", "Sigmoid", "")
    parts = g.split(x, *[size] * count)
    found = [conv(g, part, g.pick(2, 2, 2, 3), taps, **attrs) for part in parts]
    found = [activation(g, y, kind) if kind else y for y in found]
    order = found if g.chance(0.8) else found[::-1]
    return g.op("Concat", *order, axis=1)


def remove_duplicates(g: Draft, x: str) -> str:
    """The same operators twice; sometimes their sizes are computed, sometimes a constant differs a little."""
    state = g.random.bit_generator.state, g.dice.getstate()
    step = g.pick(conv, affine, activation, pool, resize, moved, idle, padded)
    found = []
    for _ in range(2):
        if g.chance(0.9):
            g.random.bit_generator.state = state[0]
            g.dice.setstate(state[1])
        found.append(step(g, x))
    return joined(g, *found)


# ---------------------------------------------------------------- moving


def pool_first(g: Draft, x: str) -> str:
    y = some(g, g.pick(conv, pointwise, same)(g, x), affine, normalised, idle, most=1)
    kind = g.pick("AveragePool", "AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum")
    return pool(g, y, kind)


def propagate_stride(g: Draft, x: str) -> str:
    y = g.pick(same, same, conv, pointwise)(g, x, g.shape(x)[1] if g.chance(0.6) else None)
    if g.chance(0.5) and g.shape(y) == g.shape(x):
        y = joined(g, y, x)
    y = some(g, y, activation, affine, idle)
    axes = len(g.spatial(y))

    def reader() -> str:
        kind = g.dice.random()
        if kind < 0.5:
            return pointwise(g, y, strides=strides(g, axes, 1.0))
        if kind < 0.8:
            return cropped(g, y)
        if kind < 0.9:
            return g.pad(y, [0, 0, *[g.between(-1, 0) for _ in range(axes)], 0, 0, *[-1] * axes])
        return g.op("MaxPool", y, kernel_shape=[1] * axes, strides=[2] * axes)

    z = reader()
    return joined(g, z, reader()) if g.chance(0.2) else z


def resize_after_pointwise(g: Draft, x: str) -> str:
    y = some(g, resize(g, x, g.pick(2.0, 2.0, 1.5, 3.0)), affine, activation, most=1)
    if g.chance(0.3):
        other = resized_like(g, x, y) if g.chance(0.3) else activation(g, y)
        y = g.op("Concat", *g.pick((y, other), (other, y)), axis=1)
    return pointwise(g, y, strides=strides(g, len(g.spatial(y)), 0.1))


def resize_before_pointwise(g: Draft, x: str) -> str:
    y = pointwise(g, x, strides=strides(g, len(g.spatial(x)), 0.2))
    return resize(g, some(g, y, affine, activation, most=1), g.pick(0.5, 0.5, 0.75, 0.34))


def resize_phases(g: Draft, x: str) -> str:
    factor = g.pick(2.0, 2.0, 3.0, 4.0)
    y = some(g, resize(g, x, factor, "nearest"), activation, affine, most=1)
    if g.chance(0.3):
        y = g.op("Concat", y, g.pick(activation, affine)(g, y), axis=1)
    if g.chance(0.2):
        y = g.op("Concat", y, resize(g, pool(g, y, "MaxPool"), 2.0, "nearest"), axis=1)
    return g.pick(conv, same)(g, y)


def drop_ceil_mode(g: Draft, x: str) -> str:
    """A pooling whose last window may begin outside of the map, and something that relies on its size."""
    axes = len(g.spatial(x))
    g.need(g.opset >= 10)
    taps = window(g, axes, 3)
    attrs = {"kernel_shape": taps, "strides": [g.between(1, 3) for _ in taps], "ceil_mode": 1}
    attrs["pads"] = [g.between(0, k - 1) for k in taps * 2]
    y = g.op(g.pick("MaxPool", "AveragePool"), x, **attrs)
    return g.pick(same, pointwise, conv)(g, some(g, y, affine, activation, most=1))


# ---------------------------------------------------------------- pruning


def shrink_kernel(g: Draft, x: str) -> str:
    axes = len(g.spatial(x))
    taps = window(g, axes, 5)
    w = kernel(g, 3, g.shape(x)[1], taps)
    if g.chance(0.5):
        axis = g.between(0, axes - 1)
        kept = g.dice.sample(range(taps[axis]), g.between(1, min(2, taps[axis])))
        lost = [tap for tap in range(taps[axis]) if tap not in kept]
        w[(slice(None),) * (2 + axis) + (lost,)] = 0
    dilation = [g.pick(1, 1, 2, max(g.spatial(x)))] * axes
    if g.chance(0.2):
        swapped = np.ascontiguousarray(np.swapaxes(w, 0, 1))
        attrs = {"dilations": dilation, "strides": strides(g, axes), **pads(g, taps, dilation)}
        y = g.op("ConvTranspose", x, g.held(swapped), **attrs)
        return some(g, y, affine, most=1)
    extents = [d * (k - 1) for k, d in zip(taps, dilation, strict=True)]
    padding = {"pads": [e // 2 for e in extents * 2]} if g.chance(0.5) else pads(g, taps, dilation)
    return conv(g, x, 3, taps, weight=g.held(w), dilations=dilation, group=1, **padding)


def _idle_channels(g: Draft, x: str) -> str:
    """A convolution of which some channels are constant, equal, or read by nobody."""
    out = g.pick(4, 6, 8)
    kind = g.dice.random()
    if kind < 0.5:
        w = g.weights(out, g.shape(x)[1], *[3] * len(g.spatial(x)))
        w[g.dice.sample(range(out), g.between(1, out - 1))] = 0
        y = conv(g, x, out, w.shape[2:], weight=g.held(w), group=1)
    else:
        y = conv(g, x, out)
    if kind > 0.4:
        scale = g.random.uniform(0.5, 1.5, out)
        scale[g.dice.sample(range(out), g.between(1, out - 1))] = 0
        shape = (-1, *[1] * len(g.spatial(y)))
        y = g.op("Mul", y, g.held(scale.reshape(shape))) if g.chance(0.5) else normalised(g, y)
    return y


def prune_channels(g: Draft, x: str) -> str:
    y = some(g, _idle_channels(g, x), activation, affine, pool, channels, padded, most=2)
    if g.chance(0.15):
        scale, shift = (g.held(g.normal(g.shape(y)[1])) for _ in range(2))
        y = g.op("InstanceNormalization", y, scale, shift, **g.pick({}, {"epsilon": 0.1}))
    if g.chance(0.3):
        y = g.op("Concat", y, g.pick(activation, pool)(g, y), axis=1)
    if g.chance(0.2):
        y = conv(g, y, g.shape(y)[1], group=g.shape(y)[1])
    if g.chance(0.3):
        y = channels(g, y)
    return gemm(g, flattened(g, y)) if g.chance(0.2) else g.pick(pointwise, conv, same)(g, y)


def fold_constant_channels(g: Draft, x: str) -> str:
    y = some(g, _idle_channels(g, x), activation, idle, most=1)
    return some(g, g.pick(same, same, conv, transposed)(g, y), affine, activation, most=1)


def block_diagonal(g: Draft, x: str) -> str:
    axes, inside = len(g.spatial(x)), g.shape(x)[1]
    out, taps = g.pick(4, 6, inside), window(g, axes, 3)
    w = g.weights(out, inside, *taps)
    groups = g.between(2, 4)
    owner_out, owner_in = ([g.between(0, groups - 1) for _ in range(n)] for n in (out, inside))
    if g.chance(0.5):
        owner_out, owner_in = ([i * groups // n for i in range(n)] for n in (out, inside))
    w[np.not_equal.outer(owner_out, owner_in)] = 0
    return some(g, conv(g, x, out, taps, weight=g.held(w), group=1), activation, affine, channels, most=1)


# ---------------------------------------------------------------- converting and simplifying


def cancel_transpose(g: Draft, x: str) -> str:
    rank = g.rank(x)
    perm = [0, *range(2, rank), 1] if g.chance(0.7) else g.dice.sample(range(rank), rank)
    y = g.op("Transpose", x, perm=perm)

    y = some(g, y, matmul, _last_axis, _elementwise, _concat_or_softmax, most=4)
    back = sorted(range(rank), key=perm.__getitem__) if g.chance(0.8) else g.dice.sample(range(rank), rank)
    z = g.op("Transpose", y, perm=back)
    return joined(g, z, g.op("Transpose", y, perm=back)) if g.chance(0.1) else z


def _last_axis(g: Draft, y: str) -> str:
    last = g.shape(y)[-1]
    c = g.held(g.normal(*g.pick((last,), (1, last), (), (1,) * (g.rank(y) + 1), g.shape(y)[1:])))
    return g.op(g.pick("Add", "Mul", "Sub"), *g.pick((y, c), (c, y)))


def _elementwise(g: Draft, y: str) -> str:
    return activation(g, y, g.pick("Relu", "Sigmoid", "Erf"))


def _concat_or_softmax(g: Draft, y: str) -> str:
    axis = g.between(0, g.rank(y) - 1)
    return g.op("Softmax", y, axis=axis) if g.chance(0.4) else g.op("Concat", y, y, axis=axis)


def fold_permutation(g: Draft, x: str) -> str:
    y = some(g, conv(g, x, g.pick(4, 6)), activation, most=1) if g.chance(0.6) else x
    count = g.shape(y)[1]
    if g.chance(0.4):
        y = shuffled(g, y)
    else:
        order = g.dice.sample(range(count), count)
        if g.chance(0.4):  # some twice, some not at all, some counted from the end
            order = [g.between(-count, count - 1) for _ in range(max(1, count + g.between(-1, 1)))]
        y = g.op("Gather", y, g.held(np.array(order)), axis=1)
    y = some(g, y, activation, pool, affine, most=1)
    if g.chance(0.3):
        y = conv(g, y, g.shape(y)[1], group=g.shape(y)[1])
    return g.pick(conv, pointwise, activation)(g, y)


def transpose_to_conv(g: Draft, x: str) -> str:
    return some(g, transposed(g, x, strides=[1] * len(g.spatial(x))), affine, activation, most=1)


def conv_to_gemm(g: Draft, x: str) -> str:
    y = pool(g, x, "MaxPool") if max(g.spatial(x)) > 5 else x
    taps = list(g.spatial(y)) if g.chance(0.8) else window(g, len(g.spatial(y)))
    z = conv(g, y, 2, taps, pads=[0] * (2 * len(taps)), group=g.pick(1, 1, divisor(g, 2, g.shape(y)[1])))
    return flattened(g, z) if g.chance(0.5) else z


def conv_to_winograd(g: Draft, x: str) -> str:
    """A 3x3 with pads of any kind, of fewer channels than it pays for: graphs of chance are small."""
    g.need(len(g.spatial(x)) == 2)
    y = conv(g, x, taps=[3, 3], dilations=[1, 1], strides=[1, 1])
    return some(g, y, activation, affine, most=1)


def remove_identity(g: Draft, x: str) -> str:
    y = idle(g, some(g, x, activation, conv, most=1))
    return some(g, y, idle, moved, most=2)


def identity_convolution(g: Draft, x: str) -> str:
    axes, inside = len(g.spatial(x)), g.shape(x)[1]
    size = g.pick(1, 3, 3)
    group = divisor(g, inside)
    w = np.zeros((inside, inside // group, *[size] * axes))
    for o in range(inside):
        place = [size // 2] * axes if g.chance(0.9) else [0] * axes
        w[(o, o % (inside // group), *place)] = 1.0 if g.chance(0.95) else 1.001
    given = {"weight": g.held(w), "group": group}
    if g.chance(0.3):
        given.update(strides=strides(g, axes), **pads(g, [size] * axes, [1] * axes))
    return some(g, same(g, x, inside, size, **given), affine, activation, most=1)


def drop_zero_convolution(g: Draft, x: str) -> str:
    axes, out = len(g.spatial(x)), g.pick(g.shape(x)[1], 3)
    taps = window(g, axes)
    y = conv(g, x, out, taps, weight=g.held(np.zeros((out, g.shape(x)[1], *taps))), group=1)
    if g.shape(y) == g.shape(x) and g.chance(0.5):
        y = g.op("Add", y, x)
    return some(g, y, activation, affine, conv, most=2)


# ---------------------------------------------------------------- spelling


def spell_clip(g: Draft, x: str) -> str:
    """Max and Min by numbers, with Relu and Clip among them, and those of s·x; some of them not quite."""
    y = g.pick(pointwise, same, affine)(g, x)

    def number() -> str:
        value = g.held(np.full((1,) * g.between(0, g.rank(y)), g.pick(-1.0, -0.3, 0.0, 0.4, 2.0)))
        return value if g.chance(0.95) else g.op("Sigmoid", y)

    if g.chance(0.3):
        slope = g.held(g.pick(0.0, 0.1, 0.5, 1.0, 2.0, -0.5))
        scaled = g.op("Mul", *g.dice.sample([y if g.chance(0.95) else activation(g, y), slope], 2))
        z = g.op(g.pick("Max", "Min"), *g.dice.sample([y, scaled], 2))
        y = g.op("Add", z, scaled) if g.chance(0.1) else z
    else:
        for _ in range(g.between(1, 3)):
            kind = g.pick("Max", "Min", "Max", "Min", "Relu")
            z = g.op("Relu", y) if kind == "Relu" else g.op(kind, *g.dice.sample([y, number()], 2))
            y = g.op("Add", z, y) if g.chance(0.1) else z
    return g.pick(pointwise, same, affine)(g, y)


def spell_gelu(g: Draft, x: str) -> str:
    """GELU by erf or tanh in some order, some of them not quite; and something behind it."""
    x = g.pick(pointwise, same, activation)(g, x)

    def times(value: str, number: float) -> str:
        number *= 1 if g.chance(0.95) else 1.01
        if g.chance(0.3):
            return g.op("Div", value, g.held(1 / number))
        return g.op("Mul", *g.dice.sample([value, g.held(number)], 2))

    if g.chance(0.6):
        inner = g.op("Erf", times(x, 2**-0.5))
    else:
        cube = g.op("Pow", x, g.held(3.0)) if g.chance(0.5) else g.op("Mul", g.op("Mul", x, x), x)
        inner = g.op("Tanh", times(g.op("Add", x, times(cube, 0.044715)), (2 / math.pi) ** 0.5))
    plus = g.op("Add", *g.dice.sample([inner, g.held(1.0)], 2))
    factors = [plus, x if g.chance(0.95) else activation(g, x)]
    place = g.between(0, 2)
    if place < 2:
        factors[place] = times(factors[place], 0.5)
    y = g.op("Mul", *g.dice.sample(factors, 2))
    y = times(y, 0.5) if place == 2 else y
    y = g.op("Add", y, plus) if g.chance(0.1) else y
    return g.pick(pointwise, same, affine)(g, y)


def spell_hard_swish(g: Draft, x: str) -> str:
    """Hard swish and hard sigmoid in some order, some of them not quite."""
    x = g.pick(pointwise, same, affine)(g, x)
    slope, shift, high = g.pick((1.0, 3.0, 6.0), (1.0, 3.0, 6.0), (0.2, 0.5, 1.0), (1.0, 0.0, 6.0))
    high *= 1 if g.chance(0.95) else 1.01

    def times(value: str, number: float) -> str:
        if number == 1 and g.chance(0.8):
            return value
        if g.chance(0.5):
            return g.op("Div", value, g.held(1 / number))
        return g.op("Mul", *g.dice.sample([value, g.held(number)], 2))

    y = times(x, slope)
    y = (
        g.op("Add", *g.dice.sample([y, g.held(shift)], 2))
        if g.chance(0.8)
        else g.op("Sub", y, g.held(-shift))
    )
    if g.chance(0.5):
        y = clipped(g, y, 0.0, high)
    else:
        y = g.op("Relu", y) if g.chance(0.5) else g.op("Max", y, g.held(0.0))
        y = g.op("Min", y, g.held(high))
    factors = [y, x if g.chance(0.95) else activation(g, x)][: g.between(1, 2)]
    place = g.between(0, len(factors))
    if place < len(factors):
        factors[place] = times(factors[place], 1 / high)
    z = factors[0] if len(factors) == 1 else g.op("Mul", *g.dice.sample(factors, 2))
    z = times(z, 1 / high) if place == len(factors) else z
    z = g.op("Add", z, y) if g.chance(0.1) else z
    return g.pick(pointwise, same, affine)(g, z)


def clipped(g: Draft, x: str, low: float, high: float) -> str:
    """Clip in the form of the opset."""
    if g.opset < 11:
        return g.op("Clip", x, min=low, max=high)
    return g.op("Clip", x, g.held(low), g.held(high))


def spell_layer_norm(g: Draft, x: str) -> str:
    """A normalisation in pieces along an axis, the last one mostly, some of them not quite."""
    return _normalised(g, x, [g.pick(-1, -1, -1, 1)], -1)


def spell_instance_norm(g: Draft, x: str) -> str:
    """A normalisation in pieces over the places of a map, some of them not quite."""
    places = list(range(2, 2 + len(g.spatial(x))))
    return _normalised(g, x, g.pick(places, places, places, places[:1], [1, *places]), 1)


def _normalised(g: Draft, x: str, axes: list[int], channel: int) -> str:
    """A normalisation in pieces over axes, with a scale along another."""
    more = {} if g.opset >= 18 else {"axes": axes}
    count, behind = g.shape(x)[channel], 0 if channel < 0 else len(g.shape(x)) - 1 - channel

    def mean(value: str) -> str:
        return g.op("ReduceMean", value, *([] if more else [g.const(np.array(axes))]), **more)

    middle = mean(x)
    centred = g.op("Sub", x, middle)
    square = g.op("Mul", centred, centred) if g.chance(0.7) else g.op("Pow", centred, g.held(2.0))
    root = g.op("Sqrt", g.op("Add", mean(square), g.held(1e-2)))
    if g.chance(0.2):
        y = g.op("Div", centred, root)
    else:
        inverse = g.op("Reciprocal", root)
        vector = g.held(np.linspace(0.5, 1.5, count).reshape(-1, *(1,) * behind)) if count else g.held(0.5)
        inverse = g.op("Mul", inverse, vector) if g.chance(0.5) else inverse
        apart = g.op("Sub", g.op("Mul", x, inverse), g.op("Mul", middle, inverse))
        y = apart if g.chance(0.3) else g.op("Mul", *g.dice.sample([g.pick(centred, centred, x), inverse], 2))
    y = g.op("Add", y, g.held(0.25)) if g.chance(0.5) else y
    return g.pick(pointwise, same, affine)(g, y)


def spell_mish(g: Draft, x: str) -> str:
    """Mish in every spelling, some of them not quite."""
    x = g.pick(pointwise, same, affine)(g, x)
    if g.opset >= 18 and g.chance(0.3):
        return g.pick(pointwise, same, affine)(g, g.op("Mish", x))
    if g.chance(0.5):
        soft = g.op("Softplus", x)
    else:
        soft = g.op("Log", g.op("Add", *g.dice.sample([g.op("Exp", x), g.held(g.pick(1.0, 1.0, 1.1))], 2)))
    tanh = g.op("Tanh", soft)
    z = g.op("Mul", *g.dice.sample([g.pick(x, x, x, soft), tanh], 2))
    z = g.op("Add", z, g.pick(soft, tanh)) if g.chance(0.1) else z
    return g.pick(pointwise, same, affine)(g, z)


def spell_resize(g: Draft, x: str) -> str:
    """A nearest Resize, most of them by a whole factor, between what may be blocked or not."""
    x = g.pick(pointwise, same, affine)(g, x)
    x = resize(g, x, g.pick(2, 2, 3, 1.5), "nearest")
    return g.pick(pointwise, same, affine)(g, x)


def spell_silu(g: Draft, x: str) -> str:
    """The logistic function by exp, alone or as a factor, some of them not quite."""
    x = g.pick(pointwise, same, affine)(g, x)
    kind = g.pick("Neg", "Neg", "Mul", "Div", "")
    if kind == "Neg":
        y = g.op("Neg", x)
    elif kind:
        number = g.held(g.pick(-1.0, -1.702, 0.5))
        y = g.op("Div", x, number) if kind == "Div" else g.op("Mul", *g.dice.sample([x, number], 2))
    else:
        y = x
    plus = g.op("Add", *g.dice.sample([g.op("Exp", y), g.held(1.0 if g.chance(0.95) else 1.1)], 2))
    if g.chance(0.2):
        z = g.op("Reciprocal", plus)
    else:
        z = g.op("Div", g.pick(x, x, g.held(1.0), g.held(2.0), y), plus)
    z = g.op("Add", z, plus) if g.chance(0.1) else z
    z = g.op("Log", z) if g.chance(0.05) else z
    return g.pick(pointwise, same, affine)(g, z)


def split_prelu(g: Draft, x: str) -> str:
    """PRelu by slopes of every shape, around it convolutions or not."""
    y = g.pick(pointwise, same, affine)(g, x)
    axes, inside = len(g.spatial(y)), g.shape(y)[1]
    shape = g.pick((inside, *[1] * axes), (inside, *[1] * axes), (1, inside, *[1] * axes), (1,), [1] * axes)
    slopes = np.array([g.pick(0.1, 0.25, -0.5, 1.0, 2.0) for _ in range(int(np.prod(shape)))])
    slopes = np.full_like(slopes, slopes[0]) if g.chance(0.2) else slopes
    y = g.op("PRelu", y, g.held(slopes.reshape(shape)))
    return g.pick(pointwise, same, affine)(g, y)


def lift_conv1d(g: Draft, x: str) -> str:
    """Depthwise convolutions of a long line, with others between them and what has a twin or has none."""
    g.need(g.rank(x) > 2)
    inside = g.shape(x)[1]
    y = g.op("Reshape", x, g.const(np.array([0, inside, -1], np.int64)))
    times = -(-g.pick(100, 200) // max(1, g.shape(y)[2]))
    y = g.op("Tile", y, g.const(np.array([1, 1, times], np.int64)))
    y = pointwise(g, y, g.pick(32, 32, 30))
    for _ in range(g.between(1, 2)):
        y = same(g, y, g.shape(y)[1], g.pick(9, 15), group=g.shape(y)[1])
        y = some(g, y, affine, activation, pool, padded, cropped, idle, conv, transposed, channels, most=3)
    y = joined(g, y, activation(g, y)) if g.chance(0.3) else y
    return g.op("MaxPool", y, kernel_shape=[8], strides=[8]) if g.spatial(y)[0] > 32 else y


def split_multiplier(g: Draft, x: str) -> str:
    """Several filters a channel, read by dense convolutions behind what works on each channel or does not."""
    y = pointwise(g, x, g.pick(16, 16, 20, 18))
    inside = g.shape(y)[1]
    y = conv(g, y, inside * g.between(2, 4), group=inside)
    y = some(g, y, affine, activation, pool, padded, cropped, idle, channels, most=2)
    y = joined(g, y, activation(g, y)) if g.chance(0.2) else y
    z = pointwise(g, y) if g.chance(0.7) else conv(g, y)
    return joined(g, z, pointwise(g, y, g.shape(z)[1])) if g.chance(0.2) else z


def pad_channels(g: Draft, x: str) -> str:
    """Depthwise convolutions on channels that are no multiple of 4, and what shares these or needs them."""
    y = pointwise(g, x, g.pick(18, 22, 30, 9, 24))
    for _ in range(g.between(1, 2)):
        y = some(g, y, affine, activation, idle, pool, padded, cropped, most=2)
        z = same(g, y, g.shape(y)[1], 3, group=g.shape(y)[1])
        y = joined(g, z, activation(g, y)) if g.chance(0.3) else z
    y = some(g, y, affine, activation, channels, most=1)
    return g.pick(pointwise, pointwise, conv)(g, y)


def split_frames(g: Draft, x: str) -> str:
    """Three-dimensional convolutions of a few frames, with others between and what has no form on a frame."""
    g.need(g.rank(x) > 3)
    inside = g.shape(x)[1]
    y = g.op("Reshape", x, g.const(np.array([0, inside, 1, -1, g.shape(x)[-1]], np.int64)))
    y = g.op("Tile", y, g.const(np.array([1, 1, g.between(1, 5), 1, 1], np.int64)))
    for _ in range(g.between(1, 2)):
        y = same(g, y, g.pick(16, 32, 30), g.pick(3, 3, 1))
        y = some(g, y, affine, activation, pool, padded, cropped, idle, conv, transposed, channels, most=3)
    return joined(g, y, activation(g, y)) if g.chance(0.3) else y


PATTERNS: dict[str, Callable[[Draft, str], str]] = {
    step.__name__: step
    for step in (
        *(fold_pad, fold_affine, fold_affine_before, fold_constant, constant_folding, fold_sizes),
        *(collapse, collapse_concat, collapse_fanout, collapse_layout, lossless),
        *(merge_branches, sum_first, merge_siblings, join_split_branches, remove_duplicates),
        *(
            drop_ceil_mode,
            pool_first,
            propagate_stride,
            resize_after_pointwise,
            resize_before_pointwise,
            resize_phases,
        ),
        *(shrink_kernel, prune_channels, fold_constant_channels, block_diagonal),
        *(cancel_transpose, fold_permutation, transpose_to_conv, conv_to_gemm, conv_to_winograd),
        *(remove_identity, identity_convolution, drop_zero_convolution),
        *(spell_clip, spell_gelu, spell_hard_swish, spell_instance_norm, spell_layer_norm),
        *(spell_mish, spell_resize),
        *(spell_silu, split_prelu, lift_conv1d, split_multiplier, pad_channels, split_frames),
    )
}
"""By the name of the rewrite, `lossless` standing for three of them."""

OPERATORS: Sequence[Step] = (
    *(conv, conv, affine, activation, pool, resize, padded, cropped),
    *(channels, moved, idle, transposed, matmul),
)
"""What may stand anywhere."""
