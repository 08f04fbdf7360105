"""Makes random inputs of a model, runs it on them, and varies the sizes at which it runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import onnx_ir as ir

from graphopt.analysis.constants import Constants
from graphopt.analysis.shapes.inference import infer
from graphopt.analysis.shapes.inputs import format_shape
from graphopt.analysis.shapes.sizes import Sizes
from graphopt.calibration.test_inputs.running_sizes import RunningSizes
from graphopt.calibration.test_inputs.slots import (
    MOST_POSITIONS,
    SIZES_TO_TRY,
    fed,
    open_symbols,
    positions,
    resolved,
    symbol_of,
)
from graphopt.errors import InputError, TooLongError
from graphopt.runtime import session
from graphopt.runtime.limits.memory import default_bytes
from graphopt.runtime.session import Feeds
from graphopt.runtime.trial import survived
from graphopt.types import Shape

COUNT = 3
"""Inputs on which whole models are compared, at least: derived, one as found and two variations where sizes
are open, one odd and one even."""
ODD = (3, 8, 13, 1)
"""What is added to an open size for another feed, the first that the model runs on; 2 more for each next.
Derived: 3 leaves a rest by strides of 2 and 4, 8 leaves none, 13 another one by 4, and 1 is the least."""
SMALL = (1, 2, 3)
"""Open sizes, all alike, of more feeds. Derived: where a map is smaller than a 3x3, a form that is right at
other sizes may fail."""
MOST_BYTES = 1 << 30
"""Bytes of the values inside at odd and large sizes; beyond it such a size is not tried. Derived: in float32
300 maps of 64 channels and 119 pixels across, of which a run holds a few at once."""
DOUBLED = SIZES_TO_TRY[0]
"""Open sizes up to which another feed has double of them and 1, beyond it half more: derived, the first size
that is tried; double of a picture of 224² would cost four times a run of it."""


class Feeder:
    """Makes inputs of a model, and runs it on them.

    Args:
        model: the model.
        constants: its constants.
        ranges: lowest and highest value of an input, where known.
        memory: bytes that the inputs of one run may take; a quarter of the machine's where not given.
    """

    def __init__(
        self,
        model: ir.Model,
        constants: Constants,
        ranges: Mapping[str, tuple[float, float]] | None,
        memory: int | None,
    ) -> None:
        self.model, self._constants, self._ranges, self._memory = model, constants, ranges, memory

    @cached_property
    def _running(self) -> Any:
        try:
            return session.session(session.structure(self.model), optimised=False)
        except InputError as error:
            return error

    def bearable(
        self, shapes: Sequence[Mapping[str, Sequence[int]]], seed: int
    ) -> list[Mapping[str, Sequence[int]]]:
        """Those of the sizes at which a run does not end this process."""
        risky = [sizes for sizes in shapes if self._empties(sizes)]
        lived = survived(session.structure(self.model), [self.made(sizes, seed) for sizes in risky])
        fatal = [sizes for sizes, alive in zip(risky, lived, strict=True) if not alive]
        return [sizes for sizes in shapes if sizes not in fatal]

    def _empties(self, sizes: Mapping[str, Sequence[int]]) -> bool:
        """Whether a map inside has no position at these sizes, of which onnxruntime may die."""
        return any(0 in shape[2:] for shape in self._inside(sizes))

    def bytes_inside(self, sizes: Mapping[str, Sequence[int]]) -> int:
        """What the values inside take at these sizes, as far as their shapes are known."""
        return 4 * sum(math.prod(size or 0 for size in shape) for shape in self._inside(sizes))

    def _inside(self, sizes: Mapping[str, Sequence[int]]) -> list[Shape]:
        """The shapes of the values inside at these sizes, as far as they are known."""
        if _too_large(self.model, sizes, self._memory):
            return []
        try:
            found = infer(self.model, self._constants, bindings=sizes)
        except InputError:  # onnxruntime refuses it as well
            return []
        made = (found.get(value) for node in self.model.graph for value in node.outputs)
        return [shape for shape in made if shape is not None]

    def made(self, sizes: Mapping[str, Sequence[int]], seed: int) -> Feeds:
        """Random inputs of these sizes.

        Raises:
            InputError: they take more memory than is allowed.
        """
        unfed = _too_large(self.model, sizes, self._memory)
        if unfed:
            raise InputError(unfed)
        return session.random_feeds(self.model, sizes, seed, self._ranges)

    def run(self, sizes: Mapping[str, Sequence[int]], seed: int) -> Feeds:
        """Random inputs of these sizes, on which the model runs.

        Raises:
            InputError: they take more memory than is allowed, or onnxruntime can't load or run the model.
        """
        if isinstance(self._running, InputError):
            raise self._running
        feeds = self.made(sizes, seed)
        session.run(self._running, feeds)
        return feeds


def variations(
    feeder: Feeder,
    given: Mapping[str, Sequence[int]],
    slots: Mapping[str, bool],
    bound: Mapping[str, int],
    others: Iterator[Mapping[str, int]],
    search: RunningSizes,
    seed: int,
) -> Iterator[Feeds]:
    """More inputs: another batch, and other sizes, odd ones first, that the model runs on.

    Args:
        feeder: of the model.
        given: the sizes of inputs that are known.
        slots: the open sizes that nobody gave, and whether each is a batch.
        bound: numbers for them on which the model runs.
        others: more that satisfy the same demands.
        search: tells what the operators demand.
        seed: of the first.

    Returns:
        Inputs; one less than are compared on.
    """
    changes = [
        {
            **bound,
            **{name: bound[name] + (2 if b else odd + 2 * i) for i, (name, b) in enumerate(slots.items())},
        }
        for odd in ODD
    ]
    batch = {**bound, **{name: bound[name] + 2 for name, is_batch in slots.items() if is_batch}}
    varied = (next(search.choices(change)) for change in changes)
    more = itertools.chain(itertools.islice(others, 1), varied, (batch, bound, bound))
    shapes = (resolved(feeder.model, given, each) for each in more)
    yield from itertools.islice(_that_run(feeder, shapes, seed + 1), COUNT - 1)


def _that_run(feeder: Feeder, shapes: Iterable[Mapping[str, Sequence[int]]], seed: int) -> Iterator[Feeds]:
    """Inputs of those sizes on which the model runs."""
    for number, sizes in enumerate(shapes):
        try:
            yield feeder.run(sizes, seed + number)
        except TooLongError:
            return
        except InputError:
            continue


def extremes(
    feeder: Feeder,
    sizes: Mapping[str, Sequence[int]],
    found: Sizes,
    seed: int,
) -> Iterator[Feeds]:
    """Inputs of a few pixels, of an odd size and of a large one, also where a size was told.

    What the model declares open is varied, whoever chose the size; where it does not run is left out.

    Args:
        feeder: of the model.
        sizes: of all its inputs, as they were chosen.
        found: what inference found of the model.
        seed: of the first.

    Returns:
        Inputs on which the model runs.
    """
    model = feeder.model
    slots = {name: b for name, b in open_symbols(model, {}).items() if not b and name not in found.pinned}
    bound = {
        symbol_of(value, axis): sizes[value.name or ""][axis]
        for value in fed(model)
        if value.name in sizes
        for axis in range(len(value.shape or ()))
    }
    if not slots or any(name not in bound for name in slots):
        return
    small = [dict.fromkeys(slots, size) for size in SMALL]
    odd = {name: bound[name] + 1 + 2 * i for i, name in enumerate(slots)}
    large = {name: _larger(bound[name]) for name in slots}
    search = RunningSizes(found, frozenset(bound.keys() - slots.keys()), likely=False)
    wishes = [{**bound, **change} for change in (*small, odd, large)]
    shapes = [resolved(model, {}, next(search.choices(wish))) for wish in wishes]
    if positions(shapes[-1]) > MOST_POSITIONS:
        shapes.pop()
    bearable = feeder.bearable(shapes[: len(small)], seed)
    bearable += [each for each in shapes[len(small) :] if feeder.bytes_inside(each) <= MOST_BYTES]
    yield from _that_run(feeder, bearable, seed)


def _larger(size: int) -> int:
    """An odd size that is larger by much."""
    return size + max(min(size, DOUBLED), size // 2) | 1


def _too_large(model: ir.Model, sizes: Mapping[str, Sequence[int]], memory: int | None) -> str:
    """Why inputs of these sizes are not made; "" when they are."""
    types = {value.name: value.dtype for value in fed(model)}
    wide = {name: 4 if (kind := types[name]) is None else kind.numpy().itemsize for name in sizes}
    needed = sum(wide[name] * math.prod(shape) for name, shape in sizes.items())
    allowed = memory or default_bytes()
    if needed <= allowed:
        return ""
    listed = ", ".join(f"{name} of {format_shape(shape)}" for name, shape in sizes.items())
    return (
        f"its inputs ({listed}) take {needed / 2**30:,.1f} GiB, and {allowed / 2**30:,.1f} GiB are allowed: "
        "give smaller sizes, or allow more memory"
    )
