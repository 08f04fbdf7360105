"""The functions that `import graphopt` offers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Literal, TypeAlias

from graphopt import progress
from graphopt.analysis import diff as differences
from graphopt.calibration import inputs as calibration_inputs
from graphopt.calibration.batch_axis import SampleAxes
from graphopt.calibration.reading import Given
from graphopt.calibration.test_inputs import choice
from graphopt.errors import InputError, Named, located
from graphopt.files import PathLike
from graphopt.model import edit
from graphopt.pipeline.networks.tune import tune as run_tune
from graphopt.pipeline.opening import AnyModel, counting, exposed, opened, require_values, trusted
from graphopt.pipeline.optimize import optimize as run_pipeline
from graphopt.pipeline.options.checked import (
    make_budget,
    make_confidence,
    make_options,
    make_sample_axis,
)
from graphopt.pipeline.options.effort import make_effort
from graphopt.pipeline.options.table import SWEPT
from graphopt.pipeline.options.typed import typed
from graphopt.pipeline.scanning import times
from graphopt.pipeline.scanning.survey import survey
from graphopt.pipeline.sweep import sensitivity as run_sensitivity
from graphopt.pipeline.sweep import sweep as run_sweep
from graphopt.pipeline.verify import noted, quality_kept, recorded, require_scores
from graphopt.planning import CONFIDENCE, gates
from graphopt.planning.budget import Budget
from graphopt.report.results import Result, Scan, Sensitivities, Sweep, Tuned
from graphopt.rewrites import registry as catalogue
from graphopt.rewrites.base import Rewrite
from graphopt.runtime import latency, session
from graphopt.runtime.limits import threads
from graphopt.runtime.observation import snapshot
from graphopt.runtime.session import PROVIDER, THREADS
from graphopt.types import Shape
from graphopt.verification import equivalence, interface
from graphopt.verification.metrics.own import OwnMetric
from graphopt.verification.metrics.task import TaskMetric
from graphopt.verification.reference import Reference, confirmed, faithful
from graphopt.verification.verdict import Verification

Shapes: TypeAlias = Mapping[str, Sequence[int]]


def scan(
    model: AnyModel,
    *,
    shapes: Shapes | None = None,
    rewrites: Iterable[Rewrite | type[Rewrite]] = (),
    seed: int = 0,
    measure: bool = False,
) -> Scan:
    """Counts what a model's convolutions cost, and finds what could be done about it.

    Args:
        model: a path, an `onnx.ModelProto` or an `onnx_ir.Model`; it is not changed.
        shapes: sizes of inputs whose shape leaves some open, by input name.
        rewrites: rewrites that take part besides the built-in ones.
        seed: of the input for a model that has to be run to see its shapes, or to be measured.
        measure: run the model in onnxruntime, and say what time its operators take; else a static time model
            expects it.

    Returns:
        Each operator's cost with the rewrites that could make it cheaper, and the totals.

    Raises:
        InputError: the model can't be read, onnxruntime refuses it, the sizes contradict it, or it is to be
            measured and can't be run.
    """
    typed(shapes=shapes, seed=seed)
    source, ran, note = trusted(opened(model)), None, ""
    if measure or source.uninlined is not None:
        source, inputs = confirmed(source, partial(choice.choose, shapes=shapes, seed=seed))
        if measure:
            ran, note = times.profiled(source, inputs)
    known: dict[str, Shape] = {}
    with located(source.path):
        analysis = snapshot(source.model, bindings=dict(shapes or {}), known=known, seed=seed)
    unloaded = "" if known else session.unloaded(source)
    found = survey(source, analysis, catalogue.registry(rewrites).values(), known, ran)
    return replace(found, notes=(*filter(None, (unloaded, note)), *found.notes))


def optimize(
    model: AnyModel,
    budget: Budget | Mapping[str, float] | None = None,
    calibration: Given | None = None,
    rewrites: Iterable[Rewrite | type[Rewrite]] | None = None,
    aim: Literal["time", "macs"] = "time",
    *,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    at: Iterable[str] = (),
    keep: Iterable[str] = (),
    outputs: Iterable[str] = (),
    options: Mapping[str, object] | None = None,
    shapes: Shapes | None = None,
    sample_axis: SampleAxes | None = None,
    seed: int = 0,
    gate: str | None = None,
    freeze_initializers: bool = False,
    metric: str | OwnMetric | TaskMetric | None = None,
    confidence: float | str | None = CONFIDENCE,
    memory: int | None = None,
    force: bool = False,
    floor: str | None = None,
    tune: str | float | None = None,
    require: Iterable[str | gates.Gate] = (),
) -> Result:
    """Makes a model's convolutions cheaper and verifies the result.

    Without a budget only exact rewrites are applied. A budget's cost keys (``macs``, ``params``, ``bytes``,
    ``latency``: at most this fraction of the input's) are reached with approximate rewrites, fitted to the
    calibration inputs, or to synthetic ones where there are none. A quality key (``agreement``, ``sqnr``,
    ``metric``: at least this) alone asks for the fewest MACs that keep it; with a cost key both are asked.

    Args:
        model: a path, an `onnx.ModelProto` or an `onnx_ir.Model`; it is not changed.
        budget: what the result has to reach.
        calibration: preprocessed inputs: a path, arrays by input name, one array, or whatever yields those
            with a sample or several each: a list, a generator, a loader, a dataset, a reader of onnxruntime.
        rewrites: rewrites that take part besides the built-in ones.
        aim: ``time`` leaves out exact rewrites that a static time model expects to be slower; ``macs`` takes
            all that save MACs.
        only: names of the rewrites that take part; all when empty.
        skip: names of rewrites that do not take part.
        at: patterns of node names; rewrites apply only where one of their nodes matches.
        keep: patterns of node names that no rewrite may touch.
        outputs: names of the values that count, outputs or inner ones; all outputs when empty. ``boxes:1``
            says which axis holds the channels, where that is known better.
        options: options of rewrites, such as ``{"bottleneck.rank_in": 16}``.
        shapes: sizes of inputs whose shape leaves some open, by input name.
        sample_axis: along which axis of an input's calibration arrays samples lie, where shapes and names do
            not tell: ``{"state": 1, "rate": "constant"}``, and ``constant`` is what all samples share. The
            number alone where the model has one input.
        seed: of everything random.
        gate: ``latency`` measures each changed region and drops what is not faster.
        freeze_initializers: treat initializers that are graph inputs too as constants.
        metric: a ready measure of a task, such as ``detection`` or ``embedding:threshold=0.4``, on held-out
            inputs; its figures (``recall``) are budget keys. Or ``package.module:function``, the user's own:
            from the path of a model to a number, the larger the better. It is reported, and is the budget key
            ``metric``. A `verification.metrics.own.OwnMetric` says in which folder its module lies.
        confidence: that a quality which a budget or a gate names holds for all inputs of the kind: the worse
            end of its two-sided interval has to keep the limit. ``none``, 0 or None goes by the figure alone.
        memory: bytes that activations may take while networks are fitted, a quarter of the machine's where
            not given; what is beyond lies in temporary files.
        force: take a network within the budget though its quality can't be measured, as where no output holds
            numbers and nothing before them can be read, or is below the floor. A quality that was asked for
            is missed all the same.
        floor: a quality without which no network is taken, such as ``agreement=0.8``, or ``off``. Where not
            given, and no budget or gate names a quality, half of the classes have to be the original's, and
            without classes no group of channels may lose more than half of what varies in it (3 dB).
        tune: fit all weights of the network together once its layers are fitted, to what the original makes
            of the calibration inputs: minutes, about; ``auto`` for 1,000 steps; or ``steps=2000``. Minutes
            are counted in steps, which the report tells: they differ from run to run.
        require: gates, such as ``["macs<=0.8", "agreement>=0.99"]``: what the finished result has to keep,
            whatever it was made for. Keys are those of a budget; costs are parts of the input's.

    Returns:
        The rewritten model and its report.

    Raises:
        InputError: the model, the inputs or an option can't be used as given.
        VerificationError: the rewritten model computes something else.
        BudgetError: no model within the budget was found, or the result fails a gate; its ``result`` is the
            best that was found.
    """
    asked = make_options(
        budget,
        calibrated=calibration is not None,
        rewrites=rewrites or (),
        aim=aim,
        only=only,
        skip=skip,
        at=at,
        keep=keep,
        outputs=outputs,
        options=options,
        shapes=shapes,
        sample_axis=sample_axis,
        seed=seed,
        gate=gate,
        freeze_initializers=freeze_initializers,
        metric=metric,
        confidence=confidence,
        memory=memory,
        force=force,
        floor=floor,
        tune=tune,
        require=require,
    )
    if asked.metric is not None:
        asked.metric.load()
    source, asked = counting(trusted(opened(model), frozen=freeze_initializers), asked)
    if asked.budget.agreement is not None:
        require_scores(source, asked.outputs, Named("budget", key="agreement"))
    if any(gate.key == "agreement" for gate in asked.floor or ()):
        require_scores(source, asked.outputs, Named("floor", "agreement"))
    if any(gate.key == "agreement" for gate in asked.require):
        require_scores(source, asked.outputs, Named("require", "agreement"))
    with threads.single():
        return run_pipeline(source, asked, calibration)


def sweep(
    model: AnyModel,
    calibration: Given,
    budgets: Sequence[float] = SWEPT,
    *,
    aim: Literal["time", "macs"] = "time",
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    at: Iterable[str] = (),
    keep: Iterable[str] = (),
    outputs: Iterable[str] = (),
    options: Mapping[str, object] | None = None,
    shapes: Shapes | None = None,
    sample_axis: SampleAxes | None = None,
    seed: int = 0,
    freeze_initializers: bool = False,
    metric: str | OwnMetric | TaskMetric | None = None,
    confidence: float | str | None = CONFIDENCE,
    memory: int | None = None,
) -> Sweep:
    """Makes networks for several MAC budgets in one run that shares all statistics, and measures each.

    Args:
        model: a path, an `onnx.ModelProto` or an `onnx_ir.Model`; it is not changed.
        calibration: preprocessed inputs, as for `optimize`.
        budgets: parts of the input's MACs.
        aim: as for `optimize`; so are the others.
        only: names of the rewrites that take part; all when empty.
        skip: names of rewrites that do not take part.
        at: patterns of node names; rewrites apply only where one of their nodes matches.
        keep: patterns of node names that no rewrite may touch.
        outputs: names of the values that count, as for `optimize`; all outputs when empty.
        options: options of rewrites.
        shapes: sizes of inputs whose shape leaves some open, by input name.
        sample_axis: along which axis of an input's calibration arrays samples lie, as for `optimize`.
        seed: of everything random.
        freeze_initializers: treat initializers that are graph inputs too as constants.
        metric: a measure, as for `optimize`.
        confidence: of the intervals that are told.
        memory: bytes that activations may take.

    Returns:
        A point of cost and quality for each budget, and one of the exact rewrites alone.

    Raises:
        InputError: the model, the inputs or an option can't be used as given.
        VerificationError: the exactly rewritten model computes something else.
    """
    if isinstance(budgets, (str, Real)) or not budgets:
        raise InputError(f"{Named('budgets')} names no part of the MACs")
    for part in budgets:
        expected = gates.refused("macs", part, 1.0, "=")
        if expected:
            raise InputError(f"{Named('budgets', part)}: {expected}")
    asked = make_options(
        {"macs": min(budgets)},
        calibrated=True,
        aim=aim,
        only=only,
        skip=skip,
        at=at,
        keep=keep,
        outputs=outputs,
        options=options,
        shapes=shapes,
        sample_axis=sample_axis,
        seed=seed,
        freeze_initializers=freeze_initializers,
        metric=metric,
        confidence=confidence,
        memory=memory,
    )
    if asked.metric is not None:
        asked.metric.load()
    alone = replace(asked, budget=Budget())  # it comes with each part
    source, alone = counting(trusted(opened(model), frozen=freeze_initializers), alone)
    with threads.single():
        return run_sweep(source, alone, calibration, sorted(set(budgets), reverse=True))


def tune(
    reference: AnyModel,
    candidate: AnyModel,
    calibration: Given,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    weights: Iterable[str] = (),
    outputs: Iterable[str] = (),
    sample_axis: SampleAxes | None = None,
    memory: int | None = None,
    seed: int = 0,
    resume: PathLike | None = None,
    keep_best: bool = False,
) -> Tuned:
    """Fits all weights of a network together to what the original does, without labels.

    The network may be from anywhere: optimised, pruned, or edited by hand. Operators and sizes stay, only
    numbers change. What comes of it is judged on inputs that were held out, and the network is left as it was
    where it is not better by them.

    Args:
        reference: the original.
        candidate: the network, with the same inputs and outputs, in float32.
        calibration: preprocessed inputs, as for `optimize`.
        minutes: how long, about; how many steps that are differs from run to run, and is told.
        steps: how many steps; 1,000 where neither is named. The same steps and seed give the same network.
        weights: patterns of the names of the weights that may move; those of products, normalisations and
            slopes when empty.
        outputs: names of the values that count, as for `optimize`; all outputs when empty.
        sample_axis: along which axis of an input's arrays samples lie, as for `optimize`.
        memory: bytes that values may take, at most 1 GiB, as much where not given. Where there is less, fewer
            inputs are run at once, and the same steps are taken up to rounding.
        seed: of everything random.
        resume: a file in which the run is kept once a minute. Where it is there, the run goes on from it, to
            the same network as one that was not ended; it is removed at the end.
        keep_best: whether Ctrl-C (`KeyboardInterrupt`) ends the run with the best network so far.

    Returns:
        The network, its quality before and after, and how it came about; truthy when it is better.

    Raises:
        InputError: a model or the inputs can't be used, no weight has a derivative, or the file to go on from
            is of another run.
    """
    asked = typed(
        weights=weights, outputs=outputs, memory=memory, seed=seed, resume=resume, keep_best=keep_best
    )
    weights, outputs, memory, seed, resume, keep_best = asked.values()
    effort, axes = make_effort(minutes, steps), make_sample_axis(sample_axis, calibrated=True)
    original, network = trusted(opened(reference)), trusted(opened(candidate))
    different = interface.interface(original.model, network.model, frozen=True)
    if different is not None:
        raise InputError(f"the network can't be tuned: {different.note}")
    found = interface.counted(original.model, outputs)
    require_values(network, found.inner)
    original, network = (exposed(each, found.inner) for each in (original, network))
    with threads.single():
        tuned = run_tune(
            original,
            network,
            calibration,
            effort,
            outputs=found,
            weights=tuple(weights),
            sample_axis=axes,
            memory=memory,
            seed=seed,
            resume=None if resume is None else Path(resume),
            keep_best=keep_best,
        )
    return replace(tuned, model=edit.concealed(tuned.model, found.inner)) if found.inner else tuned


def sensitivity(
    model: AnyModel,
    calibration: Given,
    *,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    at: Iterable[str] = (),
    keep: Iterable[str] = (),
    outputs: Iterable[str] = (),
    options: Mapping[str, object] | None = None,
    shapes: Shapes | None = None,
    sample_axis: SampleAxes | None = None,
    seed: int = 0,
    memory: int | None = None,
) -> Sensitivities:
    """Ranks a model's layers by what an error in each, or halving it, costs the outputs; needs no budget.

    Args:
        model: a path, an `onnx.ModelProto` or an `onnx_ir.Model`; it is not changed.
        calibration: preprocessed inputs, as for `optimize`.
        only: names of the rewrites that take part; all when empty.
        skip: names of rewrites that do not take part.
        at: patterns of node names; only layers that match are probed.
        keep: patterns of node names; layers that match are not.
        outputs: names of the values that count, as for `optimize`; all outputs when empty.
        options: options of rewrites.
        shapes: sizes of inputs whose shape leaves some open, by input name.
        sample_axis: along which axis of an input's calibration arrays samples lie, as for `optimize`.
        seed: of everything random.
        memory: bytes that activations may take.

    Returns:
        The layers that could be made cheaper, that which costs the most first.

    Raises:
        InputError: the model, the inputs or an option can't be used as given.
        VerificationError: the exactly rewritten model computes something else.
    """
    asked = make_options(
        {"macs": 1.0},
        calibrated=True,
        only=only,
        skip=skip,
        at=at,
        keep=keep,
        outputs=outputs,
        options=options,
        shapes=shapes,
        sample_axis=sample_axis,
        seed=seed,
        memory=memory,
    )
    alone = replace(asked, budget=Budget())  # which only says that approximate rewrites take part
    source, alone = counting(trusted(opened(model)), alone)
    with threads.single():
        return run_sensitivity(source, alone, calibration)


def verify(
    reference: AnyModel,
    candidate: AnyModel,
    calibration: Given | None = None,
    *,
    budget: Budget | Mapping[str, float] | None = None,
    outputs: Iterable[str] = (),
    shapes: Shapes | None = None,
    sample_axis: SampleAxes | None = None,
    seed: int = 0,
    freeze_initializers: bool = False,
    confidence: float | str | None = CONFIDENCE,
) -> Verification:
    """Compares two models by running both in onnxruntime.

    Without a budget their outputs have to be equal up to rounding. With ``agreement`` or ``sqnr`` that
    quality is measured instead, on all the given inputs; so it is without one where inputs are given and the
    rewritten model records that it was made of this original under such a budget.

    Args:
        reference: the original.
        candidate: the rewritten model.
        calibration: inputs to compare on; seeded random ones where there are none.
        budget: the quality to keep.
        outputs: names of the values that count, as for `optimize`; all outputs when empty.
        shapes: sizes of inputs whose shape leaves some open, by input name.
        sample_axis: along which axis of an input's arrays samples lie, as for `optimize`.
        seed: of the random inputs.
        freeze_initializers: treat initializers that are graph inputs too as constants, which the rewritten
            model may lack among its inputs.
        confidence: that a quality holds for all inputs of the kind, as for `optimize`.

    Returns:
        The comparisons; truthy when all passed.

    Raises:
        InputError: a model or the inputs can't be used.
    """
    outputs = typed(outputs=outputs, shapes=shapes, seed=seed)["outputs"]
    limits, sure = make_budget(budget), make_confidence(confidence)
    axes = make_sample_axis(sample_axis, calibrated=calibration is not None)
    other = next((gate.key for gate in gates.of_budget(limits) if gate.key not in gates.MEASURED), None)
    if other is not None:
        raise InputError(f"{Named('budget', key=other)}: verify measures agreement and sqnr")
    original, rewritten = trusted(opened(reference)), opened(candidate)
    found = interface.counted(original.model, outputs)
    different = interface.interface(original.model, rewritten.model, frozen=freeze_initializers)
    if different is not None:
        return Verification((different,))
    require_values(rewritten, found.inner)
    original, rewritten = (exposed(each, found.inner) for each in (original, rewritten))
    given = None if calibration is None else calibration_inputs.whole(calibration, original.model, axes)
    if limits.agreement is not None or limits.sqnr is not None:
        return noted(quality_kept(original, rewritten, given, limits, found, sure), original)
    limits, made = recorded(original, rewritten)
    if given is not None and limits != Budget():
        note = f"the budget is that of the model's own record: {made}"
        return noted(quality_kept(original, rewritten, given, limits, found, sure), original, note)
    if given is not None:
        compared = tuple(given.batches(given.held_out))
        original = faithful(original, compared)
    else:
        choose = partial(choice.choose, shapes=shapes, seed=seed)
        original, inputs = confirmed(original, choose)
        if inputs.problem:
            session.unloaded(original)  # a model that is refused runs at no size
            raise InputError(f"{original.path}: {inputs.problem}")
        compared = inputs.feeds
    with progress.step("verify"):
        rewritten = faithful(rewritten, compared)
        expected = Reference(original.model, compared, found, frozen=freeze_initializers)
        verdict = equivalence.verify(expected, rewritten.model)
    if verdict or not made:
        return noted(verdict, original)
    meant = "it is not meant to be equal; calibration inputs and a budget such as sqnr=30 tell how near it is"
    return noted(verdict, original, f"the model's own record says {made}: {meant}")


def bench(
    reference: AnyModel,
    candidate: AnyModel,
    *,
    threads: int = THREADS,
    repeat: int = 50,
    provider: str = PROVIDER,
    shapes: Shapes | None = None,
    seed: int = 0,
) -> latency.Timing:
    """Times two models in onnxruntime, interleaved.

    Args:
        reference: the original.
        candidate: the rewritten model.
        threads: threads that one operator may use.
        repeat: number of pairs of runs.
        provider: onnxruntime's execution provider.
        shapes: sizes of inputs whose shape leaves some open, by input name.
        seed: of the input.

    Returns:
        Medians in milliseconds, and the speed-up with where it lies.

    Raises:
        InputError: a model can't be used, or the provider is not there.
    """
    typed(threads=threads, repeat=repeat, shapes=shapes, seed=seed)
    if threads < 1 or repeat < 1:
        raise InputError(f"{Named('threads')} and {Named('repeat')} are at least 1")
    original, rewritten = trusted(opened(reference)), opened(candidate)
    different = interface.interface(original.model, rewritten.model, frozen=True)
    if different is not None:
        raise InputError(f"the models can't be compared: {different.note}")
    choose = partial(choice.choose, shapes=shapes, seed=seed)
    original, inputs = confirmed(original, choose)
    if inputs.problem:
        session.unloaded(original)
        raise InputError(f"the reference can't be timed: {inputs.problem}")
    return latency.time_pair(
        original.whole, rewritten.whole, inputs.feeds[0], threads=threads, repeat=repeat, provider=provider
    )


def diff(
    before: AnyModel, after: AnyModel, *, shapes: Shapes | None = None, seed: int = 0
) -> differences.Diff:
    """Finds what changed between two models, whoever changed it.

    Args:
        before: the model as it was.
        after: the model as it is.
        shapes: sizes of inputs whose shape leaves some open, by input name.
        seed: of the input for a model that has to be run once to see its shapes.

    Returns:
        The changes; truthy when there are any.

    Raises:
        InputError: a model can't be read.
    """
    typed(shapes=shapes, seed=seed)
    original, changed = (trusted(opened(model)) for model in (before, after))
    with progress.step("compare"):
        different = interface.interface(original.model, changed.model)
        sizes = dict(shapes or {})
        views = [  # an initializer is compared by what it holds, even where a caller may override it
            snapshot(each.model, bindings=sizes, known={}, frozen=True, seed=seed)
            for each in (original, changed)
        ]
        layers, same = differences.match_layers(*views)
        return differences.Diff(
            original,
            changed,
            views[0].totals,
            views[1].totals,
            layers,
            same,
            differences.operators(*views),
            differences.others(*views),
            "" if different is None else different.note,
        )
