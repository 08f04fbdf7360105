"""The results as plain data: of a scan, of a run, of a sweep over budgets, and of a check."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis
from graphopt.model import io
from graphopt.model.io import Source
from graphopt.planning.gates import Judged
from graphopt.runtime.latency import Timing
from graphopt.types import Candidate, Exactness, Interval, Quality, Score, Site, Totals
from graphopt.verification.verdict import Verdict, not_run, warnings


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


@dataclass(frozen=True, slots=True)
class Applied:
    """A rewrite that is in the result.

    Attributes:
        candidate: the rewrite, its site, its figures and its choice.
        exactness: what it promises.
        error_measured: E‖y − ŷ‖² / Var(y) on held-out inputs; None where it was not measured.
        sized: whether the MACs hold for the model's real sizes.
        sensitivity: what a relative error of 1 in this layer alone costs the network's output, in the same
            measure, at the error chosen; None where it was not probed.
        spectra: by key of the choice the part of the layer's output that each direction explains,
            descending; the choice keeps that many of them. Empty for exact rewrites.
    """

    candidate: Candidate
    exactness: Exactness
    error_measured: float | None = None
    sized: bool = True
    sensitivity: float | None = None
    spectra: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def verified(self) -> bool:
        """Whether it was verified that it computes the same; an approximate one does not."""
        return self.exactness is not Exactness.APPROXIMATE

    @property
    def measured(self) -> bool:
        """Whether its error was measured."""
        return self.error_measured is not None

    @property
    def macs_before(self) -> int | None:
        """MACs of what went away in one run of the model; None where its real sizes are not known."""
        return self.candidate.macs_before if self.sized else None

    @property
    def macs_after(self) -> int | None:
        """MACs of what took its place, likewise."""
        return self.candidate.macs_after if self.sized else None


@dataclass(frozen=True, slots=True)
class Left:
    """A rewrite that is not in the result, and why."""

    rewrite: str
    site: Site
    reason: str


@dataclass(frozen=True, slots=True)
class Point:
    """A network that a search tried: one point of the trade-off between cost and quality.

    Attributes:
        costs: fraction of the input by budget key (``macs``, ``params``, ``bytes``, ``latency``); those
            that were counted or measured.
        quality: figures on held-out inputs; None where none were measured.
        chosen: the approximate rewrites that make it, with the error that each was fitted to.
        planned: the same as the plan had them.
        metric: what the measure that was named says; None without one.
        taken: whether it is the result.
    """

    costs: Mapping[str, float]
    quality: Quality | None
    chosen: tuple[Candidate, ...] = ()
    planned: tuple[Candidate, ...] = ()
    metric: float | None = None
    taken: bool = False


@dataclass(frozen=True, slots=True)
class Metric:
    """A measure of the input and of the result.

    Attributes:
        name: of a ready one, such as ``detection``, or ``package.module:function``.
        before: of the input.
        after: of the result.
        against: what a ready one compares with: ``original`` or ``labels``; "" for the user's own.
    """

    name: str
    before: float
    after: float
    against: str = ""

    @property
    def figures(self) -> Mapping[str, Mapping[str, float]]:
        """What a ready measure tells, ``before`` and ``after``, by key."""
        if not isinstance(self.before, Score) or not isinstance(self.after, Score):
            return {}
        old, new = self.before.figures, self.after.figures
        return {key: {"before": old[key], "after": new[key]} for key in new}

    @property
    def intervals(self) -> Mapping[str, Interval]:
        """Of the figures of the result, by key, where a ready measure tells them."""
        return self.after.intervals if isinstance(self.after, Score) else {}

    @property
    def shown(self) -> list[tuple[str, str, str, str]]:
        """Each figure that can be told.

        Returns:
            As texts its name, before ("" where it is perfect), after, and the interval of that, in brackets
            ("" where nothing tells how far it goes).
        """
        spans = {
            f"{self.name} {key}": f" ({low:.4g} to {high:.4g})"
            for key, (low, high) in self.intervals.items()
            if math.isfinite(low) and math.isfinite(high)
        }
        pairs = {f"{self.name} {key}": (pair["before"], pair["after"]) for key, pair in self.figures.items()}
        pairs = pairs or {self.name: (self.before, self.after)}
        return [
            (name, "" if self.against == "original" else f"{before:.4g}", f"{after:.4g}", spans.get(name, ""))
            for name, (before, after) in pairs.items()
            if not math.isnan(after)
        ]


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did.

    Attributes:
        source: the input.
        before: the input's figures.
        after: the result's figures.
        changed: whether the result differs from the input.
        applied: rewrites in the result.
        declined: candidates that the plan or verification dropped.
        rejected: sites whose anchor matched and where a condition failed.
        checks: comparisons of regions and of the whole model, before and after exact rewrites.
        unrun: why the whole model was not run; "" where it was.
        notes: what the reader has to know besides.
        quality: figures on held-out inputs; None without calibration inputs.
        latency: of the input and the result in onnxruntime, interleaved; None where it was not measured.
        metric: the measure that was named; None where none was.
        budget: the keys of the budget, with the result's figures.
        gates: what the result was required to keep, with its figures.
        tuning: how the weights were fitted together; None where they were not.
        curve: the networks that the search tried, by falling cost; empty without approximate rewrites.
        unmeasured: whether approximate rewrites were applied without inputs to measure their error on.
        uncounted_ops: operators that do work and whose MACs are not counted.
        unknown_dims: sizes that nothing told.
        observed_shapes: values whose shape was seen by running the model.
        unloaded: why onnxruntime can't load or run the model, where nothing was changed; "" where it can.
        seconds: wall time by step.
        options: the options of the run.
    """

    source: Source
    before: Totals
    after: Totals
    changed: bool
    applied: tuple[Applied, ...] = ()
    declined: tuple[Left, ...] = ()
    rejected: tuple[Left, ...] = ()
    checks: tuple[Verdict, ...] = ()
    unrun: str = ""
    notes: tuple[str, ...] = ()
    quality: Quality | None = None
    latency: Timing | None = None
    metric: Metric | None = None
    budget: tuple[Judged, ...] = ()
    gates: tuple[Judged, ...] = ()
    tuning: Tuning | None = None
    curve: tuple[Point, ...] = ()
    unmeasured: bool = False
    uncounted_ops: Mapping[str, int] = field(default_factory=dict)
    unknown_dims: tuple[str, ...] = ()
    observed_shapes: tuple[str, ...] = ()
    unloaded: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every comparison passed."""
        return all(self.checks)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What has to be known before anything is trusted, the gravest first."""
        slow = self.latency.verdict if self.latency is not None else ""
        advice = f"{slow}; a budget of latency plans by measured time"
        blind = self.quality.problem if self.quality is not None and self.approximate else ""
        return (
            *([self.unloaded] if self.unloaded else []),
            *([f"the quality is not measured: {blind}"] if blind else []),
            *not_run(self.unrun),
            *warnings(self.checks),
            *([advice] if slow else []),
        )

    @property
    def kept(self) -> Quality | None:
        """The quality that is left in a model that was changed; None of the input itself, which has all."""
        return self.quality if self.changed else None

    @property
    def unchanged(self) -> str:
        """That a run changed nothing; "" where it did."""
        if self.changed:
            return ""
        done = "not verified, as it can't be run" if self.unloaded else "nothing to do"
        return f"{done}: the model is as it was"

    @property
    def approximate(self) -> tuple[Applied, ...]:
        """The rewrites in the result whose error is measured at best, and never verified."""
        return tuple(item for item in self.applied if item.exactness is Exactness.APPROXIMATE)

    @property
    def along(self) -> tuple[Applied, ...]:
        """Of these, those that cost what was there before: they came along with the others."""
        return tuple(item for item in self.approximate if item.candidate.after == item.candidate.before)


@dataclass(frozen=True, repr=False)
class Result:
    """A rewritten model and the report of how it came about; truthy when something changed.

    Attributes:
        model: the model in memory.
        report: what was done, with its figures.
        before: the snapshot of the input that the figures were read off.
        after: the same of the result.
    """

    model: ir.Model
    report: Report
    before: Analysis = field(repr=False)
    after: Analysis = field(repr=False)

    def __bool__(self) -> bool:
        return self.report.changed

    def __repr__(self) -> str:
        report = self.report
        macs = " → ".join(
            "?" if each.macs is None else str(each.macs) for each in (report.before, report.after)
        )
        done = f"{len(report.applied)} rewrites, MACs {macs}" if report.changed else "unchanged"
        return f"<{type(self).__name__} of {report.source.path or 'a model'}: {done}>"

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        external_data: Literal["auto", "always", "never"] = "auto",
    ) -> None:
        """Writes the model; it is there whole or not at all. An unchanged model is copied byte for byte.

        Args:
            path: the file to write. It must not be the file that was read.
            external_data: whether weights go to ``PATH.data``: where they must, always, or never.

        Raises:
            InputError: the path can't be written, or is the input.
        """
        report = self.report
        io.write(self.model, report.source, path, changed=report.changed, external_data=external_data)


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the weights of a network were fitted together.

    Attributes:
        best: the step after which it was nearest to the original on inputs apart.
        steps: of the run.
        batch: inputs of a step.
        rate: the highest rate.
        fitted: inputs that steps were taken on.
        apart: inputs to judge and stop by.
        weights: numbers that could move.
        led_by: names of the original's values that led it, those of outputs first.
        changes: what was done to inputs besides, in words; "" for nothing.
        curve: steps, and the worst output's error on inputs apart after them, in parts of what it varies.
        seconds: wall time by kind of work.
        ended: steps after which the user ended the run; None where it came to its end.
    """

    best: int
    steps: int
    batch: int
    rate: float
    fitted: int
    apart: int
    weights: int
    led_by: tuple[str, ...]
    changes: str
    curve: tuple[tuple[int, float], ...]
    seconds: Mapping[str, float]
    ended: int | None = None


@dataclass(frozen=True, repr=False)
class Tuned:
    """A network whose weights were fitted together to what the original does; truthy when they changed.

    Attributes:
        model: the network.
        reference: the original.
        candidate: the network as it was given.
        tuning: how it was done.
        before: quality of the network as it was given, on held-out inputs.
        after: the same of the result.
        kept: whether the network is better by that, and so another than was given.
        notes: what the reader has to know besides.
        seconds: wall time by step.
    """

    model: ir.Model
    reference: Source
    candidate: Source
    tuning: Tuning
    before: Quality
    after: Quality
    kept: bool
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.kept

    def __repr__(self) -> str:
        done = f"tuned by {self.tuning.steps} steps" if self.kept else "not improved"
        return f"<{type(self).__name__} of {self.candidate.path or 'a model'}: {done}>"

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        external_data: Literal["auto", "always", "never"] = "auto",
    ) -> None:
        """Writes the model; it is there whole or not at all. An unchanged model is copied byte for byte.

        Args:
            path: the file to write. It must not be a file that was read.
            external_data: whether weights go to ``PATH.data``: where they must, always, or never.

        Raises:
            InputError: the path can't be written, or is an input.
        """
        others = self.reference.files
        io.write(
            self.model, self.candidate, path, changed=self.kept, external_data=external_data, others=others
        )


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


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one model; truthy when nothing is left to do.

    Attributes:
        path: its file.
        before: its figures; None where it could not be read.
        after: the figures that exact rewrites give it.
        rewrites: how often each of them applies, by name.
        fixed: whether the file was rewritten.
        note: what was left undone: at weights that a caller may override, and about its files; or "".
        error: why it could not be checked, or not be rewritten; "" where it was.
        exit_code: of this model alone.
    """

    path: Path
    before: Totals | None = None
    after: Totals | None = None
    rewrites: Mapping[str, int] = field(default_factory=dict)
    fixed: bool = False
    note: str = ""
    error: str = ""
    exit_code: int = 0

    def __bool__(self) -> bool:
        return self.exit_code == 0
