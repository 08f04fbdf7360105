"""Models that end the process which runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt.runtime.session import structure
from graphopt.runtime.trial import survived
from tests.builders import Feeds, model, node, parsed, weight


def maps(*sizes: int) -> list[Feeds]:
    return [{"x": np.ones((1, 4, size, size), np.float32)} for size in sizes]


def cropped() -> onnx.ModelProto:
    """Of a single row an empty map, on which InstanceNormalization of onnxruntime 1.23 ends the process."""
    nodes = parsed("c = Slice (x, i, j, a)", "n = InstanceNormalization (c, s, s)", "y = Conv (n, k)")
    weights = {
        "i": np.array([1]),
        "j": np.array([2**31]),
        "a": np.array([2]),
        "s": np.ones(4, np.float32),
        "k": weight(4, 4, 1, 1),
    }
    return model(
        [*nodes, node("Identity", "y", "z")], weights, inputs={"x": ["N", 4, "H", "W"]}, outputs={"z": None}
    )


def test_inputs_that_a_process_survives() -> None:
    parts = structure(ir.from_proto(model([node("Conv", "x w", "y")], {"w": weight(8, 4, 3, 3)})))
    assert survived(parts, maps(1, 2, 8)) == [True, True, True], "an error is no end"
    assert survived(parts, []) == []
    assert survived(structure(ir.from_proto(cropped())), maps(1, 2, 3))[1:] == [True, True]


def test_an_input_that_ends_the_process_is_left_out_and_the_others_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A process that gets over one input of those that it is given."""
    child = tmp_path / "python"
    child.write_text("#!/bin/sh\ncat > /dev/null\nprintf .\nkill -SEGV $$\n")
    child.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(child))
    parts = structure(ir.from_proto(cropped()))
    assert survived(parts, maps(1, 2, 3, 4)) == [True, False, True, False]


def test_a_size_at_which_the_original_ends_the_process_ends_no_run() -> None:
    result = graphopt.optimize(cropped())
    assert [item.candidate.rewrite for item in result.report.applied] == ["remove_identity"]
    assert result.report.checks and not result.report.notes
