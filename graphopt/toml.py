"""TOML files: what they hold, or one line that says where one is not valid."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, TypeGuard

from graphopt.errors import InputError
from graphopt.files import reason, show

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        InputError: it can't be read, or is no valid TOML; the message then names line and column.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")  # as some editors write it, with a mark in front
        return tomllib.loads(text)
    except OSError as error:
        raise InputError(f"{show(path)}: can't be read: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{show(path)}: no valid TOML: no UTF-8 text (at byte {error.start})") from error
    except (ValueError, RecursionError) as error:  # RecursionError: brackets within brackets
        raise InputError(f"{show(path)}: no valid TOML: {reason(error)}") from error


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number that a float can hold, neither infinite nor true or false."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # whole numbers have no limit
        return False
