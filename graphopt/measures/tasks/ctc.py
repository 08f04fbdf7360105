"""Text that is read by CTC (Graves et al. 2006): how often it is the same text.

Decoded greedily: the best class of every step, repeats merged, blanks left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.measures.base import LayoutError, Measure, Numbers, Row, Sample, is_real, the_output
from graphopt.types import Figure

ALPHABET = "character"
"""The entry of the metadata that holds the characters, one a line, as PaddleOCR's models have it."""


@dataclass(frozen=True, slots=True)
class Steps:
    """How steps are read.

    Attributes:
        output: the output.
        blank: the number of the class that is no character.
        characters: of the classes; empty where unknown.
    """

    output: str
    blank: int
    characters: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CTC(Measure[Steps, "tuple[int | str, ...]"]):
    """Sequences of characters. An answer is their text, or the numbers of their classes without an alphabet.

    Attributes:
        blank: ``first`` or ``last`` class; where not said, that of both which wins more steps.
    """

    blank: str = ""

    FIGURES = (
        Figure("equal", "texts that are the same", counted=True),
        Figure("characters", "characters that are the same: one less the edits by the length"),
    )
    EXPECTS = "scores of characters for every step, [N, T, K] or [T, N, K], of which one is the blank"
    LABELS = "the text of each input"

    def __post_init__(self) -> None:
        if self.blank not in ("", "first", "last"):
            raise ValueError(f"blank: {self.blank!r} is neither first nor last")

    def layout(self, sample: Sample) -> Steps:
        """How steps are read."""
        name = the_output(sample, _are_steps)
        best = _best(sample.outputs[name])
        last = sample.outputs[name].shape[-1] - 1
        blank = {"first": 0, "last": last}.get(self.blank)
        if blank is None:
            blank = last if (best == last).sum() > (best == 0).sum() else 0
        characters = _characters(sample.metadata.get(ALPHABET, ""), last + 1, blank)
        if self.labels and not characters:
            raise LayoutError(
                f"with labels, the metadata have to hold the characters, one a line, as {ALPHABET!r}"
            )
        return Steps(name, blank, characters)

    def read(self, outputs: Mapping[str, Numbers], layout: Steps) -> tuple[int | str, ...]:
        """The text."""
        best = _best(outputs[layout.output])
        starts = np.concatenate([[True], best[1:] != best[:-1]]) if best.size else np.ones(0, bool)
        kept = best[starts & (best != layout.blank)].tolist()
        if not layout.characters:
            return tuple(kept)
        return tuple("".join(layout.characters[number] for number in kept))

    def compared(self, row: Row, layout: Steps) -> tuple[int, int]:
        """Edits between the texts, and the length of the right one."""
        truth = tuple(str(row.label)) if row.label is not None else row.wanted
        return edit_distance(truth, row.got), len(truth)

    def combined(self, compared: Sequence[tuple[int, int]], layout: Steps) -> dict[str, float]:
        """How often texts and characters are the same."""
        edits, length = (sum(each[side] for each in compared) for side in (0, 1))
        same = sum(not away for away, _ in compared)
        return {
            "equal": same / len(compared) if compared else np.nan,
            "characters": max(0.0, 1 - edits / length) if length else np.nan,
        }


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Insertions, deletions and replacements that make one sequence of the other (Levenshtein 1966)."""
    if a == b:
        return 0
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def _best(array: Numbers) -> Numbers:
    """The best class of each step."""
    return np.asarray(array.reshape(-1, array.shape[-1]).argmax(axis=-1))


def _characters(listed: str, classes: int, blank: int) -> tuple[str, ...]:
    """The characters by class: those listed, and a space behind them where there is a class more.

    Empty where the list does not tell the character of every class.
    """
    found = listed.split("\n") if listed else []
    if len(found) == classes - 2:
        found.append(" ")
    if len(found) != classes - 1:
        return ()
    return ("", *found) if blank == 0 else (*found, "")


def _are_steps(array: Numbers) -> bool:
    return is_real(array) and array.ndim == 3 and 1 in array.shape[:2] and array.shape[-1] >= 3


MEASURE = CTC
