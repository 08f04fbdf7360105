"""Backend tests that onnxruntime passes, it passes after `optimize`: a sample of converted models."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import graphopt
from tests.builders import conv_bn, run
from tests.fuzz import backend

EVERY = 4
"""Of so many one is run, in a few seconds; `benchmarks.fuzz` runs all, and those of single operators."""


@pytest.mark.parametrize("folder", backend.FOLDERS)
def test_backend_tests(folder: str) -> None:
    cases = [*backend.stored([folder])][::EVERY]
    found = [backend.check(case) for case in cases]
    assert cases
    assert not [each.detail for each in found if each.fault]


def _case(change: float) -> backend.Case:
    feed = {"x": np.random.default_rng(0).standard_normal((1, 8, 8, 8)).astype(np.float32)}
    model = conv_bn()
    outputs = run(model, feed)
    weight = numpy_helper.to_array(model.graph.initializer[0]) * np.float32(1 + change)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    return backend.Case("case", model, [([feed["x"]], outputs)])


def test_what_onnxruntime_does_not_pass_asks_nothing() -> None:
    assert backend.check(_case(0.0)).kind == "right"
    assert backend.check(_case(0.1)).kind == "unrunnable"


def test_wrong_results_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    case = _case(0.0)
    wrong = dataclasses.replace(graphopt.optimize(case.model), model=ir.from_proto(_case(0.1).model))
    monkeypatch.setattr(graphopt, "optimize", lambda *_, **__: wrong)
    found = backend.check(case)
    assert found.kind == "wrong"
    assert "case, aim macs: other outputs" in found.detail
