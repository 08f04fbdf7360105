"""Writes the classic example: a 5x5 convolution, 192→32 on 28×28, whose weights have input rank 16.

    python models/classic.py classic.onnx

Szegedy et al. 2015 put a 1x1 convolution with 16 channels in front of such a 5x5: 120.4 M MACs become
12.4 M. Here that bottleneck is hidden in the weights, as it is in many trained ones.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IN_CHANNELS, OUT_CHANNELS, RANK, KERNEL, SIZE = 192, 32, 16, 5, 28


def build(seed: int = 0) -> onnx.ModelProto:
    """The model, with seeded weights: [32, 16, 5, 5] times [16, 192], in float32."""
    rng = np.random.default_rng(seed)
    reduce = rng.standard_normal((RANK, IN_CHANNELS)) / np.sqrt(IN_CHANNELS)
    core = rng.standard_normal((OUT_CHANNELS, RANK, KERNEL, KERNEL)) / np.sqrt(RANK * KERNEL * KERNEL)
    weight = np.einsum("orhw,rc->ochw", core, reduce).astype(np.float32)
    bias = rng.standard_normal(OUT_CHANNELS).astype(np.float32)
    node = helper.make_node(
        "Conv", ["x", "weight", "bias"], ["y"], "conv5x5", kernel_shape=[KERNEL, KERNEL], pads=[2, 2, 2, 2]
    )
    graph = helper.make_graph(
        [node],
        "classic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, IN_CHANNELS, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, OUT_CHANNELS, SIZE, SIZE])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    onnx.save(build(), sys.argv[1])
