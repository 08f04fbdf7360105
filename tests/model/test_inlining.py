"""Model-local functions: what takes the place of their calls, and which calls stay."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.model.inlining import inlined
from graphopt.model.validation import validate
from tests.builders import run

X = np.array([1, -2], np.float32)
FUNCTION = '<domain: "l", opset_import: ["" : 17, "l" : 1, "com.microsoft" : 1]>'


def text(graph: str, *functions: str, opset: int = 17) -> onnx.ModelProto:
    head = f'<ir_version: 10, opset_import: ["" : {opset}, "l" : 1, "com.microsoft" : 1]>'
    return onnx.parser.parse_model("\n".join((head, graph, *functions)))


def put_in_place(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The model without calls, checked, and the names of the functions that are left, with the reasons."""
    model = ir.from_proto(proto)
    before = ir.to_proto(model)
    found = inlined(model)
    assert ir.to_proto(model) == before
    validate(found.model, None)
    made = ir.to_proto(found.model)
    assert [v.name for v in made.graph.output] == [v.name for v in proto.graph.output]
    assert made.metadata_props == proto.metadata_props
    return made, {name[1]: reason for name, reason in found.left.items()}


PLAIN = "g (float[2] x) => (float[2] y) "
CHOICE = "g (float[2] x, bool b) => (float[2] y) "
CASES = {
    "attributes given, by default and left out": (
        PLAIN + "{ a = l.F <k = 2.0> (x)  y = l.F (a) }",
        f"{FUNCTION} F <k: float = 3.0, j> (x) => (y) "
        "{ c = Constant <value_float: float = @k> ()  m = Mul (x, c)  y = Elu <alpha: float = @j> (m) }",
    ),
    "functions in functions, attributes passed on into the branches of an If": (
        CHOICE + "{ h = l.F <k = 1.5> (x, b)  y = l.F <k = 2.5> (h, b) }",
        FUNCTION
        + """ F <k> (x, b) => (y) { y = If (b) <
            then_branch = t () => (o) { t = l.G <m: float = @k> (x)  o = Neg (t) },
            else_branch = e () => (p) { t = Abs (x)  p = l.G <m: float = @k> (t) }> }""",
        f"{FUNCTION} G <m> (x) => (y) {{ c = Constant <value_float: float = @m> ()  y = Mul (x, c) }}",
    ),
    "names that the model has too, before and behind and in branches": (
        CHOICE
        + """{ a = l.F (x)  y = If (b) < then_branch = t () => (float[2] o) { t = Relu (a)  o = Neg (t) },
            else_branch = e () => (float[2] p) { t = Abs (a)  p = l.F (t) }> }""",
        f"{FUNCTION} F (x) => (y) {{ t = Mul (x, x)  a = Neg (t)  y = Abs (a) }}",
    ),
    "a Loop in a function that is called twice": (
        PLAIN + "{ h = l.F (x)  y = l.F (h) }",
        FUNCTION
        + """ F (x) => (y) { n = Constant <value: tensor = int64 {3}> ()  y = Loop (n, , x) <
            body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t)
                { d = Identity (c)  t = Add (s, s) }> }""",
    ),
    "overloads": (
        PLAIN + "{ t = l.F:a (x)  y = l.F:b (t) }",
        '<domain: "l", overload: "a", opset_import: ["" : 17]> F (x) => (y) { y = Neg (x) }',
        '<domain: "l", overload: "b", opset_import: ["" : 17]> F (x) => (y) { y = Abs (x) }',
    ),
    "inputs left out, outputs that are read within": (
        "g (float[2] x) => (float[2] y, float[2] w) { y, w = l.F (x) }",
        f"{FUNCTION} F (x, low, high) => (y, z) {{ y = Clip (x, low, high)  z = Neg (y) }}",
    ),
    "another opset, in which the operators are the same": (
        PLAIN + "{ y = l.F (x) }",
        '<domain: "l", opset_import: ["" : 12]> F (x) => (y) { t = Relu (x)  y = Add (t, x) }',
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bodies_compute_what_their_calls_did(case):
    proto = text(*CASES[case])
    feeds = {"x": X, "b": np.array(True)}
    feeds = {value.name: feeds[value.name] for value in proto.graph.input}
    made, left = put_in_place(proto)
    assert not left
    assert not made.functions
    for old, new in zip(run(proto, feeds), run(made, feeds), strict=True):
        np.testing.assert_array_equal(old, new)


def test_nodes_are_called_after_their_call_and_are_unique():
    proto = text(
        PLAIN + '{ ["first"] a = l.F (x)  ["second"] b = l.F (a)  y = l.F (b) }',
        f'{FUNCTION} F (x) => (y) {{ ["up"] t = Relu (x)  ["down"] u = Neg (t)  y = l.G (u) }}',
        f"{FUNCTION} G (x) => (y) {{ t = Abs (x)  y = Abs (t) }}",
    )
    names = [node.name for node in put_in_place(proto)[0].graph.node]
    assert names[:4] == ["first/up", "first/down", "first/G/Abs", "first/G/Abs_1"]
    assert names[4:9:4] == ["second/up", "F:y/up"]
    assert len(set(names)) == len(names) == 12


def test_constants_of_a_function_are_there_once_however_often_it_is_called():
    proto = text(
        PLAIN + "{ a = l.F (x)  y = l.F (a) }",
        f"{FUNCTION} F (x) => (y) {{ c = Constant <value = float[2] {{2, 3}}> ()  y = Mul (x, c) }}",
    )
    made, _ = put_in_place(proto)
    assert [node.op_type for node in made.graph.node] == ["Mul", "Mul"]
    assert [tensor.name for tensor in made.graph.initializer] == ["F/c"]


@pytest.mark.parametrize(
    ("graph", "functions", "reason"),
    [
        (
            PLAIN + "{ y = com.microsoft.Gelu (x) }",
            ['<domain: "com.microsoft", opset_import: ["" : 17]> Gelu (x) => (y) { y = Neg (x) }'],
            "onnxruntime has an operator of this name, and runs that",
        ),
        (
            PLAIN + "{ y = l.F (x) }",
            ['<domain: "l", opset_import: ["" : 11]> F (x) => (y) { y = Softmax <axis = 0> (x) }'],
            "Softmax is another operator in its opset 11 than in the model's 17",
        ),
        (
            CHOICE + "{ y = l.F <t = t () => (float[2] o) { o = Neg (x) }> (b) }",
            [FUNCTION + "F <t> (b) => (y) { y = If <then_branch: graph=@t, else_branch: graph=@t> (b) }"],
            "it takes graphs as attributes",
        ),
        (
            PLAIN + "{ y = l.F (x) }",
            [
                '<domain: "l", opset_import: ["" : 17, "ai.onnx.ml" : 3]> F (x) => (y) '
                "{ y = ai.onnx.ml.Scaler <offset = [1.0, 2.0], scale = [2.0, 3.0]> (x) }"
            ],
            "the model does not import the operators of ai.onnx.ml, of which it is made",
        ),
    ],
)
def test_calls_that_would_compute_something_else_stay(graph, functions, reason):
    proto = text(graph, *functions)
    made, left = put_in_place(proto)
    assert list(left.values()) == [reason]
    assert made.graph.node == ir.to_proto(ir.from_proto(proto)).graph.node
    assert len(made.functions) == len(functions)


@pytest.mark.parametrize("versions", [(11, 13), (13, 11), (11, 11)])
def test_functions_stay_where_the_model_itself_tells_no_version_of_their_operators(versions):
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["l" : 1]>\n'
        "g (float[2, 3, 4] x) => (float[2, 3, 4] a, float[2, 3, 4] b) { a = l.F (x)  b = l.G (x) }"
        + "".join(
            f'<domain: "l", opset_import: ["" : {version}]> {name} (x) => (y) {{ y = Softmax (x) }}'
            for name, version in zip("FG", versions, strict=True)
        )
    )
    made, left = put_in_place(proto)
    reason = "the model does not import the operators of ai.onnx, of which it is made"
    assert left == {"F": reason, "G": reason}
    assert made.opset_import == proto.opset_import


def test_types_that_a_function_declares_do_not_count_for_all_its_calls():
    proto = text(
        "g (float[2] x) => (float[2] y, double[2] z) "
        "{ y = l.F (x)  d = Cast <to = 11> (x)  e = l.F (d)  z = Abs (e) }",
        f"{FUNCTION} F (x) => (r) {{ t = Neg (x)  r = Add (t, x) }}",
    )
    proto.ir_version = 10
    for name in "tr":
        proto.functions[0].value_info.append(onnx.helper.make_tensor_value_info(name, 1, [2]))
    made, _ = put_in_place(proto)
    np.testing.assert_array_equal(run(made, {"x": X})[1], run(proto, {"x": X})[1])


def test_what_remaining_calls_need_and_what_nobody_ever_called_stays():
    body = "F (x) => (y) { t = l.H (x)  y = com.microsoft.Gelu (t) }"
    proto = text(
        PLAIN + "{ y = l.F (x) }",
        f"{FUNCTION} {body}",
        f"{FUNCTION.replace('l', 'com.microsoft', 1)} Gelu (x) => (y) {{ y = l.H (x) }}".replace(
            'domain: "l"', 'domain: "com.microsoft"'
        ),
        f"{FUNCTION} H (x) => (y) {{ y = Neg (x) }}",
        f"{FUNCTION} Idle (x) => (y) {{ y = Neg (x) }}",
    )
    made, left = put_in_place(proto)
    assert list(left) == ["Gelu"]
    assert [node.op_type for node in made.graph.node] == ["Neg", "Gelu"]
    assert sorted(function.name for function in made.functions) == ["Gelu", "H", "Idle"]


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_what_a_convolution_in_a_function_gets_from_its_call_is_no_problem(op: str) -> None:
    body = f"{{ y = {op} <auto_pad: string = @p, strides = [1, 1]> (x, w) }}"
    made, left = put_in_place(
        text(
            """g (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y)
            <float[1, 1, 3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> { y = l.F <p = "SAME_UPPER"> (x, w) }""",
            f"{FUNCTION} F <p> (x, w) => (y) {body}",
        )
    )
    (node,) = made.graph.node
    assert not left and [a.s for a in node.attribute if a.name == "auto_pad"] == [b"SAME_UPPER"]
