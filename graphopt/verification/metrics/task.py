"""A ready measure of a task: models are run on held-out inputs, and what they say is compared."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt import progress
from graphopt.calibration.inputs import Calibration
from graphopt.errors import InputError, Named
from graphopt.measures import registry
from graphopt.measures.base import LayoutError, Numbers, Row, Sample
from graphopt.planning import CONFIDENCE, intervals
from graphopt.runtime import session
from graphopt.types import Figure, Interval, Score
from graphopt.verification.metrics.own import OwnMetric


class TaskMetric:
    """A ready measure that the user names.

    Args:
        name: such as ``detection``, or with options, ``embedding:threshold=0.4``.
        folder: where files of its options are; the current folder where not given.

    Raises:
        InputError: there is no such measure, or not with these options.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self.name, self.measure = name, registry.parse(name, folder)

    @property
    def task(self) -> str:
        """The measure's name without its options."""
        return self.name.partition(":")[0]

    @property
    def figures(self) -> dict[str, Figure]:
        """What it tells, by key."""
        return {figure.key: figure for figure in self.measure.FIGURES}

    @property
    def against(self) -> str:
        """What models are compared with: ``original``, or ``labels``."""
        return "original" if self.measure.labels is None else "labels"

    def load(self) -> npt.NDArray[Any] | None:
        """The labels of all inputs; None where there are none.

        Raises:
            InputError: their file can't be read.
        """
        path = self.measure.labels
        if path is None:
            return None
        try:
            read = np.load(path, allow_pickle=False)
            if isinstance(read, np.ndarray):
                return read
            with read:
                if len(read.files) == 1:
                    found: npt.NDArray[Any] = read[read.files[0]]
                    return found
                raise ValueError(f"it holds {len(read.files)} arrays, and labels are one")
        except Exception as error:  # NumPy raises many kinds for damaged files
            said = getattr(error, "strerror", None) or session.one_line(error)
            raise InputError(f"{Named('metric', self.name)}: labels: {path}: {said}") from error


class Scorer:
    """Scores models by a measure, on held-out inputs.

    Args:
        metric: the measure.
        reference: the original.
        calibration: the inputs.
        kept: names of the outputs that count; all when empty.
        asked: keys of the figures that are asked for.
        confidence: of the intervals that are told.

    Raises:
        InputError: the original's outputs are not those of the task, labels do not fit, the inputs are too
            few, or a figure that is asked for can't be had.
    """

    def __init__(
        self,
        metric: TaskMetric,
        reference: ir.Model,
        calibration: Calibration,
        kept: Sequence[str] = (),
        asked: Sequence[str] = (),
        confidence: float = CONFIDENCE,
    ) -> None:
        self._confidence = confidence
        self._measure, self._name = metric.measure, metric.name
        self._model, self._calibration = reference, calibration
        self._places = [
            (number, value.name or "")
            for number, value in enumerate(reference.graph.outputs)
            if not kept or value.name in kept
        ]
        if calibration.samples < self._measure.LEAST:
            count = calibration.samples
            few = "1 held-out input is" if count == 1 else f"{count} held-out inputs are"
            raise self._refused(f"{few} too few: it takes {self._measure.LEAST}")
        self._labels = self._held_out(metric.load())
        self._layout = self._fit()
        for key in asked:
            lacking = self._measure.lacking(key, self._layout)
            if lacking:
                raise self._refused(f"{key} {lacking}")

    def __call__(self, model: ir.Model) -> Score:
        """What the measure says of a model with the original's outputs."""
        got = self._wanted if model is self._model else self._answers(model)
        rows = [Row(*each) for each in zip(self._wanted, got, self._labels, strict=True)]
        compared = [self._measure.compared(row, self._layout) for row in rows]
        found = self._measure.combined(compared, self._layout)
        lacking = {key for key in found if self._measure.lacking(key, self._layout)}
        figures = {key: value for key, value in found.items() if key not in lacking}
        spans = self._intervals(figures, compared)
        return Score(next(iter(found.values())), figures, spans, len(compared))

    def _intervals(self, figures: Mapping[str, float], compared: Sequence[Any]) -> dict[str, Interval]:
        """The intervals of the figures that can be told."""
        groups, count, sure = min(intervals.GROUPS, len(compared)), len(compared), self._confidence
        with warnings.catch_warnings(), np.errstate(all="ignore"):  # a part may hold too little for a figure
            warnings.simplefilter("ignore", RuntimeWarning)
            others = [
                self._measure.combined(
                    [each for number, each in enumerate(compared) if number % groups != left], self._layout
                )
                for left in range(groups)
            ]
        kinds, found = {figure.key: figure for figure in self._measure.FIGURES}, dict[str, Interval]()
        for key, value in figures.items():
            left_out = [] if kinds[key].counted else [other[key] for other in others]
            if math.isnan(value):
                continue
            if kinds[key].unit:
                found[key] = intervals.of_number(value, left_out, sure)
            else:
                found[key] = intervals.of_part(value, count, left_out, sure, kinds[key].least)
        return found

    def _fit(self) -> Any:
        """How outputs are read, by those of the original for the first input."""
        metadata = {key: str(value) for key, value in self._model.metadata_props.items()}
        sample = Sample(next(self._runs(self._model)), metadata)
        try:
            return self._measure.layout(sample)
        except LayoutError as error:
            said = f": {error}" if str(error) else ""
            expected = f"expected {self._measure.EXPECTS}; the model has {sample.described}"
            raise self._refused(f"{expected}{said}") from error

    @cached_property
    def _wanted(self) -> list[Any]:
        return self._answers(self._model)

    def _answers(self, model: ir.Model) -> list[Any]:
        return [self._measure.read(outputs, self._layout) for outputs in self._runs(model)]

    def _runs(self, model: ir.Model) -> Iterator[dict[str, Numbers]]:
        """The outputs that count, by the original's names, of each held-out input by itself."""
        samples = self._calibration.held_out
        size = self._calibration.batch if self._calibration.fixed else 1
        running = session.session(session.structure(model), optimised=True)
        names = [model.graph.outputs[number].name or "" for number, _ in self._places]
        for part in progress.track(list(samples.cut(size)), "inputs"):
            found = session.run(running, part.joined(), names)
            outputs = {
                name: array
                for (_, name), array in zip(self._places, found, strict=True)
                if isinstance(array, np.ndarray) and array.dtype.kind in "fiub"
            }
            for number in range(size):
                yield {name: self._one(name, array, number, size) for name, array in outputs.items()}

    def _one(self, name: str, array: Numbers, number: int, size: int) -> Numbers:
        """What an output has for one input of a run.

        Raises:
            InputError: it has no entry for each.
        """
        if size == 1:
            return array
        if not array.ndim or len(array) != size:
            raise self._refused(f"output {name} {list(array.shape)} has no entry for each of {size} inputs")
        return array[number : number + 1]

    def _held_out(self, labels: npt.NDArray[Any] | None) -> Sequence[Any]:
        """The labels of the held-out inputs; None for each without labels."""
        numbers = self._calibration.numbers
        if labels is None:
            return [None] * len(numbers)
        try:
            found = self._measure.labelled(labels, self._calibration.given)
        except ValueError as error:
            raise self._refused(f"labels: {error}; they are {self._measure.LABELS}") from error
        return [found[number] for number in numbers]

    def _refused(self, why: str) -> InputError:
        return InputError(f"{Named('metric', self._name)}: {why}")


def named(name: str, folder: Path | None = None) -> OwnMetric | TaskMetric:
    """The measure of a name: a ready one, or the user's own.

    Raises:
        InputError: there is none of that name, and it is no ``package.module:function``.
    """
    return TaskMetric(name, folder) if registry.is_ready(name) else OwnMetric(name, folder)


def files(name: str, folder: Path) -> list[Path]:
    """What a measure is read from: a ready one's files, or the module of the user's own."""
    if not registry.is_ready(name):
        module = name.partition(":")[0].replace(".", os.sep)
        return [folder / f"{module}.py"]
    options = vars(registry.parse(name, folder))
    return [value for value in options.values() if isinstance(value, Path)]
