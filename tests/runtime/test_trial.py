"""Models that end the process which runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt.runtime.limits import watchdog
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


def acting(folder: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    """Puts a script in Python's place."""
    child = folder / "python"
    child.write_text(f"#!/bin/sh\ncat > /dev/null\n{does}\n")
    child.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(child))


@pytest.mark.parametrize(
    ("does", "lived"),
    [
        ("printf '!.'; kill -SEGV $$", [True, False, True, False]),  # it gets over one input of those given
        ("printf '!.'; exec sleep 60", [True, False, False, False]),  # its time is over
        ("echo no such module; exit 1", [True, True, True, True]),  # it can't tell
        ("kill -KILL $$", [False, False, False, False]),  # it does not get to the first input
    ],
)
def test_what_a_process_says_and_how_it_ends(
    does: str, lived: list[bool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(watchdog, "RUN_SECONDS", 1)
    acting(tmp_path, monkeypatch, does)
    assert survived(structure(ir.from_proto(cropped())), maps(1, 2, 3, 4)) == lived


def test_where_no_process_can_be_had_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "")
    assert survived(structure(ir.from_proto(cropped())), maps(1, 2)) == [True, True]


def test_nothing_in_the_current_folder_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("pickle", "onnxruntime", "signal"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    parts = structure(ir.from_proto(model([node("Conv", "x w", "y")], {"w": weight(8, 4, 3, 3)})))
    assert survived(parts, maps(1, 8)) == [True, True]
    assert survived(structure(ir.from_proto(cropped())), maps(1)) == [False]


def test_a_size_at_which_the_original_ends_the_process_ends_no_run() -> None:
    result = graphopt.optimize(cropped())
    assert [item.candidate.rewrite for item in result.report.applied] == ["remove_identity"]
    assert result.report.checks and not result.report.notes
