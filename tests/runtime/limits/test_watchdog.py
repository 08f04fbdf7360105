"""Runs of models that come to no end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt.errors import InputError, TooLongError
from graphopt.runtime import session
from graphopt.runtime.limits import watchdog
from tests.builders import conv_bn, info, node, samples


def endless(*, batch: int | str = 1) -> onnx.ModelProto:
    """A convolution and a BatchNormalization, then a Loop whose condition stays true."""
    shape = [batch, 8, 8, 8]
    proto = conv_bn(inputs={"x": shape}, outputs={"y": shape})
    flag = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("c", "d")]
    number = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    body = helper.make_graph(
        [node("Identity", "c", "d"), node("Relu", "a", "b")],
        "body",
        [number, flag[0], info("a", shape)],
        [flag[1], info("b", shape)],
    )
    proto.graph.node[-1].CopyFrom(helper.make_node("Loop", ["", "on", "n"], ["y"], body=body))
    proto.graph.initializer.append(helper.make_tensor("on", TensorProto.BOOL, [], [True]))
    return proto


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "RUN_SECONDS", 0.3)
    monkeypatch.setattr(watchdog, "OFTEN", 0.05)


def test_a_run_without_an_end_is_ended() -> None:
    running = session.session(session.structure(ir.from_proto(endless())), optimised=False)
    with pytest.raises(TooLongError, match=r"stopped after 0.3 s at a single run"):
        session.run(running, {"x": samples(1)})


def test_a_run_that_ends_is_not_touched() -> None:
    running = session.session(session.structure(ir.from_proto(conv_bn())), optimised=False)
    begun = time.monotonic()
    while time.monotonic() - begun < 1:
        assert np.isfinite(session.run(running, {"x": samples(1)})[0]).all()
    with pytest.raises(InputError) as caught:
        session.run(running, {"x": samples(1)[:, :3]})
    assert not isinstance(caught.value, TooLongError)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes can't be stopped here")
def test_time_in_which_the_process_is_stopped_does_not_count() -> None:
    script = """
import time
from graphopt.runtime.limits import watchdog
watchdog.RUN_SECONDS, watchdog.OFTEN = 2.0, 0.05
with watchdog.limited() as options:
    print("runs", flush=True)
    time.sleep(0.5)
    print(options.terminate, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "runs\n"
    child.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    child.send_signal(signal.SIGCONT)
    assert child.communicate(timeout=60)[0] == "False\n"


@pytest.mark.parametrize("batch", [1, "N"])
def test_a_model_without_an_end_is_verified_by_its_regions(batch: int | str) -> None:
    begun = time.monotonic()
    result = graphopt.optimize(endless(batch=batch))
    assert [item.candidate.rewrite for item in result.report.applied] == ["fold_affine"]
    (warning,) = result.report.warnings
    assert "the whole model was not run" in warning and "single run" in warning
    assert time.monotonic() - begun < 10
