"""What fitting the weights of a network together did."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from graphopt.model import io
from graphopt.model.io import Source
from graphopt.types import Quality


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the weights of a network were fitted together.

    Attributes:
        best: the step after which it was nearest to the original on inputs apart.
        steps: of the run.
        batch: inputs of a step.
        rate: the highest rate.
        fitted: inputs that steps were taken on.
        apart: inputs to judge and stop by.
        weights: numbers that could move.
        led_by: names of the original's values that led it, those of outputs first.
        changes: what was done to inputs besides, in words; "" for nothing.
        curve: steps, and the worst output's error on inputs apart after them, in parts of what it varies.
        seconds: wall time by kind of work.
        ended: steps after which the user ended the run; None where it came to its end.
        still: tensors that could not move, since no derivative is known.
        stopped: the operators, by type, that no derivative leads through.
    """

    best: int
    steps: int
    batch: int
    rate: float
    fitted: int
    apart: int
    weights: int
    led_by: tuple[str, ...]
    changes: str
    curve: tuple[tuple[int, float], ...]
    seconds: Mapping[str, float]
    ended: int | None = None
    still: int = 0
    stopped: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Tuned:
    """A network whose weights were fitted together to what the original does; truthy when they changed.

    Attributes:
        model: the network.
        reference: the original.
        candidate: the network as it was given.
        tuning: how it was done.
        before: quality of the network as it was given, on held-out inputs.
        after: the same of the result.
        kept: whether the network is better by that, and so another than was given.
        notes: what the reader has to know besides.
        seconds: wall time by step.
    """

    model: ir.Model
    reference: Source
    candidate: Source
    tuning: Tuning
    before: Quality
    after: Quality
    kept: bool
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.kept

    def __repr__(self) -> str:
        done = f"tuned by {self.tuning.steps} steps" if self.kept else "not improved"
        return f"<{type(self).__name__} of {self.candidate.path or 'a model'}: {done}>"

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        external_data: Literal["auto", "always", "never"] = "auto",
    ) -> None:
        """Writes the model; it is there whole or not at all. An unchanged model is copied byte for byte.

        Args:
            path: the file to write. It must not be a file that was read.
            external_data: whether weights go to ``PATH.data``: where they must, always, or never.

        Raises:
            InputError: the path can't be written, or is an input.
        """
        others = self.reference.files
        io.write(
            self.model, self.candidate, path, changed=self.kept, external_data=external_data, others=others
        )
