"""Compares whole models beside the work that goes on: most of a run is spent on one processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

import onnx_ir as ir

from graphopt import progress
from graphopt.errors import InputError
from graphopt.runtime.session import Feeds
from graphopt.verification.equivalence import verify
from graphopt.verification.reference import Reference
from graphopt.verification.verdict import Verification


@dataclass(frozen=True, eq=False)
class Expected:
    """A model that others are compared with, and whether it was run already."""

    reference: Reference
    ready: Future[None]


class Comparer:
    """Compares rewritten models with the models that they came from, where onnxruntime can run those.

    Everything is run by one worker, in the order in which it was asked for.

    Args:
        feeds: inputs to compare on.
        kept: names of the outputs that count; all when empty.
        problem: why no model can be run; "" where models can.
        step: entered while a comparison is waited for.
        frozen: whether initializers that are inputs too may vanish from those.
    """

    def __init__(
        self,
        feeds: Sequence[Feeds],
        kept: Sequence[str],
        problem: str,
        step: Callable[[], AbstractContextManager[None]],
        *,
        frozen: bool = False,
    ) -> None:
        self._feeds, self._kept, self._problem, self._step = feeds, kept, problem, step
        self._frozen = frozen
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._last: Expected | None = None
        self._pending: tuple[Expected, ir.Model, Future[Verification]] | None = None

    def expect(self, reference: ir.Model) -> None:
        """Begins to run a reference that models will be compared with."""
        if not self._problem:
            self._expected(reference)

    def begin(self, reference: ir.Model, candidate: ir.Model) -> None:
        """Begins what `compare` will probably be asked for."""
        if not self._problem and reference is not candidate:
            self._begun(self._expected(reference), candidate)

    def compare(
        self, reference: ir.Model, candidate: ir.Model, inputs: Sequence[Feeds] | None = None
    ) -> Verification:
        """Compares two models that should be equal, where onnxruntime can run the reference.

        Args:
            reference: the model as it was.
            candidate: the model as rewritten.
            inputs: what to compare on; the comparer's own where None.

        Returns:
            The verdicts; none, with the reason, where the reference can't be run.
        """
        if reference is candidate:
            return Verification(())
        problem = self._problem
        if not problem:
            with self._step():
                try:
                    expected = self._expected(reference) if inputs is None else self._on(reference, inputs)
                    expected.ready.result()
                except InputError as error:
                    problem = str(error)
                else:
                    return self._begun(expected, candidate).result()
        return Verification((), unrun=problem)

    def _expected(self, model: ir.Model) -> Expected:
        """The model on the comparer's own inputs; one that is asked for twice is run once."""
        if self._last is None or self._last.reference.model is not model:
            self._last = self._on(model, self._feeds)
        return self._last

    def _on(self, model: ir.Model, feeds: Sequence[Feeds]) -> Expected:
        reference = Reference(model, feeds, self._kept, frozen=self._frozen)
        return Expected(reference, self._worker.submit(reference.prepare))

    def _begun(self, expected: Expected, candidate: ir.Model) -> Future[Verification]:
        """A comparison; one that is asked for twice is made once."""
        if self._pending is not None:
            before, after, future = self._pending
            if before is expected and after is candidate:
                return future
            future.cancel()
        future = self._worker.submit(progress.carried(verify), expected.reference, candidate)
        self._pending = (expected, candidate, future)
        return future
