"""The ready measures by name: ``detection``, or with options ``detection:confidence=0.3,iou=0.45``."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from graphopt.errors import InputError, Named, hint
from graphopt.measures import tasks
from graphopt.measures.base import Measure
from graphopt.measures.tasks import NAMES
from graphopt.types import Figure


def kind(name: str) -> type[Measure[Any, Any]]:
    """The measure of a name that there is."""
    found: type[Measure[Any, Any]] = importlib.import_module(f"{tasks.__name__}.{name}").MEASURE
    return found


def all_figures() -> Mapping[str, Figure]:
    """The figures of all measures, by key."""
    return {figure.key: figure for name in NAMES for figure in kind(name).FIGURES}


def is_ready(text: str) -> bool:
    """Whether a text asks for a measure of this kind, and not for a function of a module."""
    name, colon, options = text.partition(":")
    return not colon or (name in NAMES and "=" in options)


def parse(text: str, folder: Path | None = None) -> Measure[Any, Any]:
    """The measure that a text such as ``embedding:threshold=0.4`` asks for; files lie in the folder.

    Raises:
        InputError: there is no such measure, or it has no such option, or not with this value.
    """
    name, _, asked = text.partition(":")
    if name not in NAMES:
        raise InputError(
            f"{Named('metric', text)}: no such measure; there are {', '.join(NAMES)}, "
            "or package.module:function, your own"
        )
    made = kind(name)
    types = {field.name: get_type_hints(made)[field.name] for field in fields(made)}
    options: dict[str, Any] = {}
    for part in filter(None, asked.split(",")):
        key, _, value = part.partition("=")
        if key not in types:
            raise InputError(f"{Named('metric', text)}: no option {key}; {hint(key, types)}")
        if types[key] in (float, float | None):
            options[key] = _number(text, key, value)
        else:
            options[key] = (folder or Path()) / value if types[key] == Path | None else value
    try:
        return made(**options)
    except ValueError as error:
        raise InputError(f"{Named('metric', text)}: {error}") from error


def _number(text: str, key: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{Named('metric', text)}: {key}: {value!r} is no number")
    return number
