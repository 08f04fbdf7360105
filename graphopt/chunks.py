"""Things in groups that fit into memory together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def chunks(
    items: Iterable[Item], size: Callable[[Item], int], limit: int, most: int | None = None
) -> Iterator[list[Item]]:
    """Items in their order, as many together as fit; one that does not fit alone is alone.

    Args:
        items: the items.
        size: what each takes, in the unit of the limit.
        limit: what those of a group may take together.
        most: how many a group may have; None for any number.
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
