"""Calibration inputs that tell nothing, or look as if they were not preprocessed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.calibration import inspection
from graphopt.calibration.samples import rows
from tests.builders import batch_norm, bn_inputs, model, node, nothing_to_do, samples, weight

BUDGET = {"macs": 0.7}


def network(*, norm: bool = False, end: str = "Gemm", **inputs: Any) -> onnx.ModelProto:
    """Two convolutions and scores."""
    normed = node("BatchNormalization", bn_inputs("a", "n"), "b", "norm")
    nodes = [node("Conv", "x v", "a", "first", pads=[1] * 4), normed if norm else node("Identity", "a", "b")]
    nodes += [node("Relu", "b", "r")]
    nodes += [node("Conv", "r w", "c", "second", pads=[1] * 4), node("Relu", "c", "q")]
    nodes += [node("GlobalAveragePool", "q", "p"), node("Flatten", "p", "f")]
    nodes += [node("Gemm", "f k", "s", "scores")]
    nodes += [node("Identity" if end == "Gemm" else end, "s", "y")]
    weights = {"v": weight(16, 3, 3, 3), "w": weight(16, 16, 3, 3, seed=1), "k": 4 * weight(16, 10, seed=2)}
    return model(
        nodes,
        {**weights, **(batch_norm("n", 16) if norm else {})},
        inputs=inputs or {"x": ["N", 3, 8, 8]},
        outputs={"y": ["N", 10]},
    )


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        (np.zeros((32, 3, 8, 8), np.float32), "the inputs are constant: every value of 'x' is 0"),
        (np.ones((32, 3, 8, 8), np.float32), "the inputs are constant: every value of 'x' is 1"),
        (
            np.ones((32, 3, 8, 8), np.float32) * samples(32, 1, 1, 1),
            "the inputs are flat: in each sample of 'x'",
        ),
        (
            np.ones((32, 3, 8, 8), np.float32) * samples(32, 3, 1, 1),
            "the inputs are flat: in each sample of 'x'",
        ),
        (samples(1, 3, 8, 8).repeat(32, axis=0), "the 32 inputs are all the same one"),
    ],
)
def test_inputs_of_which_nothing_can_be_learnt_are_refused_where_they_are_needed(inputs, why):
    proto = network()
    for asked in ({"budget": BUDGET}, {"budget": {"sqnr": 20}}, {"require": ["sqnr>=20"]}):
        with pytest.raises(graphopt.InputError, match=f"calibration: {why}"):
            graphopt.optimize(proto, calibration=inputs, **asked)
    with pytest.raises(graphopt.InputError, match=why):
        graphopt.sweep(proto, inputs, [0.7])
    notes = graphopt.optimize(proto, calibration=inputs).report.notes
    assert any(why in note for note in notes), "nothing is fitted, so that a note is enough"


@pytest.mark.parametrize("shape", [(1, 64), (64, 1), (1, 1, 64), (64, 1, 1), (1, 64, 1), (3, 0, 8)])
def test_what_has_one_place_alone_is_not_flat_for_that(shape):
    """Audio, an ECG, a vector of features: in one of the two layouts each has a single place, or channel."""
    given = rows({"x": samples(16, *shape)})
    assert inspection.emptiness(given) == "" and list(inspection.doubts(given)) == []


def test_text_is_not_looked_at():
    words = rows({"t": np.array([["a", "b"]] * 8).reshape(8, 1, 2)})
    assert inspection.emptiness(words) == "" and list(inspection.doubts(words)) == []


def test_inputs_that_no_output_tells_apart_are_named():
    proto = network()
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.full(16, -1e3, np.float32), "low"))
    proto.graph.node[0].input.append("low")  # with it, the first Relu makes zeros
    report = graphopt.optimize(proto, calibration=samples(32, 3, 8, 8)).report
    assert any("no output of the model changes with the inputs" in note for note in report.notes)


def test_inputs_of_which_the_model_makes_nothing_finite_are_refused():
    proto = network(end="Log")
    scores = next(tensor for tensor in proto.graph.initializer if tensor.name == "k")
    scores.CopyFrom(onnx.numpy_helper.from_array(-np.ones((16, 10), np.float32), "k"))
    with pytest.raises(graphopt.InputError, match="nothing finite of them: output 'y' is NaN or infinite"):
        graphopt.optimize(proto, BUDGET, samples(32, 3, 8, 8))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_with_their_number(value):
    inputs = samples(32, 3, 8, 8)
    inputs[5, 0, 0, 0] = inputs[7, 1, 2, 3] = value
    with pytest.raises(graphopt.InputError, match="not finite, in 2 of 32 samples"):
        graphopt.optimize(network(), BUDGET, inputs)


def test_repeated_samples_count_once_so_that_none_is_held_out_that_was_fitted_to():
    different = samples(24, 3, 8, 8)
    report = graphopt.optimize(network(), BUDGET, np.concatenate([different, different[:8]])).report
    assert report.quality.samples == 6
    assert "calibration: 8 of 32 inputs repeat others, and are left out" in report.notes


def odd(inputs: np.ndarray, **options: Any) -> str:
    """What the notes say of inputs that are good enough."""
    notes = graphopt.optimize(network(**options), BUDGET, inputs).report.notes
    return " ".join(note for note in notes if note.startswith("calibration: "))


def test_samples_that_are_flat_and_channels_that_never_change_are_named():
    inputs = samples(32, 3, 8, 8)
    inputs[:3] = 0.5
    inputs[1] *= 2
    inputs[2] *= 3
    assert "3 of 32 samples of input 'x' are flat" in odd(inputs)
    inputs = samples(32, 3, 8, 8)
    inputs[:, 2] = 0
    assert "channel 2 of input 'x' is the same in all samples and places" in odd(inputs)


@pytest.mark.parametrize("axis", [1, 3])
def test_a_channel_that_never_changes_is_named_wherever_the_channels_are(axis):
    inputs = np.moveaxis(samples(16, 3, 8, 8), 1, axis).copy()
    inputs[(slice(None),) * axis + (2,)] = 0
    assert list(inspection.doubts(rows({"x": inputs}))) == [
        "channel 2 of input 'x' is the same in all samples and places"
    ]


def test_a_range_that_the_first_batch_normalisation_does_not_expect_is_named():
    inputs = samples(32, 3, 8, 8)
    assert odd(inputs, norm=True) == ""
    assert "times larger than the first BatchNormalization expects ('x' has" in odd(255 * inputs, norm=True)
    assert "times smaller than the first BatchNormalization expects ('x' has" in odd(inputs / 255, norm=True)


def test_outputs_that_are_saturated_are_named():
    pictures = np.random.default_rng(0).uniform(0, 1, (32, 3, 8, 8)).astype(np.float32)
    assert odd(pictures, end="Softmax") == ""
    assert "output 'y' is saturated" in odd(pictures * 25500, end="Softmax")


def test_whole_numbers_of_the_range_of_bytes_are_named_where_a_convolution_reads_them():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 3, 8, 8)).astype(np.float32)
    assert "whole numbers up to 255" in odd(pixels)
    assert odd(pixels / 255) == ""


def test_an_input_that_says_nothing_beside_one_that_does_is_named_only():
    nodes = [node("Mul", "x level", "m"), node("Conv", "m w", "y", "conv", pads=[1] * 4)]
    proto = model(
        nodes,
        {"w": weight(16, 16, 3, 3)},
        inputs={"x": ["N", 16, 8, 8], "level": ["N", 1, 1, 1]},
        outputs={"y": ["N", 16, 8, 8]},
    )
    inputs = {"x": samples(32, 16, 8, 8), "level": np.ones((32, 1, 1, 1), np.float32)}
    assert graphopt.optimize(proto, BUDGET, inputs).report.after.macs


def test_nothing_is_said_without_calibration():
    assert not graphopt.optimize(nothing_to_do()).report.notes
