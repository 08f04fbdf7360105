"""The shapes that are found are those that onnxruntime makes, over a grid of attributes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from graphopt.analysis.constants import Constants
from graphopt.analysis.shapes.inference import infer
from tests.builders import Array, rng, session

Case: TypeAlias = "tuple[str, int, dict[str, Any], list[Array | None]]"
"""An operator, the opset, its attributes, and its inputs behind the first."""

SAMPLED = 60
"""So many cases of a grid are tried, drawn anew from it in the same way at each run."""
SIZES = (1, 2, 3, 4, 5, 7, 8)


def pools(op: str) -> Iterator[Case]:
    """Kernels, strides, pads, dilations and ceil_mode as far as each opset has them."""
    dilated = {"MaxPool": 10, "AveragePool": 19, "LpPool": 18}[op]
    rounded = {"MaxPool": 10, "AveragePool": 10, "LpPool": 18}[op]
    modes = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    grid = product((7, 10, 12, 17, 19, 22), (1, 2, 3, 4), (1, 2, 3), (1, 2), (0, 1), modes, (0, 1), (0, 1))
    for opset, taps, stride, dilation, ceil, mode, begin, end in grid:
        attributes: dict[str, Any] = {"kernel_shape": [taps], "strides": [stride], "auto_pad": mode}
        if opset >= dilated:
            attributes["dilations"] = [dilation]
        if opset >= rounded:
            attributes["ceil_mode"] = ceil
        if mode == "NOTSET" and max(begin, end) < taps:
            attributes["pads"] = [begin, end]
        yield op, opset, attributes, []


def convolutions(op: str) -> Iterator[Case]:
    modes = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    grid = product(
        (11, 22), (1, 2, 3, 4), (1, 2, 3), (1, 2), modes, (0, 2), (0, 1), (0, 1), (None, [5], [1, 3, 7])
    )
    for opset, taps, stride, dilation, mode, begin, end, added, named in grid:
        attributes: dict[str, Any] = {"kernel_shape": [taps], "strides": [stride], "dilations": [dilation]}
        attributes |= {"auto_pad": mode} if mode != "NOTSET" else {"pads": [begin, end]}
        if op == "ConvTranspose" and added:
            attributes["output_padding"] = [added]
        if op == "ConvTranspose" and named:
            attributes["output_shape"] = named
        yield op, opset, attributes, [np.zeros((3, 2, taps) if op == "Conv" else (2, 3, taps), np.float32)]


def resizes(op: str) -> Iterator[Case]:
    spaces = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "tf_crop_and_resize")
    for opset, scale in product((7, 9), (1, 1.5, 2, 10 / 3)):
        scales = np.array([1, 1, scale], np.float32)
        given = {"scales": scales.tolist()} if opset == 7 else {}
        yield "Upsample", opset, {"mode": "nearest", **given}, [] if given else [scales]
    for opset, mode, space, scale in product(
        (11, 13, 19), ("nearest", "linear"), spaces, (0.3, 0.5, 1, 1.7, 10 / 3)
    ):
        attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": space}
        region = np.array([0, 0, 0.2, 1, 1, 0.9], np.float32)
        yield op, opset, attributes, [region, np.array([1, 1, scale], np.float32)]
        if opset >= 18:
            axis = {**attributes, "axes": [-1]}
            yield op, opset, axis, [region[2::3], np.array([scale], np.float32)]
    for opset, mode, size in product((11, 18), ("nearest", "cubic"), (1, 3, 6)):
        yield op, opset, {"mode": mode}, [None, None, np.array([1, 2, size])]
        for policy in ("stretch", "not_larger", "not_smaller") if opset >= 18 else ():
            yield op, opset, {"axes": [2], "keep_aspect_ratio_policy": policy}, [None, None, np.array([size])]
            both = {"axes": [2, 1], "keep_aspect_ratio_policy": policy, "mode": "linear"}
            yield op, opset, both, [None, None, np.array([size, 3])]


def paddings(op: str) -> Iterator[Case]:
    for opset, mode, begin, end in product(
        (10, 11, 18, 21), ("constant", "reflect", "edge"), (-2, 0, 1), (-1, 0, 2)
    ):
        if opset < 11:
            yield op, opset, {"mode": mode, "pads": [0, 0, begin, 0, 0, end]}, []
        else:
            yield op, opset, {"mode": mode}, [np.array([0, 0, begin, 0, 0, end])]
        if opset >= 18:
            yield op, opset, {"mode": mode}, [np.array([begin, end]), None, np.array([-1])]


def slices(op: str) -> Iterator[Case]:
    far = (2**31 - 1, 2**63 - 1, -(2**31), -(2**63))
    places = (-9, -2, -1, 0, 1, 3)
    for opset, start, end, step in product(
        (9, 10, 13), places, (*places, *far), (1, 2, -1, -2, 2**40, -(2**40))
    ):
        if opset >= 10:
            yield op, opset, {}, [np.array([each]) for each in (start, end, 2, step)]
        elif step == 1:
            yield op, opset, {"axes": [2], "starts": [start], "ends": [end]}, []


GRIDS = {
    "AveragePool": pools,
    "LpPool": pools,
    "MaxPool": pools,
    "Conv": convolutions,
    "ConvTranspose": convolutions,
    "Resize": resizes,
    "Pad": paddings,
    "Slice": slices,
}


def one_node(case: Case, shape: Sequence[int | None]) -> Any:
    op, opset, attributes, arrays = case
    names = ["x", *("" if array is None else f"c{i}" for i, array in enumerate(arrays))]
    tensors = [numpy_helper.from_array(a, f"c{i}") for i, a in enumerate(arrays) if a is not None]
    x = helper.make_tensor_value_info("x", 1, shape)
    node = helper.make_node(op, names, ["y"], **attributes)
    graph = helper.make_graph([node], "g", [x], [helper.make_empty_tensor_value_info("y")], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def found(model: Any) -> Any:
    read = ir.from_proto(model)
    return infer(read, Constants(read)).get(read.graph.outputs[0])


def made(model: Any, sizes: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """The shapes of the output at those sizes at which onnxruntime runs."""
    try:
        running = session(model)
    except Exception:  # not with these attributes
        return {}
    shapes = {}
    for size in sizes:
        try:
            shapes[size] = running.run(None, {"x": np.zeros((1, 2, size), np.float32)})[0].shape
        except Exception:  # not at this size
            continue
    return shapes


@pytest.mark.parametrize("op", GRIDS)
def test_sizes_are_those_of_onnxruntime(op: str) -> None:
    cases = list(GRIDS[op](op))
    tried = 0
    for index in rng(1).permutation(len(cases))[:SAMPLED]:
        case = cases[index]
        for size, shape in made(one_node(case, (None, None, None)), SIZES).items():
            assert found(one_node(case, (1, 2, size))) == shape, (*case[:3], size)
            tried += 1
    assert tried > SAMPLED


@pytest.mark.parametrize("op", GRIDS)
def test_what_follows_from_an_open_size_stays_open(op: str) -> None:
    """Where two sizes give two outputs, a size that holds for every run is none."""
    cases = list(GRIDS[op](op))
    for index in rng(2).permutation(len(cases))[: SAMPLED // 3]:
        shapes = made(one_node(cases[index], (None, None, None)), (3, 8))
        if len(shapes) == 2 and shapes[3] != shapes[8]:
            assert found(one_node(cases[index], (1, 2, None)))[2] is None, cases[index][:3]


def test_a_dilated_pooling_pads_as_if_it_were_not() -> None:
    """The mean of a window: with its dilation counted, SAME would keep the size."""
    case: Case = ("AveragePool", 19, {"kernel_shape": [2], "dilations": [2], "auto_pad": "SAME_UPPER"}, [])
    assert found(one_node(case, (1, 2, 6))) == (1, 2, 5)
