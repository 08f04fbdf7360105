"""Which outputs of a matrix depend on which inputs: its blocks, in plain NumPy.

Rows (outputs) and columns (inputs) that share a number other than zero belong together; the connected parts
of that bipartite graph are the finest blocks into which permutations can bring the matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


class Block(NamedTuple):
    """Rows that depend on these columns only, and columns that only these rows read; both ascending."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]


def components(mask: Mask) -> list[Block]:
    """The finest blocks of a matrix, by their first row; rows and columns of zeros are in none.

    Args:
        mask: [rows, columns], where the matrix has a number other than zero.
    """
    left = np.asarray(np.any(mask, axis=1))
    blocks = []
    for start in range(len(mask)):
        if not left[start]:
            continue
        rows: Mask = np.zeros(len(mask), bool)
        rows[start] = True
        columns: Mask = mask[start]
        while True:
            grown = np.asarray(np.any(mask[:, columns], axis=1))
            if np.array_equal(grown, rows):
                break
            rows, columns = grown, np.asarray(np.any(mask[grown], axis=0))
        left &= ~rows
        blocks.append(Block(tuple(np.flatnonzero(rows).tolist()), tuple(np.flatnonzero(columns).tolist())))
    return blocks


def equal_groups(mask: Mask) -> int:
    """The largest number of equal blocks along the diagonal that hold every number other than zero.

    Rows and columns of zeros may be anywhere in the blocks.
    """
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    common = math.gcd(height, width)
    divisors = [n for n in range(common, 1, -1) if common % n == 0]
    fits = (n for n in divisors if np.array_equal(rows // (height // n), columns // (width // n)))
    return next(fits, 1)


def aligned(blocks: Sequence[Block]) -> list[Block]:
    """The blocks in the order that leaves most channels in their place: by first row, or by first column."""
    by_row = sorted(blocks, key=lambda block: block.rows[0])
    by_column = sorted(blocks, key=lambda block: block.columns[0])
    return min((by_row, by_column), key=lambda order: moved(order))


def moved(blocks: Sequence[Block]) -> int:
    """How many sides, of rows and columns, the blocks leave in another order than they were in."""
    sides = ([i for b in blocks for i in b.rows], [i for b in blocks for i in b.columns])
    return sum(side != list(range(len(side))) for side in sides)
