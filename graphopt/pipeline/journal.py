"""What a run did so far: the report in the making, and the record that a changed model carries of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import onnx_ir as ir

from graphopt import progress
from graphopt._version import __version__
from graphopt.analysis import claims
from graphopt.analysis.constants import Constants
from graphopt.calibration.inputs import Calibration
from graphopt.errors import SiteError
from graphopt.model import edit
from graphopt.model.io import Source
from graphopt.pipeline.options.checked import Options
from graphopt.pipeline.options.effort import Effort
from graphopt.planning.selection import Plan
from graphopt.report import provenance
from graphopt.report.results import Applied, Left, Point, Tuning
from graphopt.types import Candidate, Rejection, Site
from graphopt.verification.verdict import Verdict, Verification


@dataclass
class Journal:
    """Everything that a run notes down on its way. It can go back to an earlier mark.

    Attributes:
        applied: rewrites in the result.
        checks: comparisons.
        notes: what the reader has to know besides.
        unrun: why no model was run as a whole; "" where models were.
        seconds: wall time by step.
        curve: the networks that a search tried.
        tuning: how the weights were fitted together; None where they were not.
        below: what of the network that was asked for is below the floor; "" where nothing is.
    """

    applied: list[Applied] = field(default_factory=list)
    checks: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unrun: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    curve: list[Point] = field(default_factory=list)
    tuning: Tuning | None = None
    below: str = ""
    _declined: dict[tuple[str, Site], str] = field(default_factory=dict)
    _rejected: dict[tuple[str, Site], str] = field(default_factory=dict)
    _banned: set[tuple[str, Site, str]] = field(default_factory=set)
    _failed: set[tuple[str, Site]] = field(default_factory=set)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Adds the time within to a step, and shows the step while it lasts."""
        start = time.perf_counter()
        try:
            with progress.step(name):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def reject(self, found: Candidate | Rejection, reason: str) -> None:
        """Notes why a site was not even a candidate."""
        self._rejected.setdefault((found.rewrite, found.site), reason)

    def decline(self, plan: Plan) -> None:
        """Notes what a plan left out."""
        for candidate, reason in plan.declined:
            self._declined.setdefault((candidate.rewrite, candidate.site), reason)

    def take(self, plan: Plan) -> None:
        """Marks the network of a plan as the one that became the result."""
        last = max((i for i, point in enumerate(self.curve) if point.planned == plan.chosen), default=None)
        self.curve = [replace(point, taken=i == last) for i, point in enumerate(self.curve)]

    def begin_round(self, rewrites: Iterable[str]) -> None:
        """Forgets what these rewrites were refused for: they are about to look at the model anew."""
        names = set(rewrites)
        for reasons in (self._declined, self._rejected):
            for key in [key for key in reasons if key[0] in names and key not in self._failed]:
                del reasons[key]

    def ban(self, candidate: Candidate, reason: str) -> None:
        """Notes that a candidate failed; it will not be tried again."""
        self._banned.add(_key(candidate))
        self._declined[candidate.rewrite, candidate.site] = reason
        self._failed.add((candidate.rewrite, candidate.site))

    def failed(self, error: SiteError) -> None:
        """Notes that a rewrite can't be made, and bans the candidate at which it showed, if any."""
        if error.note and error.note not in self.notes:
            self.notes.append(error.note)
        if error.candidate is not None:
            self.ban(error.candidate, str(error))

    def allows(self, candidate: Candidate) -> bool:
        """Whether the candidate has not failed before."""
        return _key(candidate) not in self._banned

    def compared(self, found: Verification) -> None:
        """Notes a comparison of whole models."""
        self.checks += found.checks
        self.notes += found.notes
        self.unrun = self.unrun or found.unrun

    def mark(self) -> tuple[int, int]:
        """The present state of what is applied and checked, for `back`."""
        return len(self.applied), len(self.checks)

    def back(self, mark: tuple[int, int]) -> None:
        """Forgets what was applied and checked since the mark."""
        del self.applied[mark[0] :]
        del self.checks[mark[1] :]

    @property
    def declined(self) -> tuple[Left, ...]:
        """Candidates that were dropped and are not in the result in another way."""
        return _left(self._declined, {(a.candidate.rewrite, a.candidate.site) for a in self.applied})

    @property
    def rejected(self) -> tuple[Left, ...]:
        """Sites where a condition failed and that are not named as applied or declined."""
        named = {(a.candidate.rewrite, a.candidate.site) for a in self.applied}
        return _left(self._rejected, named | set(self._declined))


@dataclass
class Recorder:
    """Lets a changed model tell how it came about."""

    source: Source
    options: Options
    calibration: Calibration | None
    journal: Journal
    recorded: bool = False

    def begin(self) -> None:
        """Makes the digests of files beside the work that goes on: they will be needed."""
        if self.source.path is not None:
            _ = self._digests

    def record(self, model: ir.Model) -> None:
        """Puts the record into the model, once, when it is finished, and its claims of inner shapes right."""
        if not self.recorded and model is not self.source.model:
            constants = Constants(model, self.options.freeze_initializers)
            edit.redeclare(claims.corrected(model, constants))
            edit.annotate(model, self._entries())
        self.recorded = True

    @property
    def bytes(self) -> int:
        """What the record of what was applied so far will add to the file; 0 when it is there."""
        return 0 if self.recorded else provenance.size(self._entries())

    def _entries(self) -> dict[str, str]:
        sha256, data = self._digests.result()
        rewritten = provenance.rewritten((item.candidate, item.exactness) for item in self.journal.applied)
        made = provenance.Record(__version__, sha256, self._asked, rewritten, data)
        return provenance.entries(made, self.source.model.metadata_props)

    @cached_property
    def _asked(self) -> dict[str, object]:
        asked, given = self.options.recorded(), self.calibration
        if self.journal.tuning is not None:  # minutes are other steps on another machine
            asked["tune"] = str(Effort(self.journal.tuning.steps))
            if self.options.memory:  # inputs that are run at once, and so how sums are rounded
                asked["memory"] = self.options.memory
        if given is not None:
            asked["calibration"] = given.recorded
        return asked

    @cached_property
    def _digests(self) -> Future[tuple[str, Mapping[str, str]]]:
        """Of the input, and of its external data; those of files are made by another thread."""
        found: Future[tuple[str, Mapping[str, str]]] = Future()
        if self.source.path is None:
            found.set_result((self.source.sha256, {}))
            return found
        worker = ThreadPoolExecutor(max_workers=1)
        found = worker.submit(lambda: (self.source.sha256, self.source.data_sha256))
        worker.shutdown(wait=False)
        return found


def _left(reasons: Mapping[tuple[str, Site], str], done: set[tuple[str, Site]]) -> tuple[Left, ...]:
    return tuple(
        Left(rewrite, site, why) for (rewrite, site), why in reasons.items() if (rewrite, site) not in done
    )


def _key(candidate: Candidate) -> tuple[str, Site, str]:
    return candidate.rewrite, candidate.site, repr(sorted(candidate.choice.items()))


def worst(checks: Sequence[Verdict]) -> Verdict:
    """The failed check that differs most."""
    return max((check for check in checks if not check), key=lambda check: check.max_rel)
