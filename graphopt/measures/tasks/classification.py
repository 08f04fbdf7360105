"""Classification: how often the class is right, or is the original's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.measures.base import Measure, Numbers, Row, Sample, is_real, the_output
from graphopt.types import Figure

FEW = 5
"""Classes among which the right one is looked for: top-5, as in ImageNet (Russakovsky et al. 2015)."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Where class scores are: the output, and the number of classes."""

    output: str
    classes: int


@dataclass(frozen=True, kw_only=True)
class Classification(Measure[Scores, Numbers]):
    """The class of the highest score. An answer is the classes of the five highest scores, best first."""

    FIGURES = (
        Figure("top1", "the best class is the right one", counted=True),
        Figure("top5", "the right class is among the best five", counted=True),
    )
    EXPECTS = "class scores [N, K] or [N, K, 1, 1]"
    LABELS = "the number of the right class for each input"

    def layout(self, sample: Sample) -> Scores:
        """How scores are read."""
        name = the_output(sample, _are_scores)
        return Scores(name, sample.outputs[name].shape[1])

    def read(self, outputs: Mapping[str, Numbers], layout: Scores) -> Numbers:
        """The best classes."""
        return np.argsort(-outputs[layout.output].reshape(-1), kind="stable")[:FEW]

    def compared(self, row: Row, layout: Scores) -> tuple[bool, bool]:
        """Whether the class is the best, and among the best."""
        hit = row.got == (row.wanted[0] if row.label is None else row.label)
        return bool(hit[0]), bool(hit.any())

    def combined(self, compared: Sequence[tuple[bool, bool]], layout: Scores) -> dict[str, float]:
        """How often the class is right."""
        top1, top5 = np.mean(compared, axis=0) if compared else (np.nan, np.nan)
        return {"top1": float(top1), "top5": float(top5)}

    def lacking(self, key: str, layout: Scores) -> str:
        """Why there is no such figure."""
        few = key == "top5" and layout.classes <= FEW
        return f"needs more than {FEW} classes; the model has {layout.classes}" if few else ""


def _are_scores(array: Numbers) -> bool:
    return is_real(array) and array.ndim >= 2 and len(array) == 1 and array.size == array.shape[1] >= 2


MEASURE = Classification
