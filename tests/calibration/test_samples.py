"""Samples in the arrays that a caller gives: scalars, states, inputs without a batch, and several sizes."""

from __future__ import annotations

import re
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
from graphopt.calibration.batch_axis import SampleAxis
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


def read(
    given: Any, proto: onnx.ModelProto, said: Mapping[str, SampleAxis] | None = None
) -> tuple[Samples, int | None]:
    return calibration_inputs.read(given, ir.from_proto(proto), said)


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


def test_files_of_one_run_each_may_be_of_several_sizes(tmp_path: Path) -> None:
    """Of a model that takes four samples at once."""
    proto = network("y = Identity (d)", inputs={"x": [4, 3, "h", "w"]})
    sizes = [(8, 8), (8, 12), (16, 8)]
    for number, size in enumerate(sizes):
        np.save(tmp_path / f"{number}.npy", samples(4, 3, *size, seed=number))
    found, at_once = read(tmp_path, proto)
    assert at_once == 1 and [array.shape for array in found.arrays("x")] == [(4, 3, *size) for size in sizes]
    np.save(tmp_path / "3.npy", samples(8, 3, 9, 9))
    with pytest.raises(InputError, match="takes 4 samples at once, and these are of several sizes"):
        read(tmp_path, proto)


def test_a_scalar_that_is_said_to_be_given_for_each_sample_is_not_one_for_all() -> None:
    with pytest.raises(InputError, match=r"the model takes \[\]: give \[N\] for N samples$"):
        read({"x": X, "level": np.float32(2)}, levelled(), {"level": 0})


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
    assert [len(array) for array in read(even, points)[0].arrays("p")] == [2, 2], "as they are"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"x": X, "level": np.ones((12, 2), np.float32)},
         "has shape [12, 2], the model takes []: give [N] for N samples, or [] for one that all share"),
        ({"x": X[:, 0], "level": LEVELS},
         "input 'x' has shape [12, 8, 8], the model takes [1, 3, 8, 8]: give [N, 3, 8, 8] for N samples"),
        ({"x": X, "level": LEVELS[:5]},
         "of samples: 'x' 12, 'level' 5 ('x' takes [N, 3, 8, 8] for N samples; 'level' takes [N]"),
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


# --- one rule for all inputs --------------------------------------------------------------------------------


def shaped(inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> onnx.ModelProto:
    """A model of inputs that nothing is made of but themselves."""
    lines = [f"y{name} = Identity ({name})" for name in inputs]
    made = {f"y{name}": shape for name, shape in inputs.items()} if outputs is None else outputs
    return model(parsed(*lines), {}, inputs=dict(inputs), outputs=made)


def seconds(shape: tuple[int, ...], count: int) -> list[Array]:
    return [samples(*shape, seed=number) for number in range(count)]


@pytest.mark.parametrize("form", ["list", "folder", "array", "stacked"])
def test_sequences_of_a_model_that_has_time_first_are_never_cut(form: str, tmp_path: Path) -> None:
    proto = shaped({"x": ["seq", "batch", 8]})
    apart = seconds((30, 1, 8), 6)
    given: Any = {"x": np.concatenate(apart, axis=1)}
    if form == "list":
        given = [{"x": array} for array in apart]
    if form == "folder":
        given = tmp_path
        for number, array in enumerate(apart):
            np.savez(tmp_path / f"{number}.npz", x=array)
    if form == "stacked":
        given = {"x": np.stack(apart)}
    found, at_once = read(given, proto)
    assert [array.shape for array in found.arrays("x")] == [(30, 1, 8)] * 6
    assert np.array_equal(np.concatenate(found.arrays("x")), np.concatenate(apart))
    if form != "stacked":
        assert at_once is None and found.joined()["x"].shape == (30, 6, 8)


@pytest.mark.parametrize("shape", [[None, None, 8], ["s0", "s1", 8]])
def test_an_item_is_run_as_it_is_where_its_batch_can_not_be_told(shape: list[str | None]) -> None:
    found, at_once = read([{"x": array} for array in seconds((30, 1, 8), 6)], shaped({"x": shape}))
    assert at_once == 1 and [array.shape for array in found.arrays("x")] == [(30, 1, 8)] * 6
    rows, at_once = read([{"x": array} for array in seconds((1, 30, 8), 6)], shaped({"x": shape}))
    assert at_once is None and len(rows) == 6


def test_items_of_two_batches_are_run_as_they_are() -> None:
    proto = shaped({"x": ["B", 3, 8, 8], "p": ["N", 2]})
    found, at_once = read([{"x": X[:2], "p": samples(5, 2)}, {"x": X[2:3], "p": samples(4, 2)}], proto)
    assert at_once == 1 and [(len(feed["x"]), len(feed["p"])) for feed in found.feeds] == [(2, 5), (1, 4)]


def test_lengths_beside_a_state_are_those_of_the_samples() -> None:
    proto = shaped({"x": ["batch", 10, 4], "lengths": ["batch"], "h": [2, "batch", 16]})
    x, lengths, h = samples(8, 10, 4), samples(8, 1)[:, 0], samples(2, 8, 16)
    found, at_once = read({"x": x, "lengths": lengths, "h": h}, proto)
    assert at_once is None and one_by_one(found, "lengths") == [[value] for value in lengths.tolist()]
    assert all(np.array_equal(found.joined()[n], a) for n, a in (("lengths", lengths), ("h", h)))


@pytest.mark.parametrize("size", [9, 12])
def test_pictures_of_a_fixed_batch_of_one_are_run_one_by_one(size: int) -> None:
    x, m = samples(12, 3, size, size), samples(12, 4)
    unnamed = shaped({"x": [1, 3, None, None], "m": [None, 4]})
    found, at_once = read({"x": x, "m": m}, unnamed)
    assert at_once == 1 and len(found) == 12 and found.axes is None
    assert all(np.array_equal(found.feeds[i]["x"], x[i : i + 1]) for i in range(12))
    named = shaped({"x": [1, 3, "H", "W"], "rows": ["H"]})
    found, at_once = read({"x": x, "rows": samples(size, 1)[:, 0]}, named)
    assert at_once == 1 and [array.shape for array in found.arrays("rows")] == [(size,)] * 12


@pytest.mark.parametrize("points", ["P", None])
def test_points_of_different_samples_are_never_mixed(points: str | None) -> None:
    proto = shaped({"x": ["batch", 3, 8, 8], "p": [points, 2]})
    each, at_once = read({"x": X, "p": samples(12, 5, 2)}, proto)
    assert at_once == 1 and each.axes is None and [len(array) for array in each.arrays("p")] == [5] * 12
    shared, at_once = read({"x": X, "p": samples(1, 2)}, proto)
    assert at_once == 1 and shared.axes is None and [len(array) for array in shared.arrays("p")] == [1] * 12
    with pytest.raises(ValueError, match="run one by one"):
        shared.joined()


def test_points_that_all_share_are_so_where_the_model_calls_them_otherwise() -> None:
    proto = shaped({"x": ["batch", 3, 8, 8], "p": ["P", 2]})
    found, at_once = read({"x": X, "p": samples(5, 2)}, proto)
    assert at_once == 1 and [len(array) for array in found.arrays("p")] == [5] * 12


@pytest.mark.parametrize(
    ("shape", "array", "says"),
    [
        (["P", 2], samples(12, 2), "has shape [12, 2], the model takes [P, 2], and there are 12 samples: say "
         "sample_axis={'p': 0} where each has its part, and constant in its place where all share the array; "
         "or give [N, P, 2]"),
        ([2, None, 16], samples(2, 12, 16), "say sample_axis={'p': 1} where"),
        ([1, None, 16], samples(1, 12, 16), "say sample_axis={'p': 1} where"),
        ([None, 2], samples(5, 2), "have different numbers of samples: 'x' 12, 'p' 5 ("),
    ],
)  # fmt: skip
def test_what_can_not_be_told_is_asked(shape: list[Any], array: Array, says: str) -> None:
    proto = shaped({"x": ["batch", 3, 8, 8], "p": shape})
    with pytest.raises(InputError) as failure:
        read({"x": X, "p": array}, proto)
    assert says in str(failure.value)
    axis = 1 if len(shape) > 2 else 0
    if len(array) != 5:
        cut, _ = read({"x": X, "p": array}, proto, {"p": axis})
        assert [part.shape[axis] for part in cut.arrays("p")] == [1] * 12
    shared, _ = read({"x": X, "p": array}, proto, {"p": "constant"})
    assert all(part.shape == array.shape for part in shared.arrays("p"))


def test_samples_are_put_together_along_axes_that_the_user_says() -> None:
    proto = shaped({"x": [None, 3, 8, 8], "h": [2, None, 16]})
    given = {"x": X, "h": samples(2, 12, 16)}
    found, at_once = read(given, proto, {"x": 0, "h": 1})
    assert at_once is None and all(np.array_equal(found.joined()[n], a) for n, a in given.items())
    fixed = shaped({"x": ["n", 3, 8, 8], "h": [2, 5, 16]})
    stacked, at_once = read({"x": X, "h": samples(2, 5, 12, 16)}, fixed, {"h": 2})
    assert at_once == 1 and stacked.feeds[3]["h"].shape == (2, 5, 16), "an axis more than the model takes"


def test_what_is_said_to_be_constant_is_so_in_all_files() -> None:
    proto = shaped({"x": ["n", 3, 8, 8], "rate": []})
    given = [{"x": X[i : i + 1], "rate": np.float32(i // 6)} for i in range(12)]
    with pytest.raises(InputError, match="samples have different arrays for it"):
        read(given, proto, {"rate": "constant"})


def test_runs_and_samples_are_told_apart_where_numbers_differ() -> None:
    with pytest.raises(InputError) as failure:
        read({"x": X, "level": LEVELS}, levelled(4))
    assert "numbers of runs: 'x' 3, with 12 samples and 4 at once, 'level' 12 (" in str(failure.value)


def test_one_sequence_is_too_few_and_how_to_give_several_is_told() -> None:
    with pytest.raises(InputError) as failure:
        calibration_inputs.load({"x": samples(24, 8)}, ir.from_proto(shaped({"x": ["seq", 8]})), 0)
    assert "'x' of [24, 8] is taken as one: give [N, seq, 8] for N samples" in str(failure.value)
    assert "or say sample_axis={'x': AXIS}" in str(failure.value)


def test_arrays_that_fit_along_another_axis_are_told_so() -> None:
    with pytest.raises(InputError) as failure:
        read({"x": samples(3, 12, 8)}, shaped({"x": [3, 1, 8]}))
    forms = "give [N, 1, 8] for N samples, 3 at once, or [N, 3, 1, 8] for N runs"
    assert f"{forms}; or say sample_axis={{'x': 1}}" in str(failure.value)


@pytest.mark.parametrize(
    ("declared", "given", "says"),
    [
        (["n", 3, "h", "w"], (12, 8, 9, 3), "give x.transpose(0, 3, 1, 2), as its channels"),
        (["n", "h", "w", 3], (12, 3, 8, 9), "give x.transpose(0, 2, 3, 1), as its channels"),
        ([None, 3, 8, 8], (12, 8, 8, 3), "give x.transpose(0, 3, 1, 2), as its channels"),
        ([4, 3, 8, 8], (12, 8, 8, 3), "give x.transpose(0, 3, 1, 2), as its channels"),
        (["n", 3, "d", "h", "w"], (12, 6, 8, 9, 3), "give x.transpose(0, 4, 1, 2, 3), as its channels"),
        (["n", 3, "t"], (12, 40, 3), "give x.transpose(0, 2, 1), as its channels"),
        (["t", "n", 3], (40, 3, 12), "give [t, N, 3]"),
        (["n", 3, "h", "w"], (8, 9, 3), "give x.transpose(2, 0, 1), and [N, 3, h, w] for N samples, as"),
        ([3, "h", "w"], (12, 8, 9, 3), "give x.transpose(0, 3, 1, 2), as its channels"),
        ([3, "h", "w"], (8, 9, 3), "give x.transpose(2, 0, 1), as its channels"),
        (["n", 3, "h", "w"], (12, 8, 9, 1), "give [N, 3, h, w] for N samples"),
    ],
)
def test_channels_on_another_axis_are_told_with_the_transpose(
    declared: list[Any], given: tuple[int, ...], says: str
) -> None:
    proto = shaped({"x": declared}, {"yx": [5, *declared[1:]]} if declared[0] == 3 else None)
    with pytest.raises(InputError) as failure:
        read({"x": samples(*given)}, proto)
    assert says in str(failure.value) and "sample_axis" not in str(failure.value)
    order = [int(a) for a in re.findall(r"\d+", says.partition("transpose(")[2].partition(")")[0])]
    if order:
        fitting = samples(*given).transpose(order)
        read({"x": fitting if len(given) != len(declared) - 1 else fitting[None]}, proto)


@pytest.mark.parametrize(
    ("declared", "given", "says"),
    [
        (["n", 3, 8, 8], (8, 8, 3), "give x.transpose(2, 0, 1), as its channels"),
        ([1, 3, 8, 9], (8, 9, 3), "give x.transpose(2, 0, 1), as its channels"),
        (["n", 8, 8, 3], (3, 8, 8), "give x.transpose(1, 2, 0), as its channels"),
        (["n", 3, 8, 8], (3, 9, 9), "give [N, 3, 8, 8] for N samples"),
        (["n", 3, 8, 8], (1, 8, 8, 3), "give x.transpose(0, 3, 1, 2), as its channels"),
    ],
)
@pytest.mark.parametrize("form", ["list", "folder"])
def test_a_sample_of_another_shape_is_told_as_it_was_given(
    declared: list[Any], given: tuple[int, ...], says: str, form: str, tmp_path: Path
) -> None:
    where, several = "calibration[0]", [samples(*given)] * 4
    shapes = f"shape {list(given)}, the model takes [{', '.join(map(str, declared))}]"
    if form == "folder":
        where = str(tmp_path / "0.npy")
        for number, each in enumerate(several):
            np.save(tmp_path / f"{number}.npy", each)
    with pytest.raises(InputError, match=re.escape(f"{where}: array for input 'x' has {shapes}: {says}")):
        read(tmp_path if form == "folder" else several, shaped({"x": declared}))


@pytest.mark.parametrize(
    ("files", "inputs", "says"),
    [
        ("a.npy b.npz:x c.npz:x d.npz:x,y", "x", "d.npz: its arrays are not those of b.npz, with 'x'"),
        ("a.npy b.npz:x,y c.npz:x", "x", "b.npz: its arrays are not those of c.npz, with 'x'"),
        ("a.npz:z b.npz:z c.npz:y", "x", "c.npz: its arrays are not those of a.npz, with 'z'"),
        ("a.npz:x b.npz:x,y c.npz:x,y", "x,y", "a.npz: its arrays are not those of b.npz, with 'x', 'y'"),
        ("a.npy b.npz:x,y", "x,y", "a.npy: an array without a name, and the model has the inputs 'x', 'y'"),
    ],
)
def test_of_the_files_of_a_folder_the_odd_one_is_told(
    files: str, inputs: str, says: str, tmp_path: Path
) -> None:
    for each in files.split():
        name, _, keys = each.partition(":")
        if keys:
            np.savez(tmp_path / name, **{key: samples(2, 4) for key in keys.split(",")})
        else:
            np.save(tmp_path / name, samples(2, 4))
    with pytest.raises(InputError, match=re.escape(str(tmp_path / says))):
        read(tmp_path, shaped({key: ["n", 4] for key in inputs.split(",")}))


@pytest.mark.parametrize(
    ("declared", "given", "axis", "says"),
    [
        (["n", 3, 8, 8], (12, 8, 8, 3), 1, "give x.transpose(0, 3, 1, 2)"),
        (["n", 3, 8, 8], (12, 6, 8, 8), 1, "give [N, 3, 8, 8] for N samples"),
        ([None, 1, 8, 8], (12, 8, 8, 1), 1, "give x.transpose(0, 3, 1, 2)"),
        ([4, "t"], (10, 7), 0, ""),
        ([3, 8, 8], (3, 8, 12), 2, "give [N, 8, 8]"),
    ],
)
def test_an_axis_of_a_fixed_size_is_not_cut_where_the_model_has_its_samples_elsewhere(
    declared: list[Any], given: tuple[int, ...], axis: int, says: str
) -> None:
    if not says:
        assert len(read(samples(*given), shaped({"x": declared}), {"x": axis})[0]) == 10
        return
    with pytest.raises(InputError, match=f"'x': {axis}}} would cut an axis of a fixed size") as failure:
        read(samples(*given), shaped({"x": declared}), {"x": axis})
    assert says in str(failure.value)


def test_a_picture_without_a_batch_is_no_batch_of_its_channels() -> None:
    """Outputs of a batch have its rows, or so many times some."""
    proto = shaped({"x": [3, "h", "w"]}, {"yx": [5, "h", "w"]})
    found, at_once = read({"x": samples(12, 3, 8, 8)}, proto)
    assert (len(found), at_once, found.feeds[0]["x"].shape) == (12, 1, (3, 8, 8))
    for given, says in (
        (samples(3, 8, 8), "1 input is too few to fit"),
        (samples(12, 1, 3, 8, 8), "has shape [12, 1, 3, 8, 8]"),
    ):
        with pytest.raises(InputError) as failure:
            calibration_inputs.load({"x": given}, ir.from_proto(proto), 0)
        assert says in str(failure.value) and "give [N, 3, h, w] for N samples" in str(failure.value)
    boxes, _ = read(samples(8, 6), shaped({"x": [4, 6]}, {"yx": [400, 6]}))
    assert len(boxes) == 8


def test_a_single_run_of_several_samples_is_too_few_and_how_to_give_more_is_told() -> None:
    with pytest.raises(InputError) as failure:
        calibration_inputs.load({"x": samples(3, 8, 8)}, ir.from_proto(shaped({"x": [3, "h", "w"]})), 0)
    assert "'x' of [3, 8, 8] is taken as one run: give [N, h, w] for N samples, 3 at once" in str(
        failure.value
    )
    assert "or [N, 3, h, w] for N runs" in str(failure.value)


# --- texts and whole numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [object, str])
def test_texts_are_samples_like_others(kind: type) -> None:
    made = [info("x", ["n", 3, 8, 8]), info("s", ["n"], np.dtype(object))]
    proto = model(parsed(*LAYERS, "t = Identity (s)"), WEIGHTS, inputs=made, outputs={"d": None})
    proto.graph.output.append(info("t", ["n"], np.dtype(object)))
    words = np.array([f"word {number % 5}" for number in range(12)], kind)
    loaded = calibration_inputs.load({"x": X, "s": words}, ir.from_proto(proto), 0)
    again = calibration_inputs.load({"x": X, "s": words.astype(str).copy()}, ir.from_proto(proto), 0)
    assert loaded.sha256 == again.sha256 and "s" not in loaded.ranges()
    report = graphopt.optimize(proto, {"macs": 0.8}, {"x": X, "s": words}, only=["bottleneck"]).report
    assert report.quality is not None and (report.quality.sqnr or 0) > 5
    repeated = {"x": np.repeat(X[:4], 3, axis=0), "s": np.repeat(words[:4].astype(str), 3).astype(object)}
    assert "8 of 12 inputs repeat" in calibration_inputs.load(repeated, ir.from_proto(proto), 0).doubts[0]
    with pytest.raises(InputError, match="the model takes texts"):
        read({"x": X, "s": np.arange(12)}, proto)


def test_texts_are_read_from_files_and_objects_are_not(tmp_path: Path) -> None:
    proto = model(parsed("t = Identity (s)"), {}, inputs=[info("s", ["n"], np.dtype(object))], outputs=[
        info("t", ["n"], np.dtype(object))])  # fmt: skip
    words = np.array(["one", "two", "three"])
    np.savez(tmp_path / "words.npz", s=words)
    assert one_by_one(read(tmp_path / "words.npz", proto)[0], "s") == [["one"], ["two"], ["three"]]
    np.savez(tmp_path / "objects.npz", s=words.astype(object))
    with pytest.raises(InputError, match=r"hold objects, which are not read; texts are saved as np.array"):
        read(tmp_path / "objects.npz", proto)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int8])
def test_the_largest_whole_numbers_have_a_range(dtype: type) -> None:
    shapes = {"x": ["n", 3, 8, 8], "j": ["n", 1, 1, 1]}
    proto = network("k = Cast <to=1> (j)", "y = Mul (d, k)", inputs=shapes, dtype={"j": dtype})
    most = np.iinfo(dtype)
    j = np.where(np.arange(12) % 2, most.max, most.min).astype(dtype).reshape(12, 1, 1, 1)
    loaded = calibration_inputs.load({"x": X, "j": j}, ir.from_proto(proto), 0)
    assert loaded.ranges()["j"] == (most.min, most.max)
    assert not graphopt.optimize(proto, None, {"x": X, "j": j}).report.unrun


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
