"""A model that others are compared with, on the test inputs and on others: what it makes is found once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import onnx_ir as ir

from graphopt.calibration.test_inputs import other_inputs
from graphopt.calibration.test_inputs.choice import TestInputs
from graphopt.errors import InputError
from graphopt.model.inlining import called
from graphopt.model.io import Source
from graphopt.runtime import session
from graphopt.runtime.session import Feeds, Structure
from graphopt.verification.difference import TOLD_APART, Output, change
from graphopt.verification.heads import Heads
from graphopt.verification.values import Given, Values, difference, outputs, random
from graphopt.verification.verdict import bound

MODEL_BOUND = {"float64": 1e-10, "float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2}
"""Relative difference that a whole model may show, by the type of its output. float16 and bfloat16: 5 eps, of
roundings that add up. float32: 840 eps; measured by benchmarks.thresholds: MODEL_BOUND, 1.7e-6 at most over
all exact rewrites of nine architectures, so 60 times that."""
TWINS = 2
"""Inputs that are tried in another range together: derived, the fewest that differ."""


class Original:
    """A model on some inputs, as it stands and as onnxruntime optimises it.

    Args:
        parts: the model.
        feeds: the inputs.
    """

    def __init__(self, parts: Structure, feeds: Sequence[Feeds]) -> None:
        self.feeds = list(feeds)
        self.values = Values(parts, feeds, optimised=False)
        self._parts = parts
        self._optimised: dict[tuple[frozenset[str], frozenset[str]], Values] = {}
        self._changes: dict[str, float] = {}

    def given(self, decisions: Mapping[str, str]) -> Given:
        """What it decides, for each input, by the names that another model has for it."""
        found = {theirs: self.values.of(ours) for ours, theirs in sorted(decisions.items())}
        return [{name: each[i] for name, each in found.items()} for i in range(len(self.feeds))]

    def optimised(self, decisions: frozenset[str], names: frozenset[str]) -> Values:
        """These values in a session that onnxruntime optimises and that is given these decisions.

        Raises:
            InputError: onnxruntime can't load or run that.
        """
        key = decisions, names
        if key not in self._optimised:  # together: what is read decides what onnxruntime may rewrite
            given = self.given({name: name for name in decisions})
            found = Values(self._parts, self.feeds, optimised=True, given=given)
            found.find(sorted(names))
            self._optimised[key] = found
        return self._optimised[key]

    def change(self, name: str) -> float:
        """What other inputs change in a value, as a part of its largest."""
        if name not in self._changes:
            self._changes[name] = change(self.values.of(name))
        return self._changes[name]

    def bound(self, name: str) -> float:
        """The relative difference that a value may show, by its type."""
        return bound(self.values.of(name)[0], MODEL_BOUND)

    def own_difference(self, name: str, decisions: frozenset[str], names: frozenset[str]) -> float:
        """What onnxruntime's own optimisation changes in a value, as a part of its largest.

        Args:
            name: of the value.
            decisions: those of its own that the optimised session is given.
            names: all that is read in that session.

        Returns:
            0 too where onnxruntime can't optimise the model: then nothing is known that could be allowed.
        """
        try:
            return difference(self.values.of(name), self.optimised(decisions, names).of(name)).max_rel
        except InputError:
            return 0.0

    def tells(self, name: str, allowed: float) -> bool:
        """Whether other inputs change a value by much more than is allowed."""
        return self.change(name) > TOLD_APART * allowed


class Reference:
    """A model to compare others with: what it makes of the inputs is found once.

    Args:
        model: the original.
        feeds: inputs to compare on.
        kept: names of the outputs that count; all when empty.
        frozen: whether initializers that are inputs too may vanish from those.
    """

    def __init__(
        self, model: ir.Model, feeds: Sequence[Feeds], kept: Sequence[str] = (), *, frozen: bool = False
    ) -> None:
        self.model = model
        self.frozen = frozen
        self.feeds = feeds
        self.outputs = [value for value in model.graph.outputs if not kept or value.name in kept]
        self._others: list[Original] = []

    @cached_property
    def parts(self) -> Structure:
        """The model as sessions take it."""
        return session.structure(self.model)

    @cached_property
    def heads(self) -> Heads:
        """What it makes its outputs by."""
        return Heads(self.model, self.outputs)

    @cached_property
    def original(self) -> Original:
        """The model on the inputs."""
        return Original(self.parts, self.feeds)

    @cached_property
    def _ranges(self) -> Iterator[list[Feeds]]:
        return other_inputs.others(self.model, _like_first(self.feeds))

    def others(self) -> Iterator[Original]:
        """The model on some of the inputs in other ranges, the likeliest first; each is made once."""
        for number in itertools.count():
            if number == len(self._others):
                feeds = next(self._ranges, None)
                if feeds is None:
                    return
                self._others.append(Original(self.parts, feeds))
            yield self._others[number]

    def prepare(self) -> None:
        """Runs the model, so that comparisons need not wait for it.

        Raises:
            InputError: onnxruntime can't load or run the model.
        """
        heads = self.heads
        made = (value for node in heads.decisions for value in node.outputs if value.name)
        read = (value for node in heads.following for value in heads.read(node) if value.producer())
        self.original.values.find(map(name_of, (*self.outputs, *made, *read)))


def _like_first(feeds: Sequence[Feeds]) -> list[Feeds]:
    """The inputs nearest in size to the first: of the largest, what a model makes in many ranges is much."""
    sizes = [1 + sum(array.size for array in feed.values()) for feed in feeds]
    order = sorted(range(len(feeds)), key=lambda i: abs(math.log(sizes[i] / sizes[0])))
    return [feeds[i] for i in order[:TWINS]]


# ---------------------------------------------------------------- bodies in the place of calls


def confirmed(source: Source, choose: Callable[[ir.Model], TestInputs]) -> tuple[Source, TestInputs]:
    """A model and its test inputs, with bodies in the place of calls only if it computes the same so.

    Args:
        source: the model.
        choose: finds inputs for a model.

    Returns:
        The model, as it was given where anything else came out without the calls, and inputs for it.
    """
    inputs = choose(source.model)
    checked = faithful(source, inputs.feeds)
    return checked, inputs if checked is source else choose(checked.model)


def faithful(source: Source, feeds: Sequence[Feeds]) -> Source:
    """A model, with bodies in the place of calls only if it computes the same so.

    Args:
        source: the model.
        feeds: inputs to compare on; without any the model has to be loaded alike.

    Returns:
        The model; as it was given, with the reason, where anything else came out without the calls.
    """
    if source.uninlined is None:
        return source
    reason = _unlike(session.structure(source.uninlined), session.structure(source.model), feeds)
    if not reason:
        return source
    left = {name: source.left.get(name, reason) for name in called(source.uninlined)}
    return replace(source, model=source.uninlined, uninlined=None, left=left)


def _unlike(given: Structure, ours: Structure, feeds: Sequence[Feeds]) -> str:
    """What is not the same about a model without its calls; "" where nothing is, or neither runs."""
    expected, found = _made(given, feeds), _made(ours, feeds)
    if isinstance(found, InputError):
        return "" if isinstance(expected, InputError) else f"without its calls {found}"
    if isinstance(expected, InputError):
        return f"with its calls {expected}"
    names = [output.name for output in given.proto.graph.output]
    gaps = {
        name: (difference(one, other), bound(one[0], MODEL_BOUND))
        for name, one, other in zip(
            names, zip(*expected, strict=True), zip(*found, strict=True), strict=False
        )
    }
    far = [name for name, (gap, allowed) in gaps.items() if gap.max_rel > allowed]
    vary = random(given, feeds) if far else set[str]()
    return next((f"without its calls output {name} differs" for name in far if name not in vary), "")


def _made(parts: Structure, feeds: Sequence[Feeds]) -> list[list[Output]] | InputError:
    """The outputs for every input, or why there are none."""
    try:
        return outputs(parts, feeds, optimised=False)
    except InputError as error:
        return error


def name_of(value: ir.Value) -> str:
    """A value's name."""
    return value.name or ""
