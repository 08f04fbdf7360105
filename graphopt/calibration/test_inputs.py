"""The inputs on which models are compared, and the sizes that open dimensions get for it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import onnx_ir as ir

from graphopt.analysis.constants import Constants
from graphopt.analysis.shapes.inference import infer
from graphopt.analysis.shapes.inputs import bind, declared, fixed, format_shape, names_of, takes_array
from graphopt.analysis.shapes.sizes import Sizes
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration.inputs import Calibration
from graphopt.calibration.running_sizes import RunningSizes
from graphopt.errors import InputError, TooLongError
from graphopt.runtime import session
from graphopt.runtime.limits.memory import default_bytes
from graphopt.runtime.session import Feeds
from graphopt.runtime.trial import survived

COUNT = 3
"""Inputs on which whole models are compared, at least: derived, one as found and two variations where sizes
are open, one odd and one even."""
SIZES_TO_TRY = (64, 32, 96, 128, 224, 256, 320, 512, 640, 16, 8, 4, 2, 1)
"""Sizes tried, in this order, for open dimensions that nothing tells, until the model runs: derived, the
usual sizes of patches, of ImageNet and of detectors, each a multiple of 32, the stride of most networks;
then less, for those that run on small maps alone."""
USUAL_POSITIONS = 224**2
"""Positions of a map up to which sizes are tried before those with more: derived, those of a picture of
ImageNet; a map of three open axes has 32,768 at 32, and 262,144 at 64."""
MOST_POSITIONS = max(SIZES_TO_TRY) ** 2
"""Positions of a map up to which a size that nobody gave is tried: derived, those of the largest picture;
a map of three open axes has as many at 74, and at 640 would not end."""
MOST_TRIED = 32
"""Sizes tried that satisfy the operators' demands: derived, up to 840 positions every pair of factors."""
ODD = (3, 8, 13, 1)
"""What is added to an open size for another feed, the first that the model runs on; 2 more for each next.
Derived: 3 leaves a rest by strides of 2 and 4, 8 leaves none, 13 another one by 4, and 1 is the least."""
SMALL = (1, 2, 3)
"""Open sizes, all alike, of more feeds. Derived: where a map is smaller than a 3x3, a form that is right at
other sizes may fail."""
DOUBLED = SIZES_TO_TRY[0]
"""Open sizes up to which another feed has double of them and 1, beyond it half more: derived, the first size
that is tried; double of a picture of 224² would cost four times a run of it."""


@dataclass(frozen=True, slots=True)
class TestInputs:
    """Inputs to compare models on.

    Attributes:
        feeds: the inputs; where sizes are open, of several sizes.
        sizes: the shape of every input that costs are counted for.
        assumed: whether sizes besides the batch had to be guessed, so that no count is a fact.
        problem: why the model can't be run at all; "" when it can.
        usual: the shape of every input that time is judged at where sizes are guessed: larger than those that
            models are compared on.
        ran: whether the model was run on them, to find sizes at which it runs.
    """

    feeds: tuple[Feeds, ...]
    sizes: Mapping[str, tuple[int, ...]]
    assumed: bool
    problem: str = ""
    usual: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ran: bool = False


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
    given = dict(calibration.sizes()) if calibration is not None else {}
    given.update({name: tuple(shape) for name, shape in (shapes or {}).items()})
    constants = Constants(model)
    found = _inferred(model, constants, None)
    told = {**found.pinned, **bind(model, constants, given, None, {}).symbols}
    slots = {name: batch for name, batch in _symbols(model, given).items() if name not in told}
    guessed = any(not batch for batch in slots.values())
    wishes = [
        {**told, **{name: 1 if batch else size for name, batch in slots.items()}}
        for size in (SIZES_TO_TRY if guessed else (1,))
    ]
    wishes.sort(key=lambda wish: _positions(_resolved(model, given, wish)) > USUAL_POSITIONS)
    unfed = _unfed(model, given)
    if unfed:
        return TestInputs((), _consistent(model, given, wishes), guessed, unfed)
    feeder = _Feeder(model, constants, calibration.ranges() if calibration is not None else None, memory)
    if not slots:
        sizes = _resolved(model, given, told)
        try:
            feeds = [feeder.made(sizes, seed + i) for i in range(COUNT)]
        except InputError as error:
            return TestInputs((), sizes, False, str(error))
        feeds += _extremes(feeder, sizes, found, seed + COUNT)
        return TestInputs((*_real(calibration), *feeds), sizes, False)
    problem = ""
    tried: list[Mapping[str, Sequence[int]]] = []
    for bound, others, search in _candidates(model, constants, given, found, wishes, told, slots):
        sizes = _resolved(model, given, bound)
        if sizes in tried or (tried and _positions(sizes) > MOST_POSITIONS):
            continue
        tried.append(sizes)
        try:
            feeds = [feeder.run(sizes, seed)]
        except TooLongError as error:
            return TestInputs((), sizes, guessed, str(error))
        except InputError as error:
            problem = problem or str(error)
            continue
        feeds += _variations(feeder, given, slots, bound, others, search, seed)
        feeds += _extremes(feeder, sizes, found, seed + len(feeds))
        usual = _usual(model, given, wishes, bound, search) if guessed else {}
        return TestInputs((*_real(calibration), *feeds), sizes, guessed, usual=usual, ran=True)
    if guessed:
        problem = f"{problem}; {_asked(model, given)}"
    return TestInputs((), _consistent(model, given, wishes), guessed, problem)


def _candidates(
    model: ir.Model,
    constants: Constants,
    given: Mapping[str, Sequence[int]],
    found: Sizes,
    wishes: Sequence[Mapping[str, int]],
    told: Mapping[str, int],
    slots: Mapping[str, bool],
) -> Iterator[tuple[Mapping[str, int], Iterator[Mapping[str, int]], RunningSizes]]:
    """Open sizes to try: as the operators demand them, of one sample first, then as they are wished.

    Args:
        model: the model.
        constants: its constants.
        given: the sizes of inputs that are known.
        found: what inference found without any.
        wishes: numbers for all open sizes, the likeliest first.
        told: the open sizes that are known.
        slots: the others, and whether each is a batch.

    Returns:
        Numbers for all open sizes, more of them that satisfy the same demands, and what found them.
    """
    batch = frozenset(name for name, is_batch in slots.items() if is_batch)
    for kept in (batch, frozenset[str]()):
        for number in range(2):
            sizes = found if not number else _inferred(model, constants, given)
            for likely in sorted({not each.certain for each in sizes.equations} | {False}, reverse=True):
                search = RunningSizes(sizes, kept | told.keys(), likely=likely)
                for wish in wishes:
                    choices = search.choices(wish)
                    for bound in itertools.islice(choices, MOST_TRIED if wish is wishes[0] else 1):
                        yield bound, choices, search


def _usual(
    model: ir.Model,
    given: Mapping[str, Sequence[int]],
    wishes: Sequence[Mapping[str, int]],
    bound: Mapping[str, int],
    search: RunningSizes,
) -> dict[str, tuple[int, ...]]:
    """The largest of the wished sizes that are usual, where the model takes them; else none.

    Args:
        model: the model.
        given: the sizes of inputs that are known.
        wishes: numbers for all open sizes.
        bound: those at which the model runs.
        search: what found them.
    """
    shapes = [_resolved(model, given, next(search.choices({**bound, **wish}))) for wish in wishes]
    usual = max((s for s in shapes if _positions(s) <= USUAL_POSITIONS), key=_positions, default=None)
    if usual is None:
        return {}
    try:
        Analysis(model, bindings=usual)
    except InputError:
        return {}
    return usual


class _Feeder:
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
        if _too_large(self.model, sizes, self._memory):
            return False
        try:
            found = infer(self.model, self._constants, bindings=sizes)
        except InputError:  # onnxruntime refuses it as well
            return False
        made = (found.get(value) for node in self.model.graph for value in node.outputs)
        return any(0 in shape[2:] for shape in made if shape is not None)

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


def _inferred(model: ir.Model, constants: Constants, given: Mapping[str, Sequence[int]] | None) -> Sizes:
    """What inference finds of every run, or of one sample at sizes that are given."""
    try:
        return infer(model, constants, bindings=given, assume_batch=None if given is None else 1)
    except InputError:  # what onnx's rules refuse may run
        return Sizes({})


def _positions(sizes: Mapping[str, Sequence[int]]) -> int:
    """Positions of the largest map [N, C, …] among the inputs; 1 where there is none."""
    return max((math.prod(shape[2:]) for shape in sizes.values()), default=1)


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
        yield calibration.held_out[:size].joined()


def _variations(
    feeder: _Feeder,
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
    shapes = (_resolved(feeder.model, given, each) for each in more)
    yield from itertools.islice(_that_run(feeder, shapes, seed + 1), COUNT - 1)


def _that_run(feeder: _Feeder, shapes: Iterable[Mapping[str, Sequence[int]]], seed: int) -> Iterator[Feeds]:
    """Inputs of those sizes on which the model runs."""
    for number, sizes in enumerate(shapes):
        try:
            yield feeder.run(sizes, seed + number)
        except TooLongError:
            return
        except InputError:
            continue


def _extremes(
    feeder: _Feeder,
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
    """
    model = feeder.model
    slots = {name: b for name, b in _symbols(model, {}).items() if not b and name not in found.pinned}
    bound = {
        _symbol(value, axis): sizes[value.name or ""][axis]
        for value in _fed(model)
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
    shapes = [_resolved(model, {}, next(search.choices(wish))) for wish in wishes]
    if _positions(shapes[-1]) > MOST_POSITIONS:
        shapes.pop()
    bearable = feeder.bearable(shapes[: len(small)], seed)
    yield from _that_run(feeder, [*bearable, *shapes[len(small) :]], seed)


def _larger(size: int) -> int:
    """An odd size that is larger by much."""
    return size + max(min(size, DOUBLED), size // 2) | 1


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


def _asked(model: ir.Model, given: Mapping[str, Sequence[int]]) -> str:
    """What to give of a model that runs at no sizes that were found."""
    left = [value for value in _fed(model) if value.name not in given and value.shape is not None]
    unknown = [value for value in left if any(fixed(size) is None for size in value.shape or ())]
    listed = ", ".join(f"{value.name} ({declared(value)})" for value in unknown)
    return f'no sizes at which it runs were found: give those of {listed} by "shapes"'


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
