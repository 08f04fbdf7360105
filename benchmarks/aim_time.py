"""Whether the default aim chooses well: rewrites whose gain in time is not plain from their arithmetic.

Each case is a small model with seeded weights at a realistic size. It is optimized for time (the default) and
for MACs, and the three are timed in turn at one thread in onnxruntime. Prints a markdown table; speed-ups are
medians of paired ratios, expected ones come from the static time model. A case that looks slower is timed
again with more repeats. Exit status 1 when the default made one of them more than 3 % slower.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

import graphopt
from benchmarks.architectures import MAX_SLOWDOWN, times
from graphopt.analysis.snapshot import Analysis
from models.architectures import ARCHITECTURES, Graph, Line, Video

MORE = 6
"""How many times more repeats decide about a case that looks slower."""
TRIES = 2
"""How often such a case is timed again."""

Builder = Callable[[], onnx.ModelProto]


class Net(Graph):
    """A graph under construction, with convolutions of given weights."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__(channels, size)
        self.random = np.random.default_rng(1)

    def normal(self, *shape: int) -> np.ndarray:
        """Seeded weights [out, in, …] that keep the scale of what they meet."""
        scale = np.sqrt(2 / np.prod(shape[1:], dtype=float))
        return np.asarray(self.random.standard_normal(shape) * scale)

    def weight(self, array: np.ndarray) -> str:
        """Adds an initializer, floats as float32, and returns its name."""
        return super().weight(array.astype(np.float32) if array.dtype.kind == "f" else array)

    def filter(self, x: str, weight: np.ndarray, stride: int = 1, bias: bool = True) -> str:
        """A convolution with these weights that keeps the size at stride 1."""
        inputs = [x, self.weight(weight)]
        if bias:
            inputs.append(self.weight(self.normal(len(weight), 1)[:, 0]))
        pads = [k // 2 for k in weight.shape[2:]] * 2
        return self.op("Conv", inputs, len(weight), strides=[stride] * 2, pads=pads)

    def split(self, x: str, parts: int) -> list[str]:
        """Equal parts of a map's channels."""
        names, size = [f"part{i}" for i in range(parts)], self.channels[x] // parts
        self.node("Split", [x], names, axis=1)
        self.channels.update(dict.fromkeys(names, size))
        return names

    def pool(self, x: str, size: int = 2) -> str:
        """Average pooling without overlap."""
        return self.op("AveragePool", [x], kernel_shape=[size] * 2, strides=[size] * 2)


# ---------------------------------------------------------------- what is built, a family a function


def resized(inside: int, out: int, size: int, scale: int = 2, kernel: int = 3) -> onnx.ModelProto:
    """Nearest upsampling, then a convolution."""
    g = Net(inside, size)
    return g.model(g.relu(g.conv(g.up("x", scale), out, kernel, bias=True)))


def skipped(inside: int, skip: int, out: int, size: int, kernel: int = 3) -> onnx.ModelProto:
    """Nearest upsampling, a skip connection, then a convolution; the skip is made at the finer size."""
    g = Net(skip, 2 * size)
    fine = g.relu(g.conv("x", skip, bias=True))
    coarse = g.relu(g.conv(fine, inside, 3, 2, bias=True))
    return g.model(g.relu(g.conv(g.concat(g.up(coarse), fine), out, kernel, bias=True)))


def head(channels: int, size: int) -> onnx.ModelProto:
    """The head of DB: four scales, each upsampled to the finest, then 3x3."""
    g = Net(channels, size)
    maps = ["x"]
    for _ in range(3):
        maps.append(g.op("MaxPool", [maps[-1]], kernel_shape=[2, 2], strides=[2, 2]))
    up = [g.up(m, 2**i) if i else m for i, m in enumerate(maps)]
    return g.model(g.relu(g.conv(g.concat(*reversed(up)), channels, 3, bias=True)))


def inception(inside: int, size: int, *outs: int) -> onnx.ModelProto:
    """1x1 siblings with their Relu, each read by another convolution."""
    g = Net(inside, size)
    heads = [g.relu(g.conv("x", out, bias=True)) for out in outs]
    return g.model(g.concat(heads[0], *(g.conv(y, 32, 3, bias=True) for y in heads[1:])))


def attention(width: int, size: int) -> onnx.ModelProto:
    """Query, key and value of the same tokens, and their product."""
    g = Net(width, size)
    shape = g.weight(np.array([1, width, size * size], np.int64))
    tokens = g.op("Transpose", [g.op("Reshape", ["x", shape])], perm=[0, 2, 1])
    tokens = g.op("LayerNormalization", [tokens, g.weight(np.ones(width))])
    q, k, v = (g.op("MatMul", [tokens, g.weight(g.normal(width, width))]) for _ in range(3))
    scores = g.op("MatMul", [q, g.op("Transpose", [k], perm=[0, 2, 1])])
    return g.model(g.op("MatMul", [g.op("Softmax", [scores], axis=-1), v]))


def branches(inside: int, parts: Sequence[int], out: int, size: int, kernel: int = 1) -> onnx.ModelProto:
    """Linear 1x1 branches of one input, joined by a Concat, then a convolution."""
    g = Net(inside, size)
    joined = g.concat(*(g.conv("x", part) for part in parts))
    return g.model(g.relu(g.conv(joined, out, kernel, bias=True)))


def beside(inside: int, part: int, out: int, size: int) -> onnx.ModelProto:
    """A linear 1x1 beside a map with an activation, joined by a Concat, then a 1x1."""
    g = Net(inside, size)
    joined = g.concat(g.conv("x", part), g.relu(g.conv("x", inside, 3)))
    return g.model(g.relu(g.conv(joined, out, bias=True)))


def block_diagonal(
    channels: int, size: int, groups: int, kernel: int = 1, mixed: bool = False
) -> onnx.ModelProto:
    """A dense convolution whose weights are blocks, in order or mixed."""
    g = Net(channels, size)
    part = channels // groups
    weight = np.zeros((channels, channels, kernel, kernel))
    for i in range(0, channels, part):
        weight[i : i + part, i : i + part] = g.normal(part, part, kernel, kernel)
    if mixed:
        weight = weight[g.random.permutation(channels)][:, g.random.permutation(channels)]
    return g.model(g.relu(g.filter("x", weight)))


def depthwise(channels: int, size: int, multiplier: int, last: bool = True) -> onnx.ModelProto:
    """A dense 3x3 that is a depthwise one and a 1x1, in either order."""
    g = Net(channels, size)
    if last:
        deep = g.normal(channels, multiplier, 3, 3)
        point = g.normal(channels, channels, multiplier)
        weight = np.einsum("oim,imyx->oiyx", point, deep)
    else:
        deep, point = g.normal(channels, multiplier, 3, 3), g.normal(channels, multiplier, channels)
        weight = np.einsum("omi,omyx->oiyx", point, deep)
    return g.model(g.relu(g.filter("x", weight)))


def separable(channels: int, size: int, rank: int, kernel: int = 3) -> onnx.ModelProto:
    """A dense convolution that is a column and a row of this rank."""
    g = Net(channels, size)
    weight = np.einsum("ory,rix->oiyx", g.normal(channels, rank, kernel), g.normal(rank, channels, kernel))
    return g.model(g.relu(g.filter("x", weight)))


def low_rank(channels: int, size: int, rank: int, kernel: int = 1) -> onnx.ModelProto:
    """A dense convolution whose output, and with a larger kernel whose input too, has this rank."""
    g = Net(channels, size)
    core = g.normal(rank, rank, kernel, kernel) if kernel > 1 else np.eye(rank)[..., None, None]
    weight = np.einsum("or,rsyx,si->oiyx", g.normal(channels, rank), core, g.normal(rank, channels))
    return g.model(g.relu(g.filter("x", weight)))


def strided(channels: int, size: int, kernel: int) -> onnx.ModelProto:
    """The end of a ResNet v1 stage: convolution, residual sum, Relu, and two 1x1 with stride 2."""
    g = Net(channels, size)
    y = g.relu(g.add(g.conv(g.relu(g.conv("x", channels // 2)), channels, kernel, bias=True), "x"))
    main = g.relu(g.conv(y, channels // 2, 1, 2, bias=True))
    return g.model(g.add(g.conv(main, 2 * channels, bias=True), g.conv(y, 2 * channels, 1, 2, bias=True)))


def pooled(inside: int, out: int, size: int, kernel: int = 1, window: int = 2) -> onnx.ModelProto:
    """A convolution, then average pooling."""
    g = Net(inside, size)
    return g.model(g.pool(g.conv(g.relu(g.norm("x")), out, kernel, bias=True), window))


def pruned(channels: int, size: int, dead: int, kernel: int = 3) -> onnx.ModelProto:
    """Two convolutions; some channels between them are dead."""
    g = Net(channels, size)
    y = g.relu(g.norm(g.conv("x", channels, kernel), dead / channels))
    return g.model(g.relu(g.conv(y, channels, kernel, bias=True)))


def shared(channels: int, size: int, kernel: int = 1) -> onnx.ModelProto:
    """The same weights on two maps, summed."""
    g = Net(channels, size)
    weight = g.weight(g.normal(channels, channels, kernel, kernel))
    maps = [g.op(kind, ["x"]) for kind in ("Relu", "Tanh")]
    pads = [kernel // 2] * 4
    return g.model(g.add(*(g.op("Conv", [m, weight], channels, pads=pads) for m in maps)))


def bordered(channels: int, middle: int, size: int) -> onnx.ModelProto:
    """A 1x1 with a bias, then a padded 3x3: the border needs a map of its own."""
    g = Net(channels, size)
    return g.model(g.relu(g.conv(g.conv("x", middle, bias=True), channels, 3, bias=True)))


def whole_map(channels: int, size: int, out: int) -> onnx.ModelProto:
    """A convolution as large as its map, then a 1x1 (VGG's head)."""
    g = Net(channels, size)
    weight, bias = g.weight(g.normal(out, channels, size, size)), g.weight(g.normal(out, 1)[:, 0])
    return g.model(g.relu(g.conv(g.relu(g.op("Conv", ["x", weight, bias], out)), out, bias=True)))


def transposed(channels: int, size: int, kernel: int) -> onnx.ModelProto:
    """A transposed convolution without stride."""
    g = Net(channels, size)
    weight = g.weight(g.normal(channels, channels, kernel, kernel))
    return g.model(g.relu(g.op("ConvTranspose", ["x", weight], channels, pads=[kernel // 2] * 4)))


def unpooled(inside: int, middle: int, out: int, size: int) -> onnx.ModelProto:
    """A linear 1x1, then a transposed convolution that doubles the map without overlap."""
    g = Net(inside, size)
    weight = g.weight(g.normal(middle, out, 2, 2))
    y = g.op("ConvTranspose", [g.conv("x", middle, bias=True), weight], out, strides=[2, 2])
    return g.model(g.relu(g.conv(g.relu(y), out, 3, bias=True)))


def parallel(channels: int, size: int, *kernels: int) -> onnx.ModelProto:
    """Convolutions of one input, summed."""
    g = Net(channels, size)
    y = g.conv("x", channels, kernels[0], bias=True)
    for kernel in kernels[1:]:
        y = g.add(y, g.conv("x", channels, kernel, bias=True))
    return g.model(g.relu(y))


def beside_square(channels: int, size: int, kind: str) -> onnx.ModelProto:
    """A 3x3 and, beside it, what is dearer as one operator: the branches of ECB, DBB or LoRA."""
    g = Net(channels, size)
    y = g.conv("x", channels, 3, bias=True)
    if kind == "edges":
        for _ in range(3):
            y = g.add(y, g.conv(g.conv("x", channels, 1, bias=True), channels, 3, group=channels, bias=True))
    elif kind == "average":
        z = g.conv("x", channels, 1)
        y = g.add(y, g.op("AveragePool", [z], kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1))
    else:
        y = g.add(y, g.conv(g.conv("x", channels // 8, 3), channels, 1))
    return g.model(g.relu(y))


def split(channels: int, size: int, parts: int, kernel: int = 3) -> onnx.ModelProto:
    """Split, a convolution for each part, Concat."""
    g = Net(channels, size)
    names = g.split("x", parts)
    return g.model(g.relu(g.concat(*(g.conv(n, channels // parts, kernel, bias=True) for n in names))))


def cropped(channels: int, size: int) -> onnx.ModelProto:
    """A 3x3 whose taps are zero but for one column."""
    g = Net(channels, size)
    weight = g.normal(channels, channels, 3, 3)
    weight[..., :2] = 0
    return g.model(g.relu(g.filter("x", weight)))


def activated(spelling: str, channels: int, size: int) -> onnx.ModelProto:
    """An activation in the pieces that exporters write, between two 1x1."""
    g = Net(channels, size)
    x = g.conv("x", channels, bias=True)
    y = SPELLINGS[spelling](g, x)
    g.channels[y] = channels
    return g.model(g.conv(y, channels, bias=True))


def lines(channels: int, length: int, kernel: int, depth: int = 2, **more: int) -> onnx.ModelProto:
    """Convolutions along a line, with Relu between them."""
    g = Line(channels, length)
    y = g.line("x", channels, kernel, **more)
    for _ in range(depth - 1):
        y = g.line(g.relu(y), channels, kernel, **more)
    return g.model(y)


def units(channels: int, length: int, kernel: int) -> onnx.ModelProto:
    """Residual units of two dilated convolutions along a line, of a vocoder."""
    g = Line(channels, length)
    y = "x"
    for dilation in (1, 3, 5):
        inner = g.leaky(g.line(g.leaky(y), channels, kernel, dilation=dilation))
        y = g.add(g.line(inner, channels, kernel), y)
    return g.model(y)


def conformer(channels: int, length: int, kernel: int) -> onnx.ModelProto:
    """The convolution module of a Conformer: pointwise, gate, depthwise, SiLU, pointwise."""
    g = Line(length, channels)
    x = g.op("Transpose", ["x"], channels, perm=[0, 2, 1])
    x = g.line(x, 2 * channels)
    g.node("Split", [x], ["first", "second"], axis=1)
    g.channels.update(first=channels, second=channels)
    y = g.op("Mul", ["first", g.op("Sigmoid", ["second"])])
    y = g.norm(g.line(y, channels, kernel, group=channels))
    y = g.line(g.op("Mul", [y, g.op("Sigmoid", [y])]), channels)
    return g.model(g.op("Transpose", [y], perm=[0, 2, 1]))


def volumes(
    channels: int, frames: int, size: int, *taps: int, depth: int = 2, group: int = 1, batch: int = 1
) -> onnx.ModelProto:
    """A residual block of convolutions on frames, with Relu between them."""
    g = Video(channels, frames, size, batch=batch)
    y = g.volume("x", channels, taps, group=group)
    for _ in range(depth - 1):
        y = g.volume(g.relu(y), channels, taps, group=group)
    return g.model(g.relu(g.add(y, "x")))


def bottlenecks(channels: int, middle: int, frames: int, size: int, kernel: str) -> onnx.ModelProto:
    """Two bottlenecks on frames: within them and along time (r2plus1d), depthwise (x3d), or SlowFast's."""
    g = Video(channels, frames, size)
    y = "x"
    for _ in range(2):
        if kernel == "r2plus1d":
            z = g.relu(g.volume(y, middle, (1, 3, 3)))
            y = g.relu(g.add(g.volume(z, channels, (3, 1, 1)), y))
            continue
        first, taps = ((3, 1, 1), (1, 3, 3)) if kernel == "slowfast" else ((1, 1, 1), (3, 3, 3))
        z = g.relu(g.volume(y, middle, first))
        z = g.relu(g.volume(z, middle, taps, group=middle if kernel == "x3d" else 1))
        y = g.relu(g.add(g.volume(z, channels, (1, 1, 1)), y))
    return g.model(y)


def pooled_frames(channels: int, frames: int, size: int) -> onnx.ModelProto:
    """Convolutions of 3x3x3 with poolings of 2x2x2 (C3D)."""
    g = Video(channels, frames, size)
    y = "x"
    for _ in range(2):
        y = g.relu(g.volume(y, 2 * g.channels[y], (3, 3, 3)))
        y = g.op("MaxPool", [y], kernel_shape=[2, 2, 2], strides=[2, 2, 2])
    return g.model(y)


def whole(name: str) -> onnx.ModelProto:
    """A network of models/architectures.py."""
    return ARCHITECTURES[name]()


def gelu(g: Net, x: str) -> str:
    """x·(½·(1 + erf(√½·x)))."""
    scaled = g.op("Mul", [x, g.weight(np.array(0.5**0.5))])
    plus = g.op("Add", [g.op("Erf", [scaled]), g.weight(np.array(1.0))])
    return g.op("Mul", [x, g.op("Mul", [plus, g.weight(np.array(0.5))])])


def hard_swish(g: Net, x: str) -> str:
    """x·clip(x + 3, 0, 6)/6."""
    low, shift, high = (g.weight(np.array(number)) for number in (0.0, 3.0, 6.0))
    clip = g.op("Clip", [g.op("Add", [x, shift]), low, high])
    return g.op("Div", [g.op("Mul", [x, clip]), high])


def mish(g: Net, x: str) -> str:
    """x·tanh(softplus(x))."""
    return g.op("Mul", [x, g.op("Tanh", [g.op("Softplus", [x])])])


def mish_by_log(g: Net, x: str) -> str:
    """x·tanh(log(1 + exp(x)))."""
    plus = g.op("Add", [g.op("Exp", [x]), g.weight(np.array(1.0))])
    return g.op("Mul", [x, g.op("Tanh", [g.op("Log", [plus])])])


def normalised(g: Net, x: str, axes: Sequence[int] = (-1,)) -> str:
    """A layer normalisation along the last axis, with a square and a reciprocal root."""
    centred = g.op("Sub", [x, g.op("ReduceMean", [x], axes=list(axes))])
    variance = g.op("ReduceMean", [g.op("Mul", [centred, centred])], axes=list(axes))
    root = g.op("Sqrt", [g.op("Add", [variance, g.weight(np.array(1e-5))])])
    return g.op("Mul", [centred, g.op("Reciprocal", [root])])


def normalised_maps(g: Net, x: str) -> str:
    """An instance normalisation in the same pieces."""
    return normalised(g, x, (2, 3))


def prelu(g: Net, x: str) -> str:
    """A slope a channel."""
    return g.op("PRelu", [x, g.weight(np.linspace(0.1, 0.4, g.channels[x])[:, None, None])])


def repeated(g: Net, x: str) -> str:
    """Twice as many pixels a side, each the nearest by half pixels."""
    return g.op("Resize", [x, "", g.weight(np.array([1, 1, 2, 2], np.float32))], mode="nearest")


def silu(g: Net, x: str) -> str:
    """x/(1 + exp(−x))."""
    plus = g.op("Add", [g.op("Exp", [g.op("Neg", [x])]), g.weight(np.array(1.0))])
    return g.op("Div", [x, plus])


def within(g: Net, x: str) -> str:
    """min(max(x, −1), 1)."""
    return g.op("Min", [g.op("Max", [x, g.weight(np.array(-1.0))]), g.weight(np.array(1.0))])


def multiplied(channels: int, size: int, filters: int, kernel: int = 3, between: str = "") -> onnx.ModelProto:
    """A depthwise convolution of several filters a channel between two 1x1."""
    g = Net(channels, size)
    x = g.relu(g.conv("x", channels, bias=True))
    y = g.conv(x, filters * channels, kernel, group=channels, bias=True)
    if between == "SiLU":
        y = g.op("Mul", [y, g.op("Sigmoid", [y])])
    elif between:
        y = g.op(between, [y])
    return g.model(g.relu(g.conv(y, channels, bias=True)))


def narrow(channels: int, size: int, out: int, kernel: int = 3, stride: int = 1) -> onnx.ModelProto:
    """A depthwise convolution between two 1x1, then one of many channels."""
    g = Net(out, size)
    x = g.relu(g.conv(g.relu(g.conv("x", out, bias=True)), channels, bias=True))
    y = g.conv(g.relu(g.conv(x, channels, kernel, stride, channels, bias=True)), out, bias=True)
    y = g.op("GlobalAveragePool", [g.relu(y)])
    return g.model(g.conv(y, 2048, bias=True))


def dense(channels: int, size: int, summed: bool = False) -> onnx.ModelProto:
    """A 3x3 between two 1x1; its output is the end of a residual block where it is summed."""
    g = Net(channels, size)
    x = g.relu(g.conv("x", channels, bias=True))
    y = g.conv(x, channels, 3, bias=True)
    return g.model(g.conv(g.relu(g.add(y, x) if summed else y), channels, bias=True))


SPELLINGS: dict[str, Callable[[Net, str], str]] = {
    build.__name__: build
    for build in (
        gelu,
        hard_swish,
        mish,
        mish_by_log,
        normalised,
        normalised_maps,
        prelu,
        repeated,
        silu,
        within,
    )
}


def case(build: Callable[..., onnx.ModelProto], *sizes: object, **more: object) -> tuple[str, Builder]:
    """The name of a case and what builds it."""
    words = [str(s) for s in sizes] + [f"{key}={value}" for key, value in more.items()]
    return f"{build.__name__} {' '.join(words)}", lambda: build(*sizes, **more)


CASES: dict[str, Builder] = dict(
    (
        case(resized, 32, 32, 56),
        case(resized, 32, 16, 48),
        case(resized, 64, 32, 28),
        case(resized, 128, 64, 28),
        case(resized, 256, 128, 14),
        case(resized, 64, 64, 14, scale=4),
        case(resized, 32, 32, 14, scale=8),
        case(skipped, 64, 32, 32, 28),
        case(skipped, 128, 64, 64, 14),
        case(head, 24, 80),
        case(head, 64, 40),
        case(resized, 64, 64, 28, kernel=1),
        case(resized, 256, 128, 14, kernel=1),
        case(skipped, 128, 64, 64, 28, kernel=1),
        case(skipped, 64, 128, 128, 14, kernel=1),
        case(inception, 192, 28, 64, 96, 16),
        case(inception, 256, 14, 128, 64, 32),
        case(inception, 64, 56, 24, 40),
        case(inception, 128, 28, 8, 12, 24),
        case(attention, 64, 14),
        case(attention, 192, 14),
        case(branches, 64, (64, 64), 64, 28),
        case(branches, 64, (32, 48), 64, 56),
        case(branches, 64, (64, 64), 64, 28, kernel=3),
        case(beside, 64, 64, 64, 28),
        case(beside, 128, 96, 128, 14),
        case(block_diagonal, 64, 56, 2),
        case(block_diagonal, 64, 56, 8),
        case(block_diagonal, 128, 28, 4),
        case(block_diagonal, 128, 28, 4, mixed=True),
        case(block_diagonal, 256, 14, 16),
        case(block_diagonal, 64, 28, 4, kernel=3),
        case(block_diagonal, 64, 28, 16, kernel=3),
        case(depthwise, 64, 28, 1),
        case(depthwise, 64, 28, 2),
        case(depthwise, 64, 28, 3),
        case(depthwise, 128, 28, 2),
        case(depthwise, 64, 28, 2, last=False),
        case(depthwise, 128, 14, 3, last=False),
        case(separable, 64, 28, 92),
        case(separable, 64, 28, 64),
        case(separable, 64, 28, 48),
        case(separable, 128, 14, 96),
        case(low_rank, 128, 28, 62),
        case(low_rank, 128, 28, 48),
        case(low_rank, 256, 14, 124),
        case(low_rank, 256, 14, 96),
        case(low_rank, 64, 56, 24),
        case(low_rank, 64, 28, 56, kernel=3),
        case(low_rank, 64, 28, 44, kernel=3),
        case(low_rank, 128, 14, 97, kernel=3),
        case(strided, 64, 56, 1),
        case(strided, 128, 28, 3),
        case(strided, 256, 14, 1),
        case(pooled, 256, 128, 28),
        case(pooled, 64, 32, 112),
        case(pooled, 64, 64, 56, kernel=3),
        case(pooled, 128, 64, 14, window=14),
        case(pooled, 128, 128, 14, kernel=3, window=14),
        case(pruned, 64, 28, 3),
        case(pruned, 64, 28, 15),
        case(pruned, 64, 28, 17),
        case(pruned, 128, 14, 1),
        case(pruned, 128, 56, 7, kernel=1),
        case(shared, 32, 56),
        case(shared, 128, 28),
        case(shared, 64, 28, kernel=3),
        case(bordered, 32, 64, 56),
        case(bordered, 64, 64, 28),
        case(bordered, 16, 256, 64),
        case(whole_map, 64, 7, 256),
        case(transposed, 64, 28, 1),
        case(transposed, 64, 28, 3),
        case(unpooled, 64, 128, 32, 28),
        case(parallel, 48, 56, 3, 1),
        case(parallel, 64, 28, 1, 1),
        case(parallel, 64, 28, 5, 3),
        case(beside_square, 32, 56, "edges"),
        case(beside_square, 64, 28, "edges"),
        case(beside_square, 64, 28, "average"),
        case(beside_square, 64, 28, "adapter"),
        case(split, 64, 28, 2),
        case(split, 64, 28, 8),
        case(split, 128, 28, 4, kernel=1),
        case(split, 32, 56, 4, kernel=1),
        case(cropped, 64, 28),
        case(dense, 64, 56),
        case(dense, 128, 28),
        case(dense, 256, 8),
        case(dense, 256, 14),
        case(dense, 256, 14, summed=True),
        case(dense, 256, 15),
        case(dense, 256, 28),
        case(dense, 512, 7),
        case(dense, 512, 8),
        case(dense, 512, 14),
        *(case(activated, spelling, 64, 56) for spelling in SPELLINGS),
        case(multiplied, 32, 56, 2),
        case(multiplied, 32, 56, 4, between="Relu"),
        case(multiplied, 64, 28, 2),
        case(multiplied, 64, 28, 2, kernel=5),
        case(multiplied, 64, 28, 4, between="SiLU"),
        case(multiplied, 128, 14, 2),
        case(multiplied, 128, 14, 4),
        case(multiplied, 256, 7, 2),
        case(multiplied, 64, 7, 2),
        case(multiplied, 32, 28, 8),
        case(multiplied, 8, 28, 8),
        case(multiplied, 8, 56, 2),
        case(multiplied, 4, 56, 2),
        case(multiplied, 18, 56, 2),
        case(narrow, 58, 28, 58),
        case(narrow, 58, 28, 58, stride=2),
        case(narrow, 58, 14, 58),
        case(narrow, 58, 7, 58),
        case(narrow, 30, 56, 24, kernel=5),
        case(narrow, 18, 28, 16),
        case(narrow, 18, 7, 16),
        case(narrow, 198, 7, 64),
        case(narrow, 202, 14, 34),
        case(narrow, 10, 56, 16),
        case(narrow, 6, 56, 16),
        case(narrow, 2, 56, 16),
        case(whole, "shufflenet_v2"),
        case(lines, 256, 200, 31, 1, group=256),
        case(lines, 256, 100, 15, 1, group=256),
        case(lines, 64, 50, 3, 1, group=64),
        case(lines, 512, 100, 3, 1),
        case(lines, 256, 400, 1, 1),
        case(lines, 256, 400, 1, 4),
        case(lines, 64, 1000, 3, 1),
        case(lines, 64, 1000, 3, 4),
        case(lines, 128, 1000, 3, 1, dilation=9),
        case(lines, 128, 128, 63, 2),
        case(lines, 16, 64, 63, 4),
        case(lines, 24, 400, 9, 3),
        case(units, 256, 256, 3),
        case(units, 64, 2048, 11),
        case(units, 32, 8192, 7),
        case(units, 8, 8192, 3),
        case(conformer, 64, 200, 7),
        case(conformer, 256, 100, 31),
        case(conformer, 144, 400, 15),
        case(volumes, 64, 16, 28, 3, 3, 3),
        case(volumes, 128, 8, 28, 3, 3, 3),
        case(volumes, 256, 4, 14, 3, 3, 3),
        case(volumes, 512, 2, 7, 3, 3, 3),
        case(volumes, 32, 32, 14, 3, 3, 3),
        case(volumes, 16, 4, 7, 3, 3, 3),
        case(volumes, 20, 8, 28, 3, 3, 3),
        case(volumes, 64, 8, 28, 3, 3, 3, batch=4),
        case(volumes, 32, 8, 14, 3, 3, 3, batch=8),
        case(volumes, 64, 8, 28, 3, 3, 3, depth=1, group=64),
        case(volumes, 64, 4, 14, 1, 3, 3, depth=1),
        case(volumes, 128, 8, 28, 1, 3, 3, depth=3),
        case(volumes, 64, 8, 28, 3, 1, 1, depth=3),
        case(volumes, 64, 8, 28, 1, 1, 1, depth=3),
        case(bottlenecks, 64, 144, 8, 28, "r2plus1d"),
        case(bottlenecks, 128, 288, 4, 14, "r2plus1d"),
        case(bottlenecks, 24, 54, 8, 28, "x3d"),
        case(bottlenecks, 48, 108, 8, 14, "x3d"),
        case(bottlenecks, 512, 128, 8, 14, "slowfast"),
        case(pooled_frames, 32, 16, 28),
        *(
            case(whole, name)
            for name in ("quartznet", "vocoder", "speech_features", "pitch_tracker", "r3d_18")
        ),
    )
)


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True, slots=True)
class Row:
    """What was found on one case; mappings are by variant: ``time`` and ``macs``, the two aims.

    Attributes:
        name: the case.
        applied: rewrites of each aim, with their number.
        macs: MACs over those before.
        expected: seconds before over after, by the static model.
        speedup: the same as measured, the median of paired ratios.
        fastest: the same of the fastest runs.
    """

    name: str
    applied: Mapping[str, Counter[str]]
    macs: Mapping[str, float]
    expected: Mapping[str, float]
    speedup: Mapping[str, float]
    fastest: Mapping[str, float]

    @property
    def slower(self) -> bool:
        """Whether the default made it slower, by the median and by the fastest runs."""
        return max(self.speedup["time"], self.fastest["time"]) < 1 / MAX_SLOWDOWN

    @property
    def same(self) -> bool:
        """Whether both aims took the same rewrites."""
        return self.applied["time"] == self.applied["macs"]

    @property
    def left(self) -> bool:
        """Whether the default left what is faster, by the median and by the fastest runs."""
        gains = (found["macs"] / found["time"] for found in (self.speedup, self.fastest))
        return not self.same and min(gains) > MAX_SLOWDOWN

    def line(self) -> str:
        """The row of the table."""
        cells = [self.name, _named(self.applied["time"]), *self._figures("time")]
        cells += ["same", "", "", ""] if self.same else [_named(self.applied["macs"]), *self._figures("macs")]
        return f"| {' | '.join(cells)} |"

    def _figures(self, aim: str) -> tuple[str, str, str]:
        return f"{self.macs[aim]:.2f}", f"{self.speedup[aim]:.2f}", f"{self.expected[aim]:.2f}"


HEADER = (
    "| case | default: applied | MACs | times as fast | expected | aim macs: applied | MACs | times as fast "
    "| expected |\n|---|---|---|---|---|---|---|---|---|"
)


def _named(applied: Counter[str]) -> str:
    return ", ".join(f"{n} × {name}" if n > 1 else name for name, n in applied.items()) or "nothing"


def measure(name: str, repeat: int) -> Row:
    """Optimizes one case for both aims and times all three models; twice where it looks slower."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        model = CASES[name]()
        paths = {"before": folder / "before.onnx"}
        onnx.save(model, paths["before"])
        applied, macs, expected = {}, {}, {}
        before = _expected(ir.from_proto(model))
        for aim in ("time", "macs"):
            result = graphopt.optimize(model, aim=aim)
            paths[aim] = folder / f"{aim}.onnx"
            result.save(paths[aim])
            report = result.report
            applied[aim] = Counter(item.candidate.rewrite for item in report.applied)
            macs[aim] = (report.after.macs or 0) / (report.before.macs or 1)
            expected[aim] = before / _expected(result.model)
        for turn in range(1 + TRIES):
            speedup, fastest = _compared(paths, repeat * (MORE if turn else 1))
            row = Row(name, applied, macs, expected, speedup, fastest)
            if not row.slower:
                break
    return row


def _expected(model: ir.Model) -> float:
    """Seconds of all operators by the static model."""
    analysis = Analysis(model)
    return analysis.cost(list(analysis.nodes.values())).seconds


def _compared(paths: Mapping[str, Path], repeat: int) -> tuple[dict[str, float], dict[str, float]]:
    """Before over after: the median of paired ratios, and of the fastest runs."""
    seconds = times(paths, repeat)
    before = seconds["before"]
    return (
        {name: float(np.median(before / taken)) for name, taken in seconds.items()},
        {name: float(before.min() / taken.min()) for name, taken in seconds.items()},
    )


def _chosen(patterns: Sequence[str]) -> Iterator[str]:
    return (name for name in CASES if not patterns or any(fnmatch.fnmatch(name, p) for p in patterns))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cases", nargs="*", metavar="PATTERN", help="all when none is given")
    parser.add_argument("--repeat", type=int, default=100, help="timed runs of each variant")
    arguments = parser.parse_args(argv)
    print(HEADER)
    rows = []
    for name in _chosen(arguments.cases):
        rows.append(measure(name, arguments.repeat))
        print(rows[-1].line(), flush=True)
    slower = [row for row in rows if row.slower]
    missed = [row for row in rows if row.left]
    print(f"\n{len(rows)} cases; the default made {len(slower)} slower by over 3 %, ", end="")
    print(f"and left {len(missed)} that are over 3 % faster with --aim macs")
    for row in (*slower, *missed):
        print(f"- {'slower' if row in slower else 'left'}: {row.name}")
    return int(bool(slower))


if __name__ == "__main__":
    sys.exit(main())
