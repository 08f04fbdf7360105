"""What the pages share: how much they show, and how things are written on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from graphopt.conv import Linear
from graphopt.model import Source
from graphopt.report.text import kind

Facts: TypeAlias = dict[str, Any]

MOST_ROWS = 2000
"""Rows of a table."""


def limited(items: Sequence[Any], most: int) -> tuple[Sequence[Any], int]:
    """The first of some, and how many are left out."""
    return items[:most], max(len(items) - most, 0)


def percent(part: float | None, digits: int = 1) -> str:
    """A part of the whole: 48.9%."""
    return "–" if part is None else f"{part:.{digits}%}"


def small(value: float | None) -> str:
    """An error or a difference: 3.4e-07."""
    return "–" if value is None or not math.isfinite(value) else "0" if value == 0 else f"{value:.2g}"


def name(source: Source) -> str:
    """The file's name."""
    return "model in memory" if source.path is None else source.path.name


def model(source: Source) -> Facts:
    """What the head of a page says of the input."""
    return {
        "name": name(source),
        "sha256": source.sha256,
        "bytes": source.bytes,
        "opset": source.model.opset_imports.get(""),
    }


def linear(layer: Linear) -> str:
    """Kernel and channels of a layer: 3x3/2 64→128."""
    return f"{kind(layer)} {layer.in_channels or '?'}→{layer.out_channels or '?'}"


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
