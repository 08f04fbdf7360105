"""What a file can do to a machine: huge sizes, functions in functions, a process that dies, odd paths."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import graphopt
from graphopt.errors import InputError
from graphopt.files import kind_of
from graphopt.runtime import operator_times
from graphopt.runtime.operator_times import Stopwatch
from tests.builders import classifier, conv_bn, model, node, run, samples, saved
from tests.command import COMMAND, cli

LONG = "n" * 300


# --- the machine --------------------------------------------------------------------------------------------


def test_inputs_beyond_the_memory_are_not_made() -> None:
    size = [1, 8, 1_000_000, 125_000]
    result = graphopt.optimize(conv_bn(inputs={"x": size}, outputs={"y": size}))
    reasons = [each.reason for each in (*result.report.declined, *result.report.rejected)]
    assert not result and any("a map of 1x8x1000000x125000 is too large" in each for each in reasons)
    with pytest.raises(InputError, match=r"its inputs .x of 1x8x1000000x125000. take 3,725"):
        graphopt.verify(conv_bn(inputs={"x": size}), conv_bn(inputs={"x": size}))


def test_memory_says_how_large_inputs_may_be() -> None:
    (first,) = graphopt.optimize(conv_bn(), memory=1000).report.warnings
    assert "its inputs (x of 1x8x8x8) take" in first


def calls(levels: int, each: int) -> onnx.ModelProto:
    """Functions that each call the one before several times."""
    proto = conv_bn(domains=["local"])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    for level in range(levels):
        kind, domain = (f"f{level - 1}", "local") if level else ("Relu", "")
        names = [f"t{i}" for i in range(each + 1)]
        nodes = [helper.make_node(kind, [a], [b], domain=domain) for a, b in pairwise(names)]
        proto.functions.append(
            helper.make_function("local", f"f{level}", names[:1], names[-1:], nodes, opsets)
        )
    proto.graph.node[2].CopyFrom(
        helper.make_node(f"f{levels - 1}", ["n"], ["y"], domain="local", name="call")
    )
    return proto


def test_functions_that_call_functions() -> None:
    assert graphopt.verify(calls(3, 3), graphopt.optimize(calls(3, 3)).model)
    with pytest.raises(InputError, match="call each other until it has 1,000,000,000,002 operators"):
        graphopt.optimize(calls(12, 10))
    with pytest.raises(InputError, match="is one of more than 100 that call each other"):
        graphopt.optimize(calls(150, 1))
    deep = calls(150, 1)
    begun = [helper.make_node(f"f{i}", ["n"], [f"z{i}"], domain="local") for i in range(149)]
    for number, each in enumerate(begun):  # the deepest first
        deep.graph.node.insert(2 + number, each)
    with pytest.raises(InputError, match="is one of more than 100 that call each other"):
        graphopt.optimize(deep)
    proto = calls(2, 1)
    proto.functions[0].node[0].CopyFrom(helper.make_node("f1", ["t0"], ["t1"], domain="local"))
    with pytest.raises(InputError, match="calls itself"):
        graphopt.optimize(proto)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the work is done in a child where there is fork")
@pytest.mark.parametrize(
    ("ending", "says"),
    [
        (f"os.kill(os.getpid(), {int(signal.SIGSEGV)})", "crashed: killed by SIGSEGV"),
        ("os.abort()", "crashed: killed by SIGABRT"),
        (f"os.kill(os.getpid(), {int(signal.SIGKILL)})", "SIGKILL, perhaps for lack of memory"),
        ("os._exit(0)", "crashed: its process ended with code 0"),
    ],
)
def test_a_process_that_a_model_ends_is_told_in_one_line(ending: str, says: str) -> None:
    program = (
        f"import os; from graphopt import __main__ as command; command._run = lambda: {ending}; command.run()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and says in done.stderr


def test_where_children_are_ignored_the_command_runs_all_the_same() -> None:
    program = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
        "os.execv(sys.executable, [sys.executable, '-m', 'graphopt', '--version'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_child_says_is_what_the_command_says(tmp_path: Path) -> None:
    path = saved(conv_bn(), tmp_path / "m.onnx")
    done = subprocess.run(
        [*COMMAND, "optimize", path, "--dry-run", "--json"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["changed"] is True


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["scan", LONG],
        ["optimize", "MODEL", "-o", f"{LONG}.onnx"],
        ["optimize", "MODEL", "-o", "out.onnx", "--report", f"{LONG}.json"],
        ["optimize", "MODEL", "-o", "out.onnx", "--calibration", f"{LONG}.npy"],
        ["optimize", "MODEL", "-o", f"{LONG}/out.onnx"],
        ["batch", "MODEL", "--out-dir", LONG],
        ["batch", LONG, "--dry-run"],
        ["run", LONG],
        ["verify", "MODEL", LONG],
        ["check", LONG],
        ["provenance", LONG],
    ],
    ids=lambda each: " ".join(each)[:40],
)
def test_a_name_that_is_too_long(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(conv_bn(), tmp_path / "MODEL")
    done = cli(*arguments)
    assert done.code == 2 and "name too long" in (done.out + done.err).lower(), done
    assert os.listdir(tmp_path) == ["MODEL"]


@pytest.mark.parametrize("where", ["alone", "in a folder"])
def test_a_pipe_for_calibration_inputs(where: str, tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path / "m.onnx")
    folder = tmp_path / "inputs"
    folder.mkdir()
    os.mkfifo(folder / "a.npy")
    given = folder if where == "in a folder" else folder / "a.npy"
    cli("optimize", path, "--dry-run", "--calibration", given).refused("is not a regular file")


@pytest.mark.parametrize("command", [["run"], ["batch"], ["optimize", "MODEL", "--preprocess"]])
def test_a_pipe_for_a_recipe(command: list[str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.toml")
    path = saved(classifier(), tmp_path / "m.onnx")
    more = ["--dry-run", "--calibration", tmp_path] if "MODEL" in command else []
    done = cli(*(path if each == "MODEL" else each for each in command), tmp_path / "a.toml", *more)
    done.refused("a.toml: is not a regular file")


def test_kinds_of_paths(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    found = [kind_of(tmp_path / name) for name in ("", "file", "pipe", "none", "file/none", "nu\0ll")]
    assert found == ["folder", "file", "other", "", "", ""]


@pytest.mark.parametrize(
    "content",
    ["NaN", "Infinity", "0", "-1", "1e999", '"1"', "null", "[]", "true", f"1{'0' * 400}"],
)
def test_a_remembered_latency_that_is_none_is_measured_again(content: str, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    watch = Stopwatch(path)
    watch.block()
    watch.save()
    (key,) = json.loads(path.read_text())
    path.write_text(f'{{"{key}": {content}}}')
    assert Stopwatch(path).block() in (1, 4, 8, 16)


@pytest.mark.parametrize("content", ["[" * 100_000, "\udc80", "", "7", "pipe"])
def test_a_cache_that_is_none(content: str, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    if content == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(content.encode(errors="surrogateescape"))
    assert Stopwatch(path).block() >= 1


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert operator_times.cache_path() is None


# --- attributes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "attribute", "says"),
    [
        ("Conv", helper.make_attribute("auto_pad", b"\xff\xfe"), "which is no text"),
        ("Cast", helper.make_attribute("to", 2**62), "which is no type of tensors"),
        ("Cast", helper.make_attribute("to", 0), "which is no type of tensors"),
        ("Split", helper.make_attribute("num_outputs", 3), "and it has 2 outputs"),
        ("Conv", onnx.AttributeProto(name="pads", type=onnx.AttributeProto.TENSOR), "has no element type"),
        ("Conv", helper.make_attribute("pads", [1.0]), "is FLOATS, and must be INTS"),
    ],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_an_attribute_of_the_wrong_kind(operator: str, attribute: onnx.AttributeProto, says: str) -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("Cast", "c", "d", to=1),
        node("Split", "d", "e f", axis=1, num_outputs=2),
        node("Add", "e f", "y"),
    ]
    proto = model(nodes, {"w": np.ones((8, 8, 1, 1), np.float32)}, opset=18)
    changed = next(each for each in proto.graph.node if each.op_type == operator)
    kept = [each for each in changed.attribute if each.name != attribute.name]
    del changed.attribute[:]
    changed.attribute.extend([*kept, attribute])
    with pytest.raises(InputError, match=says):
        graphopt.optimize(proto)


@pytest.mark.parametrize("pads", [2**20, 2**40])
def test_pads_beyond_what_a_map_may_have_are_left(pads: int) -> None:
    proto = conv_bn()
    proto.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("pads", [pads] * 4))
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    result = graphopt.optimize(proto)
    assert not [note for note in result.report.notes if "please report" in note]


def test_an_empty_pad_mode_is_none() -> None:
    proto = conv_bn()
    proto.graph.node[0].attribute.append(helper.make_attribute("auto_pad", ""))
    result = graphopt.optimize(proto)
    assert [item.candidate.rewrite for item in result.report.applied] == ["fold_affine"]
    assert run(proto, {"x": samples(1)})[0].shape == (1, 8, 8, 8)
