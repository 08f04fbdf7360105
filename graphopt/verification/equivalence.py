"""Whether two models compute the same, by running both in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from graphopt import progress
from graphopt.analysis.shapes.inputs import fixed
from graphopt.errors import InputError, Named
from graphopt.runtime import session
from graphopt.runtime.session import Feeds, Structure
from graphopt.verification.difference import Difference
from graphopt.verification.verdict import Verdict, Verification, bound, unrunnable, verdict

MODEL_BOUND = {"float64": 1e-10, "float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2}
"""Relative difference that a whole model may show, by the type of its output. float16 and bfloat16: 5 eps, of
roundings that add up. float32: 840 eps; measured by benchmarks.thresholds: MODEL_BOUND, 1.7e-6 at most over
all exact rewrites of nine architectures, so 60 times that."""
OWN_DIFFERENCE_FACTOR = 4.0
"""A model may differ as much as this times what onnxruntime's own optimisation changes in the original.
2 is derived (either model may be off by as much, in opposite directions), twice that is a choice."""


# ---------------------------------------------------------------- whole models


def interface(reference: ir.Model, candidate: ir.Model) -> Verdict | None:
    """A failed verdict when the models' inputs and outputs are not the same; None when they are."""
    for kind, ours, theirs in (
        ("inputs", _ports(reference.graph.inputs), _ports(candidate.graph.inputs)),
        ("outputs", _ports(reference.graph.outputs), _ports(candidate.graph.outputs)),
    ):
        if ours != theirs:
            note = f"the {kind} differ: {_odd(ours, theirs)}"
            return Verdict("interface", kind, False, math.inf, math.inf, -math.inf, 0.0, 0, note)
    return None


def _odd(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """What two lists that differ first differ in."""
    if sorted(ours) == sorted(theirs):
        return "their order"
    one, other = next((a, b) for a, b in zip_longest(ours, theirs, fillvalue="") if a != b)
    if one and other:
        return f"{one} in the first, {other} in the second"
    return f"{one or other} only in the {'first' if one else 'second'}"


def _ports(values: Iterable[ir.Value]) -> list[str]:
    """Name, type and shape of each value that a caller meets; symbols count as unknown sizes."""
    return [
        f"{value.name} {value.dtype.name if value.dtype is not None else '?'}"
        + (
            ""
            if value.shape is None
            else f"[{', '.join('?' if (size := fixed(d)) is None else str(size) for d in value.shape)}]"
        )
        for value in values
        if not value.is_initializer()
    ]


def require_outputs(model: ir.Model, names: Iterable[str]) -> None:
    """Refuses names of outputs that the model does not have.

    Raises:
        InputError: one is no output.
    """
    present = [value.name for value in model.graph.outputs]
    for name in names:
        if name not in present:
            raise InputError(
                f"{Named('outputs', name)}: the model's outputs are {', '.join(str(p) for p in present)}"
            )


def outputs(parts: Structure, feeds: Sequence[Feeds], *, optimised: bool) -> list[list[npt.NDArray[Any]]]:
    """The model's outputs for every feed.

    Args:
        parts: the model.
        feeds: the inputs.
        optimised: whether onnxruntime may rewrite the graph; else it is run operator by operator.

    Returns:
        For each feed, the outputs in the order of the graph.

    Raises:
        InputError: onnxruntime can't load or run the model.
    """
    if not optimised:
        interpreter = session.Interpreter(parts)
        return [interpreter.run(feed) for feed in progress.track(feeds, "inputs")]
    running = session.session(parts, optimised=True)
    return [session.run(running, feed) for feed in progress.track(feeds, "inputs")]


class Reference:
    """A model to compare others with: its outputs as it stands are found once.

    Args:
        model: the original.
        feeds: inputs to compare on.
        kept: names of the outputs that count; all when empty.
    """

    def __init__(self, model: ir.Model, feeds: Sequence[Feeds], kept: Sequence[str] = ()) -> None:
        self.model = model
        self._feeds = feeds
        self._names = [value.name or "" for value in model.graph.outputs]
        self._counted = [i for i, name in enumerate(self._names) if not kept or name in kept]

    @cached_property
    def _parts(self) -> Structure:
        return session.structure(self.model)

    @cached_property
    def expected(self) -> list[list[npt.NDArray[Any]]]:
        """The outputs for every feed.

        Raises:
            InputError: onnxruntime can't load or run the model.
        """
        return outputs(self._parts, self._feeds, optimised=False)

    @cached_property
    def _optimised(self) -> list[list[npt.NDArray[Any]]]:
        """The outputs for every feed in a session that onnxruntime optimises."""
        return outputs(self._parts, self._feeds, optimised=True)

    @cached_property
    def _own(self) -> list[Difference]:
        """What onnxruntime's own optimisation changes."""
        return differences(self.expected, self._optimised, self._counted)

    def verify(self, candidate: ir.Model) -> Verification:
        """Whether the outputs are equal up to rounding, the candidate as it stands and as optimised.

        Raises:
            InputError: onnxruntime can't load or run the reference.
        """
        different = interface(self.model, candidate)
        if different is not None:
            return Verification((different,))
        expected, rewritten = self.expected, session.structure(candidate)
        checks: list[Verdict] = []
        for optimised in (False, True):
            scope = "model, optimised session" if optimised else "model"
            try:
                results = outputs(rewritten, self._feeds, optimised=optimised)
            except InputError as error:
                refused = [unrunnable(scope, self._names[i], error) for i in self._counted]
                return Verification((*checks, *refused))
            found = differences(expected, results, self._counted)
            checks += self._verdicts(scope, found, results if optimised else None)
        return Verification(tuple(checks)) if all(checks) else self._without_random(checks)

    def _verdicts(
        self,
        scope: str,
        found: Sequence[Difference],
        optimised: Sequence[Sequence[npt.NDArray[Any]]] | None,
    ) -> list[Verdict]:
        """What the differences from the original as it stands mean.

        Args:
            scope: what was compared.
            found: the differences of the outputs that count.
            optimised: the candidate's outputs, where they are those of a session that optimises.
        """
        limits = [bound(self.expected[0][i], MODEL_BOUND) for i in self._counted]
        if any(gap.max_rel > limit for gap, limit in zip(found, limits, strict=True)):
            odd = [math.isinf(gap.max_rel) for gap in self._own]
            limits = [
                limit if alone else max(limit, OWN_DIFFERENCE_FACTOR * gap.max_rel)
                for limit, alone, gap in zip(limits, odd, self._own, strict=True)
            ]
            if optimised is not None and any(odd):
                # Where optimising the original makes other values finite, no factor of that is a bound.
                like = differences(self._optimised, optimised, self._counted)
                found = [two if alone else one for one, two, alone in zip(found, like, odd, strict=True)]
        named = zip(self._counted, found, limits, strict=True)
        return [verdict(scope, self._names[i], gap, limit) for i, gap, limit in named]

    def _without_random(self, checks: Sequence[Verdict]) -> Verification:
        """Failed checks, less those of outputs in which the original itself differs from run to run.

        A new session would draw the same random numbers as the first, so one session runs twice.
        """
        running = session.session(self._parts, optimised=False)
        first, second = ([session.run(running, feed) for feed in self._feeds] for _ in range(2))
        again = differences(first, second, self._counted)
        random = {check.output for check, gap in zip(checks, again, strict=False) if gap.max_rel > 0}
        if not random:
            return Verification(tuple(checks))
        left = tuple(check for check in checks if check.output not in random)
        note = f"not compared, since the original itself is random there: {', '.join(sorted(random))}"
        return Verification(left, (note,))


def differences(
    expected: Sequence[Sequence[npt.NDArray[Any]]],
    found: Sequence[Sequence[npt.NDArray[Any]]],
    counted: Sequence[int],
) -> list[Difference]:
    """The differences of the counted outputs, over all feeds.

    Args:
        expected: for each feed, the outputs of the reference.
        found: those of the candidate.
        counted: places of the outputs that count.

    Returns:
        One difference for each of `counted`.
    """
    gaps = [Difference() for _ in counted]
    for reference, candidate in zip(expected, found, strict=True):
        for gap, index in zip(gaps, counted, strict=True):
            gap.add(reference[index], candidate[index])
    return gaps
