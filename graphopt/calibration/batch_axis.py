"""Where a model has its batch: one rule for all inputs, and what the user says of them.

A symbol of open sizes is the batch's by the first of these that tells: its word (``batch``, ``batch_size``);
its letter (``N``, ``B``) on a first axis, or behind one of time; the first axis of an output; a first axis
that another input has too. It is found once for the model, so that an input has its samples where that
symbol stands, and none where it has another one. Names of sequences, times and places are never a batch, nor
is what stands behind the second axis. Where nothing tells, it is the first axis, and that is not sure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx_ir as ir

from graphopt.analysis.shapes.inputs import fixed, symbol
from graphopt.errors import InputError, Named

SampleAxis: TypeAlias = "int | Literal['constant']"
"""Along which axis of an array samples lie; ``constant`` where all share it."""
SampleAxes: TypeAlias = "Mapping[str, SampleAxis] | SampleAxis"
"""The same by input; or that of a model that has one input."""
CONSTANT: Literal["constant"] = "constant"
Dims: TypeAlias = "tuple[int | str | None, ...]"
"""Sizes: known ones, names of open ones, and None for those without a name."""

_BATCH_LETTERS = frozenset({"n", "b", "bs", "bsz"})
_PLACES = re.compile(
    r"seq\w*|time\w*|len\w*|\w*length|frames?|\w*steps?|tokens?|(num)?points?|positions?|height|width|depth|"
    r"rows?|col(umn)?s?|[thwdl]"
)
"""Words of names that count times or places."""


@dataclass(frozen=True, slots=True)
class Slot:
    """An input, and the axis on which the model has its samples.

    Attributes:
        name: of the input.
        dims: its sizes; None where its rank is unknown.
        axis: of the samples; None where there is none.
        sure: whether the model, or the user, tells that axis.
        said: what the user says of it; None where nothing.
        own: the axis that the model tells for sure, whatever the user says; None where none.
    """

    name: str
    dims: Dims | None
    axis: int | None
    sure: bool = True
    said: SampleAxis | None = None
    own: int | None = None

    @property
    def declared(self) -> tuple[int | None, ...] | None:
        """Its sizes, None for open ones; None where its rank is unknown."""
        return None if self.dims is None else tuple(d if isinstance(d, int) else None for d in self.dims)

    @property
    def words(self) -> tuple[str, ...]:
        """Its sizes as a message has them."""
        return ("…",) if self.dims is None else tuple("?" if d is None else str(d) for d in self.dims)

    @property
    def shown(self) -> str:
        """Its shape as a message has it."""
        return f"[{', '.join(self.words)}]"

    @property
    def symbol(self) -> str | None:
        """The name of the axis of the samples; None where it has none."""
        dim = None if self.dims is None or self.axis is None else self.dims[self.axis]
        return dim if isinstance(dim, str) else None

    @property
    def at_once(self) -> int | None:
        """How many samples a run takes; None where any number."""
        return None if self.declared is None or self.axis is None else self.declared[self.axis]

    @property
    def forms(self) -> str:
        """The shapes that arrays for it may have."""
        share = f"{self.shown} for one that all share"
        if self.said == CONSTANT:
            return share
        stacked = [*self.words]
        stacked.insert(self.said or 0, "N")
        each = f"[{', '.join(stacked)}]"
        beside = "" if self.said is not None else f", or {share}"
        if self.axis is None:
            return f"{each} for N samples{beside}"
        along = f"[{', '.join('N' if axis == self.axis else word for axis, word in enumerate(self.words))}]"
        if self.dims is None:
            along = "[N, …]"
        if self.axis == 0:
            runs = f", {self.at_once} at once, or {each} for N runs" if (self.at_once or 1) > 1 else ""
            return f"{along} for N samples{runs}"
        return f"{along} or {each} for N samples{beside}"

    def contradicts(self, shape: Sequence[int], axis: int) -> bool:
        """Whether samples on another axis than the model's would cut what it declares to be of a fixed size.

        Args:
            shape: of an array with as many axes as the model takes.
            axis: on which its samples would lie.
        """
        size = None if self.declared is None else self.declared[axis]
        if size is None or self.declared is None or axis == self.own:
            return False
        open_own = self.own is not None and self.declared[self.own] is None
        return open_own or shape[axis] % size != 0

    def ambiguous(self, shape: Sequence[int], count: int) -> int | None:
        """The axis on which an array that all samples would share may be meant to have so many of them."""
        if self.dims is None or self.said is not None or self.symbol is not None or count < 2:
            return None
        near = enumerate(self.dims[:2])
        open_ones = (a for a, d in near if d is None or (isinstance(d, str) and _near(d, self.dims)))
        fitting = (a for a in open_ones if shape[a] == count and not _is_place(self.dims[a]))
        return next(fitting, None)


def place(name: str) -> bool:
    """Whether a name is that of times or places, such as ``seq_len`` or ``H``."""
    return any(_PLACES.fullmatch(word) for word in re.split(r"[^a-z]+", name.lower()) if word)


def slots(
    inputs: Mapping[str, ir.Value],
    outputs: Iterable[ir.Value] = (),
    said: Mapping[str, SampleAxis] | None = None,
) -> list[Slot]:
    """The inputs with the axes of their samples, by what the model declares and the user says.

    Args:
        inputs: those that are fed, by name.
        outputs: of the model.
        said: axes of the samples by input; "" is that of a model that has one.

    Returns:
        A slot for each input.

    Raises:
        InputError: what is said fits no input.
    """
    told = _checked(said or {}, inputs)
    dims = {name: _dims(value) for name, value in inputs.items()}
    shapes = [shape for shape in dims.values() if shape is not None]
    model = _Model(shapes, [shape for value in outputs if (shape := _dims(value))])
    found = []
    for name, shape in dims.items():
        asked = told.get(name)
        axis, sure = (0, len(dims) < 2) if shape is None else model.axis(shape)
        own = axis if sure else None
        if asked is not None:
            axis, sure = None if asked == CONSTANT else asked, True
            if shape is not None and axis is not None:
                _require_axis(name, shape, axis)
                axis = axis if axis < len(shape) else None  # beyond: one more than the model takes
        found.append(Slot(name, shape, axis, sure, asked, own))
    return found


def _checked(said: Mapping[str, SampleAxis], inputs: Mapping[str, ir.Value]) -> dict[str, SampleAxis]:
    """What the user says, by input.

    Raises:
        InputError: there is no such input, or several where none is named.
    """
    listed = ", ".join(map(repr, inputs))
    found: dict[str, SampleAxis] = {}
    for key, axis in said.items():
        if not key and len(inputs) != 1:
            raise InputError(
                f"{Named('sample_axis', str(axis))}: the model has several inputs; name one of {listed}"
            )
        name = key or next(iter(inputs))
        if name not in inputs:
            raise InputError(
                f"{Named('sample_axis', str(axis), key)}: the model has no input {key!r}; its inputs are "
                f"{listed}"
            )
        found[name] = axis
    return found


def _require_axis(name: str, shape: Dims, axis: int) -> None:
    if axis > len(shape):
        shown = f"[{', '.join('?' if d is None else str(d) for d in shape)}]"
        raise InputError(
            f"{Named('sample_axis', str(axis), name)}: the model takes {shown}; with an axis more for "
            f"samples the last one is {len(shape)}"
        )


def _dims(value: ir.Value) -> Dims | None:
    return (
        None
        if value.shape is None
        else tuple(symbol(d) if fixed(d) is None else fixed(d) for d in value.shape)
    )


class _Model:
    """What the sizes of all inputs and outputs tell of the batch."""

    def __init__(self, inputs: Sequence[Dims], outputs: Sequence[Dims]) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._named, self._symbols = self._batch()
        self._one_open = sum(bool(shape) and not isinstance(shape[0], int) for shape in inputs) < 2

    def axis(self, shape: Dims) -> tuple[int | None, bool]:
        """The axis of the samples, None where there is none, and whether that is sure."""
        if not shape:
            return None, True
        batch = next((axis for axis, dim in enumerate(shape) if dim in self._symbols), None)
        if batch is not None:
            return batch, self._named or batch == 1 or not self._as_outputs(shape)
        first, second = shape[0], shape[1] if len(shape) > 2 else 0
        if isinstance(first, str) and place(first):
            behind = second == 1 or (
                not self._symbols and not isinstance(second, int) and not _is_place(second)
            )
            return (1 if behind else None), True
        if isinstance(first, int):
            return (0 if first == 1 or first == self._size else None), True
        if first is None:
            return 0, not self._symbols and self._one_open and isinstance((*shape, 0)[1], int)
        if self._symbols or self._is_inner(first):
            return None, True
        return 0, self._one_open and isinstance((*shape, 0)[1], int)

    @property
    def _size(self) -> int | None:
        """How many samples a model of a fixed batch takes at once; None where that is open.

        Outputs have so many rows, or so many times some.
        """
        firsts = [shape[0] for shape in self._inputs if shape]
        if self._symbols or any(not isinstance(first, int) and not _is_place(first) for first in firsts):
            return None
        sizes = [first for first in firsts if isinstance(first, int) and first]
        made = [shape[0] for shape in self._outputs]
        kept = [size for size in sizes if size in made]
        whole = [n for n in sizes if not made or any(not isinstance(m, int) or m % n == 0 for m in made)]
        return next(iter((*kept, *whole)), None)

    def _as_outputs(self, shape: Dims) -> bool:
        """Whether the batch may as well be the second axis, as outputs have both where the input has them."""
        second = (*shape, 0)[1]
        return not isinstance(second, int) and any(made[:2] == shape[:2] for made in self._outputs)

    def _is_inner(self, name: str) -> bool:
        """Whether a symbol stands behind the first axis of an input."""
        return any(name in shape[1:] for shape in self._inputs)

    def _batch(self) -> tuple[bool, frozenset[str]]:
        """Whether names tell the batch, and its symbols."""
        symbols = {dim: None for shape in self._inputs for dim in shape if isinstance(dim, str)}
        words = [s for s in symbols if "batch" in s.lower() and not re.search(r"[*+/-]", s) and not place(s)]
        if words:
            return True, frozenset(words)
        near = [s for s in symbols if not place(s) and all(_near(s, shape) for shape in self._inputs)]
        firsts = {shape[0] for shape in (*self._inputs, *self._outputs) if shape}
        behind = {shape[1] for shape in self._inputs if len(shape) > 1 and _is_place(shape[0])}
        letters = [s for s in near if s.lower() in _BATCH_LETTERS and s in firsts | behind]
        if letters:
            return True, frozenset(letters)
        made = {shape[0] for shape in self._outputs}
        by_output = [s for s in near if s in made]
        return False, frozenset(by_output or [s for s in near if self._is_shared(s)])

    def _is_shared(self, name: str) -> bool:
        """Whether a symbol is the first axis of an input, and of others that, or the second behind layers."""
        having = [shape for shape in self._inputs if name in shape]
        first = any(shape[0] == name for shape in having if len(shape) > 1)
        layers = (isinstance(shape[0], int) and shape[0] > 1 for shape in having if shape[0] != name)
        return len(having) > 1 and first and all(layers)


def _near(name: str, shape: Dims) -> bool:
    """Whether a symbol may be the batch for where it stands in a shape: once, on one of two axes."""
    return shape.count(name) < 2 and name not in shape[2:]


def _is_place(dim: int | str | None) -> bool:
    return isinstance(dim, str) and place(dim)
