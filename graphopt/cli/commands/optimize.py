"""``graphopt optimize``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from graphopt.cli import common
from graphopt.cli.progress import shown
from graphopt.errors import InputError
from graphopt.jobs.outcome import perform, written
from graphopt.jobs.task import Task, check_files


@common.takes(
    "model out calibration preprocess sample_axis budget require only skip options at keep outputs aim gate "
    "freeze_initializers external_data dry_run report html markdown junit metric confidence memory force "
    "floor tune json quiet verbose shapes seed"
)
def optimize(
    *,
    model: Path,
    out: Path | None,
    dry_run: bool,
    report: Path | None,
    json: bool,
    quiet: bool,
    verbose: bool,
    **asked: Any,
) -> int:
    """Make the convolutions cheaper, verify and write the result.

    Exact rewrites alone, unless a budget is given.

    Example: graphopt optimize model.onnx -o smaller.onnx --budget macs=0.7 --calibration inputs.npz
    """
    if out is None and not dry_run:
        raise InputError("optimize needs -o OUT, or --dry-run to write no model")
    task = Task(model=model, out=out, report=report, **asked)
    check_files([task])
    if dry_run:
        task = replace(task, out=None)
    with shown(quiet=quiet, json=json):
        done = perform(task)
    with written(task, done) as made:
        if json:
            common.emit(done.face("report"))
        else:
            from graphopt.report import text

            text.report(done.result.report, made, verbose=verbose)
        common.summarise(lambda: done.face("markdown"))
    if done.error is not None:
        raise done.error
    return 0
