"""The model of a run as it is by now: its snapshots, its test inputs, and its figures against the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial

import onnx_ir as ir

from graphopt.analysis.constants import Memory
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration import inputs as calibration_inputs
from graphopt.calibration import responses
from graphopt.calibration.inputs import Calibration
from graphopt.calibration.reading import Given
from graphopt.calibration.test_inputs import choice
from graphopt.errors import InputError, Named, located
from graphopt.model import edit, io
from graphopt.model.defaults import forced, overridable
from graphopt.model.io import Source
from graphopt.numerics.lowrank.moments import Statistics
from graphopt.pipeline import opening
from graphopt.pipeline.journal import Journal, Recorder
from graphopt.pipeline.options.checked import Options
from graphopt.planning import CONFIDENCE, gates, spending
from graphopt.planning.budget import Budget
from graphopt.planning.gates import Gate, Known
from graphopt.planning.selection import Limit
from graphopt.planning.spending import Spent
from graphopt.report.results import Metric
from graphopt.rewrites.base import ApproximateRewrite
from graphopt.runtime import latency, session
from graphopt.runtime.latency import Timing
from graphopt.runtime.observation import snapshot
from graphopt.runtime.session import Feeds
from graphopt.types import Array, Candidate, Quality, Shape
from graphopt.verification import interface, quality, reference
from graphopt.verification.metrics.task import Scorer, TaskMetric
from graphopt.verification.quality import Yardstick


class Workspace:
    """The model as it is by now, and what it is looked at with.

    Attributes:
        source: the model as loaded; with all its calls where it computes something else without them.
        calibration: the calibration inputs; None without.
        inputs: what models are compared on.
        model: the model as it is by now.
        original: a snapshot of the source.
        known: shapes that were seen by running, by value.
    """

    def __init__(self, source: Source, options: Options, given: Given | None, journal: Journal) -> None:
        self.source, self.model = source, source.model
        self.calibration: Calibration | None = None
        self.known: dict[str, Shape] = {}
        self._options = options
        self._latest: Analysis | None = None
        self._memory = Memory()
        self._empty = ""
        with journal.step("load"):
            if given is not None:
                self.calibration = calibration_inputs.load(
                    given, source.model, options.seed, options.sample_axis
                )
        with journal.step("analyse"):
            # Refuses shapes that do not fit, before anything is run.
            with located(source.path):
                Analysis(source.model, bindings=options.shapes, frozen=options.freeze_initializers)
            choose = partial(
                choice.choose,
                shapes=options.shapes,
                calibration=self.calibration,
                seed=options.seed,
                memory=options.memory,
            )
            self.source, self.inputs = reference.confirmed(source, choose)
            self.model = self.source.model
            if self.source is not source:
                interface.counted(self.model, options.outputs)  # a call may hide what its body held
            self.original = self.analysis(self.model)
            self._look_at_inputs(journal)
        if self.source.refused:
            self.model = self.model.clone()  # without what it is refused for it is another
        if options.freeze_initializers and overridable(self.model):
            self.model = edit.freeze(self.model)

    @property
    def disclaimed(self) -> str:
        """That shapes which the input declares were not believed; "" where all were."""
        if not self.source.disclaimed:
            return ""
        end = "left out of the result" if self.changed else "left in the file, which stays as it was"
        return f"{opening.disclaimed(self.source)}, and {end}"

    def _look_at_inputs(self, journal: Journal) -> None:
        """Notes what is odd about calibration inputs; refuses those that tell nothing where a run needs them.

        Raises:
            InputError: as `require_inputs`.
        """
        if self.calibration is None:
            return
        empty, doubts = self.calibration.empty, list(self.calibration.doubts)
        if not empty and not self.inputs.problem:
            kept = self._options.outputs
            with suppress(InputError):  # a model that can't be run is told where it is run
                given = self.calibration
                self.calibration, _ = quality.separated(self.source.model, given, given.held_out, kept)
            telling = quality.telling(self.source.model, kept)
            empty, odd = responses.judged(self.source.model, self.calibration, kept, telling)
            doubts += odd
        self._empty = empty
        if self._options.relies_on_inputs:
            self.require_inputs()
        journal.notes += [f"calibration: {each}" for each in (empty, *doubts) if each]

    def require_inputs(self) -> None:
        """Refuses calibration inputs of which nothing can be learnt.

        Raises:
            InputError: they are constant, or all the same, or the model makes nothing of them, or the same.
        """
        if self._empty:
            raise InputError(f"calibration: {self._empty}; give inputs as the network gets them in use")

    def plain(self, model: ir.Model) -> ir.Model:
        """A model with the outputs that were asked for alone, without inner values that count."""
        inner = self._options.outputs.inner
        return edit.concealed(model, inner) if inner else model

    @property
    def changed(self) -> bool:
        """Whether the model is another than was loaded."""
        return self.model is not self.source.model

    @cached_property
    def unloaded(self) -> str:
        """Why onnxruntime can't load the input, for what it lacks; "" where it can.

        Raises:
            RefusedError: it refuses the model for what the model says.
        """
        return "" if self.inputs.ran else session.unloaded(self.source)

    @cached_property
    def failing(self) -> str:
        """Why onnxruntime can't run the input, though it loads it; "" where it can, or none can be made."""
        if self.inputs.ran or self.inputs.failed:
            return "" if self.inputs.ran else self.inputs.problem
        if not self.inputs.feeds:
            return ""
        try:
            session.Interpreter(session.structure(self.source.model)).run(self.inputs.feeds[0])
        except InputError as error:
            return str(error)
        return ""

    @property
    def frozen(self) -> bool:
        """Whether initializers are constants, also those that are inputs.

        Up to IR version 3 they are; an edit raises the version, not what they are.
        """
        return self._options.freeze_initializers or forced(self.source.model)

    @property
    def unknown_dims(self) -> tuple[str, ...]:
        """Sizes that nothing told."""
        if not self.inputs.assumed and self.original.totals.macs is not None:
            return ()
        return Analysis(self.source.model, bindings=self._options.shapes).sizes.unknown_dims

    def require_macs(self, asked: Named) -> None:
        """Refuses what needs a count of MACs where there is none.

        Raises:
            InputError: a size is unknown, or what can't be looked into holds linear operators.
        """
        if self.original.uncountable:
            why = "; ".join(dict.fromkeys(self.original.uncountable))
            raise InputError(f"{asked}: MACs can't be counted: {why}")
        if self.inputs.assumed or self.original.totals.macs is None:
            unknown = ", ".join(self.unknown_dims)
            if not unknown:
                what = next((f"that of {name!r}" for name in self.original.unsized()), "one")
                why = self.inputs.problem or self.unloaded
                raise InputError(
                    f"{asked}: MACs need every size, and {what} is unknown: no rule tells it, nor does a run"
                    + (f": {why}" if why else "")
                )
            raise InputError(
                f"{asked}: MACs need every size, and {unknown} is unknown: give {Named('shapes')} or inputs"
            )

    def analysis(
        self,
        model: ir.Model,
        statistics: Mapping[str, Statistics] | None = None,
        extremes: Mapping[str, tuple[Array, Array]] | None = None,
    ) -> Analysis:
        """A snapshot at the sizes of the test inputs; shapes that inference misses are seen by running.

        Args:
            model: the model.
            statistics: of what its operators read, by name.
            extremes: lowest and highest values of what they make, by name.

        Returns:
            The snapshot; the last one without statistics is kept.
        """
        plain = statistics is None and extremes is None
        if plain and self._latest is not None and self._latest.model is model:
            return self._latest
        found = snapshot(
            model,
            bindings=self.inputs.usual or self.inputs.sizes,
            known=self.known,
            frozen=self.frozen,
            statistics=statistics,
            extremes=extremes,
            seed=self._options.seed,
            guessed=self.inputs.assumed,
            memory=self._memory,
        )
        if plain:
            self._latest = found
        return found


@dataclass
class Measures:
    """Figures of models against the input's."""

    workspace: Workspace
    options: Options
    recorder: Recorder
    journal: Journal

    @cached_property
    def before(self) -> Spent:
        """What the input costs."""
        size = self.workspace.source.bytes if self.options.budget.bytes else 0
        return Spent(self.workspace.original.totals, size)

    def spent(self, model: ir.Model) -> Spent:
        """What a model costs; its bytes are estimated, and only where the budget asks."""
        if model is self.workspace.source.model:
            return self.before
        size = io.load(model).bytes + self.recorder.bytes if self.options.budget.bytes else 0
        return Spent(self.workspace.analysis(model).totals, size)

    def costs(self, model: ir.Model) -> dict[str, float]:
        """MACs and parameters, and bytes where the budget asks, as parts of the input's."""
        return spending.costs(self.before, self.spent(model))

    def limits(self, asked: Budget) -> list[Limit]:
        """What a budget still asks of the model as it is by now, latency apart."""
        workspace = self.workspace
        if asked.macs is not None:
            workspace.require_macs(Named("budget", key="macs"))
        record = self.recorder.bytes if asked.bytes is not None and not workspace.changed else 0
        rewrites = {rewrite.name: rewrite for rewrite in self.options.rewrites}

        def made(candidate: Candidate) -> int:
            rewrite = rewrites[candidate.rewrite]
            return rewrite.operators(candidate.choice) if isinstance(rewrite, ApproximateRewrite) else 0

        dearest = workspace.analysis(workspace.model).dearest_run
        return spending.limits(asked, self.before, self.spent(workspace.model), made, dearest, record)

    def figures(
        self, quality: Quality | None, metric: float | None, timing: Timing | None
    ) -> dict[str, float | None]:
        """What the finished model has of each key of a budget; its bytes are those that are written.

        Args:
            quality: on held-out inputs, where it was measured.
            metric: what the measure that was named says, where there is one.
            timing: latency against the input's, where it was measured.

        Returns:
            Parts of the input's costs, agreement as a fraction, SQNR in dB, by key; None where it could not
            be had.
        """
        workspace, asked = self.workspace, (*gates.of_budget(self.options.budget), *self.options.require)
        after = Spent(workspace.analysis(workspace.model).totals, 0)
        figures = {**spending.costs(self.before, after), **spending.measured(quality, metric)}
        if any(gate.key == "bytes" for gate in asked):
            source = workspace.source
            written = (
                io.written_bytes(workspace.plain(workspace.model), source)
                if workspace.changed
                else source.bytes
            )
            figures["bytes"] = written / source.bytes
        if timing is not None:
            figures["latency"] = timing.ratio
        elif not workspace.changed:  # the same file
            figures["latency"] = 1.0
        return figures

    def quality(self, model: ir.Model) -> Quality | None:
        """How near a model comes to the original, on held-out inputs; None without calibration."""
        if self._yardstick is None:
            return None
        with self.journal.step("measure"):
            return self._yardstick.measure(model)

    def unmeasurable(self) -> str:
        """Why no quality of a network can be measured though there are inputs to; "" where one can.

        The user's own measure is one.
        """
        if self._yardstick is None or self.options.metric is not None:
            return ""
        with self.journal.step("measure"):
            return self._yardstick.problem

    @cached_property
    def _yardstick(self) -> Yardstick | None:
        """What the input makes of the held-out inputs; None where there are none, or it can't be run."""
        given, model = self.workspace.calibration, self.workspace.source.model
        if given is None or self.workspace.inputs.problem:
            return None
        return Yardstick(
            model,
            given,
            given.held_out,
            self.options.outputs,
            self._told,
            scores=self.options.takes_class_scores,
            axes=self.options.outputs.axes,
        )

    def below(self, quality: Quality | None, metric: float | None) -> str:
        """What of a network is below the floor, in words; "" where nothing is.

        Where the user names no quality, the floor is that of class scores, or of what varies in the outputs.
        A figure that can't be had is below the floor that the user names.

        Args:
            quality: on held-out inputs, where it was measured.
            metric: what the measure that was named says, where there is one.
        """
        options = self.options
        if quality is None or (options.floor is None and options.names_quality):
            return ""
        figures = spending.measured(quality, metric)
        if options.floor is not None:
            return gates.failed(gates.judge(options.floor, figures))
        usual = {"agreement": gates.SCORES, "sqnr": gates.SIGNAL}
        if quality.agreement is not None:
            figures["sqnr"] = quality.others
        floor = [Gate(key, limit) for key, limit in usual.items() if figures[key] is not None]
        return gates.failed(gates.judge(floor, figures))

    def asked_metric(self, model: ir.Model) -> float | None:
        """What the measure that was named says of a model, where a limit is asked of its figures."""
        asked = (*self.options.qualities, *(self.options.floor or ()))
        return self.metric(model) if any(gate.key not in gates.MEASURED for gate in asked) else None

    def broken(
        self, before: tuple[Quality | None, float | None], after: tuple[Quality | None, float | None]
    ) -> str:
        """What is asked of the quality that one network keeps and another does not, in words.

        Args:
            before: the quality of the one on held-out inputs, and what the measure that was named says.
            after: the same of the other.

        Returns:
            The other's figures that are missed, or are below the floor; "" where none is.
        """
        asked, limits = (before, after), self.options.qualities
        was, now = (gates.judge(limits, spending.measured(*each), self.known(*each)) for each in asked)
        lost = gates.missed(b for a, b in zip(was, now, strict=True) if a and not b)
        return lost or ("" if self.options.force or self.below(*before) else self.below(*after))

    @property
    def _told(self) -> float:
        """The confidence of the intervals that are told."""
        return self.options.confidence or CONFIDENCE

    def known(self, quality: Quality | None, metric: float | None) -> Known | None:
        """How far figures of a network with approximate rewrites hold, by which it is judged.

        Args:
            quality: on held-out inputs, where it was measured.
            metric: what the measure that was named says, where there is one.

        Returns:
            Their intervals; None where the user wants figures to be judged by themselves.
        """
        return spending.known(quality, metric, self.options.confidence)

    def metric(self, model: ir.Model) -> float | None:
        """What the measure that was named says of a model; None without one."""
        if self.measure is None:
            return None
        with self.journal.step("measure"):
            named = isinstance(self.options.metric, TaskMetric)
            return self.measure(model if named else self.workspace.plain(model))

    @cached_property
    def measure(self) -> Callable[[ir.Model], float] | None:
        """The measure that was named; None without one.

        Raises:
            InputError: it is of a task, and the model or the inputs are not.
        """
        options, given, inputs = self.options, self.workspace.calibration, self.workspace.inputs
        if not isinstance(options.metric, TaskMetric) or given is None:  # which is refused before
            return None if isinstance(options.metric, TaskMetric) else options.metric
        if inputs.problem:
            asked = Named("metric", options.metric.name)
            raise InputError(f"{asked}: the model can't be run: {inputs.problem}")
        with self.journal.step("measure"):
            source = self.workspace.source.model
            return Scorer(options.metric, source, given, options.outputs, options.asked_figures, self._told)

    def compared(self, metric: float | None) -> Metric | None:
        """What the measure that was named says of the finished model, beside what it says of the input."""
        before = None if metric is None else self.metric(self.workspace.source.model)
        if self.options.metric is None or metric is None or before is None:
            return None
        against = self.options.metric.against if isinstance(self.options.metric, TaskMetric) else ""
        return Metric(self.options.metric.name, before, metric, against)

    def latency(self, model: ir.Model, limit: float | None = None) -> Timing:
        """Latency of a model against the input's at one thread, interleaved, one sample at a time.

        Args:
            model: the model.
            limit: a part of the input's latency, around which it is timed for longer.

        Returns:
            What was timed.

        Raises:
            InputError: the model can't be run.
        """
        with self.journal.step("time"):
            plain = self.workspace.plain
            source = plain(self.workspace.source.model)
            return latency.time_pair(source, plain(model), self.timed_feed, limit=limit)

    @cached_property
    def timed_feed(self) -> Feeds:
        """One seeded sample.

        Raises:
            InputError: the model can't be run.
        """
        inputs = self.workspace.inputs
        if inputs.problem:
            raise InputError(f"the reference can't be timed: {inputs.problem}")
        given = self.workspace.calibration
        ranges = None if given is None else given.ranges()
        return session.random_feeds(self.workspace.source.model, inputs.sizes, self.options.seed, ranges)
