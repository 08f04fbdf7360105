"""Folders of images as calibration inputs, read by Pillow."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from PIL import Image

import graphopt
from graphopt import Images
from graphopt.calibration import inputs, preprocessing
from graphopt.errors import InputError
from graphopt.model import io
from tests.builders import classifier, info, model, node, saved, weight
from tests.command import cli
from tests.places import DATA, ROOT

PHOTOS, SQUEEZENET = DATA / "inputs" / "imagenet", DATA / "models" / "squeezenet1.1-imagenet.onnx"


def pixels(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def reads(*shape: int | str | None, dtype: type = np.float32) -> onnx.ModelProto:
    """A model of one input of this shape."""
    return model(
        [node("Identity", "x", "y")], inputs=[info("x", shape, dtype)], outputs=[info("y", shape, dtype)]
    )


def loaded(
    folder: Path, proto: onnx.ModelProto, preprocess: str | Path | preprocessing.Preprocess
) -> npt.NDArray[np.generic]:
    read, _ = inputs.read(Images(folder, preprocess), io.load(proto).model)
    return np.concatenate([feeds["x"] for feeds in read.feeds])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three lossless images of 8×8, the names not in the order in which they were made."""
    made = tmp_path / "images"
    made.mkdir()
    for number, name in enumerate(("b.png", "c.bmp", "a.webp")):
        Image.fromarray(pixels(8, 8, number)).save(
            made / name, **({"lossless": True} if "webp" in name else {})
        )
    return made


def toml(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------- what is read


def test_images_come_in_the_order_of_their_names(folder: Path) -> None:
    found = loaded(folder, reads("N", 8, 8, 3), "raw")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.stack([pixels(8, 8, n) for n in (2, 0, 1)]))


@pytest.mark.parametrize(
    ("shape", "order"),
    [(("N", 3, 8, 8), (0, 3, 1, 2)), (("N", 8, 8, 3), (0, 1, 2, 3)), ((1, 3, 8, 8), (0, 3, 1, 2))],
)
def test_the_layout_is_the_models(folder: Path, shape: tuple[int, ...], order: tuple[int, ...]) -> None:
    plain = np.stack([pixels(8, 8, n) for n in (2, 0, 1)]).astype(np.float32)
    np.testing.assert_allclose(
        loaded(folder, reads(*shape), "unit"), (plain / 255).transpose(order), rtol=1e-6
    )


def test_bgr_takes_means_in_its_own_order(folder: Path) -> None:
    found = loaded(folder, reads("N", 3, 8, 8), preprocessing.Preprocess(mean=(1, 2, 3), channels="BGR"))
    assert found[0, :, 0, 0].tolist() == (pixels(8, 8, 2)[0, 0, ::-1] - np.float32([1, 2, 3])).tolist()


def test_gray(folder: Path) -> None:
    found = loaded(folder, reads("N", 1, 8, 8), "unit-gray")
    luma = pixels(8, 8, 2).astype(np.float64) @ [0.299, 0.587, 0.114] / 255
    np.testing.assert_allclose(found[0, 0], luma, atol=1 / 255)


def test_uint8_models_get_pixels(folder: Path) -> None:
    found = loaded(folder, reads("N", 8, 8, 3, dtype=np.uint8), "raw")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[1], pixels(8, 8, 0))


def test_float16_models_get_float16(folder: Path) -> None:
    assert loaded(folder, reads("N", 3, 8, 8, dtype=np.float16), "unit").dtype == np.float16


def test_a_file_says_everything(folder: Path, tmp_path: Path) -> None:
    file = toml(
        tmp_path / "p.toml",
        'scale = 0.5\nmean = [1.0, 2.0, 3.0]\nstd = 4\nchannels = "BGR"\nlayout = "NHWC"\nsize = [4, 6]\n'
        'resize = 8\ninterpolation = "bicubic"\n',
    )
    found = loaded(folder, reads("N", None, None, 3), file)
    plain = pixels(8, 8, 2)[2:6, 1:7, ::-1].astype(np.float32)
    np.testing.assert_allclose(found[0], (plain * 0.5 - np.float32([1, 2, 3])) / 4, rtol=1e-6)


def test_a_file_builds_on_a_preset(folder: Path, tmp_path: Path) -> None:
    file = toml(tmp_path / "p.toml", 'preset = "imagenet"\nresize = 10\n')
    found = preprocessing.preset(file)
    assert (found.mean, found.resize, found.crop) == (preprocessing.PRESETS["imagenet"].mean, 10, None)


def test_the_shorter_side_is_scaled_and_the_middle_cut_out(tmp_path: Path) -> None:
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:, 40:60] = 255
    Image.fromarray(picture).save(tmp_path / "wide.png")
    found = loaded(tmp_path, reads("N", 3, 20, 20), preprocessing.Preprocess(resize=20))
    assert found[0, :, :, 6:14].min() == 255 and found[0, :, :, :3].max() == 0
    stretched = loaded(tmp_path, reads("N", 3, 20, 20), "raw")
    assert stretched[0, :, :, 9:11].min() == 255 and stretched[0, :, :, :6].max() == 0


def test_images_stand_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels(8, 8)).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(loaded(tmp_path, reads("N", 8, 8, 3), "raw")[0], pixels(8, 8)[::-1, ::-1])


@pytest.mark.parametrize("preset", preprocessing.PRESETS)
def test_every_preset_fits_a_model_that_leaves_the_size_open(folder: Path, preset: str) -> None:
    wanted = preprocessing.preset(preset)
    size = None if wanted.open_size else 8
    found = loaded(folder, reads("N", preprocessing.CHANNELS[wanted.channels], size, size), preset)
    assert found.shape[2] == (wanted.open_size or 8)
    assert np.all(np.isfinite(found))


def test_memory_is_that_of_the_arrays(tmp_path: Path) -> None:
    for number in range(60):
        Image.fromarray(pixels(100, 100, number)).save(tmp_path / f"{number:03}.png")
    source = io.load(reads("N", 3, 96, 96)).model
    Images(tmp_path, "unit").load(source)  # so that imports are not counted
    tracemalloc.start()
    try:
        (array,) = Images(tmp_path, "unit").load(source).values()
        assert tracemalloc.get_traced_memory()[1] < 1.25 * array.nbytes
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- through the command


def test_optimize_and_verify_take_images(tmp_path: Path) -> None:
    weights = {"w": weight(24, 3, 3, 3), "v": weight(24, 24, 3, 3, seed=1)}
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [node("Conv", "x w", "a", "first", **pads), node("Relu", "a", "r", "relu")]
    nodes.append(node("Conv", "r v", "y", "second", **pads))
    path = saved(model(nodes, weights, inputs={"x": ["N", 3, 12, 12]}), tmp_path / "model.onnx")
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(16):
        Image.fromarray(pixels(20, 24, number)).save(photos / f"{number:02}.png")
    given = ("--calibration", photos, "--preprocess", "imagenet")
    done = cli("optimize", path, "-o", tmp_path / "out.onnx", "--budget", "macs=0.7", *given)
    assert done.code == 0, done.err
    assert "quality on 4 held-out inputs" in done.out
    done = cli("verify", path, tmp_path / "out.onnx", "--budget", "sqnr=1", *given)
    assert done.code == 0, done.err
    assert "on 16 inputs" in done.out


def refused(folder: Path, proto: onnx.ModelProto, preprocess: str | Path, *naming: str) -> None:
    with pytest.raises(InputError) as caught:
        loaded(folder, proto, preprocess)
    message = str(caught.value)
    assert "\n" not in message
    for part in naming:
        assert part in message, message


FITTING = reads("N", 3, 8, 8)


@pytest.mark.parametrize(
    ("proto", "preprocess", "naming"),
    [
        (FITTING, "imagenett", ("did you mean imagenet?",)),
        (FITTING, "missing.toml", ("missing.toml",)),
        (reads("N", 1, 8, 8), "imagenet", ("3 channels", "float32[?, 1, 8, 8]")),
        (reads("N", 3, 8, 8), "mnist", ("1 channels (GRAY)",)),
        (reads("N", 12), "imagenet", ("no batch of images",)),
        (reads("N", 3, 8, 8, dtype=np.int64), "raw", ("int64", "float or uint8")),
        (reads("N", 3, 8, 8, dtype=np.uint8), "imagenet", ("use raw",)),
        (reads("N", 3, None, 8), "unit", ("leaves the size open",)),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_a_preset_that_does_not_fit(
    folder: Path, proto: onnx.ModelProto, preprocess: str, naming: tuple[str, ...]
) -> None:
    refused(folder, proto, preprocess, *naming)


@pytest.mark.parametrize(
    ("text", "naming"),
    [
        ("means = [1, 2, 3]", ("no key 'means'", "did you mean mean?")),
        ('mean = "x"', ("mean = 'x'",)),
        ("mean = [1, 2]", ("mean has 2 values",)),
        ("std = 0", ("above 0",)),
        ("size = [8]", ("size = [8]",)),
        ("size = 9", ("makes 9×9", "float32[?, 3, 8, 8]")),
        ("resize = 4", ("resize = 4 is too small",)),
        ("resize = 9\ncrop = 0.5", ("give one",)),
        ("crop = 2", ("(0, 1]",)),
        ('layout = "NHWC"', ("3 channels (RGB) as NHWC",)),
        ('channels = "RBG"', ("did you mean RGB?",)),
        ('preset = "imagnet"', ("did you mean imagenet?",)),
        ("mean = ", ("no valid TOML",)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_can_not_be_used(
    folder: Path, tmp_path: Path, text: str, naming: tuple[str, ...]
) -> None:
    refused(folder, FITTING, toml(tmp_path / "p.toml", text), "p.toml", *naming)


def test_folders_that_can_not_be_used(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", FITTING, "unit", "no such folder")
    refused(tmp_path, FITTING, "unit", "holds no image")
    Image.fromarray(pixels(8, 8).astype(np.uint16)[..., 0] * 200).save(folder / "deep.png")
    refused(folder, FITTING, "unit", "deep.png", "more than 8 bits")
    (folder / "deep.png").write_bytes((folder / "b.png").read_bytes()[:80])
    refused(folder, FITTING, "unit", "deep.png", "no readable image")
    np.save(folder / "inputs.npy", np.zeros((2, 3, 8, 8), np.float32))
    refused(folder, FITTING, "unit", "holds images (a.webp) and arrays (inputs.npy)")


def test_the_command_refuses_in_one_line(folder: Path, tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path / "model.onnx")
    for given, naming in (
        (("--calibration", folder), "with --preprocess (imagenet"),
        (("--preprocess", "imagenet"), "name their folder with --calibration"),
        (("--calibration", folder, "--preprocess", "imagenet"), "does not take 3 channels"),
    ):
        done = cli("optimize", path, "--dry-run", "--budget", "macs=0.7", *given)
        assert done.code == 2 and done.out == ""
        assert naming in done.err and done.err.count("\n") == 1


# ---------------------------------------------------------------- photographs


@pytest.mark.skipif(not SQUEEZENET.is_file(), reason="the real models are not there (../shared/data)")
def test_photographs_for_squeezenet(tmp_path: Path) -> None:
    """As a plain NumPy computation makes them, and as the network recognises them."""
    chosen = sorted(PHOTOS.glob("*.jpg"))[:12]
    for path in chosen:
        (tmp_path / path.name).symlink_to(path)
    source = io.load(SQUEEZENET)
    (found,) = Images(tmp_path, "imagenet").load(source.model).values()
    assert found.shape == (12, 3, 224, 224)
    for array, path in zip(found, chosen, strict=True):
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        shorter = min(picture.size)
        width, height = (256 * side // shorter for side in picture.size)
        scaled = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
        top, left = round((height - 224) / 2), round((width - 224) / 2)
        plain = scaled[top : top + 224, left : left + 224]
        plain = (plain - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
        np.testing.assert_allclose(array, plain.transpose(2, 0, 1), atol=1e-5)
    assert graphopt.verify(SQUEEZENET, SQUEEZENET, Images(tmp_path, "imagenet"))


# ---------------------------------------------------------------- the guide


def test_the_file_that_the_guide_shows(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "inputs.md").read_text(encoding="utf-8")
    text = guide.split("```toml\n", 1)[1].split("```", 1)[0]
    Image.fromarray(pixels(300, 400)).save(tmp_path / "a.png")
    found = loaded(tmp_path, reads("N", None, None, 3), toml(tmp_path / "photos.toml", text))
    assert found.shape == (1, 224, 192, 3)


def test_the_guide_names_every_preset() -> None:
    guide = (ROOT / "docs" / "inputs.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in guide for name in preprocessing.PRESETS)
