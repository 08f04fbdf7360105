"""Networks of the kinds that are deployed: what errors count is found for every layer that allows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphopt
from graphopt.compression import curvature
from tests.builders import batch_norm, bn_inputs, info, model, node, parsed, rng, weight

Part: TypeAlias = "tuple[list[onnx.NodeProto], dict[str, np.ndarray]]"
WIDTH = 24
FEATURES = 32


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def one(value: float, dtype: Any = np.float32) -> np.ndarray:
    return np.array(value, dtype)


def only(*nodes: onnx.NodeProto | str, **weights: np.ndarray) -> Part:
    return parsed(*nodes), weights


def conv(x: str, y: str, inside: int = WIDTH, out: int = WIDTH, **options: Any) -> Part:
    """A 3x3 convolution called after its output."""
    options.setdefault("pads", [1, 1, 1, 1])
    weights = {f"{y}/w": weight(out, inside, 3, 3, seed=len(y)), f"{y}/b": weight(out, seed=1)}
    return [node("Conv", f"{x} {y}/w {y}/b", y, y, **options)], weights


def dense(x: str, y: str, inside: int, out: int) -> Part:
    """A MatMul called after its output, and a bias."""
    weights = {f"{y}/w": np.ascontiguousarray(weight(out, inside, seed=len(y)).T), f"{y}/b": weight(out)}
    return [node("MatMul", f"{x} {y}/w", f"{y}/product", y), node("Add", f"{y}/product {y}/b", y)], weights


def layer_norm(x: str, y: str, width: int) -> Part:
    weights = {f"{y}/s": np.linspace(0.5, 1.5, width, dtype=np.float32), f"{y}/b": weight(width)}
    return [node("LayerNormalization", f"{x} {y}/s {y}/b", y)], weights


def network(*parts: Part, shape: Sequence[int | str] = ("N", 8, 12, 12), **options: Any) -> onnx.ModelProto:
    weights = {name: array for _, some in parts for name, array in some.items()}
    options.setdefault("inputs", {"x": list(shape)})
    built = model([each for nodes, _ in parts for each in nodes], weights, **options)
    for tensor in built.graph.initializer:
        if weights[tensor.name].ndim == 0:
            del tensor.dims[:]
    return built


def inputs(*shape: int, count: int = 48) -> np.ndarray:
    """Smooth in space."""
    found = rng(3).standard_normal((count, *shape))
    for axis in range(2, found.ndim):
        found = found + np.roll(found, 1, axis)
    return found.astype(np.float32)


def detector(*more: onnx.NodeProto | str, **weights: np.ndarray) -> onnx.ModelProto:
    """Two levels, joined by upsampling, and heads whose outputs are boxes, scores and classes."""
    return network(
        conv("x", "stem", 8),
        only(node("Relu", "stem", "r1")),
        conv("r1", "down", strides=[2, 2]),
        only(
            """s = Sigmoid (down)  r2 = Mul (down, s)
            up = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric"> (r2, , two)
            both = Concat <axis = 1> (up, r1)""",
            two=np.array([1, 1, 2, 2], np.float32),
        ),
        conv("both", "neck", 2 * WIDTH),
        only(node("Split", "neck halves", "a b", axis=1), halves=numbers(12, 12)),
        only("ra = Relu (a)  mixed = Concat <axis = 1> (b, ra)"),
        conv("mixed", "fine", out=12),
        conv("r2", "coarse", out=12),
        only(
            """f1 = Reshape (fine, flat)  f2 = Reshape (coarse, flat)  f = Concat <axis = 2> (f1, f2)
            t = Transpose <perm = [0, 2, 1]> (f)  boxes = Slice (t, from0, from4, last)
            logits = Slice (t, from4, end, last)  scores = Sigmoid (logits)
            classes = ArgMax <axis = 2> (scores)""",
            flat=numbers(0, 6, -1),
            from0=numbers(0),
            from4=numbers(4),
            end=numbers(99),
            last=numbers(2),
        ),
        only(*more, **weights),
        outputs=[
            *(info("boxes", None), info("scores", None), info("classes", None, np.int64)),
            *(info(each.output[0], None) for each in parsed(*more)[-1:]),
        ],
    )


def suppressed() -> onnx.ModelProto:
    """The same with what is left of its boxes, which are as many as they are."""
    return detector(
        """st = Transpose <perm = [0, 2, 1]> (scores)
        kept = NonMaxSuppression (boxes, st, most, overlap, least)""",
        node("Cast", "kept", "numbers", to=onnx.TensorProto.FLOAT),
        most=numbers(20),
        overlap=np.array([0.5], np.float32),
        least=np.array([0.5], np.float32),
    )


def transformer() -> onnx.ModelProto:
    """A block of a vision transformer, as exported with an open batch."""
    width, tokens = 48, 10
    return network(
        only(
            """[patch] p = Conv <strides = [4, 4]> (x, pw, pb)  pr = Reshape (p, rows)
            t = Transpose <perm = [0, 2, 1]> (pr)  size = Shape (t)
            batch = Gather <axis = 0> (size, at0)  batch1 = Unsqueeze (batch, axis0)
            wanted = Concat <axis = 0> (batch1, single)  classes = Expand (class, wanted)
            tokens = Concat <axis = 1> (classes, t)  h0 = Add (tokens, places)""",
            pw=weight(width, 8, 4, 4),
            pb=weight(width),
            rows=numbers(0, width, -1),
            at0=one(0, np.int64),
            axis0=numbers(0),
            single=numbers(1, width),
            **{"class": weight(1, 1, width), "places": weight(1, tokens, width)},
        ),
        layer_norm("h0", "n1", width),
        dense("n1", "qkv", width, 3 * width),
        only(
            "parts = Reshape (qkv, heads)  apart = Transpose <perm = [2, 0, 3, 1, 4]> (parts)",
            *(node("Gather", f"apart at{i}", "qkv"[i] + "_", axis=0) for i in range(3)),
            """kt = Transpose <perm = [0, 1, 3, 2]> (k_)  products = MatMul (q_, kt)
            masked = Where (mask, products, low)  weights = Softmax <axis = -1> (masked)
            seen = MatMul (weights, v_)  turned = Transpose <perm = [0, 2, 1, 3]> (seen)
            all = Reshape (turned, joined)""",
            heads=numbers(0, tokens, 3, 4, 12),
            joined=numbers(0, tokens, width),
            at1=one(1, np.int64),
            at2=one(2, np.int64),
            mask=np.tri(tokens, dtype=bool).T.copy(),
            low=one(-np.inf),
        ),
        dense("all", "out", width, width),
        only(node("Add", "out h0", "h1")),
        layer_norm("h1", "n2", width),
        dense("n2", "wide", width, 4 * width),
        only(
            "e1 = Div (wide, root)  e2 = Erf (e1)  e3 = Add (e2, unit)  gelu = Mul (wide, e3)",
            root=one(2**0.5),
            unit=one(1),
        ),
        dense("gelu", "narrow", 4 * width, width),
        only("h2 = Add (narrow, h1)  h3 = Gather <axis = 1> (h2, at0)"),
        dense("h3", "y", width, 10),
        outputs={"y": ["N", 10]},
    )


def sequence_first() -> onnx.ModelProto:
    """Attention over [length, batch, features], its heads in the batch: neither is the first axis."""
    width, length = FEATURES, 10
    return network(
        only(node("Transpose", "x", "t", perm=[1, 0, 2])),
        dense("t", "qkv", width, 3 * width),
        only(
            node("Split", "qkv thirds", "q k v", axis=2),
            *(node("Reshape", f"{n} heads", f"{n}h") for n in "qkv"),
            """qt = Transpose <perm = [1, 0, 2]> (qh)  kt = Transpose <perm = [1, 2, 0]> (kh)
            vt = Transpose <perm = [1, 0, 2]> (vh)  products = MatMul (qt, kt)
            weights = Softmax <axis = -1> (products)  seen = MatMul (weights, vt)
            turned = Transpose <perm = [1, 0, 2]> (seen)  all = Reshape (turned, joined)""",
            thirds=numbers(width, width, width),
            heads=numbers(length, -1, 8),
            joined=numbers(length, -1, width),
        ),
        dense("all", "out", width, width),
        only(node("ReduceMean", "out", "mean", axes=[0], keepdims=0)),
        dense("mean", "y", width, 20),
        shape=["N", length, width],
        outputs={"y": ["N", 20]},
    )


def windows() -> onnx.ModelProto:
    """Windows of a picture in the batch, as in a Swin transformer, and a cyclic shift."""
    return network(
        conv("x", "stem", 8),
        only(
            """t = Transpose <perm = [0, 2, 3, 1]> (stem)  r1 = Reshape (t, cut)
            r2 = Transpose <perm = [0, 1, 3, 2, 4, 5]> (r1)  win = Reshape (r2, rows)""",
            cut=numbers(-1, 3, 4, 3, 4, WIDTH),
            rows=numbers(-1, 16, WIDTH),
        ),
        dense("win", "mix", WIDTH, WIDTH),
        only(
            """b1 = Reshape (mix, cut)  b2 = Transpose <perm = [0, 1, 3, 2, 4, 5]> (b1)
            b3 = Reshape (b2, whole)  lower = Slice (b3, from2, end, rowwise)
            upper = Slice (b3, from0, from2, rowwise)  rolled = Concat <axis = 1> (lower, upper)
            back = Transpose <perm = [0, 3, 1, 2]> (rolled)""",
            whole=numbers(-1, 12, 12, WIDTH),
            from0=numbers(0),
            from2=numbers(2),
            end=numbers(99),
            rowwise=numbers(1),
        ),
        conv("back", "y"),
    )


def between(*nodes: onnx.NodeProto | str, halved: bool = False, **weights: np.ndarray) -> onnx.ModelProto:
    """Operators from "r" to "i" between two convolutions."""
    return network(
        conv("x", "first", 8),
        only(node("Relu", "first", "r")),
        only(*nodes, **weights),
        conv("i", "y", WIDTH // 2 if halved else WIDTH),
    )


def chunked() -> onnx.ModelProto:
    """Half of the channels gate the others; where the halves lie follows from a shape."""
    return between(
        """size = Shape (r)  channels = Gather (size, at1)  half = Div (channels, two)
        low = Slice (r, start, half, at1)  high = Slice (r, half, channels, at1)  i = Mul (low, high)""",
        halved=True,
        at1=numbers(1),
        two=numbers(2),
        start=numbers(0),
    )


def overridable() -> onnx.ModelProto:
    """A caller may feed other statistics of a normalisation, by a file of IR version 4 and later."""
    proto = between(node("BatchNormalization", bn_inputs("r", "bn"), "i"), **batch_norm("bn", WIDTH))
    proto.graph.input.extend(info(f"bn/{key}", [WIDTH]) for key in ("scale", "shift", "mean", "var"))
    return proto


def taken_names() -> onnx.ModelProto:
    """The network itself has names as gradients get."""
    proto = between(node("Sigmoid", "r", "gradient/constant/0"), node("Tanh", "gradient/constant/0", "i"))
    for each in proto.graph.node:
        for names in (each.input, each.output):
            kept = ["gradient/0/0" if name == "r" else name for name in names]
            del names[:]
            names.extend(kept)
    return proto


def bare_outputs() -> onnx.ModelProto:
    """Outputs that no operator makes: an input and a weight."""
    proto = between(node("Tanh", "r", "i"))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "k"))
    proto.graph.output.extend([info("x", ["N", 8, 12, 12]), info("k", [3])])
    return proto


def classes_alone() -> onnx.ModelProto:
    """Segmentation whose output is the class of each pixel."""
    proto = between(node("Tanh", "r", "i"))
    proto.graph.node.append(node("ArgMax", "y", "classes", axis=1, keepdims=0))
    del proto.graph.output[:]
    proto.graph.output.append(info("classes", None, np.int64))
    return proto


def very_old() -> onnx.ModelProto:
    proto = between(node("Identity", "r", "i"))
    proto.opset_import[0].version = 6
    return proto


PICTURE = inputs(8, 12, 12)
ALL: dict[str, tuple[onnx.ModelProto, np.ndarray]] = {
    "a detector": (detector(), PICTURE),
    "a detector that suppresses": (suppressed(), PICTURE),
    "a transformer": (transformer(), PICTURE),
    "the sequence first": (sequence_first(), inputs(10, FEATURES)),
    "windows": (windows(), PICTURE),
    "slices that follow from shapes": (chunked(), PICTURE),
    "overridable weights, frozen": (overridable(), PICTURE),
    "names that are taken": (taken_names(), PICTURE),
    "outputs that no operator makes": (bare_outputs(), PICTURE),
    "classes alone": (classes_alone(), PICTURE),
}


def found(proto: onnx.ModelProto, x: Any, monkeypatch: Any, **options: Any) -> tuple[set[str], set[str], Any]:
    """The layers whose errors are known to count, those where that is not known, and the result."""
    asked: set[str] = set()
    known: set[str] = set()
    real = curvature.weightings

    def watched(analysis: Any, linears: Any, *arguments: Any, **rest: Any) -> Mapping[str, Any]:
        made = real(analysis, linears, *arguments, **rest)
        asked.update(each.name for each in linears)
        known.update(made)
        return made

    monkeypatch.setattr(curvature, "weightings", watched)
    result = graphopt.optimize(proto, {"macs": 0.7}, x, floor="off", **options)
    assert not [note for note in result.report.notes if "count the same" in note]
    return known, asked - known, result


@pytest.mark.parametrize("name", ALL)
def test_what_errors_count_is_known_of_every_layer(name: str, monkeypatch: Any) -> None:
    proto, x = ALL[name]
    known, missing, _ = found(proto, x, monkeypatch, freeze_initializers="frozen" in name)
    assert len(known) >= 2 and not missing


def half_precision() -> onnx.ModelProto:
    return between(
        node("Cast", "r", "h", to=onnx.TensorProto.FLOAT16),
        node("Mul", "h h2", "hm"),
        node("Cast", "hm", "i", to=onnx.TensorProto.FLOAT),
        h2=np.float16([2]),
    )


def body() -> onnx.ModelProto:
    parts = [
        onnx.helper.make_graph([node(op, "r", f"{op}/y")], op, [], [info(f"{op}/y", None)])
        for op in ("Relu", "Tanh")
    ]
    return between(node("If", "c", "i", then_branch=parts[0], else_branch=parts[1]), c=np.array([True]))


SOME = {
    "a part in half precision": half_precision(),
    "a body": body(),
    "a sequence": between(
        "s = SplitToSequence <axis = 1> (r, size)  i = SequenceAt (s, at)",
        size=one(WIDTH, np.int64),
        at=one(0, np.int64),
    ),
    "an old operator set": very_old(),
}


@pytest.mark.parametrize("name", SOME)
def test_what_stands_in_the_way_of_one_layer_leaves_the_others(name: str, monkeypatch: Any) -> None:
    known, missing, _ = found(SOME[name], PICTURE, monkeypatch)
    assert (known, missing) == ({"y"}, {"first"})


def ends(factor: float) -> onnx.ModelProto:
    """Numbers that a factor takes to the ends of their range, inside and in an output."""
    proto = between("m = Mul (r, f)  i = Softsign (m)", f=np.float32([factor]))
    proto.graph.node.append(node("Mul", "y f", "z", "far"))
    proto.graph.output.append(info("z", None))
    return proto


@pytest.mark.parametrize("factor", [1e18, 1e35])
@pytest.mark.filterwarnings("error")
def test_numbers_at_the_ends_of_their_range_are_survived(factor: float) -> None:
    result = graphopt.optimize(ends(factor), {"macs": 0.7}, PICTURE)
    assert result.report.after.macs <= 0.7 * result.report.before.macs


@pytest.mark.parametrize("factor", [0.0, 1e-25])
@pytest.mark.filterwarnings("error")
def test_numbers_that_vanish_leave_nothing_to_learn(factor: float) -> None:
    with pytest.raises(graphopt.InputError, match="no output of the model changes with the inputs"):
        graphopt.optimize(ends(factor), {"macs": 0.7}, PICTURE)


@pytest.mark.filterwarnings("error")
def test_what_reads_numbers_too_large_for_statistics_is_left_alone() -> None:
    proto = between("m = Mul (r, f)  i = Abs (m)", f=np.float32([1e25]))
    with pytest.raises(graphopt.BudgetError) as caught:
        graphopt.optimize(proto, {"macs": 0.3}, PICTURE)
    left = caught.value.result.report.rejected
    reasons = [item.reason for item in left if item.site.nodes == ("y",)]
    assert any("too large, or not finite" in reason for reason in reasons)


def test_the_numbers_that_a_network_finds_are_no_measure_of_a_layer(monkeypatch: Any) -> None:
    proto = between(node("Tanh", "r", "i"))
    proto.graph.node.append(node("NonZero", "r", "places"))
    proto.graph.output.append(info("places", None, np.int64))
    known, _, result = found(proto, PICTURE, monkeypatch)
    assert known and result.report.after.macs <= 0.7 * result.report.before.macs
