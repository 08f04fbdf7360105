"""Options: what one way of asking takes, the others take too, and what is asked in vain is refused."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

import graphopt
from graphopt import InputError
from graphopt.cli.app import typer_app
from graphopt.jobs.task import Task
from graphopt.pipeline.options.checked import Options, make_confidence
from graphopt.pipeline.options.table import RUN, TABLE
from tests.builders import classifier, conv_bn, samples

FUNCTIONS = (
    graphopt.scan,
    graphopt.optimize,
    graphopt.sensitivity,
    graphopt.sweep,
    graphopt.verify,
    graphopt.bench,
    graphopt.diff,
)
OPTIONS = {option.name for option in RUN}
GIVEN = {"model", "calibration", "rewrites"}
"""What `graphopt.optimize` takes besides options."""


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Names and defaults; ``...`` where there is none."""
    found = inspect.signature(function).parameters.values()
    return {each.name: ... if each.default is each.empty else each.default for each in found}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_signature_is_what_the_table_says(function: Callable[..., Any]) -> None:
    taken = parameters(function)
    listed = {name: TABLE[name].default for name in taken if name != "rewrites"}
    taken.pop("rewrites", None)
    if function in (graphopt.sensitivity, graphopt.sweep):  # which can't do without
        assert taken.pop("calibration") is ... and listed.pop("calibration") is None
    assert taken == listed


def test_optimize_takes_every_option_and_a_sweep_all_that_concern_it() -> None:
    assert parameters(graphopt.optimize).keys() - GIVEN == OPTIONS
    elsewhere = {"budget", "gate", "floor", "force", "require", "tune"}
    assert parameters(graphopt.sweep).keys() - GIVEN - {"budgets"} == OPTIONS - elsewhere


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_command_takes_what_its_function_takes(function: Callable[..., Any]) -> None:
    callbacks = [command.callback for command in typer_app.registered_commands]
    (command,) = [each for each in callbacks if each is not None and each.__name__ == function.__name__]
    assert parameters(command).keys() >= parameters(function).keys() - {"rewrites"}


def test_a_task_passes_every_option_on() -> None:
    assert Task(model=Path("m.onnx")).arguments().keys() == OPTIONS
    asked = {f.name: f.default for f in fields(Task) if f.default is not MISSING and f.name in TABLE}
    assert asked == {name: TABLE[name].default for name in asked}
    assert {f.name for f in fields(Options)} == OPTIONS - {"options"} | {"rewrites"}
    kept = {f.name: f.default for f in fields(Options) if f.default is not MISSING}
    assert kept == {name: TABLE[name].default for name in kept}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"aim": "speed"}, "aim='speed': it is time or macs"),
        ({"only": ["insert_pointwise"]}, "insert_pointwise makes the model dearer"),
        ({"budgets": [0.8, 1.5]}, "budgets=1.5: expected a fraction"),
        ({"budgets": [2]}, "did you mean macs=0.5"),
        ({"budgets": [70]}, "did you mean macs=0.7"),
        ({"budgets": [0.8, "0.5"]}, "budgets='0.5': expected a number"),
        ({"budgets": [0.8, math.nan]}, "budgets='nan': expected a fraction"),
        ({"budgets": []}, "budgets=… names no part"),
        (
            {"confidence": 95},
            "confidence='95': expected a part .*, or none; did you mean 0.95",
        ),
        ({"confidence": "95%"}, "or none; did you mean 0.95"),
        ({"confidence": 1}, r"or none$"),
        ({"confidence": "all"}, r"confidence='all': .* or none$"),
    ],
)
def test_a_sweep_refuses_what_optimize_refuses(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        graphopt.sweep(classifier(), samples(16), **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"budget": 0.7}, "budget=…: expected a mapping, such as {'macs': 0.7}, and not float"),
        ({"options": 3}, "options=…: expected a mapping"),
        ({"shapes": [1]}, "shapes=…: expected a mapping, such as {'image': .*}, and not list"),
        ({"shapes": {"x": "1x3"}}, "shapes={'x': '1x3'}: expected a list of sizes"),
        ({"shapes": {"x": [1, -3]}}, "expected a list of sizes"),
        ({"seed": -1}, "seed=-1: expected a whole number, at least 0"),
        ({"seed": "a"}, "seed=…: expected a whole number, and not str"),
        ({"seed": True}, "seed=…: expected a whole number, and not bool"),
        ({"at": 3}, "at=…: expected a list of texts, and not int"),
        ({"memory": "4G"}, "memory=…: expected a whole number"),
        ({"force": "yes"}, "force=…: expected True or False"),
        ({"only": ["collapse"], "skip": ["collapse"]}, "skip='collapse' leaves it out"),
    ],
)
def test_values_of_other_types_are_refused_in_words(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        graphopt.optimize(classifier(), **options)


def test_one_text_stands_for_a_list_of_one() -> None:
    (one, several) = (graphopt.optimize(conv_bn(), only=only) for only in ("fold_affine", ["fold_affine"]))
    assert one.report.applied and one.report.options == several.report.options


@pytest.mark.parametrize("call", [graphopt.optimize, graphopt.scan])
def test_what_is_no_model_is_told(call: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"a model is a path, .* and not int"):
        call(3)


@pytest.mark.parametrize("said", ["none", None, 0])
def test_a_confidence_of_none_has_a_word(said: str | float | None) -> None:
    assert make_confidence(said) == 0


def test_the_report_names_the_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "named_measure.py").write_text("def one(path):\n    return 1\n", encoding="utf-8")
    found = graphopt.optimize(classifier(), metric="named_measure:one")
    assert found.report.options["metric"] == "named_measure:one"
