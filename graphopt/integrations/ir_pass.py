"""graphopt as a pass of `onnx_ir`: composes with every other pass, and with `onnxscript.optimizer`.

>>> import onnx_ir as ir
>>> from graphopt.integrations.ir_pass import GraphOptPass
>>> model = ir.load("model.onnx")
>>> result = ir.passes.Sequential(GraphOptPass())(model)
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from graphopt.api import optimize
from graphopt.calibration.reading import Given
from graphopt.errors import GraphOptError
from graphopt.model import edit
from graphopt.planning.budget import Budget
from graphopt.report.results import Report


@dataclass
class GraphOptPassResult(ir.passes.PassResult):
    """What the pass returns: the model, whether it changed, and how.

    Attributes:
        report: what was done, with its figures.
    """

    report: Report


class GraphOptPass(ir.passes.InPlacePass):
    """Makes a model's convolutions cheaper, in place, once the result is verified.

    Without a budget only exact rewrites are applied. When anything fails, the model stays as it was.

    Args:
        budget: what the result has to reach, such as ``{"macs": 0.7}``.
        calibration: preprocessed inputs: a path, arrays by input name, or one array.
        options: everything else that `graphopt.optimize` takes, by its name.

    Raises:
        TypeError: an option that `graphopt.optimize` doesn't take.
    """

    def __init__(
        self,
        budget: Budget | Mapping[str, float] | None = None,
        calibration: Given | None = None,
        **options: Any,
    ) -> None:
        inspect.signature(optimize).bind(None, budget, calibration, **options)
        self._arguments = (budget, calibration)
        self._options = options

    def call(self, model: ir.Model) -> GraphOptPassResult:
        """Rewrites the model.

        Args:
            model: the model, which is changed.

        Raises:
            PassError: the model can't be used, or the result is not verified or misses the budget; the cause
                is the `GraphOptError` that says so.
        """
        try:
            result = optimize(model, *self._arguments, **self._options)
        except GraphOptError as error:
            raise ir.passes.PassError(f"graphopt: {error}") from error
        if result:
            edit.become(model, result.model, result.report.source.model)
        return GraphOptPassResult(model, result.report.changed, result.report)
