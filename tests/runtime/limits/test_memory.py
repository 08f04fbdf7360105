"""Groups of items that fit into memory together."""

from __future__ import annotations

import pytest

from graphopt.runtime.limits.memory import chunks


@pytest.mark.parametrize(
    ("sizes", "most", "groups"),
    [
        ([], None, []),
        ([3, 3, 3, 3, 1], None, [[3, 3, 3], [3, 1]]),
        ([11, 1, 12, 9, 1], None, [[11], [1], [12], [9, 1]]),
        ([1, 1, 1, 10, 1], 2, [[1, 1], [1], [10], [1]]),
    ],
)
def test_as_many_as_fit_together(sizes: list[int], most: int | None, groups: list[list[int]]) -> None:
    assert list(chunks(iter(sizes), lambda size: size, 10, most)) == groups
