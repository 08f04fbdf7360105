"""The results as plain data: of a scan, of a run, of a sweep over budgets, and of a check."""

from __future__ import annotations

from graphopt.report.results.check import Checked
from graphopt.report.results.run import Applied, Left, Metric, Point, Report, Result
from graphopt.report.results.scan import KindRow, LayerRow, Opportunity, Scan
from graphopt.report.results.sweep import Halved, LayerSensitivity, Sensitivities, Sweep
from graphopt.report.results.tuning import Tuned, Tuning

__all__ = [
    "Applied",
    "Checked",
    "Halved",
    "KindRow",
    "LayerRow",
    "LayerSensitivity",
    "Left",
    "Metric",
    "Opportunity",
    "Point",
    "Report",
    "Result",
    "Scan",
    "Sensitivities",
    "Sweep",
    "Tuned",
    "Tuning",
]
