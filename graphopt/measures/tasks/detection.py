"""Detection: whether the same objects are found, as a deployment would find them.

Boxes are decoded, each has its best class, those under the confidence are dropped, and of those of a class
that overlap the best is kept (non-maximum suppression), unless the network chooses by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphopt.measures.base import LayoutError, Measure, Numbers, Row, Sample
from graphopt.measures.boxes import NONE, Boxes, Found, found_of, matched, precision_of, suppressed
from graphopt.measures.detectors import Layout, found
from graphopt.types import Figure

SAME = 0.5
"""The overlap from which on a box is the same, as in Pascal VOC (Everingham et al. 2010)."""
LOWEST, CANDIDATES = 0.001, 1000
"""Of boxes under the confidence, those over this score, and at most so many in all, count for average
precision: what evaluations of YOLO take, and the candidates of RetinaNet (Lin et al. 2017)."""


@dataclass(frozen=True, kw_only=True)
class Detection(Measure[Layout, Boxes]):
    """Boxes around objects. An answer is the boxes that are left, best first.

    Attributes:
        confidence: the score from which on a box counts.
        iou: the overlap over which the better of two boxes of a class is kept.
        anchors: a .npy file with the boxes that a model's boxes are offsets from, as centre and size [A, 4],
            in SSD's encoding; None where the model gives boxes.
    """

    confidence: float = 0.25
    iou: float = 0.5
    anchors: Path | None = None

    FIGURES = (
        Figure("map", "average precision, mean over classes and over overlaps of 0.5 to 0.95"),
        Figure("map50", "average precision at an overlap of 0.5, mean over classes"),
        Figure("recall", "objects that are found"),
        Figure("precision", "what is found that is an object"),
    )
    EXPECTS = (
        "[N, 4 + K, A] (YOLOv8-11), [N, A, 5 + K] (YOLOv5-7), boxes [N, A, 4] and scores [N, A, K] (SSD, "
        "RetinaNet, DETR), [N, M, 6] (YOLOv10), or boxes, scores and classes of those that are left"
    )
    LABELS = "a row for each object: number of the input from 0 on, class, left, top, right, bottom"

    def __post_init__(self) -> None:
        for name in ("confidence", "iou"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name):g} is not between 0 and 1")

    def layout(self, sample: Sample) -> Layout:
        """How boxes are read."""
        return found(sample, self._anchors())

    def _anchors(self) -> Numbers | None:
        if self.anchors is None:
            return None
        try:
            read = np.load(self.anchors, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise LayoutError(f"anchors: {self.anchors}: no readable .npy file") from error
        if not isinstance(read, np.ndarray) or read.ndim != 2 or read.shape[1] != 4:
            raise LayoutError(f"anchors: {self.anchors}: expected centre and size [A, 4]")
        return read.astype(np.float64)

    def read(self, outputs: Mapping[str, Numbers], layout: Layout) -> Boxes:
        """The boxes that are left."""
        boxes = layout.boxes(outputs)
        boxes = boxes.chosen(boxes.scores > min(LOWEST, self.confidence))
        boxes = boxes.chosen(np.argsort(-boxes.scores, kind="stable"))
        boxes = boxes.chosen(slice(max(CANDIDATES, int((boxes.scores > self.confidence).sum()))))
        return suppressed(boxes, self.iou) if layout.suppress else boxes

    def compared(self, row: Row, layout: Layout) -> tuple[tuple[int, int, int], dict[int, Found]]:
        """Objects that are found, that there are, and what is taken for one; and how well, by class."""
        true = row.label if row.label is not None else self._confident(row.wanted)
        seen = self._confident(row.got)
        return (_found(true, seen), len(true.scores), len(seen.scores)), found_of(true, row.got)

    def combined(
        self, compared: Sequence[tuple[tuple[int, int, int], dict[int, Found]]], layout: Layout
    ) -> dict[str, float]:
        """How well objects are found."""
        hits, objects, confident = (sum(counts[place] for counts, _ in compared) for place in range(3))
        precision = precision_of([boxes for _, boxes in compared])
        return {
            "map": float(precision.mean()),
            "map50": float(precision[0]),
            "recall": hits / objects if objects else np.nan,
            "precision": hits / max(confident, 1) if objects else np.nan,
        }

    def _confident(self, boxes: Boxes) -> Boxes:
        return boxes.chosen(boxes.scores > self.confidence)

    def labelled(self, labels: Numbers, count: int) -> list[Boxes]:
        """The objects of each input."""
        if labels.ndim != 2 or labels.shape[1] != 6:
            raise ValueError(f"expected {self.LABELS}")
        made = [NONE] * count
        for number in np.unique(labels[:, 0]).astype(int).tolist():
            rows = labels[labels[:, 0] == number]
            if not 0 <= number < count:
                raise ValueError(f"there are {count} inputs, and no number {number}")
            corners = rows[:, 2:].astype(np.float64)
            made[number] = Boxes(corners, np.ones(len(rows)), rows[:, 1].astype(np.int64))
        return made


def _found(true: Boxes, seen: Boxes) -> int:
    """How many of the objects are found, each once."""
    kinds = np.unique(true.classes)
    parts = ((true.chosen(true.classes == kind), seen.chosen(seen.classes == kind)) for kind in kinds)
    return sum(int(matched(a.corners, b.corners, SAME).sum()) for a, b in parts)


MEASURE = Detection
