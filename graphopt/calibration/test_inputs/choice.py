"""The inputs on which models are compared, and the sizes that open dimensions get for it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.analysis.constants import Constants
from graphopt.analysis.shapes.inference import infer
from graphopt.analysis.shapes.inputs import bind, declared, fixed, takes_array
from graphopt.analysis.shapes.sizes import Sizes
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration.inputs import Calibration
from graphopt.calibration.test_inputs.feeder import COUNT, Feeder, extremes, variations
from graphopt.calibration.test_inputs.running_sizes import RunningSizes
from graphopt.calibration.test_inputs.slots import (
    MOST_POSITIONS,
    SIZES_TO_TRY,
    USUAL_POSITIONS,
    fed,
    open_symbols,
    positions,
    resolved,
)
from graphopt.errors import InputError, TooLongError
from graphopt.runtime.session import Feeds

MOST_TRIED = 32
"""Sizes tried that satisfy the operators' demands: derived, up to 840 positions every pair of factors."""


@dataclass(frozen=True, slots=True)
class TestInputs:
    """Inputs to compare models on.

    Attributes:
        feeds: the inputs; where sizes are open, of several sizes.
        sizes: the shape of every input that models are run at first, and that costs are counted for where
            nothing is guessed.
        assumed: whether sizes besides the batch had to be guessed, so that no count is a fact.
        problem: why the model can't be run at all; "" when it can.
        usual: the shape of every input that time is judged at where sizes are guessed, when MACs are no fact:
            larger than those that models are compared on.
        ran: whether the model was run on them, to find sizes at which it runs.
        failed: whether it was run at several sizes, and failed at each.
    """

    feeds: tuple[Feeds, ...]
    sizes: Mapping[str, tuple[int, ...]]
    assumed: bool
    problem: str = ""
    usual: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ran: bool = False
    failed: bool = False


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
    slots = {name: batch for name, batch in open_symbols(model, given).items() if name not in told}
    guessed = any(not batch for batch in slots.values())
    wishes = [
        {**told, **{name: 1 if batch else size for name, batch in slots.items()}}
        for size in (SIZES_TO_TRY if guessed else (1,))
    ]
    wishes.sort(key=lambda wish: positions(resolved(model, given, wish)) > USUAL_POSITIONS)
    unfed = _unfed(model, given)
    if unfed:
        return TestInputs((), _consistent(model, given, wishes), guessed, unfed)
    feeder = Feeder(model, constants, calibration.ranges() if calibration is not None else None, memory)
    if not slots:
        sizes = resolved(model, given, told)
        try:
            feeds = [feeder.made(sizes, seed + i) for i in range(COUNT)]
        except InputError as error:
            return TestInputs((), sizes, False, str(error))
        feeds += extremes(feeder, sizes, found, seed + COUNT)
        return TestInputs((*_real(calibration), *feeds), sizes, False)
    problem = ""
    tried: list[Mapping[str, Sequence[int]]] = []
    for bound, others, search in _candidates(model, constants, given, found, wishes, told, slots):
        sizes = resolved(model, given, bound)
        if sizes in tried or (tried and positions(sizes) > MOST_POSITIONS):
            continue
        tried.append(sizes)
        try:
            feeds = [feeder.run(sizes, seed)]
        except TooLongError as error:
            return TestInputs((), sizes, guessed, str(error))
        except InputError as error:
            problem = problem or str(error)
            continue
        feeds += variations(feeder, given, slots, bound, others, search, seed)
        feeds += extremes(feeder, sizes, found, seed + len(feeds))
        usual = _usual(model, given, wishes, bound, search) if guessed else {}
        return TestInputs((*_real(calibration), *feeds), sizes, guessed, usual=usual, ran=True)
    failed = bool(problem)
    if guessed:
        problem = f"{problem}; {_asked(model, given)}"
    return TestInputs((), _consistent(model, given, wishes), guessed, problem, failed=failed)


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
    shapes = [resolved(model, given, next(search.choices({**bound, **wish}))) for wish in wishes]
    usual = max((s for s in shapes if positions(s) <= USUAL_POSITIONS), key=positions, default=None)
    if usual is None:
        return {}
    try:
        fits = Analysis(model, bindings=usual).fits
    except InputError:
        return {}
    return usual if fits else {}


def _inferred(model: ir.Model, constants: Constants, given: Mapping[str, Sequence[int]] | None) -> Sizes:
    """What inference finds of every run, or of one sample at sizes that are given."""
    try:
        return infer(model, constants, bindings=given, assume_batch=None if given is None else 1)
    except InputError:  # what onnx's rules refuse may run
        return Sizes({})


def _consistent(
    model: ir.Model, given: Mapping[str, Sequence[int]], guesses: Sequence[Mapping[str, int]]
) -> dict[str, tuple[int, ...]]:
    """For a model that can't be run: the first sizes that its operators take, else those that are given."""
    for bound in guesses:
        sizes = resolved(model, given, bound)
        try:
            fits = Analysis(model, bindings=sizes).fits
        except InputError:
            continue
        if fits:
            return sizes
    return {name: tuple(shape) for name, shape in given.items()}


def _real(calibration: Calibration | None) -> Iterator[Feeds]:
    """The first held-out calibration inputs, a batch as the model takes it."""
    if calibration is not None:
        size = calibration.batch if calibration.fixed else min(COUNT, calibration.samples)
        yield calibration.held_out[:size].joined()


def _unfed(model: ir.Model, given: Mapping[str, Sequence[int]]) -> str:
    """Why no input can be made for the model; "" where one can."""
    for value in fed(model):
        if not takes_array(value):
            return f"input {value.name!r} takes {value.type}, and only arrays can be made"
        if value.shape is None and value.name not in given:
            return f"input {value.name!r} declares no shape: give its sizes, or calibration inputs"
    return ""


def _asked(model: ir.Model, given: Mapping[str, Sequence[int]]) -> str:
    """What to give of a model that runs at no sizes that were found."""
    left = [value for value in fed(model) if value.name not in given and value.shape is not None]
    unknown = [value for value in left if any(fixed(size) is None for size in value.shape or ())]
    listed = ", ".join(f"{value.name} ({declared(value)})" for value in unknown)
    return f'no sizes at which it runs were found: give those of {listed} by "shapes"'
