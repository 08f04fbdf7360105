"""Sizes of inputs at which a model runs, by what its operators demand of its open ones.

Each demand is an equation of a size that follows from open ones (`analysis.shapes.open_sizes`). One that
depends on one open size leaves an interval of it. One that is a product of several is satisfied by pairs of
factors, those nearest to each other first. What no equation tells is as it is wished.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from graphopt.analysis.attributes import FAR
from graphopt.analysis.shapes.sizes import Sizes

MOST_AXES = 3
"""Open sizes whose product is taken apart: derived, those of a map of three axes."""
_Bounds = Mapping[str, tuple[int, int]]
"""The least and the largest number that an open size may be."""


class RunningSizes:
    """Finds sizes at which a model may run.

    Args:
        found: what inference found of the model.
        batch: the open sizes that are left as they are wished, though others would satisfy an equation.
        likely: whether sizes are sought at which operators broadcast, or that the file declares.
    """

    def __init__(self, found: Sizes, batch: frozenset[str], *, likely: bool) -> None:
        self._open, self._batch = found.open, batch
        equations = [each for each in found.equations if likely or each.certain]
        equations.sort(key=lambda each: (not each.certain, not each.broadcast))
        self._numbers = [(each.name, each.size) for each in equations if isinstance(each.size, int)]
        self._links = [(each.name, each.size) for each in equations if isinstance(each.size, str)]

    def choices(self, wish: Mapping[str, int]) -> Iterator[dict[str, int]]:
        """Sizes that satisfy all equations that can be; those that are likeliest first.

        Args:
            wish: a number for each open size, by name, which is kept where nothing else is demanded.

        Returns:
            Numbers for the same open sizes.
        """
        batch = {name: (size, size) for name, size in wish.items() if name in self._batch}
        seen: set[tuple[int, ...]] = set()
        for bounds in self._solved(batch):
            for end in (_roundest, min, max):
                sizes = {
                    name: end(pair) if pair[1] < FAR else max(pair[0], wish[name])
                    for name, pair in bounds.items()
                    if name in wish
                }
                for name in wish:
                    if name not in sizes:
                        sizes[name] = self._linked(name, sizes) or wish[name]
                key = tuple(sizes[name] for name in wish)
                if key not in seen:
                    seen.add(key)
                    yield {name: sizes[name] for name in wish}

    def _solved(self, bounds: _Bounds) -> Iterator[_Bounds]:
        """Bounds of open sizes within which the equations hold."""
        bounds = self._narrowed(bounds)
        for name, wanted in self._numbers:
            groups, rest = self._left(name, wanted, bounds)
            if not 1 < len(groups) <= MOST_AXES or rest.denominator > 1 or rest > FAR:
                continue
            found = False
            for parts in _factors(int(rest), len(groups)):
                more = {
                    symbol: self._within(names, Fraction(part), symbol, bounds)
                    for (symbol, names), part in zip(groups.items(), parts, strict=True)
                }
                if None not in more.values():
                    found = True
                    yield from self._solved({**bounds, **{n: pair for n, pair in more.items() if pair}})
            if found:
                return
        yield bounds

    def _narrowed(self, bounds: _Bounds) -> _Bounds:
        """The bounds after all equations of one open size; those that nothing satisfies are left out."""
        left = list(self._numbers)
        while True:
            for equation in left:
                groups, rest = self._left(*equation, bounds)
                if len(groups) == 1:
                    ((symbol, names),) = groups.items()
                    found = self._within(names, rest, symbol, bounds)
                    bounds = bounds if found is None else {**bounds, symbol: found}
                    left.remove(equation)
                    break
            else:
                return bounds

    def _left(self, name: str, wanted: int, bounds: _Bounds) -> tuple[dict[str, list[str]], Fraction]:
        """What is left of an equation within bounds: factors by the open size that each depends on.

        Args:
            name: of the size.
            wanted: what it has to be.
            bounds: of the open sizes.

        Returns:
            The names of the factors, and what their product has to be; nothing where that can't be solved.
        """
        factor, names = self._open.factors(name)
        rest = wanted / factor
        groups: dict[str, list[str]] = {}
        for each in names:
            lows, highs = ({n: pair[end] for n, pair in bounds.items()} for end in (0, 1))
            value = self._open.value(each, lows)
            if value is not None and value == self._open.value(each, highs):
                if value == 0:
                    return {}, rest
                rest /= Fraction(value)
                continue
            varying = [n for n in sorted(self._open.symbols([each])) if not self._decided(n, bounds)]
            if len(varying) != 1:
                return {}, rest
            groups.setdefault(varying[0], []).append(each)
        return groups, rest

    def _decided(self, symbol: str, bounds: _Bounds) -> bool:
        return symbol in bounds and bounds[symbol][0] == bounds[symbol][1]

    def _within(
        self, names: Sequence[str], wanted: Fraction, symbol: str, bounds: _Bounds
    ) -> tuple[int, int] | None:
        """The bounds of an open size within which a product is the one that is wanted; None for none."""
        known = {name: pair[0] for name, pair in bounds.items() if self._decided(name, bounds)}
        found = self._open.interval(names, wanted, symbol, known)
        low, high = bounds.get(symbol, (1, FAR))
        if found is None or found[0] > high or found[1] < low:
            return None
        return max(low, found[0]), min(high, found[1])

    def _linked(self, symbol: str, sizes: Mapping[str, int]) -> int | None:
        """The size that has to be like one that is known by now; None where there is none."""
        for pair in self._links:
            for one, other in (pair, pair[::-1]):
                value = self._open.value(one, sizes)
                if value is None or self._open.symbols([other]) - sizes.keys() != {symbol}:
                    continue
                found = self._open.interval([other], value, symbol, sizes)
                if found is not None and found[1] < FAR:
                    return _roundest(found)
        return None


def _roundest(bounds: tuple[int, int]) -> int:
    """The number that the largest power of two divides: most networks halve their maps."""
    low, high = bounds
    return next(size for power in range(31, -1, -1) if (size := high >> power << power) >= low)


def _factors(product: int, count: int) -> list[tuple[int, ...]]:
    """All ways to write a number as a product of so many, those nearest to each other first."""
    divisors = [n for n in range(1, math.isqrt(product) + 1) if product % n == 0]
    divisors += [product // n for n in reversed(divisors) if n * n != product]
    found = [
        (*parts, product // math.prod(parts))
        for parts in itertools.product(divisors, repeat=count - 1)
        if product % math.prod(parts) == 0
    ]
    return sorted(found, key=lambda parts: (max(parts) / min(parts), parts))
