"""Rewrites of installed packages: small projects that pip installs, each in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import graphopt
from graphopt import BudgetError, Candidate, Exactness, InputError
from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis
from graphopt.planning import spending
from graphopt.report import markdown
from graphopt.report.page import charts, rewrites, spectra, tradeoff
from graphopt.report.text import optimize as text
from graphopt.rewrites import registry
from graphopt.rewrites.base import Stage
from graphopt.rewrites.collapsing.collapse import Collapse
from graphopt.rewrites.factoring.bottleneck import Bottleneck
from graphopt.runtime.operator_times import Stopwatch
from graphopt.types import Choice, Fitted, Replacement
from tests.builders import classifier, conv_bn, model, node, samples, saved
from tests.places import MODELS, ROOT

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
    monkeypatch.setattr(registry, "entry_points", lambda: [entry])
    with pytest.raises(graphopt.InputError, match=says):
        registry.registry()


def test_a_rewrite_that_is_given_twice() -> None:
    class Twice(Collapse):
        pass

    with pytest.raises(graphopt.InputError, match=r"one of graphopt and one of rewrites=\[Twice\]"):
        graphopt.scan(conv_bn(), rewrites=[Twice])


# --- hooks --------------------------------------------------------------------------------------------------

EXACT, APPROXIMATE, EXPANDING = Exactness.EXACT, Exactness.APPROXIMATE, Exactness.EXPANDING


def plugin(exactness: Exactness, hooks: Mapping[str, Any], **options: bool) -> type[Any]:
    """A frozen dataclass that derives from nothing of graphopt's, with an option and some hooks."""
    needed = {"name": "theirs", "exactness": exactness, "match": lambda self, analysis: iter(())}
    body = {**needed, "__annotations__": {"ranked": int}, "ranked": 1, **hooks}
    return dataclass(frozen=True, **options)(type("Theirs", (), body))


def build(self: Any, analysis: Any, candidate: Any, statistics: Any = None) -> Any: ...


def fit(self: Any, analysis: Any, candidate: Any, statistics: Any = None, refine: int = 2) -> Any: ...


@pytest.mark.parametrize("slots", [False, True])
@pytest.mark.parametrize("given", [lambda theirs: theirs, lambda theirs: theirs(7)])
def test_a_rewrite_has_the_defaults_of_its_kind(given: Callable[[Any], Any], slots: bool) -> None:
    def found(exactness: Exactness, **hooks: Any) -> Any:
        theirs = plugin(exactness, hooks, slots=slots)
        options = {"theirs.ranked": 9}
        (rewrite,) = registry.select(registry.registry([given(theirs)]), only=["theirs"], options=options)
        assert rewrite.ranked == 9 and type(rewrite).__name__ == "Theirs"
        return rewrite

    exact = found(EXACT, build=build)
    assert (exact.stage, exact.describe({"size": 2})) == (Stage.CHEAP, "theirs size=2")
    approximate = found(APPROXIMATE, fit=fit)
    assert not approximate.fixed and not [*approximate.inputs_needed(None), *approximate.ranks({})]
    assert approximate.draft(None, None) is None and approximate.operators({}) == 2
    expanding = found(EXPANDING, build=build)
    assert (
        expanding.condition
        == expanding.why_not(calibrated=False)
        == ""
        == "".join(expanding.outputs_needed(None))
    )


@pytest.mark.parametrize(
    ("exactness", "hooks", "says"),
    [
        (EXACT, {"stge": Stage.LAST}, "has stge, which is no hook; did you mean stage"),
        (EXACT, {"desribe": lambda self, choice: ""}, "has desribe, which is no hook; did you mean describe"),
        (
            EXACT,
            {"build": lambda self, analysis: None},
            r"build\(analysis\), .* build\(analysis, candidate\)",
        ),
        (EXACT, {"match": lambda self: iter(())}, r"has match\(\), which should be match\(analysis\)"),
        (EXACT, {"stage": "last"}, "has stage='last', which should be a Stage"),
        (EXACT, {"describe": "short"}, r"has describe='short', .* a method: describe\(choice\)"),
        (EXACT, {"ranks": lambda self, choice: ()}, "has ranks, a hook of approximate rewrites; exact ones"),
        (APPROXIMATE, {}, "is no rewrite: it needs name, exactness, match and fit"),
        (APPROXIMATE, {"fit": fit, "build": build}, "build, a hook of exact and expanding .* fit, fixed"),
        (APPROXIMATE, {"fit": fit, "fixed": lambda self: True}, "has fixed=.*, which should be a value"),
        (APPROXIMATE, {"fit": fit, "operator": 3}, "has operator, which is no hook; did you mean operators"),
        (EXPANDING, {"why_not": lambda self, calibrated, more: ""}, r"should be why_not\(calibrated=…\)"),
    ],
)
def test_a_hook_that_is_not_as_expected(exactness: Exactness, hooks: dict[str, Any], says: str) -> None:
    built = {} if exactness is APPROXIMATE else {"build": build}
    with pytest.raises(InputError, match=rf"Theirs.*{says}") as raised:
        graphopt.scan(conv_bn(), rewrites=[plugin(exactness, {**built, **hooks})])
    assert "theirs" in str(raised.value).lower()


# --- an approximate one -------------------------------------------------------------------------------------


class Narrow:
    """A bottleneck with a 1x1 in front alone, a plain class with a choice of its own."""

    name = "narrow"
    exactness = Exactness.APPROXIMATE
    _theirs = Bottleneck()

    def match(self, analysis: Analysis) -> Iterator[Candidate]:
        for found in self._theirs.match(analysis):
            if isinstance(found, Candidate) and not found.choice["rank_out"]:
                yield replace(found, rewrite=self.name, choice={"wide": found.choice["rank_in"]})

    def inputs_needed(self, analysis: Analysis) -> Iterator[Linear]:
        return self._theirs.inputs_needed(analysis)

    def fit(self, analysis: Analysis, candidate: Candidate, statistics: Any, *, refine: int) -> Fitted:
        fitted = self._theirs.fit(analysis, _as_bottleneck(candidate), statistics, refine=refine)
        return replace(fitted, spectra={"wide": fitted.spectra.get("rank_in", ())})

    def draft(self, linear: Linear, candidate: Candidate) -> Replacement:
        return self._theirs.draft(linear, _as_bottleneck(candidate))

    def ranks(self, choice: Choice) -> list[int]:
        return [int(choice["wide"])]

    def operators(self, choice: Choice) -> int:
        return 1

    def describe(self, choice: Choice) -> str:
        return f"{choice['wide']} wide"


def _as_bottleneck(candidate: Candidate) -> Candidate:
    return replace(candidate, choice={"rank_in": candidate.choice["wide"], "rank_out": 0})


def test_its_words_are_in_every_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "spectrum", lambda values, rank: "")  # a drawing needs the extra
    result = graphopt.optimize(classifier(), {"macs": 0.7}, samples(96), rewrites=[Narrow], only=["narrow"])
    (item, *_) = applied = result.report.applied
    wide = item.candidate.choice["wide"]
    text.report(result.report, None)
    assert f"{wide} wide" in capsys.readouterr().out
    assert f"{wide} wide" in markdown.report(result.report)
    assert {row["reason"] for row in rewrites.rewrites(result.report)} >= {f"{wide} wide"}
    (point,) = [each for each in result.report.curve if each.taken]
    drawn = tradeoff.curve([point], result.report.before, 1.0)
    assert f"{wide} wide" in str(drawn)
    shown = spectra.spectra(result.report, len(applied))["items"]
    assert {(each["key"], each["rank"]) for each in shown} >= {("wide", wide)}


def test_its_ranks_are_whole_blocks_under_a_latency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Stopwatch, "block", lambda self: 8)
    given = {"rewrites": [Narrow], "only": ["narrow"]}
    try:
        report = graphopt.optimize(
            MODELS / "resnet-digits.onnx", {"latency": 0.9}, MODELS / "digits-calibration.npz", **given
        ).report
    except BudgetError as failure:  # on a busy machine
        report = failure.result.report
    found = [item.candidate.choice["wide"] for item in report.applied]
    assert found and all(int(wide) % 8 == 0 for wide in found)


def test_its_operators_count_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Free(Narrow):
        def operators(self, choice: Choice) -> int:
            return 0

    def optimized(rewrite: type[Narrow]) -> int:
        asked = {"rewrites": [rewrite], "only": ["narrow"]}
        return len(graphopt.optimize(classifier(), {"bytes": 0.95}, samples(96), **asked).report.applied)

    assert optimized(Narrow) > 0
    monkeypatch.setattr(spending, "NODE_BYTES", 10**9)
    assert optimized(Free) > 0
    with pytest.raises(BudgetError):
        optimized(Narrow)
