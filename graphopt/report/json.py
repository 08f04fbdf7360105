"""The report and the other results as JSON documents (schema_version 1).

A result is an object of its fields; what a document says otherwise stands in `KEYS`, or in a function below.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from operator import attrgetter
from pathlib import PurePath
from typing import Any

import numpy as np

from graphopt._version import __version__
from graphopt.analysis.diff import Diff, LayerChange
from graphopt.analysis.linear import Linear
from graphopt.errors import gravest
from graphopt.model.io import Source
from graphopt.planning.gates import Judged
from graphopt.report.outcomes import Outcome
from graphopt.report.provenance import Record, described
from graphopt.report.results import (
    Applied,
    Checked,
    LayerRow,
    LayerSensitivity,
    Left,
    Metric,
    Point,
    Report,
    Scan,
    Sensitivities,
    Sweep,
    Tuned,
)
from graphopt.rewrites.base import Rewrite
from graphopt.rewrites.registry import is_default, option_types, summary
from graphopt.runtime.latency import Timing
from graphopt.types import Candidate, Quality, Totals
from graphopt.verification.verdict import Verification

SCHEMA_VERSION = 1
"""Of the form of the JSON documents."""

QUALITY = (
    "agreement agreement_interval=interval sqnr sqnr_interval confidence samples measured_by unmeasured"
    " groups"
)
LINEAR = (
    "name graph op kernel in_channels out_channels group form.strides form.pads form.dilations output_shape"
    " macs flops params"
)
APPLIED = (
    "candidate.rewrite exactness candidate.site.nodes macs_before macs_after error_predicted=candidate.error"
    " error_measured candidate.choice sensitivity spectra verified measured"
)
REPORT = (
    "model=source warnings before after changed applied declined rejected verification=checks quality latency"
    " metric budget gates tuning curve unmeasured notes uncounted_ops unknown_dims observed_shapes seconds"
    " options"
)
KEYS: Mapping[type, str] = {
    Applied: APPLIED,
    Candidate: "rewrite site.nodes choice error_predicted=error",
    Checked: "path exit_code before after rewrites fixed note error",
    Judged: "gate.key gate.limit measured interval passed undecided needed",
    LayerChange: "change rewrites before after macs_before macs_after",
    LayerRow: "linear runs share seconds linear.pointwise opportunities",
    LayerSensitivity: "linear share probes damage halved",
    Left: "rewrite site.nodes reason",
    Linear: LINEAR,
    Metric: "name before after against figures intervals",
    Outcome: "model out=written exit_code error seconds report",
    Point: "costs quality metric taken layers=chosen",
    Quality: QUALITY,
    Report: REPORT,
    Scan: "model=source totals convs=rows seconds others measured uncounted_ops unknown_dims observed_shapes"
    " notes",
    Source: "path sha256 bytes opset",
    Sensitivities: "model=source before layers error notes seconds options",
    Sweep: "model=source before points notes seconds options",
    Tuned: "model=candidate reference kept before after tuning notes seconds",
    Totals: "macs flops params weight_bytes nodes",
    Verification: "passed undecided warnings checks notes",
}
"""Attributes that stand for the fields of a result, ``KEY=`` before those with another name than the last."""


LAYERS = (LayerRow, LayerSensitivity)
"""What stands for a layer: the fields of the operator come first."""


def dumps(document: Any) -> str:
    """The document as text; figures without a value (NaN, infinite) are null."""
    return json.dumps(plain(document), indent=2, allow_nan=False, default=str)


def plain(value: Any) -> Any:
    """What JSON has in the place of a value; figures without one (NaN, infinite) are null."""
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if not is_dataclass(value):
        return value
    found: dict[str, Any] = {}
    for item in (KEYS.get(type(value)) or " ".join(field.name for field in fields(value))).split():
        key, _, path = item.rpartition("=")
        found[key or path.rpartition(".")[2]] = plain(attrgetter(path)(value))
    return {**found.pop("linear"), **found} if isinstance(value, LAYERS) else found


def _head() -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "graphopt": __version__}


def scan(result: Scan) -> dict[str, Any]:
    """The document of ``graphopt scan --json``.

    ``seconds`` are those of one run of the model at one thread: in ``convs`` of a layer, in ``others`` of all
    operators of a kind (``op``, ``number``, ``seconds``), and beside them of the whole model; ``measured``
    says whether onnxruntime took them, or a static time model expects them. What is unknown is null.
    """
    return {**_head(), **plain(result)}


def report(result: Report, exit_code: int) -> dict[str, Any]:
    """The document of ``graphopt optimize --json`` and ``--report``."""
    found = _timed(result)
    found["verification"] = {"passed": result.passed, "checks": found["verification"]}
    return {**_head(), "exit_code": exit_code, **found}


def sweep(result: Sweep) -> dict[str, Any]:
    """The document of ``graphopt sweep --json``."""
    return {**_head(), **_timed(result)}


def sensitivity(result: Sensitivities) -> dict[str, Any]:
    """The document of ``graphopt sensitivity --json``.

    ``probes`` are pairs of a layer's relative error and the mean squared change of the network's output over
    its variance; ``damage`` is that change at ``error``, in ``halved`` that of the form which takes at most
    half of the layer's MACs. The layers stand in order, that which costs the most first.
    """
    return {**_head(), **_timed(result)}


def tuning(result: Tuned) -> dict[str, Any]:
    """The document of ``graphopt tune --json``."""
    return {**_head(), **_timed(result)}


def _timed(result: Report | Sensitivities | Sweep | Tuned) -> dict[str, Any]:
    """A run, with seconds as far as they mean something."""
    return {**plain(result), "seconds": {name: round(value, 4) for name, value in result.seconds.items()}}


def batch(outcomes: Sequence[Outcome], jobs: int) -> dict[str, Any]:
    """The document of ``graphopt run`` and ``graphopt batch``.

    ``{"schema_version", "graphopt", "exit_code", "jobs", "models": [{"model", "out", "exit_code", "error",
    "seconds", "report"}]}``; ``out`` is the model that was written, ``error`` why the exit code is not 0, and
    ``report`` what ``optimize --json`` prints, each null where there is none.
    """
    models = [
        {**plain(outcome), "error": outcome.error or None, "seconds": round(outcome.seconds, 4)}
        for outcome in outcomes
    ]
    return {
        **_head(),
        "exit_code": gravest(outcome.exit_code for outcome in outcomes),
        "jobs": jobs,
        "models": models,
    }


def verification(result: Verification) -> dict[str, Any]:
    """The document of ``graphopt verify --json``."""
    return {"schema_version": SCHEMA_VERSION, **plain(result)}


def timing(result: Timing) -> dict[str, Any]:
    """The document of ``graphopt bench --json``."""
    return {"schema_version": SCHEMA_VERSION, **plain(result)}


def check(models: Sequence[Checked]) -> dict[str, Any]:
    """The document of ``graphopt check --json``."""
    found = [{**plain(each), "note": each.note or None, "error": each.error or None} for each in models]
    return {**_head(), "exit_code": gravest(each.exit_code for each in models), "models": found}


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
    what ``scan --json`` says of one, less ``share``, ``seconds``, ``pointwise`` and ``opportunities``.
    """
    found = plain(result)
    sides = {
        side: {"model": found.pop(side), "totals": found.pop(f"totals_{side}")}
        for side in ("before", "after")
    }
    return {**_head(), "different": bool(result), **sides, **found}


def provenance(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The document of ``graphopt provenance --json``: a list of runs, oldest first.

    ``[{"run", "version", "input_sha256", "input_data": {file: digest}, "options", "rewrites": [{"rewrite",
    "exactness", "nodes", "choices" (of rewrites that are not exact)}]}]``.
    """
    return [{"run": number, **described(record)} for number, record in enumerate(records, start=1)]
