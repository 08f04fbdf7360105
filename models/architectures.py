"""Small builders of the architectures in which exact savings live, with seeded weights.

    python models/architectures.py resnet_v1 out.onnx

Each builder returns an `onnx.ModelProto` (opset 17, float32, one input ``x``). Weights are random: what exact
rewrites find depends on the graph, and where it depends on the weights (slimmed) the builder says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """Collects nodes and weights; knows the channels of every map that it made.

    Args:
        channels: of the input.
        size: height and width of the input.
        seed: of the weights.
    """

    def __init__(self, channels: int, size: int, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._input = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, size, size])
        self.channels = {"x": channels}

    def weight(self, array: np.ndarray) -> str:
        """Adds an initializer and returns its name."""
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """Adds an operator whose outputs have these names."""
        self._nodes.append(helper.make_node(kind, inputs, outputs, outputs[0], **attributes))

    def op(self, kind: str, inputs: Sequence[str], channels: int | None = None, **attributes: Any) -> str:
        """Adds an operator with one output and returns the output's name."""
        output = f"{kind.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        self.channels[output] = self.channels[inputs[0]] if channels is None else channels
        return output

    def conv(
        self, x: str, out: int, kernel: int = 1, stride: int = 1, group: int = 1, bias: bool = False
    ) -> str:
        """A convolution that keeps the size at stride 1, with He-scaled weights."""
        fan_in = self.channels[x] // group * kernel**2
        shape = (out, self.channels[x] // group, kernel, kernel)
        weight = self._rng.standard_normal(shape) * np.sqrt(2 / fan_in)
        inputs = [x, self.weight(weight.astype(np.float32))]
        if bias:
            inputs.append(self.weight(self._rng.standard_normal(out).astype(np.float32) * 0.1))
        pad = kernel // 2
        return self.op(
            *("Conv", inputs, out),
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
            group=group,
        )

    def norm(self, x: str, dead: float = 0.0) -> str:
        """A BatchNormalization; a ``dead`` part of its channels has gamma and beta 0."""
        count = self.channels[x]
        gamma, variance = self._rng.uniform(0.5, 1.5, (2, count))
        beta, mean = self._rng.standard_normal((2, count)) * 0.1
        off = self._rng.permutation(count)[: round(dead * count)]
        gamma[off] = beta[off] = 0.0
        values = [self.weight(v.astype(np.float32)) for v in (gamma, beta, mean, variance)]
        return self.op("BatchNormalization", [x, *values])

    def relu(self, x: str) -> str:
        """A Relu."""
        return self.op("Relu", [x])

    def conv_norm_relu(self, x: str, out: int, kernel: int = 1, stride: int = 1, dead: float = 0.0) -> str:
        """Convolution, BatchNormalization, Relu."""
        return self.relu(self.norm(self.conv(x, out, kernel, stride), dead))

    def add(self, a: str, b: str) -> str:
        """The sum of two maps."""
        return self.op("Add", [a, b])

    def concat(self, *maps: str) -> str:
        """Maps behind each other along the channels."""
        return self.op("Concat", maps, sum(self.channels[m] for m in maps), axis=1)

    def up(self, x: str, scale: int = 2) -> str:
        """Nearest upsampling by a whole factor."""
        scales = self.weight(np.array([1, 1, scale, scale], np.float32))
        return self.op(
            "Resize",
            [x, "", scales],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The finished model."""
        infos = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self._nodes, "model", [self._input], infos, self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        del model.graph.value_info[:]
        return model


def resnet_v1() -> onnx.ModelProto:
    """ResNet v1 stages as in Caffe: the stride is on the 1x1 of a bottleneck block."""
    g = Graph(64, 56)
    y = "x"
    for width, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        shortcut = y
        if stride > 1 or g.channels[y] != 4 * width:
            shortcut = g.norm(g.conv(y, 4 * width, 1, stride))
        inner = g.conv_norm_relu(g.conv_norm_relu(y, width, 1, stride), width, 3)
        y = g.relu(g.add(g.norm(g.conv(inner, 4 * width)), shortcut))
    return g.model(y)


def densenet() -> onnx.ModelProto:
    """Two dense blocks with transitions: BatchNormalization, Relu, 1x1, average pooling."""
    g = Graph(64, 56)
    y = "x"
    for _ in range(2):
        for _ in range(4):
            inner = g.conv(g.relu(g.norm(y)), 128)
            y = g.concat(y, g.conv(g.relu(g.norm(inner)), 32, 3))
        y = g.conv(g.relu(g.norm(y)), g.channels[y] // 2)
        y = g.op("AveragePool", [y], kernel_shape=[2, 2], strides=[2, 2])
    return g.model(y)


def repvgg() -> onnx.ModelProto:
    """Unfused RepVGG blocks: 3x3, 1x1 and identity, each with its BatchNormalization."""
    g = Graph(48, 56)
    y = "x"
    for width, stride in ((48, 1), (48, 1), (96, 2), (96, 1), (96, 1)):
        branches = [g.norm(g.conv(y, width, 3, stride)), g.norm(g.conv(y, width, 1, stride))]
        if stride == 1 and g.channels[y] == width:
            branches.append(g.norm(y))
        total = branches[0]
        for branch in branches[1:]:
            total = g.add(total, branch)
        y = g.relu(total)
    return g.model(y)


def yolo_neck() -> onnx.ModelProto:
    """The neck of a detector: Resize → Concat → 1x1, twice, with 3x3 behind each."""
    g = Graph(64, 64)
    fine = g.conv_norm_relu("x", 64, 3)
    middle = g.conv_norm_relu(fine, 128, 3, 2)
    coarse = g.conv_norm_relu(middle, 256, 3, 2)
    top = g.conv_norm_relu(coarse, 128)
    y = g.conv_norm_relu(g.concat(g.up(top), middle), 128)
    y = g.conv_norm_relu(g.conv_norm_relu(y, 128, 3), 64)
    z = g.conv_norm_relu(g.concat(g.up(y), fine), 64)
    return g.model(g.conv_norm_relu(z, 64, 3), y, top)


def text_detection_head() -> onnx.ModelProto:
    """The head of DB: maps of four scales, upsampled to one, concatenated, 3x3."""
    g = Graph(32, 80)
    maps = ["x"]
    for _ in range(3):
        maps.append(g.conv_norm_relu(maps[-1], 32, 3, 2))
    laterals = [g.conv(m, 24, 3, bias=True) for m in maps]
    up = [g.up(m, 2**i) if i else m for i, m in enumerate(laterals)]
    y = g.conv_norm_relu(g.concat(*reversed(up)), 24, 3)
    return g.model(g.op("Sigmoid", [g.conv(y, 1, 1, bias=True)]))


def unet_decoder() -> onnx.ModelProto:
    """A U-Net: nearest upsampling, 3x3, skip connection."""
    g = Graph(16, 96)
    skips, y = [], "x"
    for width in (32, 64, 128):
        y = g.conv_norm_relu(y, width, 3)
        skips.append(y)
        y = g.op("MaxPool", [y], kernel_shape=[2, 2], strides=[2, 2])
    y = g.conv_norm_relu(y, 128, 3)
    for width, skip in zip((64, 32, 16), reversed(skips), strict=True):
        y = g.conv_norm_relu(g.up(y), width, 3)
        y = g.conv_norm_relu(g.concat(y, skip), width, 3)
    return g.model(g.conv(y, 4, bias=True))


def preactivation_resnet() -> onnx.ModelProto:
    """A pre-activation ResNet: BatchNormalization and Relu in front of each convolution."""
    g = Graph(32, 32)
    y = "x"
    for width, stride in ((32, 1), (32, 1), (64, 2), (64, 1)):
        inner = g.relu(g.norm(y))
        shortcut = y if stride == 1 else g.conv(inner, width, 1, stride)
        inner = g.conv(g.relu(g.norm(g.conv(inner, width, 3, stride))), width, 3)
        y = g.add(inner, shortcut)
    return g.model(g.op("GlobalAveragePool", [g.relu(g.norm(y))]))


def slimmed() -> onnx.ModelProto:
    """A chain of convolutions after network slimming: 40 % of the gammas and betas are 0."""
    g = Graph(16, 56)
    y = "x"
    for width, stride in ((64, 1), (64, 1), (128, 2), (128, 1)):
        y = g.conv_norm_relu(y, width, 3, stride, dead=0.4)
    return g.model(g.conv(y, 32, bias=True))


def sesr() -> onnx.ModelProto:
    """Super-resolution with linear bottlenecks (SESR): k×k to 256 channels, 1x1 back, a residual sum."""
    g = Graph(1, 64)

    def linear_block(x: str, out: int, kernel: int) -> str:
        return g.conv(g.conv(x, 256, kernel), out)

    first = y = g.relu(linear_block("x", 16, 5))
    for _ in range(3):
        y = g.relu(g.add(linear_block(y, 16, 3), y))
    y = linear_block(g.add(y, first), 4, 5)
    return g.model(g.op("DepthToSpace", [y], 1, blocksize=2))


def vgg19(size: int = 224, width: int = 64) -> onnx.ModelProto:
    """VGG-19 without its classifier: 16 convolutions 3x3 with a bias and a Relu, five poolings.

    Args:
        size: height and width of the input.
        width: channels of the first convolutions; the last have eight times as many.
    """
    g = Graph(3, size)
    y = "x"
    for factor, count in ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4)):
        for _ in range(count):
            y = g.relu(g.conv(y, factor * width, 3, bias=True))
        y = g.op("MaxPool", [y], kernel_shape=[2, 2], strides=[2, 2])
    return g.model(y)


def shufflenet_v2(size: int = 224, units: Sequence[int] = (4, 8, 4), half: int = 58) -> onnx.ModelProto:
    """Image classification (ShuffleNetV2 x1.0): half of the channels passes by, then both are shuffled.

    Args:
        size: height and width of the input.
        units: of the three stages.
        half: channels of a half in the first stage; 58 has no blocked kernel, its doubles have.
    """
    g = Graph(3, size)

    def depthwise(x: str, stride: int) -> str:
        return g.conv(x, g.channels[x], 3, stride, group=g.channels[x], bias=True)

    def branch(x: str, out: int, stride: int) -> str:
        inner = depthwise(g.relu(g.conv(x, out, bias=True)), stride)
        return g.relu(g.conv(inner, out, bias=True))

    def shuffled(x: str, pixels: int) -> str:
        channels = g.channels[x]
        apart = g.weight(np.array([-1, 2, channels // 2, pixels, pixels]))
        together = g.weight(np.array([-1, channels, pixels, pixels]))
        y = g.op("Transpose", [g.op("Reshape", [x, apart])], perm=[0, 2, 1, 3, 4])
        return g.op("Reshape", [y, together])

    y = g.relu(g.conv("x", 24, 3, 2, bias=True))
    y = g.op("MaxPool", [y], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage, count in enumerate(units):
        out = half << stage
        pixels = size >> 3 + stage
        other = g.relu(g.conv(depthwise(y, 2), out, bias=True))
        y = shuffled(g.concat(other, branch(y, out, 2)), pixels)
        for unit in range(1, count):
            parts = [f"part{stage}_{unit}_{i}" for i in range(2)]
            g.node("Split", [y, g.weight(np.array([out, out]))], parts, axis=1)
            g.channels.update(dict.fromkeys(parts, out))
            y = shuffled(g.concat(parts[0], branch(parts[1], out, 1)), pixels)
    y = g.op("GlobalAveragePool", [g.relu(g.conv(y, 1024, bias=True))])
    weight = g.weight((g._rng.standard_normal((1000, 1024)) / 32).astype(np.float32))
    bias = g.weight(g._rng.normal(0, 0.1, 1000).astype(np.float32))
    return g.model(g.op("Gemm", [g.op("Flatten", [y], axis=1), weight, bias], transB=1))


class Line(Graph):
    """A graph of operators along a line, [N, C, L].

    Args:
        channels: of the input.
        length: of the input.
        seed: of the weights.
    """

    def __init__(self, channels: int, length: int, seed: int = 0) -> None:
        super().__init__(channels, length, seed)
        self._input = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, length])

    def number(self, value: float) -> str:
        """Adds a number and returns its name."""
        return self.weight(np.array(value, np.float32))

    def line(
        self,
        x: str,
        out: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        group: int = 1,
        dilation: int = 1,
        pads: Sequence[int] | None = None,
        bias: bool = True,
    ) -> str:
        """A Conv of one spatial axis that keeps the length at stride 1 unless pads are given."""
        inside = self.channels[x] // group
        weight = self._rng.standard_normal((out, inside, kernel)) * np.sqrt(2 / (inside * kernel))
        inputs = [x, self.weight(weight.astype(np.float32))]
        if bias:
            inputs.append(self.weight(self._rng.standard_normal(out).astype(np.float32) * 0.1))
        around = [dilation * (kernel - 1) // 2] * 2 if pads is None else list(pads)
        return self.op(
            *("Conv", inputs, out),
            dilations=[dilation],
            group=group,
            kernel_shape=[kernel],
            pads=around,
            strides=[stride],
        )

    def wider(self, x: str, out: int, kernel: int, stride: int) -> str:
        """A ConvTranspose that makes a line ``stride`` times as long."""
        inside = self.channels[x]
        weight = self._rng.standard_normal((inside, out, kernel)) * np.sqrt(2 * stride / (inside * kernel))
        bias = self._rng.standard_normal(out) * 0.1
        inputs = [x, self.weight(weight.astype(np.float32)), self.weight(bias.astype(np.float32))]
        return self.op(
            *("ConvTranspose", inputs, out),
            dilations=[1],
            group=1,
            kernel_shape=[kernel],
            pads=[(kernel - stride) // 2] * 2,
            strides=[stride],
        )

    def leaky(self, x: str, slope: float = 0.1) -> str:
        """A LeakyRelu."""
        return self.op("LeakyRelu", [x], alpha=slope)

    def gelu(self, x: str) -> str:
        """x·(1 + erf(x/√2))·½ in the pieces that exporters write."""
        erf = self.op("Erf", [self.op("Div", [x, self.number(np.sqrt(2))])])
        whole = self.op("Mul", [x, self.op("Add", [erf, self.number(1.0)])])
        return self.op("Mul", [whole, self.number(0.5)])


def quartznet() -> onnx.ModelProto:
    """Speech recognition (QuartzNet): depthwise and pointwise along time, residual blocks."""
    g = Line(64, 400)

    def unit(x: str, out: int, kernel: int, stride: int = 1, dilation: int = 1) -> str:
        deep = g.line(x, g.channels[x], kernel, stride, group=g.channels[x], dilation=dilation, bias=False)
        return g.norm(g.line(deep, out, bias=False))

    y = g.relu(unit("x", 256, 33, 2))
    for width, kernel in ((256, 33), (256, 39), (512, 51)):
        inner = y
        for _ in range(2):
            inner = g.relu(unit(inner, width, kernel))
        shortcut = g.norm(g.line(y, width, bias=False))
        y = g.relu(g.add(unit(inner, width, kernel), shortcut))
    y = g.relu(unit(y, 512, 87, dilation=2))
    y = g.relu(g.norm(g.line(y, 1024, bias=False)))
    scores = g.op("Transpose", [g.line(y, 29)], perm=[0, 2, 1])
    return g.model(g.op("LogSoftmax", [scores], axis=-1))


def vocoder() -> onnx.ModelProto:
    """A vocoder (HiFi-GAN V2): transposed convolutions, and means of blocks of dilated ones."""
    g = Line(80, 32)
    y = g.line("x", 128, 7)
    for stride, kernel in ((8, 16), (8, 16), (2, 4), (2, 4)):
        y = g.wider(g.leaky(y), g.channels[y] // 2, kernel, stride)
        total = ""
        for taps in (3, 7, 11):
            z = y
            for dilation in (1, 3, 5):
                inner = g.line(g.leaky(z), g.channels[y], taps, dilation=dilation)
                z = g.add(g.line(g.leaky(inner), g.channels[y], taps), z)
            total = g.add(total, z) if total else z
        y = g.op("Div", [total, g.number(3.0)])
    return g.model(g.op("Tanh", [g.line(g.leaky(y, 0.01), 1, 7)]))


def speech_features() -> onnx.ModelProto:
    """The feature extractor of a speech model (wav2vec 2.0): strided convolutions with GELU."""
    g = Line(1, 16000)
    y = g.line("x", 512, 10, 5, pads=(0, 0), bias=False)
    groups, whole = (g.weight(np.array(shape, np.int64)) for shape in ([0, 512, -1], [1, 512, 3199]))
    ones, zeros = (g.weight(np.full(512, value, np.float32)) for value in (1, 0))
    y = g.op("InstanceNormalization", [g.op("Reshape", [y, groups]), ones, zeros], epsilon=1e-5)
    y = g.op("Reshape", [y, whole])
    y = g.op("Mul", [y, g.weight(g._rng.uniform(0.5, 1.5, (512, 1)).astype(np.float32))])
    y = g.gelu(g.add(y, g.weight(g._rng.normal(0, 0.1, (512, 1)).astype(np.float32))))
    for kernel in (3, 3, 3, 3, 2, 2):
        y = g.gelu(g.line(y, 512, kernel, 2, pads=(0, 0), bias=False))
    return g.model(g.op("Transpose", [y], perm=[0, 2, 1]))


def pitch_tracker() -> onnx.ModelProto:
    """A pitch tracker (CREPE, its small form): long kernels on short lines."""
    g = Line(1, 1024)
    y = "x"
    for i, width in enumerate((128, 16, 16, 16, 32, 64)):
        kernel, stride, pads = (64, 1, (31, 32)) if i else (512, 4, (254, 254))
        y = g.norm(g.relu(g.line(y, width, kernel, stride, pads=pads)))
        y = g.op("MaxPool", [y], kernel_shape=[2], strides=[2])
    flat = g.op("Flatten", [g.op("Transpose", [y], perm=[0, 2, 1])], axis=1)
    weight = g.weight((g._rng.standard_normal((360, 256)) / 16).astype(np.float32))
    bias = g.weight(g._rng.normal(0, 0.1, 360).astype(np.float32))
    return g.model(g.op("Sigmoid", [g.op("Gemm", [flat, weight, bias], transB=1)]))


class Video(Graph):
    """A graph of operators on frames, [N, C, T, H, W].

    Args:
        channels: of the input.
        frames: of the input.
        size: height and width of the input.
        seed: of the weights.
        batch: of the input.
    """

    def __init__(self, channels: int, frames: int, size: int, seed: int = 0, batch: int = 1) -> None:
        super().__init__(channels, size, seed)
        shape = [batch, channels, frames, size, size]
        self._input = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)

    def volume(
        self, x: str, out: int, taps: Sequence[int], strides: Sequence[int] = (1, 1, 1), group: int = 1
    ) -> str:
        """A Conv of three spatial axes that keeps the sizes at stride 1."""
        shape = (out, self.channels[x] // group, *taps)
        weight = self._rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        bias = self._rng.standard_normal(out) * 0.1
        inputs = [x, self.weight(weight.astype(np.float32)), self.weight(bias.astype(np.float32))]
        return self.op(
            *("Conv", inputs, out),
            group=group,
            kernel_shape=list(taps),
            pads=[k // 2 for k in taps] * 2,
            strides=list(strides),
        )


def r3d_18(frames: int = 16, size: int = 112, width: int = 64) -> onnx.ModelProto:
    """Video classification (R3D-18): residual blocks of two 3x3x3 convolutions.

    Args:
        frames: of the input.
        size: height and width of the input.
        width: channels of the first blocks; the last have eight times as many.
    """
    g = Video(3, frames, size)
    y = g.relu(g.norm(g.volume("x", width, (3, 7, 7), (1, 2, 2))))
    for factor in (1, 2, 4, 8):
        for first in (True, False):
            stride = (2, 2, 2) if first and factor > 1 else (1, 1, 1)
            inner = g.relu(g.norm(g.volume(y, factor * width, (3, 3, 3), stride)))
            inner = g.norm(g.volume(inner, factor * width, (3, 3, 3)))
            short = y if stride == (1, 1, 1) else g.norm(g.volume(y, factor * width, (1, 1, 1), stride))
            y = g.relu(g.add(inner, short))
    y = g.op("Flatten", [g.op("GlobalAveragePool", [y])], axis=1)
    weight = (g._rng.standard_normal((400, 8 * width)) / np.sqrt(8 * width)).astype(np.float32)
    bias = (g._rng.standard_normal(400) * 0.1).astype(np.float32)
    return g.model(g.op("Gemm", [y, g.weight(weight), g.weight(bias)], 400, transB=1))


ARCHITECTURES: dict[str, Callable[[], onnx.ModelProto]] = {
    builder.__name__: builder
    for builder in (
        resnet_v1,
        densenet,
        repvgg,
        yolo_neck,
        text_detection_head,
        unet_decoder,
        preactivation_resnet,
        slimmed,
        sesr,
        vgg19,
        shufflenet_v2,
        quartznet,
        vocoder,
        speech_features,
        pitch_tracker,
        r3d_18,
    )
}


if __name__ == "__main__":
    onnx.save(ARCHITECTURES[sys.argv[1]](), sys.argv[2])
