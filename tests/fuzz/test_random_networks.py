"""Random small networks under budgets run at every size, and their reports say what is measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

import graphopt
from tests.builders import classifier, samples
from tests.fuzz import networks

NETWORKS = 12
"""As many as take a few seconds; `benchmarks.fuzz` runs them by the thousand."""


@pytest.mark.parametrize("seed", range(NETWORKS))
def test_random_networks(seed: int) -> None:
    found = networks.check(seed)
    assert not found.fault, f"{found.kind}: {found.detail}"


def test_wrong_reports_are_seen() -> None:
    model, inputs, options = classifier(), {"x": samples(16)}, {"budget": {"macs": 0.7}, "seed": 0}
    result = graphopt.optimize(model, calibration=inputs, **options)
    assert networks.compare(model, result, inputs, options, 0) is None
    quality = result.report.quality
    assert quality is not None
    flattered = dataclasses.replace(quality, sqnr=quality.sqnr + 1)
    odd = dataclasses.replace(result, report=dataclasses.replace(result.report, quality=flattered))
    found = networks.compare(model, odd, inputs, options, 0)
    assert found is not None
    assert found.kind == "misreported"
    assert "SQNR" in found.detail


def test_results_that_do_not_run_are_seen() -> None:
    model, inputs = classifier(), {"x": samples(16)}
    result = graphopt.optimize(model, {"macs": 0.7}, calibration=inputs)
    broken = ir.to_proto(result.model)
    for node in broken.graph.node:
        if node.op_type == "Gemm":
            node.input[0] = "x"
    odd = dataclasses.replace(result, model=ir.from_proto(broken))
    found = networks.compare(model, odd, inputs, {"seed": 0}, 0)
    assert found is not None
    assert found.kind == "fails"


def test_sqnr_is_that_of_all_arrays_together() -> None:
    one, other = np.array([[3.0, 40.0]], np.float32), np.array([[5.0, 40.0]], np.float32)
    off = one + np.array([[0.5, 0.0]], np.float32)
    assert networks.sqnr([(one, off), (other, other)]) == pytest.approx(
        -10 * np.log10(0.125 / 2 / 2), rel=1e-5
    )
    assert networks.sqnr([(one, one), (other, other)]) == np.inf
