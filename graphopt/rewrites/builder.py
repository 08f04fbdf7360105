"""The nodes and constants of a replacement, from operators in their normal form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.analysis.linear.form import Form
from graphopt.analysis.linear.operator import Linear
from graphopt.errors import PrecisionError
from graphopt.numerics.kernels import algebra
from graphopt.types import Array, AttributeValue, NewNode, Replacement

_WEIGHT = "weight"


class Builder:
    """Collects the nodes and constants of one `Replacement`.

    Args:
        dtype: the float type of the constants that are made.
    """

    def __init__(self, dtype: np.dtype[np.floating]) -> None:
        self.dtype = dtype
        self._nodes: list[NewNode] = []
        self._constants: dict[str, npt.NDArray[np.generic]] = {}

    def constant(self, array: npt.NDArray[np.generic], hint: str, *, keep_type: bool = False) -> str:
        """Adds a constant; float arrays are cast to the builder's type, unless they keep their own.

        Args:
            array: its content.
            hint: part of its name.
            keep_type: whether floats keep their type.

        Returns:
            The local name.

        Raises:
            PrecisionError: its numbers leave the range of float16.
        """
        name = f"%{hint}{len(self._constants)}"
        kind = self.dtype if array.dtype.kind == "f" and not keep_type else array.dtype
        with np.errstate(over="ignore"):  # which is looked at next
            made = np.asarray(array, dtype=kind, order="C")
        if kind == np.float16 and array.dtype != kind:
            _require_range(array, made, vanishing=hint == _WEIGHT)
        self._constants[name] = made
        return name

    def node(
        self,
        op_type: str,
        inputs: Sequence[str | None],
        attributes: Mapping[str, AttributeValue] | None = None,
        name: str = "",
        *,
        anchor: str = "",
    ) -> str:
        """Adds a node with one output.

        Args:
            op_type: operator of the standard domain.
            inputs: names, local or the model's; None for one that is left out.
            attributes: its attributes.
            name: suffix of the node's name.
            anchor: name of the node in whose place it stands; "" for the site's first.

        Returns:
            The output's local name.
        """
        return self.outputs(op_type, inputs, 1, attributes, name, anchor=anchor)[0]

    def outputs(
        self,
        op_type: str,
        inputs: Sequence[str | None],
        number: int,
        attributes: Mapping[str, AttributeValue] | None = None,
        name: str = "",
        *,
        anchor: str = "",
    ) -> tuple[str, ...]:
        """Adds a node with several outputs.

        Args:
            op_type: operator of the standard domain.
            inputs: names, local or the model's; None for one that is left out.
            number: how many outputs it has.
            attributes: its attributes.
            name: suffix of the node's name.
            anchor: name of the node in whose place it stands; "" for the site's first.

        Returns:
            The local names.
        """
        made = tuple(f"%y{len(self._nodes)}{f'_{i}' if i else ''}" for i in range(number))
        self._nodes.append(NewNode(op_type, tuple(inputs), made, attributes or {}, "", name, anchor))
        return made

    def linear(
        self,
        form: Form,
        x: str,
        weight: Array,
        bias: Array | None,
        *,
        rank: int | None = None,
        name: str = "",
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> str:
        """Adds a linear operator with weights [out, in/group, *kernel] and bias [out].

        Args:
            form: its strides, pads and the like.
            x: the input's name.
            weight: the weights.
            bias: the bias; None or all zero adds none.
            rank: rank of the output, which decides what carries the bias of a MatMul.
            name: suffix of the node's name.
            attributes: of the node, where its pads follow from them and are not those of the form.

        Returns:
            The output's local name.
        """
        if bias is not None and not np.any(bias):
            bias = None
        if form.op == "MatMul":
            return self._matmul(x, weight, bias, rank, name)
        if form.op == "ConvTranspose":
            weight = algebra.transpose_layout(weight, form.group)
        if form.op == "Gemm" and bias is None:
            bias = np.zeros(len(weight))  # up to opset 10 a Gemm has to have one
        inputs: list[str | None] = [x, self.constant(weight, _WEIGHT)]
        if bias is not None:
            inputs.append(self.constant(bias, "bias"))
        return self.node(form.op, inputs, attributes or _attributes(form, weight.shape[2:]), name)

    def like(
        self, linear: Linear, form: Form, x: str, *, bias: bool = True, weight: str | None = None
    ) -> str:
        """Adds a linear operator of another form that reads the very weights of one that is there.

        Args:
            linear: the operator whose weights and bias are read.
            form: the new operator's strides, pads and the like.
            x: the input's name.
            bias: whether it has the bias too.
            weight: name of another value with the weights, of the same layout.

        Returns:
            The output's local name.
        """
        weights = [
            None if value is None else value.name for value in linear.node.inputs[1 : 3 if bias else 2]
        ]
        if weight is not None:
            weights[0] = weight
        return self.node(form.op, [x, *weights], _attributes(form, linear.kernel))

    def again(self, linear: Linear) -> str:
        """Adds a copy of a linear operator, attributes, weights and all; returns its output's local name."""
        names = [None if value is None else value.name for value in linear.node.inputs]
        attributes: dict[str, AttributeValue] = {}
        for key, attribute in linear.node.attributes.items():
            value = attribute.value
            attributes[key] = tuple(value) if isinstance(value, (list, tuple)) else value
        return self.node(linear.op, names, attributes)

    def _matmul(self, x: str, weight: Array, bias: Array | None, rank: int | None, name: str) -> str:
        if bias is None:
            return self.node("MatMul", [x, self.constant(weight.T, _WEIGHT)], {}, name)
        constant = self.constant(weight.T, _WEIGHT)
        if rank == 2:
            return self.node("Gemm", [x, constant, self.constant(bias, "bias")], {}, name)
        product = self.node("MatMul", [x, constant], {}, name)
        return self.node("Add", [product, self.constant(bias, "bias")], {}, f"{name}/bias")

    def replacement(self, outputs: Mapping[str, str]) -> Replacement:
        """What was collected; ``outputs`` maps each replaced value to its replacement's name."""
        return Replacement(tuple(self._nodes), dict(self._constants), dict(outputs))


def _require_range(array: npt.NDArray[Any], made: npt.NDArray[np.float16], *, vanishing: bool) -> None:
    """Refuses numbers that float16 can't hold; with ``vanishing``, too small ones, of which digits are lost.

    A bias may vanish beside what it is added to.

    Raises:
        PrecisionError: it does not hold them.
    """
    limits = np.finfo(made.dtype)
    beyond = np.isfinite(array) & ~np.isfinite(made)
    if beyond.any():
        raise PrecisionError(f"{beyond.sum()} of its {array.size} constants leave float16's range (65,504)")
    lost, whole = (np.linalg.norm(np.nan_to_num(each)) for each in (array - made, array))
    if vanishing and lost > limits.eps * whole:
        small = ((np.abs(array) < limits.smallest_normal) & (array != made)).sum()
        raise PrecisionError(f"{small} of its {array.size} weights lose digits in float16 (below 6.1e-5)")


def _attributes(form: Form, kernel: Sequence[int]) -> dict[str, AttributeValue]:
    if form.op == "Gemm":
        return {"transB": 1}
    attributes: dict[str, AttributeValue] = {
        "kernel_shape": tuple(kernel),
        "strides": form.strides,
        **({"auto_pad": form.auto_pad} if form.auto_pad else {"pads": form.pads}),
        "dilations": form.dilations,
        "group": form.group,
    }
    if any(form.output_padding):
        attributes["output_padding"] = form.output_padding
    return attributes
