"""Sparse tensors and maps: read, rewritten around, and written back as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper

import graphopt
from graphopt.model import io
from graphopt.model.carried import SparseTensor, dense
from tests.builders import batch_norm, bn_inputs, info, model, node, run, samples, saved, weight


def sparse(array: npt.NDArray[Any], name: str = "", *, flat: bool = True) -> SparseTensorProto:
    """An array as its elements other than 0, with their places in one number or in one a dimension."""
    places = np.flatnonzero(array) if flat else np.argwhere(array)
    values = numpy_helper.from_array(array[array != 0], name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(places.astype(np.int64)), array.shape)


def thinned(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    array = weight(*shape, seed=seed)
    return np.where(np.abs(array) > np.quantile(np.abs(array), 0.75), array, 0).astype(np.float32)


def two_branches() -> onnx.ModelProto:
    """A convolution of sparse weights, one of a sparse Constant, and one with something to fold."""
    nodes = [
        node("Conv", "x s", "a", "initialized", pads=[1] * 4),
        helper.make_node(
            "Constant",
            [],
            ["k"],
            name="constant",
            sparse_value=sparse(thinned(8, 8, 3, 3, seed=1), flat=False),
        ),
        node("Conv", "x k", "b", "held", pads=[1] * 4),
        node("Conv", "x w", "c", "plain", pads=[1] * 4),
        node("BatchNormalization", bn_inputs("c", "bn"), "n", "norm"),
        node("Sum", "a b n", "y", "sum"),
    ]
    proto = model(nodes, {"w": weight(8, 8, 3, 3, seed=2), **batch_norm("bn", 8)})
    proto.graph.sparse_initializer.append(sparse(thinned(8, 8, 3, 3), "s"))
    return proto


def zipped(labels: list[int] | list[str]) -> onnx.ModelProto:
    """A classifier whose only output is a map a sample."""
    whole = isinstance(labels[0], int)
    key = TensorProto.INT64 if whole else TensorProto.STRING
    made = helper.make_sequence_type_proto(
        helper.make_map_type_proto(key, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    nodes = [
        node("Conv", "x w", "c", "conv"),
        node("BatchNormalization", bn_inputs("c", "bn"), "n", "norm"),
        node("Relu", "n", "r", "relu"),
        node("GlobalAveragePool", "r", "p", "pool"),
        node("Flatten", "p", "f", "flat"),
        node("Softmax", "f", "s", "softmax", axis=1),
        node(
            "ZipMap",
            "s",
            "y",
            "zip",
            domain="ai.onnx.ml",
            **{f"classlabels_{'int64s' if whole else 'strings'}": labels},
        ),
    ]
    weights = {"w": weight(len(labels), 8, 3, 3), **batch_norm("bn", len(labels))}
    outputs = [helper.make_value_info("y", made)]
    return model(nodes, weights, inputs={"x": ["N", 8, 8, 8]}, outputs=outputs, domains=["ai.onnx.ml"])


@pytest.mark.parametrize("in_memory", [False, True])
def test_sparse_tensors_are_rewritten_around_and_written_as_they_were(
    in_memory: bool, tmp_path: Path
) -> None:
    proto = two_branches()
    before = proto.SerializeToString()
    result = graphopt.optimize(proto if in_memory else saved(proto, tmp_path / "in.onnx"))
    assert [each.candidate.rewrite for each in result.report.applied] == ["fold_affine"]
    assert proto.SerializeToString() == before
    result.save(tmp_path / "out.onnx")
    after = onnx.load(tmp_path / "out.onnx")
    assert list(after.graph.sparse_initializer) == list(proto.graph.sparse_initializer)
    (constant,) = (each for each in after.graph.node if each.op_type == "Constant")
    assert constant.attribute == proto.graph.node[1].attribute
    assert {tensor.name for tensor in after.graph.initializer} == {"plain/weight0", "plain/bias1"}
    feeds = {"x": samples(1)}
    np.testing.assert_allclose(run(after, feeds)[0], run(proto, feeds)[0], rtol=1e-4, atol=1e-5)
    assert graphopt.verify(proto, after) and graphopt.verify(proto, result.model)


def test_sparse_weights_are_left_with_that_reason_and_count_as_they_are_stored() -> None:
    proto = two_branches()
    result = graphopt.optimize(proto)
    reasons = [each.reason for each in result.report.rejected]
    assert "initialized: s is stored sparse, and would be stored dense" in reasons
    assert "held: k is stored sparse, and would be stored dense" in reasons
    elements = 8 * 8 * 9
    places = elements // 4 * (8 + 4 * 8)  # one number, and one a dimension
    assert result.report.before.weight_bytes == 4 * (elements + 2 * (elements // 4) + 4 * 8) + places
    assert graphopt.scan(proto).totals.macs == 3 * elements * 64


def test_a_model_that_is_saved_unchanged_keeps_its_sparse_tensors(tmp_path: Path) -> None:
    proto = two_branches()
    source = io.load(proto)
    assert isinstance(source.model.graph.initializers["s"].const_value, SparseTensor)
    for kind in ("never", "always"):
        io.save(source.model, tmp_path / f"{kind}.onnx", external_data=kind)
        assert list(onnx.load(tmp_path / f"{kind}.onnx").graph.sparse_initializer) == list(
            proto.graph.sparse_initializer
        )
    io.save(io.load(source.model).model, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "never.onnx").read_bytes()


def test_sparse_tensors_of_a_branch(tmp_path: Path) -> None:
    bodies = {}
    for seed, name in enumerate(("then_branch", "else_branch")):
        body = helper.make_graph([node("Conv", "x s", "o", f"{name}_conv")], name, [], [info("o", None)])
        body.sparse_initializer.append(sparse(thinned(8, 8, 3, 3, seed=seed), "s"))
        bodies[name] = body
    proto = model([helper.make_node("If", ["flag"], ["y"], **bodies)], {"flag": np.array(True)})
    io.save(io.load(proto).model, tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx").graph.node == proto.graph.node
    assert graphopt.scan(proto).totals.macs is not None


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int64, np.uint8])
def test_a_sparse_tensor_is_dense_as_an_array(flat: bool, dtype: type) -> None:
    array = (thinned(3, 1, 5) * 9).astype(dtype)
    np.testing.assert_array_equal(dense(sparse(array, flat=flat)), array)


@pytest.mark.parametrize("labels", [[3, 5, 7], ["a", "b", "c"]])
def test_a_map_is_an_output_whose_type_is_written_as_it_was(labels: list[Any], tmp_path: Path) -> None:
    proto = zipped(labels)
    result = graphopt.optimize(saved(proto, tmp_path / "in.onnx"))
    assert [each.candidate.rewrite for each in result.report.applied] == ["fold_affine"]
    assert {"model", "model, optimised session"} < {check.scope for check in result.report.checks}
    result.save(tmp_path / "out.onnx")
    after = onnx.load(tmp_path / "out.onnx")
    assert list(after.graph.output) == list(proto.graph.output)
    assert graphopt.verify(proto, after)
    (kernel,) = (each for each in after.graph.initializer if len(each.dims) == 4)
    kernel.CopyFrom(numpy_helper.from_array(1.1 * numpy_helper.to_array(kernel), kernel.name))
    assert not graphopt.verify(proto, after)
    assert not graphopt.verify(proto, zipped([str(label) for label in labels][::-1]))


def test_the_type_of_a_map_inside(tmp_path: Path) -> None:
    proto = zipped([0, 1])
    proto.graph.value_info.append(helper.make_value_info("y", proto.graph.output[0].type))
    del proto.graph.output[:]
    proto.graph.output.append(info("s", ["N", 2]))
    io.save(io.load(proto).model, tmp_path / "out.onnx")
    assert list(onnx.load(tmp_path / "out.onnx").graph.value_info) == list(proto.graph.value_info)
    assert isinstance(io.load(proto).model, ir.Model)
