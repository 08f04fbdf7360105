"""Which changes of inputs the original takes for inputs of its kind, and what they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from graphopt.calibration.samples import rows
from graphopt.compression.tuning.augmentation import MOVED, Augmentation, moved, suited
from graphopt.types import Array

Respond = Callable[[dict[str, Array]], Sequence[Array]]


def pictures(count: int = 40, shape: tuple[int, ...] = (3, 16, 16)) -> Array:
    """Pictures in which each place is bright or dark by its place and its picture."""
    return np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)


def mean(feeds: dict[str, Array]) -> list[Array]:
    """What is the same of a picture that is mirrored or moved around."""
    return [feeds["x"].mean(axis=(2, 3))]


def whole(feeds: dict[str, Array]) -> list[Array]:
    """What is mirrored and moved with the picture."""
    return [2 * feeds["x"]]


def first(feeds: dict[str, Array]) -> list[Array]:
    """What depends on where things are."""
    return [feeds["x"][:, 0, 0, :4]]


def test_what_stays_or_goes_along_is_taken_for_an_input() -> None:
    for respond in (mean, whole):
        found = suited(rows({"x": pictures()}), respond)
        assert found is not None and found.mirrored and found.moved


def test_what_depends_on_places_is_not() -> None:
    assert suited(rows({"x": pictures()}), first) is None


@pytest.mark.parametrize("shape", [(3, 8, 16), (7, 16, 16), (16, 16), (5,)])
def test_what_is_no_image_stays_as_it_is(shape: tuple[int, ...]) -> None:
    def respond(feeds: dict[str, Array]) -> list[Array]:
        return [feeds["x"]]

    assert suited(rows({"x": pictures(shape=shape)}), respond) is None


def test_channels_may_come_last() -> None:
    def respond(feeds: dict[str, Array]) -> list[Array]:
        return [feeds["x"].mean(axis=(1, 2))]

    found = suited(rows({"x": pictures(shape=(16, 16, 3))}), respond)
    assert found is not None and found.axes == (1, 2)


def test_changed_images_are_images_of_the_same_shape_and_type() -> None:
    images = pictures()
    change = Augmentation("x", (2, 3), mirrored=True, moved=True, others=images)
    found, again = (change(rows({"x": images}), np.random.default_rng(1)).joined()["x"] for _ in range(2))
    assert found.shape == images.shape and found.dtype == np.float32
    assert not np.array_equal(found, images)
    np.testing.assert_array_equal(found, again)


def test_a_moved_image_is_the_same_in_another_place() -> None:
    images = pictures(64)
    found = moved(images, (2, 3), np.random.default_rng(0))
    most = 16 // MOVED
    ways = [(a, b) for a in range(-most, most + 1) for b in range(-most, most + 1)]
    for image, other in zip(images, found, strict=True):
        padded = np.pad(image, ((0, 0), (most, most), (most, most)))
        places = [padded[:, most + a : most + a + 16, most + b : most + b + 16] for a, b in ways]
        assert any(np.array_equal(place, other) for place in places)
    assert not np.array_equal(images, found)
