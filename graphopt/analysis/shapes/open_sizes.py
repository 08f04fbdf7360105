"""Sizes further down, as functions of the open ones of a model's inputs.

Along an axis an operator makes one size of another: windows, pads, slices and scales do; a Flatten multiplies
several. Such a size has a name of its own, and is followed as a function of those that it is made of. None
of these functions falls as a size grows: so the sizes that give a known one lie side by side, and are found
by bisection.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TypeAlias

import onnx_ir as ir

from graphopt.analysis.attributes import FAR, Content, ints, slice_ranges
from graphopt.analysis.operators import BLOCKS, BROADCASTING
from graphopt.analysis.shapes.runtime_rules import RUNTIME_RULES
from graphopt.analysis.shapes.windows import keeps_size
from graphopt.model.traversal import post_order
from graphopt.types import Dim, Dims

Number: TypeAlias = "int | Fraction"
"""A size; a fraction at sizes of the inputs at which the model does not run."""

_TRIED = range(1, 66)
"""Where two functions of a size are compared. Derived: remainders tell them apart, and those repeat with the
product of the strides, 32 in the deepest of the usual networks: twice that, and both ends."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A size that is made of others: its function, and their names."""

    function: Callable[[Sequence[Number]], Number]
    names: tuple[str, ...]


class OpenSizes:
    """The open sizes of one model by name, each as a function of those of its inputs."""

    def __init__(self) -> None:
        self._made: dict[str, _Made] = {}
        self._factors: dict[str, tuple[Fraction, tuple[str, ...]]] = {}
        self._symbols: dict[str, frozenset[str]] = {}
        self._empty: set[str] = set()

    def may_be_empty(self, dims: Dims) -> bool:
        """Whether a map of these sizes may have no elements."""
        return any(size is None or size == 0 or size in self._empty for size in dims)

    def symbols(self, names: Iterable[str]) -> frozenset[str]:
        """The open sizes of inputs that these sizes depend on, by name."""
        return frozenset().union(*(self._symbols.get(name, {name}) for name in names))

    def factors(self, name: str) -> tuple[Fraction, tuple[str, ...]]:
        """The size as a number and other sizes by name, whose product it is."""
        return self._factors.get(name, (Fraction(1), (name,)))

    def value(self, name: str, sizes: Mapping[str, int]) -> Number | None:
        """The size at sizes of the inputs; None where one that it depends on is not among them."""
        if not self.symbols([name]) <= sizes.keys():
            return None
        found: dict[str, Number] = {}
        for each in post_order(name, self._parts, found):
            made = self._made.get(each)
            found[each] = sizes[each] if made is None else made.function([found[n] for n in made.names])
        return found[name]

    def interval(
        self, names: Sequence[str], wanted: Number, symbol: str, known: Mapping[str, int] | None = None
    ) -> tuple[int, int] | None:
        """The least and the largest size of an input at which a product is the one that is wanted.

        Args:
            names: the factors.
            wanted: their product.
            symbol: the name of the size.
            known: the other sizes of inputs that the factors depend on.

        Returns:
            Both ends, the upper one `FAR` where nothing bounds it; None where no size gives that product.
        """

        def product(size: int) -> Number:
            sizes = {**(known or {}), symbol: size}
            return math.prod(self.value(name, sizes) or 0 for name in names)

        bound = 1
        while bound < FAR and product(bound) <= wanted:
            bound = min(2 * bound, FAR)
        sizes = range(bound + 1)
        least = bisect_left(sizes, wanted, lo=1, key=product)
        largest = bisect_right(sizes, wanted, lo=least, key=product) - 1
        return (least, largest) if least <= largest else None

    def only(self, name: str, wanted: int) -> tuple[str, int] | None:
        """The open size of an input that a size fixes, and the only number it can be; None for others."""
        symbols = self.symbols([name])
        if len(symbols) != 1:
            return None
        (symbol,) = symbols
        found = self.interval([name], wanted, symbol)
        return (symbol, found[0]) if found is not None and found[0] == found[1] else None

    def alike(self, a: str, b: str) -> bool:
        """Whether two sizes are equal wherever it was tried: at small sizes of the inputs, each another."""
        symbols = sorted(self.symbols([a, b]))
        tried = ({symbol: size + i for i, symbol in enumerate(symbols)} for size in _TRIED)
        return a == b or all(self.value(a, sizes) == self.value(b, sizes) for sizes in tried)

    def _parts(self, name: str) -> tuple[str, ...]:
        made = self._made.get(name)
        return () if made is None else made.names

    # --- making sizes of sizes ---

    def add(
        self,
        name: str,
        function: Callable[[Sequence[Number]], Number],
        parts: Sequence[str],
        *,
        empty: bool = False,
    ) -> str:
        """Notes a size that is made of others.

        Args:
            name: for the size.
            function: what makes it of them; it does not fall as they grow.
            parts: their names.
            empty: whether it may be 0 where those are not.

        Returns:
            The name.
        """
        if name not in self._made:
            self._made[name] = _Made(function, tuple(parts))
            self._symbols[name] = self.symbols(parts)
            if empty or not self._empty.isdisjoint(parts):
                self._empty.add(name)
        return name

    def product(self, name: str, sizes: Sequence[Dim], by: Sequence[Dim] = ()) -> Dim:
        """A product of sizes, divided by others.

        Args:
            name: for the product.
            sizes: those that are multiplied.
            by: those that it is divided by; names among them have to be among the others too.

        Returns:
            The number or name of the product; None where it does not follow.
        """
        names: list[str] = []
        factor = Fraction(1)
        for size in sizes:
            if size is None:
                return None
            number, more = (Fraction(size), ()) if isinstance(size, int) else self.factors(size)
            factor *= number
            names += more
        for size in by:
            if size is None or size == 0:
                return None
            number, more = (Fraction(size), ()) if isinstance(size, int) else self.factors(size)
            factor /= number
            for each in more:
                if each not in names:
                    return None
                names.remove(each)
        if not names or factor == 0:
            return int(factor) if factor.denominator == 1 else None
        if factor == 1 and len(names) == 1:
            return names[0]
        self._factors.setdefault(name, (factor, tuple(names)))
        return self.add(name, partial(_product, factor), names)


def _product(factor: Fraction, values: Sequence[Number]) -> Number:
    return factor * math.prod(values)


# --- operators ---


def made(
    node: ir.Node, inputs: Sequence[Dims | None], output: Dims, sizes: OpenSizes, content: Content
) -> Dims:
    """The sizes of an operator's first output, with names for those that follow from open ones.

    Args:
        node: the operator, of the default domain.
        inputs: the sizes of its inputs, by number or by name; None where the rank is unknown.
        output: those of its first output, as far as they are known.
        sizes: the open sizes of the model; new ones are added.
        content: what its inputs hold, where they are constants.

    Returns:
        The sizes of the output.
    """
    first = inputs[0] if inputs else None
    if None not in output or first is None:
        return output
    found = list(output)
    for axis, size in enumerate(output):
        if size is None:
            found[axis] = _of_axis(node, inputs, output, axis, sizes, content)
    return tuple(found)


def _of_axis(
    node: ir.Node,
    inputs: Sequence[Dims | None],
    output: Dims,
    axis: int,
    sizes: OpenSizes,
    content: Content,
) -> Dim:
    first, kind = inputs[0], node.op_type
    assert first is not None
    name = f"{node.outputs[0].name}[{axis}]"
    if kind == "Flatten":
        at = node.attributes.get_int("axis", 1) % (len(first) + 1)
        return sizes.product(name, first[at:] if axis else first[:at])
    if kind == "Reshape":
        rest = [size for other, size in enumerate(output) if other != axis]
        return sizes.product(name, first, rest)
    if kind in BROADCASTING or kind == "Concat":
        parts = list(_along(inputs, len(output), axis, ones=kind == "Concat"))
        names = [size for size in parts if isinstance(size, str)]
        if not names or None in parts:
            return None
        if kind != "Concat":
            return sizes.add(name, max, names)
        if axis != node.attributes.get_int("axis", 1) % len(output):
            return names[0]  # as all others are
        added = sum(size for size in parts if isinstance(size, int))
        return sizes.add(name, partial(_sum, added), names)
    if len(first) != len(output) or not isinstance(size := first[axis], str):
        return None
    weight = inputs[1][2:] if len(inputs) > 1 and inputs[1] is not None else ()
    if axis > 1 and any(keeps_size(node, weight)[axis - 2 : axis - 1]):
        return size
    function = _function(node, axis, inputs, content)
    if function is None:
        return None
    refuses = kind in _WEIGHTS  # maps on which no window fits
    return sizes.add(name, function, [size], empty=not refuses and function([1]) < 1)


def _sum(added: int, values: Sequence[Number]) -> Number:
    return added + sum(values)


def _along(inputs: Sequence[Dims | None], rank: int, axis: int, *, ones: bool) -> Iterator[Dim]:
    """The sizes of inputs along an axis of the output, with or without those of 1."""
    for dims in inputs:
        at = axis - rank + (0 if dims is None else len(dims))
        if dims is None:
            yield None
        elif at >= 0 and (ones or dims[at] != 1):
            yield dims[at]


def _function(
    node: ir.Node, axis: int, inputs: Sequence[Dims | None], content: Content
) -> Callable[[Sequence[Number]], Number] | None:
    """What an operator makes of the size of an axis; None where that is not known, or may fall at times."""
    kind, rank = node.op_type, len(inputs[0] or ())
    if kind in _WEIGHTS:
        return _convolution(node, axis - 2, inputs)
    if kind == "Pad":
        return _pad(node, axis, rank, content)
    block = node.attributes.get_int("blocksize", 1)
    if kind in BLOCKS and axis > 1:
        by = Fraction(block) if kind == "DepthToSpace" else Fraction(1, block)
        return partial(_product, by)
    if kind == "Slice" and not _grows(node, axis, rank, content):
        return None
    rule = RUNTIME_RULES.get(kind)
    if rule is None:
        return None
    weight = inputs[1] if len(inputs) > 1 else None
    known = None if weight is None else tuple(n if isinstance(n, int) else None for n in weight)

    def function(values: Sequence[Number]) -> Number:
        shape = rule(node, (*(None,) * axis, int(values[0]), *(None,) * (rank - axis - 1)), known, content)
        if shape is None:
            return 0
        return FAR if (size := shape[axis]) is None else max(size, 0)

    return function if function([1]) < FAR and function([FAR]) > 0 else None


_WEIGHTS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""Convolutions, and which input is the weight."""


def window_fits(node: ir.Node, inputs: Sequence[Dims | None]) -> bool:
    """Whether the window of a convolution fits into its padded map; onnx's rules may say that it does.

    Args:
        node: any operator of the default domain.
        inputs: the sizes of its inputs.

    Returns:
        False where it is known not to.
    """
    shape = inputs[0] if inputs else None
    if node.op_type not in _WEIGHTS or shape is None:
        return True
    made = ((_convolution(node, place, inputs), size) for place, size in enumerate(shape[2:]))
    return all(f is None or not isinstance(size, int) or f([size]) >= 1 for f, size in made)


def _convolution(
    node: ir.Node, place: int, inputs: Sequence[Dims | None]
) -> Callable[[Sequence[Number]], Number] | None:
    at, attribute = _WEIGHTS[node.op_type], node.attributes.get_ints
    weight = inputs[at] if len(inputs) > at else None
    taps = attribute("kernel_shape", ()) or (() if weight is None else weight[2:])
    if not 0 <= place < len(taps) or not isinstance(kernel := taps[place], int):
        return None
    stride, dilation = ((attribute(key, ()) or (1,) * len(taps))[place] for key in ("strides", "dilations"))
    mode = node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET"
    if mode.startswith("SAME"):
        return lambda values: math.ceil(Fraction(values[0], stride))
    pads = (attribute("pads", ()) if mode == "NOTSET" else ()) or (0,) * 2 * len(taps)
    room = pads[place] + pads[place + len(taps)] - dilation * (kernel - 1) - 1
    return lambda values: max((int(values[0]) + room) // stride + 1, 0)


def _pad(
    node: ir.Node, axis: int, rank: int, content: Content
) -> Callable[[Sequence[Number]], Number] | None:
    amounts = ints(node, "pads", 1, content)
    axes = ints(node, "axes", 3, content, range(rank))
    if amounts is None or axes is None or len(amounts) != 2 * len(axes):
        return None
    places = [place for place, each in enumerate(axes) if each % rank == axis]
    added = sum(amounts[place] + amounts[place + len(axes)] for place in places)
    return lambda values: max(values[0] + added, 0)


def _grows(node: ir.Node, axis: int, rank: int, content: Content) -> bool:
    """Whether a Slice takes no fewer positions of more."""
    ranges = slice_ranges(node, content)
    if ranges is None:
        return False
    entries = [entry for each, entry in ranges.items() if each % rank == axis]
    return all(step > 0 and (start >= 0 or end < 0 or end >= FAR) for start, end, step in entries)
