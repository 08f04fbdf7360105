"""Gradients through products: Conv, ConvTranspose, Gemm, MatMul and Einsum."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.analysis.linear import Linear
from graphopt.compression.autodiff.rules import weights
from graphopt.compression.autodiff.tape import Gradient, Tape, UnsupportedError, name_of


def convolution(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Conv by ConvTranspose, and of ConvTranspose by Conv."""
    linear = tape.analysis.linear(node)
    shapes = tape.sizes(node)
    if linear is None or len(linear.kernel) != len(shapes[0]) - 2 or 0 in linear.kernel:
        raise UnsupportedError
    inside, outside = (shape[2:] for shape in shapes)
    x, weight = (name_of(value) for value in node.inputs[:2])
    kernel, strides, dilations = linear.kernel, linear.form.strides, linear.form.dilations
    form = {"strides": strides, "dilations": dilations, "group": linear.group}
    forward = linear.op == "Conv"
    if forward and linear.blocked:
        raise UnsupportedError
    begin = linear.form.pads[: len(kernel)] if forward else _begin(linear, inside, outside)
    moved = [tape.moves(value) for value in (*node.inputs, None)]
    found: list[Gradient] = [None, None, None]
    if moved[0] and forward:
        back = window_back(inside, outside, kernel, strides, dilations, begin)
        found[0] = tape.op("ConvTranspose", g, weight, **form, **back)
    elif moved[0]:
        pads = window_back(outside, inside, kernel, strides, dilations, begin)["pads"]
        found[0] = tape.op("Conv", g, weight, pads=pads, **form)
    if moved[1]:
        wide, other = ((x, shapes[0]), (g, shapes[1])) if forward else ((g, shapes[1]), (x, shapes[0]))
        windows = weights.Windows(*wide, kernel, strides, dilations, begin)
        found[1] = weights.of_convolution(tape, windows, *other, linear.group)
    if moved[2]:
        found[2] = weights.of_bias(tape, g, shapes[1])
    return found


def _begin(linear: Linear, inside: Sequence[int], outside: Sequence[int]) -> Sequence[int]:
    """What a ConvTranspose cuts off at the start of each axis; the size of its output may decide it."""
    form, mode = linear.form, linear.node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET"
    if mode in ("NOTSET", "VALID") and "output_shape" not in linear.node.attributes:
        return form.pads[: len(linear.kernel)]
    found = []
    for axis, (n, m, k) in enumerate(zip(inside, outside, linear.kernel, strict=True)):
        added = form.output_padding[axis] if form.output_padding else 0
        spare = max((n - 1) * form.strides[axis] + form.dilations[axis] * (k - 1) + 1 + added - m, 0)
        found.append(spare // 2 if mode == "SAME_UPPER" else spare - spare // 2)
    return found


def window_back(
    inside: Sequence[int],
    outside: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> dict[str, list[int]]:
    """Pads with which a ConvTranspose leads back from what a sliding window makes to what it slides over.

    Args:
        inside: spatial sizes that the window slides over.
        outside: spatial sizes of what it makes.
        kernel: sizes of the window.
        strides: its steps.
        dilations: distances of its taps.
        pads: at the start of each axis; what follows does not matter.

    Returns:
        The attributes ``pads`` and ``output_padding``.

    Raises:
        UnsupportedError: no ConvTranspose does.
    """
    begin, end, added = list(pads[: len(kernel)]), [], []
    for axis, (n, m, k) in enumerate(zip(inside, outside, kernel, strict=True)):
        covered = (m - 1) * strides[axis] + dilations[axis] * (k - 1) + 1 - begin[axis]
        end.append(max(covered - n, 0))
        added.append(max(n - covered, 0))
    if any(more >= max(s, d) for more, s, d in zip(added, strides, dilations, strict=True)):
        raise UnsupportedError
    return {"pads": begin + end, "output_padding": added}


def gemm(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Gemm, whose first factor is not transposed."""
    if node.attributes.get_int("transA", 0):
        raise UnsupportedError
    alpha, turned = node.attributes.get_float("alpha", 1.0), node.attributes.get_int("transB", 0)
    x, weight = (name_of(value) for value in node.inputs[:2])
    moved = [tape.moves(value) for value in (*node.inputs, None)]
    found: list[Gradient] = [None, None, None]
    if moved[0]:
        product = tape.op("MatMul", g, weight if turned else tape.op("Transpose", weight, perm=[1, 0]))
        found[0] = product if alpha == 1 else tape.scaled(product, alpha)
    if moved[1]:
        left, right = (g, x) if turned else (x, g)
        product = tape.op("MatMul", tape.op("Transpose", left, perm=[1, 0]), right)
        found[1] = product if alpha == 1 else tape.scaled(product, alpha)
    if moved[2]:
        beta = node.attributes.get_float("beta", 1.0)
        found[2] = tape.reduced(g if beta == 1 else tape.scaled(g, beta), node, 2)
    return found


def matmul(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of MatMul in both factors."""
    ranks = [len(tape.shape(value)) for value in node.inputs]
    if min(ranks) < 2:
        raise UnsupportedError
    a, b = node.inputs
    left = right = None
    if tape.moves(a):
        left = tape.reduced(tape.op("MatMul", g, _turned(tape, b, ranks[1])), node, 0, last=2)
    if tape.moves(b):
        right = tape.reduced(tape.op("MatMul", _turned(tape, a, ranks[0]), g), node, 1, last=2)
    return [left, right]


def _turned(tape: Tape, value: ir.Value | None, rank: int) -> str:
    return tape.op("Transpose", name_of(value), perm=[*range(rank - 2), rank - 1, rank - 2])


def einsum(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Einsum: for each factor the product of the output's gradient and the other factors."""
    left, arrow, made = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or "." in left or any(len(set(term)) < len(term) for term in (*terms, made)):
        raise UnsupportedError
    names = [name_of(value) for value in node.inputs]
    found: list[Gradient] = []
    for index, (term, value) in enumerate(zip(terms, node.inputs, strict=True)):
        if not tape.moves(value):
            found.append(None)
            continue
        others = [(t, n) for i, (t, n) in enumerate(zip(terms, names, strict=True)) if i != index]
        if not set(term) <= set("".join(t for t, _ in others)) | set(made):
            raise UnsupportedError
        equation = f"{','.join([made, *(t for t, _ in others)])}->{term}"
        found.append(tape.op("Einsum", g, *(n for _, n in others), equation=equation))
    return found
