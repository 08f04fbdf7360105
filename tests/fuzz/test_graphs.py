"""Random graphs mean the same after `optimize`, and the machine that says so sees faults."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphopt
from graphopt.rewrites.registry import registry
from graphopt.types import Exactness
from tests.builders import conv_bn, model, node, weight
from tests.fuzz import checking, graphs, operators, patterns, shrinking, sources
from tests.fuzz.checking import Finding
from tests.fuzz.draft import Draft, RefusedError

GRAPHS = 300
BLOCKS = 20
"""Tests that they are spread over, so that several processes share them."""


def _open_volume(graph: onnx.ModelProto) -> bool:
    """Whether three axes of a map are open: such maps take a while to run; `benchmarks.fuzz` runs them."""
    shapes = [value.type.tensor_type.shape.dim[2:] for value in graph.graph.input]
    return any(len(axes) > 2 and all(axis.dim_param for axis in axes) for axes in shapes)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_graphs(block: int) -> None:
    wrong = {}
    for seed in range(block * GRAPHS // BLOCKS, (block + 1) * GRAPHS // BLOCKS):
        graph = graphs.graph(seed)
        if graph is None or _open_volume(graph.model):
            continue
        found = checking.check(graph.model, graphs.feeds(graph.model, seed), **checking.options_of(seed))
        if found.fault:
            wrong[seed] = f"{found.kind}: {found.detail}"
    assert not wrong


def test_seed_decides() -> None:
    one, two = graphs.graph(3), graphs.graph(3)
    assert one is not None
    assert two is not None
    assert one.model.SerializeToString() == two.model.SerializeToString()


def test_graphs_whose_operators_end_the_process_are_told_from_those_that_can_not_be_drawn() -> None:
    assert sources.dies("import os; os.abort()")
    assert not sources.dies("raise ValueError")


@pytest.mark.parametrize("step", [patterns.spell_instance_norm, operators.channels])
def test_values_of_one_axis_are_refused(step: operators.Step) -> None:
    draft = Draft(0, 17)
    with pytest.raises(RefusedError):
        step(draft, draft.feed("x", [6], [6]))


def test_every_exact_rewrite_has_a_pattern() -> None:
    exact = {name for name, each in registry().items() if each.exactness is Exactness.EXACT}
    assert {"lossless" if name.startswith("lossless") else name for name in exact} <= set(graphs.PATTERNS)


@pytest.mark.parametrize("pattern", sorted(graphs.PATTERNS))
def test_patterns_run(pattern: str) -> None:
    made = False
    for seed in range(20):
        draft = Draft(seed, 17)
        x = draft.feed("x", ["N", 4, "H", "W"], [1, 4, 6, 6])
        with draft.attempt():
            graphs.PATTERNS[pattern](draft, x)
            made = True
            break
    assert made


def _different(original: onnx.ModelProto, change: float, at: tuple[int, ...]) -> str:
    """What the checker says of a copy with one weight moved."""
    other = onnx.ModelProto()
    other.CopyFrom(original)
    w = numpy_helper.to_array(other.graph.initializer[0]).copy()
    w[at] *= 1 + change
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w"))
    feed = {"x": np.random.default_rng(0).standard_normal((1, 8, 8, 8)).astype(np.float32)}
    before = checking.Running(original)
    expected = before.run(feed)
    assert expected is not None
    return checking.different(before, checking.Running(other), feed, expected)


def test_rounding_is_no_difference() -> None:
    assert _different(conv_bn(), 1e-7, (0, 0, 0, 0)) == ""
    assert "differs by" in _different(conv_bn(), 1e-2, (0, 0, 0, 0))


def test_cancelled_outputs_are_compared_by_what_roundings_do_to_them() -> None:
    w = weight(4, 8, 3, 3)
    nodes = [node("Conv", "x w", "a"), node("Conv", "x v", "b"), node("Sub", "a b", "y")]
    nearly = model(nodes, {"w": w, "v": (w * (1 + 1e-6)).astype(np.float32)})
    assert _different(nearly, 1e-7, (0, 0, 0, 0)) == ""
    assert "its own by roundings" in _different(nearly, 1e-1, (0, 0, 0, 0))


def test_shrunk_model_is_what_fails_alone() -> None:
    def fails(small: onnx.ModelProto) -> bool:
        return any(n.op_type == "AveragePool" for n in small.graph.node)

    drawn = (graph.model for seed in range(60) if (graph := graphs.graph(seed)))
    whole = next(model for model in drawn if fails(model))

    small = shrinking.shrink(whole, fails, lambda each: graphs.feeds(each, 0))
    assert [n.op_type for n in small.graph.node] == ["AveragePool"]
    assert "AveragePool" in shrinking.described(small)


def _found(monkeypatch: pytest.MonkeyPatch, optimize: object, **options: object) -> Finding:
    monkeypatch.setattr(graphopt, "optimize", optimize)
    feed = {"x": np.zeros((1, 8, 8, 8), np.float32)}
    return checking.check(conv_bn(), [feed], **options)  # type: ignore[arg-type]


def test_internal_errors_and_hangs_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("no")

    def endless(*_: object, **__: object) -> None:
        while True:
            pass

    found = _found(monkeypatch, broken)
    assert found.kind == "internal"
    assert "ZeroDivisionError in test_graphs" in found.detail

    def waiting(*_: object, **__: object) -> None:
        time.sleep(10)

    assert _found(monkeypatch, endless, seconds=0.1).kind == "hang"
    assert _found(monkeypatch, waiting, seconds=0.02).kind == "hang"


def test_changed_interface_is_seen() -> None:
    given = conv_bn(overridable=["w"])
    other = conv_bn()
    assert checking.interface(given, []) != checking.interface(other, [])
    assert checking.interface(given, ["w"]) == checking.interface(other, [])
