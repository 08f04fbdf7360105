"""Whether two models compute the same: figures, bounds, interfaces, and the inputs that are compared on."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration.inputs import whole
from graphopt.calibration.test_inputs import choice, feeder
from graphopt.errors import InputError
from graphopt.runtime import session as runtime_session
from graphopt.runtime import subgraph
from graphopt.types import Candidate, Cost, NewNode, Replacement, Site
from graphopt.verification import regions, values
from graphopt.verification.difference import Agreement, Difference, is_class_scores
from graphopt.verification.verdict import Rule
from tests.builders import (
    batch_norm,
    bn_inputs,
    classifier,
    conv_bn,
    info,
    model,
    node,
    parsed,
    samples,
    weight,
)


def difference(a: Any, b: Any) -> Difference:
    gap = Difference()
    gap.add(a, b)
    return gap


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# --- figures ------------------------------------------------------------------------------------------------


def test_absolute_and_relative_figures() -> None:
    gap = difference(floats(1, -4), floats(1.5, -4))
    assert (gap.max_abs, gap.max_rel, gap.feeds, gap.note) == (0.5, 0.125, 1, "")
    assert gap.sqnr == pytest.approx(10 * math.log10(17 / 0.25))


def test_the_largest_over_all_feeds() -> None:
    gap = Difference()
    gap.add(floats(100), floats(101))
    gap.add(floats(1), floats(1.5))
    assert (gap.max_abs, gap.max_rel, gap.feeds) == (1.0, 0.5, 2)
    assert gap.sqnr == pytest.approx(10 * math.log10(10001 / 1.25), abs=1e-4)


def test_equal_outputs() -> None:
    gap = difference(floats(1, 2), floats(1, 2))
    assert (gap.max_abs, gap.max_rel, gap.sqnr) == (0.0, 0.0, math.inf)
    assert difference(floats(), floats()).max_rel == 0.0


@pytest.mark.parametrize(("off", "relative"), [(0.0, 0.0), (9e-7, 0.0), (-9e-7, 0.0), (2e-6, math.inf)])
def test_a_reference_of_zeros_has_an_absolute_bound(off: float, relative: float) -> None:
    assert difference(floats(0, 0), floats(0, off)).max_rel == relative


def test_the_same_values_that_are_not_finite_are_equal() -> None:
    odd = floats(math.nan, math.inf, -math.inf, 2)
    assert difference(odd, odd.copy()).max_rel == 0.0
    assert difference(odd, floats(math.nan, math.inf, -math.inf, 3)).max_rel == 0.5


@pytest.mark.parametrize(
    ("a", "b"), [(1, math.nan), (math.nan, 1), (1, math.inf), (math.inf, 1), (math.inf, -math.inf)]
)
def test_other_values_that_are_not_finite_differ(a: float, b: float) -> None:
    gap = difference(floats(a, 1), floats(b, 1))
    assert gap.max_rel == math.inf and gap.sqnr == -math.inf
    assert "not finite" in gap.note


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e25])
def test_the_ratio_is_that_of_values_whose_squares_are_beyond_their_type(scale: float) -> None:
    gap = difference(floats(scale, -4 * scale), floats(1.5 * scale, -4 * scale))
    assert gap.max_rel == pytest.approx(0.125)
    assert gap.sqnr == pytest.approx(10 * math.log10(17 / 0.25))


def test_shapes_and_types_that_differ() -> None:
    assert difference(np.zeros((2, 3)), np.zeros((3, 2))).note == "shape [3, 2] instead of [2, 3]"
    assert difference(floats(1), np.array([1.0])).note == "type float64 instead of float32"
    assert difference(np.array(["a"]), np.array(["b"])).max_rel == math.inf
    assert difference(np.array(["a"]), np.array(["a"])).max_rel == 0.0


def test_small_integers_do_not_wrap() -> None:
    assert difference(np.array([0, 200], np.uint8), np.array([1, 200], np.uint8)).max_abs == 1
    assert difference(np.array([-100], np.int8), np.array([100], np.int8)).max_abs == 200
    assert difference(np.array([True]), np.array([False])).max_rel == 1.0


def agreement(pairs: list[tuple[Any, Any]], axis: int | None = None, *, least: bool = False) -> float | None:
    found = Agreement(axis, least)
    for reference, candidate in pairs:
        found.add(reference, candidate)
    return found.part


def test_agreement_is_over_axis_1() -> None:
    a = np.array([[1, 2, 3], [3, 2, 1], [0, 5, 0], [1, 0, 0]])
    b = np.array([[1, 2, 3], [3, 2, 1], [0, 5, 0], [0, 0, 1]])
    assert agreement([(a, b)]) == 0.75
    assert agreement([(a.reshape(4, 3, 1, 1), b.reshape(4, 3, 1, 1))]) == 0.75
    for other in (a.reshape(4, 3, 1), a.reshape(2, 2, 3, 1), a.ravel(), a[:, :1]):
        assert agreement([(other, other)]) is None


def test_agreement_is_along_the_axis_of_a_ranking() -> None:
    a = np.array([[1, 2, 3], [3, 1, 1], [0, 5, 4]])
    b = np.array([[1, 2, 3], [3, 1, 1], [4, 5, 4]])
    assert agreement([(a, b)], 1) == agreement([(a, b)], -1) == 1.0
    assert agreement([(a, b)], 0) == agreement([(a, b)], -2) == pytest.approx(2 / 3)
    assert agreement([(a, b)], 0, least=True) == pytest.approx(2 / 3)
    assert agreement([(a[None, :, :, None], b[None, :, :, None])], 1) == pytest.approx(2 / 3)
    assert agreement([(a, b)], 2) is None


def test_agreement_of_what_some_inputs_give_no_scores_of() -> None:
    """Rows count, not feeds; what has none tells nothing, and what is a map at times is no class scores."""
    a, none = np.eye(4)[:3], np.zeros((0, 4))
    assert agreement([(a, a), (a[:1], a[1:2])]) == 0.75
    assert agreement([(a, a), (none, none)]) == 1.0
    assert agreement([(none, none)]) is None
    assert agreement([(a, a), (a, a[:2])]) == 0.5
    assert agreement([(a, a), (none, a)]) == 0.5
    assert agreement([(a, a), (np.ones((1, 4, 2, 2)), np.ones((1, 4, 2, 2)))]) is None


@pytest.mark.parametrize(
    ("shape", "scores"),
    [
        ((4, 10), 1),
        ((None, 10), 1),
        ((4, 10, 1, 1), 1),
        ((4, None), 1),
        ((4, 1), 0),
        ((4, 3, 8, 8), 0),
        ((9,), 0),
    ],
)
def test_which_outputs_hold_class_scores(shape: tuple[int | None, ...], scores: int) -> None:
    assert is_class_scores(shape) == bool(scores)


# --- whole models -------------------------------------------------------------------------------------------


def scaled(factor: float, dtype: Any = np.float32, **options: Any) -> onnx.ModelProto:
    """y = x · factor, elementwise."""
    return model([node("Mul", "x f", "y")], {"f": np.array([factor], dtype)}, dtype=dtype, **options)


@pytest.mark.parametrize(
    ("dtype", "within", "beyond"),
    [(np.float64, 5e-11, 2e-10), (np.float32, 5e-5, 2e-4), (np.float16, 3e-3, 1e-2)],
)
def test_the_bound_follows_the_type(dtype: Any, within: float, beyond: float) -> None:
    assert graphopt.verify(scaled(1, dtype), scaled(1 + within, dtype))
    assert not graphopt.verify(scaled(1, dtype), scaled(1 + beyond, dtype))


def test_a_verification_tells_what_was_compared() -> None:
    found = graphopt.verify(scaled(1), scaled(1.5))
    assert [check.scope for check in found.checks] == ["model", "model, optimised session"]
    for check in found.checks:
        assert not check and check.output == "y"
        assert check.max_rel == pytest.approx(0.5) and check.max_abs > 0.5
        assert check.allowed == 1e-4
        assert check.feeds == feeder.COUNT
        assert "FAILED" in str(check)


def test_integer_outputs_are_equal_or_not() -> None:
    def rounded(shift: int) -> onnx.ModelProto:
        nodes = [node("Cast", "x", "i", to=TensorProto.INT64), node("Add", "i s", "y")]
        outputs = [info("y", None, np.int64)]
        return model(nodes, {"s": np.array([shift], np.int64)}, outputs=outputs)

    assert graphopt.verify(rounded(3), rounded(3))
    assert not graphopt.verify(rounded(3), rounded(4))


def test_only_the_outputs_that_count() -> None:
    def two(factor: float) -> onnx.ModelProto:
        nodes = [node("Relu", "x", "same"), node("Mul", "x f", "other")]
        outputs = {"same": None, "other": None}
        return model(nodes, {"f": floats(factor)}, outputs=outputs)

    assert not graphopt.verify(two(1), two(2))
    assert graphopt.verify(two(1), two(2), outputs=["same"])
    assert not graphopt.verify(two(1), two(2), outputs=["other"])
    with pytest.raises(InputError, match="outputs are same, other"):
        graphopt.verify(two(1), two(1), outputs=["mine"])


def test_what_onnxruntime_changes_in_the_original_widens_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    # The original as onnxruntime optimises it stands 1e-3 off: 4e-3 is allowed, and no more.
    outputs = values.outputs
    original = scaled(1)

    def shifted(parts: Any, given: Any, *, optimised: bool) -> Any:
        found = outputs(parts, given, optimised=optimised)
        is_original = onnx.numpy_helper.to_array(parts.proto.graph.initializer[0]) == 1
        return [[y * 1.001 for y in ys] for ys in found] if optimised and is_original else found

    monkeypatch.setattr(values, "outputs", shifted)
    found = graphopt.verify(original, scaled(1.003))
    assert found and all(check.allowed == pytest.approx(4e-3, rel=1e-2) for check in found.checks)
    assert not graphopt.verify(original, scaled(1.005))


def overflowing(factor: float = 1.0) -> onnx.ModelProto:
    """A sum that overflows at some places as it stands, and at none with the normalisation folded in."""
    rng = np.random.default_rng(0)
    ones = np.ones(8, np.float32)
    weights = {
        "w": (2e37 * factor * rng.standard_normal((8, 8, 3, 3))).astype(np.float32),
        "scale": 1e-20 * ones,
        "bias": 0 * ones,
        "mean": 0 * ones,
        "var": ones,
    }
    nodes = [node("Conv", "x w", "c"), node("BatchNormalization", "c scale bias mean var", "y")]
    return model(nodes, weights)


def test_values_that_overflow_alike_are_equal() -> None:
    found = graphopt.verify(overflowing(), overflowing())
    assert found and all(check.max_rel == 0 for check in found.checks)
    assert all(math.isfinite(check.allowed) for check in found.checks)


def test_nothing_is_allowed_because_the_original_overflows() -> None:
    found = graphopt.verify(overflowing(), overflowing(0.5))
    assert [bool(check) for check in found.checks] == [False, False]
    assert found.checks[1].max_rel == pytest.approx(0.5, rel=1e-3)
    assert not graphopt.verify(overflowing(), conv_bn())


def test_nan_in_the_same_places_is_equal() -> None:
    nowhere = scaled(math.nan)
    found = graphopt.verify(nowhere, nowhere)
    assert found and all(check.max_rel == 0 for check in found.checks)
    assert not graphopt.verify(nowhere, scaled(1)) and not graphopt.verify(scaled(1), nowhere)


@pytest.mark.parametrize(("factor", "equal"), [(1, True), (1.01, False)])
def test_sequences_are_compared_element_by_element(factor: float, equal: bool) -> None:
    def parts(by: float) -> onnx.ModelProto:
        nodes = [node("Mul", "x by", "m"), node("SplitToSequence", "m", "y", axis=2, keepdims=1)]
        outputs = [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)]
        return model(nodes, {"by": floats(by)}, outputs=outputs)

    assert bool(graphopt.verify(parts(1), parts(factor))) is equal
    assert difference([floats(1)], [floats(1), floats(2)]).note == "2 elements instead of 1"


def test_a_candidate_that_does_not_run() -> None:
    fine, broken = (model([node("Reshape", "x s", "y")], {"s": np.array([1, 8, 8, last])}) for last in (8, 9))
    found = graphopt.verify(fine, broken)
    assert not found
    assert "can't run" in found.checks[0].note or "can't load" in found.checks[0].note


def test_a_reference_that_does_not_run() -> None:
    custom = helper.make_node("Warp", ["x"], ["y"], domain="my.ops")
    proto = model([custom], domains=["my.ops"])
    with pytest.raises(InputError, match="can't load"):
        graphopt.verify(proto, proto)


def test_a_random_original_is_named() -> None:
    def noisy(*before: onnx.NodeProto) -> onnx.ModelProto:
        nodes = [*before, node("RandomNormalLike", "x", "n"), node("Add", "x n", "y"), node("Relu", "x", "z")]
        return model(nodes, outputs={"y": None, "z": None})

    # onnxruntime seeds a random operator by its place among the operators.
    found = graphopt.verify(noisy(), noisy(node("Neg", "x", "unused")))
    assert found
    assert [check.output for check in found.checks] == ["z", "z"]
    assert "random there: y" in found.notes[0]


# --- the interface ------------------------------------------------------------------------------------------


def add(**options: Any) -> onnx.ModelProto:
    defaults = {"inputs": [info("a", ["N", 4]), info("b", ["N", 4])], "outputs": [info("y", ["N", 4])]}
    return model([node("Add", "a b", "y")], **{**defaults, **options})


def test_other_symbols_are_the_same_interface() -> None:
    renamed = add(inputs=[info("a", ["batch", 4]), info("b", ["batch", 4])], outputs=[info("y", [None, 4])])
    assert graphopt.verify(add(), renamed)


A, B = info("a", ["N", 4]), info("b", ["N", 4])
WIDE = {"inputs": {"a": ["N", 4], "b": ["N", 4]}, "outputs": {"y": ["N", 4]}, "dtype": np.float64}


@pytest.mark.parametrize(
    ("change", "naming"),
    [
        ({"inputs": [B, A]}, "the inputs differ: their order"),
        ({"inputs": [A, info("b", [1, 4])]}, "the inputs differ: b FLOAT"),
        (
            {"inputs": [A, info("b", ["N", 1])]},
            "the inputs differ: b FLOAT[?, 4] in the first, b FLOAT[?, 1] in the second",
        ),
        ({"inputs": [A, info("b", [4])]}, "the inputs differ: b FLOAT"),
        ({"inputs": [A, B, info("c", [1])]}, "the inputs differ: c FLOAT[1] only in the second"),
        ({"outputs": [info("y", ["N", 4]), A]}, "the outputs differ: a FLOAT"),
        ({"outputs": [info("y", [1, 4])]}, "the outputs differ: y FLOAT"),
        (WIDE, "the inputs differ: "),
    ],
)
def test_interfaces_that_differ(change: dict[str, Any], naming: str) -> None:
    found = graphopt.verify(add(), add(**change))
    assert not found
    assert [check.scope for check in found.checks] == ["interface"]
    assert naming in found.checks[0].note


def test_up_to_ir_3_initializers_among_the_inputs_are_no_interface() -> None:
    listed = ["w", "bn/scale", "bn/shift", "bn/mean", "bn/var"]
    assert graphopt.verify(conv_bn(overridable=listed, ir_version=3, opset=7), conv_bn(opset=7))


def test_a_default_that_can_be_overridden_no_more() -> None:
    """The models compute the same, and a caller who feeds the weight can't call the second."""
    proto = conv_bn(overridable=["w"])
    lost = graphopt.verify(proto, conv_bn())
    assert not lost and lost.checks[0].rule is Rule.PORTS
    assert lost.checks[0].note.startswith("the inputs differ: w FLOAT[8, 8, 3, 3] only in the first")
    assert graphopt.verify(proto, conv_bn(), freeze_initializers=True)
    narrower = conv_bn(overridable=["w"])
    narrower.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "any"
    assert "w FLOAT[8, 8, 3, 3] in the first, w FLOAT[?, 8, 3, 3] in the second" in str(
        graphopt.verify(proto, narrower).checks[0].note
    )
    assert graphopt.verify(conv_bn(), proto)  # what may be fed besides hinders nobody
    assert graphopt.bench(proto, conv_bn(), repeat=1)


def test_an_output_that_became_a_constant() -> None:
    before = model([node("Constant", "", "y", value_floats=[1.0, 2.0])], {}, outputs={"y": [2]})
    after = model([], {"y": np.array([1.0, 2.0], np.float32)}, outputs={"y": [2]})
    assert graphopt.verify(before, after)


# --- the inputs that are compared on ------------------------------------------------------------------------


def chosen(proto: onnx.ModelProto, **options: Any) -> choice.TestInputs:
    return choice.choose(ir.from_proto(proto), **options)


def shapes(found: choice.TestInputs, name: str = "x") -> list[tuple[int, ...]]:
    return [feed[name].shape for feed in found.feeds]


def test_several_inputs_of_a_fixed_size() -> None:
    found = chosen(conv_bn())
    assert shapes(found) == [(1, 8, 8, 8)] * 3
    assert len({feed["x"].tobytes() for feed in found.feeds}) == 3
    assert not found.assumed and not found.problem


def test_the_seed_makes_the_inputs() -> None:
    first, again, other = (chosen(conv_bn(), seed=seed).feeds[0]["x"] for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_open_batch_is_one_and_more() -> None:
    found = chosen(classifier())
    assert found.sizes == {"x": (1, 8, 8, 8)}
    assert not found.assumed
    assert {shape[0] for shape in shapes(found)} >= {1, 3}


def test_open_sizes_are_several_and_odd_ones_too() -> None:
    found = chosen(conv_bn(inputs={"x": ["N", 8, "H", "W"]}, outputs={"y": None}))
    assert found.assumed
    heights = {shape[2] for shape in shapes(found)}
    assert len(heights) >= 2 and any(height % 2 for height in heights)
    assert len({shape[0] for shape in shapes(found)}) >= 2
    assert found.sizes == {"x": (1, 8, 64, 64)}


@pytest.mark.parametrize("told", ["nothing", "shapes", "calibration"])
def test_open_sizes_are_small_and_large_ones_too_whoever_told_one(told: str) -> None:
    proto = conv_bn(inputs={"x": ["N", 8, "H", "W"]}, outputs={"y": None})
    given = whole(samples(8, 8, 12, 10), ir.from_proto(proto))
    options: dict[str, Any] = {"nothing": {}, "shapes": {"shapes": {"x": (1, 8, 12, 10)}}}
    options["calibration"] = {"calibration": given}
    found = chosen(proto, **options[told])
    sizes = {shape[2:] for shape in shapes(found)}
    at = found.sizes["x"][2:]
    assert {at, (1, 1), (2, 2), (3, 3), tuple(2 * size + 1 for size in at)} <= sizes
    assert (at[0] + 1, at[1] + 3) in sizes, "of the other rest by 2"


@pytest.mark.parametrize(("size", "largest"), [(12, 25), (63, 127), (64, 129), (100, 165), (225, 337)])
def test_a_large_size_is_double_of_small_ones_and_half_more_of_others(size: int, largest: int) -> None:
    proto = conv_bn(inputs={"x": ["N", 8, "H", 4]}, outputs={"y": None})
    assert max(shape[2] for shape in shapes(chosen(proto, shapes={"x": (1, 8, size, 4)}))) == largest


def test_maps_of_three_open_axes_are_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = model(
        [node("Conv", "x w", "y")], {"w": weight(2, 2, 1, 1, 1)}, inputs={"x": [1, 2, "D", "H", "W"]}
    )
    found = shapes(chosen(proto))
    assert found[0] == (1, 2, 32, 32, 32) and (1, 2, 65, 65, 65) in found
    given = shapes(chosen(proto, shapes={"x": (1, 2, 70, 70, 70)}))
    assert max(shape[2] for shape in given) == 71, "nothing half more"


def test_every_input_keeps_to_the_memory() -> None:
    proto = conv_bn(inputs={"x": ["N", 8, "H", "W"]}, outputs={"y": None})
    kept = shapes(chosen(proto, shapes={"x": (1, 8, 40, 40)}, memory=60_000))
    assert {size for *_, size in kept} == {1, 2, 3, 40, 43}


def test_sizes_at_which_the_model_does_not_run_are_left_out() -> None:
    nodes = [node("Conv", "x w", "y", "conv")]
    proto = model(nodes, {"w": weight(8, 8, 3, 3)}, inputs={"x": ["N", 8, "H", "W"]})
    found = chosen(proto, shapes={"x": (1, 8, 12, 12)})
    assert min(min(shape[2:]) for shape in shapes(found)) == 3


def test_sizes_are_tried_until_the_model_runs() -> None:
    nodes = [node("Flatten", "x", "f"), node("MatMul", "f w", "y")]
    found = chosen(model(nodes, {"w": weight(96 * 96, 2)}, inputs={"x": ["N", 1, "H", "W"]}))
    assert found.sizes == {"x": (1, 1, 96, 96)} and not found.problem


def of_one_size(*sizes: int) -> onnx.ModelProto:
    """A model that runs at these sizes of its open axes and at one less alone, which no operator tells."""
    nodes = ["s = Shape <start = 2> (x)", "d = Sub (s, sizes)", "z = Gather (t, d)", "y = Relu (x)"]
    weights = {"sizes": np.array(sizes), "t": weight(1)}
    names = [f"S{axis}" for axis, _ in enumerate(sizes)]
    return model(parsed(*nodes), weights, inputs={"x": ["N", 1, *names]}, outputs={"y": None, "z": None})


def test_no_size_that_runs_is_a_problem() -> None:
    proto = of_one_size(7, 11)
    found = chosen(proto)
    assert found.feeds == () and found.assumed
    assert "can't run" in found.problem and "x (Nx1xS0xS1)" in found.problem and '"shapes"' in found.problem
    with pytest.raises(InputError, match="can't run"):
        graphopt.verify(proto, proto)
    assert graphopt.verify(proto, proto, shapes={"x": [2, 1, 7, 11]})
    assert graphopt.verify(proto, proto, samples(3, 1, 7, 11))


def test_three_open_axes_get_no_more_pixels_than_a_picture(tried: list[tuple[int, ...]]) -> None:
    found = chosen(of_one_size(3, 7, 11))
    assert "can't run" in found.problem
    assert [shape[2] for shape in tried] == [32, 16, 8, 4, 2, 1, 64]


@pytest.mark.parametrize(
    ("nodes", "shape", "sizes"),
    [
        (["a = Transpose <perm = [0, 2, 3, 1]> (x)", "y = Conv (a, k)"], ["N", 3, "H", "W"], (1, 3, 4, 64)),
        (["a = Sigmoid (x)", "b = Sum (a, x)", "y = MatMul (b, m)"], ["N", 3, None, None], (1, 3, 64, 5)),
        (["y = Conv (x, k)"], [None, None, None, None], (1, 4, 64, 64)),
        (["y = Concat <axis = 1> (x, z)"], ["N", "C", "H", "W"], (2, 64, 6, 7)),
    ],
)
def test_a_size_that_the_operators_tell_is_no_guess(
    nodes: list[str], shape: list[Any], sizes: tuple[int, ...]
) -> None:
    weights = {"k": weight(8, 4, 1, 1), "m": weight(5, 6), "z": weight(2, 3, 6, 7)}
    found = chosen(model(parsed(*nodes), weights, inputs={"x": shape}))
    assert found.sizes == {"x": sizes} and not found.problem
    told = [
        axis for axis, size in enumerate(sizes) if axis and size != 64 and not isinstance(shape[axis], int)
    ]
    assert all(shape[axis] == sizes[axis] for shape in shapes(found) for axis in told)
    others = {shape[axis] for shape in shapes(found) for axis, size in enumerate(sizes) if size == 64}
    assert {1, 2, 3, 64, 65, 129} <= others


def test_a_size_that_is_broadcast_is_tried_first_and_1_too() -> None:
    nodes = parsed("a = Transpose <perm = [0, 2, 3, 1]> (x)", "b = Add (a, c)", "y = MatMul (b, m)")
    weights = {"c": weight(4, 5, 3), "m": weight(3, 6)}
    found = chosen(model(nodes, weights, inputs={"x": ["N", 3, "H", "W"]}))
    assert found.sizes == {"x": (1, 3, 4, 5)}
    assert {(1, 3, 1, 1), (3, 3, 4, 5)} <= set(shapes(found))


def test_a_batch_that_the_operators_tell_is_no_other() -> None:
    nodes = parsed("s = Constant <value_ints = [2, 8, 10, 12]> ()", "y = Reshape (x, s)")
    found = chosen(model(nodes, inputs={"x": ["N", 2, 4, 10, 12]}))
    assert found.sizes == {"x": (2, 2, 4, 10, 12)} and not found.assumed and not found.problem


def test_a_symbol_is_one_size_wherever_it_stands() -> None:
    proto = model([node("Add", "x m", "y")], inputs={"x": ["N", 8, "H", "W"], "m": ["N", 1, "H", "W"]})
    found = chosen(proto)
    assert found.sizes == {"x": (1, 8, 64, 64), "m": (1, 1, 64, 64)}
    assert all(feed["x"].shape[2:] == feed["m"].shape[2:] for feed in found.feeds)
    told = chosen(proto, shapes={"x": [2, 8, 17, 23]})
    assert told.sizes == {"x": (2, 8, 17, 23), "m": (2, 1, 17, 23)} and not told.assumed


@pytest.mark.parametrize("nameless", ["None", "?", None, "", -1])
def test_sizes_without_a_name_are_apart(nameless: str | int | None) -> None:
    found = chosen(conv_bn(inputs={"x": [nameless, 8, nameless, 8]}, outputs={"y": None}))
    assert found.sizes == {"x": (1, 8, 64, 8)}


def test_sizes_that_contradict_the_model_are_refused() -> None:
    for given in ({"x": [1, 8, 9, 8]}, {"z": [1]}, {"x": [1, 8, 8]}):
        for act in (graphopt.verify, partial(graphopt.bench, repeat=1)):
            with pytest.raises(InputError, match="'x'"):
                act(conv_bn(), conv_bn(), shapes=given)


def test_calibration_inputs_are_compared_on_and_set_the_range() -> None:
    given = whole(samples(8) * 0.01 + 7, ir.from_proto(classifier()))
    found = chosen(classifier(), calibration=given)
    assert any(np.array_equal(feed["x"], given.held_out[:3].joined()["x"]) for feed in found.feeds)
    low, high = given.ranges()["x"]
    for feed in found.feeds:
        assert low <= feed["x"].min() and feed["x"].max() <= high


def test_verify_compares_on_the_given_inputs() -> None:
    # The two differ below −10 alone, where no random input comes.
    def clipped(low: float) -> onnx.ModelProto:
        return model([node("Clip", "x low", "y")], {"low": np.array(low, np.float32)}, inputs={"x": ["N", 4]})

    assert graphopt.verify(clipped(-10), clipped(-20))
    found = graphopt.verify(clipped(-10), clipped(-20), np.full((70, 4), -30, np.float32))
    assert not found
    assert found.checks[0].feeds == 3  # 70 inputs, 32 at once


def test_verify_leaves_out_what_makes_no_batch() -> None:
    found = graphopt.verify(classifier(batch=4), classifier(batch=4), samples(10))
    assert found and found.checks[0].feeds == 2


def test_integer_inputs_are_random_too() -> None:
    proto = model([node("Gather", "t x", "y")], {"t": weight(2, 3)}, inputs=[info("x", [50], np.int64)])
    values = chosen(proto).feeds[0]["x"]
    assert values.dtype == np.int64 and set(values.tolist()) == {0, 1}


# --- regions ------------------------------------------------------------------------------------------------


def at(*names: str) -> Candidate:
    return Candidate("swap", Site("main", names), Cost(0), Cost(0))


def relu_for(op: str) -> tuple[Candidate, Replacement]:
    """Another operator in the place of conv_bn's Relu."""
    return at("relu"), Replacement((NewNode(op, ("n",), ("%y",)),), {}, {"y": "%y"})


def check(*changes: tuple[Candidate, Replacement]) -> list[bool]:
    analysis = Analysis(ir.from_proto(conv_bn()))
    return [bool(verdict) for _, verdict in regions.verify_regions(analysis, changes, 0)]


def test_a_region_alone_tells_right_from_wrong() -> None:
    assert check(relu_for("Relu")) == [True]
    assert check(relu_for("Abs")) == [False]


def test_regions_are_judged_one_by_one() -> None:
    other = {"%w": weight(8, 8, 3, 3, seed=5)}
    attributes = {"pads": (1, 1, 1, 1)}
    wrong = Replacement((NewNode("Conv", ("x", "%w"), ("%c",), attributes),), other, {"c": "%c"})
    assert check(relu_for("Relu"), (at("conv"), wrong)) == [True, False]


def test_a_region_that_onnxruntime_refuses_fails_alone() -> None:
    broken = Replacement((NewNode("Conv", ("x", "%w"), ("%c",)),), {"%w": weight(8, 3, 3, 3)}, {"c": "%c"})
    analysis = Analysis(ir.from_proto(conv_bn()))
    found = regions.verify_regions(analysis, [relu_for("Relu"), (at("conv"), broken)], 0)
    assert [bool(verdict) for _, verdict in found] == [True, False]
    assert "onnxruntime can't" in found[1][1].note


def test_regions_in_several_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "REGION_BYTES", 1)
    assert check(relu_for("Relu"), relu_for("Relu")) == [True, True]


def test_a_region_reads_and_makes_values_of_its_own() -> None:
    analysis = Analysis(ir.from_proto(conv_bn()))
    change = Replacement((NewNode("Identity", ("x",), ("%n",)),), {}, {"n": "%n"})
    found = subgraph.region(analysis, at("conv", "bn"), change, "r0/")
    assert set(found.inputs) == {"r0/old/x"}
    assert found.sources == {"r0/old/x": "x"}
    assert {name.split("/", 2)[2] for name in found.constants} == {"w", *batch_norm("bn", 8)}
    assert found.outputs == (("n", "r0/old/n", "r0/new/%n"),)
    assert bn_inputs("c", "bn").split()[0] not in {name.split("/")[-1] for name in found.inputs}


def test_an_interpreter_is_fed_the_weights_and_computes_the_same_bits() -> None:
    parts = runtime_session.structure(ir.from_proto(classifier()))
    parts = runtime_session.Structure(
        parts.proto, {name: array.copy() for name, array in parts.weights.items()}
    )
    assert parts.weights
    before = parts.proto.SerializeToString()
    fed: dict[str, Any] = {}
    interpreter = runtime_session.Interpreter(parts)
    feed = {"x": samples(1)}
    run = runtime_session.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime_session, "run", lambda running, feeds: fed.update(feeds) or run(running, feeds))
        found = interpreter.run(feed)
    assert all(np.shares_memory(fed[name], array) for name, array in parts.weights.items())
    assert parts.proto.SerializeToString() == before
    for ours, theirs in zip(found, run(runtime_session.session(parts, optimised=False), feed), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_interpreter_of_weights_that_a_caller_may_override() -> None:
    proto = classifier()
    weights = runtime_session.structure(ir.from_proto(proto)).weights
    name = next(iter(weights))
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    proto.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    parts = runtime_session.structure(ir.from_proto(proto))
    other = {"x": samples(1), name: 2 * weights[name]}
    (found,) = runtime_session.Interpreter(parts).run(other)
    (expected,) = runtime_session.run(runtime_session.session(parts, optimised=False), other)
    np.testing.assert_array_equal(found, expected)


def test_an_interpreter_of_a_model_whose_weights_must_be_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = runtime_session.structure(ir.from_proto(classifier()))
    feed = {"x": samples(1)}
    (expected,) = runtime_session.Interpreter(parts).run(feed)
    session = runtime_session.session

    def refuses(parts: runtime_session.Structure, **options: Any) -> Any:
        if not parts.weights:
            raise InputError("the weights must be constant")
        return session(parts, **options)

    monkeypatch.setattr(runtime_session, "session", refuses)
    (found,) = runtime_session.Interpreter(parts).run(feed)
    np.testing.assert_array_equal(found, expected)


def test_a_session_of_a_model_as_it_stands_plans_no_memory() -> None:
    """Onnxruntime's plan takes time with the square of the model's size, and is for many runs."""
    parts = runtime_session.structure(ir.from_proto(classifier()))
    planned = [
        runtime_session.session(parts, optimised=level).get_session_options().enable_mem_pattern
        for level in (False, True)
    ]
    assert planned == [False, True]
