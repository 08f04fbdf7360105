"""What is compared where outputs tell too little: values before them, other inputs, or a warning."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt.calibration.test_inputs import other_inputs
from graphopt.errors import InputError
from graphopt.runtime import session
from graphopt.verification import values
from graphopt.verification.difference import change
from graphopt.verification.equivalence import verify
from graphopt.verification.reference import Reference
from graphopt.verification.verdict import Rule, Verification
from tests.builders import Array, batch_norm, bn_inputs, info, model, node, parsed, samples, weight

OFF = np.float32(1.05)
"""What a layer of a wrong candidate is multiplied by."""


def floats(*numbers: float) -> Array:
    return np.array(numbers, np.float32)


def head(
    nodes: str, weights: Mapping[str, Array], outputs: list[onnx.ValueInfoProto] | None = None, **options: Any
) -> onnx.ModelProto:
    """A layer and a Mul that can be folded into it, then the operators of the text."""
    lines = ["c = Conv <pads=[1, 1, 1, 1]> (x, w)", "m = Mul (c, scale)", *nodes.strip().splitlines()]
    layer = {"w": weight(8, 8, 3, 3), "scale": np.abs(weight(8, 1, 1)) + floats(0.5)}
    return model(parsed(*lines), {**layer, **weights}, outputs=outputs, **options)


@pytest.fixture
def shifting(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime's optimisation changes each output by half."""
    outputs = values.outputs

    def shifted(parts: Any, feeds: Any, *, optimised: bool) -> Any:
        found = outputs(parts, feeds, optimised=optimised)
        return [[y * 1.5 for y in ys] for ys in found] if optimised else found

    monkeypatch.setattr(values, "outputs", shifted)


def of(found: Verification, output: str, value: str = "") -> Any:
    """The verdict on a value, with the candidate as it stands."""
    return next(c for c in found.checks if (c.scope, c.output, c.value) == ("model", output, value))


def test_what_other_inputs_change_is_a_part_of_the_largest_value() -> None:
    assert change([floats(1, 4), floats(2, 4)]) == pytest.approx(0.25)
    assert change([floats(7, 7), floats(7, 7)]) == 0.0
    assert change([floats(0, 0), floats(0, 0)]) == 0.0
    assert change([floats(np.nan), floats(np.nan)]) == change([floats(np.inf), floats(np.inf)]) == 0.0
    assert change([np.ones((1, 3)), np.ones((2, 4))]) == 0.0
    assert change([floats(), floats()]) == 0.0 and change([floats(), floats(1)]) == 1.0
    assert change([[floats(1)], [floats(2)]]) == 0.5 and change([[floats(1)], []]) == 1.0
    assert change([np.array(["a"]), np.array(["b"])]) == 1.0


def test_of_one_input_the_samples_are_compared_else_the_places() -> None:
    assert change([np.array([[1.0, 5.0], [1.0, 4.0]])]) == pytest.approx(0.2)
    assert change([np.array([[1.0, 2.0]])]) == 0.5
    assert change([np.array([[3.0]])]) == 0.0


# --- outputs that no input changes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "bias"),
    [
        ("y = Sigmoid (d)", -60),
        ("y = Sigmoid (d)", 60),
        ("y = Tanh (d)", 60),
        ("y = HardSigmoid (d)", -60),
        ("y = Relu (d)", -90),
        ("y = Clip (d, low, high)", 90),
        ("y = Softmax <axis=1> (d)", [-90, 0, 0, 90]),
        ("r = Relu (d)\ny = Sigmoid (r)", -90),
        ("s = Sigmoid (d)\ny = Transpose <perm = [0, 2, 3, 1]> (s)", -60),
    ],
)
def test_a_saturated_output_is_compared_before_it_is_saturated(last: str, bias: Any) -> None:
    bounds = {"low": floats(0).reshape(()), "high": floats(6).reshape(())} if "Clip" in last else {}
    weights = {"v": weight(4, 8, 1, 1), "b": np.broadcast_to(np.float32(bias), 4), **bounds}
    right, wrong = (
        head(f"d = Conv (m, v, b)\n{last}", {**weights, "v": v}) for v in (weights["v"], weights["v"] * OFF)
    )
    same, other = graphopt.verify(right, right), graphopt.verify(right, wrong)
    assert same and not same.warnings and of(same, "y").rule is Rule.BEFORE
    assert of(same, "y", "d").rule is Rule.RELATIVE
    assert not other and not of(other, "y") and not of(other, "y", "d")


def test_the_operators_between_have_to_be_the_same() -> None:
    weights = {"v": weight(4, 8, 1, 1), "b": floats(*[-60] * 4)}
    one, other = (
        head(f"d = Conv (m, v, b)\ny = {last} (d)", weights) for last in ("Relu", "ThresholdedRelu")
    )
    found = graphopt.verify(one, other)
    assert [check.value for check in found.checks] == ["", ""]
    assert not found and "another range" in found.notes[0]


@pytest.mark.parametrize(
    ("twice", "once"),
    [
        ("r = Relu (d)\ny = Relu (r)", "y = Relu (d)"),
        ("r = Ceil (d)\ns = Ceil (r)\ny = Ceil (s)", "y = Ceil (d)"),
        (
            "e = Sigmoid (d)\nr = Reshape (e, one)\ny = Reshape (r, two)",
            "e = Sigmoid (d)\ny = Reshape (e, two)",
        ),
        ("e = Sigmoid (d)\nr = Flatten (e)\ny = Reshape (r, two)", "e = Sigmoid (d)\ny = Reshape (e, two)"),
    ],
)
def test_an_operator_that_is_there_twice_is_compared_before_both(twice: str, once: str) -> None:
    """Of values below 0 alone, or saturated ones: what the first of them makes has no counterpart."""
    shared = {"b": floats(*[-90] * 4), "one": np.array([2, 128]), "two": np.array([8, 32])}
    v = weight(4, 8, 1, 1)
    one, other, wrong = (
        head(f"d = Conv (m, v, b)\n{text}", {**shared, "v": held})
        for text, held in ((twice, v), (once, v), (once, v * OFF))
    )
    for before, after in ((one, other), (other, one)):
        found = graphopt.verify(before, after)
        assert found and not found.warnings and of(found, "y", "d")
    assert not graphopt.verify(one, wrong)


@pytest.mark.parametrize("last", ["Reshape (r, copied)", "Flatten <axis = 1> (r)"])
def test_a_view_of_which_the_result_depends_on_what_it_reads_is_no_repetition(last: str) -> None:
    """Without the first, saturated rows would be others: both are 0.25 or 0.125 of a sum."""
    shared = {
        "u": weight(4, 8, 1, 1) * np.float32(1e-5),
        "v": weight(4, 8, 1, 1, seed=2) * np.float32(1e-5),
        "sizes": np.array([64, 8]),
        "copied": np.array([0, -1]),
        "flat": np.array([-1]),
    }
    body = "d = Conv (m, u)\ne = Conv (m, v)\nc2 = Concat <axis=1> (d, e)\n"
    end = "\nf = Softmax <axis = 1> (s)\ny = Reshape (f, flat)"
    one = head(f"{body}r = Reshape (c2, sizes)\ns = {last}{end}", shared)
    other = head(f"{body}s = {last.replace('(r', '(c2')}{end}", shared)
    assert not graphopt.verify(one, other) and not graphopt.verify(other, one)


def test_parts_that_are_joined_twice_are_compared_as_they_are_joined_once() -> None:
    """The second Concat stays: what it reads in one model are other pieces than in the other."""
    shared = {"u": weight(4, 8, 1, 1), "v": weight(4, 8, 1, 1, seed=2), "pieces": np.array([1, 7])}
    parts = "d = Conv (m, u)\ne = Conv (m, v)"
    twice = (
        f"{parts}\nj = Concat <axis=1> (d, e)\np, q = Split <axis=1> (j, pieces)\ny = Concat <axis=1> (p, q)"
    )
    one, other, wrong = (
        head(text, {**shared, "v": shared["v"] * by})
        for text, by in (
            (twice, np.float32(1)),
            (f"{parts}\ny = Concat <axis=1> (d, e)", np.float32(1)),
            (f"{parts}\ny = Concat <axis=1> (d, e)", OFF),
        )
    )
    for before, after in ((one, other), (other, one)):
        found = graphopt.verify(before, after)
        assert found and not found.warnings
        assert not graphopt.verify(before, head(twice, {**shared, "v": shared["v"] * OFF}))
    assert not graphopt.verify(one, wrong)


def test_an_output_far_from_zero_is_compared_before_it_is_moved_there() -> None:
    """Of 5,000 the bound allows 0.5, much of what the inputs change."""
    weights = {"v": weight(4, 8, 1, 1), "high": floats(5000)}
    right, wrong = (
        head("d = Conv (m, v)\ny = Add (d, high)", {**weights, "v": v})
        for v in (weights["v"], weights["v"] * OFF)
    )
    assert graphopt.verify(right, right) and not graphopt.verify(right, wrong)


def test_parts_of_other_magnitudes_are_compared_alone() -> None:
    weights = {
        "v": weight(2, 8, 1, 1),
        "u": weight(2, 8, 1, 1, seed=3),
        "large": floats(1e5),
        "s": np.array([1, 4, 64]),
    }
    nodes = """
        d = Conv (m, v)
        e = Conv (m, u)
        f = Mul (e, large)
        g = Concat <axis=1> (d, f)
        r = Reshape (g, s)
        y = Transpose <perm=[0, 2, 1]> (r)
    """
    right, wrong = (head(nodes, {**weights, "v": v}) for v in (weights["v"], weights["v"] * OFF))
    found = graphopt.verify(right, wrong)
    assert of(found, "y") and of(found, "y", "f") and not of(found, "y", "d")


# --- other inputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["r = Relu (a)", "r = Log (x)", "r = Sqrt (x)"])
def test_inputs_in_other_ranges_are_tried_where_nothing_before_tells_more(before: str) -> None:
    """Layers that see zeros, or no numbers, until inputs are larger, or none is negative."""
    shared = {"t": weight(8, 8, 1, 1, seed=2), "b": floats(*[-60] * 8)}
    right, wrong = (
        head(f"a = Conv (x, t, b)\n{before}\ny = Conv (r, v)", {**shared, "v": weight(4, 8, 1, 1) * by})
        for by in (np.float32(1), OFF)
    )
    same, other = graphopt.verify(right, right), graphopt.verify(right, wrong)
    assert same and not same.warnings
    assert any("another range" in note and "y" in note for note in same.notes)
    assert not other


def test_what_was_found_about_one_candidate_says_nothing_of_the_next() -> None:
    weights = {"v": weight(4, 8, 1, 1), "b": floats(*[-60] * 4)}
    one, other = (
        ir.from_proto(head(f"d = Conv (m, v, b)\ny = {last} (d)", weights))
        for last in ("Relu", "ThresholdedRelu")
    )
    reference = Reference(one, [{"x": samples(1, seed=seed)} for seed in range(3)])
    first, between, again = (verify(reference, each.clone()) for each in (one, other, one))
    assert not first.notes and between.notes
    assert again == first and verify(reference, other) == between


@pytest.mark.usefixtures("shifting")
def test_other_ranges_tell_more_where_more_than_is_allowed() -> None:
    """An output changes by a part of its largest, in any range; onnxruntime changes more than that."""
    original = model([node("Conv", "x w", "y")], {"w": weight(8, 8, 1, 1)})
    found = graphopt.verify(original, original)
    assert not found.notes and found.warnings


def test_inputs_in_another_range_are_all_in_the_same() -> None:
    nodes = [node("BatchNormalization", bn_inputs("x", "bn"), "y")]
    proto = ir.from_proto(model(nodes, batch_norm("bn", 8)))
    feeds = [{"x": samples(1, seed=seed) * np.float32(1 + seed)} for seed in range(2)]
    expected = next(other_inputs.others(proto, feeds))
    factors = [np.abs(b["x"]).max() / np.abs(a["x"]).max() for a, b in zip(feeds, expected, strict=True)]
    assert factors[0] == pytest.approx(factors[1]) and factors[0] != pytest.approx(1)


def test_other_ranges_are_tried_at_sizes_like_the_first_and_not_at_the_largest() -> None:
    proto = ir.from_proto(model([node("Relu", "x", "y")], inputs={"x": ["N", 8, "H", "W"]}))
    feeds = [{"x": np.ones((1, 8, size, size), np.float32)} for size in (20, 1, 64, 22)]
    other = next(Reference(proto, feeds).others())
    assert [feed["x"].shape[2] for feed in other.feeds] == [20, 22]


# --- values that are not handed out -------------------------------------------------------------------------


def test_a_value_that_is_not_handed_out_is_told_as_such() -> None:
    proto = ir.from_proto(model([node("Relu", "x", "y")]))
    with pytest.raises(InputError, match="does not hand out 'nowhere'"):
        values.Values(session.structure(proto), [{"x": samples(1)}], optimised=False).of("nowhere")


def test_an_output_speaks_for_itself_where_one_model_hands_out_nothing_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = {"v": weight(4, 8, 1, 1), "b": floats(*[-60] * 4)}
    right = head("d = Conv (m, v, b)\ny = Sigmoid (d)", weights)
    outputs = values.outputs

    def losing(parts: Any, feeds: Any, *, optimised: bool) -> Any:
        if optimised and "d" in {output.name for output in parts.proto.graph.output}:
            raise InputError("no such type")
        return outputs(parts, feeds, optimised=optimised)

    monkeypatch.setattr(values, "outputs", losing)
    found = graphopt.verify(right, right)
    assert found and [check.value for check in found.checks] == ["", ""]
    assert found.warnings or any("another range" in note for note in found.notes)


def test_what_nothing_changes_is_named_in_a_warning() -> None:
    nodes = "z = Mul (m, none)\ny = Conv (z, v, b)"
    weights = {"none": floats(0), "v": weight(4, 8, 1, 1), "b": floats(1, 2, 3, 4)}
    found = graphopt.verify(head(nodes, weights), head(nodes, {**weights, "v": weights["v"] * OFF}))
    assert found and "y tells too little" in found.warnings[0] and len(found.warnings) == 1


def test_an_output_that_depends_on_no_input_needs_none() -> None:
    nodes = "n = Shape (m)\ny = Identity (m)"
    found = graphopt.verify(*[head(nodes, {}, [info("n", [4], np.int64), info("y", None)])] * 2)
    assert found and not found.warnings


@pytest.mark.usefixtures("shifting")
def test_a_bound_of_as_much_as_inputs_change_is_none() -> None:
    """Where onnxruntime's own optimisation changes an output by 0.5, nothing can be told by it."""
    original = model([node("Conv", "x w", "y")], {"w": weight(8, 8, 1, 1)})
    found = graphopt.verify(original, original)
    assert found.checks[1].rule is Rule.OWN and found.checks[1].allowed == pytest.approx(2.0)
    assert not found.checks[1].informative and "onnxruntime's own" in found.warnings[0]


# --- decisions ----------------------------------------------------------------------------------------------

COUNT = 64


def ranked() -> dict[str, Array]:
    return {
        "v": weight(1, 8, 1, 1),
        "high": floats(2000),
        "u": weight(4, 8, 1, 1, seed=3),
        "flat": np.array([1, COUNT]),
        "four": np.array([1, 4, COUNT]),
        "k": np.array([COUNT]),
        "last": np.array([2]),
        "wide": np.array([1, COUNT, 4]),
        "most": np.array([5]),
        "apart": floats(0.5),
        "least": floats(1e9),
        "two": np.array(2),
    }


BOXES = """
    s = Conv (m, v, high)
    b = Conv (m, u)
    scores = Reshape (s, flat)
    boxes = Reshape (b, four)
    rows = Transpose <perm=[0, 2, 1]> (boxes)
"""
RANKED = f"""{BOXES}
    values, places = TopK (scores, k)
    place = Unsqueeze (places, last)
    index = Expand (place, wide)
    y = GatherElements <axis=1> (rows, index)
"""
NOTHING_FOUND = f"""{BOXES}
    lists = Unsqueeze (scores, one)
    chosen = NonMaxSuppression (rows, lists, most, apart, least)
    places = Gather <axis=1> (chosen, two)
    y = Gather <axis=1> (rows, places)
"""
CLASSES = """
    s = Conv (m, u)
    y = ArgMax <axis=1> (s)
"""
MASK = """
    s = Conv (m, u)
    t = Greater (s, none)
    y = NonZero (t)
"""
QUERIES = f"""{BOXES}
    values, places = TopK (scores, k)
    place = Unsqueeze (places, last)
    index = Expand (place, wide)
    picked = GatherElements <axis=1> (rows, index)
    h = MatMul (picked, q)
    y = Mul (h, by)
"""
HEADS = {
    "ranked boxes": (RANKED, "u", None),
    "no box is found": (NOTHING_FOUND, "u", None),
    "classes": (CLASSES, "u", [info("y", None, np.int64)]),
    "places above a threshold": (MASK, "u", [info("y", None, np.int64)]),
    "layers behind a ranking": (QUERIES, "q", None),
}


def headed(nodes: str, outputs: list[onnx.ValueInfoProto] | None, **changed: Array) -> onnx.ModelProto:
    more = {
        "one": np.array([1]),
        "none": floats(0),
        "q": weight(4, 8, seed=5),
        "by": np.abs(weight(8)) + floats(1),
    }
    weights = {**ranked(), **more, **changed}
    read = set(re.findall(r"\w+", nodes))
    return head(nodes, {name: array for name, array in weights.items() if name in read}, outputs)


@pytest.mark.parametrize("name", HEADS)
def test_a_wrong_layer_before_or_behind_a_decision_is_noticed(name: str) -> None:
    nodes, layer, outputs = HEADS[name]
    right = headed(nodes, outputs)
    wrong = headed(nodes, outputs, **{layer: {"u": ranked()["u"], "q": weight(4, 8, seed=5)}[layer] * OFF})
    same, other = graphopt.verify(right, right), graphopt.verify(right, wrong)
    assert same and not same.warnings and not other


@pytest.mark.parametrize("name", ["ranked boxes", "layers behind a ranking"])
def test_folds_before_and_behind_a_ranking_of_near_values_stay(name: str) -> None:
    nodes, _, outputs = HEADS[name]
    report = graphopt.optimize(headed(nodes, outputs), aim="macs").report
    assert report.passed and not [left for left in report.declined if "verification" in left.reason]
    assert "fold_affine" in {item.candidate.rewrite for item in report.applied}
    assert "Mul" not in [
        each.op_type for each in graphopt.optimize(headed(nodes, outputs), aim="macs").model.graph
    ]


def test_names_of_the_other_model_do_not_matter() -> None:
    def renamed(proto: onnx.ModelProto) -> onnx.ModelProto:
        for each in proto.graph.node:
            each.input[:] = [
                name if name in ("x",) or name in kept else f"other/{name}" for name in each.input
            ]
            each.output[:] = [name if name == "y" else f"other/{name}" for name in each.output]
        return proto

    right = headed(RANKED, None)
    kept = {tensor.name for tensor in right.graph.initializer}
    same = graphopt.verify(right, renamed(headed(RANKED, None)))
    assert same and of(same, "y", "rows") and of(same, "y", "scores")
    assert not graphopt.verify(right, renamed(headed(RANKED, None, u=ranked()["u"] * OFF)))


def test_another_number_of_places_is_another_decision() -> None:
    few = {"k": np.array([COUNT // 2]), "wide": np.array([1, COUNT // 2, 4])}
    assert not graphopt.verify(headed(RANKED, None), headed(RANKED, None, **few))


def test_whole_numbers_made_of_values_are_compared_before() -> None:
    def rounded(by: float) -> onnx.ModelProto:
        nodes = "d = Conv (m, v)\ne = Mul (d, by)\ny = Cast <to = 7> (e)"
        return head(nodes, {"v": weight(4, 8, 1, 1), "by": floats(by)}, [info("y", None, np.int64)])

    found = graphopt.verify(rounded(1e-3), rounded(1e-3 * 1.05))
    assert not found and of(found, "y", "e").rule is Rule.RELATIVE
