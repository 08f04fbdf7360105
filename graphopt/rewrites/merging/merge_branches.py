"""Add parallel linear operators on one input into one.

What
    A sum of convolutions of the same value, and of that value itself or its BatchNormalization, becomes one
    convolution. Sums nest, have any number of terms and hold differences; other terms stay.

        x ─┬─ Conv 3x3 ───────────── Add ─ Add ─ y        x ─ Conv 3x3 ─ y
           ├─ Conv 1x1 ───────────────┘     │
           └─ BatchNormalization (or x) ────┘

Maths
    W₁ x + W₂ x = (W₁ + W₂) x. Tap t of a Conv stands at offset −pad_begin + t·dilation of the input; kernels
    of different size, dilation and pads add up where their taps stand (`numerics.kernels.overlay`). x itself
    is a depthwise 1x1 of ones, an affine operator s·x + t a depthwise 1x1 of s with bias t. Groups g₁, g₂
    make a kernel of gcd(g₁, g₂) groups.

When it applies
    1. The operators are of one kind (Conv, ConvTranspose, Gemm or MatMul) with constant weights, read the
       same value, have the same strides and output channels, and outputs of one size whatever the input's.
    2. Their outputs are read by the sum alone.
    3. The one kernel has no more weights than those it replaces: 1x3 and 3x1 stay two (6 taps for 9) unless
       a 3x3 is there too. Of several, those that gain most are merged first.

Exactness
    Exact. Kernels are added in float64 and rounded once.

Cost
    MACs fall by those of the operators that go away, or stay where only additions go away.

References:
    Ding et al. 2021, "RepVGG: Making VGG-style ConvNets great again"; Ding et al. 2019, "ACNet".
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.linear import Form, Linear, linear_cost
from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.kernels import overlay
from graphopt.numerics.kernels.overlay import Row
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.merging.sums import Sum, emit, sum_at, sum_roots
from graphopt.rewrites.patterns import affine
from graphopt.rewrites.patterns.affine import Affine
from graphopt.rewrites.patterns.common import linear_before, site
from graphopt.types import Array, Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True, slots=True)
class _SummedBranch:
    """One term of a sum that is linear in some value.

    Attributes:
        term: the value that the sum reads.
        factor: how often it is added, less how often it is subtracted.
        nodes: the operators that make it from its source.
        linear: the linear operator among them; None for an affine one, or the source itself.
        affine: what the affine operators do; None for a linear operator.
    """

    term: ir.Value
    factor: int
    nodes: tuple[ir.Node, ...]
    linear: Linear | None
    affine: Affine | None

    def like(self, model: Linear) -> tuple[Form, tuple[int, ...]] | None:
        """Form and kernel as an operator of the model's kind; None where it is none."""
        own = self.linear
        if own is not None:
            same = (own.op, own.form.strides, own.out_channels, own.in_channels, own.dtype)
            wanted = (model.op, model.form.strides, model.out_channels, model.in_channels, model.dtype)
            return (own.form, own.kernel) if same == wanted else None
        channels = model.in_channels
        if model.form.strided or channels is None or model.out_channels != channels:
            return None
        if self.scale_and_shift(model) is None:
            return None
        axes = len(model.kernel)
        return replace(model.form.pointwise(), op=model.op, group=channels if axes else 1), (1,) * axes

    def scale_and_shift(self, model: Linear) -> tuple[Array, Array] | None:
        """Scale and shift [channels] of an affine branch; None where they vary along something else."""
        assert self.affine is not None and model.in_channels is not None
        axis = self.affine.scale.ndim - 1 if model.op == "MatMul" else 1
        if not 0 < axis < self.affine.scale.ndim:
            return None
        scale, shift = (
            affine.per_channel(a, axis, model.in_channels) for a in (self.affine.scale, self.affine.shift)
        )
        return None if scale is None or shift is None else (scale, shift)

    def weight_and_bias(self, model: Linear) -> tuple[Array, Array]:
        """Kernel [out, in / group, *taps] and bias [out], times the factor."""
        if self.linear is not None:
            weight, bias = self.linear.weight(), self.linear.bias()
            assert self.linear.out_channels is not None
            return self.factor * weight, self.factor * (np.zeros(len(weight)) if bias is None else bias)
        found = self.scale_and_shift(model)
        assert found is not None
        scale, shift = found
        weight = scale.reshape(-1, 1, *(1,) * len(model.kernel)) if model.kernel else np.diag(scale)
        return self.factor * weight, self.factor * shift


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Branches that one linear operator can replace.

    Attributes:
        branches: the branches.
        model: one of their linear operators; None for a single branch without one.
        form: the form of the one operator.
        shape: shape of its weights, [out, in / group, *taps].
    """

    branches: tuple[_SummedBranch, ...]
    model: Linear | None
    form: Form
    shape: tuple[int, ...]

    @property
    def weights(self) -> int:
        """Weights of the one operator, to which its MACs are proportional; 0 where none is needed."""
        return math.prod(self.shape) if self.model is not None else 0

    @property
    def pays(self) -> bool:
        """Whether operators go away."""
        return self.model is not None and (len(self.branches) > 1 or abs(self.branches[0].factor) != 1)

    @property
    def linears(self) -> int:
        """How many of the branches are linear operators."""
        return sum(branch.linear is not None for branch in self.branches)


@dataclass(frozen=True)
class MergeBranches(ExactRewrite):
    """Adds parallel linear operators on one input into one."""

    name: ClassVar[str] = "merge_branches"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each sum, however it is nested."""
        for root in sum_roots(analysis):
            found = sum_at(analysis, root)
            clusters = _clusters(analysis, found)
            paying = [cluster for cluster in clusters if cluster.pays]
            if not paying:
                several = [c for c in clusters if c.linears]
                sources = Counter(c.branches[0].linear.x for c in several if c.branches[0].linear is not None)
                if any(count > 1 for count in sources.values()):
                    linears = [b.linear for c in several for b in c.branches if b.linear is not None]
                    names = ", ".join(linear.name for linear in linears if sources[linear.x] > 1)
                    reason = f"{names} do not fit one kernel of as few weights"
                    yield Rejection(self.name, site(analysis, [root]), f"{analysis.name(root)}: {reason}")
                continue
            gone = [node for cluster in paying for branch in cluster.branches for node in branch.nodes]
            nodes = list(dict.fromkeys([*found.nodes, *gone]))
            left = len(found.without(_terms(paying))) + len(paying) - 1
            after = sum((_cost(cluster) for cluster in paying), Cost(0))
            after += analysis.cost([root] * min(left, len(found.nodes)))
            yield Candidate(self.name, site(analysis, nodes), analysis.cost(nodes), after)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The merged operators and the sum of them and of the other terms."""
        found = sum_at(analysis, analysis.nodes[candidate.site.nodes[0]])
        paying = [cluster for cluster in _clusters(analysis, found) if cluster.pays]
        assert paying and paying[0].model is not None
        builder = Builder(paying[0].model.dtype)
        merged = []
        for index, cluster in enumerate(paying):
            model = cluster.model
            assert model is not None
            parts = [branch.weight_and_bias(model) for branch in cluster.branches]
            forms = [like for branch in cluster.branches if (like := branch.like(model)) is not None]
            weight = overlay.total(
                [weight for weight, _ in parts],
                [form.group for form, _ in forms],
                [_rows(form, kernel) for form, kernel in forms],
            )
            bias = np.sum([bias for _, bias in parts], axis=0)
            name = f"/merged{index or ''}"
            merged.append(builder.linear(cluster.form, model.x, weight, bias, rank=model.rank, name=name))
        rest = found.without(_terms(paying))
        y = emit(builder, merged, rest, nary=found.nary)
        return builder.replacement({found.root.outputs[0].name or "": y})


def _terms(clusters: Sequence[_Cluster]) -> set[ir.Value]:
    return {branch.term for cluster in clusters for branch in cluster.branches}


def _cost(cluster: _Cluster) -> Cost:
    assert cluster.model is not None
    return linear_cost(cluster.form, cluster.shape, cluster.model.input_shape, cluster.model.itemsize)


def _clusters(analysis: Analysis, found: Sum) -> list[_Cluster]:
    """The branches of a sum, those that become one operator together."""
    by_source: dict[ir.Value, list[_SummedBranch]] = {}
    for term, factor in found.factors.items():
        source, branch = _branch(analysis, found, term, factor)
        by_source.setdefault(source, []).append(branch)
    return [
        cluster
        for branches in by_source.values()
        if any(branch.linear is not None for branch in branches)
        for cluster in _merged(analysis, branches)
    ]


def _branch(analysis: Analysis, found: Sum, term: ir.Value, factor: int) -> tuple[ir.Value, _SummedBranch]:
    """A term as a function of its source; the source is the term where it is not."""
    itself = term, _SummedBranch(term, factor, (), None, _nothing(analysis, term))
    if not found.owns(term):
        return itself
    linear, between = linear_before(analysis, term)
    graph = found.root.graph
    if linear is not None:
        path = [linear.node, *between]
        alone = all(analysis.sole_consumer(node.outputs[0]) is not None for node in path[:1] + path[2:])
        source = linear.node.inputs[0]
        if linear.obstacle or linear.form.auto_pad or source is None or (between and not alone):
            return itself
        if any(node.graph is not graph for node in path) or linear.out_channels is None:
            return itself
        return source, _SummedBranch(term, factor, tuple(path), linear, None)
    source, whole, nodes = _affine_chain(analysis, term, graph)
    return (source, _SummedBranch(term, factor, nodes, None, whole)) if nodes else itself


def _affine_chain(
    analysis: Analysis, term: ir.Value, graph: object
) -> tuple[ir.Value, Affine | None, tuple[ir.Node, ...]]:
    """What affine operators do to the value from which they make a term that nothing else reads."""
    whole: Affine | None = None
    nodes: list[ir.Node] = []
    value = term
    while (node := value.producer()) is not None and node.graph is graph:
        below = affine.operand(analysis, node)
        if below is None or (nodes and analysis.sole_consumer(value) is None):
            break
        step = affine.read(analysis, node, below, analysis.fixed_shape(below))
        if isinstance(step, str):
            break
        whole = step if whole is None else step.then(whole)
        nodes.append(node)
        value = below
    return value, whole, tuple(nodes)


def _nothing(analysis: Analysis, value: ir.Value) -> Affine:
    """The affine operator that changes nothing, of the value's rank (or 0 where that is unknown)."""
    shape = analysis.shape(value)
    axes = (1,) * (0 if shape is None else len(shape))
    return Affine(np.ones(axes), np.zeros(axes))


def _merged(analysis: Analysis, branches: Sequence[_SummedBranch]) -> list[_Cluster]:
    """Joins branches of one source while that makes no more weights, the largest saving first."""
    clusters = [
        _Cluster((b,), b.linear, b.linear.form, _weight_shape(b.linear))
        if b.linear is not None
        else _Cluster((b,), None, Form("Conv"), ())
        for b in branches
    ]
    clusters = _alike_joined(analysis, clusters)
    while True:
        options = []
        for i, j in itertools.combinations(range(len(clusters)), 2):
            both = _join(analysis, clusters[i], clusters[j])
            if both is not None and both.weights <= clusters[i].weights + clusters[j].weights:
                options.append((both.weights - clusters[i].weights - clusters[j].weights, i, j, both))
        if not options:
            return clusters
        _, i, j, both = min(options, key=lambda option: option[:3])
        clusters = [both if k == i else c for k, c in enumerate(clusters) if k != j]


def _alike_joined(analysis: Analysis, clusters: Sequence[_Cluster]) -> list[_Cluster]:
    """Those of one form and shape together, which loses nothing and leaves few pairs to try."""
    found: dict[object, _Cluster] = {}
    for number, cluster in enumerate(clusters):
        key = number if cluster.model is None else (cluster.form, cluster.shape)
        both = _join(analysis, found[key], cluster) if key in found else cluster
        found[key if both is not None else number] = both or cluster
    return list(found.values())


def _weight_shape(linear: Linear) -> tuple[int, ...]:
    return (linear.out_channels or 1, (linear.in_channels or 1) // linear.group, *linear.kernel)


def _join(analysis: Analysis, first: _Cluster, second: _Cluster) -> _Cluster | None:
    """One operator for both; None where there is none."""
    model = first.model or second.model
    if model is None:
        return None
    branches = (*first.branches, *second.branches)
    likes = [branch.like(model) for branch in branches]
    forms = [like for like in likes if like is not None]
    if len(forms) < len(likes) or not _same_sizes(analysis, model, forms):
        return None
    group = math.gcd(*(form.group for form, _ in forms))
    rows = [overlay.joined(axis) for axis in zip(*(_rows(*like) for like in forms), strict=True)]
    shape = (model.out_channels or 1, (model.in_channels or 1) // group, *(row.taps for row in rows))
    return _Cluster(branches, model, _joined_form(model, forms, rows, group), shape)


def _rows(form: Form, kernel: Sequence[int]) -> list[Row]:
    """Where the taps of an operator stand, an axis each."""
    return [Row(-form.pads[axis], form.dilations[axis], taps) for axis, taps in enumerate(kernel)]


def _growth(form: Form, kernel: Sequence[int], axis: int) -> int:
    """By how much an axis grows beyond its size (Conv), or beyond (size − 1)·stride (ConvTranspose)."""
    extent = form.dilations[axis] * (kernel[axis] - 1) + 1
    pads = form.pads[axis] + form.pads[axis + len(kernel)]
    if form.op != "ConvTranspose":
        return pads - extent
    return extent - pads + (form.output_padding[axis] if form.output_padding else 0)


def _same_sizes(analysis: Analysis, model: Linear, forms: Sequence[tuple[Form, tuple[int, ...]]]) -> bool:
    """Whether the outputs have the same size, whatever size the input has."""
    if all(len({_growth(*each, axis) for each in forms}) == 1 for axis in range(len(model.kernel))):
        return True
    shape = analysis.fixed_shape(model.node.inputs[0])
    if model.op != "Conv" or shape is None or None in shape[2:]:
        return False
    sizes = [size or 0 for size in shape[2:]]
    return len({form.output_sizes(sizes, kernel) for form, kernel in forms}) == 1


def _joined_form(
    model: Linear, forms: Sequence[tuple[Form, tuple[int, ...]]], rows: Sequence[Row], group: int
) -> Form:
    """Pads that leave the output its size around the joined taps."""
    begin, end, added = [], [], []
    for axis, row in enumerate(rows):
        form, kernel = max(forms, key=lambda each: _rows(*each)[axis].stop)
        growth = _growth(form, kernel, axis)
        begin.append(-row.start)
        if model.op == "ConvTranspose":
            behind = row.stop - growth
            added.append(max(-behind, 0))
            end.append(max(behind, 0))
        else:
            end.append(growth + row.stop)
    return Form(
        model.op,
        group,
        model.form.strides,
        (*begin, *end),
        tuple(row.step for row in rows),
        tuple(added) if any(added) else (),
    )
