"""verify() of a model that says itself how it was made."""

from __future__ import annotations

from pathlib import Path

import pytest

import graphopt
from graphopt.model import io
from tests.builders import classifier


@pytest.fixture
def cut(tmp_path: Path, inputs: Path, scores: Path) -> Path:
    """The classifier within a budget that names a quality."""
    budget = {"macs": 0.6, "sqnr": 3}
    graphopt.optimize(scores, budget=budget, calibration=inputs, force=True, confidence=0).save(
        tmp_path / "cut.onnx"
    )
    return tmp_path / "cut.onnx"


def test_the_recorded_budget_judges(cut: Path, inputs: Path, scores: Path) -> None:
    found = graphopt.verify(scores, cut, inputs)
    assert [check.scope for check in found.checks] == ["sqnr"] and found.checks[0].allowed == 3
    assert any("the model's own record" in note and "macs=0.6, sqnr=3" in note for note in found.notes)


def test_without_inputs_it_says_that_it_is_not_meant_to_be_equal(cut: Path, scores: Path) -> None:
    found = graphopt.verify(scores, cut)
    assert not found and any("not meant to be equal" in note for note in found.notes)


def test_a_record_of_another_original_says_nothing(cut: Path, inputs: Path) -> None:
    found = graphopt.verify(classifier(prefix="other/"), cut, inputs)
    assert not found and not any("own record" in note for note in found.notes)


def test_a_record_that_was_changed_says_nothing(cut: Path, inputs: Path, scores: Path) -> None:
    model = io.load(cut).model
    (key,) = (key for key in model.metadata_props if key.endswith(".options"))
    model.metadata_props[key] = model.metadata_props[key].replace('"sqnr":3', '"sqnr":0')
    found = graphopt.verify(scores, model, inputs)
    assert not any("own record" in note for note in found.notes)
