"""What the user wants of the result."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.types import Figure


@dataclass(frozen=True, slots=True)
class Budget:
    """What the result has to reach; fractions of the input file as given, in (0, 1].

    Attributes:
        macs: at most this part of the MACs.
        params: at most this part of the parameters.
        bytes: at most this part of the file size.
        latency: at most this part of the latency.
        agreement: at least this part of equal top-1 classes.
        sqnr: at least this signal-to-quantisation-noise ratio, in dB.
        metric: at least this value of the measure that was named, of a ready one its headline.
        figures: figures of a ready measure, at least these, or at most where they fall.
    """

    macs: float | None = None
    params: float | None = None
    bytes: float | None = None
    latency: float | None = None
    agreement: float | None = None
    sqnr: float | None = None
    metric: float | None = None
    figures: tuple[tuple[Figure, float], ...] = ()

    @property
    def asks_quality(self) -> bool:
        """Whether a quality is asked for."""
        asked = any(value is not None for value in (self.agreement, self.sqnr, self.metric))
        return asked or bool(self.figures)

    @property
    def asks_cost(self) -> bool:
        """Whether a cost is asked for."""
        return any(value is not None for value in (self.macs, self.params, self.bytes, self.latency))
