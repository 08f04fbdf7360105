"""What every rewrite promises, checked for each built-in one on an example in which it applies.

A new rewrite needs an entry in `EXAMPLES`; without one `test_every_rewrite_has_an_example` fails.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt.analysis.snapshot import Analysis
from graphopt.errors import InputError
from graphopt.rewrites import registry as catalogue
from graphopt.rewrites.base import AnyRewrite, ApproximateRewrite, Rewrite
from graphopt.types import Candidate, Exactness, Rejection, Replacement
from tests.builders import Checked, Net, alone, counted_macs, low_rank, make_feeds

HEADINGS = ("What", "Maths", "When it applies", "Exactness", "Cost", "References")
OPTIONAL = {"References"}


@dataclass(frozen=True)
class Example:
    """Operators in which a rewrite, where it takes part alone, applies once.

    Attributes:
        add: adds the operators behind a value and returns the last output.
        channels: of that value.
        options: options of the rewrite.
    """

    add: Callable[[Net, str], str]
    channels: int
    options: Mapping[str, Any] = field(default_factory=dict)


def _fanout(net: Net, x: str) -> str:
    y = net.conv(x, 4, (1, 1))
    return net.op("Concat", net.conv(y, 2, (1, 1)), net.conv(y, 1, (1, 1)), axis=1)


def _many_channels(net: Net, x: str) -> str:
    """So many on a map so large that minimal filtering pays."""
    y = net.conv(net.resize(x, (2, 2), mode="nearest"), 192, (1, 1))
    return net.op("Relu", net.conv(y, 192, pads=[1] * 4))


def _shuffle(net: Net, x: str) -> str:
    return net.conv(net.op("DepthToSpace", net.conv(x, 32, (1, 1)), blocksize=2, channels=8), 2, (1, 1))


def _along_a_line(net: Net, x: str) -> str:
    y = net.op("Reshape", x, net.const(np.array([0, 64, -1])))
    return net.conv(net.op("Relu", net.conv(y, 64, (31,), group=64, pads=[15, 15])), 6, (1,))


def _in_frames(net: Net, x: str) -> str:
    y = net.op("Reshape", x, net.const(np.array([0, 16, 4, 9, 9])), channels=16)
    y = net.op("Relu", net.conv(y, 32, (3, 3, 3), pads=[1] * 6))
    return net.conv(y, 16, (3, 3, 3), pads=[1] * 6)


def _bottleneck(net: Net, x: str) -> str:
    weight = low_rank(net, 16, 16, (3, 3), rank_in=5, rank_out=6)
    return net.conv(x, 16, weight=weight, pads=[1] * 4, strides=[2, 1])


def _rounded_up(net: Net, x: str) -> str:
    y = net.op("MaxPool", net.op("Sigmoid", x), kernel_shape=[2, 2], strides=[5, 5], ceil_mode=1)
    return net.op("GlobalAveragePool", net.conv(y, 6, (1, 1)))


def _transposes(net: Net, x: str) -> str:
    y = net.op("Sigmoid", net.op("Transpose", x, perm=[0, 2, 3, 1]))
    return net.conv(net.op("Transpose", net.op("Relu", y), perm=[0, 3, 1, 2]), 6)


def _strides(net: Net, x: str) -> str:
    return net.conv(net.op("Relu", net.conv(x, 6, pads=[1] * 4)), 6, (1, 1), strides=[2, 2])


def _unread_channels(net: Net, x: str) -> str:
    weight = net.weights(6, 4, 3, 3)
    weight[:2] = 0.0
    return net.conv(net.op("Relu", net.conv(x, 6, weight=weight)), 6)


def _zero_ring(net: Net, x: str) -> str:
    weight = net.weights(6, net.channels[x], 5, 5)
    weight[:, :, [0, 4]] = weight[:, :, :, [0, 4]] = 0.0
    return net.conv(x, 6, (5, 5), weight=weight, pads=[2] * 4)


def _concat(net: Net, x: str) -> str:
    parts = [net.conv(net.op(kind, x), 32, (1, 1)) for kind in ("Relu", "Neg")]
    return net.conv(net.op("Concat", *parts, axis=1), 4, (1, 1))


def _constant(net: Net, x: str) -> str:
    fixed = net.const(net.normal(1, 4, 9, 9))
    return net.op("Add", net.op("Relu", x), net.conv(fixed, 4, pads=[1] * 4))


def _computed_sizes(net: Net, x: str) -> str:
    y = net.conv(x, 8)
    sizes = net.op("Slice", net.op("Shape", y), net.const(np.array([2])), net.const(np.array([4])))
    flat = net.op("Concat", net.const(np.array([-1, 8])), net.op("ReduceProd", sizes), axis=0)
    return net.op("Reshape", y, flat)


def _normalised(net: Net, x: str) -> str:
    flat = net.op("Reshape", net.const(net.weights(6, 4, 3, 3)), net.const(np.array([6, 36])))
    unit = net.op("Reshape", net.op("LpNormalization", flat), net.const(np.array([6, 4, 3, 3])))
    return net.op(
        "Conv", net.op("Relu", x), net.op("Mul", unit, net.const(net.weights(6, 1, 1, 1))), channels=6
    )


def _dirac(net: Net, x: str) -> str:
    channels = net.channels[x]
    y = net.conv(net.op("Relu", x), channels, weight=np.eye(channels)[:, :, None, None], bias=False)
    return net.op("Sigmoid", y)


def _blocks(net: Net, x: str) -> str:
    weight = net.weights(6, net.channels[x], 3, 3)
    weight[:3, 2:] = weight[3:, :2] = 0.0
    return net.conv(x, 6, weight=weight)


def _branches(net: Net, x: str) -> str:
    half = net.channels[x] // 2
    parts = [net.op("Relu", net.conv(part, 6)) for part in net.split(x, half, half)]
    return net.op("Concat", *parts, axis=1)


def _shared_weights(net: Net, x: str) -> str:
    weight = net.const(net.weights(6, 4, 3, 3))
    other = net.op("Sigmoid", x)
    return net.op("Sub", *(net.conv(value, 6, weight=weight) for value in (x, other)))


def _twice(net: Net, x: str) -> str:
    weight = net.const(net.weights(6, 4, 3, 3))
    first, second = (net.conv(x, 6, weight=weight, bias=False) for _ in range(2))
    return net.op("Mul", net.op("Sigmoid", first), net.op("Tanh", second))


def _siblings(net: Net, x: str) -> str:
    heads = [net.op("Relu", net.conv(x, 6)) for _ in range(3)]
    return net.op("Mul", net.op("Mul", *heads[:2]), heads[2])


def _enlarged(net: Net, x: str) -> str:
    low = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[3, 3])
    high = net.op("Resize", low, "", net.scales(1, 1, 3, 3), mode="linear")
    return net.conv(high, 6, (1, 1))


def _reduced(net: Net, x: str) -> str:
    y = net.op("Relu", net.conv(x, 6, (1, 1)))
    return net.op("Resize", y, "", net.scales(1, 1, 0.6, 0.6), mode="nearest")


def _repeated(net: Net, x: str) -> str:
    high = net.op("Resize", x, "", net.scales(1, 1, 2, 2), mode="nearest")
    return net.conv(high, 6, pads=[1] * 4)


def _separable(net: Net, x: str) -> str:
    weight = np.einsum("orx,riy->oiyx", net.weights(20, 2, 3), net.weights(2, 24, 3))
    return net.conv(x, 20, weight=weight, pads=[1] * 4)


def _decoupled(net: Net, x: str) -> str:
    weight = np.einsum("oi,iyx->oiyx", net.weights(20, 24), net.weights(24, 3, 3))
    return net.conv(x, 20, weight=weight, pads=[1] * 4)


def _two_filters(net: Net, x: str) -> str:
    y = net.conv(net.resize(x, (4, 4), mode="nearest"), 32, group=16, pads=[1] * 4)
    return net.conv(net.op("Relu", y), 8, (1, 1))


def _no_blocks(net: Net, x: str) -> str:
    y = net.op("Relu", net.conv(net.resize(x, (4, 4), mode="nearest"), 58, (1, 1)))
    return net.conv(net.op("Relu", net.conv(y, 58, group=58, pads=[1] * 4)), 32, (1, 1))


def _one_filter(net: Net, x: str) -> str:
    weight = np.einsum("or,ri,yx->oiyx", net.weights(20, 6), net.weights(6, 24), net.weights(3, 3))
    return net.conv(x, 20, weight=weight, pads=[1] * 4)


def _unit(net: Net, x: str) -> str:
    first = net.weights(32, 24, 3, 3)
    first[16:] = 2 * first[:16]
    return net.conv(net.op("Relu", net.conv(x, 32, weight=first, bias=False)), 20, (1, 1))


def _zeros(net: Net, x: str) -> str:
    return net.conv(net.op("Relu", net.conv(x, 6)), 5, weight=np.zeros((5, 6, 3, 3)), pads=[1] * 4)


def _constant_channels(net: Net, x: str) -> str:
    weight = net.weights(6, net.channels[x], 3, 3)
    weight[:2] = 0.0
    return net.conv(net.op("Sigmoid", net.conv(x, 6, weight=weight)), 5, pads=[1] * 4)


def _gelu(net: Net, x: str) -> str:
    scaled = net.op("Mul", x, net.const(np.float32(2**-0.5)))
    plus = net.op("Add", net.op("Erf", scaled), net.const(np.float32(1)))
    return net.op("Mul", x, net.op("Mul", plus, net.const(np.float32(0.5))))


def _normalisation(net: Net, x: str, axes: Sequence[int] = (-1,)) -> str:
    centred = net.op("Sub", x, net.op("ReduceMean", x, axes=list(axes)))
    variance = net.op("ReduceMean", net.op("Mul", centred, centred), axes=list(axes))
    root = net.op("Sqrt", net.op("Add", variance, net.const(np.float32(1e-5))))
    return net.op("Mul", centred, net.op("Reciprocal", root))


def _hard_swish(net: Net, x: str) -> str:
    low, shift, high = (net.const(np.float32(number)) for number in (0, 3, 6))
    clip = net.op("Clip", net.op("Add", x, shift), low, high)
    return net.op("Div", net.op("Mul", x, clip), high)


def _silu(net: Net, x: str) -> str:
    plus = net.op("Add", net.op("Exp", net.op("Neg", x)), net.const(np.float32(1)))
    return net.op("Div", x, plus)


EXAMPLES: dict[str, Example] = {
    "fold_pad": Example(lambda net, x: net.conv(net.pad(x, (0, 0, 1, 2, 0, 0, 0, 1)), 6), 4),
    "fold_affine": Example(lambda net, x: net.affine("Mul", net.bn(net.conv(x, 6)), net.per_channel(6)), 4),
    "collapse": Example(lambda net, x: net.conv(net.conv(x, 32, (1, 1)), 4), 4),
    "lossless_bottleneck": Example(
        lambda net, x: net.conv(x, 20, weight=low_rank(net, 20, 24, (3, 3), rank_in=3), pads=[1] * 4), 24
    ),
    "remove_identity": Example(lambda net, x: net.conv(net.op("Identity", net.op("Sigmoid", x)), 6), 4),
    "cancel_transpose": Example(_transposes, 4),
    "propagate_stride": Example(_strides, 4),
    "shrink_kernel": Example(_zero_ring, 4),
    "prune_channels": Example(_unread_channels, 4),
    "fold_constant_channels": Example(_constant_channels, 4),
    "drop_zero_convolution": Example(_zeros, 4),
    "drop_ceil_mode": Example(_rounded_up, 4),
    "spell_clip": Example(lambda net, x: net.op("Max", x, net.const(np.float32(-0.4))), 4),
    "spell_gelu": Example(_gelu, 4),
    "spell_hard_swish": Example(_hard_swish, 4),
    "spell_instance_norm": Example(lambda net, x: _normalisation(net, x, (2, 3)), 4),
    "spell_layer_norm": Example(_normalisation, 4),
    "spell_mish": Example(lambda net, x: net.op("Mul", x, net.op("Tanh", net.op("Softplus", x))), 24),
    "spell_resize": Example(lambda net, x: net.resize(x, (2, 2), mode="nearest"), 4),
    "spell_silu": Example(_silu, 4),
    "split_prelu": Example(lambda net, x: net.op("PRelu", x, net.const(np.float32([0.3]))), 4),
    "lift_conv1d": Example(_along_a_line, 64),
    "pad_channels": Example(_no_blocks, 32),
    "split_multiplier": Example(_two_filters, 16),
    "split_frames": Example(_in_frames, 64),
    "fold_permutation": Example(
        lambda net, x: net.conv(net.op("Gather", x, net.const(np.array([2, 0, 3, 1])), axis=1), 6), 4
    ),
    "transpose_to_conv": Example(lambda net, x: net.conv(x, 6, (1, 1), transpose=True), 4),
    "conv_to_winograd": Example(_many_channels, 4),
    "conv_to_gemm": Example(lambda net, x: net.conv(x, 6, (9, 9)), 4),
    "fold_affine_before": Example(lambda net, x: net.conv(net.bn(net.op("Relu", x)), 6), 4),
    "collapse_concat": Example(_concat, 4),
    "collapse_fanout": Example(_fanout, 4),
    "collapse_layout": Example(_shuffle, 4),
    "fold_constant": Example(_constant, 4),
    "constant_folding": Example(_normalised, 4),
    "fold_sizes": Example(_computed_sizes, 4),
    "identity_convolution": Example(_dirac, 4),
    "pool_first": Example(
        lambda net, x: net.op("GlobalAveragePool", net.conv(net.op("Relu", x), 6, (1, 1))), 4
    ),
    "resize_after_pointwise": Example(_enlarged, 4),
    "resize_before_pointwise": Example(_reduced, 4),
    "resize_phases": Example(_repeated, 4),
    "merge_branches": Example(
        lambda net, x: net.op("Add", net.conv(x, 6, pads=[1] * 4), net.conv(x, 6, (1, 1))), 4
    ),
    "sum_first": Example(_shared_weights, 4),
    "remove_duplicates": Example(_twice, 4),
    "merge_siblings": Example(_siblings, 4),
    "block_diagonal": Example(_blocks, 4),
    "join_split_branches": Example(_branches, 4),
    "lossless_separable": Example(_separable, 24),
    "lossless_depthwise": Example(_decoupled, 24),
    "bottleneck": Example(_bottleneck, 16, {"bottleneck.rank_in": 5, "bottleneck.rank_out": 6}),
    "separable": Example(_separable, 24, {"separable.rank": 2}),
    "inverted_bottleneck": Example(_one_filter, 24, {"inverted_bottleneck.rank": 6}),
    "depthwise_separable": Example(_decoupled, 24, {"depthwise_separable.multiplier": 1}),
    "select_channels": Example(_unit, 24, {"select_channels.keep": 16}),
}

BUILTIN = {
    cls.name: cls
    for cls in catalogue.BUILTIN
    if cls.exactness is not Exactness.EXPANDING and getattr(cls, "saves", True)
}
"""Those that the contracts bind: an expanding rewrite raises the MACs, each time it runs, and runs alone; one
that saves nothing comes along with others."""
NAMES = sorted(BUILTIN.keys() & EXAMPLES.keys())


ALONE = [name for name in NAMES if name != "select_channels"]
"""Those that do all that they do themselves, in a body too: channels that are not read any more are taken
away by another rewrite, and which they are is chosen by inputs, of which a body has none."""


def plain(name: str, batch: int | str = 1) -> onnx.ModelProto:
    """The example as a model."""
    net = Net()
    example = EXAMPLES[name]
    return net.model(example.add(net, net.input([batch, example.channels, 9, 9])))


def conditional(name: str) -> onnx.ModelProto:
    """The example in the branches of an If, on a value of the outer graph."""
    net, example = Net(), EXAMPLES[name]
    x = net.op("Relu", net.input([1, example.channels, 9, 9]))
    return net.model(net.choose(lambda inner: example.add(inner, x)))


def configured(name: str) -> Rewrite:
    """The rewrite with the example's options."""
    options = dict(EXAMPLES[name].options)
    (rewrite,) = catalogue.select(catalogue.registry(), only=[name], options=options)
    return rewrite


def checked(name: str, model: onnx.ModelProto, times: int = 1, **options: Any) -> Checked:
    """Applies the rewrite alone; `check` compares, recounts, and for exact ones runs it a second time."""
    exact = configured(name).exactness is Exactness.EXACT
    given = dict(EXAMPLES[name].options)
    return alone(name, model, number=times, options=given, again=exact, aim=aim(name), **options)


def aim(name: str) -> str:
    """The aim under which the rewrite takes part."""
    return "time" if getattr(BUILTIN[name], "time_alone", False) else "macs"


def matches(name: str, model: ir.Model) -> list[Candidate | Rejection]:
    return list(configured(name).match(Analysis(model)))


def text(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def test_every_rewrite_has_an_example() -> None:
    assert sorted(EXAMPLES) == sorted(BUILTIN), "EXAMPLES holds one example for each built-in rewrite"


# ---------------------------------------------------------------- form


@pytest.mark.parametrize("cls", catalogue.BUILTIN, ids=lambda cls: cls.name)
def test_one_rewrite_a_file_of_its_name(cls: type[Rewrite]) -> None:
    path = Path(inspect.getfile(cls))
    assert path.stem == cls.name
    assert path.parents[1] == Path(inspect.getfile(catalogue)).parent, "it stands in a family"
    assert re.fullmatch(r"[a-z][a-z0-9_]*", cls.name)


@pytest.mark.parametrize("cls", catalogue.BUILTIN, ids=lambda cls: cls.name)
def test_documented_under_the_headings(cls: type[Rewrite]) -> None:
    doc = catalogue.explain(cls())
    assert doc == inspect.cleandoc(inspect.getmodule(cls).__doc__ or "")
    assert re.fullmatch(r"[A-Z].*\.", doc.splitlines()[0]), "the first line is a summary sentence"
    found = [line.rstrip(":") for line in doc.splitlines()[1:] if line and not line[0].isspace()]
    assert [h for h in HEADINGS if h in found] == found, "headings are there in their order, and no others"
    assert set(HEADINGS) - set(found) <= OPTIONAL
    what = doc.split("\nWhat\n")[1].split("\nMaths\n")[0]
    assert " ─ " in what, "What holds a before → after diagram"
    assert catalogue.summary(cls()) == doc.splitlines()[0]


@pytest.mark.parametrize("cls", catalogue.BUILTIN, ids=lambda cls: cls.name)
def test_frozen_dataclass_without_other_state(cls: type[Rewrite]) -> None:
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    rewrite = cls()
    options = {f.name for f in dataclasses.fields(cls)}
    assert set(vars(rewrite)) == options
    assert {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING} == set()
    with pytest.raises(dataclasses.FrozenInstanceError):
        rewrite.state = 1  # type: ignore[attr-defined]
    assert isinstance(rewrite, Rewrite)
    assert inspect.getdoc(cls)


# ---------------------------------------------------------------- match and build


@pytest.mark.parametrize("name", NAMES)
def test_match_is_deterministic_and_leaves_the_graph_untouched(name: str) -> None:
    model = ir.from_proto(plain(name))
    before = text(model)
    analysis, rewrite = Analysis(model), configured(name)
    first, second = list(rewrite.match(analysis)), list(rewrite.match(analysis))
    assert first == second == matches(name, model)
    assert text(model) == before
    candidates = [found for found in first if isinstance(found, Candidate)]
    assert candidates and all(found.rewrite == name for found in first)
    for candidate in candidates:
        assert candidate.before.macs is not None and candidate.after.macs is not None
        more = candidate.after.macs > candidate.before.macs
        assert more is getattr(rewrite, "adds", False)
        if rewrite.exactness is Exactness.EXACT:
            assert candidate.error == 0.0
        assert set(candidate.site.nodes) <= set(analysis.nodes)


def frozen(replacement: Replacement) -> tuple[Any, ...]:
    """A replacement as something that can be compared."""
    constants = {name: (a.dtype, a.shape, a.tobytes()) for name, a in replacement.constants.items()}
    return replacement.nodes, constants, dict(replacement.outputs)


def built(rewrite: AnyRewrite, analysis: Analysis, candidate: Candidate) -> Replacement:
    if isinstance(rewrite, ApproximateRewrite):
        return rewrite.fit(analysis, candidate, None, refine=2).replacement
    return rewrite.build(analysis, candidate)


@pytest.mark.parametrize("name", NAMES)
def test_hooks_are_spelled_and_asked_as_their_kind_says(name: str) -> None:
    rewrite = configured(name)
    assert catalogue.slip(rewrite, catalogue.KINDS[rewrite.exactness]) == ""


@pytest.mark.parametrize("name", NAMES)
def test_build_is_pure(name: str) -> None:
    model = ir.from_proto(plain(name))
    before = text(model)
    analysis, rewrite = Analysis(model), configured(name)
    for candidate in rewrite.match(analysis):
        if isinstance(candidate, Candidate):
            first, second = (built(rewrite, analysis, candidate) for _ in range(2))
            assert frozen(first) == frozen(second)
            assert frozen(first) == frozen(built(rewrite, Analysis(model), candidate))
            for array in first.constants.values():
                assert array.dtype != np.float64
    assert text(model) == before


@pytest.mark.parametrize("name", NAMES)
def test_rejections_name_a_node(name: str) -> None:
    """On the examples of all rewrites, each with operators behind it that none of them can take."""
    for rejection, names in _rejections(name):
        assert any(node in rejection.reason for node in names), rejection


def _rejections(name: str) -> Iterator[tuple[Rejection, list[str]]]:
    for analysis in _refused():
        for found in configured(name).match(analysis):
            if isinstance(found, Rejection):
                yield found, [node.name or "" for node in analysis.model.graph]


@cache
def _refused() -> list[Analysis]:
    """The examples with operators behind them that no rewrite can take."""
    found = []
    for example in EXAMPLES.values():
        net = Net()
        y = example.add(net, net.input([1, example.channels, 9, 9]))
        shape = net.model(y).graph.output[0].type.tensor_type.shape.dim
        if len(shape) != 4:
            continue
        net.channels[y] = shape[1].dim_value
        parameters = [net.const(net.random.uniform(0.5, 1.5, net.channels[y])) for _ in range(4)]
        net.op("BatchNormalization", y, *parameters, outputs=3, training_mode=1)
        y = net.pad(net.nodes[-1].output[0], (0, 0, 1, 1, 0, 0, 1, 1), mode="edge")
        both = net.op("Concat", y, y, axis=1)
        model = net.model(net.conv(net.conv(both, 6, group=2), 6, pads=[1] * 4))
        found.append(Analysis(ir.from_proto(model)))
    return found


# ---------------------------------------------------------------- the result


@pytest.mark.parametrize("name", ALONE)
def test_claimed_macs_are_those_of_the_written_file(name: str) -> None:
    """Those of the operators that went and came, counted here; `check` compares the totals."""
    result = checked(name, plain(name))
    (applied,) = result.report.applied
    came = [node.name for node in result.after.graph.node if node.metadata_props]
    stayed = {node.name for node in result.after.graph.node} - set(came)
    gone = [node for node in applied.candidate.site.nodes if node not in stayed]
    counts = [
        counted_macs(model, make_feeds(model), only=names)
        for model, names in ((result.before, gone), (result.after, came))
    ]
    assert [applied.candidate.before.macs, applied.candidate.after.macs] == counts
    assert applied.candidate.macs_saved == result.macs_before - result.macs_after


@pytest.mark.parametrize("name", NAMES)
def test_a_second_run_of_everything_changes_nothing(name: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    options = dict(EXAMPLES[name].options)
    only = [name] if configured(name).exactness is not Exactness.EXACT else []
    graphopt.optimize(plain(name), aim=aim(name), only=only, options=options).save(first)
    again = graphopt.optimize(first, aim=aim(name))
    again.save(second)
    assert not again.report.changed and not again
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", ALONE)
def test_works_in_an_if_body(name: str) -> None:
    result = checked(name, conditional(name), times=2)
    graphs = sorted(item.candidate.site.graph for item in result.report.applied)
    assert graphs == ["choice/else_branch", "choice/then_branch"]
    saved = result.macs_before - result.macs_after
    assert {saved} == {item.candidate.macs_saved for item in result.report.applied}, (
        "one of both branches runs"
    )


@pytest.mark.parametrize("name", ALONE)
def test_works_under_a_symbolic_batch(name: str) -> None:
    result = checked(name, plain(name, batch="N"))
    before, after = result.before.graph, result.after.graph
    for given, value in zip((*before.input, *before.output), (*after.input, *after.output), strict=True):
        assert value.type.tensor_type.shape.dim[0] == given.type.tensor_type.shape.dim[0]
        assert not value.type.tensor_type.shape.dim[0].HasField("dim_value")


@pytest.mark.parametrize("name", ALONE)
def test_new_nodes_are_named_and_tell_where_they_came_from(name: str) -> None:
    result = checked(name, plain(name))
    names = [node.name for node in result.after.graph.node]
    assert all(names) and len(set(names)) == len(names)
    (applied,) = result.report.applied
    old = {node.name: node.op_type for node in result.before.graph.node}
    analysis = Analysis(ir.from_proto(result.before))
    new, stamps = built(configured(name), analysis, applied.candidate).nodes, 0
    sources = {node.anchor or ",".join(applied.candidate.site.nodes) for node in new}
    for node in result.after.graph.node:
        stamp = {entry.key: entry.value for entry in node.metadata_props}
        if not stamp:
            assert old[node.name] == node.op_type, "an operator without a stamp was there before"
            continue
        stamps += 1
        assert stamp["graphopt.rewrite"] == name
        assert stamp["graphopt.from"] in sources
    assert stamps == len(new)


def beside(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with an operator of its own input and output beside it."""
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    wider.graph.node.append(helper.make_node("Relu", ["aside"], ["aside_y"], name="aside"))
    wider.graph.input.append(helper.make_tensor_value_info("aside", onnx.TensorProto.FLOAT, [2, 3]))
    wider.graph.output.append(helper.make_tensor_value_info("aside_y", onnx.TensorProto.FLOAT, [2, 3]))
    return wider


@pytest.mark.parametrize("name", ALONE)
def test_can_be_kept_away_from_a_node(name: str) -> None:
    """--keep names a node of the site, --at one that is not in it."""
    model = beside(plain(name))
    (applied,) = checked(name, model).report.applied
    given = {"options": dict(EXAMPLES[name].options), "again": False, "aim": aim(name)}
    without = partial(alone, name, model, number=0, **given)
    node = applied.candidate.site.nodes[-1]
    without(keep=[node], because=(f'"keep" names {node}',))
    without(at=["aside"], because=('"at" names other nodes',))


@pytest.mark.parametrize("name", NAMES)
def test_can_be_left_out(name: str) -> None:
    result = graphopt.optimize(plain(name), aim=aim(name), skip=[name])
    assert name not in {item.candidate.rewrite for item in result.report.applied}
    assert name not in {item.rewrite for item in (*result.report.rejected, *result.report.declined)}


@pytest.mark.parametrize("number", [np.nan, np.inf, -3e38])
@pytest.mark.parametrize("name", NAMES)
def test_numbers_that_are_none_make_no_warning(name: str, number: float) -> None:
    """Whether it applies or not; what onnxruntime does not run is refused."""
    model = plain(name)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if array.dtype.kind == "f" and array.size:
            array.reshape(-1)[0] = number
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    with warnings.catch_warnings(), contextlib.suppress(InputError):
        warnings.simplefilter("error", RuntimeWarning)
        graphopt.optimize(model, only=[name], options=dict(EXAMPLES[name].options) or None)
