"""Numbers, whatever they are of: how near they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.measures.base import Measure, Numbers, Row, Sample, decibels, is_real, the_output
from graphopt.types import Figure


@dataclass(frozen=True, kw_only=True)
class Regression(Measure[str, Numbers]):
    """Numbers. An answer is an array of them.

    Attributes:
        peak: the range of the numbers; where not said, from the lowest to the highest that is right.
    """

    peak: float | None = None

    FIGURES = (
        Figure("psnr", "the squared range to the mean squared error", unit="dB", least=None),
        Figure("r2", "variance that is explained, mean over the numbers of an output", least=None),
    )
    EXPECTS = "an output of floating point numbers"
    LABELS = "the right numbers for each input, laid out like the output"
    LEAST = 2

    def __post_init__(self) -> None:
        if self.peak is not None and self.peak <= 0:
            raise ValueError(f"peak: {self.peak:g} is no range")

    def layout(self, sample: Sample) -> str:
        """The output with numbers."""
        return the_output(sample, is_real)

    def read(self, outputs: Mapping[str, Numbers], layout: str) -> Numbers:
        """The numbers."""
        return outputs[layout].astype(np.float64)

    def combined(self, compared: Sequence[Row], layout: str) -> dict[str, float]:
        """How near the numbers come; those of one place of the output by their own variance over inputs."""
        count, error, low, high = 0, 0.0, np.inf, -np.inf
        sums: list[Numbers] = []
        alike = True
        for row in compared:
            truth, got = np.asarray(row.truth, np.float64), row.got
            truth = truth.reshape(got.shape)
            gap = (truth - got) ** 2
            count, error = count + 1, error + float(gap.mean())
            low, high = min(low, float(truth.min())), max(high, float(truth.max()))
            alike = alike and (not sums or sums[0].shape == truth.shape)
            if alike:
                parts = [truth, truth**2, gap]
                sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts
        if count < self.LEAST:
            return {"psnr": np.nan, "r2": np.nan}
        peak = high - low if self.peak is None else self.peak
        psnr = decibels(peak**2, error / count) if peak else np.nan
        return {"psnr": psnr, "r2": _explained(sums, count) if alike else np.nan}


def _explained(sums: list[Numbers], count: int) -> float:
    """The mean coefficient of determination, of places whose numbers vary."""
    total, squares, errors = sums
    spread = squares - total**2 / count
    varies = spread > 1e-9 * max(float(spread.max()), 0.0)
    return float((1 - errors[varies] / spread[varies]).mean()) if varies.any() else float("nan")


MEASURE = Regression
