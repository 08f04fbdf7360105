"""Recipes: what they may say, how a wrong one is refused, and the JSON schema that says the same."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt import files
from graphopt.errors import InputError
from graphopt.jobs import recipe
from graphopt.jobs.task import Task
from graphopt.measures.registry import all_figures
from graphopt.pipeline.options.table import TABLE
from graphopt.planning import gates
from tests.command import cli
from tests.places import ROOT

VALIDATOR = jsonschema.Draft202012Validator(recipe.schema())


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, folded: Path, scores: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with two models and inputs, as the current one."""
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "recipe.toml") -> Path:
    Path(name).write_text(text, encoding="utf-8")
    return Path(name)


MINIMAL = '[[models]]\nmodel = "folded.onnx"\nout = "out.onnx"\n'


# ---------------------------------------------------------------- what is understood

EVERYTHING = """
[defaults]
out = "small-{stem}.onnx"
calibration = "inputs.npy"
budget = { macs = 0.9, params = 1, bytes = 1.0, latency = 1, agreement = 0.5, sqnr = 3, metric = -1.5 }
require = ["macs<=0.8", " agreement >= 0.98 ", "sqnr>=1e1"]
metric = "measure:accuracy"
confidence = "none"
memory = "512M"

[[models]]
model = "folded.onnx"

[[models]]
model = "scores.onnx"
out = "other.onnx"
budget = { sqnr = 20.5 }
require = []
only = ["bottleneck", "fold_affine"]
skip = ["collapse"]
at = ["conv*"]
keep = ["conv1"]
outputs = ["scores"]
set = { bottleneck = { rank_in = 16 } }
shapes = { x = [1, 8, 8, 8] }
sample_axis = { x = 0, rate = "constant" }
aim = "macs"
gate = "latency"
force = true
floor = "off"
tune = "steps=200"
confidence = 0.9
freeze_initializers = true
external_data = "never"
seed = 3
report = "reports/{stem}.json"
html = "{stem}/{stem}.html"
markdown = "{stem}.md"
junit = "tests/{stem}.xml"
preprocess = "imagenet"
"""


@pytest.mark.parametrize("minutes", ["10", "0.5", '"10"'])
def test_minutes_of_tuning_may_be_a_number(minutes: str) -> None:
    (task,) = recipe.read(written(f'[[models]]\nmodel = "m.onnx"\nout = "o.onnx"\ntune = {minutes}\n'))
    assert str(task.tune) == minutes.strip('"')


@pytest.mark.parametrize("minutes", ["0", "-1", "true", "[1]"])
def test_what_is_no_number_of_minutes_is_refused(minutes: str) -> None:
    with pytest.raises(InputError, match=r"tune: expected minutes, auto, or steps=N"):
        recipe.read(written(f'[[models]]\nmodel = "m.onnx"\nout = "o.onnx"\ntune = {minutes}\n'))


def test_every_key_reaches_its_task() -> None:
    (folder := Path("recipes")).mkdir()
    first, second = recipe.read(written(EVERYTHING, "recipes/all.toml"))
    assert (first.model, first.out) == (folder / "folded.onnx", folder / "small-folded.onnx")
    assert first.calibration == second.calibration == folder / "inputs.npy"
    assert first.memory == 512 << 20 and first.confidence == "none"
    assert first.require == ("macs<=0.8", " agreement >= 0.98 ", "sqnr>=1e1")
    assert second.budget == {"sqnr": 20.5} and second.require == ()
    expected = Task(
        model=folder / "scores.onnx",
        out=folder / "other.onnx",
        calibration=folder / "inputs.npy",
        preprocess="imagenet",
        budget={"sqnr": 20.5},
        only=("bottleneck", "fold_affine"),
        skip=("collapse",),
        at=("conv*",),
        keep=("conv1",),
        outputs=("scores",),
        options={"bottleneck.rank_in": "16"},
        shapes={"x": (1, 8, 8, 8)},
        sample_axis={"x": 0, "rate": "constant"},
        aim="macs",
        gate="latency",
        force=True,
        floor="off",
        tune="steps=200",
        confidence=0.9,
        freeze_initializers=True,
        external_data="never",
        metric="measure:accuracy",
        memory=512 << 20,
        seed=3,
        report=folder / "reports/scores.json",
        html=folder / "scores/scores.html",
        markdown=folder / "scores.md",
        junit=folder / "tests/scores.xml",
        folder=folder,
        recipe=folder / "all.toml",
        said=second.said,
    )
    assert second == expected
    assert second.said["budget"] == "recipes/all.toml: models[1].budget"
    assert second.said["calibration"] == "recipes/all.toml: defaults.calibration"


def test_every_option_of_a_task_can_be_said() -> None:
    keys = {TABLE[f.name].key or f.name for f in fields(Task) if f.name not in ("folder", "recipe", "said")}
    assert set(recipe.KEYS) == keys
    assert set(recipe.BUDGET.keys) == {*gates.KEYS, *all_figures()}
    used = files.read_toml(written(EVERYTHING))
    assert set(recipe.KEYS) == set(used["defaults"]) | set(used["models"][1])


def test_preprocessing_is_a_preset_or_a_file_beside_the_recipe() -> None:
    text = f'{MINIMAL}calibration = "inputs.npy"\npreprocess = "photos.toml"'
    (task,) = recipe.read(written(text, str(Path.cwd() / "recipe.toml")))
    assert task.preprocess == str(Path.cwd() / "photos.toml")


# ---------------------------------------------------------------- what is refused

WHOLE = "a whole number of at least"
PART = "a number over 0 and at most 1"

KEYS = {
    "budgt = {macs = 0.7}": "budgt: no such key; did you mean budget?",
    'output = "b"': "output: no such key; out is the file to write, outputs are the model's outputs that cou",
    '"a b.c" = 1': '"a b.c": no such key; there are model, out, calibration, ',
    'seed = "1"': f'seed: expected {WHOLE} 0, not "1"',
    "seed = 1.5": f"seed: expected {WHOLE} 0, not 1.5",
    "seed = -1": f"seed: expected {WHOLE} 0, not -1",
    "seed = true": f"seed: expected {WHOLE} 0, not true",
    "aim = 2026-01-01": 'aim: expected "time" or "macs", not "2026-01-01"',
    'aim = "speed"': 'aim: expected "time" or "macs", not "speed"',
    "gate = true": 'gate: expected "latency", not true',
    'freeze_initializers = "yes"': 'freeze_initializers: expected true or false, not "yes"',
    'report = ""': 'report: expected a file name without braces but those of {stem}, not ""',
    'report = "{stm}.json"': 'report: expected a file name without braces but those of {stem}, not "{stm}',
    'html = "{stem.html"': "html: expected a file name without braces but those of {stem}, not",
    "only = 'bottleneck'": 'only: expected a list of texts, not "bottleneck"',
    "at = ['a', 3]": "at[1]: expected text, not 3",
    "budget = 0.7": "budget: expected a table, not 0.7",
    "budget = {mac = 0.7}": "budget.mac: no such key; did you mean macs?",
    "budget.macs = 1.5": f"budget.macs: expected {PART}, not 1.5",
    "budget.macs = 0": f"budget.macs: expected {PART}, not 0",
    'budget.macs = "0.7"': f'budget.macs: expected {PART}, not "0.7"',
    "budget.sqnr = -3": "budget.sqnr: expected a number over 0, not -3",
    'require = "macs<=0.8"': 'require: expected a list of gates, not "macs<=0.8"',
    'require = ["macs>=0.8"]': "require: macs>=0.8: a cost has to be at most its limit; did you mean macs<=0",
    'require = ["mac<=0.8"]': "require: mac<=0.8: no such key; did you mean macs?",
    'require = ["macs<=x"]': "require: macs<=x: 'x' is no number",
    "require = [0.8]": 'require[0]: expected a gate such as "macs<=0.8", not 0.8',
    "shapes.x = [1, 0]": f"shapes.x[1]: expected {WHOLE} 1, not 0",
    "sample_axis.x = 'first'": 'sample_axis.x: expected the number of an axis, or "constant", not "first"',
    "shapes.x = []": "shapes.x: expected a list of sizes, not a list",
    "shapes = {x = '1x3'}": 'shapes.x: expected a list of sizes, not "1x3"',
    "set.bottleneck = 4": "set.bottleneck: expected a table of options, not 4",
    "set.bottleneck.rank_in = []": "set.bottleneck.rank_in: expected a number, a text, true or false, not a",
    'set."bottleneck.rank_in" = 4': 'set."bottleneck.rank_in": expected a table of options, not 4',
    'memory = "lots"': "memory: lots: expected a size such as 4G or 512M",
    "memory = 4": "memory: expected a size such as 4G, not 4",
    "confidence = 1": 'confidence: expected a part under 1, or "none", not 1',
    "confidence = 95": 'confidence: expected a part under 1, or "none", not 95',
    "confidence = -0.1": 'confidence: expected a part under 1, or "none", not -0.1',
    'confidence = "off"': 'confidence: expected a part under 1, or "none", not "off"',
    'metric = "accuracy"': "metric: accuracy: no such measure; there are ",
}  # fmt: skip
"""What can't be said of a model, with what is said of it. The schema refuses it too."""

FORMS = {
    "seed = 1": "seed: no such key; there are defaults, models",
    "": "models: is missing: the models, a [[models]] each",
    "models = []": "models: expected at least one [[models]], not a list",
    '[models]\nmodel = "a"': "models: expected at least one [[models]], not a table",
    'models = ["a.onnx"]': 'models[0]: expected a table, not "a.onnx"',
    f"defaults = 3\n{MINIMAL}": "defaults: expected a table, not 3",
    '[[models]]\nout = "a.onnx"': "models[0].model: is missing: the ONNX model",
    '[[models]]\nmodel = "a.onnx"': "models[0].out: is missing: the model to write; ",
    f"{MINIMAL}{MINIMAL}sed = 1": "models[1].sed: no such key; did you mean seed?",
    f'[defaults]\nmodel = "a"\n{MINIMAL}': "defaults.model: no such key; ",
    f"[defaults]\nseed = -1\n{MINIMAL}": f"defaults.seed: expected {WHOLE} 0, not -1",
}
"""Whole recipes, likewise."""

MEANINGS = {
    f'{MINIMAL}only = ["botleneck"]': "models[0].only: no rewrite is called 'botleneck'; did you mean bottle",
    f'[defaults]\nskip = ["xyzzy"]\n{MINIMAL}': "defaults.skip: no rewrite is called 'xyzzy'; ",
    f"{MINIMAL}set.bottleneck.rank = 3": "models[0].set: bottleneck has no option 'rank'; did you mean rank_",
    f"{MINIMAL}set.bottleneck.rank_in = 1.5": "models[0].set: bottleneck.rank_in=1.5: expected int | None",
    f"{MINIMAL}budget.macs = nan": f"models[0].budget.macs: expected {PART}, not NaN",
    f"{MINIMAL}seed = 1{'0' * 400}": f"models[0].seed: expected {WHOLE} 0, not 1{'0' * 79}…",
    f"{MINIMAL}budget.sqnr = inf": "models[0].budget.sqnr: expected a number over 0, not Infinity",
    f'{MINIMAL}require = ["macs<=1", "macs<=0.5"]': "models[0].require: macs<=0.5: macs<=1 is required alrea",
    f'{MINIMAL}require = ["agreement>=98"]': "models[0].require: agreement>=98: expected a fraction in (0, 1",
    MINIMAL.replace("folded", "absent"): "models[0].model: absent.onnx: no such file",
    f'{MINIMAL}calibration = "absent.npz"': "models[0].calibration: absent.npz: no such file or folder",
    f'{MINIMAL}preprocess = "imagenet"': "models[0].preprocess: preprocess says how images are read: name "
    "their folder with calibration",
    f'{MINIMAL}preprocess = "imgnet"\ncalibration = "."': "models[0].preprocess: preprocess imgnet: no such",
    MINIMAL.replace("out.onnx", "a/b.onnx"): "models[0].out: a/b.onnx: the folder a does not exist",
    MINIMAL.replace("out.onnx", "folded.onnx"): "models[0].out: folded.onnx: is the input folded.onnx",
    f'{MINIMAL}[[models]]\nmodel = "scores.onnx"\nout = "folded.onnx"': "models[1].out: folded.onnx: is the",
    f'{MINIMAL}calibration = "inputs.npy"\nreport = "inputs.npy"': "models[0].report: inputs.npy: is the inp",
    '[defaults]\nout = "o"\n[[models]]\nmodel = "folded.onnx"\n[[models]]\nmodel = "scores.onnx"': (
        "defaults.out: o: is to be written for folded.onnx and scores.onnx; give each a file of its own"
    ),
    MINIMAL.replace("folded.onnx", "."): "models[0].model: .: is a folder; name a model file in it",
    MINIMAL * 2: "models[1].out: out.onnx: is written by recipe.toml: models[0].out too; name another",
    MINIMAL + MINIMAL.replace("out.onnx", "link.onnx"): "models[1].out: link.onnx: is written by recipe.toml",
    f'{MINIMAL}report = "out.onnx"': "models[0].report: out.onnx: is written by recipe.toml: models[0].out t",
    f'{MINIMAL}report = "out.onnx.data"': "models[0].report: out.onnx.data: is written by recipe.toml: model",
    f"{MINIMAL}budget.agreement = 0.9": "models[0]: budget.agreement: a quality is measured on inputs: give "
    "calibration",
    f"{MINIMAL}budget.metric = 0.9": "models[0]: budget.metric needs metric ",
    f'{MINIMAL}only = ["bottleneck"]': "models[0]: only bottleneck needs a budget (budget.macs=0.7) or fixed "
    "ranks (set.bottleneck.rank_in=16)",
}  # fmt: skip
"""Recipes whose form is right, and which can't be done."""


@pytest.mark.parametrize(
    ("text", "says"),
    [*((MINIMAL + line, f"models[0].{says}") for line, says in KEYS.items()), *FORMS.items()],
)
def test_what_is_no_recipe(text: str, says: str) -> None:
    with pytest.raises(InputError, match=f"^recipe.toml: {re.escape(says)}"):
        recipe.read(written(text))
    assert not VALIDATOR.is_valid(files.read_toml(Path("recipe.toml")))


@pytest.mark.parametrize(("text", "says"), MEANINGS.items())
def test_what_can_not_be_done(text: str, says: str) -> None:
    """Exit code 2, one line that names file and key, and nothing is begun."""
    written(text)
    Path("link.onnx").symlink_to("out.onnx")
    before = sorted(Path().iterdir())
    for command in (("run",), ("batch",), ("run", "--dry-run")):
        cli(*command, "recipe.toml").refused(f"graphopt: recipe.toml: {says}")
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[[models]]\nmodel = \n", "no valid TOML: Invalid value (at line 2, column 9)"),
        (b"a = 1\na = 2\n", "no valid TOML: Cannot overwrite a value (at line 2, column 6)"),
        (b"a = '\xff'", "no valid TOML: no UTF-8 text (at byte 5)"),
        (b"a = " + b"[" * 5000 + b"]" * 5000, "no valid TOML: maximum recursion depth exceeded"),
    ],
)
def test_what_is_no_toml(content: bytes, says: str) -> None:
    Path("recipe.toml").write_bytes(content)
    cli("run", "recipe.toml").refused(f"graphopt: recipe.toml: {says}\n")


def test_a_recipe_that_is_not_there() -> None:
    cli("run", "absent.toml").refused("graphopt: absent.toml: no such file\n")
    assert cli("run").code == 2


# ---------------------------------------------------------------- the schema


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(recipe.schema())


@pytest.mark.parametrize("text", [EVERYTHING, MINIMAL, *MEANINGS])
def test_the_schema_takes_what_has_the_form_of_a_recipe(text: str) -> None:
    document = files.read_toml(written(text.replace("nan", "1").replace("inf", "1")))  # JSON has neither
    assert [error.message for error in VALIDATOR.iter_errors(document)] == []


def test_the_schema_describes_every_key() -> None:
    schema = recipe.schema()
    assert set(schema["$defs"]) == set(recipe.KEYS)
    assert all(part["description"] for part in schema["$defs"].values())


def test_the_published_schema_is_the_programs() -> None:
    """After a change: graphopt run --schema > docs/recipe.schema.json."""
    printed = cli("run", "--schema").fine()
    assert json.loads(printed.out) == recipe.schema()
    assert (ROOT / "docs" / "recipe.schema.json").read_text(encoding="utf-8") == printed.out


TEXTS = ["", "time", "latency", "auto", "4G", "x:y", "macs<=0.5", "macs>=0.5", "nothing"]
VALUES = st.one_of(
    st.booleans(),
    st.integers(-2, 3),
    st.sampled_from([0.5, 1.0, 1.5, -0.5, 0.0]),
    st.sampled_from(TEXTS),
    st.lists(st.sampled_from([*TEXTS, "collapse", -1, 1, 1.5, True]), max_size=2),
    st.dictionaries(st.sampled_from(["macs", "sqnr", "x"]), st.sampled_from([0.5, 2, -1, "a"]), max_size=2),
    st.dictionaries(st.just("collapse"), st.dictionaries(st.just("a"), st.just(1), max_size=1), max_size=1),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*recipe.KEYS, "nothing"]), VALUES, st.booleans())
def test_the_schema_and_the_program_agree(key: str, value: Any, by_default: bool) -> None:
    """Whatever is said of a key, the checks of its form and the schema take both or neither."""
    model = {"model": "folded.onnx", "out": "out.onnx"}
    document: dict[str, Any] = {"defaults": {}, "models": [model]}
    (document["defaults"] if by_default else model)[key] = value
    try:
        recipe.RECIPE.read(document, "recipe.toml: ")
        taken = True
    except InputError as error:
        taken = any(text in str(error) for text in ("no rewrite is called", "has no option", "once"))
    assert VALIDATOR.is_valid(document) is taken, document


@pytest.mark.parametrize("key", gates.KEYS)
@pytest.mark.parametrize("sign", ["<=", ">=", "<", "="])
@pytest.mark.parametrize("limit", ["0.5", " 1e-1 ", "x", ""])
def test_the_schema_knows_gates(key: str, sign: str, limit: str) -> None:
    text = f"{key}{sign}{limit}"
    try:
        gates.parse([text])
        fits = True
    except InputError:
        fits = False
    document = {"models": [{"model": "a", "out": "b", "require": [text]}]}
    assert VALIDATOR.is_valid(document) is fits


# ---------------------------------------------------------------- running one

RECIPE = """
[defaults]
out = "small-{stem}.onnx"

[[models]]
model = "folded.onnx"
report = "{stem}.json"

[[models]]
model = "scores.onnx"
calibration = "inputs.npy"
budget = { macs = 0.6 }
require = ["macs<=0.6"]
"""


def test_a_recipe_does_what_optimize_does() -> None:
    written(RECIPE)
    done = cli("run", "recipe.toml").fine()
    assert all(len(line) <= 80 for line in done.out.splitlines())
    budget = ("--calibration", "inputs.npy", "--budget", "macs=0.6", "--require", "macs<=0.6")
    assert cli("optimize", "folded.onnx", "-o", "a.onnx", "--report", "a.json").code == 0
    assert cli("optimize", "scores.onnx", "-o", "b.onnx", *budget).code == 0
    assert Path("a.onnx").read_bytes() == Path("small-folded.onnx").read_bytes()
    assert Path("b.onnx").read_bytes() == Path("small-scores.onnx").read_bytes()
    found, expected = (json.loads(Path(name).read_text("utf-8")) for name in ("folded.json", "a.json"))
    assert {**found, "seconds": 0} == {**expected, "seconds": 0}


def test_paths_are_those_of_the_recipes_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measure's module included, also where the current folder has one of that name."""
    written(RECIPE + 'metric = "measured_here:size"\n')
    Path("measured_here.py").write_text("def size(path): return 7.0\n", encoding="utf-8")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    Path("measured_here.py").write_text("raise RuntimeError\n", encoding="utf-8")
    done = cli("run", "../recipe.toml", "--json").fine()
    document = json.loads(done.out)
    assert document["models"][1]["report"]["metric"]["after"] == 7.0
    assert document["models"][1]["out"] == "../small-scores.onnx"
    assert sorted(path.name for path in elsewhere.iterdir() if path.suffix != "") == ["measured_here.py"]
    assert onnx.load(tmp_path / "small-folded.onnx").graph.node[0].op_type == "Conv"


def test_what_the_models_refuse_is_told_in_the_words_of_the_recipe() -> None:
    written(f'{MINIMAL}outputs = ["q"]')
    done = cli("run", "recipe.toml")
    assert done.code == 2 and "folded.onnx: outputs q: the model's outputs are " in done.out


@pytest.mark.parametrize(
    ("options", "said", "flags", "told"),
    [
        (
            *({"require": ["sqnr>=20"]}, 'require = ["sqnr>=20"]', "--require sqnr>=20"),
            "{require='sqnr>=20'|require sqnr>=20|--require sqnr>=20}: a quality is measured on inputs: "
            "give {calibration=…|calibration|--calibration}",
        ),
        (
            *({"budget": {"sqnr": 20}}, "budget = { sqnr = 20 }", "--budget sqnr=20"),
            "{budget={'sqnr': …}|budget.sqnr|--budget sqnr}: a quality is measured on inputs: "
            "give {calibration=…|calibration|--calibration}",
        ),
        (
            *({"only": ["bottleneck"]}, 'only = ["bottleneck"]', "--only bottleneck"),
            "{only='bottleneck'|only bottleneck|--only bottleneck} needs a budget "
            "({budget={'macs': 0.7}|budget.macs=0.7|--budget macs=0.7}) or fixed ranks "
            "({options={'bottleneck.rank_in': 16}|set.bottleneck.rank_in=16|--set bottleneck.rank_in=16})",
        ),
        (
            {"only": ["insert_pointwise"], "budget": {"macs": 0.7}},
            'only = ["insert_pointwise"]\nbudget = { macs = 0.7 }',
            "--only insert_pointwise --budget macs=0.7",
            "insert_pointwise makes the model dearer: it keeps no {budget=…|budget|--budget}",
        ),
        (
            # a name that looks like an option stays what it is
            *({"outputs": ["--shape"]}, 'outputs = ["--shape"]', "--output --shape"),
            "{outputs='--shape'|outputs --shape|--output --shape}: the model's outputs are y",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_mistake_is_told_in_the_words_of_who_made_it(
    options: dict[str, Any], said: str, flags: str, told: str
) -> None:
    """``{in Python|in a recipe|on the command line}``"""
    words = re.compile(r"\{([^|]*)\|([^|]*)\|([^|]*?)\}(?=[ :)]|$)")
    python, key, flag = (words.sub(rf"\{place}", told) for place in (1, 2, 3))
    with pytest.raises(InputError) as error:
        graphopt.optimize("folded.onnx", **options)
    assert str(error.value) == python
    written(f"{MINIMAL}{said}")
    done = cli("run", "recipe.toml")
    assert done.code == 2 and key in " ".join((done.out + done.err).split())
    done = cli("optimize", "folded.onnx", "--dry-run", *flags.split())
    assert (done.code, done.err.splitlines()[-1]) == (2, f"graphopt: {flag}")


def test_a_dry_run_writes_no_model() -> None:
    written(RECIPE)
    done = cli("run", "recipe.toml", "--dry-run").fine()
    assert "written" not in done.out
    assert Path("folded.json").exists()
    assert not list(Path().glob("small-*"))
