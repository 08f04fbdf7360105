"""What approximate rewrites are fitted to: inputs, what the layers read of them, and what errors count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.channels import Channels, Signal
from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration import statistics as calibration_statistics
from graphopt.calibration import synthetic
from graphopt.calibration.inputs import FEWEST_TO_FIT, Calibration
from graphopt.calibration.samples import Samples
from graphopt.compression import curvature
from graphopt.compression import sensitivity as compression_sensitivity
from graphopt.errors import InputError
from graphopt.numerics.lowrank.moments import Statistics
from graphopt.pipeline.journal import Journal
from graphopt.pipeline.options.checked import Options
from graphopt.pipeline.workspace import Workspace
from graphopt.rewrites.base import ApproximateRewrite
from graphopt.runtime import session
from graphopt.types import Candidate
from graphopt.verification import quality
from graphopt.verification.heads import Heads, is_tensor

PLANNED_ON = 384
"""Inputs whose statistics the plan is made from, at most; the chosen layers are then fitted to all. Measured
by benchmarks.thresholds: with 12, 24, 48 and all of 72 a network kept 33.1, 34.3, 33.3 and 33.9 dB, four
seeds alone give 33.5 to 34.5."""
PROBED_ON = 0.25
"""Part of the inputs to fit on that are probed on alone: on what it was fitted to, a fit looks too good.
Measured by benchmarks.thresholds: with 0, 0.1, 0.25 and 0.5 a network of 96 inputs to fit on kept 34.2, 33.8,
33.9 and 34.1 dB, which seeds alone do."""


class FitData:
    """The inputs that approximate rewrites are fitted to, and what the layers of the model read of them.

    Attributes:
        inputs: the user's calibration inputs, else synthetic ones; None where the model can't be run.
        statistics: of what the layers read, by name of the operator; None without inputs.
        analysis: a snapshot of the model with them.
    """

    def __init__(
        self, workspace: Workspace, group: Sequence[ApproximateRewrite], options: Options, journal: Journal
    ) -> None:
        self._workspace, self._options, self._journal = workspace, options, journal
        self.statistics: dict[str, Statistics] | None = None
        self.analysis: Analysis = workspace.analysis(workspace.model)
        self.inputs = workspace.calibration or self._synthetic()
        if self.inputs is not None:
            self.statistics = self._gathered(self.inputs, group)
            self.analysis = workspace.analysis(workspace.model, self.statistics)

    def probed(self, layers: int) -> Samples:
        """The inputs that so many layers are probed on."""
        assert self.inputs is not None
        start = _apart(self.inputs)
        if self.inputs.fitted - start < max(FEWEST_TO_FIT, self.inputs.batch if self.inputs.fixed else 1):
            start = 0  # so few that none is left apart: they serve for both
        macs, left = self.analysis.totals.macs, self.inputs.fitted - start
        return _some(self.inputs, start, compression_sensitivity.inputs_to_probe(macs, left, layers))

    @cached_property
    def watched(self) -> list[Signal]:
        """The values that stand for the outputs that count; none where none of them holds numbers."""
        analysis = self.analysis
        channels = Channels(analysis.model, analysis.shape, analysis.constant, self._options.outputs.axes)
        signals = (signal for value in self._measured for signal in channels.signals(value))
        return list(dict.fromkeys(signals))

    @property
    def decided(self) -> list[str]:
        """What the model decides on the way to those, which a probe takes from the original."""
        if not any(map(self._heads.behind, self._measured)):
            return []
        made = (value for node in self._heads.decisions for value in node.outputs)
        return [value.name or "" for value in made if value.uses() and is_tensor(value)]

    def unseen(self, candidate: Candidate) -> str:
        """Why an error at a candidate would not be measured, though an output that counts depends on it."""
        node = self.analysis.nodes[candidate.site.nodes[0]]
        if node in self._seen:
            return ""
        name = next((name for name, nodes in self._leading.items() if node in nodes), None)
        if name is not None:
            return f"an error in it is not measured, as output {name!r} is not"
        behind = (
            self._options.outputs.inner
        )  # an output that does not count is given away, what follows on a value not
        return "an error in it is not measured, as it leads to no value that counts" if behind else ""

    def idle(self, candidate: Candidate) -> str:
        """Why nothing would be measured of a candidate in a body, since no input is known to run it."""
        node, inputs = self.analysis.nodes[candidate.site.nodes[0]], self.inputs
        if inputs is None or node.graph in self._run:
            return ""
        return (
            "an error in it is not measured, as no held-out input is known to run the branch or loop that it "
            "stands in"
        )

    @cached_property
    def _run(self) -> set[ir.Graph]:
        """The graphs that are run on the inputs that quality is measured on."""
        assert self.inputs is not None
        with self._journal.step("calibrate"):
            return calibration_statistics.graphs_run(self.analysis, self.inputs, self.inputs.held_out)

    @cached_property
    def _seen(self) -> set[ir.Node]:
        return self._heads.leading_to(self._measured)

    @cached_property
    def _leading(self) -> dict[str, set[ir.Node]]:
        return {output.name or "": self._heads.leading_to([output]) for output in self._heads.outputs}

    @cached_property
    def _measured(self) -> list[ir.Value]:
        """What stands for the outputs that count, as far as it holds numbers."""
        dtype, inputs = self.analysis.sizes.dtype, self.inputs
        values = [value for output in self._heads.outputs for value in self._heads.measured(output, dtype)]
        if inputs is None:
            return []
        parts = session.structure(self.analysis.model)
        usable = quality.with_numbers(parts, filter(is_tensor, values), inputs, inputs.held_out)
        return [value for value in values if value in usable]

    @cached_property
    def _heads(self) -> Heads:
        kept, outputs = self._options.outputs, self.analysis.model.graph.outputs
        return Heads(self.analysis.model, [v for v in outputs if not kept or v.name in kept])

    def _synthetic(self) -> Calibration | None:
        """Inputs to fit on where there are none; what they say of the error is no measurement."""
        workspace = self._workspace
        if workspace.inputs.problem:
            return None
        with self._journal.step("calibrate"):
            macs = workspace.original.totals.macs
            return synthetic.inputs(workspace.source.model, workspace.inputs.sizes, macs, self._options.seed)

    def _gathered(
        self, calibration: Calibration, group: Sequence[ApproximateRewrite]
    ) -> dict[str, Statistics]:
        """Statistics of what the operators read that the rewrites ask about."""
        with self._journal.step("calibrate"):
            needed = {
                linear.name: linear
                for rewrite in group
                for linear in rewrite.inputs_needed(self.analysis)
                if self.analysis.is_outermost(linear.node)
            }
            some = _some(calibration, 0, min(PLANNED_ON, _apart(calibration)))
            linears = list(needed.values())
            found = calibration_statistics.statistics(
                self.analysis, linears, calibration, some, self._options.seed
            )
        counts = self._weightings(linears, calibration, some)
        return {name: replace(each, weighting=counts.get(name, ())) for name, each in found.items()}

    def _weightings(
        self, linears: Sequence[Linear], calibration: Calibration, samples: Samples
    ) -> dict[str, tuple[npt.NDArray[np.float64], ...]]:
        """What errors in the outputs of operators count, where that is known.

        Synthetic inputs don't tell: on ResNet-20 more was lost with it at 0.6 of the MACs.
        """
        if self._workspace.calibration is None or not self.watched:
            return {}
        try:
            with self._journal.step("differentiate"):
                return curvature.weightings(
                    self.analysis, linears, calibration, samples, self.watched, seed=self._options.seed
                )
        except InputError as error:
            self._journal.notes.append(f"errors in all outputs of a layer count the same: {error}")
            return {}


def _apart(calibration: Calibration) -> int:
    """The first of the inputs that are probed on."""
    start = calibration.fitted - max(1, int(PROBED_ON * calibration.fitted))
    if calibration.fixed:
        start -= start % calibration.batch
    return max(start, calibration.batch if calibration.fixed else 1)


def _some(calibration: Calibration, start: int, count: int) -> Samples:
    """Some of the inputs to fit on, whole batches where their size is fixed."""
    if calibration.fixed:
        count = max(calibration.batch, count // calibration.batch * calibration.batch)
    return calibration.fit[start : start + count]
