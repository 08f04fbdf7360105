"""What a comparison can't tell comes first in every report, and rules are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.builders import Array, conv_bn, node, saved, weight
from tests.builders import model as model_of
from tests.command import cli


@pytest.fixture
def silent(tmp_path: Path) -> Path:
    """A model with a fold to make whose output no input changes."""
    nodes = [node("Conv", "x w", "c"), node("Mul", "c s", "m"), node("Mul", "m none", "z")]
    weights: dict[str, Array] = {"w": weight(8, 8, 3, 3), "s": np.abs(weight(8, 1, 1)) + np.float32(1)}
    weights |= {"none": np.zeros((), np.float32), "b": np.ones((1, 8, 1, 1), np.float32)}
    return saved(model_of([*nodes, node("Add", "z b", "y")], weights), tmp_path / "silent.onnx")


def test_a_run_begins_with_what_its_comparisons_could_not_tell(silent: Path, tmp_path: Path) -> None:
    document, page = tmp_path / "r.json", tmp_path / "r.md"
    files = ("-o", tmp_path / "out.onnx", "--report", document, "--markdown", page)
    done = cli("optimize", silent, "--only", "fold_affine", *files)
    assert done.code == 0, done.err
    assert done.out.startswith("warning: ") and "tells too little" in " ".join(done.out.split())
    found = json.loads(document.read_text())
    assert len(found["warnings"]) == 1 and "y tells too little" in found["warnings"][0]
    whole = [check for check in found["verification"]["checks"] if check["scope"] == "model"]
    assert [check["informative"] for check in whole] == [False]
    text = page.read_text()
    assert 0 < text.index("tells too little") < text.index("Verified:")


def test_verify_begins_with_it_too(silent: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert cli("optimize", silent, "--only", "fold_affine", "-o", out).code == 0
    done = cli("verify", silent, out)
    assert done.code == 0 and done.out.startswith("warning: ")
    assert json.loads(cli("verify", silent, out, "--json").out)["warnings"]


def test_the_rule_of_each_comparison_is_named(tmp_path: Path) -> None:
    path = saved(conv_bn(), tmp_path / "model.onnx")
    done = cli("optimize", path, "-o", tmp_path / "out.onnx", "--json")
    checks = json.loads(done.out)["verification"]["checks"]
    assert checks and {check["rule"] for check in checks} == {"relative difference"}
    shown = cli("verify", path, tmp_path / "out.onnx").out
    assert "relative" in shown and " by" not in shown.splitlines()[0]
