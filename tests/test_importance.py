"""What an error in each output channel counts, and that a fit goes by it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_models import model, node, run_onnx, saved, weight

import graphopt
from graphopt import gather
from graphopt.analysis import Analysis
from graphopt.calibrate import load as load_calibration
from graphopt.importance import importance

CHANNELS = 24
QUIET = np.arange(CHANNELS) % 2 == 0
"""Every other output channel varies a fiftieth of what its neighbours do."""


def network(*, normalised: bool) -> onnx.ModelProto:
    kernel = weight(CHANNELS, 16, 3, 3)
    kernel[QUIET] /= 50
    after = (
        node("InstanceNormalization", "c scale shift", "n", "norm")
        if normalised
        else node("Relu", "c", "n", "relu")
    )
    return model(
        [
            node("Conv", "x w", "c", "conv", pads=[1, 1, 1, 1]),
            after,
            node("Conv", "n v", "y", "last"),
        ],
        {
            "w": kernel,
            "scale": np.linspace(0.5, 2.0, CHANNELS, dtype=np.float32),
            "shift": np.zeros(CHANNELS, np.float32),
            "v": weight(4, CHANNELS, 1, 1, seed=1),
        },
        inputs={"x": ["N", 16, 12, 12]},
    )


def inputs(count: int, seed: int = 0) -> np.ndarray:
    """Smooth in space and alike across channels, as what networks see is."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((count, 16, 12, 12))
    found = (found + np.roll(found, 1, 2) + np.roll(found, 1, 3)) @ np.diag(np.linspace(0.5, 1.5, 12))
    mixing = np.random.default_rng(9).standard_normal((16, 16)) * np.linspace(1.0, 0.1, 16)
    return np.einsum("oc,nchw->nohw", mixing, found).astype(np.float32)


@pytest.mark.parametrize("normalised", [True, False])
def test_behind_a_normalisation_a_channel_counts_by_its_deviation(normalised: bool) -> None:
    loaded = ir.from_proto(network(normalised=normalised))
    calibration = load_calibration(inputs(64), loaded, 0)
    analysis = Analysis(loaded, bindings=calibration.sizes())
    (linear, *_) = analysis.linears
    statistics = gather.statistics(analysis, [linear], calibration, calibration.fit, 0)[linear.name]
    found = importance(analysis, linear, statistics.groups)
    if not normalised:
        assert found is None and statistics.importance is None
        return
    assert found is not None and statistics.importance is not None
    np.testing.assert_array_equal(found, statistics.importance)
    flat = linear.weight().reshape(CHANNELS, -1)
    deviations = np.sqrt(np.diag(flat @ statistics.groups[0].covariance @ flat.T))
    expected = np.linspace(0.5, 2.0, CHANNELS) / deviations
    loud = ~QUIET
    np.testing.assert_allclose(found[loud] / found[loud][0], expected[loud] / expected[loud][0], rtol=1e-2)
    assert found[QUIET].mean() > 15 * found[loud].mean()


def test_a_fit_loses_as_little_of_quiet_channels(tmp_path) -> None:
    path = saved(network(normalised=True), tmp_path / "m.onnx")
    result = graphopt.optimize(path, {"macs": 0.5}, inputs(96), only=["bottleneck"], keep=["last"])
    result.save(tmp_path / "out.onnx")
    lost = []
    for name in (path, tmp_path / "out.onnx"):
        proto = onnx.load(name)
        proto.graph.output.append(onnx.ValueInfoProto(name="c"))
        lost.append(run_onnx(proto, {"x": inputs(32, seed=5)})[-1])
    exact, approximate = lost
    power = ((exact - approximate) ** 2).mean(axis=(0, 2, 3)) / exact.var(axis=(0, 2, 3))
    assert power[QUIET].mean() < 2 * power[~QUIET].mean()
    (applied,) = [item for item in result.report.applied if item.candidate.error]
    assert applied.error_measured == pytest.approx(applied.candidate.error, rel=0.5)
