"""The figures of a model, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.analysis.linear import Linear
from graphopt.model.io import Source
from graphopt.types import Exactness, Totals


@dataclass(frozen=True, slots=True)
class Opportunity:
    """Something that could be done to an operator, and the MACs that would be left."""

    rewrite: str
    exactness: Exactness
    macs_after: int | None


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One linear operator.

    Attributes:
        linear: the operator.
        runs: how often one run of the model runs it; None where that is unknown.
        share: its part of the model's MACs, 0 to 1; None where it is unknown.
        opportunities: what could be done to it.
        seconds: what all its runs take at one thread; None where that is unknown, or where no kernel was
            measured that is its own.
    """

    linear: Linear
    runs: int | None
    share: float | None
    opportunities: tuple[Opportunity, ...]
    seconds: float | None = None

    @property
    def macs(self) -> int | None:
        """The MACs of all its runs; of one where nobody knows how many there are."""
        return (
            None if self.linear.macs is None else self.linear.macs * (1 if self.runs is None else self.runs)
        )


@dataclass(frozen=True, slots=True)
class KindRow:
    """The operators of a kind that are not linear, or the kernels that onnxruntime runs for them.

    Attributes:
        op: the kind.
        number: how many there are.
        seconds: what all their runs take at one thread.
    """

    op: str
    number: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Scan:
    """The figures of a model.

    Attributes:
        source: the model.
        totals: its figures.
        rows: its linear operators, the dearest first.
        uncounted_ops: operators that do work and whose MACs are not counted.
        unknown_dims: sizes that nothing told.
        observed_shapes: values whose shape was seen by running the model.
        notes: what the reader has to know besides.
        others: the other operators by kind, those that take longest first; None where sizes are unknown.
        measured: whether seconds were measured; else a static time model expects them.
    """

    source: Source
    totals: Totals
    rows: tuple[LayerRow, ...]
    uncounted_ops: Mapping[str, int]
    unknown_dims: tuple[str, ...]
    observed_shapes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    others: tuple[KindRow, ...] | None = None
    measured: bool = False

    @property
    def seconds(self) -> float | None:
        """What one run of the model takes in its operators; None where that of any is unknown."""
        linear = [row.seconds for row in self.rows]
        known = [each for each in linear if each is not None]
        if self.others is None or (len(known) < len(linear) and not self.measured):
            return None
        return sum(known) + sum(row.seconds for row in self.others)
