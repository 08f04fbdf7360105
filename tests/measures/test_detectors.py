"""How detectors lay out boxes: the same objects, in the outputs of each kind of network."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.measures.base import LayoutError, Numbers, Sample
from graphopt.measures.boxes import Boxes
from graphopt.measures.detectors import found
from graphopt.measures.tasks.detection import Detection

CLASSES, ANCHORS = 3, 60
WANTED = np.array([[10, 20, 50, 60], [100, 120, 180, 160]], float)
KINDS = np.array([2, 0])


def drawn() -> tuple[Numbers, Numbers]:
    """Boxes as corners in pixels of 320, and scores of classes, of which two are objects."""
    rng = np.random.default_rng(0)
    centres, sizes = rng.uniform(60, 260, (ANCHORS, 2)), rng.uniform(8, 40, (ANCHORS, 2))
    places = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
    scores = rng.uniform(0, 0.1, (ANCHORS, CLASSES))
    places[[7, 31]] = WANTED
    scores[[7, 31], KINDS] = [0.9, 0.8]
    return places, scores


PLACES, SCORES = drawn()
CENTRED = np.concatenate([(PLACES[:, :2] + PLACES[:, 2:]) / 2, PLACES[:, 2:] - PLACES[:, :2]], axis=1)
LOGITS = np.log(SCORES / (1 - SCORES))
SURE = np.concatenate([SCORES, 1 - SCORES.max(axis=1, keepdims=True)], axis=1)
SOFT = SURE / SURE.sum(axis=1, keepdims=True)
OBJECTS = np.linspace(0.9, 1, ANCHORS)[:, None]
LIST = np.concatenate([WANTED, [[0.9], [0.8]], KINDS[:, None]], axis=1)
NAMES = {"names": "{0: 'a', 1: 'b', 2: 'c'}"}

LAYOUTS: dict[str, dict[str, Numbers]] = {
    "YOLOv8": {"output0": np.concatenate([CENTRED, SCORES], axis=1).T},
    "YOLOv5": {"output": np.concatenate([CENTRED, OBJECTS, SCORES / OBJECTS], axis=1)},
    "YOLOv8, masks behind": {
        "output0": np.concatenate([CENTRED, SCORES, np.full((ANCHORS, 32), -7.0)], axis=1).T,
        "output1": np.ones((32, 80, 80)),
    },
    "YOLOv8, boxes and scores apart": {"boxes": CENTRED.T, "scores": SCORES.T},
    "YOLOv10": {"output0": LIST},
    "SSD": {
        "scores": np.concatenate([1 - SCORES.max(1, keepdims=True), SCORES], axis=1),
        "boxes": PLACES / 320,
    },
    "SSD, softmax": {"scores": np.roll(SOFT, 1, axis=1), "boxes": PLACES / 320},
    "RetinaNet": {"classes": LOGITS, "boxes": PLACES},
    "DETR": {"logits": np.log(SOFT) + 5, "pred_boxes": CENTRED / 320},
    "RT-DETR": {"logits": LOGITS, "pred_boxes": CENTRED / 320},
}
PARTS = ("SSD", "SSD, softmax", "DETR", "RT-DETR")
UNSUPPRESSED = ("DETR", "RT-DETR", "YOLOv10", "torchvision", "TensorFlow")


def best(sample: Sample, anchors: Numbers | None = None) -> tuple[Boxes, bool]:
    layout = found(sample, anchors)
    boxes = layout.boxes(sample.outputs)
    return boxes.chosen(np.argsort(-boxes.scores)[:2]), layout.suppress


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_the_same_objects_are_read_of_every_layout(name: str, kind: type) -> None:
    outputs = {key: array[None].astype(kind) for key, array in LAYOUTS[name].items()}
    boxes, suppress = best(Sample(outputs, NAMES if "masks" in name else {}))
    assert boxes.corners * (320 if name in PARTS else 1) == pytest.approx(WANTED, abs=0.5)
    assert boxes.classes.tolist() == KINDS.tolist()
    assert suppress == (name not in UNSUPPRESSED)


@pytest.mark.parametrize("batch", [(), (1,)])
def test_boxes_that_are_chosen_already(batch: tuple[int, ...]) -> None:
    outputs = {
        "boxes": WANTED.astype(np.float32).reshape(*batch, 2, 4),
        "labels": KINDS.reshape(*batch, 2),
        "scores": np.array([0.9, 0.8], np.float32).reshape(*batch, 2),
    }
    boxes, suppress = best(Sample(outputs))
    assert (boxes.corners.tolist(), boxes.classes.tolist(), suppress) == (WANTED.tolist(), [2, 0], False)


def test_an_image_without_chosen_boxes() -> None:
    outputs = {
        "boxes": np.zeros((0, 4), np.float32),
        "labels": np.zeros(0, np.int64),
        "scores": np.zeros(0, np.float32),
    }
    assert best(Sample(outputs))[0].scores.size == 0


def test_offsets_need_the_anchors_that_they_are_from() -> None:
    rng = np.random.default_rng(1)
    anchors = CENTRED + rng.uniform(-3, 3, CENTRED.shape)
    offsets = np.concatenate(
        [
            (CENTRED[:, :2] - anchors[:, :2]) / anchors[:, 2:] / 0.1,
            np.log(CENTRED[:, 2:] / anchors[:, 2:]) / 0.2,
        ],
        axis=1,
    )
    sample = Sample({"loc": offsets[None], "conf": np.roll(SOFT, 1, axis=1)[None]})
    boxes, suppress = best(sample, anchors)
    assert suppress and boxes.corners == pytest.approx(WANTED)
    with pytest.raises(LayoutError, match=r"loc holds offsets.*anchors=FILE.npy"):
        found(sample, None)
    with pytest.raises(LayoutError, match="anchors are"):
        found(sample, anchors[1:])


@pytest.mark.parametrize("array", [SCORES * 9 - 4, np.zeros((2, 8, 8))], ids=["no scores", "a map"])
def test_what_is_no_detector(array: Numbers) -> None:
    wide = np.concatenate([CENTRED, array], axis=1) if array.ndim == 2 else array
    with pytest.raises(LayoutError):
        Detection().layout(Sample({"y": wide[None]}))
