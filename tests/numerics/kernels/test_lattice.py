"""The lattices of positions against sets of positions, for every size up to 24."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphopt.numerics.kernels.lattice import EVERYTHING, Lattice, Window, compose, composes, cut, hull

LATTICES = st.builds(Lattice, st.integers(0, 3), st.integers(1, 4), st.integers(0, 2))
WINDOWS = st.builds(
    Window, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 4), st.integers(0, 4)
)
SIZES = st.integers(1, 24)


def places(lattice: Lattice, size: int) -> list[int]:
    return list(range(lattice.start, size - lattice.tail, lattice.step))


@given(LATTICES, SIZES)
def test_canonical_keeps_the_positions(lattice: Lattice, size: int) -> None:
    assume(places(lattice, size))
    assert places(lattice.canonical(size), size) == places(lattice, size)
    assert set(places(lattice.canonical(None), size)) >= set(places(lattice, size))
    assert lattice.count(size) == len(places(lattice, size))
    assert Lattice(0, 1, 0).canonical(size) == EVERYTHING


@given(LATTICES, LATTICES, SIZES, st.booleans())
def test_hull_holds_both(a: Lattice, b: Lattice, size: int, known: bool) -> None:
    assume(places(a, size) and places(b, size))
    both = places(hull(a, b, size if known else None), size)
    assert set(both) >= {*places(a, size), *places(b, size)}


@given(LATTICES, LATTICES, SIZES, st.booleans())
def test_composition_and_cut(outer: Lattice, inner: Lattice, size: int, known: bool) -> None:
    bound = size if known else None
    outer, inner = outer.canonical(bound), inner.canonical(outer.count(size) if known else None)
    first = places(outer, size)
    expected = [first[i] for i in places(inner, len(first))]
    assume(expected and composes(outer, inner, bound))
    both = compose(outer, inner, bound)
    assert places(both, size) == expected
    for given_ in (EVERYTHING, outer):
        each = cut(given_, both, bound)
        assert places(given_, size)[each.start : each.end : each.step] == expected


@settings(max_examples=400)
@given(WINDOWS, LATTICES, LATTICES, SIZES, st.booleans(), st.booleans())
def test_window_on_what_is_left(
    window: Window, wanted: Lattice, other: Lattice, size: int, known: bool, wider: bool
) -> None:
    assume(size - 1 + window.begin + window.end >= window.dilation * (window.taps - 1))
    bound, outputs = (size if known else None), window.outputs(size)
    wanted = wanted.canonical(outputs if known else None)
    made = places(wanted, outputs)
    assume(made)
    left = window.reads(wanted, bound)
    left = hull(left, other, bound) if wider else left
    there = places(left, size)
    assume(there)
    smaller = window.on(left, wanted, bound)
    assert smaller.outputs(len(there)) == len(made)
    for j, q in enumerate(made):
        for t in range(window.taps):
            read = q * window.stride + t * window.dilation - window.begin
            now = j * smaller.stride + t * smaller.dilation - smaller.begin
            if 0 <= read < size:
                assert 0 <= now < len(there) and there[now] == read
            else:
                assert not 0 <= now < len(there)


def test_window_refuses_what_does_not_suffice() -> None:
    with pytest.raises(ValueError, match="can't make"):
        Window(3).on(Lattice(0, 2), EVERYTHING, 9)
    with pytest.raises(ValueError, match="at every size"):
        Window(1, 2, 1, 0, 1).on(Lattice(0, 2), EVERYTHING, None)
