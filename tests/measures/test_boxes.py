"""Overlaps, suppression and average precision."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.measures.boxes import NONE, Boxes, corners, found_of, matched, overlap, precision_of, suppressed


def boxes(
    *rows: tuple[float, ...], scores: list[float] | None = None, classes: list[int] | None = None
) -> Boxes:
    count = len(rows)
    places = np.array(rows, float).reshape(count, 4)
    return Boxes(places, np.array(scores or [1.0] * count), np.array(classes or [0] * count))


def test_overlap_is_intersection_over_union_and_nothing_of_what_is_empty() -> None:
    a = np.array([[0, 0, 2, 2], [1, 1, 1, 1]], float)
    b = np.array([[1, 0, 3, 2], [5, 5, 6, 6], [0, 0, 2, 2]], float)
    assert overlap(a, b).tolist() == [[pytest.approx(1 / 3), 0, 1], [0, 0, 0]]
    assert overlap(a[:, [1, 0, 3, 2]], b[:, [1, 0, 3, 2]]) == pytest.approx(overlap(a, b))


def test_centre_and_size_are_corners() -> None:
    assert corners(np.array([[5.0, 4.0, 2.0, 6.0]])).tolist() == [[4, 1, 6, 7]]


def test_the_better_of_two_boxes_of_a_class_is_kept() -> None:
    found = boxes(
        (0, 0, 10, 10),
        (0, 0, 10, 9),
        (0, 0, 10, 9),
        (20, 0, 30, 10),
        scores=[0.9, 0.8, 0.7, 0.6],
        classes=[0, 0, 1, 0],
    )
    assert suppressed(found, 0.5).scores.tolist() == [0.9, 0.7, 0.6]
    assert suppressed(found, 0.95).scores.tolist() == [0.9, 0.8, 0.7, 0.6]
    assert suppressed(NONE, 0.5).scores.size == 0


def test_each_true_box_is_found_once() -> None:
    truth = np.array([[0, 0, 10, 10], [100, 0, 110, 10]], float)
    found = np.array([[0, 0, 10, 9], [0, 0, 10, 10], [50, 0, 60, 10], [100, 0, 110, 10]], float)
    assert matched(truth, found, 0.5).tolist() == [True, False, False, True]
    assert matched(truth, found, 0.95).tolist() == [False, True, False, True]
    assert matched(truth[:0], found, 0.5).tolist() == [False] * 4


def precision(truth: list[Boxes], found: list[Boxes]) -> np.ndarray:
    """The average precision, by images."""
    return precision_of(list(map(found_of, truth, found)))


def test_average_precision_of_what_is_equal_missing_or_too_much() -> None:
    truth = [boxes((0, 0, 10, 10), (20, 0, 30, 10)), boxes((0, 0, 10, 10))]
    assert precision(truth, truth).tolist() == [1.0] * 10
    assert precision(truth, [NONE, NONE]).tolist() == [0.0] * 10
    assert np.isnan(precision([NONE], [truth[0]])).all()
    # two of three are found, behind nothing that is wrong: 67 of 101 recalls have precision 1
    assert precision(truth, [truth[0], NONE])[0] == pytest.approx(67 / 101)
    # what is wrong has the best score: 1/2, 2/3 and 3/4 of what is found is right, the best of which counts
    wrong = boxes((500, 0, 510, 10), (0, 0, 10, 10), (20, 0, 30, 10), scores=[1.0, 0.9, 0.8])
    later = boxes((0, 0, 10, 10), scores=[0.7])
    assert precision(truth, [wrong, later])[0] == pytest.approx(3 / 4)


def test_classes_count_alike() -> None:
    truth = [boxes((0, 0, 10, 10), (0, 0, 10, 10), (20, 0, 30, 10), classes=[0, 1, 1])]
    found = [boxes((0, 0, 10, 10), (20, 0, 30, 10), classes=[1, 1])]
    assert precision(truth, found)[0] == pytest.approx(0.5)
