"""Rewrites of installed packages: small projects that pip installs, each in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from places import ROOT
from small_models import conv_bn, model, node, saved

import graphopt
from graphopt.rewrites import registry
from graphopt.rewrites.collapsing.collapse import Collapse

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "1.2"

[project.entry-points."graphopt.rewrites"]
{entry} = "{module}:{attribute}"

[tool.setuptools]
py-modules = ["{module}"]
"""
SOURCE = '''
"""Removes Neg(Neg(x)): the two cancel.

Maths: −(−x) = x.
"""

from dataclasses import dataclass
from typing import ClassVar

from graphopt import Candidate, Cost, Exactness, NewNode, Replacement, Site


@dataclass(frozen=True)
class DropDoubleNeg:
    """Removes Neg(Neg(x))."""

    name: ClassVar[str] = "drop_double_neg"
    exactness: ClassVar[Exactness] = Exactness.EXACT
    spare: int = 0
    """Pairs to leave."""

    def match(self, analysis):
        for name, node in analysis.nodes.items():
            inner = node.inputs[0].producer() if node.op_type == "Neg" else None
            if inner is not None and inner.op_type == "Neg":
                site = Site(analysis.graph_of(node), (name, analysis.name(inner)))
                yield Candidate(self.name, site, analysis.cost([node, inner]), Cost(0))

    def build(self, analysis, candidate, statistics=None):
        outer, inner = (analysis.nodes[name] for name in candidate.site.nodes)
        copy = NewNode("Identity", (inner.inputs[0].name,), ("same",))
        return Replacement((copy,), {}, {outer.outputs[0].name: "same"})
'''
PACKAGES = {
    "acme-rewrites": ("acme", "DropDoubleNeg", SOURCE),
    "rival-rewrites": ("rival", "DropDoubleNeg", SOURCE),
    "shadow-rewrites": ("shadow", "DropDoubleNeg", SOURCE.replace('"drop_double_neg"', '"collapse"')),
    "broken-rewrites": ("broken", "Thing", "import a_module_that_nobody_has\n"),
}
"""Module, attribute and source of each package."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds, for each package, a folder into which it is installed."""
    folder = tmp_path_factory.mktemp("packages")
    running = [_install(folder, name) for name in PACKAGES]
    for process in running:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out
    return folder


def _install(folder: Path, name: str) -> subprocess.Popen[str]:
    module, attribute, source = PACKAGES[name]
    project = folder / f"{name}-project"
    project.mkdir()
    text = PROJECT.format(name=name, entry=module, module=module, attribute=attribute)
    (project / "pyproject.toml").write_text(text, encoding="utf-8")
    (project / f"{module}.py").write_text(source, encoding="utf-8")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", folder / name, project]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(installed: Path, packages: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(installed / name) for name in packages)
    return subprocess.run(
        [sys.executable, "-m", "graphopt", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_an_installed_rewrite_takes_part(installed: Path, tmp_path: Path) -> None:
    nodes = [node("Neg", "x", "a", "inner"), node("Neg", "a", "b", "outer"), node("Relu", "b", "y", "relu")]
    path = saved(model(nodes, outputs={"y": [1, 8, 8, 8]}), tmp_path / "model.onnx")
    out, report = tmp_path / "smaller.onnx", tmp_path / "report.json"
    done = run(installed, ["acme-rewrites"], "optimize", path, "-o", out, "--report", report)
    assert (done.returncode, done.stderr) == (0, "")
    applied = json.loads(report.read_text(encoding="utf-8"))["applied"]
    assert applied[0]["rewrite"] == "drop_double_neg"
    assert graphopt.verify(path, out)

    listed = run(installed, ["acme-rewrites"], "rewrites", "--json")
    (mine,) = [item for item in json.loads(listed.stdout) if item["name"] == "drop_double_neg"]
    assert mine["options"] == {"spare": {"type": "int", "default": 0}}
    assert "−(−x) = x" in run(installed, ["acme-rewrites"], "explain", "drop_double_neg").stdout
    left_out = run(installed, ["acme-rewrites"], "optimize", path, "--dry-run", "--skip", "drop_double_neg")
    assert left_out.returncode == 0 and "drop_double_neg" not in left_out.stdout


@pytest.mark.parametrize(
    ("packages", "says"),
    [
        (
            ["acme-rewrites", "rival-rewrites"],
            "two rewrites are called 'drop_double_neg', one of acme-rewrites 1.2 (acme:DropDoubleNeg) "
            "and one of rival-rewrites 1.2 (rival:DropDoubleNeg); rename one, or uninstall its package",
        ),
        (
            ["shadow-rewrites"],
            "two rewrites are called 'collapse', one of graphopt and one of shadow-rewrites 1.2",
        ),
        (
            ["acme-rewrites", "broken-rewrites"],
            "the rewrite of broken-rewrites 1.2 (broken:Thing) can't be loaded: ModuleNotFoundError: "
            "No module named 'a_module_that_nobody_has'; repair or uninstall that package",
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_packages_that_do_not_go(installed: Path, tmp_path: Path, packages: list[str], says: str) -> None:
    path, out = saved(conv_bn(), tmp_path / "model.onnx"), tmp_path / "smaller.onnx"
    done = run(installed, packages, "optimize", path, "-o", out)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"graphopt: {says}")
    assert not out.exists()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("json:nothing_of_this_name", "json:nothing_of_this_name.* can't be loaded: AttributeError"),
        ("json:dumps", "json:dumps.* is no rewrite: it needs name, exactness, match and build"),
        ("fractions:Fraction.from_float", "is no rewrite"),
        ("json:JSONDecodeError", "json:JSONDecodeError.* can't be loaded: TypeError"),
    ],
)
def test_what_is_no_rewrite(value: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attribute that isn't there, a function, a method, and a class that needs arguments."""
    entry = metadata.EntryPoint("theirs", value, "graphopt.rewrites")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry])
    with pytest.raises(graphopt.InputError, match=says):
        registry.registry()


def test_a_rewrite_that_is_given_twice() -> None:
    class Twice(Collapse):
        pass

    with pytest.raises(graphopt.InputError, match=r"one of graphopt and one of rewrites=\[Twice\]"):
        graphopt.scan(conv_bn(), rewrites=[Twice])
