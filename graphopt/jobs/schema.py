"""What a TOML file may hold: kinds of values, each of which checks one and describes itself as JSON schema.

So a check and the schema that is published can't say different things.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from graphopt.errors import InputError, hint
from graphopt.files import is_number

SHOWN = 80
"""Characters of a wrong value that a message tells."""


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
    cut = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"
    return InputError(f"{where}: expected {wanted}, not {cut}")


def _parsed(parse: Callable[[Any], Any], value: object, where: str) -> Any:
    """What a function makes of a value; its errors name the key in place of the option."""
    try:
        return parse(value)
    except InputError as error:
        raise InputError(f"{where}: {error.worded(lambda option: option.said)}") from error


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
        under: what it is smaller than.
        least: the smallest that it may be.
        most: the largest.
        whole: whether it has no fraction.
    """

    over: float | None = None
    under: float | None = None
    least: int | None = None
    most: float | None = None
    whole: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema."""
        bounds = {
            "exclusiveMinimum": self.over,
            "exclusiveMaximum": self.under,
            "minimum": self.least,
            "maximum": self.most,
        }
        limits = {name: bound for name, bound in bounds.items() if bound is not None}
        return {"type": "integer" if self.whole else "number", **limits}

    def read(self, value: object, where: str) -> float:
        """The number."""
        if not is_number(value) or not self._within(value):
            raise _refuse(where, self._wanted(), value)
        return int(value) if self.whole else value

    def _within(self, value: float) -> bool:
        return (
            (self.over is None or value > self.over)
            and (self.under is None or value < self.under)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (not self.whole or value == int(value))
        )

    def _wanted(self) -> str:
        bounds = (
            (self.over, "over"),
            (self.least, "of at least"),
            (self.under, "under"),
            (self.most, "at most"),
        )
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
