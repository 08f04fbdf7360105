"""The only code that changes a graph: names, outputs, what dies, stamps, and the model that was given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from graphopt.model import edit, serde
from graphopt.types import Candidate, Change, Cost, NewNode, Replacement, Site
from tests import builders
from tests.builders import conv_bn, info, initializers, node, run, samples, weight

SHAPE = [1, 8, 8, 8]


def model(nodes: Sequence[onnx.NodeProto], *given: Any, **options: Any) -> onnx.ModelProto:
    """A model that onnx's checker accepts: its outputs have shapes."""
    outputs = {name: shape or SHAPE for name, shape in options.pop("outputs", {"y": SHAPE}).items()}
    return builders.model(nodes, *given, outputs=outputs, **options)


def at(*nodes: str, graph: str = "main", rewrite: str = "swap") -> Candidate:
    return Candidate(rewrite, Site(graph, nodes), Cost(0), Cost(0))


def swap(old: str, op: str, *inputs: str | None, **options: Any) -> Replacement:
    """One operator in the place of the value `old`."""
    constants = options.pop("constants", {})
    new = NewNode(op, inputs, ("%y",), options.pop("attributes", {}), name=options.pop("name", ""))
    assert not options
    return Replacement((new,), constants, {old: "%y"})


def applied(proto: onnx.ModelProto, *changes: tuple[Candidate, Replacement]) -> onnx.ModelProto:
    """The model with the changes, checked; the given one has to stay as it was."""
    network = ir.from_proto(proto)
    before = ir.to_proto(network).SerializeToString()
    edited = ir.to_proto(edit.apply(network, changes))
    assert ir.to_proto(network).SerializeToString() == before
    onnx.checker.check_model(edited, full_check=True)
    all_names = names(edited)
    assert len(all_names) == len(set(all_names))
    return edited


def names(proto: onnx.ModelProto) -> list[str]:
    """The name of every value that the model defines, its subgraphs included."""

    def of(graph: onnx.GraphProto) -> list[str]:
        found = [tensor.name for tensor in graph.initializer]
        found += [value.name for value in graph.input if value.name not in found]
        for each in graph.node:
            found += [name for name in each.output if name]
            for attribute in each.attribute:
                found += of(attribute.g) if attribute.HasField("g") else []
        return found

    return of(proto.graph)


def ops(graph: onnx.GraphProto) -> list[str]:
    return [each.op_type for each in graph.node]


def chain(*steps: str, **options: Any) -> onnx.ModelProto:
    """Elementwise operators in a row: x → v0 → v1 → … → y; named after their place."""
    values = ["x", *(f"v{i}" for i in range(len(steps) - 1)), "y"]
    nodes = [node(op, values[i], values[i + 1], f"n{i}") for i, op in enumerate(steps)]
    return model(nodes, **options)


# --- values ------------------------------------------------------------------------------------------------


def test_a_new_operator_takes_the_old_names_over() -> None:
    found = applied(chain("Relu", "Abs", "Neg"), (at("n1"), swap("v1", "Exp", "v0")))
    middle = found.graph.node[1]
    assert (middle.op_type, middle.name) == ("Exp", "n1")
    assert list(middle.input) == ["v0"] and list(middle.output) == ["v1"]
    assert names(found) == ["x", "v0", "v1", "y"]


def test_empty_lists_are_of_the_kind_that_the_operator_defines() -> None:
    kinds = {
        ("TfIdfVectorizer", "weights"): onnx.AttributeProto.FLOATS,
        ("StringNormalizer", "stopwords"): onnx.AttributeProto.STRINGS,
        ("Unheard", "of"): onnx.AttributeProto.INTS,
    }
    for (op, name), kind in kinds.items():
        new = NewNode(op, (), ("%y",), {name: ()}, domain="my.ops" if op == "Unheard" else "")
        (alone,) = serde.new_proto(new, str).attribute
        change = Replacement((new,), {}, {"v1": "%y"})
        edited = edit.apply(ir.from_proto(chain("Relu", "Abs", "Neg")), [Change(at("n1"), change)])
        (made,) = (each for each in ir.to_proto(edited).graph.node if each.op_type == op)
        assert alone.type == made.attribute[0].type == kind


@pytest.mark.parametrize(
    ("name", "kind"), [("value_floats", onnx.TensorProto.FLOAT), ("value_ints", onnx.TensorProto.INT64)]
)
def test_a_constant_of_an_empty_list_is_stored_in_its_type(name: str, kind: int) -> None:
    new = NewNode("Constant", (), ("%y",), {name: ()})
    (alone,) = serde.new_proto(new, str).attribute
    assert alone.type == getattr(onnx.AttributeProto, name.removeprefix("value_").upper())
    change = Change(at("n1"), Replacement((new,), {}, {"v1": "%y"}))
    edited = ir.to_proto(edit.apply(ir.from_proto(chain("Relu", "Abs", "Neg")), [change]))
    (stored,) = edited.graph.initializer
    assert (stored.name, stored.data_type, list(stored.dims)) == ("v1", kind, [0])


def test_types_and_shapes_of_named_values_stay() -> None:
    proto = chain("Relu", "Abs", "Neg")
    proto.graph.value_info.append(info("v1", [1, 8, 8, 8]))
    found = applied(proto, (at("n1"), swap("v1", "Exp", "v0")))
    assert list(found.graph.value_info) == list(proto.graph.value_info)


# --- Constant nodes -----------------------------------------------------------------------------------------


def constant(name: str, array: Any) -> onnx.NodeProto:
    """A Constant operator whose tensor has a name of its own, the same for all."""
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(array), "value"))


def stored(graph: onnx.GraphProto) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in graph.initializer}


def test_constant_nodes_are_stored_as_initializers_and_equal_vectors_once() -> None:
    one, two = np.float32([1, 2]), np.float32([[1, 2]])
    nodes = [
        *(
            constant("a", one),
            constant("b", one),
            constant("c", np.float32([1, 3])),
            constant("d", one.astype(int)),
        ),
        *(constant("e", two), constant("f", two), helper.make_node("Constant", [], ["g"], value_float=0.5)),
        constant("unread", one),
        node("Add", "x a", "v0", "n0"),
        node("Abs", "v0", "v1", "n1"),
        *(node("Add", f"v{i} {name}", f"v{i + 1}", f"n{i + 1}") for i, name in enumerate("bcefg", 1)),
        node("Cast", "d", "h", to=1),
        node("Mul", "v6 h", "y"),
    ]
    proto = model(nodes, inputs={"x": [1, 1, 8, 2]}, outputs={"y": [1, 1, 8, 2]})
    found = applied(proto, (at("n1"), swap("v1", "Exp", "v0")))
    assert ops(found.graph) == ["Add", "Exp", *["Add"] * 5, "Cast", "Mul"]
    assert stored(found.graph) == {
        "a": [1, 2],
        "c": [1, 3],
        "d": [1, 2],
        "e": [[1, 2]],
        "f": [[1, 2]],
        "g": 0.5,
    }
    first, second = (each for each in found.graph.node if each.name in ("n0", "n2"))
    assert first.input[1] == second.input[1] == "a"


def test_a_constant_that_is_an_output_stays_a_node() -> None:
    body = helper.make_graph([constant("inner", np.float32([3]))], "b", [], [info("inner", [1])])
    nodes = [
        constant("k", np.float32([1])),
        node("Relu", "x", "v0", "n0"),
        node("Add", "v0 k", "v1", "n1"),
        constant("yes", np.array(True)),
        helper.make_node("If", ["yes"], ["choice"], then_branch=body, else_branch=body),
        node("Mul", "v1 choice", "y"),
    ]
    proto = model(nodes, outputs={"y": SHAPE, "k": [1]})
    network = edit.apply(ir.from_proto(proto), [Change(at("n0"), swap("v0", "Exp", "x"))])
    found = ir.to_proto(network)
    assert ops(found.graph) == ["Constant", "Exp", "Add", "If", "Mul"]
    assert stored(found.graph) == {"yes": True}
    (choice,) = (each for each in found.graph.node if each.op_type == "If")
    assert [ops(attribute.g) for attribute in choice.attribute] == [["Constant"], ["Constant"]]


def test_constants_of_a_body_are_stored_in_it() -> None:
    nodes = [constant("k", np.float32([3])), node("Add", "v0 k", "inner")]
    body = helper.make_graph(nodes, "b", [], [info("inner", SHAPE)])
    other = helper.make_graph([node("Neg", "v0", "other")], "c", [], [info("other", SHAPE)])
    nodes = [
        node("Relu", "x", "v0", "n0"),
        helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=other),
    ]
    found = applied(model(nodes, {"yes": np.array(True)}), (at("n0"), swap("v0", "Exp", "x")))
    inner = next(a.g for a in found.graph.node[1].attribute if a.name == "then_branch")
    assert ops(inner) == ["Add"] and stored(inner) == {"k": [3]}


# --- outputs ------------------------------------------------------------------------------------------------


def test_a_graph_output_keeps_name_type_and_shape() -> None:
    proto = chain("Relu", "Abs", outputs={"y": ["N", "C", 8, None]}, inputs={"x": ["N", "C", 8, 8]})
    found = applied(proto, (at("n1"), swap("y", "Exp", "v0")))
    assert list(found.graph.output) == list(proto.graph.output)
    assert list(found.graph.input) == list(proto.graph.input)


def test_order_of_outputs_stays() -> None:
    nodes = [node("Relu", "x", "a", "n0"), node("Abs", "x", "b", "n1"), node("Neg", "x", "c", "n2")]
    proto = model(nodes, outputs={"c": None, "a": None, "b": None})
    found = applied(proto, (at("n0"), swap("a", "Exp", "x")), (at("n2"), swap("c", "Exp", "x")))
    assert [value.name for value in found.graph.output] == ["c", "a", "b"]


def test_an_output_that_an_input_takes_the_place_of() -> None:
    proto = chain("Neg", "Neg", outputs={"y": [1, 8, 8, 8]})
    found = applied(proto, (at("n1", "n0"), Replacement((), {}, {"y": "x"})))
    assert ops(found.graph) == ["Identity"]
    assert list(found.graph.output) == list(proto.graph.output)
    x = samples(1)
    np.testing.assert_array_equal(run(found, {"x": x})[0], x)


def test_an_output_that_another_output_takes_the_place_of() -> None:
    nodes = [node("Relu", "x", "a", "n0"), node("Relu", "a", "y", "n1")]
    found = applied(model(nodes, outputs={"a": None, "y": None}), (at("n1"), Replacement((), {}, {"y": "a"})))
    assert [value.name for value in found.graph.output] == ["a", "y"]
    assert ops(found.graph) == ["Relu", "Identity"]


def test_a_value_that_takes_another_ones_place_keeps_its_own_name() -> None:
    found = applied(chain("Relu", "Relu", "Neg"), (at("n1"), Replacement((), {}, {"v1": "v0"})))
    assert ops(found.graph) == ["Relu", "Neg"]
    assert names(found) == ["x", "v0", "y"]


def test_changes_in_a_row_meet() -> None:
    # Both changes name the value between them; the first one replaces who makes it.
    for changes in (
        [(at("n0"), swap("v0", "Exp", "x")), (at("n1"), swap("y", "Log", "v0"))],
        [(at("n1"), swap("y", "Log", "v0")), (at("n0"), swap("v0", "Exp", "x"))],
        [(at("n0"), Replacement((), {}, {"v0": "x"})), (at("n1"), swap("y", "Log", "v0"))],
    ):
        found = applied(chain("Relu", "Abs"), *changes)
        x = np.abs(samples(1)) + 1
        expected = np.log(x) if len(found.graph.node) == 1 else x
        np.testing.assert_allclose(run(found, {"x": x})[0], expected, rtol=1e-5)


def test_several_readers_follow() -> None:
    nodes = [
        node("Relu", "x", "a", "n0"),
        node("Abs", "a", "b", "n1"),
        node("Neg", "a", "c", "n2"),
        node("Add", "b c", "y", "n3"),
    ]
    found = applied(model(nodes), (at("n0"), swap("a", "Exp", "x")))
    assert [list(each.input) for each in found.graph.node] == [["x"], ["a"], ["a"], ["b", "c"]]


def test_the_order_of_operators_stays_valid() -> None:
    # The replacement reads a value that is made after the anchor.
    nodes = [node("Relu", "x", "a", "n0"), node("Abs", "x", "b", "n1"), node("Add", "a b", "y", "n2")]
    late = at("n0", "n2")
    change = Replacement((NewNode("Mul", ("x", "b"), ("%y",)),), {}, {"y": "%y"})
    assert ops(applied(model(nodes), (late, change)).graph) == ["Abs", "Mul"]


# --- what dies ----------------------------------------------------------------------------------------------


def test_what_nobody_reads_is_removed() -> None:
    proto = conv_bn()
    change = swap("n", "Conv", "x", "%w", constants={"%w": weight(8, 8, 1, 1)})
    found = applied(proto, (at("conv", "bn"), change))
    assert ops(found.graph) == ["Conv", "Relu"]
    assert list(initializers(found)) == ["conv/w"]


def test_what_is_read_elsewhere_stays() -> None:
    proto = conv_bn()
    proto.graph.node.append(node("Conv", "x w", "z", "second", pads=[1, 1, 1, 1]))
    proto.graph.output.append(info("z", SHAPE))
    change = swap("n", "Conv", "x", "%w", constants={"%w": weight(8, 8, 1, 1)})
    assert set(initializers(applied(proto, (at("conv", "bn"), change)))) == {"conv/w", "w"}


def test_operators_that_only_fed_the_replaced_ones_go_too() -> None:
    nodes = [
        node("Identity", "w", "w1", "i0"),
        node("Neg", "w1", "w2", "i1"),
        node("Conv", "x w2", "y", "conv"),
    ]
    found = applied(model(nodes, {"w": weight(8, 8, 1, 1)}), (at("conv"), swap("y", "Relu", "x")))
    assert ops(found.graph) == ["Relu"] and initializers(found) == {}


def test_what_was_dead_before_is_left_alone() -> None:
    proto = chain("Relu", "Abs")
    proto.graph.node.append(node("Neg", "x", "unused", "dead"))
    proto.graph.initializer.append(numpy_helper.from_array(weight(3), "spare"))
    found = applied(proto, (at("n1"), swap("y", "Exp", "v0")))
    assert "Neg" in ops(found.graph) and set(initializers(found)) == {"spare"}


def test_replaced_initializers_leave_the_inputs() -> None:
    proto = conv_bn(overridable=["w", "bn/scale"], ir_version=3)
    proto.opset_import[0].version = 7
    change = swap("n", "Conv", "x", "%w", "bn/shift", constants={"%w": weight(8, 8, 1, 1)})
    found = applied(proto, (at("conv", "bn"), change))
    assert [value.name for value in found.graph.input] == ["x"]
    assert found.ir_version == 4
    assert set(initializers(found)) == {"conv/w", "bn/shift"}


def test_no_initializer_stays_an_input_that_was_one_for_the_format() -> None:
    """Up to IR version 3 they are constants; in a newer one nothing would be known of them."""
    proto = conv_bn(overridable=["w", "bn/scale"], ir_version=3)
    edited = applied(proto, (at("relu"), swap("y", "Abs", "n")))
    assert edited.ir_version == 4 and [value.name for value in edited.graph.input] == ["x"]


def test_an_input_that_a_caller_may_feed_stays_when_nothing_reads_it() -> None:
    proto = conv_bn(overridable=["w"], ir_version=8)
    change = swap("n", "Conv", "x", "%w", constants={"%w": weight(8, 8, 1, 1)})
    found = applied(proto, (at("conv", "bn"), change))
    assert [value.name for value in found.graph.input] == ["x", "w"]
    assert "w" in initializers(found)
    feeds = {"x": samples(1), "w": weight(8, 8, 3, 3)}
    np.testing.assert_array_equal(run(found, feeds)[0], run(found, {"x": samples(1)})[0])


def test_a_newer_ir_version_stays() -> None:
    assert applied(chain("Relu", ir_version=9), (at("n0"), swap("y", "Abs", "x"))).ir_version == 9


def test_freeze_takes_initializers_off_the_inputs() -> None:
    proto = conv_bn(overridable=["w", "bn/scale"], ir_version=8)
    network = ir.from_proto(proto)
    frozen = ir.to_proto(edit.freeze(network))
    assert [value.name for value in frozen.graph.input] == ["x"]
    assert set(initializers(frozen)) == set(initializers(proto))
    assert len(network.graph.inputs) == 3
    np.testing.assert_array_equal(run(frozen, {"x": samples(1)})[0], run(proto, {"x": samples(1)})[0])


# --- names --------------------------------------------------------------------------------------------------


def test_fresh_names_stay_clear_of_every_other_name() -> None:
    nodes = [node("Relu", "x", "conv/w", "conv/a"), node("Conv", "conv/w w", "y", "conv")]
    proto = model(nodes, {"w": weight(8, 8, 1, 1), "conv/b": weight(8)})
    change = Replacement(
        (
            NewNode("Conv", ("conv/w", "%w"), ("%a",), name="/a"),
            NewNode("Add", ("%a", "%b"), ("%y",)),
        ),
        {"%w": weight(8, 8, 1, 1), "%b": np.ones((8, 1, 1), np.float32)},
        {"y": "%y"},
    )
    found = applied(proto, (at("conv"), change))
    node_names = [each.name for each in found.graph.node]
    assert len(set(node_names)) == 3 and "conv" in node_names
    assert len(initializers(found)) == 3


def test_new_operators_and_values_never_share_a_name() -> None:
    change = Replacement(
        (
            NewNode("Exp", ("v0",), ("%a",), name="/new"),
            NewNode("Add", ("%a", "a"), ("%b",), name="/new"),
            NewNode("Add", ("%b", "%c"), ("%y",), name="/new"),
        ),
        {"a": np.float32([1]), "%c": np.float32([2])},
        {"y": "%y"},
    )
    found = applied(chain("Relu", "Abs"), (at("n1"), change))
    node_names = [each.name for each in found.graph.node]
    assert len(set(node_names)) == 4


def _if(then: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """x → If → y, whose first branch has the nodes and makes `t`."""
    inner = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    branch = helper.make_graph(list(then), "then", [], [info("t", [1, 8, 8, 8])], inner)
    other = helper.make_graph([node("Abs", "x", "e", "abs")], "else", [], [info("e", [1, 8, 8, 8])])
    step = node("If", "flag", "y", "if", then_branch=branch, else_branch=other)
    return model([step], {"flag": np.array(True), "outer": weight(8, 8, 1, 1)})


def body(proto: onnx.ModelProto, which: str = "then_branch") -> onnx.GraphProto:
    return next(a.g for each in proto.graph.node for a in each.attribute if a.name == which)


def test_an_operator_in_a_branch() -> None:
    proto = _if(
        [node("Conv", "x inner", "c", "conv"), node("Neg", "c", "t", "neg")], {"inner": weight(8, 8, 1, 1)}
    )
    new = weight(8, 8, 1, 1, seed=5)
    change = swap("t", "Conv", "x", "%w", constants={"%w": new})
    found = applied(proto, (at("conv", "neg", graph="if/then_branch"), change))
    assert ops(body(found)) == ["Conv"] and ops(found.graph) == ["If"]
    assert [value.name for value in body(found).output] == ["t"]
    # Its weights belong to the branch, and the old ones are gone from there.
    assert [tensor.name for tensor in body(found).initializer] == ["conv/w"]
    assert set(initializers(found)) == {"flag", "outer"}
    expected = np.einsum("oi,nihw->nohw", new[:, :, 0, 0], samples(1))
    np.testing.assert_allclose(run(found, {"x": samples(1)})[0], expected, atol=1e-5)


def test_fresh_names_in_a_branch_stay_clear_of_the_outer_graph() -> None:
    proto = _if([node("Conv", "x outer", "t", "outer_conv")])
    proto.graph.initializer.append(numpy_helper.from_array(weight(3), "outer_conv/w"))
    change = swap("t", "Conv", "x", "%w", constants={"%w": weight(8, 8, 1, 1)})
    found = applied(proto, (at("outer_conv", graph="if/then_branch"), change))
    assert [tensor.name for tensor in body(found).initializer] == ["outer_conv/w_1"]


def test_an_outer_weight_that_a_branch_gives_up_goes() -> None:
    proto = _if([node("Conv", "x outer", "t", "conv")])
    found = applied(proto, (at("conv", graph="if/then_branch"), swap("t", "Relu", "x")))
    assert set(initializers(found)) == {"flag"}


def test_a_branch_that_reads_a_value_follows_its_replacement() -> None:
    proto = _if([node("Neg", "v0", "t", "neg")])
    proto.graph.node.insert(0, node("Relu", "x", "v0", "n0"))
    found = applied(proto, (at("n0"), swap("v0", "Exp", "x")))
    np.testing.assert_allclose(run(found, {"x": samples(1)})[0], -np.exp(samples(1)), rtol=1e-5)


# --- stamps -------------------------------------------------------------------------------------------------


def test_new_operators_carry_what_they_came_from() -> None:
    proto = conv_bn()
    change = swap("n", "Conv", "x", "%w", constants={"%w": weight(8, 8, 1, 1)})
    found = applied(proto, (at("conv", "bn", rewrite="fold"), change))
    stamps = [{p.key: p.value for p in each.metadata_props} for each in found.graph.node]
    assert stamps == [{edit.STAMP_SOURCE: "conv,bn", edit.STAMP_REWRITE: "fold"}, {}]


def test_new_operators_may_name_the_one_in_whose_place_each_stands() -> None:
    made = (
        NewNode("Abs", ("x",), ("%a",), name="/abs", anchor="bn"),
        NewNode("Neg", ("%a",), ("%n",), anchor="bn"),
        NewNode("Exp", ("%n",), ("%y",)),
    )
    found = applied(conv_bn(), (at("conv", "bn"), Replacement(made, {}, {"n": "%y"}))).graph.node
    assert [each.name for each in found] == ["bn/abs", "bn", "conv", "relu"]
    sources = [{p.key: p.value for p in each.metadata_props}[edit.STAMP_SOURCE] for each in found[:3]]
    assert sources == ["bn", "bn", "conv,bn"]


@pytest.mark.parametrize("steps", [1, 30])
def test_the_same_changes_give_the_same_bytes(steps: int) -> None:
    proto = chain(*["Relu"] * steps)
    changes = [
        (at(f"n{i}"), swap("y" if i == steps - 1 else f"v{i}", "Abs", f"v{i - 1}" if i else "x"))
        for i in range(steps)
    ]
    first, second = (applied(proto, *changes).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
