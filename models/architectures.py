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
    )
}


if __name__ == "__main__":
    onnx.save(ARCHITECTURES[sys.argv[1]](), sys.argv[2])
