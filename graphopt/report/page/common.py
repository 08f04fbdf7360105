"""What the pages share: how much they show, and what they say of options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Facts: TypeAlias = dict[str, Any]

MOST_ROWS = 2000
"""Rows of a table."""


def limited(items: Sequence[Any], most: int) -> tuple[Sequence[Any], int]:
    """The first of some, and how many are left out."""
    return items[:most], max(len(items) - most, 0)


def options(options: Mapping[str, object]) -> dict[str, str]:
    """The options of a run by name, those that are set."""
    found: dict[str, str] = {}
    for name, value in options.items():
        if name == "rewrites" and isinstance(value, Mapping):
            found[name] = ", ".join(_rewrite(str(key), given) for key, given in value.items())
        elif isinstance(value, Mapping):
            found[name] = ", ".join(f"{key}={_plain(item)}" for key, item in value.items())
        else:
            found[name] = _plain(value)
    return {name: text for name, text in found.items() if text}


def _rewrite(name: str, options: Mapping[str, object]) -> str:
    given = ", ".join(f"{key}={value}" for key, value in options.items() if value is not None)
    return f"{name} ({given})" if given else name


def _plain(value: object) -> str:
    if value is None or value is False:
        return ""
    if isinstance(value, (list, tuple)):
        return (
            "×".join(map(str, value))
            if all(isinstance(v, int) for v in value)
            else ", ".join(map(str, value))
        )
    return "yes" if value is True else str(value)
