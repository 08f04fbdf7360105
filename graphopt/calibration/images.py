"""Folders of images as calibration inputs, preprocessed as the network was trained to see them.

A pixel p of 0 to 255 becomes (p × scale − mean) ÷ std, channel by channel, in float32. Before that the image
is turned upright, converted to the channels that the network reads, and brought to its size: either stretched
to it, or scaled so that its middle part of that size is cut out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt import progress
from graphopt.analysis.shapes.inputs import fixed
from graphopt.calibration.preprocessing import (
    CHANNELS,
    DEEP_MODES,
    LAYOUTS,
    PRESETS,
    Preprocess,
    preset,
    require_valid,
)
from graphopt.errors import InputError, Named, lacking
from graphopt.files import kind_of

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
"""What names of image files end with, in lower case."""


@dataclass(frozen=True)
class Images:
    """A folder of images as calibration inputs of a model with one input.

        graphopt.optimize("model.onnx", {"macs": 0.7}, calibration=graphopt.Images("photos", "imagenet"))

    Args:
        folder: the folder; its images are taken in the order of their names.
        preprocess: the name of a preset, a TOML file, or a `Preprocess`.

    Raises:
        InputError: when they are read: no such folder, preset or key, an image that can't be read, or an
            input that the model does not take. Pillow is needed: ``pip install 'graphopt[images]'``.
    """

    folder: str | os.PathLike[str]
    preprocess: str | os.PathLike[str] | Preprocess

    @cached_property
    def files(self) -> list[Path]:
        """The image files, by name."""
        folder = Path(self.folder)
        if kind_of(folder) != "folder":
            raise InputError(f"{folder}: no such folder of images")
        found, arrays = contents(folder)
        if found and arrays:
            raise InputError(
                f"{folder}: holds images ({found[0].name}) and arrays ({arrays[0].name}): "
                "calibration inputs are one or the other"
            )
        if not found:
            listed = ", ".join(sorted(SUFFIXES))
            what = (
                f"arrays ({arrays[0].name}), which take no {Named('preprocess')}"
                if arrays
                else f"no image ({listed})"
            )
            raise InputError(f"{folder}: the folder holds {what}")
        return found

    def load(self, model: ir.Model) -> dict[str, npt.NDArray[Any]]:
        """The inputs by name of the model's input, in its type: one array, and no more memory than that."""
        wanted = preset(self.preprocess) if not isinstance(self.preprocess, Preprocess) else self.preprocess
        require_valid(wanted)
        files = self.files
        name, dtype, layout, size = _fitted(wanted, model)
        count = CHANNELS[wanted.channels]
        shape = (count, *size) if layout == "NCHW" else (*size, count)
        inputs = np.empty((len(files), *shape), dtype)
        for i, file in enumerate(progress.track(files, "images", describe=lambda path: path.name)):
            pixels = normalised(_pixels(file, wanted, size), wanted)
            if dtype.kind == "u":
                pixels = np.rint(pixels)
            inputs[i] = pixels.transpose(2, 0, 1) if layout == "NCHW" else pixels
        return {name: inputs}


def contents(folder: Path) -> tuple[list[Path], list[Path]]:
    """The image files and the array files of a folder, each by name."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    return images, [path for path in files if path.suffix in (".npy", ".npz")]


def refuse(folder: Path) -> None:
    """Refuses a folder of images for which nobody said how they are preprocessed.

    Raises:
        InputError: it holds images.
    """
    found, _ = contents(folder)
    if found:
        names = ", ".join(PRESETS)
        raise InputError(
            f"{folder}: holds images ({found[0].name}): say how the network sees them with "
            f"{Named('preprocess')} ({names}, or a TOML file)"
        )


def normalised(pixels: npt.NDArray[np.uint8], wanted: Preprocess) -> npt.NDArray[np.float32]:
    """Pixels [H, W, C] of 0 to 255 as the network reads them, channels last."""
    scale = np.float32(wanted.scale)
    mean, std = (np.asarray(values, np.float32) for values in (wanted.mean, wanted.std))
    result: npt.NDArray[np.float32] = (pixels.astype(np.float32) * scale - mean) / std
    return result


# ---------------------------------------------------------------- against the model


def _fitted(wanted: Preprocess, model: ir.Model) -> tuple[str, np.dtype[Any], str, tuple[int, int]]:
    """Name and type of the model's input, its layout, and height and width of the images for it."""
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    where = Named("preprocess", wanted.name)
    if len(inputs) != 1:
        listed = ", ".join(str(value.name) for value in inputs)
        raise InputError(f"{where}: images feed a model with one input, this one has {listed}: give an .npz")
    (value,) = inputs
    dtype = np.dtype(value.dtype.numpy()) if value.dtype is not None else np.dtype(np.float32)
    shape = [fixed(d) for d in value.shape] if value.shape is not None else [None] * 4
    sizes = ", ".join("?" if d is None else str(d) for d in shape)
    takes = f"the model's input {value.name!r} is {dtype}[{sizes}]"
    if len(shape) != 4:
        raise InputError(f"{where}: {takes}, no batch of images")
    if dtype.kind not in "fVu" or (dtype.kind == "u" and dtype != np.uint8):
        raise InputError(f"{where}: {takes}: images make float or uint8 inputs")
    if dtype == np.uint8 and (wanted.scale != 1 or any(wanted.mean) or any(s != 1 for s in wanted.std)):
        raise InputError(f"{where}: {takes}, so that it takes pixels as they are: use raw")
    layout = _layout(wanted, shape, f"{where}: {takes}")
    sides = [shape[axis] for axis in LAYOUTS[layout][1]]
    return value.name or "", dtype, layout, _size(wanted, sides, f"{where}: {takes}")


def _layout(wanted: Preprocess, shape: Sequence[int | None], lead: str) -> str:
    count = CHANNELS[wanted.channels]
    possible = [name for name in LAYOUTS if wanted.layout in (None, name)]
    fitting = [name for name in possible if shape[LAYOUTS[name][0]] in (None, count)]
    known = [name for name in fitting if shape[LAYOUTS[name][0]] == count]
    if not fitting:
        layouts = " or ".join(possible)
        raise InputError(f"{lead}, which does not take {count} channels ({wanted.channels}) as {layouts}")
    return (known or fitting)[0]


def _size(wanted: Preprocess, sides: Sequence[int | None], lead: str) -> tuple[int, int]:
    """Height and width of the model's input."""
    found = []
    for axis, side in enumerate(sides):
        asked = wanted.size[axis] if wanted.size is not None else None
        if side is not None and asked is not None and side != asked:
            height, width = wanted.size or (0, 0)
            raise InputError(f"{lead}, the preprocessing makes {height}×{width}")
        chosen = side or asked or wanted.open_size
        if chosen is None:
            raise InputError(f"{lead}, which leaves the size open: give size in a TOML file")
        found.append(chosen)
    if wanted.resize is not None and wanted.resize < max(found):
        raise InputError(f"{lead}: resize = {wanted.resize} is too small to cut {found[0]}×{found[1]} out")
    return found[0], found[1]


# ---------------------------------------------------------------- reading


def _missing(what: object) -> InputError:
    return InputError(lacking(str(what), "images"))


def _pixels(path: Path, wanted: Preprocess, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The image [H, W, C] at the input's size, its channels in the wanted order.

    Raises:
        InputError: the file can't be read.
    """
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise _missing(Named("preprocess")) from error
    try:
        with Image.open(path) as opened:
            if opened.mode.startswith(DEEP_MODES):
                raise InputError(f"{path}: has more than 8 bits a channel (mode {opened.mode}): convert it")
            upright = ImageOps.exif_transpose(opened)
            image = upright.convert("L" if wanted.channels == "GRAY" else "RGB")
    except InputError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise InputError(f"{path}: no readable image: {' '.join(str(error).split())}") from error
    method = Image.Resampling[wanted.interpolation.upper()]
    height, width = scaled_size((image.height, image.width), wanted, size)
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and height * width > 2 * most:  # where Pillow refuses to read one
        raise InputError(
            f"{path}: of {image.width}x{image.height} pixels, would be scaled to {width}x{height}"
        )
    if (image.height, image.width) != (height, width):
        image = image.resize((width, height), method)
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    pixels = np.asarray(image.crop((left, top, left + size[1], top + size[0])), np.uint8)
    pixels = pixels.reshape(*size, CHANNELS[wanted.channels])
    return pixels[..., ::-1] if wanted.channels == "BGR" else pixels


def scaled_size(image: tuple[int, int], wanted: Preprocess, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width to which an image is scaled, before the middle of it is cut out.

    Args:
        image: its height and width.
        wanted: how it is preprocessed.
        size: height and width of the input.

    Returns:
        Height and width in pixels, at least those of the input.
    """
    if wanted.resize is not None:
        shorter = min(image)
        height, width = (wanted.resize * side // shorter for side in image)
    elif wanted.crop is not None:
        height, width = (round(side / wanted.crop) for side in size)
        if image[1] * height >= image[0] * width:  # wider than the input: its height decides
            width = image[1] * height // image[0]
        else:
            height = image[0] * width // image[1]
    else:
        return size
    return max(height, size[0]), max(width, size[1])
