"""Memory: how much to take, how a size is written, and things in groups that fit into it together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
"""Bytes of each unit."""


def default_bytes() -> int:
    """A quarter of the machine's memory."""
    try:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) // 4
    except (AttributeError, OSError, ValueError):
        return 2 << 30


def parse_bytes(text: str) -> int:
    """Bytes of a size such as 4G or 512M.

    Raises:
        ValueError: it is none.
    """
    number, unit = text.lower().rstrip("ib"), ""
    if number and number[-1] in UNITS:
        number, unit = number[:-1], number[-1]
    try:
        found = int(float(number) * UNITS[unit])
    except OverflowError:
        found = 0
    if found <= 0:
        raise ValueError(f"no size: {text}")
    return found


def chunks(
    items: Iterable[Item], size: Callable[[Item], int], limit: int, most: int | None = None
) -> Iterator[list[Item]]:
    """Items in their order, as many together as fit; one that does not fit alone is alone.

    Args:
        items: the items.
        size: what each takes, in the unit of the limit.
        limit: what those of a group may take together.
        most: how many a group may have; None for any number.

    Returns:
        Groups of at least one item each.
    """
    chunk: list[Item] = []
    taken = 0
    for item in items:
        needed = size(item)
        if chunk and (taken + needed > limit or len(chunk) == most):
            yield chunk
            chunk, taken = [], 0
        chunk.append(item)
        taken += needed
    if chunk:
        yield chunk
