"""Where the operators of a small graph are drawn: layers from top to bottom (Sugiyama 1981), in pixels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

BOX = (144, 40)
"""Width and height of an operator."""
GAP = (18, 30)
"""Room between two operators of a layer, and between two layers."""
SWEEPS = 4
"""How often each layer is put in the order of its neighbours."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A drawing.

    Attributes:
        width: of the whole.
        height: of the whole.
        boxes: left upper corner of each operator.
        paths: of the edges, as SVG path data.
    """

    width: int
    height: int
    boxes: tuple[tuple[int, int], ...]
    paths: tuple[str, ...]


def layout(count: int, edges: Sequence[tuple[int, int]]) -> Layout:
    """Places operators so that each stands below those that it reads.

    Args:
        count: number of operators.
        edges: (producer, consumer), free of cycles.
    """
    depth = _depths(count, edges)
    levels: list[list[int]] = [[] for _ in range(max(depth, default=0) + 1)]
    for item in range(count):
        levels[depth[item]].append(item)
    chains = []  # of each edge: its ends, and a place that it passes through on each layer between
    size = count
    for source, target in edges:
        chain = [source]
        for level in range(depth[source] + 1, depth[target]):
            levels[level].append(size)
            chain.append(size)
            size += 1
        chains.append([*chain, target])
    _order(levels, chains, size)
    across = _across(levels, chains, size, count)
    width = max((across[i] for i in range(size)), default=0) + BOX[0]
    down = [level * (BOX[1] + GAP[1]) for level in range(len(levels))]
    level_of = {item: number for number, level in enumerate(levels) for item in level}
    paths = tuple(_path([(across[i] + BOX[0] // 2, down[level_of[i]]) for i in chain]) for chain in chains)
    boxes = tuple((across[i], down[depth[i]]) for i in range(count))
    return Layout(width, down[-1] + BOX[1] if count else 0, boxes, paths)


def _depths(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The layer of each: below all that it reads, and not higher than what reads it needs."""
    depth = [0] * count
    for _ in range(count):
        for source, target in edges:
            depth[target] = max(depth[target], depth[source] + 1)
    fed = {target for _, target in edges}
    for item in range(count):
        readers = [depth[target] for source, target in edges if source == item]
        if item not in fed and readers:
            depth[item] = min(readers) - 1
    return depth


def _order(levels: Sequence[list[int]], chains: Sequence[Sequence[int]], size: int) -> None:
    """Puts each layer in the order of its neighbours' middle, down and up in turn."""
    above: list[list[int]] = [[] for _ in range(size)]
    below: list[list[int]] = [[] for _ in range(size)]
    for chain in chains:
        for first, second in itertools.pairwise(chain):
            below[first].append(second)
            above[second].append(first)
    for sweep in range(SWEEPS):
        near, walk = (above, levels[1:]) if sweep % 2 == 0 else (below, levels[-2::-1])
        for level in walk:
            place = {item: i for row in levels for i, item in enumerate(row)}
            middle = {
                item: sum(place[n] for n in near[item]) / len(near[item]) if near[item] else place[item]
                for item in level
            }
            level.sort(key=lambda item: middle[item])


def _across(
    levels: Sequence[Sequence[int]], chains: Sequence[Sequence[int]], size: int, count: int
) -> list[int]:
    """Left edges: layers are centred; a passing edge takes less room than an operator."""
    room = [BOX[0] if item < count else BOX[0] // 3 for item in range(size)]
    widths = [sum(room[i] for i in level) + GAP[0] * (len(level) - 1) for level in levels]
    left = [0] * size
    for level, width in zip(levels, widths, strict=True):
        at = (max(widths) - width) // 2
        for item in level:
            left[item] = at - (BOX[0] - room[item]) // 2
            at += room[item] + GAP[0]
    shift = -min(left, default=0)
    return [x + max(shift, 0) for x in left]


def _path(points: Sequence[tuple[int, int]]) -> str:
    """From below the first point's operator to above the last one's, through those between."""
    (x, y), *rest = points
    y += BOX[1]
    text = f"M{x} {y}"
    for number, (next_x, top) in enumerate(rest):
        last = number == len(rest) - 1
        middle = (y + top) // 2
        text += f"C{x} {middle} {next_x} {middle} {next_x} {top - (4 if last else 0)}"
        if not last:
            text += f"V{top + BOX[1]}"
        x, y = next_x, top + BOX[1]
    return text
