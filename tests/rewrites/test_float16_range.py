"""What a rewrite would write in float16 has to be within its range, and keep its digits."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.errors import BudgetError
from tests.builders import Array, info, model, parsed, weight

HALF = np.float16


def net(nodes: str, weights: dict[str, Array], **options: Any) -> onnx.ModelProto:
    return model(
        parsed(*nodes.strip().splitlines()),
        {name: array.astype(HALF) if array.dtype.kind == "f" else array for name, array in weights.items()},
        inputs=[info("x", ["N", 8, 6, 6], HALF)],
        outputs=[info("y", None, HALF)],
        **options,
    )


def norm(variance: float) -> dict[str, Array]:
    return {
        "s": np.full(8, 2.0),
        "b": np.zeros(8),
        "m": np.zeros(8),
        "v": np.full(8, variance),
        "k": np.full((1, 8, 1, 1), 60.0),
    }


FOLD = "c = Conv (x, w)\nd = BatchNormalization <epsilon = 1e-10> (c, s, b, m, v)\ny = Mul (d, k)"
PAIR = "c = Conv (x, w)\ny = Conv (c, u)"


def reasons(result: Any, rewrite: str) -> list[str]:
    return [left.reason for left in result.report.declined if left.rewrite == rewrite]


@pytest.mark.parametrize(
    ("rewrite", "nodes", "weights", "why"),
    [
        ("fold_affine", FOLD, {"w": weight(8, 8, 1, 1), **norm(1e-7)}, "leave float16's range"),
        (
            "collapse",
            PAIR,
            {"w": weight(8, 8, 3, 3) * 1e-4, "u": weight(4, 8, 1, 1) * 1e-4},
            "lose digits in float16",
        ),
        (
            "fold_affine_before",
            "d = Mul (x, k)\ny = Conv (d, w)",
            {"k": np.full((1, 8, 1, 1), 1e-4), "w": weight(4, 8, 3, 3) * 1e-4},
            "lose digits in float16",
        ),
    ],
)
def test_a_fold_out_of_the_range_is_refused_by_its_own_arithmetic(
    rewrite: str, nodes: str, weights: dict[str, Array], why: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = graphopt.optimize(net(nodes, weights), aim="macs")
    (reason,) = reasons(result, rewrite)
    assert why in reason and "verification" not in reason
    assert not any("report this" in note for note in result.report.notes)


def test_the_reason_counts_what_loses_digits_and_no_zeros() -> None:
    w = np.zeros((8, 8, 1, 1))
    w[0, 0] = 3e-4
    result = graphopt.optimize(
        net("d = Mul (x, k)\ny = Conv (d, w)", {"k": np.full((1, 8, 1, 1), 1e-4), "w": w})
    )
    (reason,) = reasons(result, "fold_affine_before")
    assert reason.startswith("1 of its 64 weights")


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        (FOLD, {"w": weight(8, 8, 1, 1), **norm(0.3)}),
        ("c = Conv (x, w, b)\ny = Mul (c, k)", {"w": weight(8, 8, 1, 1), **norm(1), "b": np.full(8, 1e-7)}),
        (PAIR, {"w": weight(8, 8, 3, 3), "u": weight(4, 8, 1, 1)}),
        ("c = Conv (x, w)\ny = Mul (c, z)", {"w": weight(8, 8, 1, 1), "z": np.zeros((1, 8, 1, 1))}),
    ],
)
def test_what_float16_holds_is_folded(nodes: str, weights: dict[str, Array]) -> None:
    result = graphopt.optimize(net(nodes, weights), aim="macs")
    assert result.report.applied and not result.report.notes


def test_factors_out_of_the_range_are_left_out_of_a_plan() -> None:
    """Of weights that float16 holds with a few digits no factor has more."""
    held = np.random.default_rng(0).uniform(-3e-7, 3e-7, (32, 32, 3, 3)).astype(HALF)
    proto = model(
        parsed("y = Conv <pads = [1, 1, 1, 1]> (x, w)"),
        {"w": held},
        inputs=[info("x", ["N", 32, 6, 6], HALF)],
        outputs=[info("y", None, HALF)],
    )
    inputs = np.random.default_rng(1).standard_normal((16, 32, 6, 6)).astype(HALF)
    with pytest.raises(BudgetError) as caught:
        graphopt.optimize(proto, calibration=inputs, budget={"macs": 0.5})
    left = caught.value.result.report.declined
    assert any("lose digits in float16" in each.reason for each in left)
