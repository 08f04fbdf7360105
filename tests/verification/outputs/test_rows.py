"""Figures by input are those of each input, whatever a model makes of several at once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.calibration import inputs as calibration_inputs
from graphopt.model import io
from graphopt.runtime import exposure, session
from graphopt.verification import quality
from tests.builders import Array, info, samples
from tests.verification.test_measured_outputs import measured, network, off

INPUTS = samples(24, 4, 8, 8, seed=3)
FLAT = ("c3 = Conv (r2, wh)", "s = Reshape (c3, flat)", "v, i = TopK <axis=0> (s, two)")
POOLED = ("p = GlobalAveragePool (r2)", "f = Flatten (p)", "g = Gemm <transB=1> (f, wg)")


def flat(batch: int | str = "N") -> onnx.ModelProto:
    """The best places, ranked over all that is run at once."""
    return network(*FLAT, outputs=[info("i", None, np.int64)], batch=batch)


def alone(proto: onnx.ModelProto, value: str) -> list[Array]:
    """A value for each input by itself."""
    parts = exposure.exposed(session.structure(io.load(proto).model), [value])
    running = session.session(parts, optimised=True)
    return [np.asarray(session.run(running, {"x": x[None]}, [value])[0]) for x in INPUTS]


def test_a_ranking_of_all_places_of_a_batch_is_measured_on_each_input() -> None:
    proto = flat()
    other = off(proto, "w2", 0.3)
    pairs = zip(alone(proto, "s"), alone(other, "s"), strict=True)
    same = np.mean([one.argmax() == two.argmax() for one, two in pairs])
    found = measured(proto, other)
    assert 0 < same < 1 and found.agreement == pytest.approx(same)
    assert (found.ranked, found.samples) == (24, 24)


def test_a_budget_of_agreement_counts_each_input() -> None:
    report = graphopt.optimize(flat(), {"agreement": 0.9}, INPUTS, only=["bottleneck"]).report
    assert report.quality is not None and report.quality.ranked == report.quality.samples == 6


def test_of_a_fixed_batch_the_interval_is_that_of_its_rankings() -> None:
    proto = flat(batch=4)
    found = measured(proto, proto)
    assert (found.agreement, found.ranked, found.samples) == (1.0, 6, 24)
    assert found.interval is not None and found.interval[0] == pytest.approx(6 / (6 + 1.96**2), abs=1e-3)
    assert "quality: the agreement is that of 6 rankings, on 24 inputs" in found.notes


def test_a_ranking_of_samples_has_nothing_to_choose_from_one_by_one() -> None:
    """It would be another one with every size of the batch."""
    lines = (*POOLED, "t = Transpose <perm=[1, 0]> (g)", "y = ArgMax <axis=1> (t)")
    proto = network(*lines, outputs=[info("y", None, np.int64)], batch="N")
    found = measured(proto, off(proto))
    assert found.agreement is None and found.ranked is None and found.sqnr is not None


@pytest.mark.parametrize("line", ["y = Softmax <axis=0> (g)", "m = ReduceMax <axes=[0]> (g)\ny = Sub (g, m)"])
def test_samples_that_a_model_mixes_are_run_one_by_one(line: str) -> None:
    given = loaded(mixed(line))
    assert given.batch == 1 and given.held_out.axes is None


@pytest.mark.parametrize(
    "proto",
    [
        network(*POOLED, "y = Softmax <axis=1> (g)", outputs={"y": ["N", 6]}, batch="N"),
        network("m = ReduceMean <axes=[1, 2, 3], keepdims=0> (r2)", outputs={"m": ["N"]}, batch="N"),
        network("y = Transpose <perm=[2, 0, 1, 3]> (r2)", outputs={"y": [8, "N", 24, 8]}, batch="N"),
    ],
    ids=["scores", "numbers", "places first"],
)
def test_what_has_a_row_for_each_sample_is_run_together(proto: onnx.ModelProto) -> None:
    given = loaded(proto)
    assert given.batch > 1 and given.held_out.axes is not None


def mixed(lines: str) -> onnx.ModelProto:
    """Scores with something of all that is run at once."""
    return network(*POOLED, *lines.split("\n"), outputs={"y": ["N", 6]}, batch="N")


def loaded(proto: onnx.ModelProto) -> calibration_inputs.Calibration:
    """How a model's inputs are run."""
    reference = io.load(proto).model
    given = calibration_inputs.whole(INPUTS, reference)
    return quality.separated(reference, given, given.held_out)[0]
