"""Regions are checked on what the network can make: sizes, ranks, channels and equalities that are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.analysis.snapshot import Analysis
from graphopt.types import Candidate, Change, Cost, NewNode, Replacement, Site
from graphopt.verification.regions import verify_regions
from graphopt.verification.verdict import Verdict
from tests.builders import Array, Net, compare_at_sizes, grid, model, node, samples, weight


def flattened(net: Net, x: str, features: int, source: str = "") -> str:
    """[N, features], as exporters write view(source.size(0), features)."""
    batch = net.op("Gather", net.op("Shape", source or x), net.const(np.array([0])), axis=0)
    size = net.op("Concat", batch, net.const(np.array([features])), axis=0)
    return net.op("Reshape", x, size, channels=features)


def scale_in_front_of_a_view(net: Net) -> str:
    x = net.input(["N", 6, 4, 4])
    y = net.affine("Mul", net.op("Sigmoid", x), net.per_channel(6))
    return net.gemm(flattened(net, y, 96, x), 5)


def view_that_changes_nothing(net: Net) -> str:
    return net.gemm(flattened(net, net.op("Sigmoid", net.input(["N", 6])), 6), 5)


def two_equal_views(net: Net) -> str:
    x = net.op("Sigmoid", net.input(["N", 6, 4, 4]))
    return net.op("Concat", *(net.gemm(flattened(net, x, 96), 5) for _ in range(2)), axis=1)


def size_of_a_resize(net: Net) -> str:
    x = net.op("Relu", net.input(["N", 6, 5, 4]))
    size = net.op("Mul", net.op("Shape", x), net.const(np.array([1, 1, 2, 2])))
    y = net.op("Resize", x, "", "", size, mode="nearest")
    return net.bn(net.conv(y, 4, (1, 1)))


def slice_of_what_it_is_joined_with(net: Net) -> str:
    x = net.input(["N", 6, "H", "W"])
    part = net.op("Slice", x, *(net.const(np.array([n])) for n in (2, 4, 1)), channels=2)
    return net.conv(net.op("Concat", part, x, axis=1), 8)


def sizes_that_are_inferred_wrongly(net: Net) -> str:
    attributes = {"output_shape": [4, 3], "strides": [1, 1]}  # of which a rank of 2 is inferred
    y = net.op("ConvTranspose", net.input(["N", 6, "H", "H"]), net.const(weight(6, 3, 1, 3)), **attributes)
    return net.affine(
        "Mul", net.op("AveragePool", y, kernel_shape=[2, 2], strides=[1, 1]), net.per_channel(3)
    )


CASES: Mapping[str, tuple[str, Callable[[Net], str]]] = {
    "scale_in_front_of_a_view": ("fold_affine_before", scale_in_front_of_a_view),
    "view_that_changes_nothing": ("remove_identity", view_that_changes_nothing),
    "two_equal_views": ("remove_duplicates", two_equal_views),
    "size_of_a_resize": ("fold_affine", size_of_a_resize),
    "sizes_that_are_inferred_wrongly": ("fold_affine", sizes_that_are_inferred_wrongly),
    "slice_of_what_it_is_joined_with": ("prune_channels", slice_of_what_it_is_joined_with),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_right_is_not_dropped(case: str) -> None:
    rewrite, build = CASES[case]
    net = Net()
    before = net.model(build(net))
    result = graphopt.optimize(before, aim="macs")
    assert rewrite in {item.candidate.rewrite for item in result.report.applied}
    assert not [left for left in result.report.declined if "verification" in left.reason]
    assert compare_at_sizes(before, ir.to_proto(result.model), grid("N", "H", "W", sizes=(1, 3, 8)))


@pytest.mark.parametrize(
    "shape", [["N", "C", "H", "W"], [None] * 4, None], ids=["named", "nameless", "no rank"]
)
@pytest.mark.parametrize("front", ["", "Relu", "AveragePool"])
def test_channels_and_rank_are_those_of_the_weights_that_read_them(
    shape: list[str | None] | None, front: str
) -> None:
    attributes = {"kernel_shape": [2, 2]} if front == "AveragePool" else {}
    nodes = [node(front, "x", "r", **attributes)] if front else []
    nodes += [node("Conv", f"{'r' if front else 'x'} w", "c", pads=[1, 1, 1, 1]), node("Mul", "c s", "y")]
    weights = {"w": weight(16, 12, 3, 3), "s": weight(16, 1, 1)}
    before = model(nodes, weights, inputs={"x": shape})
    result = graphopt.optimize(before, only=["fold_affine"])
    assert [item.candidate.rewrite for item in result.report.applied] == ["fold_affine"]
    session = ReferenceEvaluator
    feed = {"x": samples(2, 12, 5, 4)}
    (expected,), (found,) = (session(each).run(None, feed) for each in (before, ir.to_proto(result.model)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_last_size_of_a_map_is_that_of_the_matrix_that_reads_it() -> None:
    net = Net()
    y = net.op("MaxPool", net.conv(net.input(["N", 3, "L"]), 4, (3,)), kernel_shape=[8], strides=[8])
    y = net.op("MatMul", y, net.const(weight(11, 3)), name="product")
    analysis = Analysis(ir.from_proto(net.model(y)))
    read = analysis.nodes["product"].inputs[0]
    assert read is not None
    assert analysis.likely_shape(read) == (1, 4, 11)


def replaced(proto: onnx.ModelProto, name: str, made: NewNode) -> tuple[Analysis, list[Change]]:
    analysis = Analysis(ir.from_proto(proto))
    output = analysis.nodes[name].outputs[0].name or ""
    change = Replacement((made,), {}, {output: made.outputs[0]})
    return analysis, [Change(Candidate("r", Site("main", (name,)), Cost(0), Cost(0)), change)]


def judged(proto: onnx.ModelProto, name: str, made: NewNode, *feeds: Array) -> Verdict:
    analysis, changes = replaced(proto, name, made)
    ((_, verdict),) = verify_regions(analysis, changes, 0, [{"x": feed} for feed in feeds])
    return verdict


def passes(proto: onnx.ModelProto, name: str, made: NewNode, feed: Array) -> bool:
    return bool(judged(proto, name, made, feed))


def test_what_holds_on_the_values_of_the_model_alone_passes() -> None:
    proto = model([node("Relu", "x", "r", "first"), node("Abs", "r", "y", "second")])
    assert passes(proto, "second", NewNode("Identity", ("r",), ("%y",)), samples(1))
    assert not passes(proto, "first", NewNode("Identity", ("x",), ("%y",)), samples(1))


def test_a_model_that_does_not_run_far_out_is_judged_by_the_inputs_as_given() -> None:
    nodes = [
        node("Relu", "x", "r", "first"),
        node("ReduceMax", "r", "m", keepdims=0),
        node("Cast", "m", "i", to=onnx.TensorProto.INT64),
        node("Gather", "table i", "g"),
        node("Mul", "r g", "s"),
        node("Abs", "s", "y", "second"),
    ]
    proto = model(nodes, {"table": np.arange(1, 50, dtype=np.float32)})
    assert passes(proto, "second", NewNode("Identity", ("s",), ("%y",)), samples(1))
    assert not passes(proto, "second", NewNode("Neg", ("s",), ("%y",)), samples(1))
    assert not passes(proto, "second", NewNode("Identity", ("s",), ("%y",)), 100 * samples(1))


def test_figures_are_the_worst_of_all_inputs() -> None:
    nodes = [node("Relu", "x", "r", "first"), node("Max", "r tiny", "y", "second")]
    proto = model(nodes, {"tiny": np.float32(1e-6)})
    made = NewNode("Identity", ("r",), ("%y",))
    alone, with_larger = (
        judged(proto, "second", made, *feeds)
        for feeds in ([samples(1)], [samples(1), 1000 * samples(1, seed=1)])
    )
    assert alone and alone.feeds == 3 and with_larger.feeds == 4
    assert with_larger.max_rel == alone.max_rel > 0


def test_values_that_are_the_same_everywhere_prove_nothing() -> None:
    proto = model([node("Relu", "x", "r", "first"), node("Neg", "r", "y", "second")])
    assert not passes(proto, "second", NewNode("Identity", ("r",), ("%y",)), -np.abs(samples(1)))


def test_what_holds_on_the_test_inputs_by_chance_does_not_pass() -> None:
    proto = model(
        [node("Add", "x five", "p", "add"), node("Relu", "p", "y", "relu")], {"five": np.float32(5)}
    )
    assert not passes(proto, "relu", NewNode("Identity", ("p",), ("%y",)), np.clip(samples(1), -4, 4))


# ---------------------------------------------------------------- channels of several scales


@pytest.mark.parametrize(
    ("dtype", "factor"), [(np.float16, 300.0), (np.float16, 1000.0), (np.float32, 1e6), (np.float32, 1e12)]
)
def test_a_channel_that_is_lost_beside_a_large_one_fails(dtype: npt.DTypeLike, factor: float) -> None:
    weights = weight(8, 8, 3, 3)
    weights[3] *= factor
    kernel = weights.astype(dtype)
    proto = model([node("Conv", "x w", "y", "conv")], {"w": kernel}, dtype=dtype)
    for lost, right in ((kernel[:1] * 0, False), (kernel[:1], True)):
        made = np.concatenate([lost, kernel[1:]])
        analysis = Analysis(ir.from_proto(proto))
        change = Replacement((NewNode("Conv", ("x", "%w"), ("%y",)),), {"%w": made}, {"y": "%y"})
        change_of = Change(Candidate("r", Site("main", ("conv",)), Cost(0), Cost(0)), change)
        ((_, verdict),) = verify_regions(analysis, [change_of], 0)
        assert bool(verdict) is right
        assert ("of its own scale" in verdict.why) is not right


def test_of_tokens_the_channels_come_last() -> None:
    kernel = weight(8, 8) * np.where(np.arange(8) == 3, 1.0, 1e7).astype(np.float32)
    proto = model(
        [node("MatMul", "x w", "y", "matmul")],
        {"w": kernel},
        inputs={"x": [1, 5, 8]},
        outputs={"y": [1, 5, 8]},
    )
    for kept, right in ((0.0, False), (1.0, True)):
        made = kernel * np.where(np.arange(8) == 3, kept, 1.0).astype(np.float32)
        analysis = Analysis(ir.from_proto(proto))
        change = Replacement((NewNode("MatMul", ("x", "%w"), ("%y",)),), {"%w": made}, {"y": "%y"})
        change_of = Change(Candidate("r", Site("main", ("matmul",)), Cost(0), Cost(0)), change)
        ((_, verdict),) = verify_regions(analysis, [change_of], 0)
        assert bool(verdict) is right
        assert ("of its own scale" in verdict.why) is not right


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_channel_that_is_the_small_difference_of_large_terms_has_their_rounding(
    dtype: npt.DTypeLike,
) -> None:
    """A mean takes away what a bias adds."""
    kernel, bias, ones = weight(8, 8, 3, 3), weight(8), np.ones(8, dtype)
    kernel[0], bias[5] = 100 * kernel[0], 300.0
    weights = {"w": kernel, "b": bias, "m": bias, "s": ones, "z": ones * 0}
    nodes = [node("Conv", "x w b", "c"), node("BatchNormalization", "c s z m s", "y")]
    proto = model(nodes, {name: array.astype(dtype) for name, array in weights.items()}, dtype=dtype)
    result = graphopt.optimize(proto, only=["fold_affine"])
    assert [item.candidate.rewrite for item in result.report.applied] == ["fold_affine"]
