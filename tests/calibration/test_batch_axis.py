"""Where a model has its batch: names, outputs, and what the user says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import pytest

from graphopt.calibration.batch_axis import SampleAxis, Slot, place, slots
from graphopt.errors import InputError

Shape = Sequence[int | str | None] | None


def value(name: str, shape: Shape) -> ir.Value:
    return ir.Value(
        name=name,
        shape=None if shape is None else ir.Shape(shape),
        type=ir.TensorType(ir.DataType.FLOAT),
    )


def found(
    inputs: Sequence[Shape], outputs: Sequence[Shape] = (), said: Mapping[str, SampleAxis] | None = None
) -> list[Slot]:
    named = {f"x{number}": value(f"x{number}", shape) for number, shape in enumerate(inputs)}
    return slots(named, [value("y", shape) for shape in outputs], said)


@pytest.mark.parametrize(
    ("inputs", "outputs", "axes"),
    [
        # one symbol for the whole model, by its word
        ([["seq", "batch", 8]], [], [1]),
        ([["s0", "batch_size", 8]], [["s0", 4]], [1]),
        ([["seq", "batch", 8], [2, "batch", 16]], [], [1, 1]),
        ([["batch", 8, 20], ["batch"], [2, "batch", 16]], [], [0, 0, 1]),
        ([[2, 1, "batch", 16], ["batch", 8]], [], [2, 0]),
        ([["batch_size*seq", 8], ["batch_size", 4]], [], [None, 0]),
        # by its letter
        ([["T", "B", 8]], [], [1]),
        ([["N", 3, 8, 8], ["P", 2]], [], [0, None]),
        ([["P", 2], ["N", 3, 8, 8]], [["P", 2], ["N", 4]], [None, 0]),
        ([[1, "N", 3]], [[1, "N", 16]], [0]),
        ([["B", 3, "N"]], [["B", 10]], [0]),
        # by outputs
        ([["s0", "s1", 8]], [["s1", 32, 1]], [1]),
        ([["s0", "s1", 8], [1, "s1", 16]], [["s1", 32]], [1, 1]),
        ([["s0", 3, 8, 8], ["s1", 4]], [["s0", 10]], [0, None]),
        ([["s0", "s1"], ["s1"]], [["s0", "s1", 8]], [0, None]),
        # by several inputs
        ([["s0", 10, 4], [2, "s0", 16]], [], [0, 1]),
        ([["s0", "s1"], ["s0", "s1"], ["s2", 4]], [], [0, 0, None]),
        # of a fixed first axis
        ([[1, 3, None, None], [None, 4]], [[None, 32]], [0, 0]),
        ([[1, 3, "H", "W"], ["H"]], [], [0, None]),
        ([[1, 3, "s1", "s2"], ["s1"]], [], [0, None]),
        ([[1, 3, "s1", "s2"], ["s1", 4]], [["s1", 4]], [0, None]),
        ([[1, "seq"], ["seq", "seq"]], [], [0, None]),
        ([[1, "s1"], ["s1"]], [], [0, None]),
        ([[1, 3, 8, 8], [2, 1, 5], []], [], [0, None, None]),
        ([[2, 1, 5], [1, 3, 8, 8]], [[1, 10]], [None, 0]),
        ([["N", 3, 8, 8], [4, 3, 3, 3]], [], [0, None]),
        ([[4, 3, 8, 8], [2, 4, 16]], [[4, 10]], [0, None]),
        # of a sequence
        ([["seq", 8]], [], [None]),
        ([["seq", 1, 8]], [], [1]),
        ([["seq", None, 8]], [], [1]),
        # where nothing tells
        ([[None, None]], [], [0]),
        ([[None, 3, 8, 8], [None, 4]], [], [0, 0]),
        ([None], [], [0]),
    ],
)
def test_the_axis_of_the_samples(
    inputs: Sequence[Shape], outputs: Sequence[Shape], axes: Sequence[int | None]
) -> None:
    assert [slot.axis for slot in found(inputs, outputs)] == axes


@pytest.mark.parametrize(
    ("inputs", "outputs", "sure"),
    [
        ([["batch", "seq"]], [["batch", "seq", 4]], True),
        ([[None, 3, None, None]], [], True),
        ([["s0", 3, 8]], [["s0", 4]], True),
        ([["s0", "s1", 8]], [["s1", 4]], True),
        ([["s0", "s1", 8]], [["s0", "s1", 4]], False),
        ([[None, None, 8]], [[None, 4]], False),
        ([[None, 3, 8], [None, 4]], [], False),
    ],
)
def test_whether_that_is_sure(inputs: Sequence[Shape], outputs: Sequence[Shape], sure: bool) -> None:
    assert all(slot.sure == sure for slot in found(inputs, outputs))


@pytest.mark.parametrize(
    ("name", "is_place"),
    [("seq", True), ("seq_len", True), ("num_frames", True), ("H", True), ("batch", False), ("s0", False),
     ("unk__12", False), ("classes", False), ("audio_length", True), ("sequenceLength", True)],
)  # fmt: skip
def test_names_of_times_and_places(name: str, is_place: bool) -> None:
    assert place(name) == is_place


def test_what_the_user_says_comes_first() -> None:
    inputs = [["batch", 3, 8, 8], ["points", 2], []]
    slots_ = found(inputs, said={"x1": 0, "x2": "constant"})
    assert [(slot.axis, slot.said) for slot in slots_] == [(0, None), (0, 0), (None, "constant")]
    assert found([["batch", 8]], said={"": 1})[0].axis == 1
    assert found([["batch", 8]], said={"": 2})[0].axis is None, "an axis more than the model takes"


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"z": 0}, "sample_axis={'z': 0}: the model has no input 'z'; its inputs are 'x0', 'x1'"),
        ({"": 0}, "the model has several inputs; name one of 'x0', 'x1'"),
        (
            {"x0": 4},
            "sample_axis={'x0': 4}: the model takes [batch, 8]; with an axis more for samples the last",
        ),
    ],
)
def test_what_fits_no_input_is_refused(said: Any, says: str) -> None:
    with pytest.raises(InputError) as failure:
        found([["batch", 8], ["batch"]], said=said)
    assert says in str(failure.value)
