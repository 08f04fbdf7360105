"""Calibration inputs: reading, splitting, and what is measured on them, against direct computation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration import inputs as calibration_inputs
from graphopt.calibration import patches, statistics
from graphopt.calibration.inputs import Calibration
from graphopt.calibration.samples import Samples
from graphopt.compression import layer_errors
from graphopt.errors import InputError
from graphopt.model import edit
from graphopt.numerics.lowrank import shrinkage
from graphopt.rewrites.factoring.bottleneck import Bottleneck
from graphopt.types import Candidate, Exactness
from graphopt.verification import quality
from tests.builders import classifier, conv_bn, model, node, run, samples, weight

Array = npt.NDArray[Any]


def loaded(proto: onnx.ModelProto) -> ir.Model:
    return ir.from_proto(proto)


def split(array: Array, seed: int = 0, **options: Any) -> tuple[ir.Model, Calibration]:
    """A classifier, and inputs of it."""
    network = loaded(classifier(**options))
    return network, calibration_inputs.load(array, network, seed)


def numbered(count: int) -> Array:
    """Inputs of the classifier that can be told apart by their first element."""
    array = samples(count)
    array[:, 0, 0, 0] = np.arange(count)
    return array


def numbers(part: Samples) -> list[int]:
    return part.joined()["x"][:, 0, 0, 0].astype(int).tolist()


# --- reading and splitting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "held"), [(3, 1), (4, 1), (7, 1), (8, 2), (40, 10), (41, 10)])
def test_one_of_four_is_held_out(count: int, held: int) -> None:
    _, found = split(numbered(count))
    assert found.samples == held
    assert sorted(numbers(found.fit) + numbers(found.held_out)) == list(range(count))
    assert not found.fixed


def test_what_is_no_calibration_is_told_what_is() -> None:
    for given, where in ((5, "calibration"), ([None], r"calibration\[0\]"), ([1.0], r"calibration\[0\]")):
        with pytest.raises(InputError, match=f"^{where}: expected .*an array, arrays by input name, or "):
            graphopt.optimize(classifier(), {"macs": 0.7}, given)  # type: ignore[arg-type]


def test_the_seed_chooses_the_split() -> None:
    splits = [numbers(split(numbered(40), seed)[1].held_out) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]
    assert splits[0] != list(range(10))


def test_all_inputs_of_a_sample_stay_together() -> None:
    nodes = [node("Conv", "x w", "c"), node("Add", "c z", "y")]
    shapes = {"x": ["N", 8, 8, 8], "z": ["N", 1, 1, 1]}
    network = loaded(model(nodes, {"w": weight(8, 8, 1, 1)}, inputs=shapes))
    z = np.arange(12, dtype=np.float32).reshape(12, 1, 1, 1)
    found = calibration_inputs.load({"x": numbered(12), "z": z}, network, seed=4)
    for part in (found.fit, found.held_out):
        assert numbers(part) == part.joined()["z"].ravel().astype(int).tolist()


def test_a_fixed_batch_is_fed_as_it_is() -> None:
    _, found = split(numbered(22), batch=4)
    assert (found.batch, found.fixed, found.samples) == (4, True, 4)
    sizes = [len(part["x"]) for part in found.batches(found.fit)]
    assert sizes == [4, 4, 4, 4]  # 18 to fit on: the last two make no batch
    assert found.sizes() == {"x": (4, 8, 8, 8)}


def test_a_fixed_batch_needs_two_batches() -> None:
    with pytest.raises(InputError, match="too few"):
        split(numbered(7), batch=4)
    assert split(numbered(8), batch=4)[1].samples == 4


def test_whole_holds_nothing_out() -> None:
    found = calibration_inputs.whole(numbered(5), loaded(classifier()))
    assert numbers(found.held_out) == [0, 1, 2, 3, 4] and found.samples == 5
    with pytest.raises(InputError, match="takes 8 at once"):
        calibration_inputs.whole(numbered(5), loaded(classifier(batch=8)))


def test_an_open_batch_is_cut_into_pieces() -> None:
    _, found = split(numbered(100))
    assert [len(part["x"]) for part in found.batches(found.fit)] == [32, 32, 11]
    assert found.sizes() == {"x": (1, 8, 8, 8)}


def test_ranges_are_those_of_the_inputs_to_fit_on() -> None:
    _, found = split(numbered(8))
    assert found.ranges()["x"] == (float(found.fit.joined()["x"].min()), float(found.fit.joined()["x"].max()))


def test_every_form_that_inputs_may_have(tmp_path: Path) -> None:
    network, x = loaded(classifier()), numbered(8)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "b.npz", x=x)
    np.savez_compressed(tmp_path / "c.npz", images=x)
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "1.npy", x)
    for given in (x, {"x": x}, {"any": x}, *sorted(tmp_path.iterdir()), str(tmp_path / "a.npy")):
        feeds, batch = calibration_inputs.read(given, network)
        assert batch is None
        np.testing.assert_array_equal(feeds.joined()["x"], x)


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    x = numbered(9)
    for name, part in (("b.npy", x[3:5]), ("c.npy", x[5:]), ("a.npy", x[:3])):
        np.save(tmp_path / name, part)
    (tmp_path / "README.txt").write_text("not an array")
    feeds, _ = calibration_inputs.read(tmp_path, loaded(classifier()))
    assert numbers(feeds) == list(range(9))


@pytest.mark.parametrize("given", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("wanted", [np.float16, np.float32, np.float64])
def test_floats_are_cast_to_the_type_of_the_input(given: type, wanted: type) -> None:
    network = loaded(conv_bn(dtype=wanted, inputs={"x": ["N", 8, 8, 8]}))
    feeds, _ = calibration_inputs.read(samples(4).astype(given), network)
    assert feeds.kinds["x"] == wanted
    np.testing.assert_array_equal(feeds.joined()["x"], samples(4).astype(given).astype(wanted))


def test_what_half_precision_can_not_hold_is_refused() -> None:
    network = loaded(conv_bn(dtype=np.float16, inputs={"x": ["N", 8, 8, 8]}))
    with pytest.raises(InputError, match="float16 can't hold"):
        calibration_inputs.read(np.full((4, 8, 8, 8), 1e5, np.float32), network)


def test_integer_inputs_take_whole_numbers_of_any_type_in_their_range() -> None:
    proto = model(
        [node("Gather", "table x", "y")], {"table": weight(9, 4)}, inputs={"x": ["N", 3]}, dtype=np.int64
    )
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for kind in (np.int32, np.uint8, np.float32, np.bool_):
        feeds, _ = calibration_inputs.read(np.ones((4, 3), kind), loaded(proto))
        assert feeds.kinds["x"] == np.int64
    for value, shown in ((0.5, "0.5"), (1e300, "1e\\+300"), (np.nan, "nan")):
        with pytest.raises(InputError, match=f"with a value of {shown}, the model takes int64: give whole"):
            calibration_inputs.read(np.full((4, 3), value), loaded(proto))
    with pytest.raises(InputError, match="the model takes int64"):
        calibration_inputs.read(np.full((4, 3), "a"), loaded(proto))


@pytest.mark.parametrize(("kind", "value"), [(np.uint8, 256), (np.uint8, -1), (np.int8, 128), (np.bool_, 2)])
def test_whole_numbers_out_of_the_range_of_the_input_are_refused_with_that_range(
    kind: Any, value: int
) -> None:
    proto = model([node("Cast", "x", "y", to=1)], inputs={"x": ["N", 3]}, dtype=kind)
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    ends = "0 to 1" if kind is np.bool_ else f"{np.iinfo(kind).min} to {np.iinfo(kind).max}"
    with pytest.raises(InputError, match=f"with a value of {value}, .*: give whole numbers from {ends}, as"):
        calibration_inputs.read(np.full((4, 3), value), loaded(proto))


def test_a_folder_of_one_array_a_file_needs_no_names_nor_the_axis_of_samples(tmp_path: Path) -> None:
    x = numbered(9)
    np.save(tmp_path / "a.npy", x[0])
    np.save(tmp_path / "b.npy", x[1:4])
    np.savez(tmp_path / "c.npz", x=x[4:])
    feeds, _ = calibration_inputs.read(tmp_path, loaded(classifier()))
    assert numbers(feeds) == list(range(9))


def test_arrays_without_a_name_are_told_where_the_model_has_several_inputs(tmp_path: Path) -> None:
    proto = model([node("Add", "a b", "y")], inputs={"a": ["N", 3], "b": ["N", 3]})
    np.save(tmp_path / "0.npy", samples(4, 3))
    with pytest.raises(InputError, match=r"0\.npy: an array without a name, .* give an \.npz file"):
        calibration_inputs.read(tmp_path, loaded(proto))
    np.savez(tmp_path / "1.npz", a=samples(4, 3), b=samples(4, 3))
    with pytest.raises(InputError, match=r"0\.npy: an array without a name, .* give an \.npz file"):
        calibration_inputs.read(tmp_path, loaded(proto))


def test_a_half_precision_model_is_optimised_with_single_precision_inputs() -> None:
    proto = conv_bn(dtype=np.float16, inputs={"x": ["N", 8, 8, 8]}, outputs={"y": None})
    result = graphopt.optimize(proto, {"macs": 0.7}, samples(8))
    assert result.report.quality is not None and result.report.quality.samples == 2
    assert result.report.after.macs is not None


# --- what a convolution reads -------------------------------------------------------------------------------

FORMS = {
    "1-D": ((5,), (3,), {"strides": [2], "pads": [1, 0]}),
    "1-D dilated": ((11,), (3,), {"dilations": [3], "pads": [2, 1]}),
    "2-D": ((6, 7), (3, 2), {}),
    "2-D uneven pads": ((6, 7), (3, 3), {"pads": [0, 2, 1, 0]}),
    "2-D strides": ((8, 7), (3, 3), {"strides": [2, 3], "pads": [1, 1, 1, 1]}),
    "2-D dilations": ((9, 9), (2, 3), {"dilations": [3, 2], "pads": [1, 2, 3, 0], "strides": [1, 2]}),
    "2-D pointwise": ((4, 4), (1, 1), {"strides": [2, 2]}),
    "3-D": ((4, 5, 6), (2, 3, 2), {"strides": [1, 2, 2], "pads": [1, 0, 0, 0, 1, 1], "dilations": [1, 1, 2]}),
}


def convolution(form: str) -> tuple[Analysis, Array]:
    """A snapshot of one convolution, and inputs for it."""
    sizes, taps, attributes = FORMS[form]
    nodes = [node("Conv", "x w b", "y", "conv", **attributes)]
    weights = {"w": weight(5, 3, *taps), "b": weight(5, seed=1)}
    proto = model(nodes, weights, inputs={"x": ["N", 3, *sizes]})
    return Analysis(loaded(proto)), samples(4, 3, *sizes)


def im2col(x: Array, kernel: tuple[int, ...], strides: Any, pads: Any, dilations: Any) -> Array:
    """Patches by loops: [samples · positions, channels · taps]."""
    axes = len(kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *((pads[i], pads[i + axes]) for i in range(axes))])
    sizes = [
        (padded.shape[2 + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(axes)
    ]
    rows = []
    for sample in padded:
        for position in np.ndindex(*sizes):
            row = []
            for channel in sample:
                for tap in np.ndindex(*kernel):
                    steps = zip(position, strides, tap, dilations, strict=True)
                    row.append(channel[tuple(p * s + t * d for p, s, t, d in steps)])
            rows.append(row)
    return np.array(rows)


def sampled(linear: Linear, x: Array, most: int) -> Array:
    (rows,) = patches.inputs(linear, x, patches.positions(linear, x, most, np.random.default_rng(3)))
    return rows


def all_patches(linear: Linear, x: Array) -> Array:
    return sampled(linear, x, 10_000)


def naive_patches(analysis: Analysis, x: Array) -> Array:
    (linear,) = analysis.linears
    form = linear.form
    return im2col(x, linear.kernel, form.strides, form.pads, form.dilations)


@pytest.mark.parametrize("form", FORMS)
def test_patches_are_those_of_a_naive_im2col(form: str) -> None:
    analysis, x = convolution(form)
    (linear,) = analysis.linears
    np.testing.assert_array_equal(all_patches(linear, x), naive_patches(analysis, x))


@pytest.mark.parametrize("form", FORMS)
def test_weights_times_patches_are_the_output(form: str) -> None:
    analysis, x = convolution(form)
    (linear,) = analysis.linears
    rows = all_patches(linear, x)
    y = rows @ linear.weight().reshape(5, -1).T + linear.bias()
    (expected,) = run(ir.to_proto(analysis.model), {"x": x})
    np.testing.assert_allclose(y, np.moveaxis(expected, 1, -1).reshape(-1, 5), rtol=1e-4, atol=1e-5)


def test_sampled_patches_are_some_of_all() -> None:
    analysis, x = convolution("2-D dilations")
    (linear,) = analysis.linears
    some = sampled(linear, x, 5)
    every = {row.tobytes() for row in naive_patches(analysis, x)}
    assert len(some) == 5 * len(x)
    assert {row.tobytes() for row in some} <= every
    assert len({row.tobytes() for row in some}) == len(some)


@pytest.mark.parametrize("form", ["1-D", "2-D strides", "3-D"])
def test_moments_against_numpy(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrinkage, "likeliest", lambda halves: 0.0)  # so few would be drawn
    analysis, _ = convolution(form)
    x = samples(9, *[int(n) for n in analysis.model.graph.inputs[0].shape[1:]]) + 3  # a mean far from 0
    given = calibration_inputs.load(x, analysis.model, seed=0)
    found = statistics.statistics(analysis, analysis.linears, given, given.fit, seed=0)["conv"].groups[0]
    rows = naive_patches(analysis, given.fit.joined()["x"]).astype(np.float64)
    assert found.count == len(rows)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-5, atol=1e-6)
    expected = np.cov(rows.T, bias=True)
    np.testing.assert_allclose(found.covariance, expected, atol=1e-5 * np.abs(expected).max())


def test_moments_of_a_value_inside_the_model() -> None:
    network, given = split(samples(24))
    analysis = Analysis(network)
    found = statistics.statistics(analysis, analysis.linears[:2], given, given.fit, seed=0)
    proto = classifier()
    proto.graph.output.append(onnx.ValueInfoProto(name="r1"))
    inside = run(proto, given.fit.joined())[1]
    rows = im2col(inside, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    np.testing.assert_allclose(found["conv2"].groups[0].mean, rows.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_moments_gathered_in_several_passes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network, given = split(samples(16))
    analysis = Analysis(network)
    together = statistics.statistics(analysis, analysis.linears[:2], given, given.fit, seed=0)
    monkeypatch.setattr(statistics, "COVARIANCE_BYTES", 1)
    apart = statistics.statistics(analysis, analysis.linears[:2], given, given.fit, seed=0)
    assert together.keys() == apart.keys() == {"conv1", "conv2"}
    first, second = (each["conv2"].groups[0].mean for each in (together, apart))
    np.testing.assert_allclose(first, second, rtol=1e-6, atol=1e-7)


# --- what is measured on held-out inputs --------------------------------------------------------------------


LAYERS = [layer_errors.Layer("conv1", "c1"), layer_errors.Layer("conv2", "c2")]


def cut(network: ir.Model, given: Calibration, **ranks: int) -> tuple[Analysis, list[Any]]:
    """A snapshot, and the bottleneck of each of its convolutions."""
    analysis = Analysis(network, bindings=given.sizes())
    rewrite = Bottleneck(**ranks)
    found = [c for c in rewrite.match(analysis) if isinstance(c, Candidate)]
    return analysis, [(each, rewrite.fit(analysis, each).replacement) for each in found]


def errors_of(network: ir.Model, given: Calibration, **ranks: int) -> tuple[ir.Model, dict[str, float]]:
    _, changes = cut(network, given, **ranks)
    compressed = edit.apply(network, changes)
    return compressed, layer_errors.layer_errors(network, compressed, LAYERS, given, memory=1 << 20)


def test_layer_errors_against_numpy() -> None:
    network, given = split(samples(40))
    compressed, found = errors_of(network, given, rank_in=3, rank_out=4)
    assert set(found) == {"conv1", "conv2"}
    for layer, name in (("conv1", "c1"), ("conv2", "c2")):
        protos = [ir.to_proto(m) for m in (network, compressed)]
        for proto in protos:
            proto.graph.output.append(onnx.ValueInfoProto(name=name))
        y, approximate = (run(proto, given.held_out.joined())[1].astype(np.float64) for proto in protos)
        variance = ((y - y.mean(axis=(0, 2, 3), keepdims=True)) ** 2).sum()
        assert found[layer] == pytest.approx(((y - approximate) ** 2).sum() / variance, rel=1e-4)


def test_layer_errors_one_layer_at_a_time_are_the_same() -> None:
    network, given = split(samples(40))
    compressed, found = errors_of(network, given, rank_in=3, rank_out=4)
    again = layer_errors.layer_errors(network, compressed, LAYERS, given, memory=1)
    assert again == pytest.approx(found, rel=1e-6)


def test_layer_errors_are_small_where_ranks_are_whole() -> None:
    network, given = split(samples(12))
    _, fine = errors_of(network, given, rank_in=7, rank_out=12)
    _, coarse = errors_of(network, given, rank_in=2, rank_out=2)
    assert all(fine[name] < coarse[name] for name in coarse)


def test_quality_against_numpy() -> None:
    first, second = classifier(), classifier()
    for tensor in second.graph.initializer:
        if tensor.name == "w2":
            array = onnx.numpy_helper.to_array(tensor) + 0.05 * weight(16, 16, 3, 3, seed=9)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, "w2"))
    given = calibration_inputs.whole(samples(70), loaded(first))
    found = quality.measure(loaded(first), loaded(second), given, given.held_out, scores=True)
    a, b = (run(proto, given.held_out.joined())[0].astype(np.float64) for proto in (first, second))
    assert found.samples == 70
    errors = ((a - b) ** 2).mean(axis=0) / a.var(axis=0, ddof=1)
    assert found.sqnr == pytest.approx(-10 * np.log10(errors.mean()), abs=0.05)
    assert found.agreement == pytest.approx((a.argmax(1) == b.argmax(1)).mean())
    assert 0 < found.agreement <= 1


def two_outputs(scale: float) -> ir.Model:
    """Class scores [N, 5] that stay, and another output that is scaled."""
    nodes = [
        node("GlobalAveragePool", "x", "p"),
        node("Flatten", "p", "scores"),
        node("Mul", "x s", "map"),
    ]
    outputs = {"scores": ["N", 8], "map": ["N", 8, 8, 8]}
    weights = {"s": np.array([scale], np.float32)}
    return loaded(model(nodes, weights, inputs={"x": ["N", 8, 8, 8]}, outputs=outputs))


def test_quality_is_the_lowest_over_the_outputs_that_count() -> None:
    given = calibration_inputs.whole(samples(6), two_outputs(1.0))
    first, second = two_outputs(1.0), two_outputs(0.9)
    every = quality.measure(first, second, given, given.held_out, scores=True)
    x = given.held_out.joined()["x"].astype(np.float64)
    variance = ((x - x.mean(axis=0)) ** 2).sum(axis=0).mean(axis=(1, 2)) / (len(x) - 1)
    errors = ((0.1 * x) ** 2).mean(axis=(0, 2, 3)) / variance
    assert every.sqnr == pytest.approx(-10 * np.log10(errors.mean()), abs=0.01)
    assert every.groups == {"scores": np.inf, "map": every.sqnr}
    assert every.agreement == 1.0
    scores = quality.measure(first, second, given, given.held_out, ("scores",), scores=True)
    assert scores.sqnr == np.inf and scores.agreement == 1.0
    assert quality.measure(first, second, given, given.held_out, ("map",), scores=True).agreement is None


def test_quality_of_a_fixed_batch_leaves_the_rest_out() -> None:
    network = loaded(classifier(batch=4))
    given = calibration_inputs.whole(samples(10), network)
    assert quality.measure(network, network, given, given.held_out).samples == 8


def test_optimize_fits_on_one_part_and_measures_on_the_other() -> None:
    x = samples(16)
    network, given = split(x, seed=2)
    result = graphopt.optimize(classifier(), {"macs": 0.6}, x, seed=2, floor="off")
    measured = quality.measure(network, result.model, given, given.held_out)
    assert result.report.quality == measured
    # The inputs that are held out change what is measured, and nothing of the model.
    other = x.copy()
    held = [i for i in range(16) if any(np.array_equal(x[i], each) for each in given.held_out.joined()["x"])]
    other[held] *= 0.5
    again = graphopt.optimize(classifier(), {"macs": 0.6}, other, seed=2, floor="off")
    assert again.report.quality != result.report.quality
    for name, value in result.model.graph.initializers.items():
        same = again.model.graph.initializers[name].const_value
        np.testing.assert_array_equal(value.const_value.numpy(), same.numpy())


def test_inputs_are_fitted_better_than_weights_alone() -> None:
    # Inputs that vary in three directions only: the fit finds them, the weights alone can't tell.
    x = np.einsum("ncp,cd->ndp", samples(80, 3, 64), weight(3, 8, seed=5)).reshape(80, 8, 8, 8)
    x = x.astype(np.float32)
    _, given = split(x)
    errors, asked = [], {"only": ["bottleneck"], "at": ["conv1"], "options": {"bottleneck.rank_in": 3}}
    for inputs in (x, None):
        result = graphopt.optimize(classifier(), None, inputs, **asked)
        assert [a.exactness for a in result.report.applied] == [Exactness.APPROXIMATE]
        errors.append(quality.measure(loaded(classifier()), result.model, given, given.held_out).sqnr)
    assert errors[0] > 60 > errors[1]


def test_stream_returns_inputs_and_inner_values() -> None:
    network = loaded(classifier())
    given = calibration_inputs.whole(samples(5), network)
    (values,) = statistics.stream(network, ["c1", "x"], given, given.held_out)
    np.testing.assert_array_equal(values["x"], samples(5))
    assert values["c1"].shape == (5, 16, 8, 8)
    assert [len(part) for part in given.held_out.cut(2)] == [2, 2, 1]


def test_a_list_of_arrays_is_a_sample_or_several_each_for_a_model_with_one_input() -> None:
    network, x = loaded(classifier()), numbered(9)
    for given in ([x[i : i + 1] for i in range(9)], [x[:4], x[4:]], tuple(x)):
        assert numbers(calibration_inputs.read(given, network)[0]) == list(range(9))
    with pytest.raises(InputError, match="the list is empty"):
        calibration_inputs.read([], network)


@pytest.mark.parametrize(("batch", "least"), [(None, 3), (1, 3), (4, 8)])
def test_too_few_inputs_are_refused_with_how_many_would_do(batch: int | None, least: int) -> None:
    network = loaded(classifier() if batch is None else classifier(batch=batch))
    assert calibration_inputs.load(samples(least), network, seed=0).samples
    with pytest.raises(InputError, match=f"too few to fit on some and hold others out: {least} different"):
        calibration_inputs.load(samples(least - 1), network, seed=0)


def test_where_too_few_were_counted_by_the_axis_that_was_said_the_message_names_it() -> None:
    with pytest.raises(InputError, match=r"sample_axis=\{'x': .?1.?\} says"):
        network = loaded(conv_bn(inputs={"x": [8, 8, 8, 8]}))
        calibration_inputs.load(samples(8, 8, 8, 8), network, seed=0, sample_axis={"x": 1})
