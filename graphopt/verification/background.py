"""Compares whole models beside the work that goes on: most of a run is spent on one processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager

import onnx_ir as ir

from graphopt import progress
from graphopt.errors import InputError
from graphopt.runtime.session import Feeds
from graphopt.verification.equivalence import Reference
from graphopt.verification.verdict import Verification


class Comparer:
    """Compares rewritten models with the models that they came from, where onnxruntime can run those.

    Everything is run by one worker, in the order in which it was asked for.

    Args:
        feeds: inputs to compare on.
        kept: names of the outputs that count; all when empty.
        problem: why no model can be run; "" where models can.
        step: entered while a comparison is waited for.
    """

    def __init__(
        self,
        feeds: Sequence[Feeds],
        kept: Sequence[str],
        problem: str,
        step: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._feeds, self._kept, self._problem, self._step = feeds, kept, problem, step
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._reference: Reference | None = None
        self._pending: tuple[ir.Model, ir.Model, Future[Verification]] | None = None

    def expect(self, reference: ir.Model) -> None:
        """Begins to run a reference that models will be compared with."""
        if not self._problem:
            self._expected(reference)

    def begin(self, reference: ir.Model, candidate: ir.Model) -> None:
        """Begins what `compare` will probably be asked for."""
        if not self._problem and reference is not candidate:
            self._begun(reference, candidate)

    def compare(
        self, reference: ir.Model, candidate: ir.Model, inputs: Sequence[Feeds] | None = None
    ) -> Verification:
        """Compares two models that should be equal; only a note where onnxruntime can't run the reference.

        Args:
            reference: the model as it was.
            candidate: the model as rewritten.
            inputs: what to compare on; the comparer's own where None.

        Returns:
            The verdicts; none, with a note, where the reference can't be run.
        """
        if reference is candidate:
            return Verification(())
        problem = self._problem
        if not problem:
            with self._step():
                try:
                    if inputs is None:
                        return self._begun(reference, candidate).result()
                    return Reference(reference, inputs, self._kept).verify(candidate)
                except InputError as error:
                    problem = str(error)
        return Verification((), (f"the whole model was not run, its regions were: {problem}",))

    def _expected(self, reference: ir.Model) -> Reference:
        if self._reference is None or self._reference.model is not reference:
            self._reference = Reference(reference, self._feeds, self._kept)
            self._worker.submit(self._reference.prepare)
        return self._reference

    def _begun(self, reference: ir.Model, candidate: ir.Model) -> Future[Verification]:
        """A comparison; one that is asked for twice is made once."""
        if self._pending is not None:
            before, after, future = self._pending
            if before is reference and after is candidate:
                return future
            future.cancel()
        future = self._worker.submit(progress.carried(self._expected(reference).verify), candidate)
        self._pending = (reference, candidate, future)
        return future
