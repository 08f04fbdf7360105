"""How an image becomes an input of a network: the settings, and where they are read from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from graphopt import files
from graphopt.errors import InputError, Named, hint
from graphopt.files import show

CHANNELS = {"RGB": 3, "BGR": 3, "GRAY": 1}
"""Number of channels by order."""
LAYOUTS = {"NCHW": (1, (2, 3)), "NHWC": (3, (1, 2))}
"""Axis of the channels, and axes of height and width, by layout."""
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest")
DEEP_MODES = ("I", "F")
"""What Pillow's modes of more than 8 bits a channel begin with."""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image becomes an input.

    Attributes:
        scale: factor of the pixels, which are 0 to 255.
        mean: taken off after that; one number, or one a channel in the order of ``channels``.
        std: what is divided by then, likewise.
        channels: ``RGB``, ``BGR`` or ``GRAY``.
        layout: ``NCHW`` or ``NHWC``; the model's own where None.
        size: height and width of the input; the model's own where None.
        resize: pixels to which the shorter side is scaled before the middle is cut out.
        crop: the part of the scaled image that is cut out, in (0, 1]; instead of ``resize``. With neither the
            image is stretched.
        interpolation: ``bilinear``, ``bicubic``, ``lanczos`` or ``nearest``.
        open_size: the size where neither the model nor ``size`` fixes it.
        name: of the preset or the file.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: str = "RGB"
    layout: str | None = None
    size: tuple[int, int] | None = None
    resize: int | None = None
    crop: float | None = None
    interpolation: str = "bilinear"
    open_size: int | None = None
    name: str = ""


PRESETS = {
    "imagenet": Preprocess(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop=0.875, open_size=224),
    "imagenet-caffe": Preprocess(1.0, (103.939, 116.779, 123.68), channels="BGR", crop=0.875, open_size=224),
    "inception": Preprocess(1 / 127.5, (1.0,), crop=0.875, open_size=299),
    "clip": Preprocess(
        1 / 255,
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
        crop=1.0,
        interpolation="bicubic",
        open_size=224,
    ),
    "cifar10": Preprocess(1 / 255, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), open_size=32),
    "mnist": Preprocess(1 / 255, (0.1307,), (0.3081,), channels="GRAY", open_size=28),
    "unit": Preprocess(1 / 255),
    "unit-gray": Preprocess(1 / 255, channels="GRAY"),
    "raw": Preprocess(),
}
"""Preprocessing by name: torchvision's for ImageNet, Caffe's and Keras's ``caffe`` mode, TensorFlow's −1 to
1, CLIP's, those customary for CIFAR-10 and MNIST, pixels of 0 to 1, and pixels as they are."""


def preset(given: str | os.PathLike[str]) -> Preprocess:
    """The preprocessing of a preset's name or of a TOML file.

    Raises:
        InputError: there is no such preset or file, or a key of the file is unknown or has a wrong value.
    """
    text = os.fspath(given)
    if text in PRESETS:
        return replace(PRESETS[text], name=text)
    path = Path(given)
    if path.suffix != ".toml" and not files.kind_of(path):
        raise InputError(f"{Named('preprocess', text)}: no such preset or TOML file; {hint(text, PRESETS)}")
    found = replace(_from_table(files.read_toml(path), show(path)), name=str(path))
    require_valid(found)
    return found


def _from_table(table: Mapping[str, Any], where: str) -> Preprocess:
    base = Preprocess()
    if "preset" in table:
        named = table["preset"]
        if not isinstance(named, str) or named not in PRESETS:
            raise InputError(f"{where}: preset: no preset {named!r}; {hint(str(named), PRESETS)}")
        base = PRESETS[named]
    keys = [f.name for f in fields(Preprocess) if f.name not in ("open_size", "name")]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key == "preset":
            continue
        if key not in keys:
            raise InputError(f"{where}: no key {key!r}; {hint(key, ['preset', *keys])}")
        values[key] = _value(key, value, where)
    if values.keys() & {"resize", "crop"} and not {"resize", "crop"} <= values.keys():
        values = {"resize": None, "crop": None, **values}  # one takes the place of the preset's other
    return replace(base, **values)


def _value(key: str, value: Any, where: str) -> Any:
    """A key's value in the type of its field."""
    if key in ("mean", "std"):
        listed = value if isinstance(value, list) else [value]
        if listed and all(files.is_number(item) for item in listed):
            return tuple(float(item) for item in listed)
        raise InputError(
            f"{where}: {key} = {value!r}: expected a number or one a channel, such as [0.5, 0.5, 0.5]"
        )
    if key == "size":
        sides = value if isinstance(value, list) else [value, value]
        if len(sides) == 2 and all(_is_whole(side) for side in sides):
            return tuple(sides)
        raise InputError(f"{where}: size = {value!r}: expected pixels, such as 224 or [height, width]")
    if key in ("scale", "crop"):
        if files.is_number(value):
            return float(value)
        raise InputError(f"{where}: {key} = {value!r}: expected a number")
    if key == "resize":
        if _is_whole(value):
            return value
        raise InputError(f"{where}: resize = {value!r}: expected pixels of the shorter side, such as 256")
    if isinstance(value, str):
        return value
    raise InputError(f"{where}: {key} = {value!r}: expected a text")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def require_valid(wanted: Preprocess) -> None:
    """Refuses values that make no sense together.

    Raises:
        InputError: one does.
    """
    where = Named("preprocess", wanted.name)
    choices: tuple[tuple[str, str | None, Sequence[str]], ...] = (
        ("channels", wanted.channels, list(CHANNELS)),
        ("layout", wanted.layout, list(LAYOUTS)),
        ("interpolation", wanted.interpolation, INTERPOLATIONS),
    )
    for key, value, known in choices:
        if value is not None and value not in known:
            raise InputError(f"{where}: {key} = {value!r}: {hint(value, known)}")
    count = CHANNELS[wanted.channels]
    for key, numbers in (("mean", wanted.mean), ("std", wanted.std)):
        if len(numbers) not in (1, count):
            raise InputError(
                f"{where}: {key} has {len(numbers)} values, {wanted.channels} has {count} channels"
            )
    if any(number <= 0 for number in wanted.std) or wanted.scale <= 0:
        raise InputError(f"{where}: std and scale are above 0")
    if wanted.resize is not None and wanted.crop is not None:
        raise InputError(f"{where}: resize and crop are two ways to say the same: give one")
    if wanted.crop is not None and not 0 < wanted.crop <= 1:
        raise InputError(f"{where}: crop = {wanted.crop:g}: expected a fraction in (0, 1]")
