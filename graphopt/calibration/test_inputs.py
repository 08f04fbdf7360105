"""The inputs on which models are compared, and the sizes that open dimensions get for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from graphopt.analysis.constants import Constants
from graphopt.analysis.shapes.inference import infer
from graphopt.analysis.shapes.inputs import bind, fixed, format_shape, names_of, takes_array
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration.inputs import Calibration
from graphopt.errors import InputError
from graphopt.runtime import session
from graphopt.runtime.memory import default_bytes
from graphopt.runtime.session import Feeds

COUNT = 3
"""Inputs on which whole models are compared, at least: derived, one as found and two variations where sizes
are open, one odd and one even."""
SIZES_TO_TRY = (64, 32, 96, 128, 224, 256, 320, 512, 640)
"""Sizes tried, in this order, for open dimensions that nothing tells, until the model runs: derived, the
usual sizes of patches, of ImageNet and of detectors, each a multiple of 32, the stride of most networks."""
MOST_PIXELS = max(SIZES_TO_TRY) ** 2
"""Positions of a map up to which a size after the first is tried: derived, those of a picture of the largest;
a map of three open axes has as many at 74, and at 640 would not end."""
ODD = (3, 8, 13, 1)
"""What is added to an open size for another feed, the first that the model runs on; 2 more for each next.
Derived: 3 leaves a rest by strides of 2 and 4, 8 leaves none, 13 another one by 4, and 1 is the least."""
SMALL = (1, 2, 3)
"""Open sizes, all alike, of more feeds. Derived: where a map is smaller than a 3x3, a form that is right at
other sizes may fail."""
LARGE = 2 * SIZES_TO_TRY[0]
"""A size up to which twice an open size and 1 is fed too. Derived: double the first size that is tried, which
bounds what a run costs by four times that."""


@dataclass(frozen=True, slots=True)
class TestInputs:
    """Inputs to compare models on.

    Attributes:
        feeds: the inputs; where sizes are open, of several sizes.
        sizes: the shape of every input that costs are counted for.
        assumed: whether sizes besides the batch had to be guessed, so that no count is a fact.
        problem: why the model can't be run at all; "" when it can.
    """

    feeds: tuple[Feeds, ...]
    sizes: Mapping[str, tuple[int, ...]]
    assumed: bool
    problem: str = ""


def choose(
    model: ir.Model,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    calibration: Calibration | None = None,
    seed: int = 0,
    memory: int | None = None,
) -> TestInputs:
    """Chooses inputs to compare on: calibration inputs and seeded random ones.

    Args:
        model: the model to be fed.
        shapes: sizes of inputs that the user names.
        calibration: calibration inputs, which then give sizes and ranges.
        seed: of the random inputs.
        memory: bytes that the inputs of one run may take; a quarter of the machine's where not given.

    Returns:
        The inputs, the sizes that were chosen, and why none could be run where none could.

    Raises:
        InputError: the sizes contradict the model.
    """
    ranges = calibration.ranges() if calibration is not None else None
    given = dict(calibration.sizes()) if calibration is not None else {}
    given.update({name: tuple(shape) for name, shape in (shapes or {}).items()})
    constants = Constants(model)
    pinned, likely = _told(model, constants)
    told = {**pinned, **bind(model, constants, given, None, {}).symbols}
    slots = {name: batch for name, batch in _symbols(model, given).items() if name not in told}
    guessed = any(not batch for batch in slots.values())
    likely = {name: size for name, size in likely.items() if name in slots}
    guesses = [
        {**told, **{name: 1 if batch else size for name, batch in slots.items()}, **more}
        for more in ((likely, {}) if likely else ({},))
        for size in (SIZES_TO_TRY if guessed else (1,))
    ]
    unfed = _unfed(model, given)
    if unfed:
        return TestInputs((), _consistent(model, given, guesses), guessed, unfed)
    if not slots:
        sizes = _resolved(model, given, told)
        if unfed := _too_large(model, sizes, memory):
            return TestInputs((), sizes, False, unfed)
        feeds = [session.random_feeds(model, sizes, seed + i, ranges) for i in range(COUNT)]
        feeds += _extremes(model, None, sizes, pinned, seed + COUNT, ranges)
        return TestInputs((*_real(calibration), *feeds), sizes, False)
    try:
        running = session.session(session.structure(model), optimised=False)
    except InputError as error:
        return TestInputs((), _consistent(model, given, guesses), guessed, str(error))
    problem = ""
    for number, bound in enumerate(guesses):
        sizes = _resolved(model, given, bound)
        if number and max(map(_pixels, sizes.values()), default=0) > MOST_PIXELS:
            continue
        if unfed := _too_large(model, sizes, memory):
            problem = problem or unfed
            continue
        feeds = [session.random_feeds(model, sizes, seed, ranges)]
        try:
            session.run(running, feeds[0])
        except InputError as error:
            problem = problem or str(error)
            continue
        feeds += _variations(model, running, given, slots, bound, seed, ranges)
        feeds += _extremes(model, running, sizes, pinned, seed + len(feeds), ranges)
        return TestInputs((*_real(calibration), *feeds), sizes, guessed)
    return TestInputs((), _consistent(model, given, guesses), guessed, problem)


def _told(model: ir.Model, constants: Constants) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """The open sizes at which alone the model runs, and those that it broadcasts, by name."""
    try:
        found = infer(model, constants, assume_batch=None)
    except InputError:  # what onnx's rules refuse may run
        return {}, {}
    return found.pinned, found.likely


def _pixels(shape: Sequence[int]) -> int:
    """Positions of a map [N, C, …]; 1 for anything else."""
    return math.prod(shape[2:])


def _consistent(
    model: ir.Model, given: Mapping[str, Sequence[int]], guesses: Sequence[Mapping[str, int]]
) -> dict[str, tuple[int, ...]]:
    """For a model that can't be run: the first sizes that its operators fit, else those that are given."""
    for bound in guesses:
        sizes = _resolved(model, given, bound)
        try:
            Analysis(model, bindings=sizes)
        except InputError:
            continue
        return sizes
    return {name: tuple(shape) for name, shape in given.items()}


def _real(calibration: Calibration | None) -> Iterator[Feeds]:
    """The first held-out calibration inputs, a batch as the model takes it."""
    if calibration is not None:
        size = calibration.batch if calibration.fixed else min(COUNT, calibration.samples)
        yield next(session.batches(calibration.held_out, size))


def _variations(
    model: ir.Model,
    running: Any,
    given: Mapping[str, Sequence[int]],
    slots: Mapping[str, bool],
    bound: Mapping[str, int],
    seed: int,
    ranges: Mapping[str, tuple[float, float]] | None,
) -> Iterator[Feeds]:
    """More inputs: another batch, and other sizes, odd ones first, that the model runs on."""
    found = 0
    changes = [
        {
            **bound,
            **{name: bound[name] + (2 if b else odd + 2 * i) for i, (name, b) in enumerate(slots.items())},
        }
        for odd in ODD
    ]
    batch = {**bound, **{name: bound[name] + 2 for name, is_batch in slots.items() if is_batch}}
    for number, change in enumerate([*changes, batch, dict(bound), dict(bound)], start=1):
        try:
            feeds = session.random_feeds(model, _resolved(model, given, change), seed + number, ranges)
            session.run(running, feeds)
        except InputError:
            continue
        yield feeds
        found += 1
        if found >= COUNT - 1:
            return


def _extremes(
    model: ir.Model,
    running: Any | None,
    sizes: Mapping[str, Sequence[int]],
    pinned: Mapping[str, int],
    seed: int,
    ranges: Mapping[str, tuple[float, float]] | None,
) -> Iterator[Feeds]:
    """Inputs of a few pixels, of an odd size and of a large one, also where a size was told.

    What the model declares open is varied, whoever chose the size; where it does not run is left out.

    Args:
        model: the model.
        running: a session of it; None to make one where it is needed.
        sizes: of all its inputs, as they were chosen.
        pinned: open sizes at which alone the model runs, by name.
        seed: of the first.
        ranges: of the inputs, where known.
    """
    slots = {name: b for name, b in _symbols(model, {}).items() if not b and name not in pinned}
    bound = {
        _symbol(value, axis): sizes[value.name or ""][axis]
        for value in _fed(model)
        if value.name in sizes
        for axis in range(len(value.shape or ()))
    }
    if not slots or any(name not in bound for name in slots):
        return
    changes = [dict.fromkeys(slots, size) for size in SMALL]
    changes.append({name: bound[name] + 1 + 2 * i for i, name in enumerate(slots)})
    if max(bound[name] for name in slots) <= LARGE // 2:
        changes.append({name: 2 * bound[name] + 1 for name in slots})
    try:
        running = running or session.session(session.structure(model), optimised=False)
    except InputError:
        return
    for number, change in enumerate(changes):
        shapes = _resolved(model, {}, {**bound, **change})
        feeds = session.random_feeds(model, shapes, seed + number, ranges)
        try:
            session.run(running, feeds)
        except InputError:
            continue
        yield feeds


def _symbols(model: ir.Model, given: Mapping[str, Sequence[int]]) -> dict[str, bool]:
    """The open sizes of inputs that nobody gave, by symbol; whether each is a batch."""
    slots: dict[str, bool] = {}
    for value in _fed(model):
        if value.name in given or value.shape is None:
            continue
        for axis, size in enumerate(value.shape):
            if fixed(size) is None:
                symbol = _symbol(value, axis)
                slots[symbol] = slots.get(symbol, True) and axis == 0
    return slots


def _symbol(value: ir.Value, axis: int) -> str:
    return names_of(value, len(value.shape or ()))[axis]


def _unfed(model: ir.Model, given: Mapping[str, Sequence[int]]) -> str:
    """Why no input can be made for the model; "" where one can."""
    for value in _fed(model):
        if not takes_array(value):
            return f"input {value.name!r} takes {value.type}, and only arrays can be made"
        if value.shape is None and value.name not in given:
            return f"input {value.name!r} declares no shape: give its sizes, or calibration inputs"
    return ""


def _too_large(model: ir.Model, sizes: Mapping[str, Sequence[int]], memory: int | None) -> str:
    """Why inputs of these sizes are not made; "" when they are."""
    types = {value.name: value.dtype for value in _fed(model)}
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


def _fed(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _resolved(
    model: ir.Model, given: Mapping[str, Sequence[int]], bound: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """The shape of every input."""
    sizes: dict[str, tuple[int, ...]] = {}
    for value in _fed(model):
        name = value.name or ""
        if name in given:
            sizes[name] = tuple(given[name])
        elif value.shape is not None:
            sizes[name] = tuple(
                bound.get(_symbol(value, axis), 1) if (size := fixed(d)) is None else size
                for axis, d in enumerate(value.shape)
            )
    return sizes
