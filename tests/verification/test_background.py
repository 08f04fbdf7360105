"""Comparisons made beside the work: what cannot be run is a note, what cannot be compared has failed."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.errors import InputError
from graphopt.verification import values
from graphopt.verification.background import Comparer
from graphopt.verification.verdict import Rule, Verification
from tests.builders import model, node, samples, weight

FEEDS = [{"x": samples(1, seed=seed)} for seed in range(3)]


def layer(by: float = 1) -> onnx.ModelProto:
    return model([node("Conv", "x w", "y")], {"w": weight(4, 8, 1, 1) * np.float32(by)})


def compared(reference: onnx.ModelProto, candidate: onnx.ModelProto) -> Verification:
    return Comparer(FEEDS, (), "", nullcontext).compare(ir.from_proto(reference), ir.from_proto(candidate))


def test_an_original_that_onnxruntime_cannot_optimise_allows_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs, weights = values.outputs, weight(4, 8, 1, 1).tobytes()

    def failing(parts: Any, feeds: Any, *, optimised: bool) -> Any:
        (held,) = parts.proto.graph.initializer
        if optimised and onnx.numpy_helper.to_array(held).tobytes() == weights:
            raise InputError("onnxruntime can't load the model: its optimiser fails")
        return outputs(parts, feeds, optimised=optimised)

    monkeypatch.setattr(values, "outputs", failing)
    other = compared(layer(), layer(2))
    assert [bool(check) for check in other.checks] == [False, False] and not other.notes
    assert compared(layer(), layer(1 + 1e-6)).checks


def test_what_can_not_be_compared_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any) -> Any:
        raise InputError("nothing left")

    monkeypatch.setattr("graphopt.verification.equivalence.difference", failing)
    found = compared(layer(), layer(2))
    (check,) = found.checks
    assert not check and check.rule is Rule.RUNS and check.note == "nothing left"


def test_an_original_that_does_not_run_is_a_warning() -> None:
    custom = model([onnx.helper.make_node("Warp", ["x"], ["y"], domain="my.ops")], domains=["my.ops"])
    found = compared(custom, layer())
    assert not found.checks and "the whole model was not run" in found.warnings[0]
