"""Figures that are computed here are those of the libraries that are known for them."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from graphopt.measures import registry
from graphopt.measures.base import Row, Sample
from graphopt.measures.boxes import Boxes, found_of, precision_of
from graphopt.measures.tasks.image import ssim

RNG = np.random.default_rng(0)
IMAGES = 20


def boxes() -> tuple[list[Boxes], list[Boxes]]:
    """True boxes, and some that are near them or not, best first."""

    def drawn(count: int) -> np.ndarray:
        corner = RNG.uniform(0, 80, (count, 2))
        return np.concatenate([corner, corner + RNG.uniform(5, 40, (count, 2))], axis=1)

    truth, found = [], []
    for _ in range(IMAGES):
        true = drawn(RNG.integers(0, 8))
        kinds = RNG.integers(0, 3, len(true))
        seen = np.concatenate([true + RNG.normal(0, 2.5, true.shape), drawn(RNG.integers(0, 6))])
        seen[:, 2:] = np.maximum(seen[:, 2:], seen[:, :2] + 1)
        guessed = np.concatenate([kinds, RNG.integers(0, 3, len(seen) - len(true))])
        scores = RNG.uniform(0, 1, len(seen))
        truth.append(Boxes(true, np.ones(len(true)), kinds))
        found.append(Boxes(seen, scores, guessed).chosen(np.argsort(-scores)))
    return truth, found


def test_average_precision_is_that_of_pycocotools() -> None:
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    truth, found = boxes()
    true, seen = (
        [
            {"image_id": i, "category_id": int(k), "bbox": [*b[:2], *(b[2:] - b[:2])], "score": float(s)}
            for i, each in enumerate(side)
            for b, s, k in zip(*each, strict=True)
        ]
        for side in (truth, found)
    )
    for number, each in enumerate(true, 1):
        each.update(id=number, iscrowd=0, area=float(np.prod(each["bbox"][2:])))
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO()
        kinds = [{"id": k} for k in range(3)]
        known.dataset = {
            "images": [{"id": i} for i in range(IMAGES)],
            "annotations": true,
            "categories": kinds,
        }
        known.createIndex()
        judged = cocoeval.COCOeval(known, known.loadRes(seen), "bbox")
        judged.params.maxDets = [1, 10, 1000]
        judged.evaluate()
        judged.accumulate()
    expected = judged.eval["precision"][:, :, :, 0, 2].mean(axis=(1, 2))
    assert precision_of(list(map(found_of, truth, found))) == pytest.approx(expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_likeness_of_images_is_that_of_scikit_image(channels: int) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    a = RNG.uniform(0, 1, (channels, 30, 40))
    b = np.clip(a + RNG.normal(0, 0.1, a.shape), 0, 1)
    options = {"channel_axis": 0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    assert ssim(a, b) == pytest.approx(metrics.structural_similarity(a, b, data_range=1, **options))
    told = figures("image", a, b)
    assert told["psnr"] == pytest.approx(metrics.peak_signal_noise_ratio(a, b, data_range=1))


def test_areas_and_classes_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    a = RNG.normal(size=(5, 12, 14))
    b = a + RNG.normal(0, 0.7, a.shape)
    wanted, got = a.argmax(0).ravel(), b.argmax(0).ravel()
    told = figures("segmentation", a, b)
    assert told["miou"] == pytest.approx(metrics.jaccard_score(wanted, got, average="macro"))
    assert told["pixels"] == pytest.approx(metrics.accuracy_score(wanted, got))
    scores, labels = RNG.normal(size=(50, 9)), RNG.integers(0, 9, 50)
    told = figures("classification", scores, scores, labels, batch=True)
    for count, key in ((1, "top1"), (5, "top5")):
        expected = metrics.top_k_accuracy_score(labels, scores, k=count, labels=range(9))
        assert told[key] == pytest.approx(expected)


def figures(
    name: str, a: np.ndarray, b: np.ndarray, labels: np.ndarray | None = None, *, batch: bool = False
) -> dict[str, float]:
    measure = registry.parse(name)
    sides = [list(side) if batch else [side] for side in (a, b)]
    layout = measure.layout(Sample({"y": sides[0][0][None]}))
    read = [[measure.read({"y": each[None]}, layout) for each in side] for side in sides]
    right = [None] * len(read[0]) if labels is None else list(labels)
    rows = (Row(*row) for row in zip(*read, right, strict=True))
    return measure.combined([measure.compared(row, layout) for row in rows], layout)
