"""What a measure is: what it expects of a model's outputs, what it reads off them, and its figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from graphopt.errors import Named
from graphopt.types import Figure

Numbers: TypeAlias = npt.NDArray[Any]
"""What an output holds for one input: with a batch of one, where the output has a batch."""
L = TypeVar("L")
"""How a measure reads the outputs of one model."""
A = TypeVar("A")
"""What it reads off them for one input."""


class LayoutError(ValueError):
    """A model's outputs are not those of a task; the message says what they lack."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a model makes of one input.

    Attributes:
        outputs: by name; those that count.
        metadata: of the model.
    """

    outputs: Mapping[str, Numbers]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def described(self) -> str:
        """The outputs with their types and sizes."""
        return ", ".join(f"{name} {described(array)}" for name, array in self.outputs.items()) or "none"


class Row(NamedTuple):
    """One input: what was read of the original and of the other, and its label; None without one."""

    wanted: Any
    got: Any
    label: Any = None

    @property
    def truth(self) -> Any:
        """The label where there is one, else what was read of the original."""
        return self.wanted if self.label is None else self.label


@dataclass(frozen=True, kw_only=True)
class Measure(ABC, Generic[L, A]):
    """A measure of a task; its fields are its options.

    Attributes:
        labels: a file with what is right for each input; None where the original's own answers are.
    """

    labels: Path | None = None

    FIGURES: ClassVar[tuple[Figure, ...]]
    """What it tells; the first is the headline, which is the better the larger."""
    EXPECTS: ClassVar[str]
    """The outputs that it can read."""
    LABELS: ClassVar[str]
    """What labels have to be, an entry for each input."""
    LEAST: ClassVar[int] = 1
    """Inputs that it takes at least."""

    @abstractmethod
    def layout(self, sample: Sample) -> L:
        """How the outputs of a model are to be read, from what it makes of one input.

        Raises:
            LayoutError: they are not those of the task.
        """

    @abstractmethod
    def read(self, outputs: Mapping[str, Numbers], layout: L) -> A:
        """What the outputs say for one input."""

    def compared(self, row: Row, layout: L) -> Any:
        """What one input says, of which figures are made: whatever takes time and is of this input alone."""
        return row

    @abstractmethod
    def combined(self, compared: Sequence[Any], layout: L) -> dict[str, float]:
        """The figures of what inputs say, in any order; NaN where one can't be told."""

    def labelled(self, labels: Numbers, count: int) -> Sequence[Any] | Numbers:
        """What is right for each of so many inputs, from the array of the file.

        Raises:
            ValueError: the array does not hold that.
        """
        return per_input(labels, count)

    def lacking(self, key: str, layout: L) -> str:
        """Why there is no such figure for a model; "" where there is one."""
        needs = next(figure.needs for figure in self.FIGURES if figure.key == key)
        if needs and all(getattr(self, name) is None for name in needs):
            return f"needs {' or '.join(f'{name}=' for name in needs)}"
        return ""


def described(array: Numbers) -> str:
    """The type and the sizes of an array."""
    return f"{array.dtype}{list(array.shape)}"


def per_input(labels: Numbers, count: int) -> Numbers:
    """Labels of which there is one for each input.

    Raises:
        ValueError: there are more or fewer.
    """
    if not labels.ndim or len(labels) != count:
        raise ValueError(f"expected {count} entries, one for each input; it is {described(labels)}")
    return labels


def the_output(sample: Sample, fits: Callable[[Numbers], bool]) -> str:
    """The name of the one output that fits.

    Args:
        sample: what a model makes of one input.
        fits: whether an output is one that is read.

    Returns:
        Its name.

    Raises:
        LayoutError: none does, or several do.
    """
    found = [name for name, array in sample.outputs.items() if fits(array)]
    if len(found) > 1:
        several = ", ".join(found)
        raise LayoutError(f"several are such ({several}): name the one that counts with {Named('outputs')}")
    if not found:
        raise LayoutError("")
    return found[0]


def is_real(array: Numbers) -> bool:
    """Whether an array holds numbers with fractions."""
    return array.dtype.kind == "f" and array.size > 0


def is_whole(array: Numbers) -> bool:
    """Whether all numbers of an array are whole."""
    return array.dtype.kind in "iub" or bool((array == np.floor(array)).all())


def decibels(signal: float, noise: float) -> float:
    """A ratio of powers in dB, at most `EQUAL`."""
    return min(EQUAL, float(10 * np.log10(signal / noise))) if noise > 0 else EQUAL


EQUAL = 120.0
"""What equal arrays have, in dB: derived, rounding to float32 (2**-24 of the range: 144 dB) behind several
operators; what is nearer can't be told from equal."""
