"""Recipes: the work on one or many models as a TOML file.

    [defaults]                          # for every model that does not say otherwise
    calibration = "inputs.npz"
    budget = { macs = 0.7 }
    out = "smaller/{stem}.onnx"         # {stem}: the name of the model's file without .onnx

    [[models]]
    model = "classifier.onnx"
    require = ["agreement>=0.98"]

Paths are relative to the recipe's folder. The keys stand in one table, `KEYS`, of which both the checks and
the JSON schema are made (`schema`), so that an editor and ``graphopt run`` accept the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphopt import files
from graphopt.calibration.sources.own import is_function
from graphopt.errors import InputError
from graphopt.files import show
from graphopt.jobs.schema import Flag, Kind, List, Mapped, Number, OneOf, Table, Text
from graphopt.jobs.task import WRITTEN, Task, parse_size
from graphopt.measures.registry import all_figures
from graphopt.measures.tasks import NAMES as READY
from graphopt.pipeline.options.table import TABLE
from graphopt.planning import NONE, gates
from graphopt.report.faces import FACES

STEM = "{stem}"
"""What stands for the name of the model's file, without its suffix, in the names of files to write."""


# ---------------------------------------------------------------- what graphopt makes of values


def _select(**asked: Any) -> None:
    from graphopt.rewrites import registry

    registry.select(registry.registry(), **asked)


def _options(tables: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Options of rewrites as ``--set`` has them, so that their types are checked alike."""
    found = {f"{rewrite}.{key}": str(v) for rewrite, each in tables.items() for key, v in each.items()}
    _select(options=found)
    return found


def _measure(name: str) -> str:
    from graphopt.verification.metrics.task import named

    return named(name).name


def _gates(given: Sequence[str]) -> tuple[gates.Gate, ...]:
    return gates.parse(given, FIGURES)


# ---------------------------------------------------------------- the keys

FILE = Text("a file name")
MADE = Text(f"a file name without braces but those of {STEM}", pattern=r"^([^{}]|\{stem\})+$", checked=True)
TEXTS = "a list of texts"
NAMES = List(Text(), TEXTS)
FRACTION = Number(over=0, most=1)
"""A part of what the input costs."""
LIMITS = {"sqnr": Number(over=0), "metric": Number()}
"""What budget keys may be that are no fractions."""
FIGURES = all_figures()
"""What ready measures tell, by key."""
BUDGET = Table(
    {
        **{
            key: (
                LIMITS.get(key, FRACTION),
                "at most this part of the input's" if key in gates.COSTS else "at least this",
            )
            for key in gates.KEYS
        },
        **{
            key: (
                Number(over=0) if figure.unit else Number(least=0, most=1),
                f"{'at most' if figure.falling else 'at least'} this: {figure.what}",
            )
            for key, figure in FIGURES.items()
        },
    }
)
"""What a budget may ask for; a measure that tells a figure has to be named with it."""
SIGNS = {key: gates.sign(key, FIGURES.get(key)) for key in (*gates.KEYS, *FIGURES)}
GATES = "|".join(rf"{key}\s*{sign}" for key, sign in SIGNS.items())
GATE = rf"^\s*({GATES})\s*[0-9.eE+-]+\s*$"
OPTION = OneOf((Flag(), Number(), Text()), "a number, a text, true or false")

KINDS: Mapping[str, Kind] = {
    "model": FILE,
    "out": MADE,
    "calibration": Text("a file name, or module:function"),
    "preprocess": Text(),
    "budget": BUDGET,
    "require": List(
        Text('a gate such as "macs<=0.8"', pattern=GATE),
        "a list of gates",
        parse=_gates,
    ),
    "only": List(Text(), TEXTS, parse=lambda names: _select(only=names)),
    "skip": List(Text(), TEXTS, parse=lambda names: _select(skip=names)),
    "at": NAMES,
    "keep": NAMES,
    "outputs": NAMES,
    "options": Mapped(Mapped(OPTION, "a table of options"), "a table of rewrites", _options),
    "shapes": Mapped(List(Number(least=1, whole=True), "a list of sizes", 1), "a table of inputs"),
    "sample_axis": Mapped(
        OneOf(
            (Number(least=0, whole=True), Text(choices=("constant",))), 'the number of an axis, or "constant"'
        ),
        "a table of inputs",
    ),
    "aim": Text(choices=TABLE["aim"].choices),
    "gate": Text(choices=("latency",)),
    "force": Flag(),
    "tune": OneOf((Number(over=0), Text()), "minutes, auto, or steps=N"),
    "floor": Text("a quality and its limit such as agreement=0.8, or off"),
    "freeze_initializers": Flag(),
    "external_data": Text(choices=TABLE["external_data"].choices),
    "metric": Text("a measure", pattern=f"^(({'|'.join(READY)})(:.*)?|[^:]+:.+)$", parse=_measure),
    "confidence": OneOf((Number(least=0, under=1), Text(choices=(NONE,))), 'a part under 1, or "none"'),
    "memory": Text(
        "a size such as 4G", pattern=r"^[0-9]+(\.[0-9]+)?[kKmMgGtT]?[iI]?[bB]?$", parse=parse_size
    ),
    "seed": Number(least=0, whole=True),
    **dict.fromkeys(FACES, MADE),
}
"""What a recipe's options may hold, by their names in `TABLE`."""
STEMS = f"; {STEM} stands for the name of the model's file without its suffix"
KEYS: Mapping[str, tuple[Kind, str]] = {
    TABLE[name].key or name: (
        kind,
        TABLE[name].help + (STEMS if name == "out" else f"; with {STEM}, as for out" if kind is MADE else ""),
    )
    for name, kind in KINDS.items()
}
"""What can be said of a model, under the names that the command line and `graphopt.optimize` use."""
MEANT = {
    "output": "out is the file to write, outputs are the model's outputs that count",
    "shape": "did you mean shapes?",
}
MODEL = Table(KEYS, ("model",), MEANT, refer=True)
DEFAULTS = Table({key: item for key, item in KEYS.items() if key != "model"}, (), MEANT, refer=True)
RECIPE = Table(
    {
        "defaults": (DEFAULTS, "what holds for every model that does not say otherwise"),
        "models": (List(MODEL, "at least one [[models]]", 1), "the models, a [[models]] each"),
    },
    ("models",),
)
"""What a recipe holds: defaults, and models."""

READ = ("model", "calibration")
"""Keys of files that are read."""


def schema() -> dict[str, Any]:
    """The JSON schema of recipes."""
    out_of_all = {"properties": {"models": {"items": {"required": ["out"]}}}}
    out_by_default = {"required": ["defaults"], "properties": {"defaults": {"required": ["out"]}}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "graphopt recipe",
        "description": "What graphopt run does with one or many models.",
        **RECIPE.schema,
        "anyOf": [out_by_default, out_of_all],
        "$defs": MODEL.described(),
    }


# ---------------------------------------------------------------- reading


def read(path: Path) -> list[Task]:
    """The tasks of a recipe, one a model, in its order.

    Raises:
        InputError: the file can't be read, is no valid TOML, or a key is unknown, missing or has a value that
            it can't have; the message names file and key.
    """
    values = RECIPE.read(files.read_toml(path), f"{show(path)}: ")
    defaults = values.get("defaults", {})
    return [_task(path, number, defaults, own) for number, own in enumerate(values["models"])]


def _task(path: Path, number: int, defaults: Mapping[str, Any], own: Mapping[str, Any]) -> Task:
    """The task of one model."""
    here = f"{show(path)}: models[{number}]"
    values = {**defaults, **own}
    said = {key: f"{here}.{key}" if key in own else f"{show(path)}: defaults.{key}" for key in values}
    if "out" not in values:
        raise InputError(f"{here}.out: is missing: {KEYS['out'][1]}")
    folder, stem = path.parent, Path(values["model"]).stem
    for key in WRITTEN:
        if key in values:
            values[key] = folder / values[key].replace(STEM, stem)
    for key in READ:
        if key in values and not (key == "calibration" and is_function(values[key], folder)):
            values[key] = folder / values[key]
    if "calibration" in values:
        values["calibration"] = Path(values["calibration"])
    if "preprocess" in values:
        values["preprocess"] = _preprocess(folder, values["preprocess"])
    if "set" in values:
        values["options"] = values.pop("set")
    return Task(**values, folder=folder, recipe=path, said={**said, "": here})


def _preprocess(folder: Path, given: str) -> str:
    """The name of a preset, or the path of a file."""
    from graphopt.calibration.preprocessing import PRESETS

    return given if given in PRESETS else str(folder / given)
