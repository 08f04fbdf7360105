"""Images: how near they come, by PSNR, and by structural similarity (SSIM; Wang et al. 2004)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.measures.base import Measure, Numbers, Row, Sample, decibels, is_real, the_output
from graphopt.types import Figure

CHANNELS = (1, 3, 4)
"""Channels of an image, by definition: gray, colours, and colours with transparency."""
SIGMA, RADIUS = 1.5, 5
"""Deviation and radius of the window of SSIM, 11 x 11 (Wang et al. 2004)."""
STABLE = (0.01, 0.03)
"""The constants that keep SSIM's quotients finite, parts of the range (Wang et al. 2004)."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """How images are read: the output, the axis of its channels, and the range of its values."""

    output: str
    axis: int
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Image(Measure[Pixels, Numbers]):
    """Pictures. An answer is an image [C, H, W], clipped to its range and scaled to 0 to 1.

    Attributes:
        low: what black is; where not said, 0, or -1 where values are about as often below 0 as above.
        high: what white is; where not said, 1, or 255 where values go beyond 2.
    """

    low: float | None = None
    high: float | None = None

    FIGURES = (
        Figure("psnr", "peak signal to noise, mean over the images", unit="dB", least=None),
        Figure("ssim", "structural similarity, mean over the images", least=-1.0),
    )
    EXPECTS = "images [N, C, H, W] or [N, H, W, C] of 1, 3 or 4 channels"
    LABELS = "the right image for each input, laid out and scaled like the output"

    def __post_init__(self) -> None:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low={self.low:g} is not below high={self.high:g}")

    def layout(self, sample: Sample) -> Pixels:
        """How images are read."""
        name = the_output(sample, _is_image)
        array = sample.outputs[name]
        high = (255.0 if array.max() > 2 else 1.0) if self.high is None else self.high
        signed = high == 1.0 and array.min() < -0.5
        low = (-1.0 if signed else 0.0) if self.low is None else self.low
        return Pixels(name, 1 if array.shape[1] in CHANNELS else 3, low, high)

    def read(self, outputs: Mapping[str, Numbers], layout: Pixels) -> Numbers:
        """The image."""
        return _scaled(outputs[layout.output][0], layout)

    def compared(self, row: Row, layout: Pixels) -> tuple[float, float]:
        """How near one image comes."""
        truth = row.wanted if row.label is None else _scaled(np.asarray(row.label), layout)
        return decibels(1.0, float(((truth - row.got) ** 2).mean())), ssim(truth, row.got)

    def combined(self, compared: Sequence[tuple[float, float]], layout: Pixels) -> dict[str, float]:
        """How near the images come."""
        psnr, similarity = np.mean(compared, axis=0) if compared else (np.nan, np.nan)
        return {"psnr": float(psnr), "ssim": float(similarity)}


def ssim(a: Numbers, b: Numbers) -> float:
    """The mean structural similarity of two images [C, H, W] of a range of 1.

    By a Gaussian window, over the pixels at which it lies inside; NaN for images that are smaller than it.
    """
    if min(a.shape[1:]) <= 2 * RADIUS:
        return float("nan")
    mean_a, mean_b, aa, bb, ab = (_smooth(x) for x in (a, b, a * a, b * b, a * b))
    low, high = (constant**2 for constant in STABLE)
    cover, spread = ab - mean_a * mean_b, aa + bb - mean_a**2 - mean_b**2
    found = (2 * mean_a * mean_b + low) * (2 * cover + high)
    return float((found / ((mean_a**2 + mean_b**2 + low) * (spread + high))).mean())


def _smooth(image: Numbers) -> Numbers:
    """The mean by the window at every pixel around which it fits."""
    taps = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / SIGMA) ** 2)
    taps /= taps.sum()
    for axis in (1, 2):
        image = np.lib.stride_tricks.sliding_window_view(image, len(taps), axis) @ taps
    return image


def _scaled(image: Numbers, layout: Pixels) -> Numbers:
    image = np.asarray(image, np.float64)
    image = np.moveaxis(image, layout.axis - 1, 0)
    return np.clip((image - layout.low) / (layout.high - layout.low), 0, 1)


def _is_image(array: Numbers) -> bool:
    ends = array.ndim == 4 and len(array) == 1 and (array.shape[1] in CHANNELS or array.shape[3] in CHANNELS)
    return ends and is_real(array) and array[0].size > max(array.shape)


MEASURE = Image
