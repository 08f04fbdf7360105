"""The counts: MACs of each operator and of real architectures, parameters, and what is not counted."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.analysis import costs, operators
from graphopt.analysis.constants import Constants
from graphopt.analysis.shapes.inference import infer
from tests.places import LIGHT


def load(path):
    if not path.is_file():
        pytest.skip(f"the model is not here: {path}")
    return ir.load(path)


def total(model, **options):
    sizes = infer(model, Constants(model), **options)
    return costs.total_macs(model.graph, sizes.get, sizes.content)


def text(body, *, imports='"" : 17, "custom" : 1, "local" : 1'):
    return ir.from_onnx_text(f"<ir_version: 8, opset_import: [{imports}]> {body}")


@pytest.mark.parametrize(
    ("inputs", "call", "expected"),
    [
        ("float[2,6,9,9] x, float[4,6,3,3] w", "Conv (x, w)", 2 * 4 * 7 * 7 * 6 * 9),
        ("float[2,6,9,9] x, float[4,6,3,3] w, float[4] b", "Conv (x, w, b)", 2 * 4 * 7 * 7 * 6 * 9),
        ("float[2,6,9,9] x, float[4,3,3,3] w", "Conv <group = 2> (x, w)", 2 * 4 * 7 * 7 * 3 * 9),
        (
            "float[2,6,9,9] x, float[6,1,3,3] w",
            "Conv <group = 6, strides = [2, 2]> (x, w)",
            2 * 6 * 4 * 4 * 9,
        ),
        ("float[1,2,8] x, float[3,2,5] w", "Conv <dilations = [1], pads = [2, 2]> (x, w)", 3 * 8 * 2 * 5),
        ("float[1,2,4,4,4] x, float[3,2,2,2,2] w", "Conv (x, w)", 3 * 27 * 2 * 8),
        ("float[2,6,5,7] x, float[6,4,2,2] w", "ConvTranspose <strides = [2, 2]> (x, w)", 2 * 35 * 6 * 4 * 4),
        ("float[2,6,5,7] x, float[6,2,2,2] w", "ConvTranspose <group = 2> (x, w)", 2 * 35 * 6 * 2 * 4),
        ("float[3,5] x, float[5,7] w", "Gemm (x, w)", 105),
        ("float[5,3] x, float[7,5] w, float[7] b", "Gemm <transA = 1, transB = 1> (x, w, b)", 105),
        ("float[3,5] x, float[5,7] w", "MatMul (x, w)", 105),
        ("float[2,1,3,5] x, float[4,5,7] w", "MatMul (x, w)", 8 * 105),
        ("float[5] x, float[5,7] w", "MatMul (x, w)", 35),
        ("float[2,3,5] x, float[5] w", "MatMul (x, w)", 30),
        ("float[5] x, float[5] w", "MatMul (x, w)", 5),
    ],
)
def test_macs_of_each_operator(inputs, call, expected):
    assert total(text(f"g ({inputs}) => (float[] y) {{ y = {call} }}")) == expected


def test_an_unknown_size_makes_the_count_unknown():
    model = text("g (float[1,6,H,9] x, float[4,6,3,3] w) => (float[] y) { y = Conv (x, w) }")
    assert total(model) is None
    assert total(model, bindings={"x": [1, 6, 9, 9]}) == 4 * 49 * 54
    model = text("g (float[1,H] x, float[5,7] w) => (float[] y) { y = MatMul (x, w) }")
    assert total(model) == 35  # the other operand tells
    model = text("g (float[1,H] x, float[S,7] w) => (float[] y) { y = MatMul (x, w) }")
    assert total(model, assume_batch=None) is None


def test_only_linear_operators_have_a_count():
    relu, custom = text("g (float[1,6] x) => (float[] y) { a = Relu (x)  y = custom.Conv (a) }").graph
    assert not costs.is_linear(relu)
    assert not costs.is_linear(custom)
    with pytest.raises(KeyError):
        costs.macs(relu, lambda value: (1, 6))
    assert frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}) == costs.LINEAR_OPS


@pytest.mark.parametrize(
    ("trips", "go", "again", "times"),
    [
        ("n", "go", "Identity (c)", 5),
        ("n", "", "Identity (c)", 5),
        ("n", "go", "Identity (go)", 5),
        ("n", "stop", "Identity (c)", 0),
        ("n", "", "Less (i, n)", None),
        ("n", "asked", "Identity (c)", None),
        ("given", "go", "Identity (c)", None),
        ("", "go", "Identity (c)", None),
    ],
)
def test_a_loop_counts_as_often_as_it_runs_where_that_is_known(trips, go, again, times):
    model = text(f"""g (int64 given, bool asked, float[3, 3] x) => (float[] y)
        <int64 n = {{5}}, bool go = {{1}}, bool stop = {{0}}> {{ y = Loop ({trips}, {go}, x) <
        body = b (int64 i, bool c, float[3, 3] s) => (bool again, float[3, 3] t)
            {{ again = {again}  t = MatMul (s, s) }}> }}""")
    assert total(model) == (None if times is None else 27 * times)


def test_a_scan_counts_for_each_step_of_what_it_goes_along():
    model = text("""g (float[3, 3] h, float[9, 7, 3] x) => (float[] y, float[] z) { y, z = Scan
        <num_scan_inputs = 1, scan_input_axes = [1], body = b (float[3, 3] s, float[9, 3] t)
            => (float[3, 3] u, float[9, 3] v) { u = Identity (s)  v = MatMul (t, s) }> (h, x) }""")
    assert total(model) == 7 * 81


@pytest.mark.parametrize(("condition", "expected"), [("c", 54), ("yes", 27), ("no", 54)])
def test_of_an_if_the_branch_that_is_taken_counts_or_the_dearer_one(condition, expected):
    model = text(f"""g (bool c, float[3, 3] x) => (float[] y) <bool yes = {{1}}, bool no = {{0}}> {{
        y = If ({condition}) <
            then_branch = t () => (float[3, 3] a) {{ a = MatMul (x, x) }},
            else_branch = e () => (float[3, 3] b) {{ m = MatMul (x, x)  b = MatMul (m, x) }}> }}""")
    assert total(model) == expected


def test_bodies_in_bodies_multiply():
    model = text("""g (float[3, 3] x) => (float[] y) <int64 n = {5}, int64 m = {4}> { y = Loop (n, , x) <
        body = b (int64 i, bool c, float[3, 3] s) => (bool again, float[3, 3] t) { again = Identity (c)
            t = Loop (m, , s) <body = d (int64 j, bool e, float[3, 3] p) => (bool f, float[3, 3] q)
                { f = Identity (e)  q = MatMul (p, p) }> }> }""")
    assert total(model) == 27 * 20


def test_the_dearest_run_after_savings_may_take_another_branch():
    model = text("""g (bool c, float[3, 3] x) => (float[] y) { z = MatMul (x, x)  y = If (c) <
            then_branch = t () => (float[3, 3] a) { a = MatMul (z, x) },
            else_branch = e () => (float[3, 3] b) { m = MatMul (z, x)  b = MatMul (m, x) }> }""")
    sizes = infer(model, Constants(model))
    (then, other) = (attribute.as_graph() for attribute in model.graph[1].attributes.values())
    for saved, macs, branch in [({}, 81, other), ({other: 26}, 81, other), ({other: 28}, 54, then)]:
        run = costs.dearest_run(model.graph, sizes.get, sizes.content, saved)
        assert run == (macs, {model.graph, branch})


IF = """If (c) <then_branch = t () => (float[3, 3] a) { a = Relu (x) },
    else_branch = e () => (float[3, 3] b) { b = Neg (x) }>"""
LOOP = """Loop ({}) <body = b (int64 i, bool go, float[3, 3] s) => (bool again, float[3, 3] t)
    {{ again = Not (go)  t = Relu (s) }}>"""
SCAN = "Scan <num_scan_inputs = 1, body = b (float[3] s) => (float[3] t) { t = Relu (s) }> (x)"


@pytest.mark.parametrize(
    ("call", "known", "sure"),
    [
        (IF, {}, [False, False]),
        (IF, {"c": 1}, [True, False]),
        (IF, {"c": 0}, [False, True]),
        (LOOP.format("n, c, x"), {"n": 2, "c": 1}, [True]),
        (LOOP.format("n, c, x"), {"n": 0, "c": 1}, [False]),
        (LOOP.format("n, c, x"), {"n": 2, "c": 0}, [False]),
        (LOOP.format("n, c, x"), {"n": 2}, [False]),
        (LOOP.format("n, , x"), {"n": 1}, [True]),
        (LOOP.format(", , x"), {}, [True]),
        (SCAN, {}, [True]),
        (f"custom.{IF}", {"c": 1}, [False, False]),
    ],
)
def test_a_body_is_sure_to_run_where_what_decides_it_is_known(call, known, sure):
    node = text(f"g (bool c, int64 n, float[3, 3] x) => (float[] y) {{ y = {call} }}").graph[0]
    held = {name: np.array(value) for name, value in known.items()}
    found = costs.sure_to_run(node, lambda value: (3, 3), lambda value: held.get(value.name))
    assert list(found.values()) == sure
    assert {value.name for value in costs.deciding(node)} >= ({*held} if not node.domain else set())


# --- golden counts ---


@pytest.mark.parametrize(
    ("name", "giga", "layers"),
    [
        ("resnet50", 4.0892, 54),
        ("densenet121", 2.8342, 121),
        ("inception_v1", 1.4316, 58),
        ("vgg19", 19.632, 19),
    ],
)
def test_golden_counts_of_architectures(name, giga, layers):
    model = load(LIGHT / f"light_{name}.onnx")
    assert total(model) == pytest.approx(giga * 1e9, rel=2e-3)
    assert sum(costs.is_linear(node) for node in costs.nodes(model)) == layers


# --- what is not counted ---


def test_uncounted_lists_every_operator_that_computes():
    model = text(
        """g (bool c, float[1, 4] x, float[4, 4] w) => (float[] y) <int64[2] s = {2, 2}> {
            r = Reshape (x, s)
            t = Transpose (r)
            h = Cast <to = 10> (t)
            m = MatMul (x, w)
            p = Resize <mode = "nearest"> (x, , , s)
            q = QLinearConv (x, x, x, x, x, x, x, x)
            f = com.microsoft.FusedConv (x, w)
            d = Dropout (x)
            a = local.F (x)
            y = If (c) <
                then_branch = i () => (float[] u) { u = Relu (x) },
                else_branch = e () => (float[] v) { z = Softmax (x)  v = Relu (z) }
            >
        }
        <domain: "local", opset_import: ["" : 17]> F (p) => (q) { n = Neg (p)  q = Identity (n) }""",
        imports='"" : 17, "local" : 1, "com.microsoft" : 1',
    )
    found = costs.uncounted(model)
    assert found == {
        "Cast": 1,
        "Neg": 1,
        "QLinearConv": 1,
        "Relu": 2,
        "Resize": 1,
        "Softmax": 1,
        "com.microsoft::FusedConv": 1,
    }
    assert list(found) == sorted(found)


def test_free_operators_exist_and_are_not_linear():
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    newer_or_retired = {"BitCast", "Crop", "TensorScatter"}
    assert known >= operators.FREE - newer_or_retired
    assert not operators.FREE & costs.LINEAR_OPS


# --- parameters ---


def test_params_and_bytes_count_initializers_and_constant_nodes_alike():
    lifted = text("""g (bool c, float[2] x) => (float[] y)
        <float[2] w = {1, 2}, int64[1] s = {2}, float k = {3}> {
        a = Mul (x, w)  b = Mul (a, k)  y = Reshape (b, s) }""")
    written = text("""g (bool c, float[2] x) => (float[] y) {
        w = Constant <value_floats = [1.0, 2.0]> ()
        s = Constant <value = int64[1] {2}> ()
        k = Constant <value_float = 3.0> ()
        a = Mul (x, w)  b = Mul (a, k)  y = Reshape (b, s) }""")
    for model in (lifted, written):
        assert costs.params(model) == 3
        assert costs.weight_bytes(model) == 3 * 4 + 8


def test_params_of_subgraphs_functions_and_shared_tensors():
    model = text("""g (bool c, float[2] x) => (float[] y) <float[2] w = {1, 2}, float[2] v = {1, 2}> {
        a = local.F (x)
        y = If (c) <
            then_branch = t () => (float[] u) <float[2] inner = {5, 6}> { u = Add (x, inner) },
            else_branch = e () => (float[] z) { k = Constant <value = float[3] {1, 2, 3}> ()  z = Add (x, w) }
        >
    }
    <domain: "local", opset_import: ["" : 17]> F (p) => (q) {
        k = Constant <value_float = 2.0> ()  q = Mul (p, k) }""")
    assert costs.params(model) == 2 + 2 + 2 + 3 + 1
    graph = model.graph
    graph.initializers["v"].const_value = graph.initializers["w"].const_value
    assert costs.params(model) == 2 + 2 + 3 + 1


@pytest.mark.parametrize(
    ("dtype", "params", "size"), [(np.float16, 6, 12), (np.float64, 6, 48), (np.int8, 0, 6), (np.bool_, 0, 6)]
)
def test_params_are_floats_and_bytes_are_of_any_type(dtype, params, size):
    model = text("g (float[2] x) => (float[] y) { y = Relu (x) }")
    model.graph.register_initializer(
        ir.Value(name="w", const_value=ir.tensor(np.zeros((2, 3), dtype), name="w"))
    )
    assert costs.params(model) == params
    assert costs.weight_bytes(model) == size
