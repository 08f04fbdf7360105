"""The GitHub action: its metadata against GitHub's rules, and its scripts run as a runner would run them.

GitHub's own part is played by `Runner`: inputs with their defaults, expressions, the files that scripts write
outputs and summaries to, and the shell with its options. Other actions that the action uses are not run.
"""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from console import yaml_blocks
from package import ROOT, copied

import graphopt
from models import classic
from tests.builders import classifier, conv_bn, nothing_to_do, samples, saved

BIN = Path(sys.executable).parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = {step["id"]: step for step in ACTION["runs"]["steps"]}
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
PAGES = (ROOT / "README.md", ROOT / "docs" / "pipelines.md")
"""Where steps that use the action are shown."""
BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail")
"""How a runner starts what has ``shell: bash``."""


@dataclass
class Runner:
    """A job's place on a machine: its workspace, its temporary folder and its environment."""

    folder: Path
    action: Path = ROOT
    steps: dict[str, dict[str, str]] = field(default_factory=dict)
    summary: str = ""
    log: str = ""

    @property
    def workspace(self) -> Path:
        return self.folder / "work space"

    @property
    def temporary(self) -> Path:
        return self.folder / "runner temp"

    def step(self, name: str, inputs: Mapping[str, str]) -> int:
        """Runs a step's script, and returns its exit code.

        Args:
            name: the step's id.
            inputs: what the workflow passes; the others have their defaults.
        """
        step = STEPS[name]
        assert step["shell"] == "bash"
        for path in (self.workspace, self.temporary):
            path.mkdir(exist_ok=True)
        files = {name: self.folder / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for file in files.values():
            file.write_text("", encoding="utf-8")
        script = self.folder / "script.sh"
        script.write_text(step["run"], encoding="utf-8")
        own = {key: self.evaluated(value, inputs) for key, value in step["env"].items()}
        known = {key: str(value) for key, value in files.items()}
        done = subprocess.run(
            [*BASH, str(script)],
            cwd=self.workspace,
            env={
                **os.environ,
                **known,
                "GITHUB_ACTION_PATH": str(self.action),
                "GITHUB_ACTIONS": "true",
                "RUNNER_TEMP": str(self.temporary),
                **own,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.log += done.stdout
        self.summary += files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
        self.steps[name] = outputs(files["GITHUB_OUTPUT"].read_text(encoding="utf-8"))
        return done.returncode

    def optimize(self, **inputs: str) -> int:
        """Runs the main step with this environment's graphopt; ``_`` stands for ``-`` in names."""
        self.steps["install"] = {"bin": str(BIN)}
        return self.step("optimize", {key.replace("_", "-"): value for key, value in inputs.items()})

    def evaluated(self, text: str, inputs: Mapping[str, str]) -> str:
        """The text with its expressions' values; what has none is empty, as for a runner."""

        def value(found: re.Match[str]) -> str:
            match found[1].split("."):
                case ["inputs", name]:
                    return inputs.get(name, ACTION["inputs"][name].get("default", ""))
                case ["steps", name, "outputs", output]:
                    return self.steps[name].get(output, "")
            raise AssertionError(f"an expression that the tests don't know: {found[0]}")

        return EXPRESSION.sub(value, text)

    @property
    def outputs(self) -> dict[str, str]:
        """The action's outputs."""
        return {name: self.evaluated(each["value"], {}) for name, each in ACTION["outputs"].items()}


def outputs(text: str) -> dict[str, str]:
    """What a step wrote to its file of outputs: ``name=value``, or ``name<<END`` and lines up to ``END``."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        name, end = re.fullmatch(r"([\w-]+)(?:=|<<)(.*)", line).groups()  # type: ignore[union-attr]
        value = [end]
        if line.startswith(f"{name}<<"):
            value = list(iter(lambda end=end: next(lines), end))  # type: ignore[misc]
        found[name] = "\n".join(value)
    return found


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    made = Runner(tmp_path)
    made.workspace.mkdir()
    return made


# --- the metadata -------------------------------------------------------------------------------------------


def test_the_metadata_fits_the_published_schema() -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.github-actions", ROOT / "action.yml"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def expressions(value: Any) -> list[str]:
    """Every expression in a part of the metadata."""
    return EXPRESSION.findall(json.dumps(value))


def test_expressions_name_what_there_is() -> None:
    """A misspelt one would be empty, without a word."""
    passed = [name for step in STEPS.values() for name in expressions({**step, "run": ""})]
    for name in passed + expressions(ACTION["outputs"]):
        kind, first, *rest = name.split(".")
        assert (kind == "inputs" and first in ACTION["inputs"] and not rest) or (
            kind == "steps" and first in STEPS and rest[0] == "outputs"
        ), name
    assert {f"inputs.{name}" for name in ACTION["inputs"]} <= set(passed), "an input that nothing reads"


def test_outputs_are_written(runner: Runner) -> None:
    saved(conv_bn(), runner.workspace / "model.onnx")
    assert runner.optimize(model="model.onnx", output="smaller.onnx") == 0
    assert set(runner.steps["optimize"]) == set(ACTION["outputs"])
    assert all(value for value in runner.outputs.values())


@pytest.mark.parametrize("name", [name for name, step in STEPS.items() if "run" in step])
def test_scripts_hold_no_expression_and_no_trap(name: str, tmp_path: Path) -> None:
    """What a workflow passes would become part of the script."""
    assert not expressions(STEPS[name]["run"])
    (tmp_path / "script.sh").write_text(STEPS[name]["run"], encoding="utf-8")
    command = [str(BIN / "shellcheck"), "--shell=bash", "--enable=quote-safe-variables"]
    done = subprocess.run([*command, str(tmp_path / "script.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def uses(value: Any) -> Iterator[dict[str, Any]]:
    """The steps in a part of a workflow that use the action."""
    if isinstance(value, dict) and str(value.get("uses", "")).startswith("OWNER/graphopt@"):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from uses(part)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_steps_that_are_shown(page: Path, runner: Runner) -> None:
    (step,) = uses(yaml_blocks(page))
    (runner.workspace / "models").symlink_to(ROOT / "models")
    inputs = step["with"]
    assert set(inputs) <= set(ACTION["inputs"])
    runner.steps["install"] = {"bin": str(BIN)}
    assert runner.step("optimize", inputs) == 0, runner.log
    assert runner.outputs["model"] == inputs["output"] and (runner.workspace / inputs["output"]).is_file()
    assert float(runner.outputs["macs-ratio"]) <= 0.8


def test_the_workflow_that_is_shown(tmp_path: Path) -> None:
    (workflow,) = (block for block in yaml_blocks(PAGES[1]) if "jobs" in block)
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps({("on" if key is True else key): value for key, value in workflow.items()}))
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.github-workflows", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    steps = workflow["jobs"]["cheaper"]["steps"]
    assert {name.split(".")[-1] for name in expressions(steps)} <= set(ACTION["outputs"])


def test_the_guide_lists_every_input_and_output() -> None:
    section = PAGES[1].read_text(encoding="utf-8").split("## GitHub Actions", 1)[1].split("\n## ", 1)[0]
    listed = [
        name for row in re.findall(r"^\| (`.*?) \|", section, re.M) for name in re.findall(r"`(.*?)`", row)
    ]
    assert listed == [*ACTION["inputs"], *ACTION["outputs"]]


# --- the scripts --------------------------------------------------------------------------------------------


def test_all_steps_in_their_order(runner: Runner) -> None:
    """The package is installed into an environment of its own, and does its work there."""
    saved(classic.build(), runner.workspace / "classic.onnx")
    runner.steps["python"] = {"python-path": sys.executable}
    runner.action = copied(runner.folder / "the action")
    inputs = {"model": "classic.onnx", "output": "smaller.onnx", "require": "macs<=0.2", "extras": "images"}
    for name, step in STEPS.items():
        if "run" in step:
            assert runner.step(name, inputs) == 0, runner.log
    place = Path(runner.steps["install"]["bin"])
    assert runner.temporary in place.parents and (place / "graphopt").is_file()
    where = [str(place / "python"), "-c", "import graphopt, PIL; print(graphopt.__file__)"]
    where_it_is = subprocess.run(where, cwd=runner.folder, capture_output=True, text=True, check=True).stdout
    assert where_it_is.startswith(str(place.parent))
    assert "lossless_bottleneck" in runner.log
    assert runner.outputs["macs-ratio"] == f"{12_443_648 / 120_422_400:.6g}"
    assert graphopt.verify(runner.workspace / "classic.onnx", runner.workspace / "smaller.onnx")


def test_a_run_that_passes(runner: Runner) -> None:
    """Paths and values with spaces, several lines, and lines from Windows."""
    (runner.workspace / "my models").mkdir()
    path = saved(classifier(), runner.workspace / "my models" / "a net.onnx")
    np.save(runner.workspace / "my inputs.npy", samples(80))
    code = runner.optimize(
        model="my models/a net.onnx",
        output="my models/smaller net.onnx",
        calibration="my inputs.npy",
        budget="macs=0.9\nsqnr=1\n",
        require="macs <= 0.9\r\n\r\nsqnr >= 1\r\n",
        args="--seed=3\r\n--keep=no such node\r\n",
        report="my report.json",
    )
    assert code == 0, runner.log
    out = runner.workspace / "my models" / "smaller net.onnx"
    assert graphopt.scan(out).totals.macs < graphopt.scan(path).totals.macs
    report = json.loads((runner.workspace / "my report.json").read_text(encoding="utf-8"))
    assert report["options"]["seed"] == 3 and report["options"]["keep"] == ["no such node"]
    assert report["options"]["budget"] == {"macs": 0.9, "sqnr": 1.0}
    assert [gate["key"] for gate in report["gates"]] == ["macs", "sqnr"]
    ratio = report["after"]["macs"] / report["before"]["macs"]
    assert runner.outputs == {
        "exit-code": "0",
        "model": "my models/smaller net.onnx",
        "report": "my report.json",
        "changed": "true",
        "macs-ratio": f"{ratio:.6g}",
    }
    assert "a net.onnx" in runner.summary and "| MACs |" in runner.summary
    assert "::error" not in runner.log


def test_a_gate_that_is_missed(runner: Runner) -> None:
    saved(conv_bn(), runner.workspace / "model.onnx")
    code = runner.optimize(model="model.onnx", output="smaller.onnx", require="macs<=0.5")
    assert code == 3
    assert not (runner.workspace / "smaller.onnx").exists()
    assert (runner.outputs["exit-code"], runner.outputs["model"]) == ("3", "")
    assert (runner.outputs["changed"], runner.outputs["macs-ratio"]) == ("true", "1")
    report = json.loads(Path(runner.outputs["report"]).read_text(encoding="utf-8"))
    assert report["exit_code"] == 3
    assert "macs<=0.5" in html.unescape(runner.summary).replace("\\", "")
    (shown,) = re.findall(r"^::error title=graphopt::(.*)$", runner.log, re.M)
    assert "macs" in shown and "0.5" in shown


def test_without_an_output_nothing_is_written(runner: Runner) -> None:
    saved(conv_bn(), runner.workspace / "model.onnx")
    assert runner.optimize(model="model.onnx") == 0
    assert [path.name for path in runner.workspace.iterdir()] == ["model.onnx"]
    assert (runner.outputs["model"], runner.outputs["changed"]) == ("", "true")
    assert Path(runner.outputs["report"]).is_relative_to(runner.temporary)


def test_a_job_may_have_several_of_these_steps(runner: Runner) -> None:
    """None writes over the report of another."""
    saved(conv_bn(), runner.workspace / "model.onnx")
    saved(nothing_to_do(), runner.workspace / "other.onnx")
    reports = []
    for name in ("model.onnx", "other.onnx"):
        assert runner.optimize(model=name) == 0
        reports.append(Path(runner.outputs["report"]))
    shown = [json.loads(path.read_text(encoding="utf-8"))["model"]["path"] for path in reports]
    assert shown == ["model.onnx", "other.onnx"]


def test_a_model_that_stays_as_it_is(runner: Runner) -> None:
    saved(nothing_to_do(), runner.workspace / "model.onnx")
    assert runner.optimize(model="model.onnx", output="out.onnx") == 0
    assert (runner.outputs["changed"], runner.outputs["macs-ratio"]) == ("false", "1")


def test_an_empty_model_is_told(runner: Runner) -> None:
    assert runner.optimize(model="") == 2
    assert runner.log == "::error title=graphopt::the input model is empty\n"
    assert runner.outputs["exit-code"] == "2"


def test_bad_input_leaves_no_report_of_an_earlier_run(runner: Runner) -> None:
    saved(conv_bn(), runner.workspace / "model.onnx")
    assert runner.optimize(model="model.onnx") == 0
    assert runner.optimize(model="100% none.onnx") == 2
    assert runner.outputs == {"exit-code": "2", "model": "", "report": "", "changed": "", "macs-ratio": ""}
    assert "::error title=graphopt::100%25 none.onnx: no such file\n" in runner.log


@pytest.mark.parametrize(
    "hostile", ["$(touch pwned)`touch pwned`; touch pwned; '; touch pwned; \"; touch pwned", "-o"]
)
@pytest.mark.parametrize(
    "name", [name for name in ACTION["inputs"] if name not in ("extras", "python-version")]
)
def test_inputs_are_no_code(runner: Runner, name: str, hostile: str) -> None:
    saved(conv_bn(), runner.workspace / "model.onnx")
    runner.optimize(**{"model": "model.onnx", name.replace("-", "_"): hostile})
    assert not list(runner.folder.rglob("pwned"))
    if name == "model":
        assert (runner.outputs["exit-code"], runner.outputs["report"]) == ("2", "")


def test_a_hostile_output_sets_no_other_output(runner: Runner) -> None:
    saved(conv_bn(), runner.workspace / "model.onnx")
    name = "out.onnx\nexit-code=7\nmacs-ratio=0.1"
    assert runner.optimize(model="model.onnx", output=name) == 0
    assert (runner.outputs["model"], runner.outputs["exit-code"]) == (name, "0")
    assert runner.outputs["macs-ratio"] == "1"


def test_names_in_a_model_are_no_workflow_commands(runner: Runner) -> None:
    """They stand in the log between a token that stops commands and the one that resumes them."""
    proto = classifier()
    for each in proto.graph.node:
        each.name = f"::warning title=pwned::{each.name}"
    saved(proto, runner.workspace / "model.onnx")
    assert runner.optimize(model="model.onnx", budget="macs=0.8") == 0, runner.log
    before, token, inside, after = re.fullmatch(
        r"(.*)^::stop-commands::(\S+)\n(.*)^::\2::\n(.*)", runner.log, re.M | re.S
    ).groups()  # type: ignore[union-attr]
    assert "::warning" in inside
    assert not before and not after
    assert re.fullmatch(r"graphopt-\d+", token)


def test_a_report_that_is_read_alone(runner: Runner) -> None:
    """What lies in the workspace is not imported by the script that reads the report."""
    saved(conv_bn(), runner.workspace / "model.onnx")
    (runner.workspace / "json.py").write_text("raise SystemExit(9)\n", encoding="utf-8")
    assert runner.optimize(model="model.onnx") == 0
    assert runner.outputs["macs-ratio"] == "1"
