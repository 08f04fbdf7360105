"""The trade-off of one model between cost and quality, and the layers that it hangs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphopt.analysis.linear import Linear
from graphopt.model.io import Source
from graphopt.report.results.run import Point
from graphopt.types import Candidate, Totals


@dataclass(frozen=True, slots=True)
class Sweep:
    """The whole trade-off of one model between cost and quality.

    Attributes:
        source: the input.
        before: the input's figures.
        points: the networks that were made, by falling cost.
        notes: what the reader has to know besides.
        seconds: wall time by step.
        options: the options of the run.
    """

    source: Source
    before: Totals
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Halved:
    """What halving a layer would do.

    Attributes:
        candidate: the form that takes at most half of its MACs with the smallest error.
        damage: mean squared change of the network's output over its variance, of this alone.
    """

    candidate: Candidate
    damage: float


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """How much the network's quality hangs on a layer.

    Attributes:
        linear: the layer.
        share: its part of the model's MACs, 0 to 1; None where it is unknown.
        probes: what was probed: relative error of the layer, and mean squared change of the network's output
            over its variance, the damage.
        damage: at the error at which layers are compared.
        halved: what halving it would do; None where no form halves it.
    """

    linear: Linear
    share: float | None
    probes: tuple[tuple[float, float], ...]
    damage: float
    halved: Halved | None

    @property
    def cost(self) -> float:
        """What it is ranked by: the damage of halving it, or of the even error where no form does."""
        return self.damage if self.halved is None else self.halved.damage


@dataclass(frozen=True, slots=True)
class Sensitivities:
    """The layers of a model by what cutting them costs its quality.

    Attributes:
        source: the input.
        before: the input's figures.
        layers: those that could be made cheaper, that which costs the most first.
        error: at which layers are compared with each other.
        notes: what the reader has to know besides.
        seconds: wall time by step.
        options: the options of the run.
    """

    source: Source
    before: Totals
    layers: tuple[LayerSensitivity, ...]
    error: float
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
