"""What a model makes of inputs, also inside: run as often as something new is asked for, and kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from graphopt import progress
from graphopt.errors import InputError
from graphopt.runtime import exposure, session
from graphopt.runtime.session import Feeds, Structure
from graphopt.verification.difference import Difference, Output

Given = Sequence[Mapping[str, npt.NDArray[Any]]]
"""For each input, values that a model is given in the place of what computes them, by name."""


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


class Values:
    """Values of a model for some inputs.

    Args:
        parts: the model.
        feeds: the inputs.
        optimised: whether onnxruntime may rewrite the graph.
        given: values that it is given, for each input; none when empty.

    Attributes:
        lost: values inside that onnxruntime does not hand out, such as those in bfloat16.
    """

    def __init__(
        self, parts: Structure, feeds: Sequence[Feeds], *, optimised: bool, given: Given = ()
    ) -> None:
        if given and given[0]:
            parts = exposure.given(parts, given[0])
            feeds = [{**feed, **exposure.fed(each)} for feed, each in zip(feeds, given, strict=True)]
        self._parts, self._feeds, self._optimised = parts, feeds, optimised
        self._found: dict[str, list[Output]] = {}
        self.lost: set[str] = set()

    def find(self, names: Iterable[str]) -> None:
        """Runs the model if one of the values is not known yet; those of types that can't be read are `lost`.

        Raises:
            InputError: onnxruntime can't load or run it.
        """
        missing = [name for name in names if name not in self._found and name not in self.lost]
        if not missing and self._found:
            return
        try:
            self._run(missing)
        except InputError:
            self._run([])
            for name in missing:
                self._find_or_lose(name)

    def _find_or_lose(self, name: str) -> None:
        try:
            self._run([name])
        except InputError:
            self.lost.add(name)

    def _run(self, names: Iterable[str]) -> None:
        parts = exposure.exposed(self._parts, [name for name in names if name not in self._found])
        made = [value.name for value in parts.proto.graph.output]
        found = outputs(parts, self._feeds, optimised=self._optimised)
        for name, arrays in zip(made, zip(*found, strict=True), strict=True):
            self._found.setdefault(name, list(arrays))

    def of(self, name: str) -> list[Output]:
        """The value for each input.

        Raises:
            InputError: onnxruntime can't load or run the model, or does not hand the value out.
        """
        self.find([name])
        if name in self.lost:
            raise InputError(f"onnxruntime does not hand out {name!r}")
        return self._found[name]


def random(parts: Structure, feeds: Sequence[Feeds]) -> set[str]:
    """The outputs in which a model differs from run to run.

    A new session would draw the same random numbers as the first, so one session runs twice.

    Raises:
        InputError: onnxruntime can't load or run the model.
    """
    running = session.session(parts, optimised=False)
    first, second = ([session.run(running, feed) for feed in feeds] for _ in range(2))
    names = [output.name for output in parts.proto.graph.output]
    again = zip(names, zip(*first, strict=True), zip(*second, strict=True), strict=True)
    return {name for name, one, other in again if difference(one, other).max_rel > 0}


def difference(expected: Sequence[Output], found: Sequence[Output]) -> Difference:
    """How far apart two values are, over all inputs."""
    gap = Difference()
    for reference, candidate in zip(expected, found, strict=True):
        gap.add(reference, candidate)
    return gap
