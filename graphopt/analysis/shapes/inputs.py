"""The sizes of a model's inputs: as declared, as the user or the calibration inputs say, or assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.analysis.constants import Constants
from graphopt.analysis.shapes.demand import demanded
from graphopt.analysis.shapes.tensor_types import completed, tensor_shape
from graphopt.errors import InputError
from graphopt.types import Shape

_NAMELESS = frozenset({"", "?", "-1", "None", "none"})
"""What exporters write for a size that they don't know: two of these need not be the same size."""


@dataclass(slots=True)
class BoundInputs:
    """What is known of the sizes of a model's inputs.

    Attributes:
        shapes: of every input that is not a constant; None when even the rank is unknown.
        symbols: the size that each symbolic dimension stands for, where it is bound.
        pinned: the open sizes that operators take at one number alone, by the names of `names_of`.
    """

    shapes: dict[ir.Value, Shape | None] = field(default_factory=dict)
    symbols: dict[str, int] = field(default_factory=dict)
    pinned: frozenset[str] = frozenset()

    @property
    def unknown(self) -> tuple[str, ...]:
        """The dimensions that nobody bound, as ``x[2]=height``, or ``x[2]`` for one without a name."""
        return tuple(dim for value, shape in self.shapes.items() for dim in _unknown_dims(value, shape))

    def at(self, sizes: Mapping[str, int]) -> BoundInputs:
        """The same with more open sizes pinned, by the names of `names_of`."""
        shapes = {value: completed(shape, _told(value, shape, sizes)) for value, shape in self.shapes.items()}
        return BoundInputs(shapes, {**sizes, **self.symbols}, self.pinned | sizes.keys())

    def opened(self, value: ir.Value, shape: Shape | None) -> frozenset[str]:
        """The sizes of an input that the file leaves open, by the names of `names_of`; pinned ones apart.

        Args:
            value: the input.
            shape: its shape as far as it is known by now.
        """
        if shape is None:
            return frozenset({f"{value.name}[...]"})
        dims: Sequence[int | ir.SymbolicDim | None] = (
            (None,) * len(shape) if value.shape is None else tuple(value.shape)
        )
        names = names_of(value, len(shape))
        open_ = (name for name, dim in zip(names, dims, strict=False) if dim is None or fixed(dim) is None)
        return frozenset(open_) - self.pinned

    def resolve(self, value: ir.Value) -> Shape | None:
        """The shape that the file declares for the value, with bound symbols replaced."""
        if value.shape is None:
            return None
        return tuple(self._resolve_dim(dim) for dim in value.shape)

    def _resolve_dim(self, dim: int | ir.SymbolicDim) -> int | None:
        if isinstance(dim, int):
            return fixed(dim)
        name = symbol(dim)
        return None if name is None else self.symbols.get(name)


def takes_array(value: ir.Value) -> bool:
    """Whether an input can be fed an array: a tensor, one that is optional, or of no type that is told."""
    type_ = value.type.elem_type if isinstance(value.type, ir.OptionalType) else value.type
    return type_ is None or isinstance(type_, ir.TensorType)


def fixed(dim: int | ir.SymbolicDim) -> int | None:
    """A known size; None for a symbolic one, and for a negative number, which some exporters write for it."""
    return dim if isinstance(dim, int) and dim >= 0 else None


def symbol(dim: int | ir.SymbolicDim) -> str | None:
    """The name of a symbolic dimension; None for a known size and for one without a name."""
    if isinstance(dim, int) or dim.value is None or dim.value in _NAMELESS:
        return None
    return dim.value


def names_of(value: ir.Value, rank: int) -> tuple[str, ...]:
    """A name for each size of an input: its symbol, or ``x[2]`` where it has none."""
    dims: Sequence[int | ir.SymbolicDim] = () if value.shape is None else tuple(value.shape)
    symbols = [symbol(dim) for dim in dims] if len(dims) == rank else [None] * rank
    return tuple(name or f"{value.name}[{axis}]" for axis, name in enumerate(symbols))


def names_all(value: ir.Value, opened: frozenset[str]) -> bool:
    """Whether what a value declares names each of some open sizes."""
    return opened <= {symbol(dim) for dim in value.shape or ()}


def _told(value: ir.Value, shape: Shape | None, sizes: Mapping[str, int]) -> Shape | None:
    return None if shape is None else tuple(sizes.get(name) for name in names_of(value, len(shape)))


def bind(
    model: ir.Model,
    constants: Constants,
    bindings: Mapping[str, Sequence[int]],
    assume_batch: int | None,
    known: Mapping[str, Shape],
    pinned: Mapping[str, int] | None = None,
) -> BoundInputs:
    """Find the sizes of the inputs; the arguments are those of `analysis.shapes.inference.infer`.

    Args:
        model: the model.
        constants: its constants.
        bindings: sizes of inputs by name.
        assume_batch: the size of a first dimension that is symbolic and not bound; None leaves it unknown.
        known: shapes of values found before, by name.
        pinned: open sizes that the operators tell, by the names of `names_of`.

    Returns:
        The shapes of the inputs, what symbols stand for, and what was assumed.

    Raises:
        InputError: a binding names no input, or does not fit the input's shape or another binding.
    """
    inputs = [v for v in model.graph.inputs if not constants.is_constant(v) and takes_array(v)]
    bound = BoundInputs(pinned=frozenset(pinned or ()))
    _check_names(inputs, bindings)
    given: dict[ir.Value, Shape] = {}
    sources: dict[str, str] = {}
    for value in inputs:
        name = value.name or ""
        if name in bindings:
            given[value] = _fit(value, tuple(bindings[name]), bound.symbols, sources)
    for value in inputs:
        if value not in given and (value.name or "") in known:
            given[value] = known[value.name or ""]
            _bind_symbols(value, given[value], bound.symbols)
    wanted = _wanted(model, constants, inputs)
    bound.symbols = {**(pinned or {}), **bound.symbols}
    if assume_batch is not None:
        _assume_batch(inputs, assume_batch, bound, given)
    for value in inputs:
        shape = completed(completed(given.get(value), bound.resolve(value)), wanted.get(value))
        shape = completed(shape, _told(value, shape, pinned or {}))
        if assume_batch is not None and value not in given and shape:
            shape = _with_batch(value, shape, assume_batch)
        bound.shapes[value] = shape
    return bound


def _wanted(model: ir.Model, constants: Constants, inputs: Sequence[ir.Value]) -> dict[ir.Value, Shape]:
    """What the model's operators demand of inputs whose rank is not known."""
    open_ones = [value for value in inputs if value.shape is None]
    if not open_ones:
        return {}
    shapes = demanded(model.graph, constants, lambda value: None)
    return {value: shapes[value] for value in open_ones if value in shapes}


def _check_names(inputs: Sequence[ir.Value], bindings: Mapping[str, Sequence[int]]) -> None:
    names = [value.name or "" for value in inputs]
    for name in bindings:
        if name not in names:
            listed = ", ".join(repr(each) for each in names if each) or "none"
            raise InputError(
                f"sizes were given for {name!r}, but the model's inputs are: {listed}; name one of them"
            )


def _fit(value: ir.Value, sizes: tuple[int, ...], symbols: dict[str, int], sources: dict[str, str]) -> Shape:
    """The given sizes, checked against the input's shape; its symbols are bound to them."""
    name = value.name or ""
    dims = () if value.shape is None else tuple(value.shape)
    if any(size < 1 and not (axis < len(dims) and dims[axis] == 0) for axis, size in enumerate(sizes)):
        raise InputError(f"input {name!r}: sizes {format_shape(sizes)} were given; each has to be at least 1")
    if value.shape is None:
        return sizes
    if len(sizes) != len(value.shape):
        raise InputError(
            f"input {name!r} has {len(value.shape)} dimensions ({declared(value)}), but {len(sizes)} sizes "
            f"were given ({format_shape(sizes)}); give one for each"
        )
    for axis, (dim, size) in enumerate(zip(value.shape, sizes, strict=True)):
        if isinstance(dim, int) and dim >= 0 and dim != size:
            raise InputError(
                f"input {name!r}: dimension {axis} is {dim} in the model ({declared(value)}), but {size} "
                f"was given ({format_shape(sizes)}); give {dim}"
            )
        key = symbol(dim)
        if key is None:
            continue
        if symbols.setdefault(key, size) != size:
            raise InputError(
                f"input {name!r}: dimension {axis} is {key!r}, which is {symbols[key]} by the sizes of "
                f"{sources[key]!r}, but {size} was given; give the same size for both"
            )
        sources.setdefault(key, name)
    return sizes


def _bind_symbols(value: ir.Value, sizes: Shape, symbols: dict[str, int]) -> None:
    if value.shape is None or len(value.shape) != len(sizes):
        return
    for dim, size in zip(value.shape, sizes, strict=True):
        key = symbol(dim)
        if key is not None and size is not None:
            symbols.setdefault(key, size)


def _assume_batch(
    inputs: Sequence[ir.Value], batch: int, bound: BoundInputs, given: Mapping[ir.Value, Shape]
) -> None:
    """Bind the symbols of first dimensions to the batch size.

    The only dimension of a vector is no batch where another input has it further back: a mask over the
    positions of a [batch, positions] input.
    """
    inner = {symbol(dim) for value in inputs if value.shape is not None for dim in tuple(value.shape)[1:]}
    for value in inputs:
        if value in given or value.is_initializer() or not value.shape:
            continue
        key = symbol(value.shape[0])
        if key is not None and not (len(value.shape) == 1 and key in inner):
            bound.symbols.setdefault(key, batch)


def _with_batch(value: ir.Value, shape: Shape, batch: int) -> Shape:
    """The input's shape with the initializer's own sizes, or with the batch that is assumed."""
    if value.const_value is not None:  # an initializer that a caller may replace: count what is there
        own = tensor_shape(value.const_value)
        return own if len(own) == len(shape) else shape
    nameless = value.shape is not None and symbol(value.shape[0]) is None
    return (batch, *shape[1:]) if shape[0] is None and nameless else shape


def _unknown_dims(value: ir.Value, shape: Shape | None) -> list[str]:
    name = value.name or ""
    if shape is None:
        return [f"{name}[...]"]
    symbols = [None] * len(shape) if value.shape is None else [symbol(dim) for dim in value.shape]
    return [
        f"{name}[{axis}]" if key is None else f"{name}[{axis}]={key}"
        for axis, (size, key) in enumerate(zip(shape, symbols, strict=False))
        if size is None
    ]


def format_shape(shape: Sequence[int | None] | None) -> str:
    """A shape as the command line writes it, such as ``1x3x224x224``; ``?`` for what is unknown."""
    if shape is None:
        return "of unknown rank"
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"


def declared(value: ir.Value) -> str:
    """The shape that the file declares for an input, as ``Nx3xHxW``; ``?`` for a size without a name."""
    if value.shape is None:
        return "of unknown rank"
    return "x".join(str(dim) if isinstance(dim, int) else symbol(dim) or "?" for dim in value.shape)
