"""Options: what one way of asking takes, the others take too, and what is asked in vain is refused."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import graphopt
from graphopt import InputError
from graphopt.cli.app import typer_app
from graphopt.jobs.task import Task
from graphopt.pipeline.options import make_options
from tests.builders import classifier, samples

OLIVE = Path(graphopt.__file__).parent / "integrations" / "olive_pass.py"
GIVEN = {"model", "calibration", "rewrites"}
"""What `graphopt.optimize` takes besides options."""


def parameters(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


OPTIONS = parameters(graphopt.optimize) - GIVEN


def test_a_task_passes_every_option_on() -> None:
    assert set(Task(model=Path("m.onnx")).options()) == OPTIONS
    assert parameters(make_options) == OPTIONS | {"rewrites", "calibrated"}


def test_the_command_takes_every_option() -> None:
    spelled = {"set_": "options", "shape": "shapes", "output": "outputs"}
    (command,) = [c.callback for c in typer_app.registered_commands if c.callback.__name__ == "optimize"]  # type: ignore[union-attr]
    assert command is not None
    assert {spelled.get(name, name) for name in parameters(command)} >= OPTIONS


def test_olive_takes_every_option() -> None:
    """Read off the source: Olive need not be installed."""
    tree = ast.parse(OLIVE.read_text(encoding="utf-8"))
    assigned = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
    (table,) = [node.value for node in assigned if ast.unparse(node.target) == "PARAMETERS"]
    assert isinstance(table, ast.Dict)
    assert {ast.literal_eval(key) for key in table.keys if key is not None} == OPTIONS


def test_a_sweep_takes_the_options_of_optimize() -> None:
    assert parameters(graphopt.sweep) - GIVEN - {"budgets"} <= OPTIONS


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"aim": "speed"}, "--aim speed: it is time or macs"),
        ({"only": ["insert_pointwise"]}, "insert_pointwise makes the model dearer"),
        ({"budgets": [0.8, 1.5]}, "--budget macs=1.5: expected a fraction"),
        ({"budgets": []}, "--budgets names no part"),
    ],
)
def test_a_sweep_refuses_what_optimize_refuses(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        graphopt.sweep(classifier(), samples(16), **options)


def test_the_report_names_the_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "named_measure.py").write_text("def one(path):\n    return 1\n", encoding="utf-8")
    found = graphopt.optimize(classifier(), metric="named_measure:one")
    assert found.report.options["metric"] == "named_measure:one"
