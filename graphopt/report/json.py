"""The report and the other results as JSON documents (schema_version 1)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from graphopt._version import __version__
from graphopt.analysis.diff import Diff
from graphopt.analysis.linear import Linear
from graphopt.model.io import Source
from graphopt.planning.gates import Judged
from graphopt.report.outcomes import Outcome, exit_code
from graphopt.report.provenance import Record, described
from graphopt.report.results import Applied, Checked, LayerRow, Left, Point, Report, Scan, Sweep
from graphopt.rewrites.base import Rewrite
from graphopt.rewrites.registry import is_default, option_types, summary
from graphopt.runtime.latency import Timing
from graphopt.types import Quality, Totals
from graphopt.verification.verdict import Verdict, Verification

SCHEMA_VERSION = 1


def dumps(document: Any) -> str:
    """The document as text; figures without a value (NaN, infinite) are null."""
    return json.dumps(_finite(document), indent=2, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, np.generic):
        return _finite(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _head() -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "graphopt": __version__}


def _model(source: Source) -> dict[str, Any]:
    return {
        "path": None if source.path is None else str(source.path),
        "sha256": source.sha256,
        "bytes": source.bytes,
        "opset": source.model.opset_imports.get(""),
    }


def _totals(totals: Totals) -> dict[str, Any]:
    return {
        "macs": totals.macs,
        "flops": totals.flops,
        "params": totals.params,
        "weight_bytes": totals.weight_bytes,
        "nodes": totals.nodes,
    }


def scan(result: Scan) -> dict[str, Any]:
    """The document of ``graphopt scan --json``."""
    return {
        **_head(),
        "model": _model(result.source),
        "totals": _totals(result.totals),
        "convs": [_row(row) for row in result.rows],
        "uncounted_ops": dict(result.uncounted_ops),
        "unknown_dims": list(result.unknown_dims),
        "observed_shapes": list(result.observed_shapes),
    }


def _row(row: LayerRow) -> dict[str, Any]:
    return {
        **_linear(row.linear),
        "share": row.share,
        "pointwise": row.linear.pointwise,
        "opportunities": [
            {"rewrite": o.rewrite, "exactness": o.exactness.value, "macs_after": o.macs_after}
            for o in row.opportunities
        ],
    }


def _linear(linear: Linear) -> dict[str, Any]:
    return {
        "name": linear.name,
        "graph": linear.graph,
        "op": linear.op,
        "kernel": list(linear.kernel),
        "in_channels": linear.in_channels,
        "out_channels": linear.out_channels,
        "group": linear.group,
        "strides": list(linear.form.strides),
        "pads": list(linear.form.pads),
        "dilations": list(linear.form.dilations),
        "output_shape": None if linear.output_shape is None else list(linear.output_shape),
        "macs": linear.macs,
        "flops": None if linear.macs is None else 2 * linear.macs,
        "params": linear.params,
    }


def report(result: Report, exit_code: int) -> dict[str, Any]:
    """The document of ``graphopt optimize --json`` and ``--report``."""
    return {
        **_head(),
        "exit_code": exit_code,
        "model": _model(result.source),
        "before": _totals(result.before),
        "after": _totals(result.after),
        "changed": result.changed,
        "applied": [_applied(item) for item in result.applied],
        "declined": [_left(item) for item in result.declined],
        "rejected": [_left(item) for item in result.rejected],
        "verification": {"passed": result.passed, "checks": [verdict(v) for v in result.checks]},
        "quality": None if result.quality is None else _quality(result.quality),
        "latency": None if result.latency is None else _latency(result.latency),
        "metric": None if result.metric is None else asdict(result.metric),
        "budget": [_judged(item) for item in result.budget],
        "gates": [_judged(item) for item in result.gates],
        "curve": [_point(point) for point in result.curve],
        "unmeasured": result.unmeasured,
        "notes": list(result.notes),
        "uncounted_ops": dict(result.uncounted_ops),
        "unknown_dims": list(result.unknown_dims),
        "observed_shapes": list(result.observed_shapes),
        "seconds": {name: round(value, 4) for name, value in result.seconds.items()},
        "options": dict(result.options),
    }


def batch(outcomes: Sequence[Outcome], jobs: int) -> dict[str, Any]:
    """The document of ``graphopt run`` and ``graphopt batch``.

    ``{"schema_version", "graphopt", "exit_code", "jobs", "models": [{"model", "out", "exit_code", "error",
    "seconds", "report"}]}``; ``out`` is the model that was written, ``error`` why the exit code is not 0, and
    ``report`` what ``optimize --json`` prints, each null where there is none.
    """
    return {
        **_head(),
        "exit_code": exit_code(outcomes),
        "jobs": jobs,
        "models": [
            {
                "model": str(outcome.model),
                "out": None if outcome.written is None else str(outcome.written),
                "exit_code": outcome.exit_code,
                "error": outcome.error or None,
                "seconds": round(outcome.seconds, 4),
                "report": outcome.report,
            }
            for outcome in outcomes
        ],
    }


def _applied(item: Applied) -> dict[str, Any]:
    candidate = item.candidate
    return {
        "rewrite": candidate.rewrite,
        "exactness": item.exactness.value,
        "nodes": list(candidate.site.nodes),
        "macs_before": candidate.before.macs if item.sized else None,
        "macs_after": candidate.after.macs if item.sized else None,
        "error_predicted": candidate.error,
        "error_measured": item.error_measured,
        "choice": dict(candidate.choice),
        "sensitivity": item.sensitivity,
        "spectra": {key: list(values) for key, values in item.spectra.items()},
        "verified": True,
    }


def _judged(item: Judged) -> dict[str, Any]:
    return {
        "key": item.gate.key,
        "limit": item.gate.limit,
        "measured": item.measured,
        "passed": item.passed,
    }


def _quality(quality: Quality) -> dict[str, Any]:
    return {
        "agreement": quality.agreement,
        "agreement_interval": None if quality.interval is None else list(quality.interval),
        "sqnr": quality.sqnr,
        "samples": quality.samples,
    }


def _point(point: Point) -> dict[str, Any]:
    return {
        "costs": dict(point.costs),
        "quality": None if point.quality is None else _quality(point.quality),
        "metric": point.metric,
        "taken": point.taken,
        "layers": [
            {
                "rewrite": c.rewrite,
                "nodes": list(c.site.nodes),
                "choice": dict(c.choice),
                "error_predicted": c.error,
            }
            for c in point.chosen
        ],
    }


def sweep(result: Sweep) -> dict[str, Any]:
    """The document of ``graphopt sweep --json``."""
    return {
        **_head(),
        "model": _model(result.source),
        "before": _totals(result.before),
        "points": [_point(point) for point in result.points],
        "notes": list(result.notes),
        "seconds": {name: round(value, 4) for name, value in result.seconds.items()},
        "options": dict(result.options),
    }


def _left(item: Left) -> dict[str, Any]:
    return {"rewrite": item.rewrite, "nodes": list(item.site.nodes), "reason": item.reason}


def verdict(check: Verdict) -> dict[str, Any]:
    """One comparison."""
    return {
        "scope": check.scope,
        "output": check.output,
        "passed": check.passed,
        "max_abs": check.max_abs,
        "max_rel": check.max_rel,
        "sqnr": check.sqnr,
        "allowed": check.allowed,
        "feeds": check.feeds,
        "note": check.note,
    }


def verification(result: Verification) -> dict[str, Any]:
    """The document of ``graphopt verify --json``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "passed": result.passed,
        "checks": [verdict(check) for check in result.checks],
        "notes": list(result.notes),
    }


def timing(result: Timing) -> dict[str, Any]:
    """The document of ``graphopt bench --json``."""
    return {"schema_version": SCHEMA_VERSION, **_latency(result)}


def _latency(result: Timing) -> dict[str, Any]:
    return {
        "reference_ms": result.reference_ms,
        "candidate_ms": result.candidate_ms,
        "speedup": result.speedup,
        "spread": list(result.spread),
        "threads": result.threads,
        "repeat": result.repeat,
        "provider": result.provider,
    }


def check(models: Sequence[Checked], exit_code: int) -> dict[str, Any]:
    """The document of ``graphopt check --json``."""
    return {**_head(), "exit_code": exit_code, "models": [_checked(each) for each in models]}


def _checked(each: Checked) -> dict[str, Any]:
    return {
        "path": str(each.path),
        "exit_code": each.exit_code,
        "before": None if each.before is None else _totals(each.before),
        "after": None if each.after is None else _totals(each.after),
        "rewrites": dict(each.rewrites),
        "fixed": each.fixed,
        "note": each.note or None,
        "error": each.error or None,
    }


def rewrites(available: Sequence[Rewrite]) -> list[dict[str, Any]]:
    """The document of ``graphopt rewrites --json``."""
    return [
        {
            "name": rewrite.name,
            "exactness": rewrite.exactness.value,
            "default": is_default(rewrite),
            "options": {
                name: {"type": kind, "default": default}
                for name, (kind, default) in option_types(rewrite).items()
            },
            "summary": summary(rewrite),
        }
        for rewrite in available
    ]


def diff(result: Diff) -> dict[str, Any]:
    """The document of ``graphopt diff --json``.

    ``{"schema_version", "graphopt", "different", "before": {"model", "totals"}, "after": {"model", "totals"},
    "layers": [{"change" (added, removed, changed or weights), "rewrites": [name], "before": [layer],
    "after": [layer], "macs_before", "macs_after"}], "same_layers", "operators": {op: [before, after]},
    "other": [{"name", "op", "attributes", "constants" (whether they differ)}], "interface"}``; a layer is
    what ``scan --json`` says of one, less ``share``, ``pointwise`` and ``opportunities``.
    """
    return {
        **_head(),
        "different": bool(result),
        "before": {"model": _model(result.before), "totals": _totals(result.totals_before)},
        "after": {"model": _model(result.after), "totals": _totals(result.totals_after)},
        "layers": [
            {
                "change": layer.change,
                "rewrites": list(layer.rewrites),
                "before": [_linear(linear) for linear in layer.before],
                "after": [_linear(linear) for linear in layer.after],
                "macs_before": layer.macs_before,
                "macs_after": layer.macs_after,
            }
            for layer in result.layers
        ],
        "same_layers": result.same_layers,
        "operators": {op: list(counts) for op, counts in result.operators.items()},
        "other": [asdict(change) for change in result.other],
        "interface": result.interface,
    }


def provenance(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The document of ``graphopt provenance --json``: a list of runs, oldest first.

    ``[{"run", "version", "input_sha256", "input_data": {file: digest}, "options", "rewrites": [{"rewrite",
    "exactness", "nodes", "choices" (of rewrites that are not exact)}]}]``.
    """
    return [{"run": number, **described(record)} for number, record in enumerate(records, start=1)]
