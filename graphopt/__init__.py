"""graphopt makes the convolutions of ONNX models cheaper with 1x1 convolutions, and proves it.

    >>> import graphopt
    >>> result = graphopt.optimize("model.onnx")
    >>> result.save("smaller.onnx")

Everything is imported where it is first used, so that ``import graphopt`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from graphopt._version import __version__

if TYPE_CHECKING:
    from graphopt.api import bench as bench
    from graphopt.api import diff as diff
    from graphopt.api import optimize as optimize
    from graphopt.api import scan as scan
    from graphopt.api import sensitivity as sensitivity
    from graphopt.api import sweep as sweep
    from graphopt.api import tune as tune
    from graphopt.api import verify as verify
    from graphopt.calibration.images import Images as Images
    from graphopt.errors import BudgetError as BudgetError
    from graphopt.errors import GraphOptError as GraphOptError
    from graphopt.errors import InputError as InputError
    from graphopt.errors import VerificationError as VerificationError
    from graphopt.planning.budget import Budget as Budget
    from graphopt.report.results import Result as Result
    from graphopt.rewrites.base import Rewrite as Rewrite
    from graphopt.rewrites.builder import Builder as Builder
    from graphopt.types import Candidate as Candidate
    from graphopt.types import Cost as Cost
    from graphopt.types import Exactness as Exactness
    from graphopt.types import NewNode as NewNode
    from graphopt.types import Rejection as Rejection
    from graphopt.types import Replacement as Replacement
    from graphopt.types import Site as Site

_HOMES = {
    "bench": "graphopt.api",
    "diff": "graphopt.api",
    "optimize": "graphopt.api",
    "scan": "graphopt.api",
    "sensitivity": "graphopt.api",
    "sweep": "graphopt.api",
    "tune": "graphopt.api",
    "verify": "graphopt.api",
    "Builder": "graphopt.rewrites.builder",
    "Budget": "graphopt.planning.budget",
    "Candidate": "graphopt.types",
    "Cost": "graphopt.types",
    "Exactness": "graphopt.types",
    "NewNode": "graphopt.types",
    "Rejection": "graphopt.types",
    "Replacement": "graphopt.types",
    "Rewrite": "graphopt.rewrites.base",
    "Site": "graphopt.types",
    "BudgetError": "graphopt.errors",
    "GraphOptError": "graphopt.errors",
    "InputError": "graphopt.errors",
    "VerificationError": "graphopt.errors",
    "Images": "graphopt.calibration.images",
    "Result": "graphopt.report.results",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'graphopt' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
