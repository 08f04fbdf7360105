"""One run over one model: what its steps share. The flow is in `pipeline.optimize`."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import TypeAlias

import onnx_ir as ir

from graphopt import progress
from graphopt._version import __version__
from graphopt.analysis import costs
from graphopt.analysis.linear import FREEZE
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration import inputs as calibration_inputs
from graphopt.calibration import test_inputs
from graphopt.calibration.inputs import Calibration, Given
from graphopt.calibration.test_inputs import TestInputs
from graphopt.errors import InputError, blaming
from graphopt.model import edit, io
from graphopt.model.io import Source
from graphopt.numerics.lowrank.moments import Statistics
from graphopt.pipeline.journal import Journal
from graphopt.pipeline.options import Options
from graphopt.planning.gates import Judged, judge, of_budget
from graphopt.planning.spending import Spent
from graphopt.report import provenance as records
from graphopt.report.results import Applied, Metric, Report, Result
from graphopt.rewrites.base import AnyRewrite, ApproximateRewrite
from graphopt.runtime import latency, session
from graphopt.runtime.latency import Timing
from graphopt.runtime.observation import snapshot
from graphopt.runtime.session import Feeds
from graphopt.types import Array, Candidate, Exactness, Quality, Rejection, Replacement, Shape, Site, Totals
from graphopt.verification import equivalence, quality, regions
from graphopt.verification.background import Comparer
from graphopt.verification.user_metric import OwnMetric
from graphopt.verification.verdict import Verification

Change: TypeAlias = tuple[Candidate, Replacement]


class Run:
    """One run over one model.

    Args:
        source: the model as loaded.
        options: what the user asked for.
        calibration: calibration inputs, or what they can be read from.
    """

    def __init__(self, source: Source, options: Options, calibration: Given | None = None) -> None:
        self.source = source
        self.options = options
        self.journal = Journal()
        self.calibration: Calibration | None = None
        self.known: dict[str, Shape] = {}
        self._latest: Analysis | None = None
        self._recorded = False
        with self.journal.step("load"):
            equivalence.check_outputs(source.model, options.outputs)
            if calibration is not None:
                self.calibration = calibration_inputs.load(calibration, source.model, options.seed)
        self.model = source.model
        with self.journal.step("analyse"):
            self.inputs = self._choose_inputs()
            self.original = self.analysis(source.model)
        runs = self.inputs.feeds and not self.inputs.problem
        self.comparer = Comparer(self.inputs.feeds, options.outputs) if runs else None
        if self.original.overridable and options.freeze_initializers:
            self.model = edit.freeze(self.model)

    # ------------------------------------------------------------ snapshots

    def _choose_inputs(self) -> TestInputs:
        options = self.options
        probe = Analysis(self.source.model, bindings=options.shapes, frozen=options.freeze_initializers)
        del probe  # refuses shapes that do not fit, before anything is run
        return test_inputs.choose(
            self.source.model, shapes=options.shapes, calibration=self.calibration, seed=options.seed
        )

    def analysis(
        self,
        model: ir.Model,
        statistics: Mapping[str, Statistics] | None = None,
        extremes: Mapping[str, tuple[Array, Array]] | None = None,
    ) -> Analysis:
        """A snapshot at the sizes of the test inputs; shapes that inference misses are seen by running."""
        plain = statistics is None and extremes is None
        if plain and self._latest is not None and self._latest.model is model:
            return self._latest
        found = snapshot(
            model,
            bindings=self.inputs.sizes,
            known=self.known,
            # Up to IR version 3 initializers are constants; an edit raises the version, not what they are.
            frozen=self.options.freeze_initializers or self.source.model.ir_version <= 3,
            statistics=statistics,
            extremes=extremes,
            seed=self.options.seed,
        )
        if plain:
            self._latest = found
        return found

    # ------------------------------------------------------------ propose and plan

    def match(self, analysis: Analysis, group: Sequence[AnyRewrite]) -> list[Candidate]:
        """The candidates that the user did not rule out and that did not fail before."""
        with self.journal.step("propose"):
            candidates: list[Candidate] = []
            for rewrite in progress.track(group, "rewrites", describe=lambda r: r.name):
                with blaming(rewrite.name, "to match"):
                    matches = [_worded(rewrite, found) for found in rewrite.match(analysis)]
                for found in matches:
                    reason = self._ruled_out(found.site)
                    if isinstance(found, Rejection):
                        self.journal.reject(found, reason or found.reason)
                    elif reason:
                        self.journal.reject(found, reason)
                    elif self.journal.allows(found):
                        candidates.append(found)
            return candidates

    def _ruled_out(self, site: Site) -> str:
        """Why --at or --keep leaves the site out; "" when they don't."""
        kept = next((n for n in site.nodes if matches_any(n, self.options.keep)), None)
        if kept is not None:
            return f"--keep names {kept}"
        if self.options.at and not any(matches_any(node, self.options.at) for node in site.nodes):
            return "--at names other nodes"
        return ""

    def _idle(self, after: Analysis) -> list[str]:
        """Notes on patterns that no node's name matches, neither before nor after: slips, most likely."""
        asked = [("--at", pattern) for pattern in self.options.at]
        asked += [("--keep", pattern) for pattern in self.options.keep]
        return [
            f"{option} {pattern}: matches no node's name"
            for option, pattern in asked
            if not any(matches_any(name, [pattern]) for name in (*self.original.nodes, *after.nodes))
        ]

    def _overridable(self) -> str:
        """A note on what was left because weights are inputs too; "" where nothing was."""
        left = {item.site for item in self.journal.rejected if FREEZE in item.reason}
        where = "1 site has weights" if len(left) == 1 else f"{len(left)} sites have weights"
        return f"{where} that a caller may override: {FREEZE} makes them constants" if left else ""

    # ------------------------------------------------------------ build, verify, commit

    def build(
        self,
        analysis: Analysis,
        chosen: Iterable[Candidate],
        statistics: Mapping[str, Statistics] | None = None,
    ) -> list[Change]:
        """What takes the place of each chosen candidate; approximate ones are fitted to statistics."""
        with self.journal.step("build"):
            named = {rewrite.name: rewrite for rewrite in self.options.rewrites}
            changes = []
            for candidate in chosen:
                with blaming(candidate.rewrite, f"at {candidate.site.nodes[0]}"):
                    rewrite = named[candidate.rewrite]
                    if isinstance(rewrite, ApproximateRewrite):
                        change = rewrite.fit(analysis, candidate, statistics, refine=2).replacement
                    else:
                        change = rewrite.build(analysis, candidate)
                    check_names(analysis, candidate, change)
                changes.append((candidate, change))
            return changes

    def failing(self, analysis: Analysis, changes: Sequence[Change]) -> bool:
        """Compares each exact change alone with what it replaces; bans those that differ or are slower."""
        with self.journal.step("verify"):
            verdicts = regions.check_regions(analysis, changes, self.options.seed)
        reasons: dict[Candidate, str] = {}
        for candidate, verdict in verdicts:
            if not verdict:
                difference = f"relative difference {verdict.max_rel:.1e}, allowed {verdict.allowed:.0e}"
                reasons[candidate] = f"failed verification: {verdict.note or difference}"
        if not reasons and self.options.gate_latency:
            with self.journal.step("measure"):
                reasons = latency.slower(analysis, changes, self.options.seed)
        for candidate, reason in reasons.items():
            self.journal.ban(candidate, reason)
        if not reasons:
            self.journal.checks += [verdict for _, verdict in verdicts]
        return bool(reasons)

    def running(self, analysis: Analysis, changes: Sequence[Change]) -> list[Change]:
        """The approximate changes that run and keep type and shape; the others are banned."""
        with self.journal.step("verify"):
            verdicts = regions.check_regions(analysis, changes, self.options.seed)
        failed = {candidate: verdict.note for candidate, verdict in verdicts if verdict.note}
        for candidate, note in failed.items():
            self.journal.ban(candidate, f"failed verification: {note}")
        return [change for change in changes if change[0] not in failed]

    def commit(self, changes: Sequence[Change], applied: Sequence[Applied] = ()) -> None:
        """Puts the changes into the model; ``applied`` describes them where there is more to tell."""
        with self.journal.step("commit"):
            if self.source.path is not None:
                _ = self._digests  # begins: they will be needed
            self.model = edit.apply(self.model, changes)
        exactness = {rewrite.name: rewrite.exactness for rewrite in self.options.rewrites}
        self.journal.applied += applied or [
            Applied(candidate, exactness[candidate.rewrite], None, not self.inputs.assumed)
            for candidate, _ in changes
        ]

    def expect(self, reference: ir.Model) -> None:
        """Begins to run the model that rewritten ones will be compared with."""
        if self.comparer is not None:
            self.comparer.expect(reference)

    def compare_soon(self, reference: ir.Model, candidate: ir.Model) -> None:
        """Begins what `compare` will probably be asked for."""
        if self.comparer is not None and reference is not candidate:
            self.comparer.begin(reference, candidate)

    def compare(
        self, reference: ir.Model, candidate: ir.Model, inputs: Sequence[Feeds] | None = None
    ) -> Verification:
        """Compares two whole models that should be equal, if onnxruntime can run the reference.

        Args:
            reference: the model as it was.
            candidate: the model as rewritten.
            inputs: what to compare on; the run's own test inputs where None.
        """
        if reference is candidate:
            return Verification(())
        problem = self.inputs.problem
        if not problem:
            with self.journal.step("verify"):
                try:
                    if inputs is None and self.comparer is not None:
                        return self.comparer.compare(reference, candidate)
                    return equivalence.check_model(
                        reference, candidate, inputs or self.inputs.feeds, self.options.outputs
                    )
                except InputError as error:
                    problem = str(error)
        return Verification((), (f"the whole model was not run, its regions were: {problem}",))

    def counts(self, output: str) -> bool:
        """Whether an output of the model is one of those that count."""
        return not self.options.outputs or output in self.options.outputs

    def quality(self) -> Quality | None:
        """How near the model comes to the original, on held-out inputs; None without calibration."""
        return self.quality_of(self.model)

    def quality_of(self, model: ir.Model) -> Quality | None:
        """How near a model comes to the original, on held-out inputs; None without calibration."""
        if self.calibration is None or self.inputs.problem:
            return None
        with self.journal.step("measure"):
            given = self.calibration
            return quality.measure(self.source.model, model, given, given.held_out, self.options.outputs)

    # ------------------------------------------------------------ figures and report

    @cached_property
    def spent_before(self) -> Spent:
        """What the input costs."""
        return Spent(self.original.totals, self.source.bytes if self.options.budget.bytes else 0)

    def spent(self) -> Spent:
        """What the model costs by now; its bytes are counted only where the budget asks."""
        return self.spent_by(self.model)

    def spent_by(self, model: ir.Model) -> Spent:
        """What a model costs; its bytes are counted only where the budget asks."""
        if model is self.source.model:
            return self.spent_before
        size = io.load(model).bytes + self.record_bytes if self.options.budget.bytes else 0
        return Spent(self.analysis(model).totals, size)

    def written_bytes(self) -> int:
        """Size of the file that would be written, external data included, by `Result.save`'s defaults."""
        if self.model is self.source.model:
            return self.source.bytes
        return io.written_bytes(self.model, self.source)

    # ------------------------------------------------------------ latency and the user's own measure

    def latency(self, model: ir.Model) -> Timing:
        """Latency of a model against the input's at one thread, interleaved, one sample at a time.

        Raises:
            InputError: the model can't be run.
        """
        with self.journal.step("time"):
            return latency.compare(self.source.model, model, self.timed_feed, repeat=None)

    @cached_property
    def timed_feed(self) -> Feeds:
        """One seeded sample.

        Raises:
            InputError: the model can't be run.
        """
        if self.inputs.problem:
            raise InputError(f"the reference can't be timed: {self.inputs.problem}")
        return session.random_feeds(self.source.model, self.inputs.sizes, self.options.seed)

    @cached_property
    def metric_before(self) -> float | None:
        """What the user's own measure says of the input; None without one."""
        return self.metric_of(self.source.model)

    def metric_of(self, model: ir.Model) -> float | None:
        """What the user's own measure says of a model; None without one."""
        if self.options.metric is None:
            return None
        with self.journal.step("measure"):
            return self.options.metric(model)

    @property
    def unknown_dims(self) -> tuple[str, ...]:
        """Sizes that nothing told."""
        if not self.inputs.assumed:
            return ()
        return Analysis(self.source.model, bindings=self.options.shapes).sizes.unknown_dims

    def result(
        self,
        quality: Quality | None,
        timing: Timing | None = None,
        metric: float | None = None,
        *,
        budget: Sequence[Judged] | None = None,
        gates: Sequence[Judged] | None = None,
    ) -> Result:
        """The model as it is by now, with its report.

        Args:
            quality: on held-out inputs.
            timing: latency against the input's, where it was measured.
            metric: what the user's own measure says of the model.
            budget: the budget's keys with the model's figures; None when the run did not come so far.
            gates: the required ones; likewise.
        """
        self.record()
        after = self.analysis(self.model)
        journal = self.journal
        quantised = costs.quantised_note(self.original.uncounted_ops)
        approximate = any(item.exactness is Exactness.APPROXIMATE for item in journal.applied)
        report = Report(
            source=self.source,
            before=self._figures(self.original.totals),
            after=self._figures(after.totals),
            changed=self.model is not self.source.model,
            applied=tuple(journal.applied),
            declined=journal.declined,
            rejected=journal.rejected,
            checks=tuple(journal.checks),
            notes=tuple(
                filter(
                    None, dict.fromkeys([*self._idle(after), self._overridable(), quantised, *journal.notes])
                )
            ),
            quality=quality,
            latency=timing,
            metric=_own_metric(self.options.metric, self.metric_before, metric),
            budget=judge(of_budget(self.options.budget), {}) if budget is None else tuple(budget),
            gates=judge(self.options.require, {}) if gates is None else tuple(gates),
            curve=tuple(sorted(journal.curve, key=lambda point: -point.costs.get("macs", 0.0))),
            unmeasured=self.calibration is None and approximate,
            uncounted_ops=self.original.uncounted_ops,
            unknown_dims=self.unknown_dims,
            observed_shapes=tuple(self.known),
            seconds=dict(journal.seconds),
            options=self.options.described(),
        )
        return Result(self.model, report, self.original, after)

    def _figures(self, totals: Totals) -> Totals:
        return replace(totals, macs=None) if self.inputs.assumed else totals

    # ------------------------------------------------------------ provenance

    def record(self) -> None:
        """Lets a changed model tell how it came about, once, when it is finished."""
        if self._recorded:
            return
        if self.model is not self.source.model:
            edit.annotate(self.model, self._entries())
        self._recorded = True

    @property
    def record_bytes(self) -> int:
        """What the record of what was applied so far will add to the file; 0 when it is there."""
        return 0 if self._recorded else records.size(self._entries())

    def _entries(self) -> dict[str, str]:
        sha256, data = self._digests.result()
        applied = ((item.candidate, item.exactness) for item in self.journal.applied)
        made = records.Record(
            __version__,
            sha256,
            {**self.options.recorded(), **self._calibrated},
            records.rewritten(applied),
            data,
        )
        return records.entries(made, self.source.model.metadata_props)

    @cached_property
    def _digests(self) -> Future[tuple[str, Mapping[str, str]]]:
        """Of the input, and of its external data; those of files are made beside the work that goes on."""
        found: Future[tuple[str, Mapping[str, str]]] = Future()
        if self.source.path is None:
            found.set_result((self.source.sha256, {}))
            return found
        worker = ThreadPoolExecutor(max_workers=1)
        found = worker.submit(lambda: (self.source.sha256, self.source.data_sha256))
        worker.shutdown(wait=False)
        return found

    @cached_property
    def _calibrated(self) -> dict[str, object]:
        given = self.calibration
        if given is None:
            return {}
        return {"calibration": {"inputs": given.fitted + given.samples, "sha256": given.sha256}}


def _worded(rewrite: AnyRewrite, found: Candidate | Rejection) -> Candidate | Rejection:
    """A match that tells how its choice reads."""
    return found if isinstance(found, Rejection) else replace(found, form=rewrite.describe(found.choice))


def _own_metric(own: OwnMetric | None, before: float | None, after: float | None) -> Metric | None:
    return None if own is None or before is None or after is None else Metric(own.name, before, after)


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Whether a node's name matches one of the user's patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def check_names(analysis: Analysis, candidate: Candidate, change: Replacement) -> None:
    """Raises ValueError where a replacement names a value that its site neither reads nor makes."""
    nodes = [analysis.nodes[name] for name in candidate.site.nodes]
    visible = {value.name for node in nodes for value in (*node.inputs, *node.outputs) if value is not None}
    local = {*change.constants, *(name for node in change.nodes for name in node.outputs)}
    used = [name for node in change.nodes for name in node.inputs if name is not None]
    for name in (*used, *change.outputs.values()):
        if name not in visible and name not in local:
            raise ValueError(f"the replacement names {name!r}, which the site neither reads nor makes")
    for name in change.outputs:
        if name not in visible:
            raise ValueError(f"the replacement replaces {name!r}, which the site does not make")
