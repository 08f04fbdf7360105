"""Embeddings: whether inputs that lay near each other still do.

A constant part that all embeddings share tells inputs apart as little as no part at all, and often is most
of their length. So directions and neighbours are taken around the mean of the original's. What is accepted
at a threshold is decided by the cosine as it is, as deployments do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.measures.base import Measure, Numbers, Row, Sample, is_real, the_output
from graphopt.types import Figure

TINY = 1e-12
"""A length under which a vector has no direction: derived, far below float32's rounding of any that has."""


@dataclass(frozen=True, kw_only=True)
class Embedding(Measure[str, Numbers]):
    """Vectors that are compared by their cosine. An answer is a vector.

    Attributes:
        threshold: of the cosine, from which on two inputs are taken for the same. Where labels are given,
            else that of the original's equal error rate.
    """

    threshold: float | None = None

    FIGURES = (
        Figure("cosine", "cosine with the original's vector, without the original's mean", least=-1.0),
        Figure("raw_cosine", "cosine with the original's vector as it is", least=-1.0),
        Figure("neighbours", "inputs whose nearest neighbour is the original's", counted=True),
        Figure(
            "false_accepts", "pairs accepted that should not be", falling=True, needs=("threshold", "labels")
        ),
        Figure(
            "false_rejects", "pairs rejected that should not be", falling=True, needs=("threshold", "labels")
        ),
    )
    EXPECTS = "vectors [N, D], or the same with axes of 1"
    LABELS = "who or what each input shows: equal entries belong together"
    LEAST = 3

    def __post_init__(self) -> None:
        if self.threshold is not None and not -1 < self.threshold < 1:
            raise ValueError(f"threshold: {self.threshold:g} is no cosine between -1 and 1")

    def layout(self, sample: Sample) -> str:
        """The output with vectors."""
        return the_output(sample, _is_vector)

    def read(self, outputs: Mapping[str, Numbers], layout: str) -> Numbers:
        """The vector."""
        return outputs[layout].reshape(-1).astype(np.float64)

    def combined(self, compared: Sequence[Row], layout: str) -> dict[str, float]:
        """How near the vectors are, and who is taken for the same."""
        if len(compared) < self.LEAST:
            return {figure.key: np.nan for figure in self.FIGURES}
        wanted, got = (np.stack([row[side] for row in compared]) for side in (0, 1))
        mean = wanted.mean(axis=0)
        near = [_nearest(vectors - vectors.mean(axis=0)) for vectors in (wanted, got)]
        labels = None if compared[0].label is None else [row.label for row in compared]
        accepts, rejects = self._mistaken(_unit(wanted), _unit(got), labels)
        return {
            "cosine": float((_unit(wanted - mean) * _unit(got - mean)).sum(axis=1).mean()),
            "raw_cosine": float((_unit(wanted) * _unit(got)).sum(axis=1).mean()),
            "neighbours": float((near[0] == near[1]).mean()),
            "false_accepts": accepts,
            "false_rejects": rejects,
        }

    def _mistaken(self, wanted: Numbers, got: Numbers, labels: list[object] | None) -> tuple[float, float]:
        """The parts of the pairs that are wrongly accepted, and wrongly rejected; NaN without such pairs."""
        pairs = np.triu_indices(len(wanted), 1)
        before, after = ((unit @ unit.T)[pairs] for unit in (wanted, got))
        line = self.threshold
        if labels is not None:
            same = np.array([labels[a] == labels[b] for a, b in zip(*pairs, strict=True)])
            line = equal_error(before, same) if line is None else line
        elif line is not None:
            same = before >= line
        if line is None:
            return np.nan, np.nan
        accepted = after >= line
        return _part(accepted[~same]), _part(~accepted[same])


def equal_error(cosines: Numbers, same: Numbers) -> float:
    """The threshold at which false accepts and false rejects are most nearly equal, one of the cosines."""
    ordered = np.sort(cosines)
    accepts = 1 - np.searchsorted(np.sort(cosines[~same]), ordered) / max(1, int((~same).sum()))
    rejects = np.searchsorted(np.sort(cosines[same]), ordered) / max(1, int(same.sum()))
    return float(ordered[np.maximum(accepts, rejects).argmin()])


def _part(marked: Numbers) -> float:
    return float(marked.mean()) if marked.size else np.nan


def _unit(vectors: Numbers) -> Numbers:
    unit: Numbers = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), TINY)
    return unit


def _nearest(vectors: Numbers) -> Numbers:
    """For each vector the number of the other one with the largest cosine."""
    cosines = _unit(vectors) @ _unit(vectors).T
    np.fill_diagonal(cosines, -np.inf)
    return np.asarray(cosines.argmax(axis=1))


def _is_vector(array: Numbers) -> bool:
    return is_real(array) and array.ndim >= 2 and len(array) == 1 and array.size == max(array.shape) >= 2


MEASURE = Embedding
