"""Things that belong together, in groups (disjoint sets with path halving)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Groups(Generic[Key]):
    """Groups of things; what was never joined is alone."""

    def __init__(self) -> None:
        self._parent: dict[Key, Key] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._parent

    def _root(self, key: Key) -> Key:
        while (parent := self._parent.get(key, key)) != key:
            self._parent[key] = self._parent[parent]
            key = parent
        return key

    def join(self, *keys: Key) -> None:
        """Puts things, and what they are with already, into one group."""
        for key in keys:
            self._parent[self._root(key)] = self._root(keys[0])

    def of(self, things: Iterable[Key]) -> list[list[Key]]:
        """The groups of these things, and their members, in this order."""
        found: dict[Key, list[Key]] = {}
        for key in things:
            found.setdefault(self._root(key), []).append(key)
        return list(found.values())
