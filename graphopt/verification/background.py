"""Compares whole models beside the work that goes on: most of a run is spent on one processor."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import onnx_ir as ir

from graphopt import progress
from graphopt.runtime.session import Feeds
from graphopt.verification.equivalence import Reference
from graphopt.verification.verdict import Verification


class Comparer:
    """Compares rewritten models with the models that they came from.

    Everything is run by one worker, in the order in which it was asked for.

    Args:
        feeds: inputs to compare on.
        kept: names of the outputs that count; all when empty.
    """

    def __init__(self, feeds: Sequence[Feeds], kept: Sequence[str]) -> None:
        self._feeds, self._kept = feeds, kept
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._reference: Reference | None = None
        self._pending: tuple[ir.Model, ir.Model, Future[Verification]] | None = None

    def expect(self, reference: ir.Model) -> Reference:
        """Begins to run a reference that models will be compared with."""
        if self._reference is None or self._reference.model is not reference:
            self._reference = Reference(reference, self._feeds, self._kept)
            self._worker.submit(lambda made: made.expected, self._reference)
        return self._reference

    def begin(self, reference: ir.Model, candidate: ir.Model) -> Future[Verification]:
        """Begins a comparison; one that is asked for twice is made once."""
        if self._pending is not None:
            before, after, future = self._pending
            if before is reference and after is candidate:
                return future
            future.cancel()
        future = self._worker.submit(progress.carried(self.expect(reference).check), candidate)
        self._pending = (reference, candidate, future)
        return future

    def compare(self, reference: ir.Model, candidate: ir.Model) -> Verification:
        """The comparison's result.

        Raises:
            InputError: onnxruntime can't load or run the reference.
        """
        return self.begin(reference, candidate).result()
