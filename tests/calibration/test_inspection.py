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
        (1e-30 * samples(32, 3, 8, 8), "the inputs are too small: 'x' reaches "),
        (1e30 * samples(32, 3, 8, 8), "the inputs are too large: 'x' reaches "),
        (1 + 1e-6 * samples(32, 3, 8, 8), "the inputs are constant: every value of 'x' is 1, but for noise"),
        (
            0.1 + np.abs(samples(32, 3, 1, 1)) + 1e-6 * samples(32, 3, 8, 8, seed=1),
            "the inputs are flat: in each sample of 'x'",
        ),
        (
            samples(1, 3, 8, 8).repeat(32, axis=0) + 1e-5 * samples(32, 3, 8, 8, seed=1),
            "the 32 inputs are all the same one",
        ),
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


@pytest.mark.parametrize("shape", [(2, 64), (3, 1, 64), (3, 8, 8), (8, 8, 3)])
def test_channels_that_are_equal_are_no_flat_samples(shape):
    """A mono recording as stereo, and stripes in grey."""
    line = samples(16, *(n if axis == shape.index(max(shape)) else 1 for axis, n in enumerate(shape)))
    given = rows({"x": np.broadcast_to(line, (16, *shape)).copy()})
    assert inspection.emptiness(given) == "" and list(inspection.doubts(given)) == []


@pytest.mark.parametrize("shape", [(1, 64), (64, 1), (3, 8, 8), (8, 8, 3)])
def test_repeats_are_told_from_what_differs_by_a_step_of_8_bits(shape):
    pictures = np.random.default_rng(0).uniform(0, 1, (2, *shape)).astype(np.float32)
    repeated = pictures.repeat(4, axis=0)
    assert inspection.distinct(rows({"x": repeated + 1e-6 * samples(8, *shape)})) == [0, 4]
    noise = samples(8, *shape).clip(-3, 3) / (4 * 255)  # a fourth of a step, everywhere
    assert inspection.distinct(rows({"x": repeated + noise.astype(np.float32)})) == [0, 4]
    repeated[(np.arange(8), *np.unravel_index(np.arange(8), shape))] += np.float32(1 / 255)
    assert inspection.distinct(rows({"x": repeated})) == list(range(8))


LEVELS = np.linspace(0.5, 1.0, 16, dtype=np.float32)
LIGHT = np.random.default_rng(0).permuted(np.tile(LEVELS[:, None], 3), axis=0).reshape(16, 3, 1, 1)
PIXELS = np.random.default_rng(1).integers(0, 256, (1, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize(
    "given",
    [
        samples(1, 3, 8, 8) * LIGHT[:, :1],
        samples(1, 3, 8, 8) * LIGHT + LIGHT[::-1],
        (samples(1, 3, 8, 8) * LIGHT).transpose(0, 2, 3, 1),
        np.rint(PIXELS * LIGHT[:, :1]).astype(np.uint8),
        np.rint(PIXELS * (LIGHT - 0.3) + 20 * LIGHT[::-1]).astype(np.uint8),
        (PIXELS * (LIGHT - 0.3)).transpose(0, 2, 3, 1).astype(np.uint8),
    ],
    ids=["brightness", "channels", "channels last", "pixels", "pixels of channels", "pixels cut off"],
)
def test_one_picture_in_other_scales_and_offsets_is_one(given):
    assert len(inspection.distinct(rows({"x": given}))) == 16
    assert inspection.pictures(rows({"x": given})) == 1


@pytest.mark.parametrize(
    "given",
    [
        samples(16, 3, 8, 8),
        samples(16, 1, 1, 3),
        samples(16, 64),
        np.random.default_rng(2).integers(0, 2, (16, 3, 8, 8)),
        samples(1, 3, 8, 8) * LIGHT + samples(16, 3, 8, 8, seed=4) / 255,
    ],
    ids=["pictures", "few places", "vectors", "masks", "noise of 8 bits"],
)
def test_what_differs_in_more_than_scale_and_offset_is_no_repeat(given):
    assert inspection.pictures(rows({"x": given})) == 16


def test_a_small_thing_that_moves_before_a_fixed_camera_is_no_repeat():
    frames = PIXELS.repeat(5, axis=0).repeat(4, axis=3).repeat(4, axis=2) * 0.9
    for place, frame in enumerate(frames):
        frame[:, 4:8, 5 * place : 5 * place + 4] += 12  # of the 255 levels
    assert inspection.pictures(rows({"x": frames.astype(np.uint8)})) == 5


def test_another_input_tells_samples_of_one_picture_apart_however_little_it_differs():
    marks = np.zeros((16, 4096), np.float32)
    marks[:, 0] = np.arange(16) / 300
    marks[:, 1] = 1
    pixels = np.rint(PIXELS * LIGHT[:, :1]).astype(np.uint8)
    assert inspection.pictures(rows({"x": pixels, "marks": marks})) == 16
    assert inspection.pictures(rows({"x": pixels, "marks": marks[:1].repeat(16, axis=0)})) == 1
    assert inspection.pictures(rows({"x": pixels, "light": samples(1, 3, 8, 8) * LIGHT})) == 1


def test_one_picture_over_and_over_is_refused_and_some_of_several_are_named():
    with pytest.raises(graphopt.InputError, match="16 different inputs are one picture over and over"):
        graphopt.optimize(network(), BUDGET, samples(1, 3, 8, 8) * LIGHT)
    several = samples(4, 3, 8, 8).repeat(4, axis=0) * LIGHT
    notes = graphopt.optimize(network(), None, several).report.notes
    assert any("12 of 16 inputs are others in another scale and offset" in note for note in notes)


def test_vectors_whose_numbers_have_large_offsets_are_no_repeats():
    measured = np.array([293.15, 101325.0], np.float32) + np.arange(8, dtype=np.float32)[:, None] / 32
    assert inspection.distinct(rows({"x": measured})) == list(range(8))


def test_a_mask_of_the_least_number_is_not_too_large() -> None:
    mask = np.where(samples(16, 1, 8) > 0, np.finfo(np.float32).min, 0).astype(np.float32)
    assert inspection.emptiness(rows({"x": samples(16, 8, 8), "mask": mask})) == ""


def test_what_is_loud_hides_no_difference_of_another_channel():
    given = samples(4, 3, 8, 8).repeat(2, axis=0)
    given[::2, 1] += 0.1 * samples(1, 8, 8, seed=1)
    given[:, 0] *= 1e6
    assert len(inspection.distinct(rows({"x": given}))) == 8


def test_a_large_offset_and_whole_numbers_are_not_constant():
    pressure = 101325 + 100 * samples(16, 3, 8, 8)
    tokens = np.arange(16 * 64).reshape(16, 1, 8, 8) + 10**8
    for given in (pressure, tokens):
        assert (
            inspection.emptiness(rows({"x": given})) == "" == " ".join(inspection.doubts(rows({"x": given})))
        )
        assert len(inspection.distinct(rows({"x": given}))) == 16


def test_text_is_not_looked_at():
    words = rows({"t": np.array([["a", "b"]] * 8).reshape(8, 1, 2)})
    assert inspection.emptiness(words) == "" and list(inspection.doubts(words)) == []


SILENT = "no output of the model changes with the inputs"


def dead() -> onnx.ModelProto:
    """A network whose first Relu makes zeros."""
    proto = network()
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.full(16, -1e3, np.float32), "low"))
    proto.graph.node[0].input.append("low")
    return proto


def gated(gate: list[onnx.NodeProto], **second: Any) -> onnx.ModelProto:
    """The network behind a gate, which makes ``g`` of ``x`` and a second input."""
    proto = network(x=["N", 3, 8, 8], **second)
    proto.graph.node[0].input[0] = "g"
    for number, each in enumerate(gate):
        proto.graph.node.insert(number, each)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0), "zero"))
    return proto


def test_inputs_that_no_output_tells_apart_are_refused_where_they_are_needed():
    inputs = samples(32, 3, 8, 8)
    assert any(SILENT in note for note in graphopt.optimize(dead(), calibration=inputs).report.notes)
    with pytest.raises(graphopt.InputError, match=rf"{SILENT} \('x' has .* to .*\); give"):
        graphopt.optimize(dead(), BUDGET, inputs)


def test_a_ranking_of_what_never_changes_is_no_change_and_one_label_for_all_is_none_either():
    for proto, silent in ((dead(), True), (network(), False)):
        del proto.graph.output[:]
        proto.graph.node.append(node("ArgMax", "y", "label", axis=1, keepdims=0))
        proto.graph.output.append(onnx.helper.make_tensor_value_info("label", onnx.TensorProto.INT64, ["N"]))
        scores = next(tensor for tensor in proto.graph.initializer if tensor.name == "k")
        values = onnx.numpy_helper.to_array(scores).copy()
        values[:, 3] += 100  # always the same label
        scores.CopyFrom(onnx.numpy_helper.from_array(values, "k"))
        notes = graphopt.optimize(proto, calibration=samples(32, 3, 8, 8)).report.notes
        assert any(SILENT in note for note in notes) is silent


@pytest.mark.parametrize(
    ("gate", "shape", "held"),
    [
        ([node("Mul", "x u", "g")], [], np.float32(0)),
        ([node("Mul", "x u", "g")], [], np.zeros(32, np.float32)),
        ([node("Mul", "x u", "g")], ["N", 1, 8, 8], np.zeros((32, 1, 8, 8), np.float32)),
        (
            [node("Cast", "u", "t", to=1), node("Mul", "x t", "g")],
            ["N", 1, 1, 1],
            np.zeros((32, 1, 1, 1), bool),
        ),
        ([node("Where", "u x zero", "g")], ["N", 1, 1, 1], np.zeros((32, 1, 1, 1), bool)),
        ([node("Cast", "u", "t", to=1), node("Mul", "x t", "g")], [1], np.zeros(1, np.int64)),
    ],
)
def test_a_gate_that_is_off_for_all_inputs_is_named(gate, shape, held):
    proto = gated(gate, u=shape)
    proto.graph.input[1].type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(held.dtype)
    with pytest.raises(graphopt.InputError, match=f"{SILENT} .*'u' is 0"):
        graphopt.optimize(proto, BUDGET, {"x": samples(32, 3, 8, 8), "u": held})


def test_inputs_of_several_sizes_that_no_output_tells_apart_are_refused():
    proto = model(
        [
            node("Conv", "x v low", "a", "first", pads=[1] * 4),
            node("Relu", "a", "b"),
            node("Conv", "b w k", "y"),
        ],
        {
            "v": weight(16, 3, 3, 3),
            "low": np.full(16, -1e3, np.float32),
            "w": weight(4, 16, 1, 1),
            "k": weight(4),
        },
        inputs={"x": ["N", 3, "H", "W"]},
        outputs={"y": ["N", 4, "H", "W"]},
    )
    inputs = [{"x": samples(1, 3, 8 + number % 3, 8, seed=number)} for number in range(12)]
    with pytest.raises(graphopt.InputError, match=SILENT):
        graphopt.optimize(proto, BUDGET, inputs)


def test_one_output_of_several_that_never_changes_is_named_only():
    proto = network()
    proto.graph.node.extend(
        [node("Mul", "x zero", "m"), node("Conv", "m v", "n", "silent"), node("GlobalMaxPool", "n", "z")]
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0), "zero"))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, ["N", 16, 1, 1]))
    notes = graphopt.optimize(proto, calibration=samples(32, 3, 8, 8)).report.notes
    assert any("output 'z' is the same for all inputs" in note for note in notes)


def test_inputs_of_which_the_model_makes_nothing_finite_are_refused():
    proto = network(end="Log")
    scores = next(tensor for tensor in proto.graph.initializer if tensor.name == "k")
    scores.CopyFrom(onnx.numpy_helper.from_array(-np.ones((16, 10), np.float32), "k"))
    with pytest.raises(graphopt.InputError, match="nothing finite of them: output 'y' is NaN or infinite"):
        graphopt.optimize(proto, BUDGET, samples(32, 3, 8, 8))


def halves() -> onnx.ModelProto:
    """Two convolutions in float16, the second of which overflows where the first does not."""
    half = np.float16
    weights = {"v": weight(16, 8, 3, 3).astype(half), "w": (5000 * weight(16, 16, 3, 3, seed=1)).astype(half)}
    nodes = [node("Conv", "x v", "a", "first", pads=[1] * 4), node("Relu", "a", "b")]
    nodes.append(node("Conv", "b w", "y", "second", pads=[1] * 4))
    proto = model(nodes, weights, inputs={"x": ["N", 8, 8, 8]}, outputs={"y": ["N", 16, 8, 8]})
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return proto


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("budget", [{"macs": 0.7}, {"sqnr": 20}])
def test_numbers_that_are_not_finite_are_named_and_numpy_says_nothing(budget):
    inputs = (30 * samples(32, 8, 8, 8)).astype(np.float16)
    try:
        report = graphopt.optimize(halves(), budget, inputs).report
    except graphopt.BudgetError as error:
        report = error.result.report
    assert any("makes numbers that are not finite, in output 'y'" in note for note in report.notes)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_with_their_number(value):
    inputs = samples(32, 3, 8, 8)
    inputs[5, 0, 0, 0] = inputs[7, 1, 2, 3] = value
    with pytest.raises(graphopt.InputError, match="not finite, in 2 of 32 samples, first in number 5 "):
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
