"""tune(): all weights of a cheaper network fitted together to what the original makes of the same inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from graphopt import progress
from graphopt._version import __version__
from graphopt.analysis.channels import Channels, Signal
from graphopt.analysis.constants import Constants, default_opset
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration import inputs, responses
from graphopt.calibration.batch_axis import SampleAxis
from graphopt.calibration.inputs import ONE_HELD_OUT_OF, Calibration
from graphopt.calibration.reading import Given
from graphopt.calibration.samples import Samples
from graphopt.compression.autodiff.rules import OLDEST
from graphopt.compression.curvature import BYTES, COPIES, bytes_of_values, sized
from graphopt.compression.tuning import descent
from graphopt.compression.tuning.augmentation import suited
from graphopt.compression.tuning.checkpoint import Checkpoint
from graphopt.compression.tuning.descent import Descent, Recipe
from graphopt.compression.tuning.student import Student, Teacher
from graphopt.compression.tuning.targets import movable, targets
from graphopt.errors import InputError, Named
from graphopt.files import check_output, show
from graphopt.model import edit
from graphopt.model.io import Source
from graphopt.pipeline.journal import Journal
from graphopt.pipeline.options.effort import FEWEST, STEPS, Effort
from graphopt.report import provenance
from graphopt.report.results import Tuned, Tuning
from graphopt.report.wording import numbered, still_note
from graphopt.runtime import session
from graphopt.types import Array, Counted, Quality
from graphopt.verification import quality
from graphopt.verification.counterparts import Counterparts
from graphopt.verification.heads import Heads, counted, is_tensor

WHAT = "tuning"
"""What messages are about: a command, a function, an option of `optimize`, all of which mean this."""
APART = 4
"""One of so many inputs to fit on is kept apart to judge and stop by: derived, as for quality."""
TIMED = 3
"""Steps that are timed to find how many fit into minutes: derived, the first prepares the kernels, and of the
others the quicker counts."""
LEAST = 8
"""Inputs to take steps on at least, and half as many apart: derived, fewer are learnt by heart within
`FEWEST` steps."""


def tune_weights(
    reference: Analysis,
    candidate: ir.Model,
    calibration: Calibration,
    effort: Effort,
    *,
    outputs: Sequence[str] = (),
    axes: Mapping[str, int] | None = None,
    weights: Sequence[str] = (),
    memory: int | None = None,
    seed: int = 0,
    frozen: bool = False,
    checkpoint: Checkpoint | None = None,
    keep_best: bool = False,
) -> tuple[ir.Model, Tuning]:
    """Moves all weights of a network so that it does what the original does.

    Args:
        reference: a snapshot of the original.
        candidate: the network, with the same inputs and outputs.
        calibration: inputs; those held out are not looked at.
        effort: how long.
        outputs: names of the values that count; all outputs when empty.
        axes: of the channels of values, by name, where somebody knows better.
        weights: patterns of the names of those that may move; those of products, normalisations and slopes
            when empty.
        memory: bytes that values may take while derivatives are run, `BYTES` where None or more: fewer
            inputs are run at once where there are less, and nothing else changes but rounding.
        seed: of everything random.
        frozen: whether initializers that are inputs too are constants.
        checkpoint: the file to go on from where there is one, and to keep the run in.
        keep_best: whether Ctrl-C ends the run with the best so far.

    Returns:
        The network that was nearest to the original on inputs apart, and what happened on the way. The one
        that was given may be nearer: what it was fitted to may be among those inputs.

    Raises:
        InputError: nothing can be measured, no weight has a derivative, or there are too few inputs.
    """
    samples = calibration.fit.of_one_size
    most = _most_at_once(calibration, samples)
    fit, apart = _parted(samples, most)
    if len(fit) < LEAST or len(apart) < LEAST // 2:
        needed = 4 * max(most, LEAST) if calibration.fixed else 2 * LEAST
        given = -(-needed * ONE_HELD_OUT_OF // (ONE_HELD_OUT_OF - 1))
        raise InputError(
            f"{WHAT}: {len(samples)} inputs of one size to fit on are too few to take steps on some "
            f"and judge by others: give {given}, of which one in {ONE_HELD_OUT_OF} is held out"
        )
    network = Analysis(candidate, frozen=frozen)
    at_once = most if calibration.fixed else _at_once(network, calibration, samples, memory, most)
    calibration = replace(calibration, batch=at_once)
    original, network = (sized(each, calibration, fit) for each in (reference, network))
    start = movable(network, weights)
    if not start:
        raise InputError(_immovable(weights))
    judged = _judged(original, candidate, outputs, axes or {}, calibration, fit)
    found = targets(original, network, judged, start, calibration, fit)
    if not any(target.judged for target in found):
        raise InputError(f"{WHAT}: no output that counts varies in numbers with these inputs")
    student = Student(network, list(start), found, fit.kinds)
    if not student.weights:
        raise InputError(f"{WHAT}: no weight has a derivative: {_why_not(network, student)}")
    still = len(start) - len(student.weights)
    start = {name: start[name] for name in student.weights}
    teacher = Teacher(session.structure(original.model), found)
    leading = [target.name for target in found if target.judged]

    def respond(feeds: session.Feeds) -> list[Array]:
        values = teacher.values(feeds)
        return [values[name] for name in leading]

    one_by_one = at_once == 1 or not calibration.fixed
    changed = suited(fit, respond) if one_by_one else None
    batch = min(max(descent.BATCH, most), len(fit)) // most * most
    recipe = Recipe(effort.steps or STEPS, seed, batch, at_once)
    run = Descent(student, teacher, found, fit, apart, recipe, changed)
    if effort.minutes is not None and not (checkpoint and checkpoint.there):
        run = run.within(60 * effort.minutes, FEWEST, TIMED, start)
    with progress.step("tune"):
        course = run.run(start, checkpoint, keep_best=keep_best)
    told = Tuning(
        course.best.step,
        run.recipe.steps,
        recipe.batch,
        course.rate,
        len(fit),
        len(apart),
        sum(array.size for array in start.values()),
        tuple(target.name for target in found),
        "" if changed is None else changed.described,
        tuple((check.step, check.error) for check in course.checks),
        dict(course.seconds),
        course.ended,
        still,
        student.stopped if still else (),
    )
    return edit.reweighed(candidate, course.weights), told


def _most_at_once(calibration: Calibration, samples: Samples) -> int:
    """Inputs that are run at once where memory has room for them; whatever it has, inputs are counted so."""
    if calibration.fixed or samples.axes is None:
        return calibration.batch
    return _power(max(1, min(descent.BATCH // descent.THREADS, len(samples) // (2 * APART))))


def _at_once(
    analysis: Analysis, calibration: Calibration, samples: Samples, memory: int | None, most: int
) -> int:
    """Inputs that are run at once: a part of the most, as memory has room for."""
    of_one = bytes_of_values(sized(analysis, replace(calibration, batch=1), samples[:1]))
    return _power(max(1, min(most, min(memory or BYTES, BYTES) // (descent.THREADS * COPIES * of_one))))


def _power(number: int) -> int:
    """The greatest power of two that is not above a number."""
    return 1 << (number.bit_length() - 1)


def _parted(samples: Samples, whole: int) -> tuple[Samples, Samples]:
    """Inputs to take steps on, and inputs apart, whose number is a multiple."""
    apart = len(samples) // APART
    apart -= apart % whole
    return samples[: len(samples) - apart], samples[len(samples) - apart :]


def _judged(
    original: Analysis,
    candidate: ir.Model,
    outputs: Sequence[str],
    axes: Mapping[str, int],
    calibration: Calibration,
    samples: Samples,
) -> dict[Signal, str]:
    """By what stands for outputs in the original, the names of their twins in the network."""
    model = original.model
    heads = Heads(model, counted(model, outputs))
    values = [v for output in heads.outputs for v in heads.measured(output, original.sizes.dtype)]
    usable = quality.with_numbers(session.structure(model), filter(is_tensor, values), calibration, samples)
    channels = Channels(model, original.shape, original.constant, axes)
    twins = Counterparts(model, candidate, Constants(model))
    own = dict(zip(model.graph.outputs, candidate.graph.outputs, strict=True))
    found: dict[Signal, str] = {}
    for value in values:
        for signal in channels.signals(value) if value in usable else ():
            twin = own.get(signal.value) or twins.of(signal.value)
            if twin is not None and twin.name and original.sizes.dtype(signal.value) is ir.DataType.FLOAT:
                found[signal] = twin.name
    return found


def _immovable(weights: Sequence[str]) -> str:
    if weights:
        return f"{Named('weights', ', '.join(weights))}: no float32 weight of the network has such a name"
    return (
        f"{WHAT}: the network has no weight in float32 that is a constant; one in float16 is tuned "
        "before it is converted"
    )


def _why_not(network: Analysis, student: Student) -> str:
    """Why no weight of a network has a derivative."""
    version = default_opset(network.model)
    if version < OLDEST:
        return (
            f"the network is of operator set {version}, and derivatives are made from {OLDEST} on: convert it"
        )
    if student.stopped:
        return f"no rule leads through {', '.join(student.stopped)}"
    return "no output that counts depends on one"


def tune(
    reference: Source,
    candidate: Source,
    given: Given,
    effort: Effort,
    *,
    outputs: Counted,
    weights: Sequence[str] = (),
    sample_axis: Mapping[str, SampleAxis] | None = None,
    memory: int | None = None,
    seed: int = 0,
    resume: Path | None = None,
    keep_best: bool = False,
) -> Tuned:
    """Tunes a network from anywhere, and judges it by inputs that were held out.

    Args:
        reference: the original.
        candidate: the network, with the same inputs and outputs.
        given: calibration inputs.
        effort: how long.
        outputs: the values that count; all outputs when empty.
        weights: patterns of the names of weights that may move.
        sample_axis: along which axis of an input's arrays samples lie.
        memory: bytes that values may take.
        seed: of everything random.
        resume: the file in which the run is kept once a minute, and from which it goes on where it is there.
        keep_best: whether Ctrl-C ends the run with the best so far.

    Returns:
        The network, its quality before and after.

    Raises:
        InputError: the models or the inputs can't be used, or nothing can be tuned.
    """
    if resume is not None:
        check_output(resume, (*reference.files, *candidate.files))
    journal = Journal()
    with journal.step("load"):
        calibration = inputs.load(given, reference.model, seed, sample_axis)
        if calibration.empty:
            raise InputError(f"calibration: {calibration.empty}; give inputs as the network gets them in use")
        telling = quality.telling(reference.model, outputs)
        calibration, _ = quality.separated(reference.model, calibration, calibration.held_out, outputs)
        empty, odd = responses.judged(reference.model, calibration, outputs, telling)
        if empty:
            raise InputError(f"calibration: {empty}; give inputs as the network gets them in use")
    yardstick = quality.Yardstick(
        reference.model, calibration, calibration.held_out, outputs, axes=outputs.axes
    )
    if yardstick.problem:
        raise InputError(f"{WHAT}: the quality can't be measured: {yardstick.problem}")
    with journal.step("measure"):
        before = yardstick.measure(candidate.model)
    asked: dict[str, Any] = {
        "tune": {"seed": seed},
        "reference": reference.sha256,
        "calibration": calibration.recorded,
        "outputs": sorted(outputs.spelled),
        "sample_axis": dict(sample_axis or {}),
        "weights": sorted(set(weights)),
        "memory": memory,
    }
    asked = {name: value for name, value in asked.items() if value}
    checkpoint = None
    if resume is not None:
        checkpoint = Checkpoint(resume, _digest(__version__, candidate.sha256, str(effort), asked))
    analysis = Analysis(reference.model, bindings=calibration.sizes())
    model, told = tune_weights(
        analysis,
        candidate.model,
        calibration,
        effort,
        outputs=outputs,
        axes=outputs.axes,
        weights=weights,
        memory=memory,
        seed=seed,
        checkpoint=checkpoint,
        keep_best=keep_best,
    )
    journal.seconds.update(told.seconds)
    with journal.step("measure"):
        after = yardstick.measure(model)
    kept = better(before, after)
    if kept:
        asked["tune"] = {"steps": told.steps, "seed": seed}
        if told.ended is not None:
            asked["tune"]["ended"] = told.ended
        record = provenance.Record(__version__, candidate.sha256, asked, (), candidate.data_sha256)
        edit.annotate(model, provenance.entries(record, candidate.model.metadata_props))
    notes = [f"calibration: {each}" for each in (*calibration.doubts, *odd)]
    notes += filter(None, [still_note(told)])
    if checkpoint is not None:
        if checkpoint.begun:
            notes.append(f"went on from step {checkpoint.begun}, as {show(checkpoint.path)} had it")
        if told.ended is None:
            checkpoint.done()
    if told.ended is not None:
        notes.append(f"ended by Ctrl-C after {told.ended} of {numbered(told.steps, 'step')}")
    return Tuned(
        model if kept else candidate.model,
        reference,
        candidate,
        told,
        before,
        after if kept else before,
        kept,
        tuple(dict.fromkeys((*notes, *after.notes))),
        dict(journal.seconds),
    )


def _digest(*decides: object) -> str:
    """Of what decides a run."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def better(before: Quality, after: Quality) -> bool:
    """Whether a network is nearer to the original than another by their worst group of channels."""
    return before.sqnr is None or (after.sqnr is not None and after.sqnr > before.sqnr)
