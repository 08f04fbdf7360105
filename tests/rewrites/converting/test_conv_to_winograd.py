"""3x3 convolutions as pointwise ones, by minimal filtering."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.converting.conv_to_winograd import ConvToWinograd
from graphopt.types import Rejection
from tests.builders import (
    NEWEST_OPSET,
    Net,
    alone,
    check,
    make_feeds,
)

NAME = "conv_to_winograd"
WIDE = 192
"""Channels from which it pays on the maps of these tests."""
winograd = partial(alone, NAME, aim="time")
ANY = {f"{NAME}.most": 1.0}
"""Options that take whatever is faster at all."""
SUMS = {"Add": 24, "Concat": 1, "DepthToSpace": 1}
CONVOLUTIONS = 16 + 16 + 10


def net(
    size: int | tuple[int | str, int | str] = 16, *, batch: int | str = 1, opset: int = 17, **of: Any
) -> tuple[Net, str]:
    """A net with a convolution of many channels."""
    made = Net(opset)
    height, width = (size, size) if isinstance(size, int) else size
    attributes = {"pads": [1] * 4, **of}
    out = attributes.pop("out", WIDE)
    x = made.input([batch, attributes.pop("channels", WIDE), height, width])
    return made, made.conv(x, out, **attributes)


def reasons(model: onnx.ModelProto, **options: Any) -> list[str]:
    report = graphopt.optimize(model, **options).report
    return [each.reason for each in (*report.rejected, *report.declined) if each.rewrite == NAME]


def applied(model: onnx.ModelProto, **options: Any) -> int:
    report = graphopt.optimize(model, **options).report
    return Counter(each.candidate.rewrite for each in report.applied)[NAME]


# ---------------------------------------------------------------- what it makes


@pytest.mark.parametrize("size", [16, 20, (14, 18), (17, 19), (16, 21)])
def test_it_makes_the_same_at_even_and_odd_sizes(size: Any) -> None:
    made = winograd(*net(size), options=ANY)
    odd = any(n % 2 for n in ((size, size) if isinstance(size, int) else size))
    assert made.ops == {"Conv": CONVOLUTIONS, **SUMS, **({"Slice": 1} if odd else {})}
    assert made.macs_after < (0.75 if odd else 0.65) * made.macs_before


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 0, 1, 0), (2, 2, 2, 2), (0, 1, 2, 1), (1, 1, 0, 2)])
def test_with_any_pads(pads: tuple[int, ...]) -> None:
    winograd(*net((20, 22), pads=list(pads)), options=ANY)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_with_pads_by_name(auto_pad: str) -> None:
    made, y = net(20)
    del made.nodes[-1].attribute[:]
    made.nodes[-1].attribute.append(onnx.helper.make_attribute("auto_pad", auto_pad))
    winograd(made, y)


@pytest.mark.parametrize("batch", [2, "N"])
def test_with_any_batch(batch: int | str) -> None:
    model = _model(net(batch=batch))
    winograd(model, feeds=[make_feeds(model, {"N": 3})])


@pytest.mark.parametrize("opset", [7, 9, 11, 13, NEWEST_OPSET])
def test_at_every_opset(opset: int) -> None:
    winograd(*net(17, opset=opset), options=ANY)


@pytest.mark.parametrize(("inside", "out"), [(320, 128), (160, 256), (192, 200)])
def test_of_other_channels_in_than_out(inside: int, out: int) -> None:
    winograd(*net(20, channels=inside, out=out))


def test_without_bias_it_adds_none() -> None:
    made = winograd(*net(bias=False))
    assert all(len(node.input) == 2 for node in made.after.graph.node if node.op_type == "Conv")


def test_the_weights_that_it_adds_are_those_of_the_products() -> None:
    made = winograd(*net())
    (change,) = made.report.applied
    grown = change.candidate.after.weight_bytes - change.candidate.before.weight_bytes
    assert grown == made.report.after.weight_bytes - made.report.before.weight_bytes
    filters = 4 * (4 * WIDE) * 4 + 4 * WIDE  # four of 2x2 a channel, and the factors −1
    assert grown == 4 * (16 - 9) * WIDE**2 + filters


# ---------------------------------------------------------------- what stands behind


def kernels(model: onnx.ModelProto, tmp_path: Any) -> Counter[str]:
    """The operators of onnxruntime's own graph, convolutions with what they compute besides."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: Counter[str] = Counter()
    for node in onnx.load(tmp_path / "optimized.onnx").graph.node:
        told = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        active = told.get("activation", b"").decode()
        summed = len(node.input) > 3 and bool(node.input[3])
        found["+".join([node.op_type, *(["Add"] if summed else []), *([active] if active else [])])] += 1
    return found


def test_a_relu_and_sums_are_computed_in_convolutions(tmp_path: Any) -> None:
    made, y = net()
    found = kernels(winograd(made, made.op("Relu", y)).after, tmp_path)
    assert "Relu" not in found
    if "Conv+Add+Relu" not in found:
        pytest.skip("onnxruntime has no blocks of channels on this processor")
    assert found["Conv+Add+Relu"] == 4 and found["Conv+Add"] == 14 and found["Add"] == 6


def test_a_relu_of_several_readers_comes_along_and_one_of_several_makers_not() -> None:
    made, y = net()
    z = made.op("Relu", y)
    assert winograd(made, made.op("Add", z, made.op("Sigmoid", z))).ops["Relu"] == 4
    made, y = net()
    assert winograd(made, made.op("Add", y, made.op("Relu", y))).ops["Relu"] == 1


def test_a_convolution_that_is_an_output_keeps_it() -> None:
    made, y = net()
    assert winograd(made, y, made.op("Relu", y)).ops["Relu"] == 1


def test_a_sum_and_an_activation_that_it_takes_no_more_count() -> None:
    made, y = net(channels=160, out=160, size=28)
    plain = winograd(made, y).report.applied[0].candidate
    made, y = net(channels=160, out=160, size=28)
    made.op("LeakyRelu", made.op("Add", y, made.op("Sigmoid", "x")))
    summed = made.model(made.nodes[-1].output[0])
    found = reasons(summed, only=[NAME])
    assert len(found) == 1 and "not 0.9" in found[0]
    assert plain.after.seconds < 0.9 * plain.before.seconds


def test_in_the_branches_of_an_if() -> None:
    made = Net()
    x = made.op("Relu", made.input([1, WIDE, 16, 16]))
    y = made.choose(lambda inner: inner.op("Relu", inner.conv(x, WIDE, pads=[1] * 4)))
    winograd(made.model(y), number=2)


def test_weights_that_several_convolutions_read_are_counted_with_their_copies() -> None:
    made = Net()
    x = made.input([1, WIDE, 16, 16])
    w = made.const(made.weights(WIDE, WIDE, 3, 3))
    first = made.op("Relu", made.conv(x, WIDE, weight=w, pads=[1] * 4))
    y = made.conv(first, WIDE, weight=w, pads=[1] * 4, bias=False)
    result = winograd(made, y, number=2)
    before, after = result.report.before.weight_bytes, result.report.after.weight_bytes
    assert after < before * 16 / 9 * 2.1


# ---------------------------------------------------------------- where it does not


def test_small_ones_stay_since_they_would_not_be_faster() -> None:
    for channels, size in ((64, 56), (128, 28), (256, 7), (512, 7)):
        found = winograd(*net(size, channels=channels, out=channels), number=0)
        assert found.refused(NAME, "as pointwise ones it is expected to take", "of the time, not 0.9")


@pytest.mark.parametrize("size", [("H", "W"), (16, "W"), ("H", 16)])
def test_open_sizes_stay(size: Any) -> None:
    result = reasons(_model(net(size)), only=[NAME])
    assert result and "not the same in every run" in result[0]


def _model(made: tuple[Net, str]) -> onnx.ModelProto:
    return made[0].model(made[1])


@pytest.mark.parametrize(
    "attributes",
    [{"strides": [2, 2]}, {"dilations": [2, 2]}, {"group": 2}, {"kernel": (3, 1)}, {"kernel": (5, 5)}],
)
def test_other_convolutions_are_none_of_its(attributes: dict[str, Any]) -> None:
    assert not reasons(_model(net(**attributes)), only=[NAME])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types_stay(dtype: Any) -> None:
    made = Net(dtype=dtype)
    y = made.op("Relu", made.conv(made.input([1, WIDE, 16, 16]), WIDE, pads=[1] * 4))
    analysis = Analysis(ir.from_proto(made.model(y)))
    (found,) = ConvToWinograd().match(analysis)
    assert isinstance(found, Rejection) and np.dtype(dtype).name in found.reason


def test_weights_that_are_no_numbers_or_no_constants_stay() -> None:
    made, y = net()
    w = made.weights(WIDE, WIDE, 3, 3)
    w[0, 0, 0, 0] = np.inf
    made = Net()
    y = made.conv(made.input([1, WIDE, 16, 16]), WIDE, weight=w, pads=[1] * 4)
    assert "not finite" in reasons(_model((made, y)), only=[NAME])[0]
    made = Net()
    w = made.const(made.weights(WIDE, WIDE, 3, 3), overridable=True)
    y = made.conv(made.input([1, WIDE, 16, 16]), WIDE, weight=w, pads=[1] * 4)
    assert reasons(_model((made, y)), only=[NAME]) and not applied(_model((made, y)))


def test_a_quantised_region_stays() -> None:
    made = Net()
    x = made.quantised(made.input([1, WIDE, 16, 16]))
    y = made.quantised(made.conv(x, WIDE, pads=[1] * 4))
    assert "quantised" in reasons(_model((made, y)), only=[NAME])[0]


@pytest.mark.parametrize(
    "options",
    [
        {"aim": "macs"},
        {"skip": [NAME]},
        {"budget": {"bytes": 1.0}},
        {"budget": {"params": 1.0}},
        {"require": ["bytes<=1.0"]},
        {"require": ["params<=1.0"]},
    ],
)
def test_it_is_left_out_where_bytes_or_macs_are_the_aim(options: dict[str, Any]) -> None:
    model = _model(net())
    assert applied(model) == 1
    assert applied(model, **options) == 0


def test_its_option_is_a_part_of_the_time() -> None:
    model = _model(net(16, channels=160, out=160))
    assert applied(model) == 0
    assert applied(model, options={f"{NAME}.most": 1.0}) == 1
    with pytest.raises(graphopt.errors.InputError, match="above 0 and at most 1"):
        graphopt.optimize(model, options={f"{NAME}.most": 0.0})


# ---------------------------------------------------------------- with all the others


def test_a_chain_of_all_rewrites_is_rewritten_once_and_for_all() -> None:
    made = Net()
    x = made.input([1, 3, 16, 16])
    y = made.op("Relu", made.bn(made.conv(x, WIDE, pads=[1] * 4)))
    for _ in range(2):
        y = made.op("Relu", made.bn(made.conv(y, WIDE, pads=[1] * 4, bias=False)))
    result = check(made.model(made.op("GlobalAveragePool", y)), aim="time")
    assert result.applied[NAME] == 2 and result.ops["BatchNormalization"] == 0
