"""The types that the steps of the flow hand to each other. No logic beyond arithmetic on costs.

Graphs are referred to by name: a `Site` names nodes, a `Replacement` names values. So a candidate that was
found on one snapshot of a model can be built on another, printed, compared and sorted.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.floating]
"""A float array of any precision."""

Float64: TypeAlias = npt.NDArray[np.float64]
"""A float array of double precision."""

Choice: TypeAlias = "Mapping[str, int | float | str]"
"""What a rewrite chose at a site, by names that only the rewrite knows."""

Shape: TypeAlias = tuple["int | None", ...]
"""A shape of which some sizes may be unknown (None)."""

Dim: TypeAlias = "int | str | None"
"""A size: a number, the name of one that nobody gave, or unknown."""

Dims: TypeAlias = tuple[Dim, ...]
"""A shape of which some sizes may be known by name alone."""

MAIN_GRAPH = "main"
"""What `Site.graph` and the reports call the outermost graph."""


class Exactness(enum.Enum):
    """What a rewrite promises about the network's function."""

    EXACT = "exact"
    """Equal in real arithmetic: only rounding may differ."""
    APPROXIMATE = "approximate"
    """Differs by a measured error; only under a budget that the user names."""
    EXPANDING = "expanding"
    """Equal, but costs more; only on request, and alone."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What running some operators costs.

    Attributes:
        macs: multiply-accumulates (1 FLOP = half a MAC); None where a size is unknown.
        params: float elements in initializers.
        weight_bytes: bytes of those elements.
        activation_bytes: bytes of the operators' outputs; 0 where a size is unknown.
        seconds: what the static time model expects at one thread; 0.0 where a size is unknown.
    """

    macs: int | None
    params: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0
    seconds: float = 0.0

    @property
    def flops(self) -> int | None:
        """Floating-point operations: 2 × MACs."""
        return None if self.macs is None else 2 * self.macs

    def __add__(self, other: Cost) -> Cost:
        macs = None if self.macs is None or other.macs is None else self.macs + other.macs
        return Cost(
            macs,
            self.params + other.params,
            self.weight_bytes + other.weight_bytes,
            self.activation_bytes + other.activation_bytes,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True)
class Site:
    """The place of a rewrite.

    Attributes:
        graph: the path of the graph, `MAIN_GRAPH` or ``owner/attribute`` for a subgraph.
        nodes: the names of all nodes that the rewrite consumes; the first is the anchor.
    """

    graph: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to rewrite one site.

    Attributes:
        rewrite: the name of the rewrite.
        site: where it applies.
        before: cost of the consumed operators that go away.
        after: cost of the operators that take their place.
        error: predicted relative error of the output, E‖y − ŷ‖² / Var(y); 0.0 when exact.
        choice: all that `build` or `fit` needs to know beyond the site, such as ``{"rank_in": 32}``.
        form: how the choice reads in a report; graphopt asks the rewrite.
        beside: names of other nodes of the graph whose cost it changes too, which have to stay as they are.
        runs: how often one run of the model runs the site, 1 where that is unknown; its costs are those of
            one of them. graphopt counts.
    """

    rewrite: str
    site: Site
    before: Cost
    after: Cost
    error: float = 0.0
    choice: Choice = field(default_factory=dict, hash=False)
    form: str = field(default="", compare=False)
    beside: tuple[str, ...] = field(default=(), compare=False)
    runs: int = field(default=1, compare=False)

    @property
    def macs_before(self) -> int | None:
        """MACs of what goes away in one run of the model; None where a size is unknown."""
        return None if self.before.macs is None else self.before.macs * self.runs

    @property
    def macs_after(self) -> int | None:
        """MACs of what takes its place, likewise."""
        return None if self.after.macs is None else self.after.macs * self.runs

    @property
    def macs_saved(self) -> int:
        """MACs that the candidate saves in one run of the model; 0 where a size is unknown."""
        before, after = self.macs_before, self.macs_after
        return 0 if before is None or after is None else before - after

    @property
    def seconds_saved(self) -> float:
        """Seconds that it is expected to save in one run of the model; negative where it is slower."""
        return (self.before.seconds - self.after.seconds) * self.runs


@dataclass(frozen=True, slots=True)
class Rejection:
    """A site whose anchor matched but where a condition failed."""

    rewrite: str
    site: Site
    reason: str


AttributeValue: TypeAlias = "int | float | str | tuple[int, ...] | tuple[float, ...]"


@dataclass(frozen=True, slots=True)
class NewNode:
    """A node to be made. Input names are local to the replacement, or those of values in the graph.

    Attributes:
        op_type: the operator.
        inputs: names; None for an optional input that is left out.
        outputs: local names, unique within the replacement.
        attributes: attribute values by name.
        domain: the operator's domain.
        name: suffix for the node's name behind the anchor's; "" gives it the anchor's own name.
        anchor: name of the site's node in whose place it stands; "" for the site's first.
    """

    op_type: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    domain: str = ""
    name: str = ""
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Replacement:
    """A subgraph to put in a site's place: pure data, nothing in it belongs to a graph.

    Attributes:
        nodes: the new nodes, in topological order.
        constants: arrays by local name, which become initializers.
        outputs: name of each replaced value → local (or graph) name of the value that takes its place.
    """

    nodes: tuple[NewNode, ...]
    constants: Mapping[str, npt.NDArray[np.generic]]
    outputs: Mapping[str, str]


class Change(NamedTuple):
    """A candidate, and what takes its place."""

    candidate: Candidate
    replacement: Replacement


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A replacement of one linear operator that was fitted to data, and what it amounts to.

    Attributes:
        replacement: what takes the operator's place.
        kernel: the kernel of the whole replacement, ``[out, in / group, *taps]``.
        bias: its bias, ``[out]``.
        error: E‖y − ŷ‖² / Var(y) under the statistics that it was fitted to.
        spectra: the part of the output that each direction carries, descending, by the key of the choice
            that says how many of them are kept.
    """

    replacement: Replacement
    kernel: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]
    error: float
    spectra: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Totals:
    """The figures of a whole model.

    Attributes:
        macs: multiply-accumulates of the linear operators; None where a size is unknown.
        params: distinct float elements of initializers.
        weight_bytes: bytes of all initializers.
        nodes: number of operators, subgraphs included.
    """

    macs: int | None
    params: int
    weight_bytes: int
    nodes: int

    @property
    def flops(self) -> int | None:
        """Floating-point operations: 2 × MACs."""
        return None if self.macs is None else 2 * self.macs


Interval: TypeAlias = tuple[float, float]
"""Where a figure lies for all inputs of a kind, with some confidence: its lower and its upper end."""


ONE_CLASS = (
    "the original ranks the same class first for all inputs, so that it tells nothing to agree on them; give "
    "inputs of several classes"
)
"""Why there is no agreement, behind the value that is ranked."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How far apart two models are on some inputs.

    Attributes:
        agreement: fraction of rows of scores whose first is the same, along the axis of the ranking that
            reads them, else axis 1; None where no counted output holds class scores, or not for all inputs.
        sqnr: −10·log10 of the mean over channels of E(ref − cand)² / Var(ref) in dB, each channel against its
            own variance about its own mean; the lowest over the groups of channels of the counted outputs
            that can be measured; −infinite where one has other rows; None where none can be, or something
            that stands for one is not in the result.
        samples: number of inputs.
        measured_by: the values that were measured in the place of an output that tells nothing of how near
            two models are (rows that were picked, an order, texts), by its name.
        unmeasured: why an output was not measured, or not all that it is made of, by its name.
        groups: the SQNR of each group of channels, by name, where there are several: outputs, parts that lie
            side by side in one (``output[0:4]``), and what a Softmax or Sigmoid at the end reads.
        interval: of the agreement, on inputs of this kind; None without one.
        sqnr_interval: of the SQNR, in dB; None without one.
        confidence: of both intervals; 0 without.
        ranked: rows of scores that the agreement is of; None without an agreement.
        others: the SQNR of the groups of channels that hold no class scores, in dB; None without any.
        taken: names of the outputs that are taken as class scores since somebody asked for their agreement;
            nothing in the model says so.
        alike: names of the values in which the original ranks the same place first for all inputs.
        untold: names of those that have the shape of class scores, and nobody says that they are.
    """

    agreement: float | None
    sqnr: float | None
    samples: int
    measured_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, float] = field(default_factory=dict)
    interval: Interval | None = None
    sqnr_interval: Interval | None = None
    confidence: float = 0.0
    ranked: int | None = None
    others: float | None = None
    taken: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not measured, or in another place, in words."""
        instead = (
            f"quality: output {name!r} is measured by what it is made of: {', '.join(values)}"
            for name, values in self.measured_by.items()
        )
        left = (f"quality: output {name!r} is not measured: {why}" for name, why in self.unmeasured.items())
        few = self.ranked is not None and self.ranked < self.samples
        rankings = "1 ranking" if self.ranked == 1 else f"{self.ranked} rankings"
        rows = (f"quality: the agreement is that of {rankings}, on {self.samples} inputs",)
        taken = (
            f"quality: output {name!r} is taken as class scores; nothing in the model says that it holds them"
            for name in self.taken
        )
        untold = (
            f'quality: if output {name!r} holds class scores, ask for that: "metric" classification, or a '
            "gate such as agreement>=0.98, tells how often the best class stays"
            for name in self.untold
        )
        alike = (f"quality: in {name!r} {ONE_CLASS}" for name in self.alike)
        return (*instead, *left, *(rows if few else ()), *alike, *taken, *untold)

    @property
    def problem(self) -> str:
        """Why there is no figure; "" where there is."""
        if self.sqnr is not None:
            return ""
        return (
            "; ".join(f"output {name!r}: {why}" for name, why in self.unmeasured.items())
            or "no output counts"
        )


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a measure, which is a key of budgets too.

    Attributes:
        key: its name.
        what: what it is.
        falling: whether it is the better the smaller.
        unit: "" for a part from 0 to 1, or ``dB``.
        needs: the measure's options without one of which there is no such figure.
        counted: whether it is a part of the inputs, each of which is right or wrong.
        least: the smallest of the numbers up to 1 whose mean it is, 0 of parts; None where it is no mean of
            such numbers.
    """

    key: str
    what: str
    falling: bool = False
    unit: str = ""
    needs: tuple[str, ...] = ()
    counted: bool = False
    least: float | None = 0.0


class Counted(tuple[str, ...]):
    """The names of a model's values that count, without what was said besides; all outputs where empty.

    Attributes:
        axes: those that hold the channels of values, by name, where that was said.
        inner: the names of those that are no outputs of the model.
    """

    axes: Mapping[str, int]
    inner: tuple[str, ...]

    def __new__(
        cls,
        names: Iterable[str] = (),
        axes: Mapping[str, int] | None = None,
        inner: Iterable[str] = (),
    ) -> Counted:
        """The names, each once."""
        made = super().__new__(cls, dict.fromkeys(names))
        made.axes, made.inner = dict(axes or {}), tuple(dict.fromkeys(inner))
        return made

    @property
    def spelled(self) -> tuple[str, ...]:
        """The names as they are given: with ``:AXIS`` where the axis of the channels was said."""
        return tuple(f"{each}:{self.axes[each]}" if each in self.axes else each for each in self)


class Score(float):
    """What a measure says of a model: its headline, the larger the better, with all of its figures.

    Attributes:
        figures: by key; NaN where one can't be told.
        intervals: of the figures that can, by key, on inputs of this kind.
        samples: number of inputs.
    """

    figures: Mapping[str, float]
    intervals: Mapping[str, Interval]
    samples: int

    def __new__(
        cls,
        headline: float,
        figures: Mapping[str, float] | None = None,
        intervals: Mapping[str, Interval] | None = None,
        samples: int = 0,
    ) -> Score:
        """The headline, with the figures."""
        made = super().__new__(cls, headline)
        made.figures, made.intervals, made.samples = dict(figures or {}), dict(intervals or {}), samples
        return made
