"""The report and the other results as text for a terminal, readable at 80 columns; one module a command."""

from __future__ import annotations

from graphopt.report.text.batch import batch
from graphopt.report.text.check import check, checked
from graphopt.report.text.compare import timing, verification
from graphopt.report.text.diff import diff
from graphopt.report.text.optimize import report
from graphopt.report.text.provenance import provenance
from graphopt.report.text.rewrites import rewrites
from graphopt.report.text.scan import scan
from graphopt.report.text.sensitivity import sensitivity
from graphopt.report.text.sweep import sweep
from graphopt.report.text.tune import tuning

__all__ = [
    "batch",
    "check",
    "checked",
    "diff",
    "provenance",
    "report",
    "rewrites",
    "scan",
    "sensitivity",
    "sweep",
    "timing",
    "tuning",
    "verification",
]
