"""What could be done to the model, and what is: candidates, and their replacements built, checked, put in."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from graphopt import progress
from graphopt.analysis.linear import FREEZE
from graphopt.analysis.snapshot import Analysis
from graphopt.errors import blaming
from graphopt.model import edit
from graphopt.numerics.lowrank.moments import Statistics
from graphopt.pipeline.journal import Journal, Recorder
from graphopt.pipeline.options import Options
from graphopt.pipeline.workspace import Workspace
from graphopt.report.results import Applied
from graphopt.rewrites.base import Rewrite
from graphopt.runtime import latency
from graphopt.types import Candidate, Change, Exactness, Rejection, Replacement, Site
from graphopt.verification import regions


@dataclass
class Proposals:
    """The candidates that the user did not rule out."""

    options: Options
    journal: Journal

    def taking_part(self, exactness: Exactness) -> list[Rewrite]:
        """The rewrites of a kind that take part."""
        return [rewrite for rewrite in self.options.rewrites if rewrite.exactness is exactness]

    def match(self, analysis: Analysis, group: Sequence[Rewrite]) -> list[Candidate]:
        """The candidates that the user did not rule out and that did not fail before."""
        with self.journal.step("propose"):
            candidates: list[Candidate] = []
            for rewrite in progress.track(group, "rewrites", describe=lambda r: r.name):
                with blaming(rewrite.name, "to match"):
                    matches = list(rewrite.match(analysis))
                for found in matches:
                    reason = self._ruled_out(found.site)
                    if isinstance(found, Rejection) or reason:
                        self.journal.reject(found, reason or getattr(found, "reason", ""))
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

    def notes(self, before: Analysis, after: Analysis) -> list[str]:
        """On patterns that no node's name matches, slips most likely, and on weights that are inputs too."""
        asked = [("--at", pattern) for pattern in self.options.at]
        asked += [("--keep", pattern) for pattern in self.options.keep]
        notes = [
            f"{option} {pattern}: matches no node's name"
            for option, pattern in asked
            if not any(matches_any(name, [pattern]) for name in (*before.nodes, *after.nodes))
        ]
        left = {item.site for item in self.journal.rejected if FREEZE in item.reason}
        if left:
            where = "1 site has weights" if len(left) == 1 else f"{len(left)} sites have weights"
            notes.append(f"{where} that a caller may override: {FREEZE} makes them constants")
        return notes


@dataclass
class Changes:
    """Replacements of candidates: built, checked, and put into the model."""

    workspace: Workspace
    options: Options
    recorder: Recorder
    journal: Journal

    @cached_property
    def _named(self) -> dict[str, Rewrite]:
        return {rewrite.name: rewrite for rewrite in self.options.rewrites}

    def build(
        self, analysis: Analysis, chosen: Iterable[Candidate], statistics: Mapping[str, Statistics] | None
    ) -> list[Change]:
        """What takes the place of each chosen candidate."""
        with self.journal.step("build"):
            changes = []
            for candidate in chosen:
                with blaming(candidate.rewrite, f"at {candidate.site.nodes[0]}"):
                    change = self._named[candidate.rewrite].build(analysis, candidate, statistics)
                    _check_names(analysis, candidate, change)
                changes.append(Change(candidate, change))
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
        return [change for change in changes if change.candidate not in failed]

    def commit(self, changes: Sequence[Change], applied: Sequence[Applied] = ()) -> None:
        """Puts the changes into the model; ``applied`` describes them where there is more to tell."""
        with self.journal.step("commit"):
            self.recorder.begin()
            self.workspace.model = edit.apply(self.workspace.model, changes)
        sized = not self.workspace.inputs.assumed
        self.journal.applied += applied or [
            Applied(candidate, self._named[candidate.rewrite].exactness, None, sized)
            for candidate, _ in changes
        ]


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
