"""Quality is measured channel by channel, each against what varies in it."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from graphopt.types import Quality
from graphopt.verification.difference import ChannelError, Group
from tests.builders import samples, weight
from tests.verification.test_measured_outputs import measured, network, off

DETECTOR = (
    "h = Conv (r2, wd)",
    "boxes, logits = Split <axis=1> (h, parts)",
    "pixels = Mul (boxes, large)",
    "scores = Sigmoid (logits)",
    "y = Concat <axis=1> (pixels, scores)",
)
PARTS = {"parts": np.array([4, 3]), "large": np.full(1, 320, np.float32)}


def detector() -> onnx.ModelProto:
    """Boxes of hundreds and scores up to 1, side by side in one output."""
    heads = {"wd": weight(7, 24, 1, 1, seed=5), **PARTS}
    return network(*DETECTOR, outputs={"y": ["N", 7, 8, 8]}, weights=heads, batch="N")


def wrong_rows(rows: slice, part: float) -> Quality:
    """Of a detector some of whose channels are off."""
    proto, other = detector(), onnx.ModelProto()
    other.CopyFrom(off(proto, "wd", 0.0))
    tensor = next(each for each in other.graph.initializer if each.name == "wd")
    array = onnx.numpy_helper.to_array(tensor).copy()
    array[rows] += part * weight(7, 24, 1, 1, seed=9)[rows]
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, "wd"))
    return measured(proto, other)


def test_what_is_quiet_counts_beside_what_is_loud() -> None:
    boxes, scores = wrong_rows(slice(0, 4), 0.5), wrong_rows(slice(4, 7), 0.5)
    assert list(boxes.groups) == list(scores.groups) == ["y[0:4]", "y[4:7]", "logits"]
    assert boxes.groups["y[4:7]"] == scores.groups["y[0:4]"] == math.inf
    for found, name in ((boxes, "y[0:4]"), (scores, "logits")):
        assert found.sqnr == min(found.groups.values()) == found.groups[name] < 15
    assert scores.groups["y[4:7]"] < 20


@pytest.mark.parametrize("levels", [1, 2])
def test_parts_are_found_through_another_form_and_at_several_levels(levels: int) -> None:
    """As detectors return them that lay rows of places side by side besides."""
    lines = ["h = Conv (r2, wd)", "boxes, logits = Split <axis=1> (h, parts)", "scores = Sigmoid (logits)"]
    lines += ["j = Concat <axis=1> (boxes, scores)", "f = Reshape (j, rows)"]
    lines += ["y = Transpose <perm=[0, 2, 1]> (f)" if levels == 1 else "l = Concat <axis=2> (f, f)"]
    lines += [] if levels == 1 else ["y = Transpose <perm=[0, 2, 1]> (l)"]
    heads = {"wd": weight(7, 24, 1, 1, seed=5), "parts": PARTS["parts"], "rows": np.array([0, 7, -1])}
    proto = network(*lines, outputs={"y": ["N", 64 * levels, 7]}, weights=heads, batch="N")
    found = measured(proto, off(proto, "wd"))
    assert {"y[0:4]", "y[4:7]"} <= set(found.groups)


def error(exact: np.ndarray, found: np.ndarray, *, common: bool = False) -> float:
    each = ChannelError(Group("y", 1, common=common))
    for start in range(0, len(exact), 10):
        each.add(exact[start : start + 10], found[start : start + 10])
    return each.error


def test_a_constant_offset_is_no_signal() -> None:
    x = samples(40, 6)
    wrong = x + 0.1 * samples(40, 6, seed=8)
    assert error(x + 100, wrong + 100) == pytest.approx(error(x, wrong), rel=1e-3)
    expected = np.mean(np.square(wrong - x).mean(axis=0) / x.var(axis=0, ddof=1))
    assert error(x, wrong) == pytest.approx(expected, rel=1e-4)


def test_an_output_that_never_changes_has_nothing_to_lose() -> None:
    still = np.full((40, 3), 5, np.float32)
    assert error(still, still) == 0.0
    assert error(still, still + 1) == pytest.approx(1 / 25)  # of its size


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_in_both_are_left_out(bad: float) -> None:
    x = samples(40, 6)
    x[3, 2] = bad
    wrong = x + 0.1
    assert 0 < error(x, wrong) < 1
    wrong[4, 2] = bad
    assert error(x, wrong) == math.inf


def test_sequences_are_one_channel() -> None:
    each = ChannelError(Group("y", 1))
    parts = [samples(1, 3, 5), samples(1, 3, 9)]
    each.add(parts, [part + 0.1 for part in parts])
    assert each.error == pytest.approx(0.01 / np.concatenate([p.ravel() for p in parts]).var(), rel=0.1)
    each.add(parts, parts[:1])
    assert each.error == math.inf
