"""The pass before and after onnxscript's optimizer, on real models."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules import common

import graphopt
from graphopt.integrations.ir_pass import GraphOptPass
from graphopt.report import provenance
from tests.places import ROOT

DATA = ROOT.parent / "shared" / "data" / "models"
REAL = [
    ROOT / "models" / "inception-digits.onnx",
    ROOT / "models" / "resnet-digits.onnx",
    *(
        path
        for name in ("squeezenet1.1-imagenet", "resnet20-cifar10-bn", "ppocrv3-det")
        if (path := DATA / f"{name}.onnx").exists()
    ),
]


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_before_and_after_the_optimizer(path: Path) -> None:
    first, last, alone = (ir.load(path) for _ in range(3))
    GraphOptPass()(first)
    optimizer.optimize(first)
    optimizer.optimize(last)
    changed = GraphOptPass()(last).modified
    GraphOptPass()(alone)
    assert len(provenance.read(first.metadata_props)) == 1, "the optimizer keeps the record"
    assert len(provenance.read(last.metadata_props)) == changed
    expected = graphopt.scan(alone).totals.macs
    for model in (first, last):
        onnx.checker.check_model(ir.to_proto(model))
        assert graphopt.verify(path, model)
        assert graphopt.scan(model).totals.macs == expected


def test_in_a_sequence_with_onnxscripts_passes() -> None:
    path = REAL[0]
    model = ir.load(path)
    before = [node.op_type for node in model.graph]
    result = ir.passes.Sequential(
        rewriter.RewritePass([common.fuse_batchnorm_into_conv_rule]),
        GraphOptPass(),
        rewriter.RewritePass([common.fuse_batchnorm_into_gemm_rule]),
    )(model)
    assert result.modified
    assert "BatchNormalization" in set(before) - {node.op_type for node in model.graph}
    assert len(model.graph) < len(before)
    assert graphopt.verify(path, model)
