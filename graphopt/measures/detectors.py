"""How detectors lay out boxes and scores, told from what one makes of an input.

| layout | outputs | as |
|---|---|---|
| joined | [N, 4 + K, A] | YOLOv8, v9, v11 as ultralytics exports them: centre, size, scores of classes |
| joined | [N, A, 5 + K] | YOLOv5, v6, v7: centre, size, objectness, scores of classes |
| apart | [N, A, 4] and [N, A, K], or with A last | SSD, RetinaNet, DETR, RT-DETR, a YOLO without its end |
| listed | [N, M, 6] | YOLOv10: corners, score, class |
| listed | boxes [M, 4], scores [M], classes [M], also with a batch | torchvision and TensorFlow |
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from graphopt.measures.base import LayoutError, Numbers, Sample, is_real, is_whole
from graphopt.measures.boxes import Boxes, corners

MOST = 0.5
"""The part of the rows from which on something holds for most of them, by definition."""


class Layout(Protocol):
    """How a detector's outputs are read."""

    @property
    def suppress(self) -> bool:
        """Whether boxes that overlap are still to be dropped."""
        ...

    def boxes(self, outputs: Mapping[str, Numbers]) -> Boxes:
        """All boxes, each with its best class."""
        ...


@dataclass(frozen=True, slots=True)
class Joined:
    """Centre, size, perhaps objectness, and scores in one output.

    Attributes:
        output: the output.
        last: whether boxes are its rows, and these numbers the columns.
        objectness: whether scores are to be multiplied with one of the box.
        classes: the number of classes; what stands behind them is of something else, as masks.
    """

    output: str
    last: bool
    objectness: bool
    classes: int
    suppress: bool = True

    def boxes(self, outputs: Mapping[str, Numbers]) -> Boxes:
        """All boxes."""
        rows = outputs[self.output][0]
        rows = rows if self.last else rows.T
        first = 5 if self.objectness else 4
        scores = rows[:, first : first + self.classes]
        return _best(corners(rows[:, :4]), scores * rows[:, 4:5] if self.objectness else scores)


@dataclass(frozen=True, slots=True)
class Apart:
    """Boxes and scores in outputs of their own.

    Attributes:
        where: the output of the boxes.
        what: the output of the scores.
        last: whether each of them, boxes and scores, has its numbers behind the boxes' axis.
        centred: whether boxes are centre and size.
        squash: what makes scores of their numbers: ``sigmoid``, ``softmax``, or "" where they are scores.
        background: the column of what is no object; None where there is none.
        anchors: what boxes are offsets from, as centre and size; None where they are boxes.
        suppress: whether boxes that overlap are still to be dropped.
    """

    where: str
    what: str
    last: tuple[bool, bool]
    centred: bool
    squash: str
    background: int | None
    anchors: Numbers | None
    suppress: bool

    def boxes(self, outputs: Mapping[str, Numbers]) -> Boxes:
        """All boxes."""
        places, scores = _rows(outputs[self.where], self.last[0]), _rows(outputs[self.what], self.last[1])
        if self.anchors is not None:
            places = unfolded(places, self.anchors)
        scores = SQUASHED[self.squash](scores)
        if self.background is not None:
            scores = np.delete(scores, self.background, axis=1)
        return _best(corners(places) if self.centred else places, scores)


@dataclass(frozen=True, slots=True)
class Listed:
    """Boxes that the model has chosen already: corners, a score and a class each.

    Attributes:
        where: the output of the boxes, or of all.
        score: the output of the scores; "" for the fifth column of all.
        kind: the output of the classes; "" for the sixth column of all.
    """

    where: str
    score: str = ""
    kind: str = ""
    suppress: bool = False

    def boxes(self, outputs: Mapping[str, Numbers]) -> Boxes:
        """All boxes."""
        rows = outputs[self.where]
        rows = rows.reshape(-1, rows.shape[-1])
        scores = outputs[self.score].reshape(-1) if self.score else rows[:, 4]
        kinds = outputs[self.kind].reshape(-1) if self.kind else rows[:, 5]
        return Boxes(rows[:, :4].astype(np.float64), scores.astype(np.float64), kinds.astype(np.int64))


def found(sample: Sample, anchors: Numbers | None) -> Layout:
    """The layout of a detector.

    Args:
        sample: what it makes of an input.
        anchors: what its boxes are offsets from, as centre and size [A, 4]; None where they are boxes.

    Returns:
        The layout.

    Raises:
        LayoutError: its outputs are none of those known.
    """
    reals = {name: array for name, array in sample.outputs.items() if is_real(array)}
    chosen = _listed(sample.outputs)
    if chosen is not None:
        return chosen
    pair = _pair(reals, anchors)
    if pair is not None:
        return _apart(reals, *pair, anchors)
    several = [name for name, array in reals.items() if array.ndim == 3 and len(array) == 1]
    if not several:
        raise LayoutError("")
    return _joined(several[0], reals[several[0]], sample)


# ---------------------------------------------------------------- listed


def _listed(outputs: Mapping[str, Numbers]) -> Listed | None:
    for name, array in outputs.items():
        rows = is_real(array) and array.ndim in (2, 3) and array.shape[-1] == 6
        if rows and _is_list(array.reshape(-1, 6)):
            return Listed(name)
    for name, array in outputs.items():
        if array.ndim not in (2, 3) or array.shape[-1] != 4 or array.dtype.kind != "f":
            continue
        rest = [(n, a) for n, a in outputs.items() if n != name and a.shape == array.shape[:-1]]
        kinds = [n for n, a in rest if a.dtype.kind in "iu"] or [n for n, a in rest if a.size and is_whole(a)]
        scores = [n for n, a in rest if a.dtype.kind == "f" and n not in kinds[:1]]
        if kinds and scores:
            return Listed(name, scores[0], kinds[0])
    return None


def _is_list(rows: Numbers) -> bool:
    """Whether rows are corners, a score and a class."""
    score, kind = rows[:, 4], rows[:, 5]
    ordered = (rows[:, 2:4] >= rows[:, :2]).all()
    return bool(ordered and is_whole(kind) and kind.min() >= -1 and score.min() >= 0 and score.max() <= 1)


# ---------------------------------------------------------------- apart


def _pair(outputs: Mapping[str, Numbers], anchors: Numbers | None) -> tuple[str, str] | None:
    """The outputs of boxes and of their scores: [1, A, 4] and [1, A, K], each perhaps with A last."""
    three = {name: array for name, array in outputs.items() if array.ndim == 3 and len(array) == 1}
    pairs = [
        (where, what)
        for where, a in three.items()
        for what, b in three.items()
        if where != what and 4 in a.shape[1:] and _count(a, 4) in b.shape[1:] and _count(a, 4) > 4
    ]
    if not pairs:
        return None
    # Scores of four classes look like boxes: those are told by their name, or by values that no score has.
    return max(pairs, key=lambda pair: (_says_box(pair[0]), anchors is None and _spread(three[pair[0]])))


def _count(places: Numbers, width: int) -> int:
    return int(places.shape[1] if places.shape[2] == width else places.shape[2])


def _says_box(name: str) -> bool:
    return any(word in name.lower() for word in ("box", "loc", "reg"))


def _spread(array: Numbers) -> float:
    return float(array.max() - array.min())


def _apart(outputs: Mapping[str, Numbers], where: str, what: str, anchors: Numbers | None) -> Apart:
    places, scores = outputs[where], outputs[what]
    last = places.shape[2] == 4, scores.shape[1] == _count(places, 4)
    rows, columns = _rows(places, last[0]), _rows(scores, last[1])
    if anchors is not None:
        if anchors.shape != rows.shape:
            raise LayoutError(f"anchors are {list(anchors.shape)} for boxes of {list(rows.shape)}")
        rows, centred = unfolded(rows, anchors), True
    else:
        centred = bool((rows[:, 2:] < rows[:, :2]).any(axis=1).mean() > MOST / 2)
        if centred and (rows[:, 2:] < 0).mean() > MOST / 2:
            raise LayoutError(
                f"{where} holds offsets, and no boxes: give what they are from, centre and size [A, 4], "
                "as anchors=FILE.npy"
            )
    squash, background = _scored(columns)
    normalised = bool(np.abs(rows).max() <= 2)
    # Sets of queries are chosen by the network itself (Carion et al. 2020): centre and size of parts.
    suppress = anchors is not None or not (centred and normalised)
    return Apart(where, what, last, centred, squash, background, anchors, suppress)


def _scored(columns: Numbers) -> tuple[str, int | None]:
    """What makes scores of numbers, and the column of the background.

    The background stands first or last and wins most rows, clearly where scores do not sum to 1.
    """
    wins = np.bincount(columns.argmax(axis=1), minlength=columns.shape[1]) / len(columns)
    winner = int(wins.argmax())
    ends = columns.shape[1] > 1 and winner in (0, columns.shape[1] - 1) and wins[winner] > MOST
    if columns.min() >= 0 and columns.max() <= 1:
        one = bool(np.abs(columns.sum(axis=1) - 1).max() < 1e-2)  # float16 adds this well
        return "", winner if ends and (one or np.median(columns[:, winner]) > MOST) else None
    if ends and np.median(columns[:, winner]) > 0:  # of sigmoids nearly all are low
        return "softmax", winner
    return "sigmoid", None


def unfolded(offsets: Numbers, anchors: Numbers) -> Numbers:
    """Boxes, as centre and size, of offsets from anchors, as SSD has them (Liu et al. 2016)."""
    places, sizes = (0.1, 0.2)
    centre = anchors[:, :2] + places * offsets[:, :2] * anchors[:, 2:]
    return np.concatenate([centre, anchors[:, 2:] * np.exp(sizes * offsets[:, 2:])], axis=1)


# ---------------------------------------------------------------- joined


def _joined(name: str, array: Numbers, sample: Sample) -> Joined:
    last = array.shape[1] > array.shape[2]
    rows = _rows(array, last)
    classes = _named(sample.metadata)
    first = 5 if last else 4
    width = rows.shape[1]
    if classes and width in (4 + classes, 5 + classes):
        first = width - classes
    count = min(classes, width - first) or width - first
    scores = rows[:, 4 : first + count]
    if count < 1 or scores.min() < -0.01 or scores.max() > 1.01 or (rows[:, 2:4] < 0).mean() > MOST / 2:
        raise LayoutError(
            f"{name} holds no scores of 0 to 1 behind centre and size: boxes have to be decoded in the model"
        )
    return Joined(name, last, first == 5, count)


def _named(metadata: Mapping[str, str]) -> int:
    """The number of classes that the metadata name, as ultralytics writes them; 0 without."""
    try:
        return len(ast.literal_eval(metadata.get("names", "")))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return 0


# ---------------------------------------------------------------- both


def _rows(array: Numbers, last: bool) -> Numbers:
    rows = np.asarray(array[0], np.float64)
    return rows if last else rows.T


def _best(places: Numbers, scores: Numbers) -> Boxes:
    kinds = scores.argmax(axis=1)
    return Boxes(places.astype(np.float64), scores.max(axis=1).astype(np.float64), kinds)


def _sigmoid(x: Numbers) -> Numbers:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


def _softmax(x: Numbers) -> Numbers:
    raised = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


SQUASHED: Mapping[str, Callable[[Numbers], Numbers]] = {
    "": np.asarray,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
}
"""What makes scores of numbers."""
