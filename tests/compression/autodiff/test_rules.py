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


def network(
    nodes: Sequence[onnx.NodeProto] | str,
    shape: Sequence[int] = (2, 6, 8, 8),
    *,
    opset: int = 17,
    outputs: Sequence[str] = ("y",),
    **weights: Any,
) -> onnx.ModelProto:
    """The nodes behind "v", which is the input, and their weights by name; float64 becomes float32."""
    behind = parsed("v = Identity (x)", *([nodes] if isinstance(nodes, str) else nodes))
    arrays = {name: np.asarray(array) for name, array in weights.items()}
    arrays = {name: a.astype(np.float32) if a.dtype == np.float64 else a for name, a in arrays.items()}
    made = dict.fromkeys(outputs)
    return model(behind, arrays, inputs={"x": shape}, outputs=made, opset=opset, domains=["com.microsoft"])


def branches(value: str) -> onnx.NodeProto:
    """An If whose branches read a value from outside."""
    parts = [
        onnx.helper.make_graph([node(op, value, f"{op}/y")], op, [], [info(f"{op}/y", None)])
        for op in ("Relu", "Tanh")
    ]
    return node("If", "c", "y", then_branch=parts[0], else_branch=parts[1])


def gradient(
    proto: onnx.ModelProto, x: np.ndarray, r: Mapping[str, np.ndarray], of: str = "v"
) -> np.ndarray | None:
    """Jᵀr in a value or a weight, summed over the outputs."""
    built = ir.from_proto(proto)
    program = Program(built)
    made = gradients(Analysis(built), program, [of], {name: f"r/{name}" for name in r}, "g")
    if of not in made.names:
        return None
    feeds = {"x": x, **{f"r/{name}": array for name, array in r.items()}}
    kinds = {name: array.dtype for name, array in feeds.items()}
    piece = program.piece([*program.nodes, *made.nodes], kinds, [made.names[of]], made.constants)
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
    "conv": network("y = Conv <pads=[1, 0, 2, 1]> (v, w)", w=weight(4, 6, 3, 3)),
    "conv, strided": network("y = Conv <strides=[2, 3], pads=[1, 1, 0, 1]> (v, w)", w=weight(4, 6, 3, 2)),
    "conv, dilated": network("y = Conv <dilations=[2, 1], pads=[2, 1, 2, 1]> (v, w)", w=weight(4, 6, 3, 3)),
    "conv, grouped": network("y = Conv <group=3> (v, w, b)", w=weight(9, 2, 3, 3), b=weight(9)),
    "conv, same": network('y = Conv <auto_pad="SAME_UPPER", strides=[2, 2]> (v, w)', w=weight(4, 6, 3, 3)),
    "conv, 1-D": network("y = Conv <pads=[1, 1]> (v, w)", [2, 6, 9], w=weight(4, 6, 3)),
    "conv, 3-D": network("y = Conv (v, w)", [1, 6, 4, 5, 4], w=weight(4, 6, 2, 3, 2)),
    "transposed": network(
        "y = ConvTranspose <strides=[2, 2], pads=[1, 0, 1, 1], output_padding=[1, 0]> (v, w)",
        w=weight(6, 4, 3, 3),
    ),
    "transposed, grouped": network(
        "y = ConvTranspose <group=2, dilations=[2, 1]> (v, w)", w=weight(6, 4, 3, 3)
    ),
    "transposed, given size": network(
        "y = ConvTranspose <strides=[2, 2], output_shape=[16, 15]> (v, w)", w=weight(6, 4, 3, 3)
    ),
    "gemm": network("y = Gemm <alpha=0.5> (v, w, b)", [3, 6], w=weight(6, 4), b=weight(4)),
    "gemm, turned": network("y = Gemm <transB=1> (v, w)", [3, 6], w=weight(4, 6)),
    "matmul": network("y = MatMul (v, w)", [3, 5, 6], w=weight(6, 4)),
    "matmul, repeated": network("y = MatMul (w, v)", [5, 6], w=weight(2, 3, 4, 5)),
    "attention": network(
        "t = Transpose <perm=[0, 2, 1]> (v)  s = MatMul (v, t)  a = Softmax <axis=-1> (s)  y = MatMul (a, v)",
        [2, 5, 6],
    ),
    "relu": network("y = Relu (v)"),
    "leaky": network("y = LeakyRelu <alpha=0.3> (v)"),
    "prelu": network("y = PRelu (v, w)", w=weight(6, 1, 1)),
    "clip": network("y = Clip (v, low, high)", low=-0.5, high=0.7),
    "sigmoid": network("y = Sigmoid (v)"),
    "swish": network("h = HardSigmoid (v)  y = Mul (v, h)"),
    "tanh": network("y = Tanh (v)"),
    "square": network("y = Mul (v, v)"),
    "power": network("y = Pow (v, w)", w=2.0),
    "add": network("r = Relu (v)  y = Add (v, r)"),
    "add, repeated": network("p = GlobalAveragePool (v)  y = Add (p, v)"),
    "add, fewer axes": network(
        "m = ReduceMean <axes=[2, 3], keepdims=0> (v)  y = Add (z, m)", z=weight(3, 2, 6)
    ),
    "sub": network("s = Sigmoid (v)  y = Sub (s, v)"),
    "sum": network("r = Relu (v)  y = Sum (v, r, v)"),
    "squeeze-and-excite": network(
        "p = GlobalAveragePool (v)  c = Conv (p, w)  s = Sigmoid (c)  y = Mul (v, s)", w=weight(6, 6, 1, 1)
    ),
    "div": network("e = Exp (v)  y = Div (v, e)"),
    "softmax": network("y = Softmax <axis=1> (v)"),
    "softmax, old": network("y = Softmax (v)", [3, 6], opset=11),
    "batch norm": network([node("BatchNormalization", bn_inputs("v", "bn"), "y")], **batch_norm("bn", 6)),
    "instance norm": network("y = InstanceNormalization (v, s, b)", s=weight(6), b=weight(6, seed=1)),
    "layer norm": network("y = LayerNormalization (v, s, b)", [2, 5, 6], s=weight(6), b=weight(6, seed=1)),
    "average pool": network("y = AveragePool <kernel_shape=[2, 2], strides=[2, 2]> (v)"),
    "average pool, overlapping": network("y = AveragePool <kernel_shape=[3, 3], strides=[2, 1]> (v)"),
    "max pool": network("y = MaxPool <kernel_shape=[2, 2], strides=[2, 2]> (v)"),
    "max pool, overlapping": network(
        "r = Relu (v)  y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (r)"
    ),
    "max pool, ceil": network(
        "e = Exp (v)  y = MaxPool <kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1> (e)"
    ),
    "max pool, same": network(
        'e = Exp (v)  y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"> (e)'
    ),
    "global max": network("y = GlobalMaxPool (v)"),
    "mean": network("y = ReduceMean <axes=[2, 3], keepdims=0> (v)"),
    "mean, of opset 18": network("y = ReduceMean (v, a)", opset=18, a=[-1]),
    "total": network("y = ReduceSum <keepdims=0> (v, a)", a=[1]),
    "flatten": network("y = Flatten (v)"),
    "reshape": network("y = Reshape (v, s)", s=[0, -1, 4]),
    "squeeze": network("u = Unsqueeze (v, a)  y = Squeeze (u, a)", a=[1]),
    "transpose": network("y = Transpose <perm=[0, 2, 3, 1]> (v)"),
    "concat": network("r = Relu (v)  y = Concat <axis=1> (v, r, z)", z=weight(2, 1, 8, 8)),
    "split": network("a, b = Split <axis=1> (v, n)  y = Relu (b)", n=[2, 4]),
    "slice": network("y = Slice (v, s, e, a, t)", s=[1, -1], e=[7, -9], a=[2, 3], t=[2, -1]),
    "slice, old": network("y = Slice <starts=[1, 2], ends=[5, 99], axes=[1, -1]> (v)", opset=9),
    "gather": network("y = Gather <axis=1> (v, i)", i=[0, 3, 3, 5]),
    "pad": network("y = Pad (v, p)", p=[0, 1, 2, 0, 0, 2, 0, 3]),
    "pad, mirrored": network('y = Pad <mode="reflect"> (v, p)', p=[0, 0, 2, 1, 0, 0, 2, 3]),
    "pad, cut": network("y = Pad (v, p)", p=[0, 0, -1, 0, 0, 0, 2, -2]),
    "resize": network(
        """y = Resize
            <mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"> (v, , s)""",
        s=[1.0, 1, 2, 3],
    ),
    "depth to space": network("y = DepthToSpace <blocksize=2> (v)", [1, 12, 3, 4]),
    "pixel shuffle": network('y = DepthToSpace <blocksize=2, mode="CRD"> (v)', [1, 12, 3, 4]),
    "space to depth": network("y = SpaceToDepth <blocksize=2> (v)"),
    "two outputs": network("y = Relu (v)  z = Tanh (v)", outputs="yz"),
    "an output on the way": network("y = Relu (v)  z = Conv (y, w)", outputs="yz", w=weight(4, 6, 3, 3)),
    "transposed, same": network(
        'y = ConvTranspose <strides=[2, 2], auto_pad="SAME_UPPER"> (v, w)', w=weight(6, 4, 5, 4)
    ),
    "transposed, same lower": network(
        'y = ConvTranspose <strides=[2, 1], auto_pad="SAME_LOWER"> (v, w)', w=weight(6, 4, 4, 4)
    ),
    "transposed, given size and padding": network(
        "y = ConvTranspose <strides=[2, 2], output_shape=[15, 16], output_padding=[1, 1]> (v, w)",
        w=weight(6, 4, 3, 3),
    ),
    **{
        f"{name}, of opset {opset}": network(
            f"y = {op} <strides=[2, 3], dilations=[2, 1]> (v, w)", opset=opset, w=weight(6, 6, 3, 2)
        )
        for name, op in (("conv, strided", "Conv"), ("transposed, strided", "ConvTranspose"))
        for opset in (7, 9)
    },
    "einsum": network('y = Einsum <equation="bic,bjc,cd -> bijd"> (v, v, w)', [2, 4, 6], w=weight(6, 3)),
    "elu": network("y = Elu <alpha=0.7> (v)"),
    "selu": network("y = Selu (v)"),
    "celu": network("y = Celu <alpha=0.7> (v)"),
    "softplus": network("y = Softplus (v)"),
    "softsign": network("y = Softsign (v)"),
    "thresholded": network(
        "f = Add (v, far)  y = ThresholdedRelu <alpha=0.3> (f)", far=9.0 * np.sign(weight(6, 1, 1))
    ),
    "hard sigmoid": network("y = HardSigmoid <alpha=0.3> (v)"),
    "hard swish": network("y = HardSwish (v)"),
    "swish, one operator": network("y = Swish <alpha=0.7> (v)", opset=24),
    "mish": network("y = Mish (v)", opset=18),
    "gelu": network("y = Gelu (v)", opset=20),
    "gelu, by erf": network(
        "d = Div (v, root)  e = Erf (d)  f = Add (e, one)  y = Mul (v, f)",
        root=2**0.5,
        one=1.0,
    ),
    "waves": network("s = Sin (v)  c = Cos (v)  y = Mul (s, c)"),
    "abs, neg": network("a = Abs (v)  n = Neg (v)  y = Mul (a, n)"),
    "log, root": network(
        "e = Exp (v)  d = Add (e, e)  l = Log (d)  s = Sqrt (d)  i = Reciprocal (d)  y = Sum (l, s, i)"
    ),
    "generalised mean": network(
        "c = Clip (v, low)  p = Pow (c, three)  m = GlobalAveragePool (p)  y = Pow (m, third)",
        low=1e-6,
        three=3.0,
        third=1 / 3,
    ),
    "a whole exponent": network("y = Pow (v, w)", w=[3]),
    "clip, one side": network("y = Clip (v, , high)", high=0.2),
    "clip, old": network("y = Clip <min=-0.5, max=0.7> (v)", opset=9),
    "max": network("t = Tanh (v)  y = Max (t, z, v)", z=weight(6, 1, 1)),
    "min": network("t = Tanh (v)  y = Min (v, t)"),
    "mean of several": network("t = Tanh (v)  y = Mean (v, t, v)"),
    "where": network("c = Greater (v, zero)  p = GlobalAveragePool (v)  y = Where (c, v, p)", zero=0.0),
    "masked attention": network(
        """t = Transpose <perm=[0, 2, 1]> (v)  s = MatMul (v, t)  m = Where (mask, s, low)
            a = Softmax <axis=-1> (m)  y = MatMul (a, v)""",
        [2, 5, 6],
        mask=np.tri(5, dtype=bool),
        low=-np.inf,
    ),
    "expand": network(
        "u = Unsqueeze (v, one)  e = Expand (u, s)  y = Mul (e, z)",
        [2, 6],
        one=[1],
        s=[2, 3, 6],
        z=weight(2, 3, 6),
    ),
    "tile": network("t = Tile (v, s)  y = Mul (t, z)", [2, 3, 4], s=[2, 1, 3], z=weight(4, 3, 12)),
    "log-softmax": network("y = LogSoftmax <axis=1> (v)"),
    "group norm": network(
        "y = GroupNormalization <num_groups=3> (v, s, b)", opset=21, s=weight(6), b=weight(6, seed=1)
    ),
    "group norm, old": network(
        "y = GroupNormalization <num_groups=3> (v, s, b)", opset=18, s=weight(3), b=weight(3, seed=1)
    ),
    "without a mean": network("y = RMSNormalization <axis=-1> (v, s)", [2, 5, 6], opset=23, s=weight(6)),
    "layer norm, two axes": network(
        "y = LayerNormalization <axis=-2, epsilon=0.1> (v, s)", [2, 5, 6], s=weight(5, 6)
    ),
    "mean and variance": network("y = MeanVarianceNormalization <axes=[2, 3]> (v)"),
    "over the batch": network("y = MeanVarianceNormalization (v)"),
    "unit norm": network("y = LpNormalization <axis=1> (v)"),
    "unit norm, by parts": network("n = ReduceL2 <axes=[1]> (v)  y = Div (v, n)", [3, 6]),
    "local norm": network("y = LRN <size=5, alpha=0.9, beta=0.6, bias=1.5> (v)"),
    "average pool, padded": network(
        "y = AveragePool <kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]> (v)"
    ),
    "average pool, padding counted": network(
        "y = AveragePool <kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1> (v)"
    ),
    "average pool, ceil": network("y = AveragePool <kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1> (v)"),
    "average pool, same": network(
        'y = AveragePool <kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"> (v)'
    ),
    "max pool, dilated": network("y = MaxPool <kernel_shape=[2, 2], dilations=[2, 3], strides=[1, 2]> (v)"),
    "max pool, 1-D": network("y = MaxPool <kernel_shape=[3], strides=[2]> (v)", [2, 4, 9]),
    "max pool, 3-D": network("y = MaxPool <kernel_shape=[2, 2, 2]> (v)", [1, 2, 4, 4, 4]),
    "max pool, large": network("y = MaxPool <kernel_shape=[5, 7], pads=[2, 3, 2, 3]> (v)", [1, 3, 8, 9]),
    "scattered": network(
        "t = Tanh (v)  u = Gather (t, i)  y = ScatterND (v, p, u)",
        [3, 4],
        i=[0, 1],
        p=[[2], [0]],
    ),
    "scattered along an axis": network(
        "u = Slice (v, s, e, a)  y = ScatterElements <axis=-1> (v, p, u)",
        [3, 4],
        s=[1],
        e=[3],
        a=[1],
        p=[[0, 3], [-1, 2], [1, 0]],
    ),
    "highest": network("y = ReduceMax <axes=[1], keepdims=0> (v)"),
    "lowest": network("y = ReduceMin <axes=[-1, 1]> (v)"),
    "squares": network("y = ReduceSumSquare <axes=[2]> (v)"),
    "log of sums": network("y = ReduceLogSumExp <axes=[1], keepdims=0> (v)"),
    "total of all": network("t = ReduceSum <keepdims=0> (v)  y = Mul (t, v)"),
    "over no axis": network("y = ReduceSum <noop_with_empty_axes=1> (v)"),
    "cumulative": network("y = CumSum <exclusive=1> (v, a)", a=2),
    "triangle": network("y = Trilu <upper=0> (v)"),
    "gather, one": network("y = Gather <axis=2> (v, i)", i=-3),
    "gather, many": network("y = Gather <axis=1> (v, i)", i=[[0, 2], [2, 5]]),
    "gather, of the batch": network("y = Gather (v, i)", i=[1]),
    "concat, of the batch": network("t = Tanh (v)  y = Concat <axis=0> (v, t, v)"),
    "split, unused": network("a, b, c = Split <axis=-1> (v, n)  y = Mul (a, c)", n=[3, 2, 3]),
    "slice, of the batch": network("y = Slice (v, s, e, a)", s=[1], e=[2], a=[0]),
    "pad, edge": network('y = Pad <mode="edge"> (v, p)', p=[0, 0, 2, 1, 0, 0, 2, 3]),
    "pad, some axes": network("y = Pad (v, p, , a)", opset=18, p=[1, 2, 0, 3], a=[-1, 1]),
    "resize, linear": network('y = Resize <mode="linear"> (v, , s)', s=[1, 1, 2, 1.5]),
    "resize, down": network(
        'y = Resize <mode="linear", coordinate_transformation_mode="align_corners"> (v, , , s)',
        s=[2, 6, 5, 11],
    ),
    "resize, cubic": network('y = Resize <mode="cubic"> (v, , s)', s=[1.0, 1, 2, 2]),
    "resize, nearest": network("y = Resize (v, , s)", s=[1, 1, 1.5, 0.5]),
    "resize, some axes": network(
        'y = Resize <mode="linear", antialias=1, axes=[3]> (v, , s)', opset=18, s=[0.5]
    ),
    "resize, of opset 11": network(
        'y = Resize <mode="linear"> (v, r, s, n)',
        opset=11,
        r=np.zeros(0),
        s=np.zeros(0),
        n=[2, 6, 12, 16],
    ),
    "resize, of opset 10": network('y = Resize <mode="linear"> (v, s)', opset=10, s=[1.0, 1, 2, 3]),
    "upsample": network("y = Upsample (v, s)", opset=9, s=[1.0, 1, 2, 3]),
    "upsample, old": network('y = Upsample <mode="linear", scales=[1.0, 1.0, 2.0, 2.0]> (v)', opset=7),
    "resize, 5-D": network('y = Resize <mode="linear"> (v, , s)', [1, 2, 3, 4, 3], s=[1.0, 1, 2, 1, 2]),
    "dropout": network(
        "r = Constant <value_float=0.5> ()  t = Constant <value = bool {0}> ()  y = Dropout (v, r, t)"
    ),
    "very large values": network(
        "b = Mul (v, big)  h = HardSwish (b)  y = Mul (h, small)",
        big=1e7,
        small=1e-7,
    ),
    "a cut that is read as a number": network(
        "c = Greater (v, zero)  f = Cast <to = 1> (c)  y = Mul (v, f)", zero=0.0
    ),
    "a moving kernel": network("y = Conv (z, v)", z=weight(1, 6, 9, 9)),
    "its own kernel": network("y = Conv (v, v)"),
    "a moving scale": network(
        "p = GlobalAveragePool (v)  s = Squeeze (p)  y = InstanceNormalization (v, s, s)", [1, 6, 8, 8]
    ),
    "the best class beside": network("y = Relu (v)  a = ArgMax <axis=1> (v)  z = Cast <to=1> (a)"),
    "sizes from the value itself": network(
        "s = Shape (v)  n = Gather (s, zero)  t = Concat <axis = 0> (n, rest)  y = Reshape (v, t)",
        zero=[0],
        rest=[-1],
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


def changed(proto: onnx.ModelProto, name: str, array: np.ndarray) -> onnx.ModelProto:
    """The model with other numbers in one of its weights."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    held = next(tensor for tensor in copy.graph.initializer if tensor.name == name)
    held.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return copy


WEIGHTS = [
    *((name, "w") for name in CASES if name.startswith(("conv", "transposed", "gemm", "matmul"))),
    *((name, "b") for name in ("conv, grouped", "gemm", "instance norm", "layer norm", "group norm")),
    *((name, "s") for name in ("instance norm", "layer norm", "group norm", "layer norm, two axes")),
    *(("batch norm", f"bn/{part}") for part in ("scale", "shift")),
    ("without a mean", "s"),
    ("prelu", "w"),
    ("einsum", "w"),
    ("concat", "z"),
    ("add, fewer axes", "z"),
]


@pytest.mark.parametrize(("name", "of"), WEIGHTS)
def test_a_gradient_in_a_weight_is_the_slope_of_the_outputs(name: str, of: str) -> None:
    proto = CASES[name]
    x, r = drawn(proto)
    held = next(onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == of)
    found = gradient(proto, x, r, of)
    assert found is not None and found.shape == held.shape
    rng = np.random.default_rng(3)
    ways = [rng.standard_normal(held.shape) for _ in range(8)]

    def along(way: np.ndarray) -> float:
        ends = [run(changed(proto, of, held + step * way), {"x": x}) for step in (STEP, -STEP)]
        change = [(a.astype(np.float64) - b) / (2 * STEP) for a, b in zip(*ends, strict=True)]
        return sum(float(np.vdot(each, c)) for each, c in zip(r.values(), change, strict=True))

    slopes = np.array([along(way) for way in ways])
    predicted = np.array([float(np.vdot(found, way)) for way in ways])
    assert np.linalg.norm(slopes - predicted) <= NEAR * np.linalg.norm(slopes)


OLD: dict[str, tuple[int, str, dict[str, Any]]] = {
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
        {"w": np.linspace(1, 2, 6).reshape(6, 1, 1)},
    ),
    "normalised": (
        7,
        """a = BatchNormalization (v, scale, shift, mean, var)  b = InstanceNormalization (a, s, s)
            c = LRN <size = 3> (b)  y = Softmax <axis = 3> (c)""",
        {**{name[3:]: array for name, array in batch_norm("bn", 6).items()}, "s": np.linspace(1, 2, 6)},
    ),
    "taken apart": (
        8,
        """r = Relu (v)  c = Concat <axis = 1> (r, v)
            m = MaxPool <kernel_shape = [2, 2], strides = [1, 1]> (c)
            t = Transpose <perm = [0, 2, 3, 1]> (m)  e = Expand (t, size)  y = Max (e, w)""",
        {"size": [2, 7, 7, 12], "w": weight(12, seed=4)},
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
        follows(network(nodes, opset=opset, **weights))


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 21, 23])
@pytest.mark.parametrize(("op", "since"), [("ReduceSum", 13), ("ReduceMean", 18), ("ReduceL2", 18)])
def test_reductions_take_their_axes_in_both_ways(op: str, since: int, opset: int) -> None:
    """They are an attribute before a certain operator set."""
    axes, inputs = (", axes = [1]", "v") if opset < since else ("", "v, a")
    weights = {} if opset < since else {"a": [1]}
    follows(network(f"y = {op} <keepdims = 0{axes}> ({inputs})", opset=opset, **weights))


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 18, 21, 23])
def test_what_moves_numbers_in_every_operator_set(opset: int) -> None:
    weights = {"p": [0, 1, 2, 0, 0, 2, 0, 3], "u": [0], "n": [2, 7]}
    weights |= {"starts": [2, 1], "ends": [7, 5], "axes": [1, 3]}
    nodes = [
        "a = Pad <pads = [0, 1, 2, 0, 0, 2, 0, 3]> (v)" if opset < 11 else "a = Pad (v, p)",
        "b = Slice <starts = [2, 1], ends = [7, 5], axes = [1, 3]> (a)"
        if opset < 10
        else "b = Slice (a, starts, ends, axes)",
        "c, d = Split <axis = 1, split = [2, 7]> (a)  e = Unsqueeze <axes = [0]> (b)"
        if opset < 13
        else "c, d = Split <axis = 1> (a, n)  e = Unsqueeze (b, u)",
        "y = Identity (c)",
    ]
    follows(network("  ".join(nodes), opset=opset, outputs="yed", **weights))


NONE: dict[str, onnx.ModelProto] = {
    "no rule": network("y = Round (v)"),
    "no rule on one of two ways": network("l = Round (v)  r = Relu (v)  y = Add (l, r)"),
    "another domain": network("y = com.microsoft.Gelu (v)"),
    "a moving exponent": network("y = Pow (w, v)", w=2.0),
    "its own exponent": network("e = Exp (v)  y = Pow (e, e)"),
    "its own limit": network("m = ReduceMax <keepdims=0> (v)  y = Clip (v, , m)"),
    "scattered twice": network(
        "y = ScatterElements (z, p, v)", [2, 4], z=weight(3, 4), p=np.zeros((2, 4), np.int64)
    ),
    "a choice from very many": network(
        "y = Slice (v, s, e, a, t)", [1, 20000], s=[0], e=[20000], a=[1], t=[3]
    ),
    "its largest few": network("y, i = TopK (v, k)", k=[3]),
    "where the largest are": network(
        """y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (v)
            z = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (y, i)""",
        outputs="z",
    ),
    "a body": network([branches("v")], c=[True]),
    "before operators repeat values": network("y = Relu (v)", opset=6),
}


@pytest.mark.parametrize("name", NONE)
def test_no_gradient_is_better_than_a_wrong_one(name: str) -> None:
    proto = NONE[name]
    assert gradient(proto, *drawn(proto)) is None


def test_a_value_that_no_output_depends_on_has_no_gradient() -> None:
    built = ir.from_proto(network("y = Relu (v)  z = Tanh (v)", outputs="z"))
    assert set(gradients(Analysis(built), Program(built), ["y", "v"], {"z": "r"}, "g").names) == {"v"}
