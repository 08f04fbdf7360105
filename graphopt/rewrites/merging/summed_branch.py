"""Terms of a sum as linear operators on a value: one operator, several in a row as one, or an affine one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from graphopt.analysis.linear import Form
from graphopt.analysis.operators import is_standard
from graphopt.analysis.shapes.windows import PoolShape
from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.kernels.borders import ZonedMap
from graphopt.rewrites.merging.sums import Sum
from graphopt.rewrites.patterns import affine, chains, composition
from graphopt.rewrites.patterns.affine import Affine
from graphopt.rewrites.patterns.chains import Stage, Step, UnevenBias
from graphopt.rewrites.patterns.composition import Outline, WeightedOperator
from graphopt.types import Array, Shape

LONGEST = 4
"""Operators in a row that one branch joins at most. Derived: the branches of re-parametrised blocks and of
adapters have two or three (ECB, DBB, LoRA)."""


@dataclass(frozen=True, slots=True)
class Average:
    """An AveragePool whose windows all divide by their taps: a depthwise convolution of one weight.

    Attributes:
        node: the operator.
        name: the operator's name.
        form: the convolution's.
        kernel: taps per spatial axis.
    """

    node: ir.Node
    name: str
    form: Form
    kernel: tuple[int, ...]

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """The operator."""
        return (self.node,)

    @property
    def x(self) -> ir.Value:
        """What it reads."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def y(self) -> ir.Value:
        """What it makes."""
        return self.node.outputs[0]

    def bias(self) -> Array | None:
        """It has none."""
        return None

    def outline(self) -> Outline:
        """That of the convolution."""
        return Outline(self.form, self.kernel, self.form.group, self.form.group)

    def operator(self) -> WeightedOperator:
        """The convolution."""
        outline = self.outline()
        return WeightedOperator(outline, np.full(outline.weight_shape, 1 / math.prod(self.kernel)), None)


def average(analysis: Analysis, node: ir.Node | None) -> Average | None:
    """An AveragePool as a convolution; None where the node is none, or divides by less at the border."""
    if node is None or node.op_type != "AveragePool" or not is_standard(node):
        return None
    window, shape = PoolShape.of(node), analysis.fixed_shape(node.inputs[0])
    if window is None or shape is None or shape[1] is None:
        return None
    pads = window.pads(shape[2:])
    if pads is None or (window.ceil and any(s > 1 for s in window.strides)):
        return None
    if any(pads) and not node.attributes.get_int("count_include_pad", 0):
        return None
    form = Form("Conv", shape[1], window.strides, pads, window.dilations)
    return Average(node, analysis.name(node), form, window.kernel)


@dataclass(frozen=True, slots=True)
class SummedBranch:
    """One term of a sum that is linear in some value.

    Attributes:
        term: the value that the sum reads.
        factor: how often it is added, less how often it is subtracted.
        source: the value that it is linear in; the term itself where no operator is read.
        nodes: the operators that make it from its source.
        gone: those of them that nothing else needs.
        steps: the linear operators among them, the first one first; none where there are affine ones alone.
        outline: what the steps are as one.
        affine: what the affine operators do; None where there are steps.
        uneven: the bias of a step that meets a border.
    """

    term: ir.Value
    factor: int
    source: ir.Value
    nodes: tuple[ir.Node, ...] = ()
    gone: tuple[ir.Node, ...] = ()
    steps: tuple[Step, ...] = ()
    outline: Outline | None = None
    affine: Affine | None = None
    uneven: UnevenBias | None = None

    @property
    def stage(self) -> Stage | None:
        """The first step that has weights of its own, which a merged operator takes after."""
        return next((step for step in self.steps if isinstance(step, Stage)), None)

    @property
    def source_shape(self) -> Shape | None:
        """The shape of what the first step reads, where that has weights of its own."""
        first = self.steps[0] if self.steps else None
        return first.linear.input_shape if isinstance(first, Stage) else None

    def like(self, model: Outline) -> tuple[Form, tuple[int, ...]] | None:
        """Form and kernel as an operator of the model's kind; None where it is none."""
        own = self.outline
        if own is not None:
            same = (own.form.op, own.form.strides, own.out_channels, own.in_channels)
            wanted = (model.form.op, model.form.strides, model.out_channels, model.in_channels)
            return (own.form, own.kernel) if same == wanted else None
        if model.form.strided or model.out_channels != model.in_channels:
            return None
        if self._scale_and_shift(model) is None:
            return None
        axes = len(model.kernel)
        group = model.in_channels if axes else 1
        return replace(model.form.pointwise(), op=model.form.op, group=group), (1,) * axes

    def weight_and_bias(self, model: Outline) -> tuple[Array, Array]:
        """Kernel [out, in / group, *taps] and bias [out], times the factor, without what borders change."""
        if self.outline is not None:
            _, weight, bias = composition.joined(self._operators())
            if self.uneven is not None:
                ones = self.border_operator()
                bias = None if ones is None else ones.bias
            return self.factor * weight, np.zeros(len(weight)) if bias is None else self.factor * bias
        found = self._scale_and_shift(model)
        assert found is not None
        scale, shift = found
        weight = scale.reshape(-1, 1, *(1,) * len(model.kernel)) if model.kernel else np.diag(scale)
        return self.factor * weight, self.factor * shift

    def border_zones(self) -> ZonedMap | None:
        """What biases that meet a border make of the term, times the factor, where sizes are known."""
        if self.uneven is None or self.uneven.sizes is None:
            return None
        made = self.uneven.zoned(self._operators())
        return made._replace(values=self.factor * made.values)

    def border_operator(self) -> WeightedOperator | None:
        """What makes the same from an image of ones, where sizes are open; its bias is evenly there."""
        if self.uneven is None or self.uneven.sizes is not None:
            return None
        outline, weight, bias = composition.ones_operator(self._operators(), self.uneven.later)
        return WeightedOperator(outline, self.factor * weight, bias)

    def _operators(self) -> list[WeightedOperator]:
        """The steps with their weights."""
        return [step.operator() for step in self.steps]

    def _scale_and_shift(self, model: Outline) -> tuple[Array, Array] | None:
        """Scale and shift [channels] of an affine branch; None where they vary along something else."""
        assert self.affine is not None
        axis = self.affine.scale.ndim - 1 if model.form.op == "MatMul" else 1
        if not 0 < axis < self.affine.scale.ndim:
            return None
        scale, shift = (
            affine.per_channel(a, axis, model.in_channels) for a in (self.affine.scale, self.affine.shift)
        )
        return None if scale is None or shift is None else (scale, shift)


def branch(analysis: Analysis, found: Sum, term: ir.Value, factor: int) -> SummedBranch:
    """A term as a function of what its last operators read; of itself where they are not linear.

    Args:
        analysis: the snapshot.
        found: the sum.
        term: a value that it reads.
        factor: how often it is added, less how often it is subtracted.

    Returns:
        The branch.
    """
    itself = SummedBranch(term, factor, term, affine=_nothing(analysis, term))
    if not found.owns(term):
        return itself
    step, between = _step_before(analysis, term)
    if step is None:
        return _affine_branch(analysis, itself, found.root.graph)
    one = _behind(analysis, replace(itself, affine=None), step, between, found.root.graph)
    return itself if isinstance(one, str) or one.gone != one.nodes else one


def longer(analysis: Analysis, start: SummedBranch) -> Iterator[tuple[ir.Value, SummedBranch | str]]:
    """Values farther up, the nearest first, with the branch as a function of each; or why it is none."""
    found: SummedBranch | str = start
    while isinstance(found, SummedBranch) and 0 < len(found.steps) < LONGEST:
        step, between = _step_before(analysis, found.source)
        if step is None:
            return
        found = _behind(analysis, found, step, between, start.nodes[0].graph)
        yield step.x, found


def _step_before(analysis: Analysis, value: ir.Value) -> tuple[Step | None, list[ir.Node]]:
    """The linear operator that makes a value, and the nodes in between, the last first."""
    stage, between = chains.stage_before(analysis, value)
    source = between[-1].inputs[0] if between else value
    if stage is None:
        return (average(analysis, source.producer()) if source is not None else None), between
    if stage.y is not source:  # the Add behind it belongs to the sum
        stage = Stage(stage.linear, (stage.linear.node,), stage.linear.node.outputs[0])
    return stage, between


def _behind(
    analysis: Analysis, found: SummedBranch, step: Step, between: list[ir.Node], graph: ir.Graph | None
) -> SummedBranch | str:
    """The branch with one more operator in front of it; or why they are not one."""
    steps = (step, *found.steps)
    made = (*between, *reversed(step.nodes))
    if any(node.graph is not graph for node in made):
        return f"{step.name} is in another graph"
    stages = [each for each in steps if isinstance(each, Stage)]
    reason = chains.refusal(analysis, stages) if stages else ""
    outline: Outline | str = step.outline()
    if found.outline is not None and not reason:
        outline = composition.join(step.outline(), found.outline)
    uneven = chains.uneven_bias(analysis, steps) if not reason else None
    for problem in (reason, outline, uneven):
        if problem and isinstance(problem, str):
            return problem
    assert not isinstance(outline, str) and not isinstance(uneven, str)
    gone = list(found.gone)
    for node in made if found.gone == found.nodes else ():
        if node.outputs[0] is not found.term and not chains.sole(node.outputs[0]):
            break
        gone.append(node)
    return replace(
        found,
        source=step.x,
        nodes=(*found.nodes, *made),
        gone=tuple(gone),
        steps=steps,
        outline=outline,
        uneven=uneven,
    )


def _affine_branch(analysis: Analysis, itself: SummedBranch, graph: ir.Graph | None) -> SummedBranch:
    """What affine operators do to the value from which they make a term that nothing else reads."""
    whole: Affine | None = None
    nodes: list[ir.Node] = []
    value = itself.term
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
    if not nodes:
        return itself
    return replace(itself, source=value, nodes=tuple(nodes), gone=tuple(nodes), affine=whole)


def _nothing(analysis: Analysis, value: ir.Value) -> Affine:
    """The affine operator that changes nothing, of the value's rank (or 0 where that is unknown)."""
    shape = analysis.shape(value)
    axes = (1,) * (0 if shape is None else len(shape))
    return Affine(np.ones(axes), np.zeros(axes))
