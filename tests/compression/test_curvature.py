"""What errors in a layer's outputs count, and that a fit goes by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt.analysis.channels import Channels, Signal
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration.inputs import load as load_calibration
from graphopt.compression import curvature
from tests.builders import model, node, rng, run, saved, weight

CHANNELS = 24
QUIET = np.arange(CHANNELS) % 2 == 0
"""Every other output channel is read with a hundredth of the weight."""


def network(reader: np.ndarray, *, between: str = "Identity", dtype: Any = np.float32) -> onnx.ModelProto:
    """A 3x3 convolution, something in between, and a 1x1 convolution that reads it."""
    return model(
        [
            node("Conv", "x w", "c", "conv", pads=[1, 1, 1, 1]),
            node(between, "c scale shift" if between == "InstanceNormalization" else "c", "n", "between"),
            node("Conv", "n v", "y", "last"),
        ],
        {
            "w": weight(CHANNELS, 16, 3, 3).astype(dtype),
            "scale": np.linspace(0.5, 2.0, CHANNELS, dtype=dtype),
            "shift": np.zeros(CHANNELS, dtype),
            "v": reader.astype(dtype),
        },
        inputs={"x": ["N", 16, 12, 12]},
        dtype=dtype,
    )


def inputs(count: int, seed: int = 0) -> np.ndarray:
    """Smooth in space and alike across channels, as what networks see is."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((count, 16, 12, 12))
    found = (found + np.roll(found, 1, 2) + np.roll(found, 1, 3)) @ np.diag(np.linspace(0.5, 1.5, 12))
    mixing = np.random.default_rng(9).standard_normal((16, 16)) * np.linspace(1.0, 0.1, 16)
    return np.einsum("oc,nchw->nohw", mixing, found).astype(np.float32)


def weightings(proto: onnx.ModelProto, x: np.ndarray, **options: Any) -> dict[str, tuple[np.ndarray, ...]]:
    """Those of all layers, each output counting the same."""
    loaded = ir.from_proto(proto)
    calibration = load_calibration(x, loaded, 0)
    analysis = Analysis(loaded, bindings=calibration.sizes())
    channels = Channels(loaded, analysis.shape, analysis.constant)
    watched = [Signal(value, channels.axis(value)) for value in loaded.graph.outputs]
    linears = list(analysis.linears)
    arguments = {"seed": 0, **options}
    return curvature.weightings(analysis, linears, calibration, calibration.fit, watched, **arguments)


def read_by(proto: onnx.ModelProto, x: np.ndarray, reader: np.ndarray) -> np.ndarray:
    """G of a layer that a layer of these weights reads, each output by its own deviation, of trace 24."""
    (outputs,) = run(proto, {"x": x})
    deviations = np.moveaxis(outputs, 1 if outputs.ndim == 4 else 2, 0).reshape(len(reader), -1).std(axis=1)
    scaled = reader / deviations[:, None]
    return scaled.T @ scaled / np.sum(scaled**2) * CHANNELS


def damped(g: np.ndarray) -> np.ndarray:
    """G with what its own diagonal counts besides, of the same trace."""
    return (g + curvature.DAMPING * np.diag(np.diag(g))) / (1 + curvature.DAMPING)


def counted(roots: tuple[np.ndarray, ...]) -> np.ndarray:
    """G = RᵀR of a layer of one group, as a part of its mean diagonal."""
    (root,) = roots
    return np.asarray(root.T @ root) / (np.trace(root.T @ root) / len(root))


def test_behind_a_layer_stands_what_reads_it() -> None:
    reader = weight(40, CHANNELS, 1, 1, seed=1)
    proto, x = network(reader), inputs(64)
    found = weightings(proto, x)
    expected = read_by(proto, x, reader[:, :, 0, 0])
    expected = damped(expected)
    gap = counted(found["conv"]) - expected
    assert np.linalg.norm(gap) < 0.05 * np.linalg.norm(expected)
    last = counted(found["last"])  # it makes the output itself: errors count by what varies in each channel
    assert np.abs(last - damped(read_by(proto, x, np.eye(len(last))) * len(last) / CHANNELS)).max() < 0.1


@pytest.mark.parametrize("op", ["MatMul", "ConvTranspose"])
def test_channels_stand_last_behind_a_matmul_and_second_behind_a_transposed_convolution(op: str) -> None:
    reader = weight(40, CHANNELS, seed=1)
    dense = op == "MatMul"
    first, last = weight(16, CHANNELS, seed=2), np.ascontiguousarray(reader.T)
    proto = model(
        [node(op, "x w", "c", "first"), node("MatMul" if dense else "Conv", "c v", "y", "last")],
        {
            "w": first if dense else first.reshape(16, CHANNELS, 1, 1),
            "v": last if dense else reader.reshape(40, CHANNELS, 1, 1),
        },
        inputs={"x": ["N", 9, 16] if dense else ["N", 16, 12, 12]},
    )
    x = rng(0).standard_normal((256, 9, 16)).astype(np.float32) if dense else inputs(64)
    expected = damped(read_by(proto, x, reader))
    gap = counted(weightings(proto, x)["first"]) - expected
    assert np.linalg.norm(gap) < 0.2 * np.linalg.norm(expected)


def test_a_newer_opset_gives_about_the_same() -> None:
    """onnxruntime has no kernel for the newer random operator, so that other numbers are drawn."""
    reader = rng(3).standard_normal((10, CHANNELS, 1, 1)) * np.where(QUIET, 0.01, 1.0)[:, None, None]
    old, new = (network(reader) for _ in range(2))
    old.opset_import[0].version, new.opset_import[0].version = 21, 22
    new.ir_version = old.ir_version = 10
    x = inputs(64)
    (first, *_), (second, *_) = (weightings(each, x).values() for each in (old, new))
    assert np.linalg.norm(counted(second) - counted(first)) < 0.2 * np.linalg.norm(counted(first))


def test_groups_are_measured_each_alone() -> None:
    reader = weight(40, CHANNELS, 1, 1, seed=1)
    proto, x = network(reader), inputs(64)
    proto.graph.node[0].attribute.append(onnx.helper.make_attribute("group", 2))
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight(CHANNELS, 8, 3, 3), "w"))
    parts = [root.T @ root for root in weightings(proto, x)["conv"]]
    size = sum(np.trace(part) for part in parts) / CHANNELS
    expected = damped(read_by(proto, x, reader[:, :, 0, 0]))
    for start, part in zip((0, 12), parts, strict=True):
        block = expected[start : start + 12, start : start + 12]
        assert np.linalg.norm(part / size - block) < 0.1 * np.linalg.norm(block)


def test_a_rectifier_lets_through_what_is_positive() -> None:
    proto = network(np.ones((1, CHANNELS, 1, 1)), between="Relu")
    bias = np.where(QUIET, -100.0, 100.0).astype(np.float32)
    proto.graph.node[0].input.append("bias")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(bias, "bias"))
    found = np.diag(counted(weightings(proto, inputs(64))["conv"]))
    assert found[QUIET].max() < 0.1 < 1.5 < found[~QUIET].min()


def test_what_can_not_be_differentiated_is_left_out() -> None:
    proto = network(weight(4, CHANNELS, 1, 1), between="Identity")
    proto.graph.node[1].op_type = "Floor"
    assert set(weightings(proto, inputs(16))) == {"last"}
    half = network(weight(4, CHANNELS, 1, 1), dtype=np.float16)
    assert weightings(half, inputs(16).astype(np.float16)) == {}


def test_the_same_seed_gives_the_same_and_batches_make_no_difference(monkeypatch: Any) -> None:
    proto, x = network(weight(4, CHANNELS, 1, 1), between="Relu"), inputs(64)
    first, second = (weightings(proto, x)["conv"][0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    g = counted((first,))
    monkeypatch.setattr(curvature, "BYTES", 1 << 18)
    other = counted(weightings(proto, x, seed=1)["conv"])
    assert np.linalg.norm(g - other) < 0.1 * np.linalg.norm(g)
    assert not np.array_equal(g, other)


def lost(path: Any, out: Any) -> tuple[np.ndarray, float]:
    """Relative error in each output channel of "conv", and of the network's output, on new inputs."""
    found = []
    for name in (path, out):
        proto = onnx.load(name)
        proto.graph.output.append(onnx.ValueInfoProto(name="c"))
        found.append(run(proto, {"x": inputs(32, seed=5)}))
    (y, c), (other, changed) = found
    power = ((c - changed) ** 2).mean(axis=(0, 2, 3)) / c.var(axis=(0, 2, 3))
    return power, float(((y - other) ** 2).mean() / y.var())


@pytest.mark.parametrize("form", ["bottleneck", "separable", "depthwise_separable", "inverted_bottleneck"])
def test_a_fit_loses_what_the_network_does_not_need(form: str, tmp_path: Any, monkeypatch: Any) -> None:
    reader = weight(40, CHANNELS, 1, 1, seed=1)
    reader[:, QUIET] /= 100
    path = saved(network(reader), tmp_path / "m.onnx")

    def made(name: str) -> tuple[np.ndarray, float]:
        result = graphopt.optimize(path, {"macs": 0.5}, inputs(96), only=[form], keep=["last"])
        result.save(tmp_path / name)
        (applied,) = [item for item in result.report.applied if item.candidate.error]
        assert applied.error_measured == pytest.approx(applied.candidate.error, rel=0.5)
        return lost(path, tmp_path / name)

    power, whole = made("out.onnx")
    assert power[~QUIET].mean() < 0.5 * power[QUIET].mean()
    monkeypatch.setattr(curvature, "weightings", lambda *_, **__: {})
    assert whole < 0.8 * made("without.onnx")[1]


def test_behind_a_normalisation_a_channel_counts_by_its_deviation(tmp_path: Any) -> None:
    proto = network(weight(40, CHANNELS, 1, 1, seed=1), between="InstanceNormalization")
    kernel = weight(CHANNELS, 16, 3, 3)
    kernel[QUIET] /= 50
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(kernel, "w"))
    path = saved(proto, tmp_path / "m.onnx")
    graphopt.optimize(path, {"macs": 0.5}, inputs(96), only=["bottleneck"], keep=["last"]).save(
        tmp_path / "o.onnx"
    )
    power, _ = lost(path, tmp_path / "o.onnx")
    assert power[QUIET].mean() < 2 * power[~QUIET].mean()
