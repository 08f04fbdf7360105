"""What a rewrite offers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Protocol, runtime_checkable

from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.lowrank.moments import Statistics
from graphopt.types import Candidate, Exactness, Rejection, Replacement


@runtime_checkable
class Rewrite(Protocol):
    """A way to make operators cheaper: a frozen dataclass whose fields are its options.

    It finds sites and describes what would take their place; it never decides and never edits. Its module's
    docstring is what ``graphopt explain`` prints.
    """

    name: ClassVar[str]
    exactness: ClassVar[Exactness]

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """Yields a candidate, or the reason against one, for every site whose anchor is there."""
        ...

    def build(
        self, analysis: Analysis, candidate: Candidate, statistics: Mapping[str, Statistics] | None = None
    ) -> Replacement:
        """What takes the candidate's place. Pure.

        Args:
            analysis: a snapshot of the model that holds the candidate's site.
            candidate: one that `match` yielded.
            statistics: input statistics of linear operators by name, of the network as rewritten so far.
        """
        ...
