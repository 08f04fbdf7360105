"""Samples in the arrays that a caller gives: scalars, states, inputs without a batch, and several sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration import inputs as calibration_inputs
from graphopt.calibration import inspection, patches, statistics
from graphopt.calibration.samples import Samples
from graphopt.errors import InputError
from tests.builders import Array, info, model, parsed, samples, weight

X = samples(12, 3, 8, 8)
LEVELS = np.linspace(0.5, 2, 12, dtype=np.float32)
LAYERS = ("c = Conv <pads=[1, 1, 1, 1]> (x, w)", "r = Relu (c)", "d = Conv <pads=[1, 1, 1, 1]> (r, v)")
WEIGHTS = {"w": weight(24, 3, 3, 3), "v": weight(24, 24, 3, 3, seed=1)}


def network(
    *lines: str, inputs: Mapping[str, Any], dtype: Mapping[str, Any] | None = None
) -> onnx.ModelProto:
    """Two layers that can be cut, and other operators behind them."""
    kinds = dtype or {}
    made = [info(name, shape, kinds.get(name, np.float32)) for name, shape in inputs.items()]
    return model(parsed(*LAYERS, *lines), WEIGHTS, inputs=made)


def levelled(batch: int | str = 1) -> onnx.ModelProto:
    """A model of a picture and a scalar."""
    return network("y = Mul (d, level)", inputs={"x": [batch, 3, 8, 8], "level": []})


def read(given: Any, proto: onnx.ModelProto) -> tuple[Samples, int | None]:
    return calibration_inputs.read(given, ir.from_proto(proto))


def one_by_one(found: Samples, name: str) -> list[Any]:
    return [array.tolist() for array in found.arrays(name)]


# --- forms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, "n"])
def test_a_scalar_is_given_once_for_each_sample_or_once_for_all(batch: int | str) -> None:
    each, at_once = read({"x": X, "level": LEVELS}, levelled(batch))
    assert at_once == 1 and one_by_one(each, "level") == LEVELS.tolist()
    assert all(feed["x"].shape == (1, 3, 8, 8) and feed["level"].shape == () for feed in each.feeds)
    for shared in (np.float32(1.5), np.array(1.5)):
        every, _ = read({"x": X, "level": shared}, levelled(batch))
        assert one_by_one(every, "level") == [1.5] * 12
        assert np.array_equal(np.concatenate(every.arrays("x")), X)


def test_a_folder_holds_a_sample_or_some_in_each_file_and_a_list_likewise(tmp_path: Path) -> None:
    for i in range(12):
        np.savez(tmp_path / f"{i:02}.npz", x=X[i : i + 1], level=LEVELS[i])
    listed = [{"x": X[i : i + 3], "level": LEVELS[i : i + 3]} for i in range(0, 12, 3)]
    for given in (tmp_path, listed, tuple(listed)):
        found, _ = read(given, levelled())
        assert one_by_one(found, "level") == LEVELS.tolist()
        assert np.array_equal(np.concatenate(found.arrays("x")), X)


STATE = samples(24, 5, seed=2).reshape(2, 12, 5)


def recurrent(states: tuple[int | str, ...], batch: int | str = "n") -> onnx.ModelProto:
    lines = ("p = GlobalAveragePool (d)", "s = ReduceSum (h)", "y = Mul (p, s)")
    return network(*lines, inputs={"x": [batch, 3, 8, 8], "h": list(states)})


def test_a_state_has_its_samples_on_the_axis_with_the_name_of_the_batch() -> None:
    found, at_once = read({"x": X, "h": STATE}, recurrent((2, "n", 5)))
    assert at_once is None and len(found) == 12
    assert np.array_equal(found.feeds[3]["h"], STATE[:, 3:4])
    assert np.array_equal(found[2:7].joined()["h"], STATE[:, 2:7])
    first, _ = read({"x": X, "h": STATE[:, :1]}, recurrent((2, "n", 5)))
    assert np.array_equal(first[2:7].joined()["h"], np.repeat(STATE[:, :1], 5, axis=1))


@pytest.mark.parametrize("batch", [1, "n"])
def test_a_state_of_fixed_sizes_is_given_once_or_with_an_axis_more(batch: int | str) -> None:
    proto = recurrent((2, 1, 5), batch)
    same, at_once = read({"x": X, "h": STATE[:, :1]}, proto)
    assert at_once == 1 and one_by_one(same, "h") == [STATE[:, :1].tolist()] * 12
    stacked = np.moveaxis(STATE, 1, 0)[:, :, None]
    each, at_once = read({"x": X, "h": stacked}, proto)
    assert at_once == 1 and np.array_equal(each.feeds[5]["h"], STATE[:, 5:6])


def test_an_input_that_takes_several_samples_at_once_is_cut_by_rows_or_by_runs() -> None:
    rows, at_once = read({"x": X, "level": np.float32(2)}, levelled(4))
    assert (len(rows), at_once) == (12, 4) and rows[4:8].joined()["x"].shape == (4, 3, 8, 8)
    runs, at_once = read({"x": X, "level": LEVELS[:3]}, levelled(4))
    assert (len(runs), at_once) == (3, 1) and np.array_equal(runs.feeds[1]["x"], X[4:8])


def test_an_axis_that_another_input_has_further_back_is_no_batch() -> None:
    proto = network("k = Cast <to=1> (m)", "y = Mul (d, k)", inputs={"x": ["n", 3, 8, "t"], "m": ["t"]})
    found, _ = read({"x": X, "m": np.ones(8, np.float32)}, proto)
    assert len(found) == 12 and found.feeds[0]["m"].shape == (8,)


def test_feeds_of_several_sizes_are_run_one_by_one() -> None:
    sizes = [(8, 8), (8, 12), (16, 8), (8, 8)]
    given = [{"x": samples(1, 3, *size, seed=i)} for i, size in enumerate(sizes)]
    proto = network("y = Identity (d)", inputs={"x": ["n", 3, "h", "w"]})
    found, at_once = read(given, proto)
    assert at_once == 1 and [array.shape[2:] for array in found.arrays("x")] == sizes
    assert found.usual["x"].shape == (1, 3, 8, 8) and len(found.of_one_size) == 2
    channels = [{"x": samples(1, count, 9, 9)} for count in (4, 3)]
    anything = network("y = Identity (x)", inputs={"x": ["n", "c", 9, 9]})
    assert not list(inspection.doubts(read(channels, anything)[0]))
    points = network("s = ReduceSum (p)", "y = Mul (d, s)", inputs={"x": ["n", 3, 8, 8], "p": ["k", 2]})
    uneven = [{"x": X[i : i + 1], "p": samples(3 + i, 2, seed=i)} for i in range(4)]
    assert [len(array) for array in read(uneven, points)[0].arrays("p")] == [3, 4, 5, 6]
    even = [{"x": X[i : i + 2], "p": STATE[0, i : i + 2, :2]} for i in (0, 2)]
    assert [len(array) for array in read(even, points)[0].arrays("p")] == [1, 1, 1, 1]
    with pytest.raises(InputError, match="different numbers of samples"):
        read({"x": X, "p": STATE[0, :5, :2]}, points)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"x": X, "level": np.ones((12, 2), np.float32)},
         "has shape [12, 2], the model takes []: give [N] for N samples, or [] for one that all share"),
        ({"x": X[:, 0], "level": LEVELS},
         "input 'x' has shape [12, 8, 8], the model takes [1, 3, 8, 8]: give [N, 3, 8, 8] for N samples"),
        ({"x": X, "level": LEVELS[:5]},
         "of samples: {'x': 12, 'level': 5} ('x' takes [N, 3, 8, 8] for N samples; 'level' takes [N]"),
        ({"x": X[:0], "level": LEVELS[:0]}, "array for input 'x' holds no samples"),
        ([{"x": X[:1], "level": LEVELS[0]}, {"x": X[1:2]}], "calibration[1]: no array for the model's input"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_a_form_that_does(given: Any, says: str) -> None:
    with pytest.raises(InputError) as failure:
        read(given, levelled())
    assert says in str(failure.value)


def test_a_form_is_named_for_states_too() -> None:
    with pytest.raises(InputError) as failure:
        read({"x": X, "h": STATE[0]}, recurrent((2, "n", 5)))
    assert "takes [2, n, 5]: give [2, N, 5] or [N, 2, n, 5] for N samples, or [2, n, 5]" in str(failure.value)


# --- what is measured on them -------------------------------------------------------------------------------


def test_a_budget_of_a_model_with_a_scalar_and_a_state() -> None:
    lines = ("s = ReduceSum (h)", "m = Mul (d, s)", "y = Mul (m, level)")
    proto = network(*lines, inputs={"x": [1, 3, 8, 8], "level": [], "h": [2, 1, 5]})
    given = {"x": X, "level": LEVELS, "h": STATE[:, :1]}
    report = graphopt.optimize(proto, {"macs": 0.8}, given, only=["bottleneck"]).report
    assert report.quality is not None and report.quality.sqnr is not None and report.quality.samples == 3
    assert report.quality.sqnr > 5 and (report.after.macs or 0) <= 0.8 * (report.before.macs or 0)


def test_a_sampling_rate_is_never_another_one() -> None:
    """The model runs at one rate alone: at others a Reshape has no room for its elements."""
    lines = (
        "q = Div (rate, unit)",
        "o = Reshape (q, one)",
        "t = Concat <axis=0> (head, o)",
        "y = Reshape (d, t)",
    )
    proto = network(*lines, inputs={"x": [1, 3, 8, 8], "rate": []}, dtype={"rate": np.int64})
    for name, array in {"unit": np.int64(250), "one": np.array([1]), "head": np.array([1, 24])}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    given = {"x": X, "rate": np.int64(16000)}
    report = graphopt.optimize(proto, {"macs": 0.8}, given, only=["bottleneck"]).report
    assert report.quality is not None and (report.quality.sqnr or 0) > 5 and not report.unrun


def test_a_budget_on_inputs_of_several_sizes() -> None:
    proto = network("y = Relu (d)", inputs={"x": ["n", 3, "h", "w"]})
    sizes = [(8, 8), (8, 12), (16, 8)] * 6
    given = [{"x": samples(1, 3, *size, seed=i)} for i, size in enumerate(sizes)]
    found = graphopt.optimize(proto, {"macs": 0.8}, given, only=["bottleneck"])
    assert found.report.quality is not None and (found.report.quality.sqnr or 0) > 5
    assert found.report.quality.samples == 4
    assert any(
        "of several sizes, and costs are counted at 'x' of [1, 3, " in note for note in found.report.notes
    )


def test_patches_at_other_sizes_have_the_pads_of_those_sizes() -> None:
    lines = ('y = Conv <auto_pad="SAME_UPPER", strides=[2, 2]> (x, w)',)
    network = ir.from_proto(model(parsed(*lines), {"w": WEIGHTS["w"]}, inputs={"x": ["n", 3, "h", "w"]}))
    given = calibration_inputs.whole([{"x": samples(1, 3, s, s, seed=s)} for s in (7, 8, 9)], network)
    analysis = Analysis(network, bindings=given.sizes())
    (linear,) = analysis.linears
    for values in statistics.stream(network, ["x", "y"], given, given.fit):
        at = patches.positions(linear, values["x"], 1000, np.random.default_rng(0))
        (rows,) = patches.inputs(linear, values["x"], at)
        wanted = patches.outputs(linear, values["y"], at)
        np.testing.assert_allclose(rows @ linear.weight().reshape(24, -1).T, wanted, rtol=1e-4, atol=1e-5)


def test_the_digest_of_inputs_does_not_depend_on_their_form() -> None:
    proto = levelled()
    together = calibration_inputs.load({"x": X, "level": LEVELS}, ir.from_proto(proto), 0)
    listed: list[Mapping[str, Array]] = [{"x": X[i : i + 1], "level": LEVELS[i]} for i in range(12)]
    apart = calibration_inputs.load(listed, ir.from_proto(proto), 3)
    assert together.sha256 == apart.sha256
