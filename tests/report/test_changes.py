"""The structure around each change, and where it is drawn."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphopt
from graphopt.report.page.changes import MOST_NEIGHBOURS, DrawnChange, DrawnOperator, Piece, regions
from graphopt.report.page.drawing import BOX, layout
from tests.builders import batch_norm, bn_inputs, classifier, conv_bn, model, node, nothing_to_do, weight


def found(proto: onnx.ModelProto, **options: object) -> tuple[DrawnChange, ...]:
    result = graphopt.optimize(proto, **options)  # type: ignore[arg-type]
    return regions(result.before, result.after, result.report.applied)


def drawn(piece: Piece) -> list[tuple[str, str]]:
    return [(item.op, item.state) for item in piece.operators]


def test_a_fold() -> None:
    (region,) = found(conv_bn())
    assert region.rewrites == ("fold_affine",) and region.nodes == ("conv", "bn")
    assert drawn(region.before) == [
        *(("Conv", "removed"), ("BatchNormalization", "removed")),
        *(("Relu", "kept"), ("input", "port")),
    ]
    assert drawn(region.after) == [("Conv", "added"), ("Relu", "kept"), ("input", "port")]
    assert sorted(region.before.edges) == [(0, 1), (1, 2), (3, 0)]
    assert sorted(region.after.edges) == [(0, 1), (2, 0)]
    assert region.macs_saved == 0


def test_nothing_changed() -> None:
    assert found(nothing_to_do()) == ()


def test_rewrites_in_turn_are_one_change() -> None:
    """A fold, then factors in the folded convolution's place: one change with both names."""
    every = found(classifier(), only=["fold_affine", "bottleneck"], options={"bottleneck.rank_in": 4})
    (region,) = [region for region in every if "bn" in region.nodes]
    assert region.rewrites == ("fold_affine", "bottleneck")
    assert [item.op for item in region.before.changed()] == ["Conv", "BatchNormalization"]
    assert [item.op for item in region.after.changed()] == ["Conv", "Conv"]
    assert region.macs_saved == region.before.macs - region.after.macs > 0  # type: ignore[operator]


def test_what_an_earlier_run_made_is_no_change() -> None:
    once = graphopt.optimize(conv_bn())
    assert found(once.model) == ()  # type: ignore[arg-type]


def test_a_removed_operator_leaves_its_neighbours() -> None:
    nodes = [
        node("Conv", "x w", "c", "conv", pads=[1, 1, 1, 1]),
        node("Identity", "c", "i", "same"),
        node("Relu", "i", "y", "relu"),
    ]
    (region,) = found(model(nodes, {"w": weight(8, 8, 3, 3)}))
    assert drawn(region.before)[:3] == [("Conv", "kept"), ("Identity", "removed"), ("Relu", "kept")]
    assert drawn(region.after)[:2] == [("Conv", "kept"), ("Relu", "kept")]
    assert (0, 1) in region.after.edges


def test_constants_are_no_structure() -> None:
    values = batch_norm("bn", 8)
    constants = [
        node("Constant", "", name, f"constant/{name}", value=onnx.numpy_helper.from_array(array))
        for name, array in values.items()
    ]
    nodes = [
        *constants,
        node("Conv", "x w", "c", "conv", pads=[1, 1, 1, 1]),
        node("BatchNormalization", bn_inputs("c", "bn"), "y", "bn"),
    ]
    for constant in nodes[: len(constants)]:
        del constant.input[:]
    (region,) = found(model(nodes, {"w": weight(8, 8, 3, 3)}))
    assert "Constant" not in {item.op for item in (*region.before.operators, *region.after.operators)}


def test_many_neighbours_are_counted() -> None:
    nodes = [
        node("Conv", "x w", "c", "conv", pads=[1, 1, 1, 1]),
        node("BatchNormalization", bn_inputs("c", "bn"), "n", "bn"),
        *(node("Sin", "n", f"s{i}", f"sin{i}") for i in range(20)),
        node("Sum", " ".join(f"s{i}" for i in range(20)), "y", "sum"),
    ]
    proto = model(nodes, {"w": weight(8, 8, 3, 3), **batch_norm("bn", 8)})
    (region,) = found(proto, only=["fold_affine"])
    assert sum(item.op == "Sin" for item in region.after.operators) == MOST_NEIGHBOURS
    assert region.after.hidden == 20 - MOST_NEIGHBOURS


def test_alike_changes_have_one_shape() -> None:
    """Folds look alike whatever their size; what saves MACs is told apart by its numbers."""

    def label(operator: DrawnOperator) -> str:
        linear = operator.linear
        return f"{operator.op} {linear.in_channels if linear else ''}"

    folds = [found(conv_bn())[0], found(conv_bn(inputs={"x": [1, 8, 9, 9]}, outputs={"y": None}))[0]]
    assert folds[0].shape(label) == folds[1].shape(label)
    ranks = [
        found(classifier(), only=["bottleneck"], options={"bottleneck.rank_in": rank}, at=["conv2"])[0]
        for rank in (3, 4)
    ]
    assert ranks[0].macs_saved and ranks[0].shape(label) != ranks[1].shape(label)


# ---------------------------------------------------------------- layout


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    count = draw(st.integers(1, 12))
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
    return count, draw(st.lists(st.sampled_from(pairs), unique=True, max_size=20)) if pairs else []


@given(graphs())
def test_boxes_stand_apart_and_edges_go_down(graph: tuple[int, list[tuple[int, int]]]) -> None:
    count, edges = graph
    placed = layout(count, edges)
    boxes = placed.boxes
    assert len(boxes) == count and len(placed.paths) == len(edges)
    for i, (x, y) in enumerate(boxes):
        assert 0 <= x <= placed.width - BOX[0] and 0 <= y <= placed.height - BOX[1]
        for other_x, other_y in boxes[:i]:
            assert abs(x - other_x) >= BOX[0] or abs(y - other_y) >= BOX[1]
    assert all(boxes[a][1] + BOX[1] < boxes[b][1] for a, b in edges)


@given(graphs())
def test_paths_lead_from_one_box_to_the_other(graph: tuple[int, list[tuple[int, int]]]) -> None:
    count, edges = graph
    placed = layout(count, edges)
    for (source, target), path in zip(edges, placed.paths, strict=True):
        numbers = [float(n) for n in path.replace("M", " ").replace("C", " ").replace("V", " ").split()]
        (left, top), (right, bottom) = placed.boxes[source], placed.boxes[target]
        assert numbers[:2] == [left + BOX[0] // 2, top + BOX[1]]
        assert numbers[-2] == right + BOX[0] // 2 and 0 < bottom - numbers[-1] <= 6


def test_no_operators() -> None:
    assert layout(0, ()).paths == () and layout(0, ()).boxes == ()


def test_the_order_of_layers_is_kept_where_it_can_be() -> None:
    """Two branches side by side do not cross."""
    placed = layout(6, [(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5)])
    xs = np.array(placed.boxes)[:, 0]
    assert (xs[1] < xs[2]) == (xs[3] < xs[4])


@pytest.mark.parametrize("length", [1, 5])
def test_a_chain_is_a_column(length: int) -> None:
    placed = layout(length, [(i, i + 1) for i in range(length - 1)])
    assert {x for x, _ in placed.boxes} == {0}
