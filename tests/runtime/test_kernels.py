"""What onnxruntime has kernels for, against what it loads."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import pytest

from graphopt.analysis.snapshot import Analysis
from graphopt.runtime import kernels
from graphopt.types import Candidate, Change, Cost, NewNode, Replacement, Site
from tests.builders import NEWEST_OPSET, model, node, session

MADE = {
    "Conv": {},
    "ConvTranspose": {},
    "MatMul": {},
    "Add": {},
    "Concat": {"axis": 1},
    "AveragePool": {"kernel_shape": (2, 2)},
    "MaxPool": {"kernel_shape": (2, 2)},
    "GlobalAveragePool": {},
    "DepthToSpace": {"blocksize": 2},
    "Erf": {},
}
"""Operators, with the attributes that they need."""
BINARY = ("Conv", "ConvTranspose", "MatMul", "Add", "Concat")


@pytest.mark.parametrize("opset", [7, 11, 17, NEWEST_OPSET])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_kernel_is_missing_where_onnxruntime_loads_no_such_model(dtype: npt.DTypeLike, opset: int) -> None:
    for op in (each for each in MADE if each != "Erf" or opset >= 9):
        inputs = "x w" if op in BINARY else "x"
        weights = {"w": np.ones((4, 4, 4, 4), dtype)} if op in BINARY else {}
        proto = model([node(op, inputs, "y", **MADE[op])], weights, inputs={"x": [4, 4, 4, 4]}, dtype=dtype)
        proto.opset_import[0].version = opset
        analysis = Analysis(ir.from_proto(proto))
        made = NewNode(op, tuple(inputs.split()), ("%y",), MADE[op])
        site = Site("main", tuple(analysis.nodes))
        change = Change(Candidate("r", site, Cost(0), Cost(0)), Replacement((made,), weights, {"y": "%y"}))
        try:
            session(proto)
            loads = True
        except ort.capi.onnxruntime_pybind11_state.NotImplemented:
            loads = False
        assert bool(kernels.missing(analysis, change)) is not loads, (op, dtype, opset)


def test_the_reason_names_operator_type_and_opset() -> None:
    analysis = Analysis(ir.from_proto(model([node("Relu", "x", "y", "relu")], dtype=np.float64)))
    nodes = [NewNode("Relu", ("x",), ("%r",)), NewNode("GlobalAveragePool", ("%r",), ("%y",))]
    change = Change(
        Candidate("r", Site("main", ("relu",)), Cost(0), Cost(0)), Replacement(tuple(nodes), {}, {"y": "%y"})
    )
    assert kernels.missing(analysis, change) == "onnxruntime has no GlobalAveragePool of double at opset 17"
