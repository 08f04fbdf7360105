"""What measures tell: figures of outputs that are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from graphopt.errors import InputError
from graphopt.measures import registry
from graphopt.measures.base import EQUAL, LayoutError, Numbers, Row, Sample
from graphopt.measures.tasks import NAMES

RNG = np.random.default_rng(3)


def figures(
    text: str,
    wanted: Sequence[Numbers],
    got: Sequence[Numbers],
    labels: Numbers | None = None,
    metadata: dict[str, str] | None = None,
) -> dict[str, float]:
    """What a measure says of outputs, each of one input without a batch."""
    measure = registry.parse(text)
    layout = measure.layout(Sample({"y": wanted[0][None]}, metadata or {}))
    read = [[measure.read({"y": array[None]}, layout) for array in side] for side in (wanted, got)]
    right: Sequence[Any] = [None] * len(wanted)
    if labels is not None:
        right = measure.labelled(labels, len(wanted))
    rows = (Row(*row) for row in zip(*read, right, strict=True))
    return measure.combined([measure.compared(row, layout) for row in rows], layout)


def floats(*shape: int) -> Numbers:
    return RNG.normal(size=shape).astype(np.float32)


OUTPUTS = {
    "classification": floats(4, 10),
    "ctc": floats(4, 12, 7),
    "detection": np.concatenate([RNG.uniform(5, 90, (4, 4, 50)), RNG.uniform(0, 1, (4, 3, 50))], axis=1),
    "embedding": floats(4, 16),
    "image": RNG.uniform(0, 1, (4, 3, 20, 20)),
    "regression": floats(4, 5),
    "segmentation": floats(4, 6, 9, 8),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_equal_has_the_best_figures(name: str) -> None:
    same = list(OUTPUTS[name])
    told = figures(f"{name}:threshold=0.1" if name == "embedding" else name, same, same)
    kinds = {figure.key: figure for figure in registry.kind(name).FIGURES}
    assert set(told) == set(kinds)
    for key, value in told.items():
        assert value == pytest.approx(0.0 if kinds[key].falling else EQUAL if kinds[key].unit else 1.0), key


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_no_less_than_the_numbers_of_which_it_says_to_be_the_mean(name: str) -> None:
    least = {figure.key: figure.least for figure in registry.kind(name).FIGURES}
    right, wrong = list(OUTPUTS[name]), list(1 - OUTPUTS[name] if name == "image" else -OUTPUTS[name])
    told = figures(f"{name}:threshold=0.1" if name == "embedding" else name, right, wrong)
    for key, value in told.items():
        assert np.isnan(value) or (bound := least[key]) is None or value >= bound - 1e-9, key
    below = {"embedding": "cosine", "image": "ssim", "regression": "r2"}
    assert name not in below or told[below[name]] < 0  # so that a part would not do


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_a_key_of_its_own_and_says_what_it_is(name: str) -> None:
    kind = registry.kind(name)
    assert kind.__doc__ and kind.EXPECTS and kind.LABELS and all(f.what for f in kind.FIGURES)
    assert not kind.FIGURES[0].falling


def test_classes() -> None:
    wanted = np.eye(8, dtype=np.float32)[[1, 2, 3, 4]] + np.linspace(0, 0.1, 8, dtype=np.float32)
    got = wanted.copy()
    got[0, 7] = 2  # another is the best, the right one second
    got[1] = np.arange(8)[::-1] * [1, 1, 0, 1, 1, 1, 1, 1]  # six others are better
    assert figures("classification", wanted, got) == {"top1": 0.5, "top5": 0.75}
    labels = np.array([7, 2, 3, 0])
    assert figures("classification", wanted, got, labels) == {"top1": 0.5, "top5": 0.5}
    flat = wanted[:, :, None, None]
    assert figures("classification", flat, got[:, :, None, None])["top1"] == 0.5


def test_top5_takes_more_than_five_classes() -> None:
    measure = registry.parse("classification")
    layout = measure.layout(Sample({"y": np.zeros((1, 5), np.float32)}))
    assert "more than 5 classes" in measure.lacking("top5", layout) and not measure.lacking("top1", layout)


def test_areas_of_classes() -> None:
    wanted = np.zeros((1, 4, 4), np.int64)
    wanted[0, :2] = 1
    got = wanted.copy()
    got[0, 0, :2] = 2  # two of eight
    expected = {"miou": pytest.approx((1 + 6 / 8 + 0) / 3), "pixels": pytest.approx(14 / 16)}
    assert figures("segmentation", wanted, got) == expected
    one_hot = [np.moveaxis(np.eye(3, dtype=np.float32)[each], -1, 1) for each in (wanted, got)]
    assert figures("segmentation", *one_hot) == expected
    last = [np.eye(3, dtype=np.float32)[each] for each in (wanted, got)]
    assert figures("segmentation", *last) == expected
    ignored = np.where(got == 2, 255, wanted)
    assert figures("segmentation", wanted, got, ignored) == {"miou": 1.0, "pixels": 1.0}


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (8, -4)], ids=["probabilities", "logits"])
def test_areas_of_one_class(scale: float, shift: float) -> None:
    wanted = np.zeros((1, 1, 4, 4), np.float32)
    wanted[0, 0, :2] = 1
    got = wanted.copy()
    got[0, 0, 0] = 0
    told = figures("segmentation", wanted * scale + shift, got * scale + shift)
    assert told == {"miou": pytest.approx((4 / 8 + 8 / 12) / 2), "pixels": 0.75}


def test_a_constant_part_of_vectors_is_no_likeness() -> None:
    wanted = floats(12, 8) + 30
    told = figures("embedding", wanted, floats(12, 8) + 30)
    assert told["raw_cosine"] > 0.99 and told["cosine"] < 0.6 and told["neighbours"] < 0.6
    assert np.isnan(told["false_accepts"]) and np.isnan(told["false_rejects"])
    assert figures("embedding", wanted, wanted + 100)["cosine"] < 1.01


def test_who_is_taken_for_the_same() -> None:
    at = np.deg2rad([0, 10, 90, 100])
    wanted = np.stack([np.cos(at), np.sin(at)], axis=1)
    at = np.deg2rad([0, 50, 90, 100])
    got = np.stack([np.cos(at), np.sin(at)], axis=1)
    told = figures("embedding:threshold=0.7", wanted, got)  # 45 degrees
    assert (told["false_accepts"], told["false_rejects"]) == (0.25, 0.5)
    labels = np.array(["a", "a", "b", "b"])
    told = figures("embedding", wanted, got, labels)  # the threshold is between 10 and 80 degrees
    assert (told["false_accepts"], told["false_rejects"]) == (0.0, 0.5)


def test_text() -> None:
    def steps(*best: int) -> Numbers:
        return np.eye(4, dtype=np.float32)[list(best)]

    wanted = [steps(0, 1, 1, 0, 1, 2), steps(0, 3, 0, 0, 2, 2)]
    got = [steps(1, 0, 0, 1, 0, 2), steps(0, 3, 0, 3, 2, 0)]
    assert figures("ctc", wanted, got) == {"equal": 0.5, "characters": pytest.approx(1 - 1 / 5)}
    labels, alphabet = np.array(["aab", "b c"]), {"character": "a\nb"}
    told = figures("ctc", wanted, got, labels, alphabet)
    assert told == {"equal": 0.5, "characters": pytest.approx(1 - 2 / 6)}
    last = [np.roll(each, -1, axis=1) for each in (wanted[0], got[1])]
    assert figures("ctc", last, last)["equal"] == 1.0
    told = figures("ctc:blank=last", wanted, got)
    assert told["equal"] == 0.0


def test_time_may_stand_first() -> None:
    measure = registry.parse("ctc")
    outputs = {"y": np.eye(4, dtype=np.float32)[[0, 1, 1, 2]][:, None]}
    assert measure.read(outputs, measure.layout(Sample(outputs))) == (1, 2)


def test_images() -> None:
    wanted = RNG.uniform(0.2, 0.8, (3, 3, 24, 24)).astype(np.float32)
    got = wanted + np.float32(0.01)
    assert figures("image", wanted, got)["psnr"] == pytest.approx(40, abs=1e-3)
    assert figures("image", wanted * 255, got * 255)["psnr"] == pytest.approx(40, abs=1e-3)
    assert figures("image", wanted * 2 - 1, got * 2 - 1)["psnr"] == pytest.approx(40, abs=1e-3)
    assert figures("image:high=2", wanted, got)["psnr"] == pytest.approx(46.02, abs=0.01)
    last = [np.moveaxis(each, 1, -1) for each in (wanted, got)]
    assert figures("image", *last) == pytest.approx(figures("image", wanted, got))
    assert figures("image", np.ones_like(wanted), wanted * 0 + 5)["psnr"] == EQUAL  # both are white
    assert figures("image", wanted, got, wanted + np.float32(0.02))["psnr"] == pytest.approx(40, abs=1e-3)


def test_numbers() -> None:
    wanted = np.array([[0.0, 10.0], [1.0, 10.0], [2.0, 10.0]], np.float32)
    got = wanted + np.array([[0.1, 0.1]], np.float32)
    told = figures("regression", wanted, got)
    assert told == {"psnr": pytest.approx(40, abs=1e-3), "r2": pytest.approx(1 - 0.03 / 2, abs=1e-5)}
    assert figures("regression:peak=1", wanted, got)["psnr"] == pytest.approx(20, abs=1e-3)


def test_objects_of_labels() -> None:
    places = np.array([[30, 30, 20, 20], [80, 80, 20, 20]], np.float32)
    output = np.zeros((1, 6, 30), np.float32)
    output[0, :4, :2], output[0, 4, 0], output[0, 5, 1] = places.T, 0.9, 0.8
    labels = np.array([[0, 0, 20, 20, 40, 40], [0, 0, 70, 70, 90, 90]])
    told = figures("detection", output, output, labels)
    assert (told["recall"], told["precision"]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="no number 1"):
        figures("detection", output, output, labels + 1)


def test_an_original_that_finds_nothing_tells_nothing() -> None:
    output = np.concatenate([RNG.uniform(5, 90, (1, 4, 50)), RNG.uniform(0, 0.1, (1, 3, 50))], axis=1)
    assert all(np.isnan(value) for value in figures("detection", output, output).values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("detect", "no such measure; there are classification, ctc,"),
        ("detection:conf=0.3", "no option conf; did you mean confidence?"),
        ("detection:confidence=much", "confidence: 'much' is no number"),
        ("detection:iou=1", "iou: 1 is not between 0 and 1"),
        ("embedding:threshold=2", "is no cosine"),
        ("ctc:blank=0", "neither first nor last"),
        ("image:low=1,high=0", "low=1 is not below high=0"),
        ("regression:peak=0", "is no range"),
    ],
)
def test_what_can_not_be_asked(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("?", r"\?")):
        registry.parse(text)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "regression"])
def test_other_outputs_are_refused(name: str) -> None:
    with pytest.raises(LayoutError):
        registry.parse(name).layout(Sample({"y": np.zeros((1, 2, 3, 4, 5), np.float32)}))


def test_of_several_outputs_that_fit_one_has_to_be_named() -> None:
    outputs = {name: np.zeros((1, 10), np.float32) for name in ("a", "b")}
    with pytest.raises(LayoutError, match="several are such"):
        registry.parse("classification").layout(Sample(outputs))
