"""Many models: those that fail or crash don't stop the others, and the report says what failed and why."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from graphopt import progress
from graphopt.errors import StoppedError, gravest
from graphopt.jobs import batch, process, worker
from graphopt.jobs.task import Task
from graphopt.report.outcomes import Outcome
from graphopt.runtime.limits import threads
from tests.builders import conv_bn, saved
from tests.command import COMMAND, Ran, Recorder, cli

MEASURES = """
import os, signal, sys, time
from pathlib import Path

def fine(path):
    print("printed to standard output")
    return 1.0

def killed(path):
    os.kill(os.getpid(), signal.SIGKILL)

def crashed(path):
    os.kill(os.getpid(), signal.SIGSEGV)

def left(path):
    print("the last words\\n", file=sys.stderr, flush=True)
    os._exit(0)

def threads(path):
    return float(os.environ["GRAPHOPT_THREADS"])

def exits(path):
    sys.exit(0)

def slow(path):
    Path(f"started-{os.getpid()}").touch()
    time.sleep(60)
    return 1.0

def lasting(path):
    time.sleep(0.5)
    return 1.0

def removes_the_folder(path):
    if Path("reports").exists():
        Path("reports").rmdir()
    return 1.0

def waits_for_another(path):
    Path(f"started-{os.getpid()}").touch()
    for _ in range(600):
        if len(list(Path().glob("started-*"))) > 1:
            return 1.0
        time.sleep(0.05)
    return 0.0
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, folded: Path, scores: Path, same: Path, inputs: Path, monkeypatch: Any) -> None:
    """A folder with models, good ones and bad ones, and inputs."""
    monkeypatch.chdir(tmp_path)
    Path("broken.onnx").write_bytes(b"no model")
    Path("measures.py").write_text(MEASURES, encoding="utf-8")


def recipe(*models: str, defaults: str = "", name: str = "recipe.toml") -> Path:
    """A recipe of models, each given by its lines."""
    text = f"[defaults]\n{defaults}\n" + "".join(f"[[models]]\n{lines}\n" for lines in models)
    Path(name).write_text(text, encoding="utf-8")
    return Path(name)


def measured(function: str, number: int = 0) -> str:
    """A model whose measure is this function."""
    return f'model = "same.onnx"\nout = "{function}{number}.onnx"\nmetric = "measures:{function}"\n'


def document(name: str = "report.json") -> Any:
    return json.loads(Path(name).read_text(encoding="utf-8"))


def outcomes(report: Any) -> list[tuple[str, int]]:
    return [(model["model"], model["exit_code"]) for model in report["models"]]


WAYS = [("run",), ("batch", "--jobs", 2)]
"""The commands that take a recipe."""


# ---------------------------------------------------------------- what goes well


def test_models_on_the_command_line() -> None:
    done = cli(
        "batch", "folded.onnx", "scores.onnx", "-o", "smaller", "-j", 2, "--report", "report.json"
    ).fine()
    assert all(len(line) <= 80 for line in done.out.splitlines())
    assert [line.split()[0] for line in done.out.splitlines()] == ["model", "folded.onnx", "scores.onnx"]
    report = document()
    assert (report["schema_version"], report["exit_code"], report["jobs"]) == (1, 0, 2)
    assert outcomes(report) == [("folded.onnx", 0), ("scores.onnx", 0)]
    for model in report["models"]:
        assert model["error"] is None and model["seconds"] > 0
        assert model["out"] == f"smaller/{model['model']}"
        assert model["report"]["verification"]["passed"] and model["report"]["exit_code"] == 0
        cli("optimize", model["model"], "-o", "alone.onnx").fine()
        assert Path("alone.onnx").read_bytes() == Path(model["out"]).read_bytes()


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_options_reach_every_model(way: Sequence[object]) -> None:
    """What comes out is what optimize makes with the same options."""
    options = ("--calibration", "inputs.npy", "--budget", "macs=0.6", "--floor", "off")
    options = (*options, "--require", "macs<=0.7", "--seed", 3)
    assert cli("optimize", "scores.onnx", "-o", "alone.onnx", *options, "--report", "alone.json").code == 0
    lines = 'model = "scores.onnx"\nout = "a.onnx"\nreport = "a.json"\nmarkdown = "a.md"\njunit = "a.xml"\n'
    said = 'calibration = "inputs.npy"\nbudget.macs = 0.6\nfloor = "off"\nrequire = ["macs<=0.7"]\nseed = 3'
    cli(*way, recipe(lines, lines.replace('"a.', '"b.'), defaults=said)).fine()
    for name in ("a", "b"):
        assert Path(f"{name}.onnx").read_bytes() == Path("alone.onnx").read_bytes()
        mine, expected = document(f"{name}.json"), document("alone.json")
        assert mine["options"] == expected["options"] and mine["gates"] == expected["gates"]
        noted = [note for note in mine["notes"] if note not in expected["notes"]]
        assert bool(noted) is (2 in way), noted  # what was timed beside the other
        assert Path(f"{name}.md").read_text("utf-8").startswith("## graphopt")
        assert "<testsuites" in Path(f"{name}.xml").read_text("utf-8")


def test_models_with_options_on_the_command_line() -> None:
    shared = ("--calibration", "inputs.npy", "--budget", "macs=0.6", "--floor", "off", "--seed", 3)
    shared = (*shared, "--skip", "separable", "--confidence", "none")
    assert cli("optimize", "scores.onnx", "-o", "alone.onnx", *shared).code == 0
    assert cli("batch", "scores.onnx", "--out-dir", "a/b", *shared).code == 0
    assert Path("a/b/scores.onnx").read_bytes() == Path("alone.onnx").read_bytes()


MISSED = ("--calibration", "inputs.npy", "--budget", "macs=0.6", "--floor", "sqnr=60", "--skip", "separable")
RECIPE = 'model = "scores.onnx"\nout = "out.onnx"\ncalibration = "inputs.npy"\nskip = ["separable"]\n'
RECIPE += 'budget.macs = 0.6\nfloor = "sqnr=60"\n'


@pytest.mark.parametrize("way", ["optimize", "batch", "run"])
def test_what_is_missed_is_told_in_the_words_in_which_it_was_asked(way: str) -> None:
    asked = {
        "optimize": ("scores.onnx", "-o", "out.onnx", *MISSED),
        "batch": ("scores.onnx", "--out-dir", "out", *MISSED),
        "run": (recipe(RECIPE),),
    }[way]
    done = cli(way, *asked, "--markdown", "told.md")
    text = Path("told.md").read_text("utf-8")
    expected = (
        "force takes it all the same, floor off"
        if way == "run"
        else "--force takes it all the same, --floor off"
    )
    assert done.code == 3 and expected in text and "=…" not in text
    assert way == "optimize" or "=…" not in done.out + done.err


def test_two_run_at_once() -> None:
    """Each waits for the other to begin."""
    both = [measured("waits_for_another", number) for number in (1, 2)]
    done = cli("batch", recipe(*both), "--jobs", 2, "--json").fine()
    assert [m["report"]["metric"]["after"] for m in json.loads(done.out)["models"]] == [1.0, 1.0]


def test_threads_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """And outcomes stand in the order of the recipe, whatever ends first."""
    monkeypatch.delenv("GRAPHOPT_THREADS")
    three = [measured("threads", number) for number in (1, 2, 3)]
    found = {}
    for jobs in (1, 3):
        done = cli("batch", recipe(*three), "--jobs", jobs, "--json")
        report = json.loads(done.out)
        assert [Path(m["out"]).name for m in report["models"]] == [f"threads{n}.onnx" for n in (1, 2, 3)]
        found[jobs] = {m["report"]["metric"]["after"] for m in report["models"]}
    cores = len(os.sched_getaffinity(0))
    assert found == {1: {0.0}, 3: {float(max(1, cores // 3))}}


def test_threads_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_THREADS", "7")
    done = cli("batch", recipe(measured("threads")), "--json")
    assert json.loads(done.out)["models"][0]["report"]["metric"]["after"] == 7.0
    assert threads.default() == 7
    monkeypatch.setenv("GRAPHOPT_THREADS", "")
    assert threads.default() == 0
    monkeypatch.setenv("GRAPHOPT_THREADS", "many")
    done = cli("optimize", "folded.onnx", "--dry-run")
    assert (done.code, done.err) == (2, "graphopt: GRAPHOPT_THREADS=many: expected a number of threads\n")


def test_what_is_printed_stays_out_of_the_document() -> None:
    done = cli("batch", recipe(measured("fine")), "--json").fine()
    assert json.loads(done.out)["models"][0]["report"]["metric"]["after"] == 1.0


def test_a_dry_run_writes_no_model() -> None:
    before = sorted(Path().iterdir())
    done = cli("batch", "folded.onnx", "scores.onnx", "--dry-run", "-o", "new/folder").fine()
    assert "written" not in done.out
    assert sorted(Path().iterdir()) == before


def test_a_dry_run_writes_its_report_where_models_would_go() -> None:
    cli("batch", "folded.onnx", "--dry-run", "-o", "new/folder", "--report", "new/folder/r.json").fine()
    assert [path.name for path in Path("new/folder").iterdir()] == ["r.json"]


# ---------------------------------------------------------------- what fails

MANY = [
    'model = "broken.onnx"\nout = "a.onnx"',
    'model = "folded.onnx"\nout = "b.onnx"',
    'model = "scores.onnx"\nout = "c.onnx"\nbudget = { macs = 0.001 }\nreport = "c.json"',
    'model = "scores.onnx"\nout = "d.onnx"\nrequire = ["macs<=0.5"]',
    'model = "same.onnx"\nout = "e.onnx"',
    'model = "same.onnx"\nout = "f.onnx"\nmetric = "absent:measure"',
    'model = "same.onnx"\nout = "g.onnx"\nmetric = "measures:exits"',
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_those_that_fail_do_not_stop_the_others(way: Sequence[object]) -> None:
    done = cli(*way, recipe(*MANY), "--report", "report.json", "--junit", "all.xml")
    assert done.code == 2
    assert done.err == (
        "graphopt: 5 of 7 models failed: broken.onnx, scores.onnx → c.onnx, scores.onnx → d.onnx, "
        "same.onnx → f.onnx and 1 more\n"
    )
    report = document()
    assert report["exit_code"] == 2
    assert [code for _, code in outcomes(report)] == [2, 0, 3, 3, 0, 2, 2]
    errors = [model["error"] for model in report["models"]]
    assert [error is None for error in errors] == [False, True, False, False, True, False, False]
    assert "broken.onnx: " in errors[0] and "the budget was not reached: macs" in errors[2]
    assert "the result fails what is required: macs<=0.5" in errors[3]
    assert "metric absent:measure: ModuleNotFoundError" in errors[5] and "--metric" not in errors[5]
    assert "metric measures:exits failed: SystemExit: 0" in errors[6]
    assert [n for n, model in enumerate(report["models"]) if model["report"] is None] == [0, 5, 6]
    assert [model["out"] for model in report["models"] if model["out"]] == ["b.onnx", "e.onnx"]
    assert sorted(path.name for path in Path().glob("?.onnx")) == ["b.onnx", "e.onnx"]
    assert document("c.json")["exit_code"] == 3
    for error in filter(None, errors):
        assert error.count("\n") == 0
        assert sum(error in line for line in done.out.splitlines()) == 1
    suites_of_test_results("all.xml")


def suites_of_test_results(name: str) -> None:
    """Asserts that a file holds a suite of test results for each of `MANY`."""
    root = ElementTree.parse(name).getroot()
    assert [suite.attrib["name"].removeprefix("graphopt optimize ") for suite in root] == [
        *("broken.onnx", "folded.onnx", "scores.onnx → c.onnx", "scores.onnx → d.onnx"),
        *("same.onnx → e.onnx", "same.onnx → f.onnx", "same.onnx → g.onnx"),
    ]
    assert [int(suite.attrib["failures"]) for suite in root] == [1, 0, 1, 1, 0, 1, 1]
    assert root.attrib["failures"] == "5"
    assert root.attrib["tests"] == str(len(list(root.iter("testcase"))))
    (failure,) = root[0].iter("failure")
    assert failure.attrib["message"].startswith("broken.onnx: is ")


def test_a_model_that_is_not_there_does_not_stop_the_others() -> None:
    Path("folder.onnx").mkdir()
    named = ("absent.onnx", "folder.onnx", "folded.onnx")
    done = cli("batch", *named, "-o", "smaller", "--report", "report.json")
    assert (done.code, done.err) == (2, "graphopt: 2 of 3 models failed: absent.onnx, folder.onnx\n")
    report = document()
    assert outcomes(report) == [("absent.onnx", 2), ("folder.onnx", 2), ("folded.onnx", 0)]
    assert report["models"][0]["error"] == "absent.onnx: no such file"
    assert [path.name for path in Path("smaller").iterdir()] == ["folded.onnx"]


CRASHES = {
    "killed": "crashed: killed by SIGKILL, perhaps for lack of memory",
    "crashed": "crashed: killed by SIGSEGV",
    "left": "crashed: its process ended with code 0: the last words",
}


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_those_that_crash_do_not_stop_the_others(way: Sequence[object]) -> None:
    models = [*(measured(function) for function in CRASHES), 'model = "folded.onnx"\nout = "good.onnx"']
    done = cli(*way, recipe(*models), "--report", "report.json")
    assert done.code == 2
    assert done.err.startswith("graphopt: 3 of 4 models failed: ") and done.err.count("\n") == 1
    report = document()
    assert outcomes(report) == [*[("same.onnx", 2)] * 3, ("folded.onnx", 0)]
    for model, error in zip(report["models"], CRASHES.values(), strict=False):
        assert model["error"].startswith(error)
        assert (model["out"], model["report"]) == (None, None)
        assert f"{model['error']}\n" in done.out
    assert sorted(path.name for path in Path().glob("*.onnx")) == sorted(
        ["folded.onnx", "scores.onnx", "same.onnx", "broken.onnx", "good.onnx"]
    )


def test_a_crash_is_no_bug_of_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for tracebacks gets the child's last words, and the exit code all the same."""
    monkeypatch.setenv("GRAPHOPT_TRACEBACK", "1")
    done = cli("batch", recipe(measured("killed")))
    assert (done.code, done.err) == (2, "graphopt: 1 of 1 models failed: same.onnx\n")


def test_without_its_reports_a_model_is_not_written() -> None:
    """Exit code 2 and no model, an older one as it was; so does the command for one model."""
    Path("folded.onnx").rename("same.onnx")
    Path("removes_the_folder0.onnx").write_bytes(b"older")
    alone = ("optimize", "same.onnx", "-o", "removes_the_folder0.onnx", "--junit", "reports/r.xml")
    among = recipe(measured("removes_the_folder") + 'junit = "reports/r.xml"', measured("fine"))
    for options in (
        (*alone, "--metric", "measures:removes_the_folder"),
        ("run", among, "--report", "all.json"),
    ):
        Path("reports").mkdir()
        done = cli(*options)
        assert done.code == 2
        assert "reports/r.xml: can't be written: No such file or directory" in done.out + done.err
        assert Path("removes_the_folder0.onnx").read_bytes() == b"older"
    first, second = document("all.json")["models"]
    assert (first["exit_code"], first["out"], first["report"]) == (2, None, None)
    assert (second["exit_code"], second["out"]) == (0, "fine0.onnx")


BUG = """
import graphopt.api

def optimize(model, work=graphopt.api.optimize, **options):
    if model.name == "scores.onnx":
        raise ZeroDivisionError("a bug")
    return work(model, **options)

graphopt.api.optimize = optimize
"""


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_bug_is_told_and_the_others_go_on(way: Sequence[object], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("buggy.py").write_text(BUG, encoding="utf-8")
    monkeypatch.syspath_prepend(Path().resolve())
    monkeypatch.setattr(batch, "START", batch.START.replace("; from", "; import buggy; from"))
    done = cli(*way, recipe('model = "scores.onnx"\nout = "a.onnx"', MANY[1]))
    assert done.code == 70
    assert "scores.onnx: internal error in buggy:" in done.out
    assert "ZeroDivisionError: a bug (GRAPHOPT_TRACEBACK=1" in done.out
    assert Path("b.onnx").exists()


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([0, 0], 0), ([0, 3], 3), ([3, 2, 0], 2), ([2, 1, 3], 1), ([1, 70, 2], 70), ([], 0)],
)
def test_the_gravest_exit_code_counts(codes: list[int], expected: int) -> None:
    assert gravest(codes) == expected


def test_the_page_of_a_job_tells_of_every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("summary.md").write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    assert cli("batch", recipe(*MANY[:2]), "-j", 2, "--markdown", "all.md").code == 2
    text = Path("summary.md").read_text(encoding="utf-8")
    assert text == f"before\n\n{Path('all.md').read_text(encoding='utf-8')}"
    assert text.startswith("before\n\n## graphopt: `broken.onnx`\n\n**broken.onnx: ")
    assert text.count("## graphopt: ") == 2 and text.index("broken.onnx") < text.index("folded.onnx")


# ---------------------------------------------------------------- what is refused before any work


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("batch", "folded.onnx"), "batch needs --out-dir DIR"),
        (("batch", "folded.onnx", "sub/folded.onnx", "-o", "out"), "is written by the result of folded.onnx"),
        (("batch", "folded.onnx", "folded.onnx", "-o", "out"), "is written by the result of folded.onnx"),
        (("batch", "folded.onnx", "-o", "."), "folded.onnx: is the input folded.onnx"),
        (("batch", "folded.onnx", "-o", "inputs.npy"), "inputs.npy: is a file; name a folder"),
        (("batch", "folded.onnx", "-o", "out", "--report", "out/folded.onnx"), "is written by --report too"),
        (("batch", "folded.onnx", "-o", "out", "--report", "folded.onnx"), "folded.onnx: is the input"),
        (("batch", "folded.onnx", "-o", "out", "--budget", "mac=1"), "--budget mac: no such key"),
        (("batch", "folded.onnx", "-o", "out", "--only", "colapse"), "no rewrite is called 'colapse'"),
        (("batch", "folded.onnx", "-o", "out", "--jobs", 0), "--jobs"),
        (("batch", "good.toml", "folded.onnx"), "good.toml: a recipe stands alone"),
        (("batch", "folded.onnx", "good.toml", "-o", "out"), "good.toml: a recipe stands alone"),
        (("batch", "good.toml", "--markdown", "good.toml"), "good.toml: is the input good.toml"),
        (("run", "good.toml", "--report", "r", "--junit", "r"), "r: is written by --report too"),
        (("batch", "good.toml", "--budget", "macs=1"), "--budget goes with models: a recipe says it itself"),
        (("batch", "good.toml", "-o", "out"), "--out-dir goes with models"),
        (("batch", "good.toml", "--confidence", "none"), "--confidence goes with models"),
        (("batch", "good.toml", "--confidence", "0.95"), "--confidence goes with models"),
        (("batch", "good.toml", "--seed", 0), "--seed goes with models"),
        (("batch", "folded.onnx", "-o", "out", "--confidence", 95), "--confidence 95: expected a part"),
        (("batch", "timed.toml", "-j", 2), "timed.toml: models[0]: gate latency needs a machine"),
        (
            ("batch", "folded.onnx", "-o", "out", "-j", 2, "--require", "latency<=0.9"),
            "folded.onnx: require latency needs a machine that does nothing else: use --jobs 1",
        ),
        (("batch", "folded.onnx", "-o", "out", "-j", 2, "--budget", "latency=0.9"), "budget latency needs"),
    ],
)  # fmt: skip
def test_usage(arguments: Sequence[object], says: str) -> None:
    Path("sub").mkdir()
    saved(conv_bn(), Path("sub/folded.onnx"))
    recipe('model = "folded.onnx"\nout = "b.onnx"', name="good.toml")
    recipe('model = "folded.onnx"\nout = "b.onnx"\ngate = "latency"', name="timed.toml")
    before = sorted(Path().rglob("*"))
    cli(*arguments).refused(says)
    assert sorted(Path().rglob("*")) == before


# ---------------------------------------------------------------- Ctrl-C and lost parents


def started(count: int) -> list[int]:
    """Waits until so many children are at work; their process numbers."""
    for _ in range(600):
        found = [int(path.name.rpartition("-")[2]) for path in Path().glob("started-*")]
        if len(found) == count:
            return found
        time.sleep(0.05)
    raise AssertionError("the children did not begin")


def gone(pid: int) -> bool:
    """Whether a process ends within some seconds."""
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return True
        time.sleep(0.05)
    return False


def signalled(number: int, count: int, *arguments: object) -> tuple[Ran, list[int]]:
    """How a command ends that gets a signal when so many children are at work, and their numbers."""
    call = [*COMMAND, *map(str, arguments)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        children = started(count)
        running.send_signal(number)
        out, err = running.communicate(timeout=30)
    return Ran(running.returncode, out, err), children


@pytest.mark.parametrize(
    ("number", "code", "err"),
    [
        (signal.SIGINT, 130, "graphopt: interrupted; 1 of 4 models written\n"),
        (signal.SIGTERM, 130, "graphopt: interrupted; 1 of 4 models written\n"),
        (signal.SIGKILL, -signal.SIGKILL, "graphopt: interrupted; 1 of 4 models written\n"),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else "",
)
def test_the_children_end_with_their_parent(number: int, code: int, err: str) -> None:
    models = ['model = "folded.onnx"\nout = "a.onnx"', *(measured("slow", n) for n in (1, 2, 3))]
    before = {path.name for path in Path().iterdir()} | {"recipe.toml", "a.onnx"}
    done, children = signalled(number, 2, "batch", recipe(*models), "--jobs", "2", "--report", "r")
    assert done == Ran(code, "", err)
    assert all(gone(child) for child in children)
    for child in children:
        Path(f"started-{child}").unlink()
    assert {path.name for path in Path().iterdir() if path.name != "__pycache__"} == before


@pytest.mark.parametrize("others", [0, 1])
def test_ctrl_c_while_a_recipe_is_done(others: int) -> None:
    models = [*['model = "folded.onnx"\nout = "a.onnx"'] * others, measured("slow")]
    done, _ = signalled(signal.SIGINT, 1, "run", recipe(*models))
    written = f"{others or 'none'} of {others + 1}"
    assert done == Ran(130, "", f"graphopt: interrupted; {written} models written\n")
    assert not Path("slow0.onnx").exists()


def test_a_child_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE", 0.5)
    Path("deaf.py").write_text(
        "import signal, time, os\nfrom pathlib import Path\n"
        "def measure(path):\n    signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "    Path(f'started-{os.getpid()}').touch()\n    time.sleep(60)\n",
        encoding="utf-8",
    )
    work = Task(model=Path("same.onnx"), metric="deaf:measure")

    def interrupt(*_: Any, **__: Any) -> Any:
        started(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "as_completed", interrupt)
    with pytest.raises(StoppedError, match="none of 1 models written"):
        batch.side_by_side([work], 1)
    assert gone(*started(1))


# ---------------------------------------------------------------- parts


def test_a_task_and_its_outcome_travel() -> None:
    task = Task(model=Path("m.onnx"), budget={"macs": 0.5}, said={"": "here"})
    for given in (task, Outcome(task.model, 3, "why")):
        assert pickle.loads(pickle.dumps(given)) == given


def test_a_file_in_the_current_folder_is_no_module_of_a_child() -> None:
    for name in ("pickle", "numpy", "graphopt", "onnx", "tempfile"):
        Path(f"{name}.py").write_text("raise RuntimeError('the wrong one')\n", encoding="utf-8")
    (outcome,) = batch.side_by_side([Task(model=Path("folded.onnx"), out=Path("a.onnx"))], 1)
    assert outcome, outcome.error
    assert outcome.written == Path("a.onnx")


def test_a_line_of_progress_for_each_model() -> None:
    display = Recorder()
    work = [
        Task(model=Path("scores.onnx"), metric="measures:lasting"),
        Task(model=Path("same.onnx"), metric="measures:killed"),
    ]
    with progress.shown_by(display):
        done = batch.side_by_side(work, 2)
    assert [outcome.exit_code for outcome in done] == [0, 2]
    begun = sorted(event[1:] for event in display.events if event[0] == "begin")
    assert begun == [("models", 2), ("same.onnx", None), ("scores.onnx", None)]
    assert not display.open
    items = [event[3] for event in display.events if event[:2] == ("at", "scores.onnx")]
    assert items[0] == "load" and len(items) > 1


def test_nothing_comes_after_the_outcome(tmp_path: Path) -> None:
    """A thread that is still at work when the outcome is sent would be heard in the middle of it."""
    with open(tmp_path / "answers", "wb") as file:
        answers = worker.Answers(file)
        for answer in ("first", Outcome(Path("m"), 3), "late"):
            answers.send(answer)
    with open(tmp_path / "answers", "rb") as file:
        assert pickle.load(file) == "first"
        assert pickle.load(file).exit_code == 3
        assert file.read() == b""


def test_memory_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []
    monkeypatch.setattr(batch, "default_bytes", lambda: 900)
    monkeypatch.setattr(
        batch.Workers, "complete", lambda self, t: asked.append(t.memory) or Outcome(t.model, 0)
    )
    work = Task(model=Path("m.onnx"))
    batch.side_by_side([work, work, replace(work, memory=5)], 8)
    batch.side_by_side([work], 8)
    assert asked == [300, 300, 5, None]
