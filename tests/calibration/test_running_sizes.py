"""Sizes at which models run that run at few: by what Reshape, Flatten, Concat and others demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.calibration.test_inputs import choice, feeder
from tests.builders import batch_norm, bn_inputs, check, info, model, node, parsed, weight

NCHW: Any = {"x": ["N", 4, "H", "W"]}
STRIDED = "a = Conv <strides = [2, 2]> (x, w)"


def of(nodes: Sequence[str], inputs: Any = None, *, outputs: Any = None, **weights: Any) -> onnx.ModelProto:
    arrays = {
        name: weight(*given) if isinstance(given, tuple) else np.array(given)
        for name, given in {"w": (6, 4, 3, 3), **weights}.items()
    }
    used = {name: array for name, array in arrays.items() if any(name in each for each in nodes)}
    return model(parsed(*nodes), used, inputs=inputs or NCHW, outputs=outputs)


def chosen(proto: onnx.ModelProto, **options: Any) -> choice.TestInputs:
    found = choice.choose(ir.from_proto(proto), **options)
    assert not found.problem and len(found.feeds) >= feeder.COUNT
    return found


def shapes(found: choice.TestInputs, name: str = "x") -> set[tuple[int, ...]]:
    return {feed[name].shape for feed in found.feeds}


VIEW = [
    *("s = Shape (a)", "zero = Constant <value_ints = [0]> ()", "n = Gather (s, zero)"),
    *("rest = Constant <value_ints = [-1]> ()", "both = Concat <axis = 0> (n, rest)"),
    *("f = Reshape (a, both)", "y = MatMul (f, v)"),
]
"""What an exporter makes of ``a.view(a.size(0), -1) @ v``."""
PADDED = "a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w)"
HALVED = "p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)"


@pytest.mark.parametrize(
    ("nodes", "weights", "size"),
    [
        ([STRIDED, "f = Flatten (a)", "y = Gemm (f, v)"], {"v": (6 * 5 * 9, 2)}, (12, 20)),
        ([STRIDED, "f = Flatten (a)", "y = Gemm <transB = 1> (f, v)"], {"v": (2, 6 * 7 * 7)}, (16, 16)),
        (["a = Conv <strides = [16, 16]> (x, k)", "f = Flatten (a)", "y = Gemm (f, v)"],
         {"k": (3, 4, 16, 16), "v": (3 * 14 * 14, 2)}, (224, 224)),
        ([STRIDED, *VIEW], {"v": (6 * 3 * 4, 2)}, (8, 10)),
        (["a = Conv (x, w)", HALVED, "f = Reshape (p, s)", "y = MatMul (f, v)"],
         {"s": [-1, 6 * 5 * 5], "v": (6 * 5 * 5, 2)}, (12, 12)),
        ([STRIDED, "y = Reshape (a, s)"], {"s": [1, 6, 63]}, (16, 20)),
        ([STRIDED, HALVED, "y = Reshape (p, s)"], {"s": [0, 3, 2, 35]}, (24, 32)),
        ([STRIDED, "y = Concat <axis = 1> (a, m)"], {"m": (1, 2, 6, 11)}, (14, 24)),
        ([STRIDED, "r = Relu (a)", "y = Add (r, m)"], {"m": (1, 6, 6, 11)}, (14, 24)),
        (["u = ConvTranspose <strides = [2, 2], output_shape = [17, 18]> (x, k)", "y = Relu (u)"],
         {"k": (4, 2, 3, 3)}, (8, 8)),
        (["u = ConvTranspose <strides = [2, 2], output_shape = [15, 9], auto_pad = \"SAME_UPPER\"> (x, k)",
          "y = Relu (u)"], {"k": (4, 2, 3, 3)}, (8, 5)),
        ([PADDED, "u = ConvTranspose <strides = [2, 2], output_shape = [45, 27]> (a, k)",
          "y = Sub (x, u)"], {"k": (6, 4, 3, 3)}, (45, 27)),
        ([PADDED, "u = ConvTranspose <strides = [2, 2], output_shape = [44, 28]> (a, k)",
          "y = Max (u, x, u)"], {"k": (6, 4, 3, 3)}, (44, 28)),
        ([STRIDED, "t = Transpose <perm = [0, 2, 1, 3]> (a)", "y = Conv (t, k)"],
         {"k": (2, 9, 1, 1)}, (20, 64)),
        (["a = SpaceToDepth <blocksize = 2> (x)", "f = Flatten (a)", "y = MatMul (f, v)"],
         {"v": (16 * 70, 2)}, (14, 20)),
        (["a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w)", "b = Conv <strides = [2, 2]> (x, k)",
          "s = Add (a, b)", "p = AveragePool <kernel_shape = [7, 7]> (s)", "f = Flatten (p)",
          "y = Gemm (f, v)"], {"k": (6, 4, 1, 1), "v": (6, 2)}, (14, 14)),
        (["a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w)", "u = Resize (a, , scales)",
          "c = Concat <axis = 1> (u, x)", "p = AveragePool <kernel_shape = [4, 4], strides = [4, 4]> (c)",
          "f = Flatten (p)", "y = Gemm (f, v)"],
         {"scales": np.array([1, 1, 2, 2], np.float32), "v": (10 * 4 * 6, 2)}, (16, 24)),
        (["y = Relu (x)", STRIDED, "f = Flatten (a)", "dead = MatMul (f, v)"],
         {"v": (6 * 5 * 9, 2)}, (12, 20)),
    ],
)  # fmt: skip
def test_sizes_that_operators_demand_are_found(
    nodes: list[str], weights: Mapping[str, Any], size: tuple[int, ...]
) -> None:
    found = chosen(of(nodes, **weights))
    assert found.sizes == {"x": (1, 4, *size)} and found.assumed


@pytest.mark.parametrize(
    ("nodes", "inputs", "weights", "sizes"),
    [
        (["a = Conv <strides = [5]> (x, k)", "f = Flatten (a)", "y = Gemm (f, v)"], ["N", 4, "T"],
         {"k": (3, 4, 11), "v": (3 * 3199, 2)}, (1, 4, 16004)),
        (["a = Conv <strides = [2, 2, 2]> (x, k)", "f = Flatten (a)", "y = Gemm (f, v)"],
         ["N", 4, "D", "H", "W"], {"k": (3, 4, 3, 3, 3), "v": (3 * 4 * 5 * 6, 2)}, (1, 4, 10, 12, 14)),
        (["f = Flatten (x)", "y = MatMul (f, v)"], ["N", 1, "S", "S"], {"v": (49, 2)}, (1, 1, 7, 7)),
    ],
)  # fmt: skip
def test_maps_of_other_ranks(
    nodes: list[str], inputs: Any, weights: Mapping[str, Any], sizes: tuple[int, ...]
) -> None:
    found = chosen(of(nodes, {"x": inputs}, **weights))
    assert found.sizes == {"x": sizes}
    assert found.assumed is (inputs[-1] != "S"), "one size alone is no guess"


def test_all_that_satisfies_the_demands_is_compared_on() -> None:
    product = ["f = Flatten (x)", "y = MatMul (f, v)"]
    assert shapes(chosen(of(product, {"x": ["N", 1, "H", "W"]}, v=(77, 2)))) >= {
        (1, 1, 7, 11), (1, 1, 11, 7), (3, 1, 7, 11),
    }  # fmt: skip
    rounded = [STRIDED, "f = Flatten (a)", "y = Gemm (f, v)"]
    assert shapes(chosen(of(rounded, v=(6 * 7 * 7, 2)))) >= {(1, 4, 16, 16), (1, 4, 15, 15), (3, 4, 16, 16)}
    other = ["a = Conv (x, w)", "y = MatMul (a, v)"]
    assert {shape[3] for shape in shapes(chosen(of(other, v=(7, 2))))} == {9}
    assert {3, 64, 65, 129} <= {shape[2] for shape in shapes(chosen(of(other, v=(7, 2))))}


def test_sizes_that_the_file_declares_are_likely() -> None:
    found = chosen(of([STRIDED, "y = Relu (a)"], outputs={"y": [1, 6, 7, 9]}))
    assert found.sizes == {"x": (1, 4, 16, 20)}
    assert (1, 4, 3, 3) in shapes(found), "others too"


def test_inputs_that_have_to_fit_each_other() -> None:
    inputs = {"x": ["N", 4, "H", "W"], "z": ["N", 6, "H2", "W2"]}
    found = chosen(of([STRIDED, "y = Concat <axis = 1> (a, z)"], inputs))
    assert found.sizes == {"x": (1, 4, 64, 64), "z": (1, 6, 31, 31)}
    assert {(1, 6, 1, 1), (1, 6, 64, 64)} <= shapes(found, "z"), "small and large ones too"
    given = chosen(of([STRIDED, "y = Add (a, z)"], inputs), shapes={"z": (1, 6, 8, 10)})
    assert given.sizes == {"x": (1, 4, 18, 22), "z": (1, 6, 8, 10)}


def test_what_a_branch_demands_is_tried() -> None:
    branches = """y = If (c) <
        then_branch = t () => (float[] p) { f = Flatten (x)  p = MatMul (f, v) },
        else_branch = e () => (float[] q) { g = Flatten (x)  q = MatMul (g, u) }>"""
    inputs = [info("x", ["N", 1, "H", "W"]), info("c", [], np.bool_)]
    assert chosen(of([branches], inputs, v=(77, 2), u=(77, 3))).sizes["x"] == (1, 1, 7, 11)


def test_a_demand_that_nothing_satisfies_is_left_out() -> None:
    nodes = ["y = MatMul (x, v)", "b = If (c) <then_branch = t () => (float[] p) { p = MatMul (x, u) }, "]
    nodes = [nodes[0], nodes[1] + "else_branch = e () => (float[] q) { q = Relu (x) }>"]
    proto = of(nodes, [info("x", [2, "W"]), info("c", [], np.bool_)], v=(7, 2), u=(9, 2))
    assert chosen(proto).sizes["x"] == (2, 7)


def test_models_that_run_at_the_first_guess_are_run_there(tried: list[tuple[int, ...]]) -> None:
    chosen(of([STRIDED, "f = Flatten (a)", "y = MatMul (f, v)"], v=(6 * 31 * 31, 2)))
    assert tried[0] == (1, 4, 64, 64)


@pytest.mark.parametrize(
    ("nodes", "inputs", "weights", "sizes"),
    [
        (["a = Conv (x, k)", "m = MatMul (a, v)", "y = Mul (m, one)"], NCHW,
         {"k": (4, 4, 2, 2), "v": (7, 2), "one": np.ones(1, np.float32)}, {"H": 5, "W": 8}),
        (["a = Conv <strides = [2, 2]> (x, k)", "f = Flatten (a)", "m = MatMul (f, v)", "y = Add (m, b)"],
         {"x": ["N", 6, 4, "W"]}, {"k": (2, 6, 3, 3), "v": (2, 6), "b": (6,)}, {"W": 4}),
    ],
)  # fmt: skip
def test_regions_that_run_at_few_sizes_are_rewritten(
    nodes: list[str], inputs: Any, weights: Mapping[str, Any], sizes: Mapping[str, int]
) -> None:
    rank = 4 if len(inputs["x"]) == len(sizes) + 2 else 2
    proto = of(nodes, inputs, outputs={"y": [None] * rank}, **weights)
    feeds = [{"x": weight(n, inputs["x"][1], sizes.get("H", 4), sizes["W"])} for n in (1, 3)]
    check(proto, applied={"fold_affine": 1}, feeds=feeds, only=["fold_affine"], sizes=sizes)


@pytest.mark.parametrize("shapes", [None, {"x": (1, 4, 16, 16)}])
def test_sizes_left_from_before_the_input_was_opened_keep_nothing_from_being_folded(shapes: Any) -> None:
    same = {"auto_pad": "SAME_UPPER", "strides": [2, 2]}
    nodes = [
        node("Conv", "x w", "c", **same),
        node("BatchNormalization", bn_inputs("c", "a"), "n"),
        node("Conv", "n v", "d", **same),
        node("BatchNormalization", bn_inputs("d", "b"), "y"),
    ]
    weights = {"w": weight(6, 4, 3, 3), "v": weight(6, 6, 3, 3), **batch_norm("a", 6), **batch_norm("b", 6)}
    proto = model(nodes, weights, inputs=NCHW, outputs={"y": ["N", 6, None, None]})
    proto.graph.value_info.extend([info("c", [1, 6, 8, 8]), info("n", [1, 6, 8, 8]), info("d", [1, 6, 4, 4])])
    feeds = [{"x": weight(*size)} for size in ((1, 4, 16, 16), (1, 4, 17, 13), (3, 4, 7, 9), (1, 4, 1, 1))]
    sizes = {"H": 16, "W": 16}
    check(proto, applied={"fold_affine": 2}, feeds=feeds, sizes=sizes, only=["fold_affine"], shapes=shapes)
