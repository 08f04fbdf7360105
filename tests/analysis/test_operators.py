"""The table of operators: what it says of an operator is what onnx computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from graphopt.analysis import operators

ORDER = np.random.default_rng(0).permutation(24)
NUMBERS = np.random.default_rng(1).uniform(1.01, 3.0, 24).astype(np.float32)
INSIDE = {"Acos", "Asin", "Atanh"}
"""Functions of numbers between -1 and 1."""
TRUTHS = {"And", "Not", "Or", "Xor"}


def computed(op: str, *inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    attributes = {"Cast": {"to": onnx.TensorProto.INT32}, "Mod": {"fmod": 1}}.get(op, {})
    names = [f"i{index}" for index in range(len(inputs))]
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(each.dtype), each.shape)
        for name, each in zip(names, inputs, strict=True)
    ]
    node, out = onnx.helper.make_node(op, names, ["y"], **attributes), onnx.ValueInfoProto(name="y")
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", infos, [out]))
    [y] = ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))
    return np.asarray(y)


def operand(op: str) -> npt.NDArray[Any]:
    if op in TRUTHS:
        return NUMBERS > 2
    if op in ALSO_BELOW:
        return np.where(ORDER % 2, NUMBERS, -NUMBERS)
    return NUMBERS / 4 if op in INSIDE else NUMBERS


ALSO_BELOW = operators.ALIKE - INSIDE - {"Acosh", "Log", "Sqrt"}


@pytest.mark.parametrize("op", sorted(operators.ELEMENTWISE))
def test_elementwise_operators_know_no_place(op: str) -> None:
    x = operand(op)
    given = [x]
    if op == "Where":
        given = [x > 2, x, -x]
    elif op == "Clip":
        given = [x, np.float32(-1.5), np.float32(2)]
    elif op in operators.BROADCASTING:
        given = [x, x[::-1].copy()]
    y = computed(op, *given)
    moved = computed(op, *(each[ORDER] if each.ndim else each for each in given))
    assert y.shape == x.shape
    np.testing.assert_array_equal(moved, y[ORDER])


@pytest.mark.parametrize("op", sorted(operators.ALIKE | operators.ARITHMETIC | {"Pow", "PRelu"}))
def test_types_are_kept(op: str) -> None:
    assert op in operators.KEEPS_TYPE
    x = operand(op)
    assert computed(op, *([x] if op in operators.ALIKE else [x, x])).dtype == x.dtype


@pytest.mark.parametrize("op", sorted(operators.IDEMPOTENT))
def test_idempotent_operators_do_nothing_again(op: str) -> None:
    once = computed(op, operand(op))
    np.testing.assert_array_equal(computed(op, once), once)


@pytest.mark.parametrize("op", sorted(operators.NEUTRAL))
def test_neutral_operands(op: str) -> None:
    number, commutes = operators.NEUTRAL[op]
    neutral = np.float32(number)
    np.testing.assert_array_equal(computed(op, NUMBERS, neutral), NUMBERS)
    assert np.array_equal(computed(op, neutral, NUMBERS), NUMBERS) == commutes
