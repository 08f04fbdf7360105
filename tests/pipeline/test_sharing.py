"""Kernels that several operators read are rewritten for all of them, or for none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt.analysis.snapshot import Analysis
from tests.builders import Net, check, samples


def users(scales: Sequence[float | None], *, ring: bool = False) -> onnx.ModelProto:
    """Convolutions with one kernel, each followed by a Mul by so much, where it is; the others by a Relu."""
    net = Net()
    kernel = net.weights(16, 16, 5, 5)
    if ring:
        kernel[:, :, [0, 4]] = kernel[:, :, :, [0, 4]] = 0
    shared, outputs = net.const(kernel), []
    for number, scale in enumerate(scales):
        y = net.conv(net.input([1, 16, 6, 6], f"x{number}"), 16, weight=shared, bias=False, pads=[2] * 4)
        outputs.append(net.op("Relu", y) if scale is None else net.affine("Mul", y, np.float32(scale)))
    return net.model(*outputs)


def kernels(proto: onnx.ModelProto) -> int:
    return sum(len(tensor.dims) == 4 for tensor in proto.graph.initializer)


@pytest.mark.parametrize("aim", ["time", "macs"])
def test_what_is_the_same_for_all_is_done_once(aim: str) -> None:
    result = check(users([2.0, 2.0, 2.0]), aim=aim, only=["fold_affine"], applied={"fold_affine": 3})
    assert kernels(result.after) == 1


@pytest.mark.parametrize("aim", ["time", "macs"])
@pytest.mark.parametrize("scales", [[2.0, None], [2.0, 2.0, None], [2.0, 3.0, None]])
def test_no_copies_beside_a_kernel_that_stays(scales: list[float | None], aim: str) -> None:
    result = check(users(scales), aim=aim, only=["fold_affine"], applied={})
    assert result.refused("fold_affine", "its weights are shared", "to save 0 MACs")
    assert kernels(result.after) == 1


def test_by_time_no_copies_that_add_much_to_save_nothing() -> None:
    options: dict[str, Any] = {"only": ["fold_affine"]}
    result = check(users([2.0, 3.0, 4.0]), aim="time", applied={}, **options)
    assert result.refused("fold_affine", "its weights are shared", "the aim macs takes it")
    assert kernels(check(users([2.0, 3.0, 4.0]), applied={"fold_affine": 3}, **options).after) == 3


def test_all_users_are_rewritten_together_where_that_saves_mac_operations() -> None:
    result = check(users([None, None, None], ring=True), aim="time", applied={"shrink_kernel": 3}, saves=True)
    assert kernels(result.after) == 1


def test_a_plan_counts_that_a_shared_kernel_stays() -> None:
    analysis = Analysis(ir.from_proto(users([None, None])))
    alone = Analysis(ir.from_proto(users([None])))
    ((one, other), (own,)) = analysis.linears, alone.linears
    assert analysis.own_cost(one).params == analysis.own_cost(other).weight_bytes == 0
    assert alone.own_cost(own).params == own.params > 0


@pytest.mark.parametrize(("part", "layers"), [(0.6, 1), (0.3, 2)])
def test_factors_in_the_place_of_a_shared_kernel_are_counted_and_told(
    part: float, layers: int, tmp_path: Path
) -> None:
    net = Net()
    shared = net.const(net.weights(32, 32, 3, 3))
    first = net.op("Relu", net.conv(net.input([1, 32, 6, 6]), 32, weight=shared))
    before = net.model(net.op("Relu", net.conv(first, 32, weight=shared)))
    result = graphopt.optimize(before, {"macs": part}, samples(8, 32, 6, 6), only=["bottleneck"], force=True)
    result.save(tmp_path / "out.onnx")
    written = sum(int(np.prod(t.dims)) for t in onnx.load(tmp_path / "out.onnx").graph.initializer)
    report, kernel = result.report, 32 * 32 * 9
    assert len(report.applied) == layers
    assert written == report.after.params and report.before.params == kernel + 2 * 32
    costs = [(item.candidate.before.params, item.candidate.after.params) for item in report.applied]
    planned = report.before.params + sum(after - before for before, after in costs)
    assert planned == written + (kernel if layers == 2 else 0)  # no plan counts on the other one
    told = [note for note in report.notes if note.startswith("the weights grow from 37.12 kB to ")]
    assert bool(told) is (written > report.before.params) is (layers == 1)  # two small ones take less
    assert all(note.endswith("a shared kernel became factors in 1 layer") for note in told)
