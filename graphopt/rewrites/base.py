"""What a rewrite offers: hooks that graphopt asks it for, and what holds where it has none.

`registry` gives each rewrite the defaults of its kind, whether or not it derives from the kind's class.
"""

from __future__ import annotations

import enum
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.lowrank.moments import Statistics
from graphopt.types import Candidate, Choice, Exactness, Fitted, Rejection, Replacement


@runtime_checkable
class Rewrite(Protocol):
    """A way to rewrite operators: a frozen dataclass whose fields are its options.

    It finds sites and describes what would take their place; it never decides and never edits. Its module's
    docstring is what ``graphopt explain`` prints. What else it offers is told by the class of its kind.
    """

    __slots__ = ()
    name: ClassVar[str]
    exactness: ClassVar[Exactness]

    @abstractmethod
    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """Yields a candidate, or the reason against one, for every site whose anchor is there."""
        ...


class _Described(Rewrite):
    """A rewrite that says how its choices read."""

    __slots__ = ()

    def describe(self, choice: Choice) -> str:
        """The form that a choice gives its site, for a report; "" where there is nothing to say."""
        return f"{self.name} " + " ".join(f"{key}={value}" for key, value in choice.items())


class Stage(enum.Enum):
    """When an exact rewrite is asked: one of a stage only when those of the stages before find nothing."""

    FIRST = enum.auto()
    """It folds into an operator what another would move away from it."""
    CHEAP = enum.auto()
    """It is matched in no time."""
    WEIGHTS = enum.auto()
    """It reads weights, which takes a while."""
    LAST = enum.auto()
    """It leaves a form that others can't read."""
    FINAL = enum.auto()
    """Nor can approximate ones: it waits for their plan, where there is one."""


class ExactRewrite(_Described):
    """Equal in real arithmetic, and cheaper."""

    __slots__ = ()
    exactness: ClassVar[Exactness] = Exactness.EXACT
    stage: ClassVar[Stage] = Stage.CHEAP
    time_alone: ClassVar[bool] = False
    """Whether it saves time and nothing else, so that it takes no part where the aim is MACs."""
    grows: ClassVar[bool] = False
    """Whether it makes weights larger, so that it takes no part where a budget or a gate asks for their bytes
    or number."""
    adds: ClassVar[bool] = False
    """Whether it makes MACs more, so that it takes no part where a budget or a gate asks for them."""

    @abstractmethod
    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """What takes the candidate's place. Pure.

        Args:
            analysis: a snapshot of the model that holds the candidate's site.
            candidate: one that `match` yielded.
        """


class ApproximateRewrite(_Described):
    """Fitted to statistics of what a linear operator reads, the only node of its site; under a budget."""

    __slots__ = ()
    exactness: ClassVar[Exactness] = Exactness.APPROXIMATE
    saves: ClassVar[bool] = True
    """Whether a plan may choose it; else it comes along, behind the layers that a plan chose."""

    @property
    def fixed(self) -> bool:
        """Whether the user chose the ranks, so that it takes part without a budget."""
        return False

    def inputs_needed(self, analysis: Analysis) -> Iterable[Linear]:
        """The linear operators whose input statistics `match` and `fit` use."""
        return ()

    def priced(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """What `match` would yield as far as costs go: what a scan asks for, without statistics."""
        return self.match(analysis)

    @abstractmethod
    def fit(
        self,
        analysis: Analysis,
        candidate: Candidate,
        statistics: Mapping[str, Statistics] | None,
        *,
        refine: int,
    ) -> Fitted:
        """What takes the candidate's place. Pure.

        Args:
            analysis: a snapshot of the model that holds the candidate's site.
            candidate: one that `match` yielded.
            statistics: of what operators read, by name; those of the snapshot where None.
            refine: rounds of alternation; 0 for a quick fit.

        Returns:
            The nodes, with the errors and spectra of the fit.
        """

    def draft(self, linear: Linear, candidate: Candidate) -> Replacement | None:
        """The nodes of a candidate with weights that mean nothing, to be timed; None: it can't be."""
        return None

    def ranks(self, choice: Choice) -> Iterable[int]:
        """The channels a group between the new operators; a plan by time takes whole blocks of them."""
        return ()

    def finish(self) -> Iterable[str]:
        """Names of exact rewrites that take away what is not needed any more once a candidate is put in."""
        return ()

    def operators(self, choice: Choice) -> int:
        """Operators more than before that a choice makes, at most."""
        return 2


class ExpandingRewrite(_Described):
    """Equal, and dearer: on request, alone."""

    __slots__ = ()
    exactness: ClassVar[Exactness] = Exactness.EXPANDING

    @property
    def condition(self) -> str:
        """What the equality depends on; "" when on nothing."""
        return ""

    def outputs_needed(self, analysis: Analysis) -> Iterable[Linear]:
        """The operators of whose outputs `match` and `build` need the range, `Analysis.extremes`."""
        return ()

    def why_not(self, *, calibrated: bool) -> str:
        """Why the options can't be used; "" when they can.

        Args:
            calibrated: whether there are calibration inputs.
        """
        return ""

    @abstractmethod
    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """What takes the candidate's place; see `ExactRewrite.build`."""


AnyRewrite: TypeAlias = "ExactRewrite | ApproximateRewrite | ExpandingRewrite"
