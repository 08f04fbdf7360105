"""What candidates are worth: the factors that they become, the damage they do, and the time they save."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.compression import sensitivity as compression_sensitivity
from graphopt.errors import blaming
from graphopt.numerics.lowrank.moments import Statistics
from graphopt.pipeline.journal import Journal
from graphopt.pipeline.networks.fit_data import FitData
from graphopt.pipeline.workspace import Measures
from graphopt.planning.damage import Sensitivity, unprobed
from graphopt.rewrites.base import ApproximateRewrite
from graphopt.runtime.operator_times import Stopwatch, cache_path
from graphopt.types import Candidate, Fitted, Replacement


@dataclass
class Forms:
    """What the approximate rewrites make of candidates that were found on a snapshot."""

    analysis: Analysis
    rewrites: Mapping[str, ApproximateRewrite]

    def fit(self, candidate: Candidate, statistics: Statistics, refine: int) -> Fitted:
        """A candidate fitted to the statistics of what its operator reads.

        Args:
            candidate: one of these rewrites.
            statistics: of what its operator reads.
            refine: rounds of alternation.

        Returns:
            What takes the operator's place, and its error under those statistics.
        """
        rewrite = self.rewrites[candidate.rewrite]
        with blaming(rewrite.name, f"at {candidate.site.nodes[0]}", candidate):
            named = {candidate.site.nodes[0]: statistics}
            return rewrite.fit(self.analysis, candidate, named, refine=refine)

    def draft(self, candidate: Candidate) -> Replacement | None:
        """The operators of a candidate, whatever their weights; None where that can't be told."""
        with blaming(candidate.rewrite, f"at {candidate.site.nodes[0]}", candidate):
            return self.rewrites[candidate.rewrite].draft(anchor(self.analysis, candidate), candidate)


@dataclass
class Damage:
    """What candidates cost the network's quality."""

    data: FitData
    candidates: Sequence[Candidate]
    forms: Forms
    memory: int
    journal: Journal

    @cached_property
    def sensitivities(self) -> dict[str, Sensitivity]:
        """How much an error in each layer harms the output, by name; empty without inputs.

        Raises:
            SiteError: a rewrite can't fit one of the candidates; it is banned.
        """
        data = self.data
        if data.inputs is None or data.statistics is None or not data.watched:
            return {}
        layers: dict[str, list[Candidate]] = {}
        for candidate in self.candidates:
            name = candidate.site.nodes[0]
            if name in data.statistics and self.journal.allows(candidate):
                layers.setdefault(name, []).append(candidate)
        with self.journal.step("probe"):
            return compression_sensitivity.sensitivities(
                data.analysis,
                layers,
                data.statistics,
                self.forms.fit,
                data.inputs,
                data.probed(len(layers)),
                data.watched,
                data.decided,
                self.memory,
            )

    def of(self, candidate: Candidate) -> float:
        """What a candidate costs the network's quality."""
        found = self.sensitivities.get(candidate.site.nodes[0])
        return unprobed(candidate.error) if found is None else found.damage(candidate.error)


@dataclass
class Clock:
    """What candidates that were found on a snapshot save of the input's time, as measured."""

    analysis: Analysis
    forms: Forms
    source: ir.Model
    measures: Measures
    journal: Journal

    @cached_property
    def _saved(self) -> dict[Candidate, float]:
        return {}

    def saved(self, candidate: Candidate) -> float:
        """What a candidate alone saves of the input's time at one thread, as a part of it; measured once.

        Of one over several operators it is what the static time model expects.
        """
        if candidate.beside:
            return (candidate.before.seconds - candidate.after.seconds) / self._expected_seconds
        if candidate not in self._saved:
            change = self.forms.draft(candidate)
            if change is None:
                self._saved[candidate] = 0.0
            else:
                with self.journal.step("time"):
                    before, after = self._stopwatch.seconds(self.analysis, candidate, change)
                    self._saved[candidate] = candidate.runs * (before - after) / self._reference_seconds
        return self._saved[candidate]

    def in_blocks(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those whose ranks are whole blocks of channels; of a site that has none, all."""
        block = self._stopwatch.block()
        if block > 1:
            note = f"ranks are multiples of {block}: by measurement kernels compute so many channels at once"
            self.journal.notes.append(note)

        def whole(candidate: Candidate) -> bool:
            group = anchor(self.analysis, candidate).group
            ranks = self.forms.rewrites[candidate.rewrite].ranks(candidate.choice)
            return all(group * rank % block == 0 for rank in ranks)

        sites = {candidate.site for candidate in candidates if whole(candidate)}
        return [c for c in candidates if c.site not in sites or whole(c)]

    def save(self) -> None:
        """Remembers what was timed for other runs."""
        self._stopwatch.save()

    @cached_property
    def _expected_seconds(self) -> float:
        """Seconds that the static time model expects the model to take."""
        return self.analysis.cost(list(self.analysis.model.graph)).seconds or math.inf

    @cached_property
    def _reference_seconds(self) -> float:
        """Seconds that the input takes, timed as the candidates are."""
        return self._stopwatch.whole(self.source, self.measures.timed_feed)

    @cached_property
    def _stopwatch(self) -> Stopwatch:
        return Stopwatch(cache_path())
