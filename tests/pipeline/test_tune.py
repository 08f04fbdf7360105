"""Tuning: all weights of a network fitted together to what the original makes of the same inputs."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt import InputError
from graphopt.compression.tuning import checkpoint, descent, student
from graphopt.numerics import optimiser
from graphopt.report import provenance
from graphopt.runtime.limits import memory
from tests.builders import Net, classifier, run, samples, saved
from tests.command import cli

COUNT = 96
NOISE = 0.01
"""What is added to the weights of a network that is to be tuned, as a part of their deviation."""


def network(noise: float = 0.0, *, dtype: Any = np.float32) -> onnx.ModelProto:
    """A small network; with noise, one whose weights were changed."""
    net = Net(dtype=dtype)
    x = net.op("Relu", net.conv(net.input([None, 4, 8, 8]), 8, pads=[1] * 4))
    x = net.op("Add", x, net.op("Relu", net.conv(x, 8, group=8, pads=[1] * 4)))
    x = net.op("Relu", net.conv(x, 8, (1, 1)))
    return noisy(net.model(net.gemm(net.op("Flatten", net.op("GlobalAveragePool", x)), 5)), noise)


def noisy(proto: onnx.ModelProto, noise: float) -> onnx.ModelProto:
    """A network whose weights were changed by so much."""
    rng = np.random.default_rng(5)
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        moved = array + noise * array.std() * rng.standard_normal(array.shape)
        tensor.CopyFrom(onnx.numpy_helper.from_array(moved.astype(array.dtype), tensor.name))
    return proto


def inputs(count: int = COUNT, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((count, 4, 8, 8)).astype(np.float32)}


def distance(model: Any, seed: int = 9) -> float:
    """Of what a network makes of other inputs from what the original does, in parts of its variance."""
    model = ir.to_proto(model) if isinstance(model, ir.Model) else model
    wanted, made = (run(each, inputs(256, seed))[0] for each in (network(), model))
    return float((np.square(made - wanted).mean(axis=0) / wanted.var(axis=0)).mean())


def tuned(candidate: Any = None, steps: int = 150, **asked: Any) -> Any:
    given = network(NOISE) if candidate is None else candidate
    return graphopt.tune(network(), given, inputs(), steps=steps, **asked)


@pytest.fixture(scope="module")
def found() -> Any:
    return tuned()


def test_a_network_comes_nearer_to_the_original(found: Any) -> None:
    assert found and found.kept
    assert distance(found.model) < 0.5 * distance(network(NOISE))
    assert found.after.sqnr > found.before.sqnr + 3
    assert found.tuning.best > 0 and found.tuning.steps == 150


def test_only_numbers_change(found: Any) -> None:
    before, after = network(NOISE), found.model
    assert [node.op_type for node in after.graph] == [node.op_type for node in before.graph.node]
    held = {tensor.name: tensor for tensor in before.graph.initializer}
    assert set(after.graph.initializers) == set(held)
    for name, value in after.graph.initializers.items():
        assert value.const_value is not None
        old = onnx.numpy_helper.to_array(held[name])
        assert value.const_value.numpy().shape == old.shape and value.const_value.dtype.numpy() == old.dtype
    assert found.tuning.weights == sum(onnx.numpy_helper.to_array(t).size for t in held.values())


def test_what_was_given_stays_as_it_was() -> None:
    given = network(NOISE)
    before = given.SerializeToString()
    tuned(given)
    assert given.SerializeToString() == before


def test_the_same_steps_and_seed_give_the_same_network(tmp_path: Path, found: Any) -> None:
    again, other = tuned(), tuned(seed=1)
    for name, each in (("one", found), ("again", again), ("other", other)):
        each.save(tmp_path / name)
    one, same, different = ((tmp_path / name).read_bytes() for name in ("one", "again", "other"))
    assert one == same != different


def test_inputs_apart_and_held_out_are_none_that_steps_are_taken_on(found: Any) -> None:
    assert found.tuning.fitted + found.tuning.apart + found.after.samples == COUNT
    assert found.after.samples == COUNT // 4


def test_values_on_the_way_lead_too(found: Any) -> None:
    assert found.tuning.led_by[0] == network().graph.output[0].name
    assert len(found.tuning.led_by) > 3


def test_a_network_that_is_not_improved_is_written_as_it_was(tmp_path: Path) -> None:
    path = saved(network(), tmp_path / "model.onnx")
    result = graphopt.tune(path, path, inputs(), steps=100)
    assert not result and result.after == result.before
    result.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()


def test_only_weights_that_are_named_move(found: Any) -> None:
    result = tuned(weights=["w7", "w8"])
    moved = [
        name
        for name, value in result.model.graph.initializers.items()
        if not np.array_equal(value.const_value.numpy(), held(network(NOISE), name))
    ]
    assert moved and set(moved) <= {"w7", "w8"}
    assert result.tuning.weights < found.tuning.weights


def held(proto: onnx.ModelProto, name: str) -> np.ndarray:
    return next(onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == name)


def test_weights_of_constant_nodes_move_too() -> None:
    given = network(NOISE)
    tensors = list(given.graph.initializer)
    nodes = [onnx.helper.make_node("Constant", [], [t.name], value=t) for t in tensors] + list(
        given.graph.node
    )
    del given.graph.initializer[:], given.graph.node[:]
    given.graph.node.extend(nodes)
    result = tuned(given)
    assert result and distance(result.model) < 0.5 * distance(network(NOISE))


def test_inputs_that_a_model_takes_one_by_one_are_steps_of_several() -> None:
    fixed = [network(noise) for noise in (0.0, NOISE)]
    for each in fixed:
        each.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    result = graphopt.tune(*fixed, inputs(), steps=100)
    assert result and result.tuning.batch == descent.BATCH


def pictures(noise: float = 0.0) -> onnx.ModelProto:
    """A small network that takes pictures, whose classes stay when these are mirrored or moved."""
    net = Net()
    x = net.op("Relu", net.conv(net.input([None, 3, 16, 16]), 6, pads=[1] * 4, bias=True))
    x = net.op("Relu", net.conv(x, 6, (1, 1)))
    proto = net.model(net.gemm(net.op("Flatten", net.op("GlobalAveragePool", x)), 4))
    return noisy(proto, noise)


Step = tuple[np.ndarray, dict[str, np.ndarray]]
"""The inputs of a step, sorted, and the derivative that it goes by."""


def steps_of(monkeypatch: pytest.MonkeyPatch, memory: int | None) -> tuple[Any, int, list[Step]]:
    """A network that was tuned with so much memory, the inputs that were run at once, and its steps."""
    at_once, fed, steps = set[int](), list[dict[str, np.ndarray]](), list[Step]()
    derivative, step = student.Student.derivative, optimiser.Soap.step

    def seen(self: student.Student, weights: Any, feeds: Any, targets: Any) -> Any:
        at_once.add(len(feeds["x"]))
        fed.append(feeds)
        return derivative(self, weights, feeds, targets)

    def taken(self: optimiser.Soap, weights: Any, gradients: Any, rate: float) -> None:
        together = np.concatenate([feeds["x"].reshape(-1, 768) for feeds in fed])
        fed.clear()
        steps.append((together[np.lexsort(together.T)], dict(gradients)))
        step(self, weights, gradients, rate)

    x = np.random.default_rng(0).standard_normal((COUNT, 3, 16, 16)).astype(np.float32)
    with monkeypatch.context() as patch:
        patch.setattr(student.Student, "derivative", seen)
        patch.setattr(optimiser.Soap, "step", taken)
        found = graphopt.tune(pictures(), pictures(NOISE), {"x": x}, steps=100, memory=memory)
    (each,) = at_once
    return found, each, steps


def test_memory_changes_no_step_but_by_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    much, little = (steps_of(monkeypatch, room) for room in (None, 200_000))
    assert little[1] < much[1] == 8 and little[0].tuning.batch == much[0].tuning.batch == descent.BATCH
    assert much[0].tuning.changes and little[0].tuning.apart == much[0].tuning.apart
    assert len(little[2]) == len(much[2]) == 100
    for (fed, _), (other, _) in zip(little[2], much[2], strict=True):
        np.testing.assert_array_equal(fed, other)
    for name, whole in much[2][0][1].items():
        parts = little[2][0][1][name]
        assert whole.any()
        np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-4 * np.abs(whole).max(), err_msg=name)


def test_the_machine_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: Any) -> None:
    monkeypatch.setattr(memory, "machine_bytes", lambda: 1 << 20)
    tuned().save(tmp_path / "small")
    found.save(tmp_path / "large")
    assert (tmp_path / "small").read_bytes() == (tmp_path / "large").read_bytes()


def test_parts_of_a_step_are_run_beside_each_other(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    both = threading.Barrier(descent.THREADS, timeout=30)
    derivative = student.Student.derivative

    def meeting(self: student.Student, *given: Any) -> Any:
        both.wait()
        return derivative(self, *given)

    monkeypatch.setattr(student.Student, "derivative", meeting)
    assert tuned().tuning.curve == found.tuning.curve


def test_a_rate_that_is_too_high_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "RATE", 10.0)
    result = tuned()
    assert result.tuning.rate < 1.0
    assert result.after.sqnr >= result.before.sqnr


# ---------------------------------------------------------------- a run that is ended


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ends the next run by Ctrl-C in the middle of a step, behind a checkpoint of each one before."""
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    derivative = student.Student.derivative

    def at(step: int) -> None:
        parts = BATCHES * step

        def counting(self: student.Student, *given: Any) -> Any:
            nonlocal parts
            parts -= 1
            if parts == -1:
                raise KeyboardInterrupt
            return derivative(self, *given)

        monkeypatch.setattr(student.Student, "derivative", counting)

    return at


BATCHES = descent.BATCH // 8
"""Parts of a step, of eight inputs each."""


def test_a_run_that_was_ended_goes_on_to_the_same_network(tmp_path: Path, found: Any, ended: Any) -> None:
    kept = tmp_path / "run.npz"
    for step in (70, 40):  # of a rate that stays, and once more behind that
        ended(step)
        with pytest.raises(KeyboardInterrupt):
            tuned(resume=kept)
    with pytest.raises(InputError, match=r"run.npz: is the checkpoint of a run with other models"):
        tuned(resume=kept, seed=1)
    result = tuned(resume=kept)
    assert any(note == f"went on from step 110, as {kept} had it" for note in result.notes)
    assert not kept.exists()
    found.save(tmp_path / "whole.onnx")
    result.save(tmp_path / "parts.onnx")
    assert (tmp_path / "whole.onnx").read_bytes() == (tmp_path / "parts.onnx").read_bytes()
    assert result.tuning.curve == found.tuning.curve


def test_a_run_whose_rate_was_cut_goes_on_too(
    tmp_path: Path, ended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descent, "RATE", 1.0)
    whole = tuned()
    ended(60)
    with pytest.raises(KeyboardInterrupt):
        tuned(resume=tmp_path / "run.npz")
    result = tuned(resume=tmp_path / "run.npz")
    assert result.tuning.curve == whole.tuning.curve and result.tuning.rate == whole.tuning.rate


def test_minutes_that_were_steps_stay_so_many(tmp_path: Path, ended: Any) -> None:
    ended(80)
    asked: dict[str, Any] = {"steps": None, "minutes": 0.01, "resume": tmp_path / "run.npz"}
    with pytest.raises(KeyboardInterrupt):
        tuned(**asked)
    with np.load(tmp_path / "run.npz") as held:
        steps = json.loads(held["state"].tobytes())["steps"]
    assert tuned(**asked).tuning.steps == steps


def test_the_best_so_far_is_kept_when_that_is_asked_for(ended: Any, found: Any) -> None:
    ended(100)
    result = tuned(keep_best=True)
    assert result and result.tuning.ended == 100 and result.tuning.best <= 100
    assert "ended by Ctrl-C after 100 of 150 steps" in result.notes
    assert recorded(result)["tune"] == {"steps": 150, "seed": 0, "ended": 100}
    assert result.tuning.curve == found.tuning.curve[: len(result.tuning.curve)]
    ended(3)
    with pytest.raises(KeyboardInterrupt):
        tuned(keep_best=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is no checkpoint"), (b"PK\x03\x04", "is no checkpoint"), (None, "is a folder")],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "run.npz"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        tuned(resume=path)


def test_a_checkpoint_takes_no_models_place(tmp_path: Path) -> None:
    path = saved(network(NOISE), tmp_path / "model.onnx")
    with pytest.raises(InputError, match="name another output"):
        graphopt.tune(network(), path, inputs(), steps=100, resume=path)
    with pytest.raises(InputError, match="expected a path"):
        tuned(resume=3)


def test_minutes_become_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    result = graphopt.tune(network(), network(NOISE), inputs(), minutes=0.02)
    assert result.tuning.steps >= 100


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"steps": 10}, "at least 100"),
        ({"minutes": 0}, "above 0"),
        ({"minutes": 1, "steps": 100}, "name one"),
        ({"weights": ["nothing*"]}, "no float32 weight"),
    ],
)
def test_what_can_not_be_done_is_said(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        graphopt.tune(network(), network(NOISE), inputs(), **asked)


def test_too_few_inputs_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"^tuning: 9 inputs of one size to fit on are too few .* give 22, of which one"
    ):
        graphopt.tune(network(), network(NOISE), inputs(12), steps=100)


def test_the_command_and_the_option_speak_of_tuning(tmp_path: Path) -> None:
    path = saved(network(), tmp_path / "model.onnx")
    np.savez(tmp_path / "few.npz", **inputs(12))
    asked = ("-o", tmp_path / "out.onnx", "--calibration", tmp_path / "few.npz")
    cli("tune", path, path, *asked).refused("tuning: 9 inputs")
    cli("optimize", path, *asked, "--budget", "macs=0.6", "--tune", "auto", "--force").refused(
        "tuning: 9 inputs"
    )


def old(noise: float, opset: int) -> onnx.ModelProto:
    """A network of an old operator set, whose weights are inputs too."""
    net = Net(opset, ir_version=3)
    x = net.op("Relu", net.conv(net.input([None, 4, 8, 8]), 8, pads=[1] * 4))
    return noisy(net.model(net.op("Flatten", net.op("GlobalAveragePool", net.conv(x, 8, (1, 1))))), noise)


def test_weights_that_an_old_format_lists_among_the_inputs_move() -> None:
    result = graphopt.tune(old(0.0, 7), old(NOISE, 7), inputs(), steps=100)
    assert result and result.after.sqnr > result.before.sqnr + 3


def test_why_no_weight_has_a_derivative_is_said() -> None:
    with pytest.raises(InputError, match="operator set 6, and derivatives are made from 7 on"):
        graphopt.tune(old(0.0, 6), old(NOISE, 6), inputs(), steps=100)
    net = Net()
    x = net.op("Flatten", net.op("GlobalAveragePool", net.conv(net.input([None, 4, 8, 8]), 8)))
    hard = net.model(net.op("Hardmax", x))
    with pytest.raises(InputError, match="no rule leads through Hardmax"):
        graphopt.tune(hard, hard, inputs(), steps=100)


def gated(noise: float) -> onnx.ModelProto:
    """A network in which nothing leads back through a choice, with a bias behind a product."""
    net = Net()
    x = net.op("Hardmax", net.conv(net.input([None, 4, 8, 8]), 8), axis=1)
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    x = net.op("MatMul", x, net.const(net.weights(8, 5)))
    return noisy(net.model(net.op("Add", x, net.const(net.normal(5)))), noise)


def branched(noise: float) -> onnx.ModelProto:
    """A network with a choice in the middle, whose bodies read what a convolution makes."""
    net = Net()
    x = net.conv(net.input([None, 4, 8, 8]), 8, (1, 1))
    bodies = {}
    for key, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        made = onnx.helper.make_tensor_value_info(op, onnx.TensorProto.FLOAT, None)
        bodies[key] = onnx.helper.make_graph([onnx.helper.make_node(op, [x], [op])], op, [], [made])
    y = net.op("If", net.op("Greater", net.op("ReduceMax", x, keepdims=0), net.const(-99.0)), **bodies)
    y = net.op("Flatten", net.op("GlobalAveragePool", y))
    return noisy(net.model(net.op("MatMul", y, net.const(net.weights(8, 5)))), noise)


def test_what_stands_behind_a_body_is_tuned_and_the_rest_told() -> None:
    result = graphopt.tune(branched(0.0), branched(NOISE), inputs(), steps=100)
    assert result and (result.tuning.weights, result.tuning.still) == (8 * 5, 2)
    assert "2 weights could not be tuned: no rule leads through If" in result.notes


def test_weights_that_can_not_move_are_told() -> None:
    result = graphopt.tune(gated(0.0), gated(NOISE), inputs(), steps=100)
    assert (result.tuning.weights, result.tuning.still) == (8 * 5 + 5, 2)
    assert "2 weights could not be tuned: no rule leads through Hardmax" in result.notes


def test_half_precision_is_refused() -> None:
    half = network(dtype=np.float16)
    given = {"x": inputs()["x"].astype(np.float16)}
    with pytest.raises(InputError, match="float16"):
        graphopt.tune(half, half, given, steps=100)


def test_other_inputs_or_outputs_are_refused() -> None:
    other = Net()
    with pytest.raises(InputError, match="can't be tuned"):
        graphopt.tune(
            network(), other.model(other.op("Relu", other.input([1, 4, 8, 8]))), inputs(), steps=100
        )


# ---------------------------------------------------------------- the command, and as a part of optimize


def test_the_command_writes_the_network_and_says_what_it_did(tmp_path: Path) -> None:
    models = [saved(network(noise), tmp_path / f"{noise}.onnx") for noise in (0.0, NOISE)]
    np.savez(tmp_path / "inputs.npz", **inputs())
    asked = ("--calibration", tmp_path / "inputs.npz", "--steps", 120, "-q")
    ran = cli("tune", *models, "-o", tmp_path / "out.onnx", *asked).fine()
    assert "tuned: SQNR" in ran.out and "held-out" in ran.out
    assert distance(tmp_path / "out.onnx") < distance(models[1])
    document = json.loads(cli("tune", *models, "-o", tmp_path / "two.onnx", *asked, "--json").fine().out)
    assert document["kept"] and document["tuning"]["steps"] == 120
    assert document["after"]["sqnr"] > document["before"]["sqnr"]
    assert (tmp_path / "two.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()
    records = provenance.read({p.key: p.value for p in onnx.load(tmp_path / "out.onnx").metadata_props})
    assert records[-1].options["tune"] == {"steps": 120, "seed": 0}


def test_the_network_tells_all_that_decided_its_numbers() -> None:
    asked: dict[str, Any] = {"weights": ["w7", "w[18]"], "outputs": ["t10:1"], "sample_axis": {"x": 0}}
    record = recorded(tuned(**asked, memory=200_000))
    assert record["weights"] == ["w7", "w[18]"]
    assert (record["outputs"], record["sample_axis"], record["memory"]) == (["t10:1"], {"x": 0}, 200_000)
    plain = recorded(tuned())
    assert set(plain) == {"tune", "reference", "calibration"}


def test_memory_is_told_where_weights_were_tuned() -> None:
    asked: dict[str, Any] = {"calibration": samples(256), "aim": "macs", "force": True, "memory": 1 << 29}
    budget = {"macs": 0.8}
    assert "memory" not in recorded(graphopt.optimize(classifier(), budget, **asked))
    assert recorded(graphopt.optimize(classifier(), budget, **asked, tune="steps=100"))["memory"] == 1 << 29


def recorded(result: Any) -> Any:
    """What the last record of a result's model says of what was asked for."""
    return provenance.read(dict(result.model.metadata_props))[-1].options


def test_the_command_needs_inputs_and_an_output(tmp_path: Path) -> None:
    path = saved(network(), tmp_path / "model.onnx")
    np.savez(tmp_path / "inputs.npz", **inputs())
    cli("tune", path, path, "-o", tmp_path / "o.onnx").refused("--calibration")
    cli("tune", path, path, "--calibration", tmp_path / "inputs.npz").refused("-o OUT")
    cli("tune", path, path, "-o", path, "--calibration", tmp_path / "inputs.npz").refused(
        "name another output"
    )


def test_a_budget_may_be_followed_by_tuning() -> None:
    asked: dict[str, Any] = {"budget": {"macs": 0.8}, "calibration": samples(256), "aim": "macs"}
    plain = graphopt.optimize(classifier(), **asked, force=True)
    result = graphopt.optimize(classifier(), **asked, force=True, tune="steps=150")
    assert result.report.tuning is not None and result.report.tuning.steps == 150
    assert result.report.after.macs == plain.report.after.macs
    assert result.report.quality is not None and plain.report.quality is not None
    assert (result.report.quality.sqnr or 0) > (plain.report.quality.sqnr or 0)
    assert any(note.startswith("tuned by 150 steps") for note in result.report.notes)


NEAR = """
import numpy as np
import onnxruntime as ort

def to_plain(path):
    given, plain = np.load("given.npy"), np.load("plain.npy")
    found = ort.InferenceSession(path).run(None, {"x": given})[0]
    return -float(np.abs(found - plain).max())
"""
"""A measure by which nothing is as good as the network that is not tuned."""


def test_what_was_asked_for_and_kept_stays_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = samples(256)
    asked: dict[str, Any] = {"calibration": given, "aim": "macs", "force": True}
    plain = graphopt.optimize(classifier(), {"macs": 0.8}, **asked)
    plain.save("plain.onnx")
    np.save("given.npy", given[:16])
    np.save("plain.npy", run(Path("plain.onnx"), {"x": given[:16]})[0])
    Path("near_to_plain.py").write_text(NEAR)
    asked |= {"metric": "near_to_plain:to_plain", "tune": "steps=150"}
    kept = graphopt.optimize(classifier(), {"macs": 0.8, "metric": -1e-3}, **asked)
    (note,) = (each for each in kept.report.notes if each.startswith("tuning by 150 steps"))
    assert "was left out: without it the network keeps what was asked for: metric -" in note
    assert all(kept.report.budget)
    assert kept.report.quality == plain.report.quality
    free = graphopt.optimize(classifier(), {"macs": 0.8}, **asked)
    assert any(note.startswith("tuned by 150 steps") for note in free.report.notes)
    assert free.report.metric.after < -1e-3


@pytest.mark.parametrize("asked", ["none", "steps=3", "-1", "steps=x"])
def test_how_long_is_checked(asked: str) -> None:
    with pytest.raises(InputError, match="expected minutes, auto"):
        graphopt.optimize(network(), {"macs": 0.6}, inputs(), tune=asked)


def test_tuning_follows_a_budget() -> None:
    with pytest.raises(InputError, match="budget"):
        graphopt.optimize(network(), tune="auto")
