"""Calibration inputs of the user's own function, from the command line and recipes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from graphopt.calibration.sources.own import OwnInputs, is_function
from graphopt.errors import InputError
from tests.builders import samples
from tests.command import cli

CODE = """
import numpy as np

def yielded():
    for row in np.load("inputs.npy"):
        yield {"x": row[None]}

def whole():
    return {"x": np.load("inputs.npy")}

def fails():
    raise OSError("no such disk")
"""
BUDGET = ("--budget", "macs=0.8")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, scores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a model, its inputs, and a module that reads them, as the current one."""
    monkeypatch.chdir(tmp_path)
    np.save("inputs.npy", samples(16))
    Path("own_data.py").write_text(CODE, encoding="utf-8")


def made(*options: str) -> bytes:
    cli("optimize", "scores.onnx", "-o", "out.onnx", *BUDGET, *options).fine()
    return Path("out.onnx").read_bytes()


def test_a_function_gives_what_the_file_gives() -> None:
    expected = made("--calibration", "inputs.npy")
    for name in ("yielded", "whole"):
        assert made("--calibration", f"own_data:{name}") == expected


def test_a_recipe_finds_the_module_in_its_own_folder(tmp_path: Path) -> None:
    expected = made("--calibration", "inputs.npy")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "sub_data.py").write_text(CODE, encoding="utf-8")
    text = (
        '[[models]]\nmodel = "../scores.onnx"\nout = "small.onnx"\nbudget = { macs = 0.8 }\n'
        'calibration = "sub_data:yielded"\n'
    )
    Path("sub/recipe.toml").write_text(text, encoding="utf-8")
    cli("run", "sub/recipe.toml", "--quiet").fine()
    assert Path("sub/small.onnx").read_bytes() == expected


def test_sweep_and_verify_take_one_too() -> None:
    given = ("--calibration", "own_data:yielded", "--json", "--quiet")
    swept = json.loads(cli("sweep", "scores.onnx", "--budgets", "0.8", *given).fine().out)
    assert swept["points"][-1]["quality"]["samples"] == 4
    checked = json.loads(cli("verify", "scores.onnx", "scores.onnx", *given).fine().out)
    assert checked["passed"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("own_data:fails", "failed: OSError: no such disk"),
        ("own_data:absent", "AttributeError"),
        ("absent_data:f", "ModuleNotFoundError"),
        ("own_data:yielded --preprocess imagenet", "is of images, not of "),
    ],
)
def test_what_can_not_be_had_is_told_in_one_line(given: str, why: str) -> None:
    done = cli("optimize", "scores.onnx", "-o", "out.onnx", *BUDGET, "--calibration", *given.split(), "-q")
    done.refused(f"--calibration {given.split()[0]}", why)
    assert not Path("out.onnx").exists()


def test_a_file_of_such_a_name_is_a_file() -> None:
    assert is_function("own_data:whole") and not is_function("inputs.npy") and not is_function("a/b:c")
    np.save("odd", samples(4))
    Path("odd.npy").rename("odd:name")
    assert not is_function("odd:name")


def test_the_module_is_an_input_that_is_not_replaced() -> None:
    done = cli("optimize", "scores.onnx", "-o", "own_data.py", *BUDGET, "--calibration", "own_data:whole")
    done.refused("own_data.py", "is the input")
    assert Path("own_data.py").read_text(encoding="utf-8") == CODE


def test_where_the_module_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far_data.py").write_text("def f(): return 1\n", encoding="utf-8")
    assert OwnInputs("far_data:f", tmp_path / "elsewhere")() == 1
    with pytest.raises(InputError, match=r"calibration=.*far_other:f"):
        OwnInputs("far_other:f", tmp_path / "elsewhere")()
