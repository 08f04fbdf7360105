"""Sessions of models whose weights are handed to onnxruntime apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt.model import io
from graphopt.runtime import session
from tests.builders import check, conv_bn, saved, weight


@pytest.mark.parametrize("overridable", [(), ("spare",)], ids=["constant", "input"])
def test_a_large_initializer_that_nothing_reads_changes_nothing(overridable: tuple[str, ...]) -> None:
    plain = check(conv_bn()).applied
    proto = conv_bn()
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight(40, 40), "spare"))
    for name in overridable:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [40, 40]))
    assert check(proto).applied == plain


def test_a_large_external_initializer_that_nothing_reads_changes_nothing(tmp_path: Path) -> None:
    proto = conv_bn()
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight(40, 40), "spare"))
    path = saved(proto, tmp_path / "model.onnx", save_as_external_data=True, size_threshold=64)
    report = graphopt.optimize(path).report
    assert [item.candidate.rewrite for item in report.applied] == ["fold_affine"]


def test_a_file_that_loads_where_what_was_read_of_it_does_not_is_told(tmp_path: Path) -> None:
    source = io.load(saved(conv_bn(), tmp_path / "model.onnx"))
    assert session.unloaded(source) == ""
    unloadable = ir.from_proto(conv_bn())
    next(iter(unloadable.graph)).op_type = "NoSuch"
    assert "loads the file, and not what was read of it" in session.unloaded(
        replace(source, model=unloadable)
    )
