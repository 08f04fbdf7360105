"""Rewrites of the final stage wait for the plan of approximate ones, where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

import graphopt
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.types import Candidate, Rejection, Replacement
from tests.builders import Net

SEEN: list[int] = []
RANKS = {"bottleneck.rank_in": 2, "bottleneck.rank_out": 2}


@dataclass(frozen=True)
class Last(ExactRewrite):
    """Notes how many linear operators there are whenever it is asked."""

    name: ClassVar[str] = "last"
    stage: ClassVar[Stage] = Stage.FINAL
    grows: ClassVar[bool] = True

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        SEEN.append(len(analysis.linears))
        return iter(())

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        raise AssertionError("it matches nothing")


@dataclass(frozen=True)
class Adding(Last):
    """The same, of a rewrite that makes MACs more and no weights."""

    grows: ClassVar[bool] = False
    adds: ClassVar[bool] = True


@dataclass(frozen=True)
class Early(Last):
    """The same, of a rewrite of every round."""

    stage: ClassVar[Stage] = Stage.WEIGHTS
    grows: ClassVar[bool] = False


@pytest.fixture(autouse=True)
def _none_seen() -> None:
    SEEN.clear()


def asked(rewrite: type[Last] = Last, **options: Any) -> list[int]:
    net = Net()
    y = net.conv(net.input([1, 8, 9, 9]), 8, pads=[1] * 4)
    only = ["last", *(["bottleneck"] if "options" in options or "budget" in options else [])]
    graphopt.optimize(net.model(y), rewrites=[rewrite], only=only, force=True, **options)
    return SEEN


def test_without_a_plan_it_is_asked() -> None:
    assert asked() == [1]


def test_with_a_plan_it_sees_what_that_made() -> None:
    assert asked(options=RANKS) == [3]


def test_where_a_budget_asks_for_nothing_it_is_asked_all_the_same() -> None:
    assert asked(budget={"macs": 1.0}) == [1]


@pytest.mark.parametrize(
    "options", [{"require": ["bytes<=1"]}, {"require": ["params<=1"]}, {"budget": {"bytes": 1}}]
)
def test_what_grows_is_left_out_where_bytes_are_asked_for(options: dict[str, Any]) -> None:
    assert asked(**options) == []


@pytest.mark.parametrize("options", [{"require": ["macs<=1"]}, {"budget": {"macs": 1}}])
def test_what_adds_macs_is_left_out_where_they_are_asked_for(options: dict[str, Any]) -> None:
    assert asked(Adding, **options) == []
    assert asked(Adding) == [1]


@pytest.mark.parametrize(("options", "looks"), [({}, [1]), ({"budget": {"macs": 1.0}}, [1, 1])])
def test_rewrites_look_twice_at_the_same_model_only_where_a_plan_may_come_between(
    options: dict[str, Any], looks: list[int]
) -> None:
    net = Net()
    y = net.conv(net.input([1, 8, 9, 9]), 8, pads=[1] * 4)
    graphopt.optimize(net.model(y), rewrites=[Early], **options)
    assert looks == SEEN
