"""Each rule against a difference of the network's outputs themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_models import batch_norm, bn_inputs, model, node, run_onnx, weight

from graphopt import runtime
from graphopt.analysis import Analysis
from graphopt.gradient import gradients
from graphopt.walk import Program

STEP = 1e-3
NEAR = 0.03


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def network(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, np.ndarray] | None = None,
    shape: Sequence[int | str] = (2, 6, 8, 8),
    **options: Any,
) -> onnx.ModelProto:
    """The nodes behind "v", which is the input."""
    return model([node("Identity", "x", "v", "first"), *nodes], weights, inputs={"x": list(shape)}, **options)


def gradient(proto: onnx.ModelProto, x: np.ndarray, r: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Jᵀr in "v", summed over the outputs."""
    built = ir.from_proto(proto)
    program = Program(built)
    made = gradients(Analysis(built), program, ["v"], {name: f"r/{name}" for name in r}, "g")
    if "v" not in made.names:
        return None
    feeds = {"x": x, **{f"r/{name}": array for name, array in r.items()}}
    kinds = {name: array.dtype for name, array in feeds.items()}
    piece = program.piece([*program.nodes, *made.nodes], kinds, [made.names["v"]], made.constants)
    (found,) = runtime.run(runtime.session(piece, optimised=True), feeds)
    return np.asarray(found)


def drawn(proto: onnx.ModelProto) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """An input, and a random r for each output."""
    rng = np.random.default_rng(2)
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    x = rng.standard_normal(shape).astype(np.float32)
    names = [v.name for v in proto.graph.output]
    outputs = zip(names, run_onnx(proto, {"x": x}), strict=True)
    return x, {name: rng.standard_normal(y.shape).astype(np.float32) for name, y in outputs}


def slope(proto: onnx.ModelProto, x: np.ndarray, r: Mapping[str, np.ndarray], way: np.ndarray) -> float:
    """Σ r · (change of the outputs) along a way, for a small step."""
    ends = [run_onnx(proto, {"x": (x + step * way).astype(np.float32)}) for step in (STEP, -STEP)]
    change = [(a.astype(np.float64) - b) / (2 * STEP) for a, b in zip(*ends, strict=True)]
    return sum(float(np.vdot(each, c)) for each, c in zip(r.values(), change, strict=True))


CASES: dict[str, onnx.ModelProto] = {
    "conv": network([node("Conv", "v w", "y", pads=[1, 0, 2, 1])], {"w": weight(4, 6, 3, 3)}),
    "conv, strided": network(
        [node("Conv", "v w", "y", strides=[2, 3], pads=[1, 1, 0, 1])], {"w": weight(4, 6, 3, 2)}
    ),
    "conv, dilated": network(
        [node("Conv", "v w", "y", dilations=[2, 1], pads=[2, 1, 2, 1])], {"w": weight(4, 6, 3, 3)}
    ),
    "conv, grouped": network(
        [node("Conv", "v w b", "y", group=3)], {"w": weight(9, 2, 3, 3), "b": weight(9)}
    ),
    "conv, same": network(
        [node("Conv", "v w", "y", auto_pad="SAME_UPPER", strides=[2, 2])], {"w": weight(4, 6, 3, 3)}
    ),
    "conv, 1-D": network([node("Conv", "v w", "y", pads=[1, 1])], {"w": weight(4, 6, 3)}, [2, 6, 9]),
    "conv, 3-D": network([node("Conv", "v w", "y")], {"w": weight(4, 6, 2, 3, 2)}, [1, 6, 4, 5, 4]),
    "transposed": network(
        [node("ConvTranspose", "v w", "y", strides=[2, 2], pads=[1, 0, 1, 1], output_padding=[1, 0])],
        {"w": weight(6, 4, 3, 3)},
    ),
    "transposed, grouped": network(
        [node("ConvTranspose", "v w", "y", group=2, dilations=[2, 1])], {"w": weight(6, 4, 3, 3)}
    ),
    "transposed, given size": network(
        [node("ConvTranspose", "v w", "y", strides=[2, 2], output_shape=[16, 15])], {"w": weight(6, 4, 3, 3)}
    ),
    "gemm": network([node("Gemm", "v w b", "y", alpha=0.5)], {"w": weight(6, 4), "b": weight(4)}, [3, 6]),
    "gemm, turned": network([node("Gemm", "v w", "y", transB=1)], {"w": weight(4, 6)}, [3, 6]),
    "matmul": network([node("MatMul", "v w", "y")], {"w": weight(6, 4)}, [3, 5, 6]),
    "matmul, repeated": network([node("MatMul", "w v", "y")], {"w": weight(2, 3, 4, 5)}, [5, 6]),
    "attention": network(
        [
            node("Transpose", "v", "t", perm=[0, 2, 1]),
            node("MatMul", "v t", "s"),
            node("Softmax", "s", "a", axis=-1),
            node("MatMul", "a v", "y"),
        ],
        shape=[2, 5, 6],
    ),
    "relu": network([node("Relu", "v", "y")]),
    "leaky": network([node("LeakyRelu", "v", "y", alpha=0.3)]),
    "prelu": network([node("PRelu", "v w", "y")], {"w": weight(6, 1, 1)}),
    "clip": network([node("Clip", "v low high", "y")], {"low": np.float32(-0.5), "high": np.float32(0.7)}),
    "sigmoid": network([node("Sigmoid", "v", "y")]),
    "swish": network([node("HardSigmoid", "v", "h"), node("Mul", "v h", "y")]),
    "tanh": network([node("Tanh", "v", "y")]),
    "square": network([node("Mul", "v v", "y")]),
    "power": network([node("Pow", "v w", "y")], {"w": np.float32(2)}),
    "add": network([node("Relu", "v", "r"), node("Add", "v r", "y")]),
    "add, repeated": network([node("GlobalAveragePool", "v", "p"), node("Add", "p v", "y")]),
    "add, fewer axes": network(
        [node("ReduceMean", "v", "m", axes=[2, 3], keepdims=0), node("Add", "z m", "y")],
        {"z": weight(3, 2, 6)},
    ),
    "sub": network([node("Sigmoid", "v", "s"), node("Sub", "s v", "y")]),
    "sum": network([node("Relu", "v", "r"), node("Sum", "v r v", "y")]),
    "squeeze-and-excite": network(
        [
            node("GlobalAveragePool", "v", "p"),
            node("Conv", "p w", "c"),
            node("Sigmoid", "c", "s"),
            node("Mul", "v s", "y"),
        ],
        {"w": weight(6, 6, 1, 1)},
    ),
    "div": network([node("Exp", "v", "e"), node("Div", "v e", "y")]),
    "softmax": network([node("Softmax", "v", "y", axis=1)]),
    "softmax, old": network([node("Softmax", "v", "y")], shape=[3, 6], opset=11),
    "batch norm": network([node("BatchNormalization", bn_inputs("v", "bn"), "y")], batch_norm("bn", 6)),
    "instance norm": network(
        [node("InstanceNormalization", "v s b", "y")], {"s": weight(6), "b": weight(6, seed=1)}
    ),
    "layer norm": network(
        [node("LayerNormalization", "v s b", "y")], {"s": weight(6), "b": weight(6, seed=1)}, [2, 5, 6]
    ),
    "average pool": network([node("AveragePool", "v", "y", kernel_shape=[2, 2], strides=[2, 2])]),
    "average pool, overlapping": network(
        [node("AveragePool", "v", "y", kernel_shape=[3, 3], strides=[2, 1])]
    ),
    "max pool": network([node("MaxPool", "v", "y", kernel_shape=[2, 2], strides=[2, 2])]),
    "max pool, overlapping": network(
        [
            node("Relu", "v", "r"),
            node("MaxPool", "r", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        ]
    ),
    "max pool, ceil": network(
        [node("Exp", "v", "e"), node("MaxPool", "e", "y", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)]
    ),
    "max pool, same": network(
        [
            node("Exp", "v", "e"),
            node("MaxPool", "e", "y", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
        ]
    ),
    "global max": network([node("GlobalMaxPool", "v", "y")]),
    "mean": network([node("ReduceMean", "v", "y", axes=[2, 3], keepdims=0)]),
    "mean, of opset 18": network([node("ReduceMean", "v a", "y")], {"a": ints(-1)}, opset=18),
    "total": network([node("ReduceSum", "v a", "y", keepdims=0)], {"a": ints(1)}),
    "flatten": network([node("Flatten", "v", "y")]),
    "reshape": network([node("Reshape", "v s", "y")], {"s": ints(0, -1, 4)}),
    "squeeze": network([node("Unsqueeze", "v a", "u"), node("Squeeze", "u a", "y")], {"a": ints(1)}),
    "transpose": network([node("Transpose", "v", "y", perm=[0, 2, 3, 1])]),
    "concat": network(
        [node("Relu", "v", "r"), node("Concat", "v r z", "y", axis=1)], {"z": weight(2, 1, 8, 8)}
    ),
    "split": network([node("Split", "v n", "a b", axis=1), node("Relu", "b", "y")], {"n": ints(2, 4)}),
    "slice": network(
        [node("Slice", "v s e a t", "y")],
        {"s": ints(1, -1), "e": ints(7, -9), "a": ints(2, 3), "t": ints(2, -1)},
    ),
    "slice, old": network([node("Slice", "v", "y", starts=[1, 2], ends=[5, 99], axes=[1, -1])], opset=9),
    "gather": network([node("Gather", "v i", "y", axis=1)], {"i": ints(0, 3, 3, 5)}),
    "pad": network([node("Pad", "v p", "y")], {"p": ints(0, 1, 2, 0, 0, 2, 0, 3)}),
    "pad, mirrored": network([node("Pad", "v p", "y", mode="reflect")], {"p": ints(0, 0, 2, 1, 0, 0, 2, 3)}),
    "pad, cut": network([node("Pad", "v p", "y")], {"p": ints(0, 0, -1, 0, 0, 0, 2, -2)}),
    "resize": network(
        [
            node(
                "Resize",
                "v - s",
                "y",
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        {"s": np.array([1, 1, 2, 3], np.float32)},
    ),
    "depth to space": network([node("DepthToSpace", "v", "y", blocksize=2)], shape=[1, 12, 3, 4]),
    "pixel shuffle": network([node("DepthToSpace", "v", "y", blocksize=2, mode="CRD")], shape=[1, 12, 3, 4]),
    "space to depth": network([node("SpaceToDepth", "v", "y", blocksize=2)]),
    "two outputs": network([node("Relu", "v", "y"), node("Tanh", "v", "z")], outputs={"y": None, "z": None}),
    "an output on the way": network(
        [node("Relu", "v", "y"), node("Conv", "y w", "z")],
        {"w": weight(4, 6, 3, 3)},
        outputs={"y": None, "z": None},
    ),
    "sizes from the value itself": network(
        [
            node("Shape", "v", "s"),
            node("Gather", "s zero", "n"),
            node("Concat", "n rest", "t", axis=0),
            node("Reshape", "v t", "y"),
        ],
        {"zero": ints(0), "rest": ints(-1)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_gradient_is_the_slope_of_the_outputs(name: str) -> None:
    proto = CASES[name]
    x, r = drawn(proto)
    found = gradient(proto, x, r)
    assert found is not None and found.shape == x.shape
    rng = np.random.default_rng(3)
    ways = [rng.standard_normal(x.shape) for _ in range(8)]
    slopes = np.array([slope(proto, x, r, way) for way in ways])
    predicted = np.array([float(np.vdot(found, way)) for way in ways])
    assert np.linalg.norm(slopes - predicted) <= NEAR * np.linalg.norm(slopes)


NONE: dict[str, onnx.ModelProto] = {
    "no rule": network([node("Round", "v", "y")]),
    "no rule on one of two ways": network(
        [node("Round", "v", "l"), node("Relu", "v", "r"), node("Add", "l r", "y")]
    ),
    "another domain": network([node("Gelu", "v", "y")], domains=["com.microsoft"]),
    "a moving exponent": network([node("Pow", "w v", "y")], {"w": np.float32(2)}),
}
NONE["another domain"].graph.node[1].domain = "com.microsoft"


@pytest.mark.parametrize("name", NONE)
def test_no_gradient_is_better_than_a_wrong_one(name: str) -> None:
    proto = NONE[name]
    assert gradient(proto, *drawn(proto)) is None


def test_a_value_that_no_output_depends_on_has_no_gradient() -> None:
    proto = network([node("Relu", "v", "y"), node("Tanh", "v", "z")], outputs={"z": None})
    built = ir.from_proto(proto)
    found = gradients(Analysis(built), Program(built), ["y", "v"], {"z": "r"}, "g")
    assert set(found.names) == {"v"}
