"""Each rule against a difference of the network's outputs themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.analysis.snapshot import Analysis
from graphopt.compression.autodiff.gradients import gradients
from graphopt.runtime import session
from graphopt.runtime.program import Program
from tests.builders import batch_norm, bn_inputs, info, model, node, parsed, run, weight

STEP = 1e-3
NEAR = 0.03


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def network(
    nodes: Sequence[onnx.NodeProto] | str,
    weights: Mapping[str, np.ndarray] | None = None,
    shape: Sequence[int | str] = (2, 6, 8, 8),
    **options: Any,
) -> onnx.ModelProto:
    """The nodes behind "v", which is the input."""
    given = [nodes] if isinstance(nodes, str) else nodes
    return model(
        [node("Identity", "x", "v", "first"), *parsed(*given)], weights, inputs={"x": list(shape)}, **options
    )


def branches(value: str) -> onnx.NodeProto:
    """An If whose branches read a value from outside."""
    parts = [
        onnx.helper.make_graph([node(op, value, f"{op}/y")], op, [], [info(f"{op}/y", None)])
        for op in ("Relu", "Tanh")
    ]
    return node("If", "c", "y", then_branch=parts[0], else_branch=parts[1])


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
    (found,) = session.run(session.session(piece, optimised=True), feeds)
    return np.asarray(found)


def drawn(proto: onnx.ModelProto) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """An input, and a random r for each output."""
    rng = np.random.default_rng(2)
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    x = rng.standard_normal(shape).astype(np.float32)
    names = [v.name for v in proto.graph.output]
    outputs = zip(names, run(proto, {"x": x}), strict=True)
    return x, {name: rng.standard_normal(y.shape).astype(np.float32) for name, y in outputs}


def slope(proto: onnx.ModelProto, x: np.ndarray, r: Mapping[str, np.ndarray], way: np.ndarray) -> float:
    """Σ r · (change of the outputs) along a way, for a small step."""
    ends = [run(proto, {"x": (x + step * way).astype(np.float32)}) for step in (STEP, -STEP)]
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
        """t = Transpose <perm = [0, 2, 1]> (v)  s = MatMul (v, t)  a = Softmax <axis = -1> (s)
            y = MatMul (a, v)""",
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
        "p = GlobalAveragePool (v)  c = Conv (p, w)  s = Sigmoid (c)  y = Mul (v, s)",
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
        """r = Relu (v)
            y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (r)"""
    ),
    "max pool, ceil": network(
        [node("Exp", "v", "e"), node("MaxPool", "e", "y", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)]
    ),
    "max pool, same": network(
        """e = Exp (v)
            y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"> (e)"""
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
    "transposed, same": network(
        [node("ConvTranspose", "v w", "y", strides=[2, 2], auto_pad="SAME_UPPER")], {"w": weight(6, 4, 5, 4)}
    ),
    "transposed, same lower": network(
        [node("ConvTranspose", "v w", "y", strides=[2, 1], auto_pad="SAME_LOWER")], {"w": weight(6, 4, 4, 4)}
    ),
    "transposed, given size and padding": network(
        [
            node(
                "ConvTranspose",
                "v w",
                "y",
                strides=[2, 2],
                output_shape=[15, 16],
                output_padding=[1, 1],
            )
        ],
        {"w": weight(6, 4, 3, 3)},
    ),
    "einsum": network(
        [node("Einsum", "v v w", "y", equation="bic,bjc,cd -> bijd")], {"w": weight(6, 3)}, [2, 4, 6]
    ),
    "elu": network([node("Elu", "v", "y", alpha=0.7)]),
    "selu": network([node("Selu", "v", "y")]),
    "celu": network([node("Celu", "v", "y", alpha=0.7)]),
    "softplus": network([node("Softplus", "v", "y")]),
    "softsign": network([node("Softsign", "v", "y")]),
    "thresholded": network(
        [node("Add", "v far", "f"), node("ThresholdedRelu", "f", "y", alpha=0.3)],
        {"far": np.float32(9) * np.sign(weight(6, 1, 1))},
    ),
    "hard sigmoid": network([node("HardSigmoid", "v", "y", alpha=0.3)]),
    "hard swish": network([node("HardSwish", "v", "y")]),
    "swish, one operator": network([node("Swish", "v", "y", alpha=0.7)], opset=24),
    "mish": network([node("Mish", "v", "y")], opset=18),
    "gelu": network([node("Gelu", "v", "y")], opset=20),
    "gelu, by erf": network(
        "d = Div (v, root)  e = Erf (d)  f = Add (e, one)  y = Mul (v, f)",
        {"root": np.float32(2**0.5), "one": np.float32(1)},
    ),
    "waves": network([node("Sin", "v", "s"), node("Cos", "v", "c"), node("Mul", "s c", "y")]),
    "abs, neg": network([node("Abs", "v", "a"), node("Neg", "v", "n"), node("Mul", "a n", "y")]),
    "log, root": network(
        """e = Exp (v)  d = Add (e, e)  l = Log (d)  s = Sqrt (d)  i = Reciprocal (d)
            y = Sum (l, s, i)"""
    ),
    "generalised mean": network(
        "c = Clip (v, low)  p = Pow (c, three)  m = GlobalAveragePool (p)  y = Pow (m, third)",
        {"low": np.float32(1e-6), "three": np.float32(3), "third": np.float32(1 / 3)},
    ),
    "a whole exponent": network([node("Pow", "v w", "y")], {"w": np.array([3], np.int64)}),
    "clip, one side": network([node("Clip", "v - high", "y")], {"high": np.float32(0.2)}),
    "clip, old": network([node("Clip", "v", "y", min=-0.5, max=0.7)], opset=9),
    "max": network([node("Tanh", "v", "t"), node("Max", "t z v", "y")], {"z": weight(6, 1, 1)}),
    "min": network([node("Tanh", "v", "t"), node("Min", "v t", "y")]),
    "mean of several": network([node("Tanh", "v", "t"), node("Mean", "v t v", "y")]),
    "where": network(
        "c = Greater (v, zero)  p = GlobalAveragePool (v)  y = Where (c, v, p)",
        {"zero": np.float32(0)},
    ),
    "masked attention": network(
        """t = Transpose <perm = [0, 2, 1]> (v)  s = MatMul (v, t)  m = Where (mask, s, low)
            a = Softmax <axis = -1> (m)  y = MatMul (a, v)""",
        {"mask": np.tri(5, dtype=bool), "low": np.float32(-np.inf)},
        [2, 5, 6],
    ),
    "expand": network(
        [node("Unsqueeze", "v one", "u"), node("Expand", "u s", "e"), node("Mul", "e z", "y")],
        {"one": ints(1), "s": ints(2, 3, 6), "z": weight(2, 3, 6)},
        [2, 6],
    ),
    "tile": network(
        [node("Tile", "v s", "t"), node("Mul", "t z", "y")],
        {"s": ints(2, 1, 3), "z": weight(4, 3, 12)},
        [2, 3, 4],
    ),
    "log-softmax": network([node("LogSoftmax", "v", "y", axis=1)]),
    "group norm": network(
        [node("GroupNormalization", "v s b", "y", num_groups=3)],
        {"s": weight(6), "b": weight(6, seed=1)},
        opset=21,
    ),
    "group norm, old": network(
        [node("GroupNormalization", "v s b", "y", num_groups=3)],
        {"s": weight(3), "b": weight(3, seed=1)},
        opset=18,
    ),
    "without a mean": network(
        [node("RMSNormalization", "v s", "y", axis=-1)], {"s": weight(6)}, [2, 5, 6], opset=23
    ),
    "layer norm, two axes": network(
        [node("LayerNormalization", "v s", "y", axis=-2, epsilon=0.1)], {"s": weight(5, 6)}, [2, 5, 6]
    ),
    "mean and variance": network([node("MeanVarianceNormalization", "v", "y", axes=[2, 3])]),
    "over the batch": network([node("MeanVarianceNormalization", "v", "y")]),
    "unit norm": network([node("LpNormalization", "v", "y", axis=1)]),
    "unit norm, by parts": network(
        [node("ReduceL2", "v", "n", axes=[1]), node("Div", "v n", "y")], shape=[3, 6]
    ),
    "local norm": network([node("LRN", "v", "y", size=5, alpha=0.9, beta=0.6, bias=1.5)]),
    "average pool, padded": network(
        [node("AveragePool", "v", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])]
    ),
    "average pool, padding counted": network(
        [node("AveragePool", "v", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)]
    ),
    "average pool, ceil": network(
        [node("AveragePool", "v", "y", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)]
    ),
    "average pool, same": network(
        [node("AveragePool", "v", "y", kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER")]
    ),
    "max pool, dilated": network(
        [node("MaxPool", "v", "y", kernel_shape=[2, 2], dilations=[2, 3], strides=[1, 2])]
    ),
    "max pool, 1-D": network([node("MaxPool", "v", "y", kernel_shape=[3], strides=[2])], shape=[2, 4, 9]),
    "max pool, 3-D": network([node("MaxPool", "v", "y", kernel_shape=[2, 2, 2])], shape=[1, 2, 4, 4, 4]),
    "max pool, large": network(
        [node("MaxPool", "v", "y", kernel_shape=[5, 7], pads=[2, 3, 2, 3])], shape=[1, 3, 8, 9]
    ),
    "scattered": network(
        [node("Tanh", "v", "t"), node("Gather", "t i", "u"), node("ScatterND", "v p u", "y")],
        {"i": ints(0, 1), "p": np.array([[2], [0]], np.int64)},
        [3, 4],
    ),
    "scattered along an axis": network(
        [node("Slice", "v s e a", "u"), node("ScatterElements", "v p u", "y", axis=-1)],
        {"s": ints(1), "e": ints(3), "a": ints(1), "p": np.array([[0, 3], [-1, 2], [1, 0]], np.int64)},
        [3, 4],
    ),
    "highest": network([node("ReduceMax", "v", "y", axes=[1], keepdims=0)]),
    "lowest": network([node("ReduceMin", "v", "y", axes=[-1, 1])]),
    "squares": network([node("ReduceSumSquare", "v", "y", axes=[2])]),
    "log of sums": network([node("ReduceLogSumExp", "v", "y", axes=[1], keepdims=0)]),
    "total of all": network([node("ReduceSum", "v", "t", keepdims=0), node("Mul", "t v", "y")]),
    "over no axis": network([node("ReduceSum", "v", "y", noop_with_empty_axes=1)]),
    "cumulative": network([node("CumSum", "v a", "y", exclusive=1)], {"a": np.array(2, np.int64)}),
    "triangle": network([node("Trilu", "v", "y", upper=0)]),
    "gather, one": network([node("Gather", "v i", "y", axis=2)], {"i": np.array(-3, np.int64)}),
    "gather, many": network([node("Gather", "v i", "y", axis=1)], {"i": np.array([[0, 2], [2, 5]])}),
    "gather, of the batch": network([node("Gather", "v i", "y")], {"i": ints(1)}),
    "concat, of the batch": network([node("Tanh", "v", "t"), node("Concat", "v t v", "y", axis=0)]),
    "split, unused": network(
        [node("Split", "v n", "a b c", axis=-1), node("Mul", "a c", "y")], {"n": ints(3, 2, 3)}
    ),
    "slice, of the batch": network(
        [node("Slice", "v s e a", "y")], {"s": ints(1), "e": ints(2), "a": ints(0)}
    ),
    "pad, edge": network([node("Pad", "v p", "y", mode="edge")], {"p": ints(0, 0, 2, 1, 0, 0, 2, 3)}),
    "pad, some axes": network(
        [node("Pad", "v p - a", "y")], {"p": ints(1, 2, 0, 3), "a": ints(-1, 1)}, opset=18
    ),
    "resize, linear": network(
        [node("Resize", "v - s", "y", mode="linear")], {"s": np.array([1, 1, 2, 1.5], np.float32)}
    ),
    "resize, down": network(
        [node("Resize", "v - - s", "y", mode="linear", coordinate_transformation_mode="align_corners")],
        {"s": ints(2, 6, 5, 11)},
    ),
    "resize, cubic": network(
        [node("Resize", "v - s", "y", mode="cubic")], {"s": np.array([1, 1, 2, 2], np.float32)}
    ),
    "resize, nearest": network([node("Resize", "v - s", "y")], {"s": np.array([1, 1, 1.5, 0.5], np.float32)}),
    "resize, some axes": network(
        [node("Resize", "v - s", "y", mode="linear", antialias=1, axes=[3])],
        {"s": np.array([0.5], np.float32)},
        opset=18,
    ),
    "resize, of opset 11": network(
        [node("Resize", "v r s n", "y", mode="linear")],
        {"r": np.zeros(0, np.float32), "s": np.zeros(0, np.float32), "n": ints(2, 6, 12, 16)},
        opset=11,
    ),
    "resize, of opset 10": network(
        [node("Resize", "v s", "y", mode="linear")], {"s": np.array([1, 1, 2, 3], np.float32)}, opset=10
    ),
    "upsample": network([node("Upsample", "v s", "y")], {"s": np.array([1, 1, 2, 3], np.float32)}, opset=9),
    "upsample, old": network(
        [node("Upsample", "v", "y", mode="linear", scales=[1.0, 1.0, 2.0, 2.0])], opset=7
    ),
    "resize, 5-D": network(
        [node("Resize", "v - s", "y", mode="linear")],
        {"s": np.array([1, 1, 2, 1, 2], np.float32)},
        [1, 2, 3, 4, 3],
    ),
    "dropout": network(
        [
            node("Constant", "", "r", value_float=0.5),
            node("Constant", "", "t", value=onnx.numpy_helper.from_array(np.array(False))),
            node("Dropout", "v r t", "y"),
        ]
    ),
    "very large values": network(
        [node("Mul", "v big", "b"), node("HardSwish", "b", "h"), node("Mul", "h small", "y")],
        {"big": np.float32(1e7), "small": np.float32(1e-7)},
    ),
    "a cut that is read as a number": network(
        "c = Greater (v, zero)  f = Cast <to = 1> (c)  y = Mul (v, f)",
        {"zero": np.float32(0)},
    ),
    "the best class beside": network(
        [node("Relu", "v", "y"), node("ArgMax", "v", "a", axis=1), node("Cast", "a", "z", to=1)],
        outputs={"y": None},
    ),
    "sizes from the value itself": network(
        "s = Shape (v)  n = Gather (s, zero)  t = Concat <axis = 0> (n, rest)  y = Reshape (v, t)",
        {"zero": ints(0), "rest": ints(-1)},
    ),
}


def follows(proto: onnx.ModelProto) -> None:
    """The gradient says how the outputs change."""
    x, r = drawn(proto)
    found = gradient(proto, x, r)
    assert found is not None and found.shape == x.shape
    rng = np.random.default_rng(3)
    ways = [rng.standard_normal(x.shape) for _ in range(8)]
    slopes = np.array([slope(proto, x, r, way) for way in ways])
    predicted = np.array([float(np.vdot(found, way)) for way in ways])
    assert np.linalg.norm(slopes - predicted) <= NEAR * np.linalg.norm(slopes)


@pytest.mark.parametrize("name", CASES)
def test_a_gradient_is_the_slope_of_the_outputs(name: str) -> None:
    follows(CASES[name])


OLD: dict[str, tuple[int, str, dict[str, np.ndarray]]] = {
    "rectifiers": (
        7,
        """a = LeakyRelu <alpha = 0.3> (v)  b = PRelu (a, w)  c = Elu (b)  d = Sigmoid (c)
            e = Relu (c)  f = Sum (d, e, a)  g = Softplus (f)  y = Abs (g)""",
        {"w": weight(6, 1, 1)},
    ),
    "repeated": (
        7,
        """p = GlobalAveragePool (v)  a = Mul (p, v)  b = Sub (a, p)  c = Div (b, w)  t = Tanh (c)
            y = Add (t, p)""",
        {"w": np.linspace(1, 2, 6, dtype=np.float32).reshape(6, 1, 1)},
    ),
    "normalised": (
        7,
        [
            node("BatchNormalization", bn_inputs("v", "bn"), "a"),
            node("InstanceNormalization", "a s s", "b"),
            node("LRN", "b", "c", size=3),
            node("Softmax", "c", "y", axis=3),
        ],
        {**batch_norm("bn", 6), "s": np.linspace(1, 2, 6, dtype=np.float32)},
    ),
    "taken apart": (
        8,
        """r = Relu (v)  c = Concat <axis = 1> (r, v)
            m = MaxPool <kernel_shape = [2, 2], strides = [1, 1]> (c)
            t = Transpose <perm = [0, 2, 3, 1]> (m)  e = Expand (t, shape)  y = Max (e, w)""",
        {"shape": ints(2, 7, 7, 12), "w": weight(12, seed=4)},
    ),
    "matrices": (
        9,
        """t = Transpose <perm = [0, 1, 3, 2]> (v)  s = MatMul (v, t)  a = Softmax <axis = -1> (s)
            b = Erf (a)  y = Where (c, b, w)""",
        {"c": np.tri(8, dtype=bool), "w": weight(8)},
    ),
}
"""The first operator set that has them all, the operators, and their weights."""


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 18, 21, 23])
@pytest.mark.parametrize("name", OLD)
def test_rules_use_the_operators_of_the_models_own_set(name: str, opset: int) -> None:
    since, nodes, weights = OLD[name]
    if opset >= since:
        follows(network(nodes, weights, opset=opset))


def reduction(op: str, opset: int, since: int, **attributes: Any) -> onnx.ModelProto:
    """A reduction over axis 1, which is an attribute before a certain operator set."""
    if opset < since:
        return network([node(op, "v", "y", axes=[1], **attributes)], opset=opset)
    return network([node(op, "v a", "y", **attributes)], {"a": ints(1)}, opset=opset)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 21, 23])
@pytest.mark.parametrize(("op", "since"), [("ReduceSum", 13), ("ReduceMean", 18), ("ReduceL2", 18)])
def test_reductions_take_their_axes_in_both_ways(op: str, since: int, opset: int) -> None:
    follows(reduction(op, opset, since, keepdims=0))


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 18, 21, 23])
def test_what_moves_numbers_in_every_operator_set(opset: int) -> None:
    pads, ends = [0, 1, 2, 0, 0, 2, 0, 3], {"starts": [2, 1], "ends": [7, 5], "axes": [1, 3]}
    weights = {"p": np.array(pads), "n": ints(2, 5), "u": ints(0)}
    weights |= {key: np.array(value) for key, value in ends.items()}
    nodes = [
        node("Pad", "v", "a", pads=pads) if opset < 11 else node("Pad", "v p", "a"),
        node("Slice", "a", "b", **ends) if opset < 10 else node("Slice", "a starts ends axes", "b"),
        *(
            [node("Split", "a", "c d", axis=1, split=[2, 7]), node("Unsqueeze", "b", "e", axes=[0])]
            if opset < 13
            else [node("Split", "a n7", "c d", axis=1), node("Unsqueeze", "b u", "e")]
        ),
        node("Identity", "c", "y"),
    ]
    weights["n7"] = ints(2, 7)
    follows(network(nodes, weights, opset=opset, outputs={"y": None, "e": None, "d": None}))


NONE: dict[str, onnx.ModelProto] = {
    "no rule": network([node("Round", "v", "y")]),
    "no rule on one of two ways": network(
        [node("Round", "v", "l"), node("Relu", "v", "r"), node("Add", "l r", "y")]
    ),
    "another domain": network([node("Gelu", "v", "y")], domains=["com.microsoft"]),
    "a moving exponent": network([node("Pow", "w v", "y")], {"w": np.float32(2)}),
    "its own exponent": network([node("Exp", "v", "e"), node("Pow", "e e", "y")]),
    "its own limit": network([node("Clip", "v - m", "y"), node("ReduceMax", "v", "m", keepdims=0)][::-1]),
    "a moving kernel": network([node("Conv", "z v", "y")], {"z": weight(1, 6, 9, 9)}),
    "its own kernel": network([node("Conv", "v v", "y")]),
    "a moving scale": network(
        "p = GlobalAveragePool (v)  s = Squeeze (p)  y = InstanceNormalization (v, s, s)",
        shape=[1, 6, 8, 8],
    ),
    "scattered twice": network(
        [node("ScatterElements", "z p v", "y")],
        {"z": weight(3, 4), "p": np.zeros((2, 4), np.int64)},
        [2, 4],
    ),
    "a choice from very many": network(
        [node("Slice", "v s e a t", "y")],
        {"s": ints(0), "e": ints(20000), "a": ints(1), "t": ints(3)},
        [1, 20000],
    ),
    "its largest few": network([node("TopK", "v k", "y i")], {"k": ints(3)}),
    "where the largest are": network(
        """y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (v)
            z = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (y, i)""",
        outputs={"z": None},
    ),
    "a body": network([branches("v")], {"c": np.array([True])}),
    "before operators repeat values": network([node("Relu", "v", "y")], opset=6),
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
