"""Options as Python passes them: each of its type in the table, or refused in Python's words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, get_origin

from graphopt.errors import InputError, Named
from graphopt.pipeline.options.table import TABLE, TEXTS
from graphopt.planning.budget import Budget

MAPPINGS = {
    "budget": "{'macs': 0.7}",
    "options": "{'bottleneck.rank_in': 16}",
    "shapes": "{'image': [1, 3, 224, 224]}",
}
"""What mappings look like."""


def typed(**given: Any) -> dict[str, Any]:
    """Values of options, checked against the types in the table.

    Args:
        given: by name; None stands for what holds where nothing is said.

    Returns:
        The values; one text stands for a list of one.

    Raises:
        InputError: one is of another type, or a number below the least.
    """
    return {name: value if value is None else _typed(name, value) for name, value in given.items()}


def _typed(name: str, value: Any) -> Any:
    option = TABLE[name]
    if option.type == TEXTS:
        return _texts(name, value)
    if get_origin(option.type) is dict:
        if name == "budget" and isinstance(value, Budget):
            return value
        if not isinstance(value, Mapping):
            raise _refused(name, value, f"a mapping, such as {MAPPINGS.get(name, MAPPINGS['shapes'])}")
        return _sizes(name, value) if name == "shapes" else value
    if option.type is Path:
        if not isinstance(value, (str, os.PathLike)):
            raise _refused(name, value, "a path")
        return Path(value)
    if option.type is bool and not isinstance(value, bool):
        raise _refused(name, value, "True or False")
    if option.type is int:
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise _refused(name, value, "a whole number")
        if option.least is not None and value < option.least:
            raise InputError(f"{Named(name, value)}: expected a whole number, at least {option.least}")
    return value


def _texts(name: str, value: Any) -> Any:
    """A list of texts; whoever takes it knows whether something else may stand in it."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Iterable) or isinstance(value, (bytes, Mapping)):
        raise _refused(name, value, "a list of texts")
    return value


def _sizes(name: str, value: Mapping[str, Any]) -> Mapping[str, Any]:
    for key, shape in value.items():
        sizes = list(shape) if isinstance(shape, Iterable) and not isinstance(shape, (str, bytes)) else [None]
        if not all(isinstance(size, Integral) and int(size) >= 0 for size in sizes):
            raise InputError(
                f"{Named(name, repr(shape), key)}: expected a list of sizes, such as [1, 3, 224, 224]"
            )
    return value


def _refused(name: str, value: Any, expected: str) -> InputError:
    return InputError(f"{Named(name)}: expected {expected}, and not {type(value).__name__}")
