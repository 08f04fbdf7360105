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

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from graphopt import gates, toml
from graphopt.core import Budget
from graphopt.errors import InputError
from graphopt.suggest import hint
from graphopt.task import WRITTEN, Task

STEM = "{stem}"
"""What stands for the name of the model's file, without its suffix, in the names of files to write."""


# ---------------------------------------------------------------- kinds of values


class Kind(Protocol):
    """What a value may be."""

    @property
    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        ...

    def read(self, value: object, where: str) -> Any:
        """The value, checked.

        Raises:
            InputError: it is none of this kind; the message begins with ``where``.
        """
        ...


def _refuse(where: str, wanted: str, value: object) -> InputError:
    kinds: dict[type, str] = {list: "a list", dict: "a table"}
    shown = kinds[type(value)] if type(value) in kinds else json.dumps(value, default=str)
    return InputError(f"{where}: expected {wanted}, not {shown}")


def _parsed(parse: Callable[[Any], Any], value: object, where: str) -> Any:
    """What a function of the command line makes of a value; its errors name the key in place of an option."""
    try:
        return parse(value)
    except InputError as error:
        raise InputError(f"{where}: {re.sub('^--[a-z-]+ ', '', str(error))}") from error


@dataclass(frozen=True)
class Text:
    """Text that is not empty.

    Attributes:
        wanted: what messages call it.
        choices: what it may be; anything where empty.
        pattern: for the schema, a regular expression that `parse` accepts what matches.
        checked: whether nothing but that pattern says what it may be.
        parse: makes a value of it, or raises an `InputError`.
    """

    wanted: str = "text"
    choices: tuple[str, ...] = ()
    pattern: str = ""
    checked: bool = False
    parse: Callable[[str], Any] | None = None

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema."""
        if self.choices:
            return {"enum": list(self.choices)}
        return {"type": "string", **({"pattern": self.pattern} if self.pattern else {"minLength": 1})}

    def read(self, value: object, where: str) -> Any:
        """The text, or what is made of it."""
        if self.choices and value not in self.choices:
            raise _refuse(where, " or ".join(json.dumps(each) for each in self.choices), value)
        if not isinstance(value, str) or not value or (self.checked and not re.match(self.pattern, value)):
            raise _refuse(where, self.wanted, value)
        return value if self.parse is None else _parsed(self.parse, value, where)


@dataclass(frozen=True)
class Flag:
    """True or false."""

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema."""
        return {"type": "boolean"}

    def read(self, value: object, where: str) -> bool:
        """The flag."""
        if not isinstance(value, bool):
            raise _refuse(where, "true or false", value)
        return value


@dataclass(frozen=True)
class Number:
    """A number.

    Attributes:
        over: what it is larger than.
        least: the smallest that it may be.
        most: the largest.
        whole: whether it has no fraction.
    """

    over: float | None = None
    least: int | None = None
    most: float | None = None
    whole: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema."""
        bounds = {"exclusiveMinimum": self.over, "minimum": self.least, "maximum": self.most}
        limits = {name: bound for name, bound in bounds.items() if bound is not None}
        return {"type": "integer" if self.whole else "number", **limits}

    def read(self, value: object, where: str) -> float:
        """The number."""
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not (fits and self._within(value)):  # type: ignore[arg-type]
            raise _refuse(where, self._wanted(), value)
        return int(value) if self.whole else value  # type: ignore[call-overload, return-value]

    def _within(self, value: float) -> bool:
        return (
            (self.over is None or value > self.over)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (not self.whole or value == int(value))
        )

    def _wanted(self) -> str:
        over, least, most = self.over, self.least, self.most
        bounds = ((over, "over"), (least, "of at least"), (most, "at most"))
        limits = " and ".join(f"{name} {bound:g}" for bound, name in bounds if bound is not None)
        return f"a {'whole ' if self.whole else ''}number{' ' if limits else ''}{limits}"


@dataclass(frozen=True)
class List:
    """A list of values of one kind.

    Attributes:
        items: the kind.
        wanted: what messages call the list.
        least: how many there are at least.
        parse: checks all of them together.
    """

    items: Kind
    wanted: str = "a list"
    least: int = 0
    parse: Callable[[Any], Any] | None = None

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema."""
        least = {"minItems": self.least} if self.least else {}
        return {"type": "array", "items": self.items.schema, **least}

    def read(self, value: object, where: str) -> tuple[Any, ...]:
        """The values."""
        if not isinstance(value, list) or len(value) < self.least:
            raise _refuse(where, self.wanted, value)
        items = tuple(self.items.read(item, f"{where}[{number}]") for number, item in enumerate(value))
        if self.parse is not None:
            _parsed(self.parse, items, where)
        return items


@dataclass(frozen=True)
class Mapped:
    """A table with keys of the user's own and values of one kind.

    Attributes:
        values: the kind.
        wanted: what messages call the table.
        parse: makes a value of all of them together.
    """

    values: Kind
    wanted: str
    parse: Callable[[Any], Any] | None = None

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema."""
        return {"type": "object", "additionalProperties": self.values.schema}

    def read(self, value: object, where: str) -> Any:
        """The values by key, or what is made of them."""
        if not isinstance(value, dict):
            raise _refuse(where, self.wanted, value)
        values = {key: self.values.read(item, _below(where, key)) for key, item in value.items()}
        return values if self.parse is None else _parsed(self.parse, values, where)


@dataclass(frozen=True)
class OneOf:
    """A value of the first kind that it fits."""

    kinds: tuple[Kind, ...]
    wanted: str

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema."""
        return {"anyOf": [kind.schema for kind in self.kinds]}

    def read(self, value: object, where: str) -> Any:
        """The value."""
        for kind in self.kinds:
            try:
                return kind.read(value, where)
            except InputError:
                continue
        raise _refuse(where, self.wanted, value)


@dataclass(frozen=True)
class Table:
    """A table with keys that are known.

    Attributes:
        keys: what stands in it, with what is said of each key.
        required: those that have to be there.
        meant: what somebody may have meant by a key that there is not.
        refer: whether the schema refers to definitions of the keys, which other tables share.
    """

    keys: Mapping[str, tuple[Kind, str]]
    required: tuple[str, ...] = ()
    meant: Mapping[str, str] = field(default_factory=dict)
    refer: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema."""
        keys = {k: {"$ref": f"#/$defs/{k}"} for k in self.keys} if self.refer else self.described()
        required = {"required": list(self.required)} if self.required else {}
        return {"type": "object", "properties": keys, **required, "additionalProperties": False}

    def described(self) -> dict[str, dict[str, Any]]:
        """The schema of each key."""
        return {key: {"description": text, **kind.schema} for key, (kind, text) in self.keys.items()}

    def read(self, value: object, where: str) -> dict[str, Any]:
        """The values by key."""
        if not isinstance(value, dict):
            raise _refuse(where, "a table", value)
        for key in value:
            if key not in self.keys:
                meant = self.meant.get(key) or hint(key, self.keys)
                raise InputError(f"{_below(where, key)}: no such key; {meant}")
        for key in self.required:
            if key not in value:
                raise InputError(f"{_below(where, key)}: is missing: {self.keys[key][1]}")
        return {key: self.keys[key][0].read(item, _below(where, key)) for key, item in value.items()}


def _below(where: str, key: str) -> str:
    """Where a key of a table stands; quoted as TOML has it where it is not plain."""
    shown = key if re.fullmatch(r"[\w-]+", key, re.ASCII) else json.dumps(key)
    return f"{where}{shown}" if where.endswith(": ") else f"{where}.{shown}"


# ---------------------------------------------------------------- what graphopt makes of values


def _select(**asked: Any) -> None:
    from graphopt import rewrites

    rewrites.select(rewrites.registry(), **asked)


def _options(tables: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Options of rewrites as ``--set`` has them, so that their types are checked alike."""
    found = {f"{rewrite}.{key}": str(v) for rewrite, each in tables.items() for key, v in each.items()}
    _select(options=found)
    return found


def _size(text: str) -> int:
    from graphopt.store import parse_bytes

    try:
        return parse_bytes(text)
    except ValueError:
        raise InputError(f"{text}: expected a size such as 4G or 512M") from None


def _measure(name: str) -> str:
    from graphopt.metric import OwnMetric

    return OwnMetric(name).name


# ---------------------------------------------------------------- the keys

FILE = Text("a file name")
MADE = Text(f"a file name without braces but those of {STEM}", pattern=r"^([^{}]|\{stem\})+$", checked=True)
TEXTS = "a list of texts"
NAMES = List(Text(), TEXTS)
FRACTION = Number(over=0, most=1)
LIMITS = {"sqnr": Number(over=0), "metric": Number()}
"""What budget keys may be that are no fractions."""
BUDGET = Table(
    {
        f.name: (
            LIMITS.get(f.name, FRACTION),
            "at most this part of the input's" if f.name in gates.COSTS else "at least this",
        )
        for f in fields(Budget)
    }
)
GATES = "|".join(rf"{key}\s*{gates.sign(key)}" for key in gates.KEYS)
GATE = rf"^\s*({GATES})\s*[0-9.eE+-]+\s*$"
OPTION = OneOf((Flag(), Number(), Text()), "a number, a text, true or false")

KEYS: Mapping[str, tuple[Kind, str]] = {
    "model": (FILE, "the ONNX model"),
    "out": (MADE, f"the model to write; {STEM} stands for the name of the model's file without its suffix"),
    "calibration": (FILE, "preprocessed inputs: .npz, .npy, or a folder of them or of images"),
    "preprocess": (Text(), "how images become inputs: a preset such as imagenet, or a TOML file"),
    "budget": (BUDGET, "what the result has to reach: parts of the input's cost, or a quality"),
    "require": (
        List(Text('a gate such as "macs<=0.8"', pattern=GATE), "a list of gates", parse=gates.parse),
        "what the result has to keep, whatever it was made for, such as agreement>=0.98",
    ),
    "only": (List(Text(), TEXTS, parse=lambda names: _select(only=names)), "only these rewrites"),
    "skip": (List(Text(), TEXTS, parse=lambda names: _select(skip=names)), "not these rewrites"),
    "at": (NAMES, "rewrite only nodes whose names match one of these patterns"),
    "keep": (NAMES, "never rewrite nodes whose names match one of these patterns"),
    "outputs": (NAMES, "the model's outputs that count"),
    "set": (
        Mapped(Mapped(OPTION, "a table of options"), "a table of rewrites", _options),
        "options of rewrites, such as { bottleneck = { rank_in = 16 } }",
    ),
    "shapes": (
        Mapped(List(Number(least=1, whole=True), "a list of sizes", 1), "a table of inputs"),
        "sizes of inputs, such as { image = [1, 3, 224, 224] }",
    ),
    "aim": (
        Text(choices=("time", "macs")),
        "exact rewrites that are expected to be faster, or all that save MACs",
    ),
    "gate": (Text(choices=("latency",)), "measure each changed region, and drop what is slower"),
    "freeze_initializers": (Flag(), "whether initializers that are inputs too are constants"),
    "external_data": (Text(choices=("auto", "always", "never")), "whether weights go to OUT.data"),
    "metric": (
        Text("module:function", pattern="^[^:]+:.+$", parse=_measure),
        "your own measure, module:function: from a model's path to a number",
    ),
    "memory": (
        Text("a size such as 4G", pattern=r"^[0-9]+(\.[0-9]+)?[kKmMgGtT]?[iI]?[bB]?$", parse=_size),
        "for activations while fitting, such as 4G; more lies in files",
    ),
    "seed": (Number(least=0, whole=True), "of everything random"),
    "report": (MADE, f"where the report is written as JSON; with {STEM}, as for out"),
    "html": (MADE, f"where the report is written as a page; with {STEM}, as for out"),
    "markdown": (MADE, f"where its summary is written; with {STEM}, as for out"),
    "junit": (MADE, f"where checks and gates are written as test results; with {STEM}, as for out"),
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
    values = RECIPE.read(toml.read(path), f"{path}: ")
    defaults = values.get("defaults", {})
    return [_task(path, number, defaults, own) for number, own in enumerate(values["models"])]


def _task(path: Path, number: int, defaults: Mapping[str, Any], own: Mapping[str, Any]) -> Task:
    """The task of one model."""
    here = f"{path}: models[{number}]"
    values = {**defaults, **own}
    said = {key: f"{here}.{key}" if key in own else f"{path}: defaults.{key}" for key in values}
    if "out" not in values:
        raise InputError(f"{here}.out: is missing: {KEYS['out'][1]}")
    folder, stem = path.parent, Path(values["model"]).stem
    for key in WRITTEN:
        if key in values:
            values[key] = folder / values[key].replace(STEM, stem)
    for key in READ:
        if key in values:
            values[key] = folder / values[key]
    if "preprocess" in values:
        values["preprocess"] = _preprocess(folder, values["preprocess"])
    return Task(**values, folder=folder, recipe=path, said={**said, "": here})


def _preprocess(folder: Path, given: str) -> str:
    """The name of a preset, or the path of a file."""
    from graphopt.images import PRESETS

    return given if given in PRESETS else str(folder / given)
