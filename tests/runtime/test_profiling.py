"""The kernels that onnxruntime runs for a model, and the operators that they are named after."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from graphopt.errors import InputError
from graphopt.runtime.profiling import Kernel, kernels
from tests.builders import info, make_feeds, model, node, weight


def ran(proto: onnx.ModelProto) -> list[Kernel]:
    return kernels(ir.from_proto(proto), make_feeds(proto))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("names", [("a", "b"), ("same", "same"), ("", ""), ('q"', "b\\s"), ("<1>", "<0>")])
def test_whatever_nodes_are_called_they_are_told_apart(names: tuple[str, str], folder: Path) -> None:
    first, second = names
    proto = model([node("Tanh", "x", 'mid"\\', first), node("Erf", 'mid"\\', "y", second)])
    found = ran(proto)
    assert [(kernel.op, kernel.node.op_type if kernel.node else "") for kernel in found] == [
        ("Tanh", "Tanh"),
        ("Erf", "Erf"),
    ]
    assert all(kernel.seconds >= 0 for kernel in found)
    assert not list(folder.iterdir())


def test_the_model_keeps_its_names() -> None:
    loaded = ir.from_proto(model([node("Tanh", "x", "y", "tanh")]))
    before = ir.to_proto(loaded).SerializeToString(deterministic=True)
    kernels(loaded, {"x": np.zeros((1, 8, 8, 8), np.float32)})
    assert ir.to_proto(loaded).SerializeToString(deterministic=True) == before


def test_an_input_called_like_a_number() -> None:
    proto = model([node("Tanh", "<7>", "y")], inputs={"<7>": [1, 8, 8, 8]}, dtype=np.float16)
    assert {kernel.op for kernel in ran(proto)} >= {"Tanh"}


def looped(trips: int) -> onnx.ModelProto:
    """A Loop of so many Tanh, of the name that an operator outside of it has."""
    shape = [1, 64, 32, 32]
    truth = [helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, []) for name in ("go", "on")]
    count = helper.make_tensor_value_info("i", onnx.TensorProto.INT64, [])
    inner = [node("Tanh", "state", "next", "t"), node("Identity", "go", "on")]
    inputs = [count, truth[0], info("state", shape)]
    body = helper.make_graph(inner, "body", inputs, [truth[1], info("next", shape)])
    nodes = [node("Tanh", "x", "a", "t"), node("Loop", "trips - a", "y", "loop", body=body)]
    return model(nodes, {"trips": np.array(trips)}, inputs={"x": shape})


def test_the_time_of_a_loop_is_that_of_its_body() -> None:
    found = ran(looped(20))
    outer, inner = (kernel.seconds for kernel in found if kernel.op == "Tanh")
    (loop,) = (kernel.seconds for kernel in found if kernel.op == "Loop")
    assert inner > 5 * outer  # of 20 runs
    assert loop < inner


def test_a_model_that_cannot_be_run_leaves_no_file(folder: Path) -> None:
    proto = model([node("Reshape", "x shape", "y")], {"shape": np.array([7, 7])})
    with pytest.raises(InputError, match="onnxruntime can't"):
        kernels(ir.from_proto(proto), {"x": np.zeros((1, 8, 8, 8), np.float32)})
    with pytest.raises(InputError, match="onnxruntime can't load"):
        ran(model([node("Nothing", "x", "y")], domains=["no.such"]))
    assert not list(folder.iterdir())


def test_a_profile_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def fails(text: str) -> None:
        raise ValueError("no JSON")

    monkeypatch.setattr(json, "loads", fails)
    with pytest.raises(InputError, match="profile can't be read"):
        ran(model([node("Tanh", "x", "y")]))
    assert not list(folder.iterdir())


def test_a_profile_without_a_whole_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", lambda text: {})
    proto = model([node("Conv", "x w", "y")], {"w": weight(8, 8, 1, 1)})
    with pytest.raises(InputError, match="holds no run"):
        ran(proto)
