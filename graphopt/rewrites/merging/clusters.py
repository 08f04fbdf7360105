"""Branches of a sum that one linear operator can replace, and that operator."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from graphopt.analysis.linear import Form, linear_cost
from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.kernels import overlay
from graphopt.numerics.kernels.borders import ZonedMap
from graphopt.numerics.kernels.overlay import Row
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.merging.summed_branch import SummedBranch, branch, longer
from graphopt.rewrites.merging.sums import Sum
from graphopt.rewrites.patterns import chains
from graphopt.rewrites.patterns.border_map import add_map
from graphopt.rewrites.patterns.chains import Stage
from graphopt.rewrites.patterns.composition import Outline
from graphopt.types import Array, Cost, Float64

_Shaped = tuple[Form, tuple[int, ...]]
"""Form and kernel of an operator."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Branches that one linear operator can replace.

    Attributes:
        branches: the branches.
        outline: the one operator's; None for a single affine branch.
    """

    branches: tuple[SummedBranch, ...]
    outline: Outline | None

    @property
    def source(self) -> ir.Value:
        """What it reads."""
        return self.branches[0].source

    @property
    def stage(self) -> Stage | None:
        """An operator of it that has weights, which the one operator takes after."""
        return next((branch.stage for branch in self.branches if branch.stage is not None), None)

    @property
    def weights(self) -> int:
        """Weights of the one operator, to which its MACs are proportional; 0 where none has any."""
        return 0 if self.stage is None or self.outline is None else math.prod(self.outline.weight_shape)

    @property
    def pays(self) -> bool:
        """Whether operators go away."""
        return self.stage is not None and (len(self.branches) > 1 or abs(self.branches[0].factor) != 1)

    @property
    def terms(self) -> set[ir.Value]:
        """What the sum reads of it."""
        return {branch.term for branch in self.branches}

    def cost(self, analysis: Analysis) -> Cost:
        """Of the one operator, with what its biases need at borders."""
        assert self.outline is not None and self.stage is not None
        known = (branch.source_shape for branch in self.branches)
        read = next((shape for shape in known if shape is not None), analysis.shape(self.source))
        itemsize = self.stage.linear.itemsize
        cost = linear_cost(self.outline.form, self.outline.weight_shape, read, itemsize)
        uneven = [branch.uneven for branch in self.branches if branch.uneven is not None]
        made, ones = (
            analysis.shape(self.branches[0].term),
            [each.ones for each in uneven if each.ones is not None],
        )
        if len(ones) < len(uneven):
            cost += chains.border_cost(read, made, None, itemsize)
        if ones:
            one = _joined_outline(ones[0], [(each.form, each.kernel) for each in ones])
            cost += chains.border_cost(read, made, one, itemsize)
        return cost


def clusters(analysis: Analysis, found: Sum) -> list[Cluster]:
    """The branches of a sum, those that become one operator together."""
    by_source: dict[ir.Value, list[SummedBranch]] = {}
    for term, factor in found.factors.items():
        each = branch(analysis, found, term, factor)
        by_source.setdefault(each.source, []).append(each)
    made = [
        cluster
        for branches in by_source.values()
        if any(each.steps for each in branches)
        for cluster in _merged(analysis, branches)
    ]
    return _with_longer(analysis, made)


def _merged(analysis: Analysis, branches: Sequence[SummedBranch]) -> list[Cluster]:
    """Joins branches of one source while that makes no more weights, the largest saving first."""
    found = _alike_joined(analysis, [Cluster((each,), each.outline) for each in branches])
    while True:
        options = []
        for i, j in itertools.combinations(range(len(found)), 2):
            both = _join(analysis, found[i], found[j])
            if both is not None and both.weights <= found[i].weights + found[j].weights:
                options.append((both.weights - found[i].weights - found[j].weights, i, j, both))
        if not options:
            return found
        _, i, j, both = min(options, key=lambda option: option[:3])
        found = [both if k == i else c for k, c in enumerate(found) if k != j]


def _alike_joined(analysis: Analysis, found: Sequence[Cluster]) -> list[Cluster]:
    """Those of one form and shape together, which loses nothing and leaves few pairs to try."""
    alike: dict[object, Cluster] = {}
    for number, cluster in enumerate(found):
        key = number if cluster.stage is None else cluster.outline
        both = _join(analysis, alike[key], cluster) if key in alike else cluster
        alike[key if both is not None else number] = both or cluster
    return list(alike.values())


# ---------------------------------------------------------------- branches of several operators


def _with_longer(analysis: Analysis, found: list[Cluster]) -> list[Cluster]:
    """Joins branches of several operators to what reads the same value, the largest saving first."""
    farther = _farther(analysis, found)
    while True:
        options = list(_gathered(analysis, found, farther))
        if not options:
            return found
        _, joined = max(options, key=lambda option: option[0])
        found = [cluster for cluster in found if cluster.terms.isdisjoint(joined.terms)] + [joined]
        farther = [each for each in farther if each.branch.term not in joined.terms]


class _Farther(NamedTuple):
    """A branch of several operators, and the MACs of those that go away with it."""

    macs: int
    branch: SummedBranch


def _farther(analysis: Analysis, found: Sequence[Cluster]) -> list[_Farther]:
    """Branches that stand alone, as functions of values farther up, those of most MACs first."""
    made = []
    for cluster in found:
        for _, each in longer(analysis, cluster.branches[0]) if len(cluster.branches) == 1 else ():
            macs = None if isinstance(each, str) else analysis.cost(each.gone).macs
            if macs is not None and not isinstance(each, str):
                made.append(_Farther(macs, each))
    return sorted(made, key=lambda each: -each.macs)


def _gathered(
    analysis: Analysis, found: Sequence[Cluster], farther: Sequence[_Farther]
) -> Iterator[tuple[int, Cluster]]:
    """MACs that are saved, and the cluster, for each cluster that a branch of several operators can join.

    The first of it may be such a branch too, which alone would cost more as one operator.
    """
    lone = [(macs, Cluster((each,), each.outline)) for macs, each in farther]
    starts = [*((None, cluster) for cluster in found), *lone]
    for gone, start in starts:
        own = start.cost(analysis).macs if start.stage is not None else None
        if own is None:
            continue
        joined, after = start, own
        saved = 0 if gone is None else gone - own
        for less, each in farther:
            both = (
                None if each.term in joined.terms else _join(analysis, joined, Cluster((each,), each.outline))
            )
            macs = None if both is None else both.cost(analysis).macs
            if both is not None and macs is not None and macs - after < less:
                joined, after, saved = both, macs, saved + less - (macs - after)
        if saved > 0 and joined is not start:
            yield saved, joined


def _join(analysis: Analysis, first: Cluster, second: Cluster) -> Cluster | None:
    """One operator for both; None where there is none."""
    model = first if first.stage is not None else second
    if first.source is not second.source or model.stage is None or model.outline is None:
        return None
    branches = (*first.branches, *second.branches)
    if len({each.stage.linear.dtype for each in branches if each.stage is not None}) > 1:
        return None
    likes = [each.like(model.outline) for each in branches]
    forms = [like for like in likes if like is not None]
    if len(forms) < len(likes) or not _same_sizes(analysis, first.source, model.outline, forms):
        return None
    return Cluster(branches, _joined_outline(model.outline, forms))


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


def _same_sizes(analysis: Analysis, source: ir.Value, model: Outline, forms: Sequence[_Shaped]) -> bool:
    """Whether the outputs have the same size, whatever size the input has."""
    if all(len({_growth(*each, axis) for each in forms}) == 1 for axis in range(len(model.kernel))):
        return True
    shape = analysis.fixed_shape(source)
    if model.form.op != "Conv" or shape is None or None in shape[2:]:
        return False
    sizes = [size or 0 for size in shape[2:]]
    return len({form.output_sizes(sizes, kernel) for form, kernel in forms}) == 1


def _joined_outline(model: Outline, forms: Sequence[_Shaped]) -> Outline:
    """The one operator of several, with pads that leave the output its size around the joined taps."""
    group = math.gcd(*(form.group for form, _ in forms))
    rows = [overlay.joined(axis) for axis in zip(*(_rows(*each) for each in forms), strict=True)]
    begin, end, added = [], [], []
    for axis, row in enumerate(rows):
        form, kernel = max(forms, key=lambda each: _rows(*each)[axis].stop)
        growth = _growth(form, kernel, axis)
        begin.append(-row.start)
        if model.form.op == "ConvTranspose":
            behind = row.stop - growth
            added.append(max(-behind, 0))
            end.append(max(behind, 0))
        else:
            end.append(growth + row.stop)
    form = Form(
        model.form.op,
        group,
        model.form.strides,
        (*begin, *end),
        tuple(row.step for row in rows),
        tuple(added) if any(added) else (),
    )
    return Outline(form, tuple(row.taps for row in rows), model.in_channels, model.out_channels)


# ---------------------------------------------------------------- what takes the place


def add_operator(builder: Builder, cluster: Cluster, name: str) -> str:
    """Adds the one operator, and what its biases need at borders.

    Args:
        builder: collects the nodes.
        cluster: what it replaces.
        name: suffix of the node's name.

    Returns:
        The output's local name.
    """
    outline, stage, x = cluster.outline, cluster.stage, cluster.source.name or ""
    assert outline is not None and stage is not None
    parts = [each.weight_and_bias(outline) for each in cluster.branches]
    forms = [like for each in cluster.branches if (like := each.like(outline)) is not None]
    weight = _laid_over([weight for weight, _ in parts], forms)
    bias = np.sum([bias for _, bias in parts], axis=0)
    borders = [zones for each in cluster.branches if (zones := each.border_zones()) is not None]
    zoned = functools.reduce(ZonedMap.plus, borders).shifted(bias) if borders else None
    if zoned is not None and zoned.uniform:
        bias, zoned = zoned.values.reshape(len(bias), -1)[:, 0], None
    y = builder.linear(outline.form, x, weight, None if zoned else bias, rank=stage.linear.rank, name=name)
    if zoned is not None:
        y = add_map(builder, y, zoned)
    ones = [made for each in cluster.branches if (made := each.border_operator()) is not None]
    if not ones:
        return y
    forms = [(each.outline.form, each.outline.kernel) for each in ones]
    kernel = _laid_over([each.weight for each in ones], forms)
    return chains.add_border(builder, y, _joined_outline(ones[0].outline, forms).form, kernel, x)


def _laid_over(weights: Sequence[Array], forms: Sequence[_Shaped]) -> Float64:
    """The kernel of a sum of operators of these forms and kernels."""
    return overlay.total(weights, [form.group for form, _ in forms], [_rows(*each) for each in forms])
