"""Whether the quality that a budget names is kept, as `verify` tells it."""

from __future__ import annotations

import math
from dataclasses import replace

from graphopt.calibration.inputs import Calibration
from graphopt.errors import InputError, Named
from graphopt.model.io import Source
from graphopt.pipeline.opening import disclaimed
from graphopt.planning import CONFIDENCE, gates, spending
from graphopt.planning.budget import Budget
from graphopt.report import provenance
from graphopt.report.wording import numbered
from graphopt.types import Counted, Exactness
from graphopt.verification import quality
from graphopt.verification.outputs import class_scores
from graphopt.verification.verdict import Rule, Verdict, Verification


def quality_kept(
    original: Source,
    rewritten: Source,
    given: Calibration | None,
    limits: Budget,
    counts: Counted,
    confidence: float,
) -> Verification:
    """Judges a model by what it loses on held-out inputs.

    Args:
        original: the model that it was made of.
        rewritten: the model.
        given: the inputs.
        limits: the qualities that it has to keep.
        counts: the outputs that count.
        confidence: that they hold for all inputs of the kind; 0 goes by the figures alone.

    Returns:
        A verdict on each quality.

    Raises:
        InputError: there are no inputs, or no output holds class scores.
    """
    if given is None:
        raise InputError(f"a quality is measured on inputs: give {Named('calibration')}")
    asked = Named("budget", key="agreement")
    if limits.agreement is not None:
        require_scores(original, counts, asked)
    told = confidence or CONFIDENCE
    found = quality.measure(
        original.whole,
        rewritten.whole,
        given,
        given.held_out,
        counts,
        told,
        scores=limits.agreement is not None,
        axes=counts.axes,
    )
    names = ", ".join(counts or [str(value.name) for value in original.model.graph.outputs])
    checks = []
    judged = gates.judge(
        gates.of_budget(limits), spending.measured(found, None), spending.known(found, None, confidence)
    )
    for item in judged:
        key, wanted = item.gate.key, item.gate.limit
        figure = "not measured"
        if item.measured is not None:
            figure = "of equal outputs" if item.measured == math.inf else f"{item.measured:.4f}"
        note = (
            f"{key} {figure}{item.range} on {numbered(found.samples, 'input')}, at least {wanted:g} asked for"
        )
        gap = (math.nan, math.nan, math.nan if found.sqnr is None else found.sqnr)
        checks.append(Verdict(key, names, item.passed, *gap, wanted, found.samples, note, Rule.QUALITY))
    few = gates.undecided(judged, confidence)
    notes = (*found.notes, *([few] if few else []))
    undecided = bool(few) and all(item.undecided for item in judged if not item)
    return Verification(tuple(checks), notes, undecided=undecided)


def recorded(original: Source, rewritten: Source) -> tuple[Budget, str]:
    """What a model's own records say of how near it is to the one that it was made of.

    Args:
        original: the model that it is compared with.
        rewritten: the model.

    Returns:
        The qualities that the budgets of its runs asked for, the strictest of each; and that it was
        approximated, in words, "" where no run says so, or none read the original.
    """
    try:
        runs = provenance.read(rewritten.model.metadata_props)
    except InputError:  # a record that was changed says nothing
        return Budget(), ""
    first = provenance.which(runs, original.sha256, original.data_sha256)
    since = [] if first is None else runs[first - 1 :]
    fitted = sum(
        len(item.nodes)
        for run in since
        for item in run.rewrites
        if item.exactness == Exactness.APPROXIMATE.value
    )
    if not fitted:
        return Budget(), ""
    budgets = [asked for run in since if isinstance(asked := run.options.get("budget"), dict)]
    qualities = {
        key: max(found)
        for key in ("agreement", "sqnr")
        if (found := [budget[key] for budget in budgets if isinstance(budget.get(key), float | int)])
    }
    asked = " and ".join(
        ", ".join(f"{key}={number:g}" for key, number in sorted(budget.items())) for budget in budgets
    )
    return Budget(**qualities), f"{numbered(fitted, 'approximate rewrite')} under {asked or 'no budget'}"


def noted(found: Verification, original: Source, note: str = "") -> Verification:
    """What a verification found, with what has to be known besides.

    Args:
        found: the comparisons.
        original: the model that was compared with; what was not believed of it is noted.
        note: another note; "" for none.

    Returns:
        The same with its notes.
    """
    notes = filter(None, (note, disclaimed(original)))
    return replace(found, notes=(*found.notes, *notes))


def require_scores(source: Source, outputs: tuple[str, ...], asked: Named) -> None:
    """Refuses a model of which no output that counts may hold class scores.

    Args:
        source: the model.
        outputs: names of the outputs that count; all when empty.
        asked: what asks for an agreement.

    Raises:
        InputError: none does.
    """
    if not class_scores.may_agree(source.model, outputs):
        raise InputError(f"{asked}: no output holds class scores ([N, K] or [N, K, 1, 1])")
