"""How near an approximate model comes to the original, measured on inputs that it was not fitted to.

Rows that were picked by content, an order or a text tell nothing of how near two models come: in the place
of such an output those values are measured that it is made of (`Heads.measured`). Where more layers follow
what was decided, as in a detector of two stages, the model is given what the original decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt import progress
from graphopt.analysis.constants import Constants
from graphopt.analysis.shapes.inference import infer
from graphopt.calibration.inputs import Calibration
from graphopt.calibration.samples import Samples
from graphopt.errors import InputError
from graphopt.runtime import exposure, session
from graphopt.runtime.session import Feeds
from graphopt.types import Quality
from graphopt.verification.counterparts import Counterparts
from graphopt.verification.difference import Difference, Output, agreement, is_class_scores, parts_of
from graphopt.verification.heads import Heads


def measure(
    reference: ir.Model,
    candidate: ir.Model,
    calibration: Calibration,
    samples: Samples,
    kept: Sequence[str] = (),
) -> Quality:
    """Measures the candidate against the reference, both as onnxruntime optimises them.

    Args:
        reference: the original.
        candidate: the rewritten model.
        calibration: how to batch.
        samples: the inputs to measure on.
        kept: names of the outputs that count; all when empty.

    Returns:
        The lowest agreement and the lowest SQNR (dB) of any output that can be measured, and the number of
        inputs.
    """
    return Yardstick(reference, calibration, samples, kept).measure(candidate)


class Yardstick:
    """A model that others are measured against: what is measured is found once.

    Args:
        reference: the original.
        calibration: how to batch.
        samples: the inputs to measure on.
        kept: names of the outputs that count; all when empty.
    """

    def __init__(
        self, reference: ir.Model, calibration: Calibration, samples: Samples, kept: Sequence[str] = ()
    ) -> None:
        self._model, self._calibration, self._samples = reference, calibration, samples
        self._outputs = _counted(reference, kept)
        self._heads = Heads(reference, self._outputs)
        self._parts = session.structure(reference)

    @property
    def problem(self) -> str:
        """Why no output can be measured; "" where one can."""
        return "" if any(self._measured.values()) else Quality(None, None, 0, {}, self._unmeasured).problem

    def measure(self, candidate: ir.Model) -> Quality:
        """How near a model with the same outputs comes, as onnxruntime optimises both."""
        pairs, decisions = self._pairs(candidate)
        names = [value.name or "" for value in pairs]
        gaps = {value: Difference() for value in pairs}
        resized: dict[ir.Value, str] = {}
        equal: dict[ir.Value, float] = {}
        count = 0
        for size, exact, found in self._runs(candidate, names, list(pairs.values()), decisions):
            count += size
            for value, ours, theirs in zip(pairs, exact, found, strict=True):
                if _sizes(ours) != _sizes(theirs):
                    resized[value] = f"{value.name} has other sizes than in the original"
                    continue
                gaps[value].add(ours, theirs)
                same = agreement(ours, theirs) if self._may_agree(value) else None
                if same is not None:
                    equal[value] = equal.get(value, 0.0) + same * size
        lost = {value: f"{value.name} is not in the result" for value in self._values if value not in pairs}
        return self._quality(gaps, {**resized, **lost}, equal, count)

    def _quality(
        self,
        gaps: Mapping[ir.Value, Difference],
        lost: Mapping[ir.Value, str],
        equal: Mapping[ir.Value, float],
        count: int,
    ) -> Quality:
        """The figures, of those outputs of which all values could be measured."""
        unmeasured = dict(self._unmeasured)
        kept: dict[ir.Value, tuple[ir.Value, ...]] = {}
        for output, values in self._measured.items():
            reason = next((lost[value] for value in values if value in lost), "")
            if reason:
                unmeasured[output.name or ""] = reason
            elif values:
                kept[output] = values
        measured = list(dict.fromkeys(value for values in kept.values() for value in values))
        agreeing = [equal[value] / count for value in measured if value in equal]
        return Quality(
            min(agreeing, default=None),
            min((gaps[value].sqnr for value in measured), default=None),
            count,
            {
                output.name or "": tuple(value.name or "" for value in before)
                for output, before in kept.items()
                if before != (output,)
            },
            unmeasured,
        )

    # ------------------------------------------------------------ what is measured

    @cached_property
    def _measured(self) -> dict[ir.Value, tuple[ir.Value, ...]]:
        """By output, what is measured for it: values whose numbers onnxruntime hands out."""
        dtype = types_of(self._model)
        found = {output: self._heads.measured(output, dtype) for output in self._outputs}
        usable = self._usable(dict.fromkeys(value for values in found.values() for value in values))
        return {output: tuple(v for v in values if v in usable) for output, values in found.items()}

    def _usable(self, values: Iterable[ir.Value]) -> set[ir.Value]:
        """Those of the values that hold finite numbers."""
        feeds = next(self._calibration.batches(self._samples))
        values = list(values)
        try:
            found = dict(zip(values, self._content(values, feeds), strict=True))
        except InputError:
            found = {}
            for value in values:
                try:
                    found.update(zip([value], self._content([value], feeds), strict=True))
                except InputError:
                    continue
        return {value for value, output in found.items() if _is_number(output)}

    def _content(self, values: Sequence[ir.Value], feeds: Feeds) -> list[Output]:
        names = [value.name or "" for value in values]
        running = session.session(exposure.exposed(self._parts, names), optimised=True)
        return list(session.run(running, feeds, names)) if names else []

    @cached_property
    def _unmeasured(self) -> dict[str, str]:
        """Why outputs can't be measured, by name."""
        return {
            output.name or "": f"{_kind(output, self._heads)}, and nothing that it is made of can be measured"
            for output, values in self._measured.items()
            if not values
        }

    @property
    def _values(self) -> list[ir.Value]:
        return list(dict.fromkeys(value for values in self._measured.values() for value in values))

    def _may_agree(self, value: ir.Value) -> bool:
        """Whether the value may hold class scores: an output, or what an operator ranks or names."""
        return value in self._outputs or self._heads.scores(value)

    # ------------------------------------------------------------ runs

    def _pairs(self, candidate: ir.Model) -> tuple[dict[ir.Value, str], dict[str, str]]:
        """The names that a model has for what is measured, and for the decisions that it is given."""
        outputs = dict(zip(self._model.graph.outputs, candidate.graph.outputs, strict=True))
        behind = any(self._heads.behind(value) for value in self._values)
        if not behind and all(value in outputs for value in self._values):
            return {value: outputs[value].name or "" for value in self._values}, {}
        twins = Counterparts(self._model, candidate, self._heads.constants)
        named = {value.name for node in candidate.graph for value in node.outputs}
        pairs: dict[ir.Value, str] = {}
        for value in self._values:
            twin = outputs.get(value) or twins.of(value)
            name = (None if twin is None else twin.name) or (value.name if value.name in named else None)
            if name:
                pairs[value] = name
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


def may_agree(model: ir.Model, kept: Sequence[str] = ()) -> bool:
    """Whether an output that counts may hold class scores, or is made of what may.

    Args:
        model: the model.
        kept: names of the outputs that count; all when empty.
    """
    outputs = _counted(model, kept)
    heads = Heads(model, outputs)
    dtype, shape = types_of(model), _shapes_of(model)
    values = [value for output in outputs for value in heads.measured(output, dtype)]
    shapes = [_declared(value) for value in values if value in outputs]
    shapes += [shape(value) for value in values if value not in outputs and heads.scores(value)]
    return any(each is None or is_class_scores(each) for each in shapes)


def types_of(model: ir.Model) -> Callable[[ir.Value], ir.DataType | None]:
    """Tells the types of a model's values, as far as they are declared or follow."""
    try:
        return infer(model, Constants(model), assume_batch=None).dtype
    except InputError:  # what onnx's rules refuse may run
        return lambda value: value.dtype


def _shapes_of(model: ir.Model) -> Callable[[ir.Value], tuple[int | None, ...] | None]:
    """Tells the shapes of a model's values, as far as they are declared or follow."""
    try:
        return infer(model, Constants(model), assume_batch=None).get
    except InputError:
        return _declared


def _declared(value: ir.Value) -> tuple[int | None, ...] | None:
    if value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def _counted(model: ir.Model, kept: Sequence[str]) -> list[ir.Value]:
    return [value for value in model.graph.outputs if not kept or value.name in kept]


def _sizes(output: Output) -> list[tuple[int, ...]]:
    return [part.shape for part in parts_of(output)]


def _is_number(output: Any) -> bool:
    """Whether a value holds numbers, of which some are finite; it may hold none at all."""
    arrays: list[npt.NDArray[Any]] = output if isinstance(output, list) else [output]
    if not arrays or not all(isinstance(a, np.ndarray) and a.dtype.kind in "fiub" for a in arrays):
        return False
    return any(not a.size or a.dtype.kind != "f" or bool(np.isfinite(a).any()) for a in arrays)


def _kind(output: ir.Value, heads: Heads) -> str:
    """What an output is, in the words of a message."""
    if output.dtype is ir.DataType.STRING:
        return "it holds texts"
    if isinstance(output.type, (ir.SequenceType, ir.OptionalType)):
        return f"it is {output.type}"
    if heads.decided(output):
        return "its rows or values are decided by what the inputs hold"
    return "it holds no finite number"
