"""How near an approximate model comes to the original, measured on inputs that it was not fitted to.

Rows that were picked by content, an order or a text tell nothing of how near two models come: in the place
of such an output those values are measured that it is made of (`Heads.measured`). Where more layers follow
what was decided, as in a detector of two stages, the model is given what the original decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt import progress
from graphopt.analysis.channels import Channels
from graphopt.analysis.constants import Constants
from graphopt.calibration.inputs import Calibration
from graphopt.calibration.samples import Samples
from graphopt.errors import InputError
from graphopt.numerics.spread import decibels
from graphopt.planning import CONFIDENCE, intervals
from graphopt.runtime import exposure, session
from graphopt.runtime.session import Feeds, Structure
from graphopt.types import Interval, Quality
from graphopt.verification.counterparts import Counterparts
from graphopt.verification.difference import (
    Agreement,
    ChannelError,
    Group,
    Output,
    worst,
    worst_left_out,
)
from graphopt.verification.heads import Heads, Told, counted, is_tensor, told
from graphopt.verification.outputs.class_scores import ClassScores
from graphopt.verification.outputs.rows import by_sample

NONE: Mapping[str, int] = MappingProxyType({})
"""Axes of whoever knows none."""


def measure(
    reference: ir.Model,
    candidate: ir.Model,
    calibration: Calibration,
    samples: Samples,
    kept: Sequence[str] = (),
    confidence: float = CONFIDENCE,
    *,
    scores: bool = False,
    axes: Mapping[str, int] = NONE,
) -> Quality:
    """Measures the candidate against the reference, both as onnxruntime optimises them.

    Args:
        reference: the original.
        candidate: the rewritten model.
        calibration: how to batch.
        samples: the inputs to measure on.
        kept: names of the outputs that count; all when empty.
        confidence: of the intervals that are told.
        scores: whether outputs of the shape of class scores are taken as such where nothing else tells.
        axes: of the channels of outputs, by name, where somebody knows better.

    Returns:
        The lowest agreement, the lowest SQNR (dB) of any group of channels of an output that can be measured,
        their intervals, and the number of inputs.
    """
    calibration, samples = separated(reference, calibration, samples, kept)
    return Yardstick(reference, calibration, samples, kept, confidence, scores=scores, axes=axes).measure(
        candidate
    )


def separated(
    model: ir.Model, calibration: Calibration, samples: Samples, kept: Sequence[str] = ()
) -> tuple[Calibration, Samples]:
    """How inputs are run: one by one where what is measured has no row for each of several at once.

    Args:
        model: the original.
        calibration: how to batch.
        samples: the inputs to measure on.
        kept: names of the outputs that count; all when empty.

    Returns:
        The calibration and the samples, as they are or one by one.

    Raises:
        InputError: onnxruntime can't load or run the model.
    """
    first = next(calibration.parts(samples))
    if calibration.fixed or samples.axes is None or len(first) < 2:
        return calibration, samples
    parts, heads = session.structure(model), Heads(model, counted(model, kept))
    dtype, _ = told(model)
    values = dict.fromkeys(v for output in heads.outputs for v in heads.measured(output, dtype))
    usable = with_numbers(parts, (value for value in values if heads.told(value)), calibration, samples)
    ranked = {
        value.name or "": {axis for axis, _ in _rankings(heads, value)} for value in values if value in usable
    }
    if not ranked or by_sample(parts, ranked, first):
        return calibration, samples
    return calibration.one_by_one, samples.one_by_one


def _rankings(heads: Heads, value: ir.Value) -> set[tuple[int | None, bool]]:
    """How a value is ranked: as the operators do that read it; an output, if by none, by its shape."""
    return heads.rankings(value) or ({(None, False)} if value in heads.outputs else set())


class Yardstick:
    """A model that others are measured against: what is measured is found once.

    Args:
        reference: the original.
        calibration: how to batch.
        samples: the inputs to measure on.
        kept: names of the outputs that count; all when empty.
        confidence: of the intervals that are told.
        scores: whether outputs of the shape of class scores are taken as such where nothing else tells.
        axes: of the channels of outputs, by name, where somebody knows better.
    """

    def __init__(
        self,
        reference: ir.Model,
        calibration: Calibration,
        samples: Samples,
        kept: Sequence[str] = (),
        confidence: float = CONFIDENCE,
        *,
        scores: bool = False,
        axes: Mapping[str, int] = NONE,
    ) -> None:
        self._confidence, self._asked, self._axes = confidence, scores, axes
        self._model, self._calibration, self._samples = reference, calibration, samples
        self._outputs = counted(reference, kept)
        self._heads = Heads(reference, self._outputs)
        self._parts = session.structure(reference)

    @property
    def problem(self) -> str:
        """Why no output can be measured; "" where one can."""
        return "" if any(self._measured.values()) else Quality(None, None, 0, {}, self._unmeasured).problem

    @np.errstate(over="ignore", invalid="ignore")  # what is not finite has nothing in common
    def measure(self, candidate: ir.Model) -> Quality:
        """How near a model with the same outputs comes, as onnxruntime optimises both."""
        pairs, decisions = self._pairs(candidate)
        names = [value.name or "" for value in pairs]
        gaps = {value: [ChannelError(group) for group in self._groups(value)] for value in pairs}
        ranked = {value: [Agreement(*way) for way in self._scores.ranked.get(value, ())] for value in pairs}
        count = 0
        for size, exact, found in self._runs(candidate, names, list(pairs.values()), decisions):
            count += size
            for value, ours, theirs in zip(pairs, exact, found, strict=True):
                for gap in gaps[value]:
                    gap.add(ours, theirs, size)
                for each in ranked[value]:
                    each.add(ours, theirs, size)
        agreements = [each for ways in ranked.values() for each in ways]
        alike = tuple(v.name or "" for v, ways in ranked.items() if any(w.rows and not w.tells for w in ways))
        lost = {value: f"{value.name} is not in the result" for value in self._values if value not in pairs}
        return replace(self._quality(gaps, agreements, lost, count), alike=alike)

    def _quality(
        self,
        gaps: Mapping[ir.Value, Sequence[ChannelError]],
        agreements: Sequence[Agreement],
        lost: Mapping[ir.Value, str],
        count: int,
    ) -> Quality:
        """The figures; none where something can't be compared that could be measured in the original."""
        unmeasured = dict(self._unmeasured)
        for output, values in self._measured.items():
            unmeasured.update((output.name or "", lost[value]) for value in values if value in lost)
        known = not lost and all(each.known for each in agreements)
        channels = [gap for groups in gaps.values() for gap in groups]
        others = worst([gap for value in gaps if value not in self._ranked for gap in gaps[value]])
        errors, confidence = worst(channels), self._confidence
        agreed: tuple[float | None, Interval | None, int | None] = (None, None, None)
        for each in agreements if known else ():
            if each.part is not None and each.tells and (agreed[0] is None or each.part < agreed[0]):
                told = min(count, each.rows or count)
                agreed = each.part, intervals.of_part(each.part, told, each.left_out, confidence), each.rows
        error = None if lost or not errors else max(errors.values())
        return Quality(
            agreed[0],
            None if error is None else decibels(error),
            count,
            {
                output.name or "": tuple(value.name or "" for value in values)
                for output, values in self._measured.items()
                if values and values != (output,)
            },
            unmeasured,
            {} if lost or len(errors) < 2 else {name: decibels(error) for name, error in errors.items()},
            agreed[1],
            None if error is None else intervals.of_error(error, worst_left_out(channels), confidence),
            confidence,
            agreed[2],
            None if lost or not others else decibels(max(others.values())),
            () if agreed[0] is None else self._scores.taken,
            self._scores.untold,
        )

    # ------------------------------------------------------------ what is measured

    @cached_property
    def _found(self) -> dict[ir.Value, tuple[ir.Value, ...]]:
        """By output, what tells how near another model comes to it."""
        dtype, _ = self._told
        return {output: self._heads.measured(output, dtype) for output in self._outputs}

    @cached_property
    def _measured(self) -> dict[ir.Value, tuple[ir.Value, ...]]:
        """By output, what is measured for it: values whose numbers onnxruntime hands out."""
        values = dict.fromkeys(value for values in self._found.values() for value in values)
        usable = with_numbers(self._parts, values, self._calibration, self._samples)
        return {output: tuple(v for v in values if v in usable) for output, values in self._found.items()}

    @cached_property
    def _unmeasured(self) -> dict[str, str]:
        """Why outputs can't be measured, or not all that they are made of, by name."""
        reasons = {}
        for output, values in self._measured.items():
            left = [value for value in self._found[output] if value not in values]
            if not values:
                reason = f"{_kind(output, self._heads)}, and nothing that it is made of can be measured"
                reasons[output.name or ""] = reason
            elif left:
                names = ", ".join(value.name or "" for value in left)
                reasons[output.name or ""] = f"in part, {names} has no finite number on these inputs"
        return reasons

    @property
    def _values(self) -> list[ir.Value]:
        return list(dict.fromkeys(value for values in self._measured.values() for value in values))

    def _groups(self, value: ir.Value) -> list[Group]:
        """What is measured of a value: its parts, each against its own variances."""
        axis = self._channels.axis(value)
        if value in self._before:
            return [Group(value.name or "", axis)]
        found = []
        for part in self._channels.parts(value):
            name = value.name or "" if part.stop is None else f"{value.name}[{part.start}:{part.stop}]"
            bounded = self._channels.before_bounded(part.source) is not part.source
            found.append(Group(name, axis, part.start, part.stop, bounded))
        return found

    @cached_property
    def _channels(self) -> Channels:
        _, shape = self._told
        constants = Constants(self._model)
        return Channels(
            self._model, shape, lambda value: None if value is None else constants.array(value), self._axes
        )

    @cached_property
    def _before(self) -> dict[ir.Value, None]:
        """What a Softmax or Sigmoid at the end of an output reads, where onnxruntime hands it out."""
        found: dict[ir.Value, None] = {}
        for value in dict.fromkeys(value for values in self._found.values() for value in values):
            for part in self._channels.parts(value):
                before = self._channels.before_bounded(part.source)
                if before is not part.source and before.producer() is not None:
                    found[before] = None
        usable = with_numbers(self._parts, found, self._calibration, self._samples) if found else set()
        return {value: None for value in found if value in usable}

    @cached_property
    def _scores(self) -> ClassScores:
        """Which of what is measured holds class scores."""
        values = dict.fromkeys(value for values in self._found.values() for value in values)
        _, shape = self._told
        return ClassScores(self._model, self._heads, values, shape, asked=self._asked)

    @cached_property
    def _ranked(self) -> set[ir.Value]:
        """The values that hold class scores, and what a Softmax at their end reads."""
        found = set(self._scores.ranked)
        parts = [part for value in found for part in self._channels.parts(value)]
        return found | {self._channels.before_bounded(part.source) for part in parts}

    @cached_property
    def _told(self) -> Told:
        return told(self._model)

    # ------------------------------------------------------------ runs

    def _pairs(self, candidate: ir.Model) -> tuple[dict[ir.Value, str], dict[str, str]]:
        """The names that a model has for what is measured, and for the decisions that it is given."""
        outputs = dict(zip(self._model.graph.outputs, candidate.graph.outputs, strict=True))
        behind = any(self._heads.behind(value) for value in self._values)
        if not behind and not self._before and all(value in outputs for value in self._values):
            return {value: outputs[value].name or "" for value in self._values}, {}
        twins = Counterparts(self._model, candidate, self._heads.constants)
        named = {value.name for node in candidate.graph for value in node.outputs}
        pairs: dict[ir.Value, str] = {}
        for value in self._values:
            twin = outputs.get(value) or twins.of(value)
            name = (None if twin is None else twin.name) or (value.name if value.name in named else None)
            if name:
                pairs[value] = name
        pairs.update({v: twin.name for v in self._before if (twin := twins.of(v)) is not None and twin.name})
        made = [value for node in self._heads.decisions if behind for value in node.outputs if value.uses()]
        given = {v.name or "": twin.name or "" for v in made if (twin := twins.of(v)) is not None}
        return pairs, given

    def _runs(
        self,
        candidate: ir.Model,
        names: Sequence[str],
        twins: Sequence[str],
        decisions: Mapping[str, str],
    ) -> Iterator[tuple[int, list[Output], list[Output]]]:
        """For each batch of inputs, how many they are, and the values of both models.

        Args:
            candidate: the rewritten model.
            names: of the original's values.
            twins: of the other's.
            decisions: the names that it has for what the original decides.
        """
        wanted = [*names, *decisions]
        ours = session.session(exposure.exposed(self._parts, wanted), optimised=True)
        theirs = None
        parts = exposure.exposed(session.structure(candidate), twins)
        for batch in progress.track(list(self._calibration.parts(self._samples)), "inputs"):
            part = batch.joined()
            exact = session.run(ours, part, wanted) if wanted else []
            given = {
                decisions[name]: array
                for name, array in zip(wanted[len(names) :], exact[len(names) :], strict=True)
                if isinstance(array, np.ndarray)
            }
            if theirs is None:
                theirs = session.session(exposure.given(parts, given) if given else parts, optimised=True)
            found = session.run(theirs, {**part, **exposure.fed(given)}, twins) if twins else []
            yield len(batch), list(exact[: len(names)]), list(found)


def telling(model: ir.Model, kept: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """What is measured for each output that counts and depends on what inputs hold, by names.

    Args:
        model: the model.
        kept: names of the outputs that count; all when empty.
    """
    heads = Heads(model, counted(model, kept))
    dtype, _ = told(model)
    outputs = [output for output in heads.outputs if heads.told(output) or not is_tensor(output)]
    measured = {output.name or "": heads.measured(output, dtype) for output in outputs or heads.outputs}
    return {name: tuple(value.name or "" for value in values) for name, values in measured.items()}


def with_numbers(
    parts: Structure, values: Iterable[ir.Value], calibration: Calibration, samples: Samples
) -> set[ir.Value]:
    """Those of the values that hold a finite number for some of the inputs.

    Args:
        parts: the model.
        values: of its outermost graph.
        calibration: how to batch.
        samples: the inputs to run, as many of them as it takes.

    Returns:
        The values; without those that onnxruntime does not hand out.

    Raises:
        InputError: onnxruntime can't load or run the model.
    """
    left, found = {value.name or "": value for value in values}, set[ir.Value]()
    batches = calibration.batches(samples)
    first = next(batches)
    try:
        running = session.session(exposure.exposed(parts, list(left)), optimised=True)
        session.run(running, first, list(left))
    except InputError:
        session.run(session.session(parts, optimised=True), first)
        left = {name: value for name, value in left.items() if _reads(parts, name, first)}
        running = session.session(exposure.exposed(parts, list(left)), optimised=True)
    for batch in itertools.chain([first], batches):
        if not left:
            break
        for value, output in zip(list(left.values()), session.run(running, batch, list(left)), strict=True):
            if _is_number(output):
                found.add(left.pop(value.name or ""))
    return found


def _reads(parts: Structure, name: str, feeds: Feeds) -> bool:
    """Whether onnxruntime hands a value out."""
    try:
        session.run(session.session(exposure.exposed(parts, [name]), optimised=True), feeds, [name])
    except InputError:
        return False
    return True


def _is_number(output: Any) -> bool:
    """Whether a value holds numbers, of which some are finite."""
    arrays: list[npt.NDArray[Any]] = output if isinstance(output, list) else [output]
    if not arrays or not all(isinstance(a, np.ndarray) and a.dtype.kind in "fiub" for a in arrays):
        return False
    return any(a.size and (a.dtype.kind != "f" or bool(np.isfinite(a).any())) for a in arrays)


def _kind(output: ir.Value, heads: Heads) -> str:
    """What an output is, in the words of a message."""
    if output.dtype is ir.DataType.STRING:
        return "it holds texts"
    if isinstance(output.type, (ir.SequenceType, ir.OptionalType)):
        return f"it is {output.type}"
    if heads.decided(output):
        return "its rows or values are decided by what the inputs hold"
    return "it holds no finite number"
