"""What a run did so far: the report in the making. It can go back to an earlier mark."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from graphopt import progress
from graphopt.planning.selection import Plan
from graphopt.report.results import Applied, Left, Point
from graphopt.types import Candidate, Rejection, Site
from graphopt.verification.verdict import Verdict


@dataclass
class Journal:
    """Everything that a run notes down on its way.

    Attributes:
        applied: rewrites in the result.
        checks: comparisons.
        notes: what the reader has to know besides.
        seconds: wall time by step.
        curve: the networks that a search tried.
    """

    applied: list[Applied] = field(default_factory=list)
    checks: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    curve: list[Point] = field(default_factory=list)
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

    def allows(self, candidate: Candidate) -> bool:
        """Whether the candidate has not failed before."""
        return _key(candidate) not in self._banned

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


def _left(reasons: Mapping[tuple[str, Site], str], done: set[tuple[str, Site]]) -> tuple[Left, ...]:
    return tuple(
        Left(rewrite, site, why) for (rewrite, site), why in reasons.items() if (rewrite, site) not in done
    )


def _key(candidate: Candidate) -> tuple[str, Site, str]:
    return candidate.rewrite, candidate.site, repr(sorted(candidate.choice.items()))


def worst(checks: Sequence[Verdict]) -> Verdict:
    """The failed check that differs most."""
    return max((check for check in checks if not check), key=lambda check: check.max_rel)
