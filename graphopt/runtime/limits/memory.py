"""Memory: how much to take, how a size is written, and things in groups that fit into it together."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")

CONTAINER = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says how much memory the processes of a container have."""
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
"""Bytes of each unit."""


@functools.lru_cache(maxsize=1)
def machine_bytes() -> int:
    """The memory that this process may have: the machine's, or less where a container or a limit says so."""
    found = []
    with suppress(AttributeError, OSError, ValueError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in CONTAINER:
        with suppress(OSError, ValueError):  # ValueError: "max"
            found.append(int(Path(path).read_text(encoding="ascii")))
    with suppress(ImportError):
        import resource

        limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
        found += [limit for limit in limits if limit != resource.RLIM_INFINITY]
    return min(found, default=8 << 30)


def default_bytes() -> int:
    """A quarter of the memory that there is."""
    return machine_bytes() // 4


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
