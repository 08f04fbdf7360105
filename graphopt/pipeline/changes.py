"""What could be done to the model, and what is: candidates, and their replacements built, checked, put in."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from graphopt import progress
from graphopt.analysis.snapshot import Analysis
from graphopt.errors import RewriteError, SiteError, blaming
from graphopt.model import edit
from graphopt.numerics.lowrank.moments import Statistics
from graphopt.pipeline.journal import Journal, Recorder
from graphopt.pipeline.options.checked import Options
from graphopt.pipeline.scanning.survey import overridable_note
from graphopt.pipeline.workspace import Workspace
from graphopt.planning import gates
from graphopt.report.results import Applied
from graphopt.rewrites.asking import ask
from graphopt.rewrites.base import AnyRewrite, ApproximateRewrite, ExactRewrite, ExpandingRewrite
from graphopt.rewrites.registry import finishing
from graphopt.runtime import kernels, latency
from graphopt.runtime.session import Feeds
from graphopt.types import Candidate, Change, Rejection, Replacement
from graphopt.verification import regions
from graphopt.verification.verdict import Verdict, unrunnable


def _ieee() -> np.errstate:
    """NumPy without its warnings: a NaN or an infinity in a model's weights stays one, as in onnxruntime."""
    return np.errstate(invalid="ignore", over="ignore")


@dataclass
class Proposals:
    """The candidates that the user did not rule out."""

    options: Options
    journal: Journal

    @property
    def exact(self) -> list[ExactRewrite]:
        """The exact rewrites that take part."""
        exact = [rewrite for rewrite in self.options.rewrites if isinstance(rewrite, ExactRewrite)]
        if self.options.asks_size:
            exact = [rewrite for rewrite in exact if not rewrite.grows]
        if self.options.asks_macs:
            exact = [rewrite for rewrite in exact if not rewrite.adds]
        return [rewrite for rewrite in exact if self.options.aim == "time" or not rewrite.time_alone]

    @property
    def approximate(self) -> list[ApproximateRewrite]:
        """The approximate ones."""
        return [rewrite for rewrite in self.options.rewrites if isinstance(rewrite, ApproximateRewrite)]

    @property
    def planned(self) -> bool:
        """Whether a plan of the approximate ones may follow: for a budget, or since one was asked for."""
        asked = bool(gates.of_budget(self.options.budget))
        return any(asked or rewrite.fixed for rewrite in self.approximate)

    @property
    def expanding(self) -> ExpandingRewrite | None:
        """The expanding one, which runs alone."""
        return next((r for r in self.options.rewrites if isinstance(r, ExpandingRewrite)), None)

    def match(self, analysis: Analysis, group: Sequence[AnyRewrite]) -> list[Candidate]:
        """The candidates that the user did not rule out and that did not fail before."""
        with self.journal.step("propose"), _ieee():
            candidates: list[Candidate] = []
            for rewrite in progress.track(group, "rewrites", describe=lambda r: r.name):
                worded = partial(_worded, rewrite)
                for found in ask(rewrite.name, worded, analysis, self.journal.failed):
                    reason = self._ruled_out(found)
                    if isinstance(found, Rejection):
                        self.journal.reject(found, reason or found.reason)
                    elif reason:
                        self.journal.reject(found, reason)
                    elif self.journal.allows(found):
                        candidates.append(found)
            return candidates

    def kept(self, found: Candidate | Rejection) -> str:
        """A node that a candidate changes and that has to stay; "" where there is none."""
        changed = (*found.site.nodes, *(found.beside if isinstance(found, Candidate) else ()))
        return next((n for n in changed if matches_any(n, self.options.keep)), "")

    def _ruled_out(self, found: Candidate | Rejection) -> str:
        """Why at or keep leaves a site out; "" when they don't."""
        kept = self.kept(found)
        if kept:
            return f'"keep" names {kept}'
        site = found.site
        if self.options.at and not any(matches_any(node, self.options.at) for node in site.nodes):
            return '"at" names other nodes'
        return ""

    def notes(self, before: Analysis, after: Analysis) -> list[str]:
        """On patterns that no node's name matches, slips most likely, and on weights that are inputs too."""
        asked = [("at", pattern) for pattern in self.options.at]
        asked += [("keep", pattern) for pattern in self.options.keep]
        notes = [
            f'"{option}" names {pattern}, which matches no node\'s name'
            for option, pattern in asked
            if not any(matches_any(name, [pattern]) for name in (*before.nodes, *after.nodes))
        ]
        return [*notes, overridable_note(self.journal.rejected)]


@dataclass
class Changes:
    """Replacements of candidates: built, checked, and put into the model."""

    workspace: Workspace
    options: Options
    recorder: Recorder
    journal: Journal

    @cached_property
    def _named(self) -> dict[str, AnyRewrite]:
        rewrites = self.options.rewrites
        return {rewrite.name: rewrite for rewrite in (*finishing(rewrites), *rewrites)}

    def build(
        self,
        analysis: Analysis,
        chosen: Iterable[Candidate],
        statistics: Mapping[str, Statistics] | None = None,
    ) -> list[Change]:
        """What takes the place of each chosen candidate; approximate ones are fitted to statistics.

        Args:
            analysis: a snapshot of the model.
            chosen: candidates of it.
            statistics: of what its operators read, by name; None for those of the snapshot.

        Returns:
            Each candidate with what takes its place; those at which their rewrite fails, or leaves
            the range of the type, are left out, banned.
        """
        with self.journal.step("build"):
            changes = []
            for candidate in chosen:
                try:
                    change = self._built(analysis, candidate, statistics)
                except SiteError as error:
                    self.journal.failed(error)
                else:
                    changes.append(Change(candidate, change))
            return changes

    def _built(
        self, analysis: Analysis, candidate: Candidate, statistics: Mapping[str, Statistics] | None
    ) -> Replacement:
        with blaming(candidate.rewrite, f"at {candidate.site.nodes[0]}", candidate), _ieee():
            rewrite = self._named[candidate.rewrite]
            if isinstance(rewrite, ApproximateRewrite):
                change = rewrite.fit(analysis, candidate, statistics, refine=2).replacement
            else:
                change = rewrite.build(analysis, candidate)
            _check_names(analysis, candidate, change)
        return change

    def failing(self, analysis: Analysis, changes: Sequence[Change]) -> bool:
        """Compares each exact change alone with what it replaces; bans those that differ or are slower.

        Before that it bans what onnxruntime has no kernel for.
        """
        if self._unsupported(analysis, changes):
            return True
        verdicts = self._verdicts(analysis, changes, self.workspace.inputs.feeds)
        reasons: dict[Candidate, str] = {}
        for candidate, verdict in verdicts:
            if not verdict:
                difference = f"relative difference {verdict.max_rel:.1e}, allowed {verdict.allowed:.0e}"
                reasons[candidate] = f"failed verification: {verdict.note or difference}"
        if not reasons and self.options.gate == "latency":
            with self.journal.step("measure"):
                reasons = latency.slower(analysis, changes, self.options.seed)
        for candidate, reason in reasons.items():
            self.journal.ban(candidate, reason)
        if not reasons:
            self.journal.checks += [verdict for _, verdict in verdicts]
        return bool(reasons)

    def _unsupported(self, analysis: Analysis, changes: Iterable[Change]) -> bool:
        """Bans the changes that make an operator for which onnxruntime has no kernel."""
        reasons = [(change.candidate, kernels.missing(analysis, change)) for change in changes]
        for candidate, reason in reasons:
            if reason:
                self.journal.ban(candidate, reason)
        return any(reason for _, reason in reasons)

    def running(self, analysis: Analysis, changes: Sequence[Change]) -> list[Change]:
        """The approximate changes that run and keep type and shape; the others are banned."""
        if self._unsupported(analysis, changes):
            changes = [change for change in changes if self.journal.allows(change.candidate)]
        verdicts = self._verdicts(analysis, changes)
        failed = {candidate: verdict.note for candidate, verdict in verdicts if verdict.note}
        for candidate, note in failed.items():
            self.journal.ban(candidate, f"failed verification: {note}")
        return [change for change in changes if change.candidate not in failed]

    def _verdicts(
        self, analysis: Analysis, changes: Sequence[Change], feeds: Sequence[Feeds] = ()
    ) -> list[tuple[Candidate, Verdict]]:
        """Each change alone against what it replaces; what can't even be put together has not passed."""
        try:
            with self.journal.step("verify"), blaming("of one of these", "to be put together"):
                return regions.verify_regions(analysis, changes, self.options.seed, feeds)
        except RewriteError as error:
            if len(changes) > 1:
                return [found for each in changes for found in self._verdicts(analysis, [each], feeds)]
            candidate = changes[0].candidate
            odd = RewriteError(candidate.rewrite, f"at {candidate.site.nodes[0]}", error.what)
            self.journal.failed(odd)
            return [(candidate, unrunnable("region", candidate.site.nodes[0], odd))]

    def commit(
        self, changes: Sequence[Change], applied: Sequence[Applied] = (), *, told: bool = True
    ) -> None:
        """Puts the changes into the model.

        Args:
            changes: the changes.
            applied: describes them, where there is more to tell.
            told: whether a report lists them; not where they are part of others that it lists.
        """
        with self.journal.step("commit"):
            self.recorder.begin()
            self.workspace.model = edit.apply(self.workspace.model, changes)
        if not told:
            return
        sized = not self.workspace.inputs.assumed
        self.journal.applied += applied or [
            Applied(candidate, self._named[candidate.rewrite].exactness, None, sized)
            for candidate, _ in changes
        ]


def _worded(rewrite: AnyRewrite, analysis: Analysis) -> Iterator[Candidate | Rejection]:
    """What a rewrite matches; candidates tell how their choice reads, and how often they run."""
    for found in rewrite.match(analysis):
        if isinstance(found, Rejection):
            yield found
        else:
            runs = analysis.runs(analysis.nodes[found.site.nodes[0]])
            yield replace(found, form=rewrite.describe(found.choice), runs=1 if runs is None else runs)


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Whether a node's name matches one of the user's patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _check_names(analysis: Analysis, candidate: Candidate, change: Replacement) -> None:
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
