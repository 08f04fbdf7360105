"""What the README shows works as it stands."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from models import classic
from tests.builders import model, parsed, saved
from tests.command import cli
from tests.places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def double_neg() -> onnx.ModelProto:
    """Relu(Neg(Neg(x)))."""
    nodes = parsed("[inner] a = Neg (x)  [outer] b = Neg (a)  [relu] y = Relu (b)")
    return model(nodes, inputs={"x": [1, 3]}, outputs={"y": [1, 3]})


def test_the_rewrite_that_the_readme_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(double_neg(), "model.onnx")
    (block,) = [block for block in BLOCKS if "DropDoubleNeg" in block]
    Path("shown.py").write_text(block, encoding="utf-8")
    result = runpy.run_path("shown.py", run_name="shown")["result"]
    assert isinstance(result, graphopt.Result)
    assert "drop_double_neg" in [item.candidate.rewrite for item in result.report.applied]
    assert "Neg" not in [node.op_type for node in result.model.graph]


def test_the_calls_that_the_readme_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.load(ROOT / "models" / "resnet-digits.onnx"), "model.onnx")
    with np.load(ROOT / "models" / "digits-calibration.npz") as given:
        np.savez("inputs.npz", input=given["input"][:80])
    (block,) = [block for block in BLOCKS if "smaller.onnx" in block]
    Path("shown.py").write_text(block, encoding="utf-8")
    runpy.run_path("shown.py", run_name="shown")
    before, after = (graphopt.scan(path).totals.macs for path in ("model.onnx", "smaller.onnx"))
    assert before and after and after <= 0.7 * before


def test_the_classic_example(tmp_path: Path) -> None:
    """5x5, 192→32 on 28×28, input rank 16: the counts that the README gives."""
    result = graphopt.optimize(classic.build())
    assert result.report.before.macs == 120_422_400
    assert result.report.after.macs == 12_443_648
    result.save(tmp_path / "smaller.onnx")
    assert graphopt.scan(tmp_path / "smaller.onnx").totals.macs == 12_443_648
    assert graphopt.verify(classic.build(), tmp_path / "smaller.onnx")


def test_the_readme_names_every_command() -> None:
    from graphopt.cli.app import typer_app

    for command in typer_app.registered_commands:
        assert command.callback is not None
        assert f"graphopt {command.callback.__name__}" in README


def test_the_diff_that_the_readme_shows(tmp_path: Path) -> None:
    before = saved(classic.build(), tmp_path / "classic.onnx")
    graphopt.optimize(before).save(tmp_path / "smaller.onnx")
    printed = cli("diff", before, tmp_path / "smaller.onnx").out.replace("\u00a0", " ")
    shown = README.split("$ graphopt diff classic.onnx smaller.onnx\n", 1)[1].split("\n```", 1)[0]
    assert [line.rstrip() for line in printed.splitlines()] == shown.replace("\u00a0", " ").splitlines()
