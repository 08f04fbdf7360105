"""The shapes of all values: inference with values, partial sizes, control flow, bindings and errors."""

from __future__ import annotations

import time

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper

from graphopt.analysis.constants import Constants
from graphopt.analysis.costs import LINEAR_OPS, nodes, total_macs
from graphopt.analysis.shapes.inference import infer
from graphopt.analysis.snapshot import Analysis
from graphopt.errors import InputError
from tests.builders import Net
from tests.places import DATA


def real_model(name):
    path = DATA / "models" / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"the real models are not here: {path}")
    return ir.load(path)


def text(body, *, imports='"" : 17, "custom" : 1', ir_version=8):
    return ir.from_onnx_text(f"<ir_version: {ir_version}, opset_import: [{imports}]> {body}")


def value_of(model, name):
    """The value of that name in whatever graph."""
    values = [value for graph in model.graphs() for value in graph.inputs]
    values += [value for node in nodes(model) for value in (*node.inputs, *node.outputs) if value is not None]
    return next(value for value in values if value.name == name)


def shape(model, name, **options):
    return infer(model, Constants(model), **options).get(value_of(model, name))


def shapes(model, names, **options):
    """The shapes of several values, whose names stand in one text."""
    sizes = infer(model, Constants(model), **options)
    return {name: sizes.get(value_of(model, name)) for name in names.split()}


# --- sizes that the model computes ---


def test_sizes_are_followed_with_their_values():
    model = text("""g (float[N, 6, H, 8] x) => (float[a, b] y) <int64[1] two = {2}, int64[1] rest = {-1}> {
        s = Shape (x)
        i = Constant <value_ints = [2]> ()
        h = Gather (s, i)
        half = Div (h, two)
        float_half = Cast <to = 1> (half)
        floored = Floor (float_half)
        back = Cast <to = 7> (floored)
        sizes = Concat <axis = 0> (back, rest)
        y = Reshape (x, sizes)
    }""")
    assert shape(model, "y", bindings={"x": [1, 6, 10, 8]}) == (5, 96)
    assert shape(model, "y") == (None, None)
    assert shape(model, "s") == (4,)


def test_constant_of_shape_expand_tile_and_range_see_concrete_sizes():
    model = text("""g (float[1, 4, 5] x, float[1] one) => (float[] r) <int64[3] times = {1, 2, 3}> {
        s = Shape (x)
        zeros = ConstantOfShape (s)
        wide = Expand (one, s)
        tiled = Tile (x, times)
        n = Size (x)
        start = Constant <value_int = 0> ()
        step = Constant <value_int = 3> ()
        counted = Range (start, n, step)
        tail = Shape <start = 1> (x)
        r = Reshape (x, tail)
    }""")
    found = shapes(model, "zeros wide tiled counted r")
    assert found == {"zeros": (1, 4, 5), "wide": (1, 4, 5), "tiled": (1, 8, 15), "counted": (7,), "r": (4, 5)}


def test_pad_resize_and_slice_see_computed_sizes():
    model = text("""g (float[1, 4, 6, 6] x) => (float[n, c, h, w] cut)
        <int64[4] zero = {0, 0, 0, 0}, int64[1] at = {2}, int64[1] end = {4},
         float[4] scales = {1, 1, 2, 2}> {
        s = Shape (x)
        pads = Concat <axis = 0> (zero, s)
        padded = Pad (x, pads)
        t = Shape (padded)
        resized = Resize (x, , , t)
        doubled = Resize (x, , scales)
        hw = Slice (t, at, end)
        one = Constant <value_ints = [1, 1]> ()
        axes = Constant <value_ints = [2, 3]> ()
        cut = Slice (resized, one, hw, axes)
    }""")
    assert shapes(model, "padded resized doubled cut") == {
        "padded": (2, 8, 12, 12),
        "resized": (2, 8, 12, 12),
        "doubled": (1, 4, 12, 12),
        "cut": (2, 8, 11, 11),
    }


def test_a_vector_with_unknown_entries_still_tells_the_rest():
    model = text("""g (float[N, 6, H, 8] x, float[1] one) => (float[a, b, c] y)
        <int64[1] w = {48}, int64[2] picks = {2, 0}> {
        s = Shape (x)
        ends = Gather (s, picks)
        sizes = Concat <axis = 0> (ends, w)
        y = Reshape (x, sizes)
        zeros = ConstantOfShape (sizes)
        wide = Expand (one, sizes)
        zero = Constant <value_int = 0> ()
        scalar = Gather (s, zero)
        axes = Constant <value_ints = [0]> ()
        vector = Unsqueeze (scalar, axes)
        minus = Constant <value_ints = [-1]> ()
        flat = Concat <axis = 0> (vector, minus)
        matrix = Reshape (x, flat)
        is_one = Equal (sizes, w)
        chosen = Where (is_one, sizes, w)
        z = ConstantOfShape (chosen)
    }""")
    sizes = infer(model, Constants(model), assume_batch=None)
    found = {name: sizes.get(value_of(model, name)) for name in ("y", "zeros", "wide", "matrix", "z")}
    assert found == {**dict.fromkeys(("y", "zeros", "wide", "z"), (None, None, 48)), "matrix": (None, None)}
    assert sizes.unknown_dims == ("x[0]=N", "x[2]=H")


def test_one_missing_size_of_a_reshape_is_what_is_left():
    model = text("""g (float[2, 6, 4] x, int64[1] n) => (float[] y) <int64[1] rest = {8}> {
        sizes = Concat <axis = 0> (n, rest)
        y = Reshape (x, sizes)
    }""")
    assert shape(model, "y") == (None, None)  # nothing is known of what n holds, not even that it counts
    model = text("""g (float[2, 6, 4] x, float[M, 3] m) => (float[] y) <int64[1] rest = {8}> {
        sizes = Shape <end = 1> (m)
        both = Concat <axis = 0> (sizes, rest)
        y = Reshape (x, both)
    }""")
    assert shape(model, "y", assume_batch=None) == (6, 8)


def test_nodes_may_come_in_any_order():
    model = text("g (float[1, 4] x) => (float[] y) { a = Relu (x)  b = Neg (a)  c = Exp (b)  y = Abs (c) }")
    model.graph.extend(list(reversed(list(model.graph))))  # appending moves them
    assert [node.outputs[0].name for node in model.graph] == ["y", "c", "b", "a"]
    assert shape(model, "y") == (1, 4)


def test_a_cycle_is_an_error():
    model = text("g (float[1, 4] x) => (float[] y) { a = Relu (x)  y = Add (a, x) }")
    first, second = list(model.graph)
    first.replace_input_with(0, second.outputs[0])
    with pytest.raises(InputError, match="cycle"):
        infer(model, Constants(model))


def test_the_model_is_left_alone():
    model = text("g (float[N, 4] x) => (float[] y) { a = Shape (x)  b = Reshape (x, a)  y = Relu (b) }")
    before = ir.to_proto(model).SerializeToString()
    infer(model, Constants(model), bindings={"x": [3, 4]})
    assert ir.to_proto(model).SerializeToString() == before


# --- inputs ---


def test_a_symbolic_batch_counts_as_one_wherever_its_name_is():
    model = text("""g (float[N, 4] x, float[4, N] t, float[M, 4] u) => (float[] y, float[] z)
        { y = MatMul (x, t)  z = Relu (u) }""")
    assert shape(model, "y") == (1, 1)
    assert shape(model, "y", assume_batch=3) == (3, 3)
    assert shape(model, "y", assume_batch=None) == (None, None)
    assert shape(model, "y", bindings={"x": [5, 4]}) == (5, 5)
    assert shape(model, "z", bindings={"x": [5, 4]}) == (1, 4)


def test_a_vector_over_positions_is_no_batch():
    model = text("g (float[N, S] x, float[S] mask) => (float[] y) { y = Add (x, mask) }")
    assert shape(model, "mask") == (None,)
    assert shape(model, "y") == (1, None)
    assert shape(text("g (float[S] mask) => (float[] y) { y = Relu (mask) }"), "y") == (1,)


def test_two_sizes_called_none_need_not_be_the_same():
    model = text("g (float[N, 3, H, W] x) => (float[] y) { y = Relu (x) }")
    model.graph.inputs[0].shape = ir.Shape(["None", 3, "None", None])
    sizes = infer(model, Constants(model))
    assert sizes.get(value_of(model, "y")) == (1, 3, None, None)
    assert sizes.unknown_dims == ("x[2]", "x[3]")


def test_a_missing_rank_is_unknown_and_said_so():
    model = text("g (float[] x) => (float[] y) { y = Relu (x) }")
    model.graph.inputs[0].shape = None
    sizes = infer(model, Constants(model))
    assert sizes.get(value_of(model, "y")) is None
    assert sizes.unknown_dims == ("x[...]",)
    assert shape(model, "y", bindings={"x": [2, 3]}) == (2, 3)


def test_sequences_have_no_shape_and_what_is_in_them_has():
    model = text("""g (seq(float[N, 4]) s, float[2, 4] x) => (float[] y)
        { i = Constant <value_int = 0> ()  two = SequenceConstruct (x, x)  y = SequenceAt (two, i)
          z = SequenceAt (s, i) }""")
    assert shapes(model, "s two y") == {"s": None, "two": None, "y": (2, 4)}


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        ({"z": [1]}, "sizes were given for 'z', but the model's inputs are: 'x', 'y'"),
        ({"x": [1, 3]}, r"input 'x' has 3 dimensions \(Nx3xH\), but 2 sizes were given \(1x3\)"),
        ({"x": [1, 4, 5]}, r"input 'x': dimension 1 is 3 in the model \(Nx3xH\), but 4 was given"),
        (
            {"x": [1, 3, 5], "y": [2, 3]},
            "input 'y': dimension 0 is 'N', which is 1 by the sizes of 'x', but 2",
        ),
        ({"x": [0, 3, 5]}, "each has to be at least 1"),
    ],
)
def test_sizes_that_do_not_fit(bindings, message):
    model = text("g (float[N, 3, H] x, float[N, 3] y) => (float[] z) { z = Relu (x) }")
    with pytest.raises(InputError, match=message) as caught:
        infer(model, Constants(model), bindings=bindings)
    assert "\n" not in str(caught.value)


def test_overridable_initializers():
    body = "g (float[1, 4] x, int64[2] s) => (float[] y) <int64[2] s = {2, 2}> { y = Reshape (x, s) }"
    assert shape(text(body, ir_version=3), "y") == (2, 2)
    model = text(body)
    assert shape(model, "y") == (None, None)
    assert infer(model, Constants(model, frozen=True)).get(value_of(model, "y")) == (2, 2)


# --- open sizes that operators tell ---

FOUR = "<float[4] w = {1, 1, 1, 1}, float[4, 5] m = {MANY}, float[2, 4, 1, 1] k = {EIGHT}>".replace(
    "MANY", ", ".join("1" * 20)
).replace("EIGHT", ", ".join("1" * 8))


def pinned(body, weights=FOUR):
    model = text(body.replace("WEIGHTS", weights))
    sizes = infer(model, Constants(model), assume_batch=None)
    likely = {each.name: each.size for each in sizes.equations if not each.certain}
    return sizes.pinned, likely


@pytest.mark.parametrize(
    ("nodes", "sizes"),
    [
        ("y = Conv (x, k)", {"C": 4}),
        ("a = Transpose <perm = [0, 2, 3, 1]> (x)  y = Conv (a, k)", {"H": 4}),
        ("a = Transpose <perm = [0, 3, 1, 2]> (x)  y = Conv (a, k)", {"W": 4}),
        ("a = Transpose <perm = [2, 0, 3, 1]> (x)  y = Conv (a, k)", {"N": 4}),
        ("a = Transpose <perm = [0, 2, 3, 1]> (x)  y = ConvTranspose <group = 2> (a, r)", {"H": 2}),
        ("a = Relu (x)  b = Sum (a, a)  c = Sigmoid (b)  y = MatMul (c, m)", {"W": 4}),
        ("y = MatMul (x, w)", {"W": 4}),
        ("y = BatchNormalization (x, w, w, w, w)", {"C": 4}),
        ("y = InstanceNormalization (x, w, w)", {"C": 4}),
        ("a = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)  y = MatMul (a, m)", {"W": 4}),
        ("a = MaxPool <kernel_shape = [3, 1], strides = [2, 1]> (x)  y = MatMul (a, m)", {"W": 4}),
        ("a = GlobalAveragePool (x)  b = Flatten (a)  y = Gemm (b, m)", {"C": 4}),
        ("a = Concat <axis = 3> (x, x)  b = Transpose <perm = [0, 2, 3, 1]> (a)  y = Conv (b, k)", {"H": 4}),
        ("y = Concat <axis = 1> (x, z)", {"N": 1, "H": 6, "W": 7}),
        ("b = Transpose <perm = [0, 1, 3, 2]> (x)  y = Concat <axis = 2> (x, b)  t = MatMul (y, m)",
         {"W": 4, "H": 4}),
        ("a = MaxPool <kernel_shape = [2, 2]> (x)  y = MatMul (a, m)", {"W": 5}),
        ("a = Conv <pads = [1, 1, 1, 1]> (x, k)  y = MatMul (a, m)", {"C": 4, "W": 2}),
        ("a = AveragePool <kernel_shape = [4, 3], strides = [2, 1]> (x)"
         "  b = Transpose <perm = [0, 3, 1, 2]> (a)  y = Conv (b, k)", {"W": 6}),
        ("a = ConvTranspose <strides = [2, 3], group = 4> (x, d)  y = MatMul (a, m)", {"C": 4, "W": 2}),
        ("a = Concat <axis = 3> (x, z)  y = MatMul (a, n)", {"N": 1, "C": 3, "H": 6, "W": 2}),
        ("a = Relu (x)  b = Concat <axis = 3> (x, a)  y = MatMul (b, m)", {"W": 2}),
        ("p = Constant <value_ints = [0, 0, 1, 1, 0, 0, 0, 1]> ()  a = Pad (x, p)  y = MatMul (a, m)",
         {"W": 2}),
        ("s = Constant <value_ints = [1]> ()  e = Constant <value_ints = [-1]> ()"
         "  i = Constant <value_ints = [3]> ()  a = Slice (x, s, e, i)  y = MatMul (a, m)", {"W": 6}),
        ("s = Constant <value_floats = [1.0, 1.0, 1.0, 2.0]> ()  a = Resize (x, , s)  y = MatMul (a, m)",
         {"W": 2}),
        ("a = DepthToSpace <blocksize = 2> (x)  y = MatMul (a, m)", {"W": 2}),
        ("a = SpaceToDepth <blocksize = 2> (x)  y = MatMul (a, m)", {"W": 8}),
        ("s = Constant <value_ints = [1, 2, 4, 1]> ()  a = ReduceMean <axes = [1, 2, 3]> (x)"
         "  y = Reshape (a, s)", {"N": 8}),
    ],
)  # fmt: skip
def test_an_open_size_is_the_only_one_that_an_operator_takes(nodes, sizes):
    more = "float[2, 1, 1, 1] r = {1, 1}, float[4, 1, 1, 1] d = {1, 1, 1, 1}, float[9] n = {NINE}"
    weights = FOUR.replace(">", f", {more}>".replace("NINE", ", ".join("1" * 9)))
    told, _ = pinned(
        "g (float[N, C, H, W] x, float[1, 3, 6, 7] z) => (float[] y) WEIGHTS { " + nodes + " }", weights
    )
    assert told == sizes


@pytest.mark.parametrize(
    ("nodes", "sizes", "likely"),
    [
        ("y = Add (x, w)", {}, {"W": 4}),
        ("a = Concat <axis = 1> (x, x)  y = Mul (m, a)", {}, {"H": 4, "W": 5}),
        ("a = Mul (x, w)  b = Transpose <perm = [0, 1, 3, 2]> (x)  y = Max (b, w)  t = Add (m, x)",
         {"W": 1}, {"H": 4}),
        ("a = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)  y = MatMul (a, m)", {}, {}),
        ("a = MaxPool <kernel_shape = [1, 3], strides = [1, 2], ceil_mode = 1> (x)  y = MatMul (a, m)",
         {}, {}),
        ("y = Flatten (x)  z = MatMul (y, w)", {}, {}),
        ("a = MaxPool <kernel_shape = [1, 3]> (x)  y = Concat <axis = 1> (a, z)",
         {}, {"N": 1, "H": 6, "a[3]": 7}),
        ("s = Constant <value_ints = [-6]> ()  e = Constant <value_ints = [4]> ()"
         "  i = Constant <value_ints = [3]> ()  a = Slice (x, s, e, i)  y = MatMul (a, m)", {}, {}),
    ],
)  # fmt: skip
def test_other_sizes_are_not_told(nodes, sizes, likely):
    inputs = "float[N, C, H, W] x" + ", float[1, 3, 6, 7] z" * ("z)" in nodes)
    assert pinned(f"g ({inputs}) => (float[] y) WEIGHTS {{ {nodes} }}") == (sizes, likely)


def test_a_number_that_the_file_declares_for_an_open_size_is_likely_and_no_more():
    """It may be left from before the input was opened, also behind an operator that has no rule."""
    model = text(
        "g (float[N, 4, H, W] x, float[2, 4, 3, 3] k) => (float[] y)"
        " <float[1, 2, 7, 9] a, float[M, 2, 5, 5] b>"
        " { a = Conv <strides = [2, 2]> (x, k)  b = custom.Local (a)  y = Relu (b) }"
    )
    found = infer(model, Constants(model), assume_batch=None)
    assert found.get(value_of(model, "a")) == (None, 2, None, None)
    assert found.get(value_of(model, "b")) == found.get(value_of(model, "y")) == (None,) * 4
    assert {(each.size, each.certain) for each in found.equations} == {(1, False), (7, False), (9, False)}
    assert shape(model, "a", bindings={"x": (1, 4, 17, 20)}) == (1, 2, 8, 9)


def test_a_size_in_a_branch_that_may_not_run_is_not_told():
    told, _ = pinned("""g (float[N, C, H, W] x, bool c) => (float[] y) WEIGHTS { y = If (c) <
        then_branch = t () => (float[] a) { a = MatMul (x, m) },
        else_branch = e () => (float[] b) { b = Relu (x) }> }""")
    assert told == {}


def test_a_name_that_no_input_has_is_told_once():
    """The type of an empty optional names a size that nobody can give."""
    element = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph(
        [
            helper.make_node("Optional", [], ["o"], type=element),
            helper.make_node("OptionalGetElement", ["o"], ["t"]),
            helper.make_node("Concat", ["t", "x"], ["y"], axis=1),
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3, "M"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, None])],
    )
    read = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    assert infer(read, Constants(read)).pinned == {"N": 3}


def test_a_batch_that_an_operator_tells_is_not_assumed():
    model = text(
        "g (float[N, 3] x, float[2, 3] z, float[N, 2] u) => (float[] y) { y = Concat <axis = 1> (x, z) }"
    )
    assert shapes(model, "x y u") == {"x": (2, 3), "y": (2, 6), "u": (2, 2)}
    model.graph.inputs[0].shape = ir.Shape([None, 3])
    assert shapes(model, "x y u") == {"x": (2, 3), "y": (2, 6), "u": (1, 2)}


# --- errors and unknown operators ---


def test_channels_that_do_not_fit():
    model = text("""g (float[1, 64, 8, 8] x, float[16, 32, 3, 3] w) => (float[] y)
        { [conv1] y = Conv (x, w) }""")
    with pytest.raises(InputError, match="input channels 64 do not fit the weight's 32 × group 1") as caught:
        infer(model, Constants(model))
    assert str(caught.value).startswith("conv1 (Conv): ")
    assert "x 1x64x8x8, w 16x32x3x3" in str(caught.value)
    model = text("g (float[1, 6, 8, 8] x, float[4, 2, 3, 3] w) => (float[] y) { y = ConvTranspose (x, w) }")
    with pytest.raises(InputError, match=r"ConvTranspose:y .* input channels 6 do not fit the weight's 4"):
        infer(model, Constants(model))


@pytest.mark.parametrize(
    "body",
    [
        "g (float[1, 64] x, float[32, 10] w) => (float[] y) { y = MatMul (x, w) }",
        "g (float[1, 64] x, float[32, 10] w) => (float[] y) { y = Gemm (x, w) }",
        "g (float[1, 64] x, float[32, 10] w) => (float[] y) { y = Add (x, w) }",
        "g (float[1, 6, 8, 8] x, float[4, 6, 3] w) => (float[] y) { y = Conv (x, w) }",
        "g (float[2, 6] x) => (float[] y) <int64[1] s = {5}> { y = Reshape (x, s) }",
    ],
)
def test_what_onnx_refuses_is_one_clear_line(body):
    with pytest.raises(InputError) as caught:
        model = text(body)
        infer(model, Constants(model))
    message = str(caught.value)
    assert ":y (" in message
    assert "InferenceError" not in message
    assert "\n" not in message


def test_operators_without_a_schema_are_unknown_and_no_error():
    model = text(
        """g (float[1, 4] x) => (float[] e)
        { a = ImageScaler (x)  b = Relu (a)  c = custom.Op (b)
          d = com.microsoft.Gelu (c)  e = Gather (d, d) }""",
        imports='"" : 7, "custom" : 1, "com.microsoft" : 1',
    )
    assert shapes(model, "a b c d e") == dict.fromkeys("abcde")


def test_what_the_file_declares_is_trusted_for_unknown_operators():
    body = """g (float[N, 4] x) => (float[N, 4] y) <float[N, 8, 2] a, float[{batch}, 4] b>
        {{ a = custom.Op (x)  b = Relu (x)  y = Neg (b) }}"""
    model = text(body.format(batch="N"))
    assert shape(model, "a") == (1, 8, 2)
    assert shape(model, "a", bindings={"x": [3, 4]}) == (3, 8, 2)
    assert shape(model, "a", assume_batch=None) == (None, None, None)  # it may be of one size of x alone
    stale = text(body.format(batch="1"))  # b is [3, 4] when x is, so what the file says is of another run
    assert shape(stale, "a", bindings={"x": [3, 4]}) is None


@pytest.mark.parametrize(
    ("declared", "found"),
    [("1, 6, 9, 9", (None,) * 4), ("N, 6, 9, 9", (None,) * 4), ("N, 6, S, S", (2, 6, 5, 5))],
)
def test_where_inputs_were_opened_an_unknown_operator_makes_what_names_their_sizes(declared, found):
    model = text(f"""g (float[N, 3, S, S] x) => (float[] y) <float[{declared}] a>
        {{ a = custom.Local (x) y = Relu (a) }}""")
    sizes = {"x": (2, 3, 5, 5)}
    assert shapes(model, "a y", bindings=sizes) == {"a": found, "y": found}
    assert shapes(model, "a y") == {"a": (None,) * 4, "y": (None,) * 4}


def test_a_wrong_declaration_does_not_make_a_right_model_fail():
    model = text("""g (float[1, 4] x, float[1, 4] z) => (float[1, 4] y) <float[7, 7] a>
        { a = custom.Op (x)  y = Add (a, z) }""")
    assert shape(model, "a") is None


def test_functions_are_opaque():
    model = text(
        """g (float[1, 4] x) => (float[1, 4] y) { a = local.F (x)  y = Relu (a) }
        <domain: "local", opset_import: ["" : 17]> F (p) => (q) { q = Relu (p) }""",
        imports='"" : 17, "local" : 1',
    )
    assert shape(model, "a") is None
    assert shape(model, "y") == (1, 4)


# --- known shapes ---


def test_known_shapes_resume_inference():
    model = text("g (float[1, 4] x) => (float[] z) { a = custom.Op (x)  y = Relu (a)  z = Shape (y) }")
    sizes = infer(model, Constants(model), known={"a": (2, 3), "nothing": (1,)})
    assert [sizes.get(value_of(model, name)) for name in ("a", "y", "z")] == [(2, 3), (2, 3), (2,)]
    assert sizes.observed == ("a",)


def test_nodes_with_known_outputs_are_not_inferred():
    model = text("g (float[1, 4] x, float[3, 9] w) => (float[] z) { a = MatMul (x, w)  z = Relu (a) }")
    assert shape(model, "z", known={"a": (1, 9)}) == (1, 9)


def test_bodies_are_inferred_even_where_the_outputs_of_their_node_are_known():
    model = text(IF.format(cond_input=", bool c", cond="", then="Neg (x)", other="Relu (x)"))
    assert shape(model, "a", known={"y": (1, 4, 1)}) == (1, 4, 1)


# --- control flow ---

IF = """g (float[1, 4, 1] x{cond_input}) => (float[] y) <int64[1] one = {{1}}, int64[1] last = {{2}}> {{
    {cond}
    y = If (c) <
        then_branch = t () => (float[] a) {{ a = {then} }},
        else_branch = e () => (float[] b) {{ b = {other} }}
    >
}}"""


def test_if_gives_what_both_branches_agree_on():
    then, other = "Concat <axis = 0> (x, x)", "Relu (x)"
    model = text(IF.format(cond_input=", bool c", cond="", then=then, other=other))
    assert shape(model, "y") == (None, 4, 1)
    assert shape(model, "a") == (2, 4, 1)
    model = text(IF.format(cond_input=", bool c", cond="", then="Squeeze (x, last)", other=other))
    assert shape(model, "y") is None
    assert shape(model, "a") == (1, 4)


def test_if_with_a_known_condition_gives_that_branch_and_the_other_need_not_fit():
    cond = """s = Shape (x)  zero = Constant <value_int = 1> ()  n = Gather (s, zero)
        k = Constant <value_int = 1> ()  c = Equal (n, k)"""
    model = text(IF.format(cond_input="", cond=cond, then="Squeeze (x, one)", other="Relu (x)"))
    assert shape(model, "y") == (1, 4, 1)
    assert shape(model, "a") is None


LOOP = """g (int64 n, bool go, float[2, 3] x) => (float[] y, float[] stack) <int64[1] one = {{1}}> {{
    y, stack = Loop (n, go, x) <
        body = b (int64 i, bool c, float[] state) => (bool again, float[] next, float[] each) {{
            again = Identity (c)
            next = {step}
            s = Shape (state)
            each = ConstantOfShape (s)
        }}
    >
}}"""


@pytest.mark.parametrize(
    ("step", "carried"),
    [
        ("Relu (state)", (2, 3)),
        ("Concat <axis = 0> (state, x)", (None, 3)),
        ("Transpose (state)", (None, None)),
        ("Unsqueeze (state, one)", None),
    ],
)
def test_a_loop_carries_only_what_no_iteration_changes(step, carried):
    model = text(LOOP.format(step=step))
    for value in next(iter(model.graph)).attributes["body"].as_graph().inputs[2:]:
        value.shape = None
    stack = None if carried is None else (None, *carried)
    assert shapes(model, "state y i stack") == {"state": carried, "y": carried, "i": (), "stack": stack}


def test_scan_slices_its_inputs_and_joins_its_outputs():
    model = text("""g (float[5] start, float[7, 2, 5] xs) => (float[] y, float[] ys) {
        y, ys = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [-1],
            body = b (float[5] state, float[7, 5] x) => (float[5] next, float[7, 5] each) {
                next = Relu (state)
                each = Add (x, state)
            }
        > (start, xs)
    }""")
    for value in next(iter(model.graph)).attributes["body"].as_graph().inputs:
        value.shape = None
    found = shapes(model, "x state each y ys")
    assert found == {"x": (7, 5), "state": (5,), "each": (7, 5), "y": (5,), "ys": (7, 5, 2)}


def test_a_subgraph_sees_the_values_around_it_whatever_the_order():
    model = text(IF.format(cond_input=", bool c", cond="w = Relu (x)", then="Relu (w)", other="Neg (w)"))
    first, second = list(model.graph)
    second.append(first)  # the If now stands before what its branches read
    assert [node.op_type for node in model.graph] == ["If", "Relu"]
    assert shape(model, "y") == (1, 4, 1)


# --- real models ---


@pytest.mark.parametrize("name", ["resnet20-cifar10-bn", "resnet56-cifar10-bn", "ultraface-version-RFB-320"])
def test_no_shape_of_a_real_model_stays_unknown(name):
    model = real_model(name)
    sizes = infer(model, Constants(model))
    assert sizes.unknown_dims == ()
    found = [sizes.get(value) for node in model.graph for value in node.outputs]
    assert all(each is not None and None not in each for each in found)
    assert sum(node.op_type in LINEAR_OPS for node in model.graph) > 19


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet20-cifar10-bn", (3, 3, 32, 32)),
        ("ppocrv3-det", (2, 3, 96, 160)),
        ("dncnn-gray25", (2, 1, 35, 41)),
    ],
)
def test_shapes_are_those_of_a_run(name, size):
    model = real_model(name)
    source = model.graph.inputs[0].name
    seen = observed(model, {source: size})
    sizes = infer(model, Constants(model), bindings={source: size})
    assert seen == {name: sizes.get(value_of(model, name)) for name in seen}
    unbound = infer(model, Constants(model), assume_batch=None)
    for name, real in seen.items():
        general = unbound.get(value_of(model, name))
        assert general is not None
        assert all(size in (None, it) for size, it in zip(general, real, strict=True)), name


def observed(model, inputs):
    """The shapes of all nodes' outputs in a run of onnxruntime."""
    proto = ir.to_proto(model)
    wanted = [name for node in proto.graph.node for name in node.output if name]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    feeds = {name: np.ones(size, np.float32) for name, size in inputs.items()}
    return {name: array.shape for name, array in zip(wanted, session.run(wanted, feeds), strict=True)}


def test_legacy_operators_are_unknown_until_their_outputs_were_seen():
    model = real_model("style-candy-winml")
    sizes = infer(model, Constants(model))
    assert total_macs(model.graph, sizes.get, sizes.content) is None
    cuts = zip((21, 31, 41, 51, 61), (196, 192, 188, 184, 180), strict=True)
    known = {f"SpatialZeroPadding_{i}": (1, 64, size, size) for i, size in cuts}
    known |= {"inputImage2": (1, 3, 720, 720), "deprocess_image_2": (1, 3, 720, 720)}
    known |= {"SpatialFullConvolution_63": (1, 32, 360, 360), "SpatialFullConvolution_67": (1, 16, 720, 720)}
    sizes = infer(model, Constants(model), known=known)
    assert total_macs(model.graph, sizes.get, sizes.content) == 20_353_167_360
    assert set(sizes.observed) == set(known)


# --- speed ---


def test_time_is_linear_in_the_nodes():
    """20,000 nodes take a second; ten times as much is allowed for a slow machine."""
    count = 20_000
    made = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(count)]
    source = helper.make_tensor_value_info("v0", onnx.TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph(made[::-1], "g", [source], [onnx.ValueInfoProto(name=f"v{count}")])
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    start = time.perf_counter()
    sizes = infer(model, Constants(model))
    assert time.perf_counter() - start < 10
    assert sizes.get(model.graph.outputs[0]) == (1, 4)


def test_slopes_that_may_enlarge_a_map_pin_no_open_size() -> None:
    """Behind them stand 2 channels, whether the map has one or two."""
    net = Net()
    x = net.op("PRelu", net.input(["N", "C", 4, 4]), net.const(np.full((2, 1, 1), 0.1)), channels=2)
    found = Analysis(ir.from_proto(net.model(net.conv(x, 3))))
    (prelu,) = (node for node in found.model.graph if node.op_type == "PRelu")
    assert found.fixed_shape(prelu.outputs[0]) == (None, 2, 4, 4)
    assert found.fixed_shape(prelu.inputs[0]) == (None, None, 4, 4)
