"""Collapse a linear operator with those in front of the Concat that it reads, branch by branch.

What
    A linear operator over a Concat of channels is a sum of one operator a branch. Where a branch ends in a
    linear operator, the two become one; branches that read the same input become one; a constant branch
    becomes a bias.

        x ─ 1x1 (64→256) ┐                                 x ┐
                         Concat ─ 1x1 (512→64) ─ z           Concat ─ 1x1 (128→64) ─ z
        y ─ 1x1 (64→256) ┘                                 y ┘

        x ┬ 1x1 (64→64) ┐
          │             Concat ─ 3x3 (128→64) ─ z          x ─ 3x3 (64→64) ─ z
          └─────────────┘

Maths
    W ∗ concat(x₁, …, xₙ) = Σ_j W_j ∗ x_j with the slices W_j of W by input channel. If x_j = V_j ∗ u + b_j,
    its term is (W_j ∘ V_j) ∗ u, and the b_j together are one constant per input channel in front of W, as are
    constant branches. Terms of the same u, stride, pads and taps add up: Σ W_j ∘ V_j. Those of the form of
    the operator itself share a Concat again, the others are added behind it.

When it applies
    1. The operator and those of the branches have constant weights of one type; the operator has one group.
    2. The slice and the branch compose (see `collapse`, 3 and 4), and that has fewer MACs than both. What
       others read too stays, and is not counted as saved.
    3. A constant branch is the same for every sample, and what it makes is no larger than the constant.
    4. Where constants meet zero padding and the spatial sizes are open, they are one number a channel, and no
       branch makes its map larger (see `collapse`, 5).

Exactness
    Exact. Kernels are composed and added in float64 and rounded once.

Cost
    MACs fall, or it is not done. Each term that is not of the operator's own form costs an Add.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.linear import linear_cost
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.numerics.kernels import algebra
from graphopt.numerics.kernels.borders import ZonedMap
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.collapsing import concats
from graphopt.rewrites.collapsing.concats import ConcatBranch, Joint
from graphopt.rewrites.patterns import chains, composition
from graphopt.rewrites.patterns.border_map import add_map
from graphopt.rewrites.patterns.common import cheaper, propose
from graphopt.rewrites.patterns.composition import Outline, WeightedOperator
from graphopt.types import Array, Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True)
class CollapseConcat(ExactRewrite):
    """Collapses a linear operator with those in front of the Concat that it reads."""

    name: ClassVar[str] = "collapse_concat"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """A candidate for each linear operator over a Concat of which a branch collapses or goes away."""
        for linear in analysis.linears:
            joint = concats.joint(analysis, chains.stage(analysis, linear))
            if joint is None:
                continue
            terms = _terms(analysis, joint)
            if not terms:
                continue
            found = terms if isinstance(terms, str) else cheaper(_costs(analysis, joint, terms))
            if found:
                yield propose(self.name, analysis, _nodes(joint, terms), linear.name, found)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The operator on the inputs of the branches, and the terms of another form."""
        linear = anchor(analysis, candidate)
        joint = concats.joint(analysis, chains.stage(analysis, linear))
        assert joint is not None
        terms = _terms(analysis, joint)
        assert isinstance(terms, _Terms)
        builder = Builder(linear.dtype)
        return builder.replacement({joint.stage.y.name or "": _add_terms(builder, joint, terms)})


@dataclass(slots=True)
class _Term:
    """Branches that become one operator on one input.

    Attributes:
        outline: the operator's, on `source`.
        source: what it reads.
        raw: branches that are `source` itself.
        composed: branches whose linear operator reads `source`.
    """

    outline: Outline
    source: ir.Value
    raw: list[ConcatBranch] = field(default_factory=list)
    composed: list[ConcatBranch] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What takes the operator's place.

    Attributes:
        own: terms of the operator's own form, which share a Concat.
        other: terms of another form.
        constants: constant branches.
        sizes: spatial sizes of the operator's input, where constants meet its padding.
        ones: where these are open, a value, and an operator on it that would make a map of that size.
    """

    own: tuple[_Term, ...]
    other: tuple[_Term, ...]
    constants: tuple[tuple[ConcatBranch, Array], ...]
    sizes: tuple[int, ...] | None = None
    ones: tuple[ir.Value, Outline] | None = None

    @property
    def composed(self) -> tuple[ConcatBranch, ...]:
        """The branches whose linear operator is composed with the one behind the Concat."""
        return tuple(branch for term in (*self.own, *self.other) for branch in term.composed)


# ---------------------------------------------------------------- what pays


def _nodes(joint: Joint, terms: _Terms | str) -> list[ir.Node]:
    """All nodes that the rewrite reads or replaces, the operator first."""
    nodes = [*joint.stage.nodes, *joint.concats]
    for branch in terms.composed if isinstance(terms, _Terms) else ():
        assert branch.stage is not None
        nodes += [*branch.between, *branch.stage.nodes]
    return list(dict.fromkeys(nodes))


def _terms(analysis: Analysis, joint: Joint) -> _Terms | str:
    """The cheapest way to part the operator; or why nothing is won, "" where nothing could be."""
    linear = joint.stage.linear
    refusal = chains.refusal(analysis, [joint.stage])
    if refusal:
        return refusal
    constants: list[tuple[ConcatBranch, Array]] = []
    terms: list[_Term] = []
    reasons: list[str] = []
    by_key: dict[tuple[str, Outline | None], _Term] = {}
    for branch in joint.branches:
        constant = _constant(analysis, joint, branch)
        if constant is not None:
            constants.append((branch, constant))
            continue
        outline = _composed(analysis, joint, branch)
        if isinstance(outline, str):
            reasons += [outline] if outline else []
        source = (
            branch.value
            if isinstance(outline, str) or branch.stage is None
            else branch.stage.linear.node.inputs[0]
        )
        form = _slice_outline(joint, branch.channels) if isinstance(outline, str) else outline
        assert source is not None
        key = (source.name or "", form)
        if key not in by_key:
            by_key[key] = _Term(form, source)
            terms.append(by_key[key])
        (by_key[key].raw if isinstance(outline, str) else by_key[key].composed).append(branch)
    kept = [part for term in terms for part in (_parts(analysis, joint, term))]
    own_form = (linear.form, linear.kernel)
    own = tuple(t for t in kept if (t.outline.form, t.outline.kernel) == own_form)
    other = tuple(t for t in kept if (t.outline.form, t.outline.kernel) != own_form)
    shifts = bool(constants) or any(
        b.stage is not None and composition.biased(b.stage.bias()) for t in kept for b in t.composed
    )
    found = _Terms(own, other, tuple(constants))
    if not kept or (not found.composed and not constants and not any(len(t.raw) > 1 for t in own)):
        linears = any(branch.stage is not None for branch in joint.branches)
        return reasons[0] if reasons else "no branch is cheaper as one operator with it" if linears else ""
    borders = shifts and not composition.outline(linear).shifts_evenly
    if borders or any(constant.ndim > 1 for _, constant in constants):
        affine = chains.affine_behind(analysis, joint.stage)
        if affine:
            return f"{affine} folds into it first, which a border map would keep it from"
        sizes = chains.fixed_sizes(analysis.fixed_shape(joint.input))
        if sizes is not None:
            return replace(found, sizes=sizes)
        if any(constant.ndim > 1 for _, constant in constants):
            return "a constant map meets its zero padding, and the spatial sizes are open"
        ones = _ones(analysis, joint, found)
        if isinstance(ones, str):
            return f"a constant of a branch meets its zero padding, the spatial sizes are open, and {ones}"
        return replace(found, ones=ones)
    return found


def _ones(analysis: Analysis, joint: Joint, terms: _Terms) -> tuple[ir.Value, Outline] | str:
    """A value that stays, and an operator on it that would make a map of the size of the operator's input."""
    linear = joint.stage.linear
    pointwise = Outline(linear.form.pointwise(), (1,) * len(linear.kernel), 1, 1)
    places = [(branch.value, pointwise) for t in (*terms.own, *terms.other) for branch in t.raw]
    places += [(b.stage.x, b.stage.outline()) for b in terms.composed if b.stage is not None]
    reasons = []
    for value, outline in places:
        made = composition.constant_outline(outline)
        reason = chains.no_image(analysis, value) or (made if isinstance(made, str) else "")
        if not reason:
            return value, replace(outline, out_channels=linear.in_channels or 0)
        reasons.append(reason)
    return reasons[0]


def _slice_outline(joint: Joint, channels: int) -> Outline:
    linear = joint.stage.linear
    assert linear.out_channels is not None
    return Outline(linear.form, linear.kernel, channels, linear.out_channels)


def _composed(analysis: Analysis, joint: Joint, branch: ConcatBranch) -> Outline | str:
    """The branch's operator and the slice as one; or why not, "" where the branch has no operator."""
    if branch.stage is None:
        return ""
    refusal = chains.refusal(analysis, [branch.stage, joint.stage])
    if refusal:
        return f"{branch.stage.name}: {refusal}"
    joined = composition.join(
        composition.outline(branch.stage.linear), _slice_outline(joint, branch.channels)
    )
    return f"{branch.stage.name}: {joined}" if isinstance(joined, str) else joined


def _parts(analysis: Analysis, joint: Joint, term: _Term) -> list[_Term]:
    """The term, or its branches as they are where that is cheaper."""
    if not term.composed:
        return [term]
    operators = {b.stage.linear.node: b.stage for b in term.composed if b.stage is not None and b.alone}
    saved = sum(stage.linear.macs or 0 for stage in operators.values())
    for branch in term.composed:
        shape = analysis.shape(branch.value)
        outline = _slice_outline(joint, branch.channels)
        saved += linear_cost(outline.form, outline.weight_shape, shape, 4).macs or 0
    made = linear_cost(term.outline.form, term.outline.weight_shape, analysis.shape(term.source), 4).macs
    if made is not None and (0 if term.raw else made) < saved:
        return [term]
    apart = [_Term(_slice_outline(joint, b.channels), b.value, [b]) for b in term.composed]
    return [*([_Term(term.outline, term.source, term.raw)] if term.raw else []), *apart]


def _constant(analysis: Analysis, joint: Joint, branch: ConcatBranch) -> Array | None:
    """A constant branch as one number a channel, or as a map [channels, *sizes]; None where it is neither."""
    if not analysis.constants.is_constant(branch.value):
        return None
    array = analysis.constant(branch.value)
    shape = analysis.fixed_shape(joint.stage.y)
    if array is None or array.dtype.kind not in "fV" or not array.size:
        return None
    axis = array.ndim - 1 if joint.stage.linear.op in composition.FLAT else 1
    channels = np.moveaxis(array, axis, 0).reshape(branch.channels, -1).astype(np.float64)
    if np.all(channels == channels[:, :1]):
        even: Array = channels[:, 0]
        return even
    if array.ndim < 3 or joint.stage.linear.op in composition.FLAT or shape is None or None in shape[1:]:
        return None
    made = int(np.prod([n or 0 for n in shape[1:]]))
    if not np.all(array == array[:1]) or made > array[0].size:
        return None
    sample: Array = array[0].astype(np.float64)
    return sample


def _costs(analysis: Analysis, joint: Joint, terms: _Terms) -> tuple[Cost, Cost]:
    """What goes away, and what takes its place."""
    gone = {
        node: None
        for branch in terms.composed
        if branch.alone and branch.stage is not None
        for node in (*branch.between, *branch.stage.nodes)
    }
    before = analysis.cost([*joint.stage.nodes, *(joint.concats if joint.sole else ()), *gone])
    size = joint.stage.linear.itemsize
    after = Cost(0)
    if terms.own:
        channels = sum(term.outline.in_channels for term in terms.own)
        outline = _slice_outline(joint, channels)
        shape = joint.stage.linear.input_shape
        axis = joint.axis % len(shape) if shape is not None else 0
        read = None if shape is None else (*shape[:axis], channels, *shape[axis + 1 :])
        after += linear_cost(outline.form, outline.weight_shape, read, size)
        if len(terms.own) > 1:
            after += chains.pass_over(read, size)
    written = analysis.shape(joint.stage.y)
    for term in terms.other:
        after += linear_cost(term.outline.form, term.outline.weight_shape, analysis.shape(term.source), size)
    for _ in range(len(terms.other) - (0 if terms.own else 1) + (terms.sizes is not None)):
        after += chains.pass_over(written, size)
    if terms.ones is not None:
        value, outline = terms.ones
        one = composition.ones_outline([outline, composition.outline(joint.stage.linear)], 1)
        assert not isinstance(one, str)
        after += chains.border_cost(analysis.shape(value), written, one, size)
    return before, after


# ---------------------------------------------------------------- what takes the place


def _add_terms(builder: Builder, joint: Joint, terms: _Terms) -> str:
    """Adds the terms and returns the local name of their sum."""
    linear = joint.stage.linear
    weight, bias = linear.weight(), joint.stage.bias()
    shift = _shift(joint, terms)
    even = None
    if terms.ones is not None:
        even = bias
    elif terms.sizes is None:
        even = algebra.compose_bias(shift, weight, bias)
    sums = []
    if terms.own:
        kernels = [_kernel(joint, term, weight) for term in terms.own]
        sources = [term.source.name or "" for term in terms.own]
        x = (
            sources[0]
            if len(sources) == 1
            else builder.node("Concat", sources, {"axis": joint.axis}, "/concat")
        )
        sums.append(builder.linear(linear.form, x, np.concatenate(kernels, axis=1), even, rank=linear.rank))
    for number, term in enumerate(terms.other):
        made = _kernel(joint, term, weight)
        name = f"/branch{number}" if sums else ""
        x = term.source.name or ""
        sums.append(
            builder.linear(term.outline.form, x, made, None if sums else even, rank=linear.rank, name=name)
        )
    y = sums[0]
    for number, term_y in enumerate(sums[1:]):
        y = builder.node("Add", [y, term_y], {}, f"/sum{number}")
    if terms.ones is not None:
        value, outline = terms.ones
        last = composition.operator(linear)
        ones = composition.join_operators(composition.constant_operator(outline, shift), last)
        return chains.add_border(builder, y, ones.outline.form, ones.weight, value.name or "")
    return y if terms.sizes is None else add_map(builder, y, _border(joint, terms, shift))


def _kernel(joint: Joint, term: _Term, weight: Array) -> Array:
    """The sum of the term's slices, composed with the operators in front of them."""
    total: Array = np.zeros(term.outline.weight_shape)
    for branch in term.raw:
        total = total + weight[:, branch.window]
    for branch in term.composed:
        assert branch.stage is not None
        last = WeightedOperator(_slice_outline(joint, branch.channels), weight[:, branch.window], None)
        total = total + composition.join_operators(branch.stage.operator(), last).weight
    return total


def _shift(joint: Joint, terms: _Terms) -> Array:
    """What the biases in front of the Concat, and even constants, add to each of its channels."""
    shift = np.zeros(joint.stage.linear.in_channels or 0)
    for branch in terms.composed:
        bias = branch.stage.bias() if branch.stage is not None else None
        if bias is not None:
            shift[branch.window] = bias
    for branch, constant in terms.constants:
        if constant.ndim == 1:
            shift[branch.window] = constant
    return shift


def _border(joint: Joint, terms: _Terms, shift: Array) -> ZonedMap:
    """What the constants add to the output, the operator's bias with them."""
    assert terms.sizes is not None
    maps = [(branch, constant) for branch, constant in terms.constants if constant.ndim > 1]
    last = joint.stage.operator()
    zoned = ZonedMap.uniform_map(shift, terms.sizes)
    if maps:
        values = zoned.expanded().copy()
        for branch, constant in maps:
            values[branch.window] = constant
        zoned = ZonedMap(values, tuple(np.arange(size) for size in terms.sizes))
    return composition.through(zoned, last)
