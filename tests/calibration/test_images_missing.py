"""Images as calibration inputs where Pillow is not installed, and what needs none of it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.calibration.images import normalised, scaled_size
from graphopt.calibration.preprocessing import Preprocess
from tests.builders import model, node, saved
from tests.command import cli


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"\x89PNG")
    return folder


def test_one_line_names_the_extra(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    proto = model([node("Identity", "x", "y")], inputs={"x": ["N", 3, 8, 8]}, outputs={"y": ["N", 3, 8, 8]})
    path = saved(proto, tmp_path / "m.onnx")
    done = cli("verify", path, path, "--calibration", photos, "--preprocess", "unit")
    assert done.code == 2 and done.out == ""
    assert done.err.startswith("graphopt: --preprocess needs graphopt[images]: pip install 'pillow>=")
    with pytest.raises(graphopt.InputError, match="no batch of images"):
        graphopt.verify(
            *[model([node("Relu", "x", "y")], inputs={"x": ["N", 3]}, outputs={"y": ["N", 3]})] * 2,
            graphopt.Images(photos, "unit"),
        )


def test_images_without_preprocessing(photos: Path, tmp_path: Path) -> None:
    proto = model([node("Relu", "x", "y")], inputs={"x": ["N", 3, 8, 8]}, outputs={"y": ["N", 3, 8, 8]})
    path = saved(proto, tmp_path / "m.onnx")
    done = cli("verify", path, path, "--calibration", photos)
    assert done.code == 2 and "holds images (a.png)" in done.err and "--preprocess" in done.err


def test_pixels_are_scaled_then_centred_then_divided() -> None:
    found = normalised(np.full((1, 1, 3), 100, np.uint8), Preprocess(0.5, (10, 20, 30), (2, 4, 5)))
    assert found.dtype == np.float32 and found.tolist() == [[[20.0, 7.5, 4.0]]]


@pytest.mark.parametrize(
    ("image", "wanted", "scaled"),
    [
        ((100, 200), Preprocess(), (32, 48)),
        ((100, 200), Preprocess(resize=50), (50, 100)),
        ((200, 100), Preprocess(resize=50), (100, 50)),
        ((100, 100), Preprocess(crop=0.5), (96, 96)),
        ((100, 300), Preprocess(crop=0.5), (64, 192)),
        ((300, 100), Preprocess(crop=1.0), (144, 48)),
    ],
)
def test_the_size_to_which_images_are_scaled(
    image: tuple[int, int], wanted: Preprocess, scaled: tuple[int, int]
) -> None:
    assert scaled_size(image, wanted, (32, 48)) == scaled
