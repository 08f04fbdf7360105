"""What a run did, and the model that it made."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from graphopt.analysis.snapshot import Analysis
from graphopt.model import io
from graphopt.model.io import Source
from graphopt.planning.gates import Judged
from graphopt.report.results.tuning import Tuning
from graphopt.runtime.latency import Timing
from graphopt.types import Candidate, Exactness, Interval, Quality, Score, Site, Totals
from graphopt.verification.verdict import Verdict, not_run, warnings


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
