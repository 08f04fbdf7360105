"""Which values are constants, and what they hold."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from graphopt.analysis.constants import WORK, Constants
from graphopt.analysis.evaluation import WEIGHT_OPS
from tests.builders import model, parsed, run


def build(nodes, initializers, *, opset=17, ir_version=8, also_inputs=()):
    """A model with an unused input x and the last node's output as its own."""
    arrays = {name: np.asarray(array) for name, array in initializers.items()}
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3])]
    for name in also_inputs:
        kind = helper.np_dtype_to_tensor_dtype(arrays[name].dtype)
        inputs.append(helper.make_tensor_value_info(name, kind, arrays[name].shape))
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    output = onnx.ValueInfoProto(name=nodes[-1].output[0])
    graph = helper.make_graph(nodes, "g", inputs, [output], tensors)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=ir_version))


def output_of(model):
    return model.graph.outputs[0]


def node(op, inputs, **attributes):
    return helper.make_node(op, inputs, ["y"], **attributes)


WEIGHT = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
TABLE = [
    ("Identity", [WEIGHT], {}, WEIGHT),
    ("Transpose", [WEIGHT], {"perm": [2, 0, 1]}, WEIGHT.transpose(2, 0, 1)),
    ("Transpose", [WEIGHT], {}, WEIGHT.T),
    ("Cast", [WEIGHT], {"to": onnx.TensorProto.FLOAT16}, WEIGHT.astype(np.float16)),
    ("Unsqueeze", [WEIGHT, np.array([0, -1])], {}, WEIGHT[None, ..., None]),
    ("Squeeze", [WEIGHT[:1], np.array([0])], {}, WEIGHT[0]),
    ("Squeeze", [WEIGHT[:1]], {}, WEIGHT[0]),
    ("Reshape", [WEIGHT, np.array([0, -1])], {}, WEIGHT.reshape(2, 12)),
    ("Flatten", [WEIGHT], {"axis": 2}, WEIGHT.reshape(6, 4)),
    ("Flatten", [WEIGHT], {"axis": -1}, WEIGHT.reshape(6, 4)),
    ("Shape", [WEIGHT], {}, np.array([2, 3, 4])),
    ("Gather", [WEIGHT, np.array([-1, 0])], {"axis": 1}, WEIGHT[:, [-1, 0]]),
    (
        "Slice",
        [WEIGHT, np.array([-1]), np.array([-100]), np.array([2]), np.array([-2])],
        {},
        WEIGHT[..., ::-2],
    ),
    ("Concat", [WEIGHT, WEIGHT], {"axis": -1}, np.concatenate([WEIGHT, WEIGHT], -1)),
    ("Add", [WEIGHT, np.float32(2)], {}, WEIGHT + 2),
    ("Sub", [WEIGHT, np.float32(2)], {}, WEIGHT - 2),
    ("Mul", [WEIGHT, np.float32(2)], {}, WEIGHT * 2),
    ("Div", [WEIGHT, np.float32(2)], {}, WEIGHT / 2),
    ("Div", [np.array([-7, 7]), np.array([2])], {}, np.array([-3, 3])),
    ("Neg", [WEIGHT], {}, -WEIGHT),
    ("Sqrt", [WEIGHT], {}, np.sqrt(WEIGHT)),
    ("Floor", [WEIGHT / 5], {}, np.floor(WEIGHT / 5)),
    ("Ceil", [WEIGHT / 5], {}, np.ceil(WEIGHT / 5)),
    ("Range", [np.int64(1), np.int64(7), np.int64(2)], {}, np.array([1, 3, 5])),
    ("ConstantOfShape", [np.array([2, 2])], {}, np.zeros((2, 2), np.float32)),
    ("Equal", [np.array([1, 2]), np.array([1, 3])], {}, np.array([True, False])),
    ("Not", [np.array([True, False])], {}, np.array([False, True])),
    ("Where", [np.array([True, False]), np.array([1, 2]), np.array([3, 4])], {}, np.array([1, 4])),
    ("ReduceProd", [np.array([2, 3, 4])], {"keepdims": 0}, np.array(24)),
    ("Min", [np.array([2, 3]), np.array([1, 4])], {}, np.array([1, 3])),
    ("Max", [np.array([2, 3]), np.array([1, 4])], {}, np.array([2, 4])),
    ("Mod", [np.array([7, 8]), np.array([4])], {}, np.array([3, 0])),
    ("Pow", [np.array([2.0, 3.0], np.float32), np.float32(2)], {}, np.array([4, 9], np.float32)),
    ("Expand", [np.array([1, 2]), np.array([3, 1])], {}, np.tile([1, 2], (3, 1))),
]


@pytest.mark.parametrize(("op", "inputs", "attributes", "expected"), TABLE, ids=[row[0] for row in TABLE])
def test_what_cheap_operators_make_of_constants_is_constant(op, inputs, attributes, expected):
    names = [f"c{i}" for i in range(len(inputs))]
    model = build([node(op, names, **attributes)], dict(zip(names, inputs, strict=True)))
    array = Constants(model).array(output_of(model))
    assert array is not None
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)
    reference = ReferenceEvaluator(ir.to_proto(model))
    np.testing.assert_array_equal(array, reference.run(None, {"x": np.zeros((1, 3), np.float32)})[0])


def test_older_opsets_keep_axes_and_ranges_in_attributes():
    model = build([node("Unsqueeze", ["w"], axes=[1])], {"w": WEIGHT}, opset=11)
    np.testing.assert_array_equal(Constants(model).array(output_of(model)), WEIGHT[:, None])
    model = build([node("Slice", ["w"], axes=[2], starts=[1], ends=[-1])], {"w": WEIGHT}, opset=9)
    np.testing.assert_array_equal(Constants(model).array(output_of(model)), WEIGHT[..., 1:-1])


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value": onnx.numpy_helper.from_array(WEIGHT)}, WEIGHT),
        ({"value_float": 1.5}, np.float32(1.5)),
        ({"value_floats": [1.5, 2.0]}, np.array([1.5, 2.0], np.float32)),
        ({"value_int": 3}, np.int64(3)),
        ({"value_ints": [3, 4]}, np.array([3, 4])),
        ({"value_string": "a"}, np.array(b"a")),
        ({"value_strings": ["a", "bc"]}, np.array([b"a", b"bc"])),
    ],
)
def test_every_form_of_constant_node(attributes, expected):
    model = build([node("Constant", [], **attributes)], {})
    array = Constants(model).array(output_of(model))
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    "made",
    [
        node("DequantizeLinear", ["w", "s", "z"]),
        node("QuantizeLinear", ["f", "s", "z"]),
        node("RandomNormalLike", ["f"]),
        node("Hardmax", ["f"]),
        node("Add", ["f", "x"]),
        node("Identity", ["x"]),
        node("Add", ["f", "f"], domain="com.microsoft"),
        node("Reshape", ["f", "bad"]),
        node("Cast", ["f"], to=onnx.TensorProto.FLOAT8E4M3FN),
    ],
    ids=lambda proto: proto.op_type,
)
def test_everything_else_is_not(made):
    arrays = {"w": np.ones(4, np.int8), "f": np.ones(4, np.float32), "s": np.float32(1), "z": np.int8(0)}
    model = build([made], {**arrays, "bad": np.array([7])})
    constants = Constants(model)
    assert constants.array(output_of(model)) is None
    assert not constants.is_constant(output_of(model))
    assert not constants.overridable(output_of(model))


def test_missing_values_are_not_constant():
    constants = Constants(build([node("Relu", ["x"])], {}))
    assert constants.array(None) is None
    assert not constants.is_constant(None)
    assert not constants.overridable(None)


def test_of_large_tensors_is_computed_what_weights_are_made_by():
    large = np.random.default_rng(0).standard_normal((100, 100)).astype(np.float32)
    forms = [
        ("Transpose", {}, True),
        ("Neg", {}, True),
        ("ReduceL2", {"axes": [1]}, True),
        ("Det", {}, False),
    ]
    for op, attributes, constant in forms:
        model = build([node(op, ["w"], **attributes)], {"w": large})
        assert Constants(model).is_constant(output_of(model)) is constant, op
        array = Constants(model).array(output_of(model))
        assert (array is not None) is constant, op
        if constant:
            expected = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": np.zeros((1, 3), np.float32)})
            np.testing.assert_array_equal(array, expected[0])


def test_a_chain_that_takes_many_passes_over_the_model_is_no_constant():
    large = np.ones((100, 100), np.float32)
    chain = [helper.make_node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(100)]
    model = build(chain, {"v0": large})
    constants = Constants(model)
    found = [constants.is_constant(node.outputs[0]) for node in model.graph]
    assert found == [i <= WORK for i in range(100)]
    np.testing.assert_array_equal(constants.array(model.graph[WORK].outputs[0]), -large)


def test_what_constants_are_computed_from_is_what_they_take():
    nodes = [helper.make_node("Cast", ["w"], ["c"], to=onnx.TensorProto.FLOAT), node("Mul", ["c", "c"])]
    model = build(nodes, {"w": np.ones((100, 100), np.float16)})
    constants = Constants(model)
    assert constants.stored_bytes(output_of(model)) == 20_000
    assert constants.is_computed(output_of(model))
    assert not constants.is_computed(model.graph.initializers["w"])


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        ("ConstantOfShape", [np.array([100_000, 100_000])]),
        ("Expand", [np.array([1]), np.array([100_000, 100_000])]),
        ("Range", [np.int64(0), np.int64(10**12), np.int64(1)]),
        ("Add", [np.zeros((4000, 1)), np.zeros((1, 4000))]),
        ("Add", [np.zeros((5000, 1)), np.zeros((1, 5000))]),
        ("MatMul", [np.zeros((5000, 1)), np.zeros((1, 5000))]),
        ("Max", [np.zeros((5000, 1)), np.zeros((1, 5000))]),
        ("Gather", [np.zeros((1, 5000)), np.zeros(5000, np.int64)]),
        ("Tile", [np.zeros(5000), np.array([5000])]),
    ],
)
def test_nothing_large_is_made_of_small_inputs(op, inputs):
    names = [f"c{i}" for i in range(len(inputs))]
    model = build([node(op, names)], dict(zip(names, inputs, strict=True)))
    assert not Constants(model).is_constant(output_of(model))


def test_nothing_is_read_that_is_not_asked_for():
    reads = []

    def tensor(name, array):
        def read():
            reads.append(name)
            return ir.tensor(array)

        return ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape(array.shape), name=name)

    model = build(
        [helper.make_node("Transpose", ["w"], ["t"]), node("Cast", ["t"], to=onnx.TensorProto.FLOAT16)],
        {"w": np.zeros((100, 60), np.float32), "v": np.zeros((100, 60), np.float32)},
    )
    for value in model.graph.initializers.values():
        value.const_value = tensor(value.name, value.const_value.numpy())
    constants = Constants(model)
    assert constants.is_constant(output_of(model))
    assert reads == []
    assert constants.array(output_of(model)).shape == (60, 100)
    assert constants.array(output_of(model)) is constants.array(output_of(model))
    assert reads == ["w"]


def test_arrays_can_not_be_changed_by_accident():
    model = build([node("Transpose", ["w"])], {"w": WEIGHT})
    with pytest.raises(ValueError, match="read-only"):
        Constants(model).array(output_of(model))[0] = 1


@pytest.mark.parametrize(
    ("ir_version", "frozen", "constant"),
    [(3, False, True), (4, False, False), (8, False, False), (8, True, True)],
)
def test_initializers_that_are_inputs(ir_version, frozen, constant):
    nodes = [helper.make_node("Transpose", ["w"], ["t"]), node("Add", ["t", "c"])]
    model = build(nodes, {"w": WEIGHT, "c": np.float32(1)}, ir_version=ir_version, also_inputs=["w"])
    constants = Constants(model, frozen=frozen)
    values = {value.name: value for each in model.graph for value in [*each.inputs, *each.outputs]}
    for name in ("w", "t", "y"):
        assert constants.is_constant(values[name]) is constant
        assert (constants.array(values[name]) is not None) is constant
        assert constants.overridable(values[name]) is not constant
    assert constants.is_constant(values["c"])
    assert not constants.overridable(values["c"])


def test_subgraphs_have_constants_and_what_a_loop_carries_is_none():
    model = ir.from_onnx_text("""<ir_version: 3, opset_import: ["" : 17]>
        g (int64 n, bool go, float[2] x) => (float[2] y) {
            y = Loop (n, go, x) <body = body (int64 i, bool c, float[2] state) => (bool again, float[2] next)
                <float[2] w = {1, 2}> { again = Identity (c)  next = Add (state, w) }>
        }""")
    body = next(iter(model.graph)).attributes["body"].as_graph()
    constants = Constants(model, frozen=True)
    state, weight = list(body)[1].inputs
    np.testing.assert_array_equal(constants.array(weight), [1, 2])
    assert not constants.is_constant(state)
    assert not constants.is_constant(body.inputs[0])


def test_long_chains_need_no_recursion():
    names = ["w", *(f"t{i}" for i in range(3000)), "y"]
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in itertools.pairwise(names)]
    for shape in [(4,), (100, 100)]:
        model = build(nodes, {"w": np.ones(shape, np.float32)})
        assert Constants(model).array(output_of(model)).shape == shape


# --- what weights are computed by, against onnxruntime ------------------------------------------------------

WEIGHT_FORMS = {
    "And": ["And (flag, flag)"],
    "Einsum": [
        'Einsum <equation = "ab,cbij->caij"> (mixing, w)',
        'Einsum <equation = "... k, b -> ..."> (w, c)',
        'Einsum <equation = "abij,cb"> (w, rows)',
    ],
    "DepthToSpace": [f'DepthToSpace <blocksize = 2, mode = "{m}"> (blocks)' for m in ("DCR", "CRD")],
    "GatherND": ["GatherND (w, pairs)", "GatherND <batch_dims = 1> (w, rows1)", "GatherND (w, last)"],
    "Gemm": ["Gemm <alpha = 0.5, transB = 1> (rows, rows)", "Gemm <transA = 1> (rows, rows, low)"],
    "LayerNormalization": ["LayerNormalization <axis = 1> (rows, c, c)", "LayerNormalization (rows, c)"],
    "Not": ["Not (flag)"],
    "Or": ["Or (flag, flag)"],
    "Pad": [
        "Pad (w, pads)",
        "Pad (w, pads, low)",
        'Pad <mode = "reflect"> (w, pads)',
        'Pad <mode = "edge"> (w, pads)',
    ],
    "ScatterElements": ["ScatterElements <axis = 1> (w, places, one)"],
    "ScatterND": ["ScatterND (rows, pairs, updates)"],
    "SpaceToDepth": ["SpaceToDepth <blocksize = 2> (even)"],
    "Trilu": ["Trilu (w)", "Trilu <upper = 0> (w)"],
    **{
        op: [f"{op} (w, v)", f"{op} (w, low)"]
        for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    },
    **{op: [f"{op} <axis = {a}> (w)" for a in (0, 1, -1)] for op in ("Softmax",)},
    "BatchNormalization": ["BatchNormalization <epsilon = 0.1> (w, c, c, c, c)"],
    "Cast": ["Cast <to = 10> (w)", "Cast <to = 7> (w)"],
    "CastLike": ["CastLike (w, n)"],
    "Clip": ["Clip (w, low, high)", "Clip (w, low)", "Clip (w, , high)"],
    "Concat": ["Concat <axis = 1> (w, v)"],
    "ConstantOfShape": ["ConstantOfShape (n)"],
    "Expand": ["Expand (c, wide)"],
    "Flatten": ["Flatten <axis = 2> (w)", "Flatten <axis = -1> (w)"],
    "Gather": ["Gather <axis = 1> (w, n)", "Gather <axis = -1> (w, back)"],
    "InstanceNormalization": ["InstanceNormalization <epsilon = 0.1> (w, c, c)"],
    "LpNormalization": [f"LpNormalization <p = {p}, axis = {a}> (w)" for p in (1, 2) for a in (0, 2, -1)],
    "MatMul": ["MatMul (w, m)"],
    "Mod": ["Mod <fmod = 1> (w, v)", "Mod (n, back)"],
    "PRelu": ["PRelu (w, low)"],
    "Reshape": ["Reshape (w, flat)"],
    "Shape": ["Shape (w)", "Shape <start = 1, end = -1> (w)"],
    "Slice": ["Slice (w, n, wide, axes, n)", "Slice (w, back, first, axes, back)"],
    "Split": ["Split <axis = 1, num_outputs = 2> (w)"],
    "Squeeze": ["Squeeze (one, zero)"],
    "Tile": ["Tile (c, n1)"],
    "Transpose": ["Transpose <perm = [2, 0, 1, 3]> (w)", "Transpose (w)"],
    "Unsqueeze": ["Unsqueeze (w, zero)"],
    "Where": ["Where (flag, w, v)"],
    **{op: [f"{op} (w, v)", f"{op} (w, low)"] for op in ("Add", "Sub", "Mul", "Div")},
    **{op: [f"{op} (w, v)", f"{op} (w, low, v)", f"{op} (w)"] for op in ("Max", "Min", "Mean", "Sum")},
    "Pow": ["Pow (a, low)", "Pow (w, two)"],
    **{
        op: [f"{op} <keepdims = {keep}> (w{axes})" for keep in (0, 1) for axes in ("", ", axes", ", back")]
        for op in WEIGHT_OPS
        if op.startswith("Reduce")
    },
    **{
        op: [f"{op} ({x})"]
        for op, x in {"Acosh": "above", "Log": "a", "Sqrt": "a", "Reciprocal": "a"}.items()
    },
    **{op: [f"{op} (inside)"] for op in ("Acos", "Asin", "Atanh")},
}
"""Forms of the operators; of others the operator on w alone."""

INDICES = {
    "n": [1, 2],
    "n1": [2],
    "back": [-1, -2],
    "wide": [5, 6],
    "axes": [1, 2],
    "first": [-7, -4],
    "flat": [6, -1],
    "zero": [0],
}


WEIGHT_INPUTS = np.random.default_rng(0).standard_normal((4, 6, 3, 3)).astype(np.float32)


def held_for(w):
    """The inputs that the forms name, of the type of w."""
    return {
        "w": w,
        "v": w[:, :, ::-1].copy(),
        "a": np.abs(w) + w.dtype.type(0.1),
        "inside": np.tanh(w) * w.dtype.type(0.99),
        "above": np.abs(w) + w.dtype.type(1),
        "c": np.array([0.5, 2, 1, 3, 1.5, 0.2], w.dtype),
        "m": w[0, 0],
        "one": w[:1],
        "rows": w[:, :, 0, 0].copy(),
        "blocks": w[:, :4].copy(),
        "even": w[:, :, :2, :2].copy(),
        "updates": w[0, :2, 0, 0].copy(),
        "places": np.random.default_rng(0).permutation(6)[None, :, None, None]
        * np.ones((1, 1, 3, 3), np.int64),
        "pairs": np.array([[0, 1], [2, 3]]),
        "pads": np.array([0, 0, 1, 2, 0, 0, 0, 1]),
        "mixing": w[:, :, 0, 1].copy(),
        "rows1": np.array([[0], [5], [-1], [2]]),
        "last": np.array([[-1], [0]]),
        "low": w.dtype.type(-0.5),
        "high": w.dtype.type(0.5),
        "two": w.dtype.type(2),
        "flag": w[0] > 0,
        **{name: np.array(ints) for name, ints in INDICES.items()},
    }


def computed_and_run(form, held, *, opset=24):
    """What is made of constants by an operator or several, here and by onnxruntime."""
    outputs = "y, z" if form.startswith("Split ") else "y"
    text = form if " = " in form.split("(")[0].split("<")[0] else f"{outputs} = {form}"
    y = [onnx.ValueInfoProto(name="y")]
    proto = model(parsed(text), held, inputs={"x": [1]}, outputs=y, opset=opset)
    (expected,) = run(proto, {"x": np.zeros(1, np.float32)})
    network = ir.from_proto(proto)
    return Constants(network).array(network.graph.outputs[0]), expected


@pytest.mark.parametrize("op", sorted(WEIGHT_OPS))
def test_weights_are_computed_as_onnxruntime_computes_them(op: str) -> None:
    for form in WEIGHT_FORMS.get(op, [f"{op} (w)"]):
        found, expected = computed_and_run(form, held_for(WEIGHT_INPUTS))
        assert found is not None, form
        assert found.dtype == expected.dtype and found.shape == expected.shape, form
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6, err_msg=form)


NO_FLOAT16 = {"Celu"}
"""Not for float16, by onnx's text."""


@pytest.mark.parametrize("scale", [1e-4, 1, 200, 3e4])
@pytest.mark.parametrize("op", sorted(WEIGHT_OPS - NO_FLOAT16))
def test_float16_is_computed_in_float32_and_unknown_where_rounding_decides(op: str, scale: float) -> None:
    w = (WEIGHT_INPUTS * scale).clip(-6e4, 6e4).astype(np.float16)
    for form in WEIGHT_FORMS.get(op, [f"{op} (w)"]):
        found, expected = computed_and_run(form, held_for(w))
        if found is None:  # out of float16's range, or lost at its low end
            assert scale != 1, form
            assert not np.isfinite(expected).all() or np.abs(expected).min() < np.finfo(np.float16).tiny, form
            continue
        assert found.dtype == expected.dtype and found.shape == expected.shape, form
        step = float(np.finfo(np.float16).eps) * np.abs(expected, dtype=np.float64).max(initial=0)
        np.testing.assert_allclose(
            *(a.astype(np.float64) for a in (found, expected)), atol=step, err_msg=form
        )


FLOAT16_CHAINS = {
    "norm": "t1 = ReduceL2 <axes = [1, 2, 3]> (w)  y = Div (w, t1)",
    "squares": "t1 = Mul (w, w)  t2 = ReduceSum <keepdims = 1> (t1, all)  t3 = Sqrt (t2)  y = Div (w, t3)",
    "standardised": """t1 = ReduceMean <axes = [1, 2, 3]> (w)  t2 = Sub (w, t1)  t3 = Mul (t2, t2)
        t4 = ReduceMean <axes = [1, 2, 3]> (t3)  t5 = Add (t4, tiny)  t6 = Sqrt (t5)  y = Div (t2, t6)""",
    "cast": "t1 = ReduceSumSquare <axes = [1, 2, 3]> (w)  t2 = Cast <to = 1> (t1)  y = Sqrt (t2)",
    "limited": "t1 = Mul (w, w)  y = Clip (t1, low, high)",
}


@pytest.mark.parametrize(
    ("chain", "scale", "offset", "known"),
    [
        *[(chain, 1, 0, True) for chain in FLOAT16_CHAINS],
        ("norm", 200, 0, True),  # its sum of squares alone is out of range
        ("norm", 3e4, 0, False),  # the norm too
        ("squares", 200, 0, False),
        ("squares", 1e-4, 0, False),  # the squares vanish
        ("standardised", 1e-4, 0, True),  # so do these, but what is added is larger
        ("standardised", 200, 0, False),
        ("standardised", 1, 100, False),  # as much cancels as float16 has digits
        ("cast", 200, 0, False),
        ("limited", 200, 0, True),
    ],
)
def test_chains_in_float16_are_constant_where_rounding_in_between_changes_little(chain, scale, offset, known):
    w = (WEIGHT_INPUTS * scale + offset).clip(-6e4, 6e4).astype(np.float16)
    held = held_for(w) | {"all": np.array([1, 2, 3]), "tiny": np.float16(1e-5)}
    found, expected = computed_and_run(FLOAT16_CHAINS[chain], held, opset=17)
    assert (found is not None) is known
    if known:
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=2**-10, err_msg=chain)


def test_bfloat16_is_computed_in_float32_and_rounded_once():
    kind = ir.DataType.BFLOAT16.numpy()
    w = WEIGHT_INPUTS.reshape(4, -1).astype(kind)
    tensor = ir.serde.serialize_tensor(ir.tensor(w, name="w"))
    nodes = [helper.make_node("ReduceL2", ["w"], ["n"], axes=[1]), node("Div", ["w", "n"])]
    proto = ir.to_proto(build(nodes, {}))
    proto.graph.initializer.append(tensor)
    found = Constants(network := ir.from_proto(proto)).array(output_of(network))
    wide = w.astype(np.float32)
    expected = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    assert found is not None and found.dtype == kind
    np.testing.assert_array_equal(found, expected.astype(kind))
