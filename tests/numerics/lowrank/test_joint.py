"""What a layer reads and what it should make of it, gathered together."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.numerics.lowrank.moments import Joint, JointAccumulator, rooted, unrooted

INSIDE, OUT = 7, 5
ROOTS = {
    "all alike": None,
    "each by itself": np.linspace(0.5, 2, OUT),
    "together": np.random.default_rng(3).standard_normal((OUT, OUT)),
}


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, INSIDE)) + 20 * (1 + seed)
    return x, x @ rng.standard_normal((INSIDE, OUT)) + rng.standard_normal((count, OUT)) - 300


def gathered(root: np.ndarray | None, *seeds: int) -> Joint:
    found = JointAccumulator(INSIDE, OUT, root)
    for seed in seeds:
        found.add(*rows(200 + 30 * seed, seed))
    return found.result()


@pytest.mark.parametrize("name", ROOTS)
@pytest.mark.parametrize("apart", [False, True])
def test_it_is_what_all_rows_together_have(name: str, apart: bool) -> None:
    root = ROOTS[name]
    found = gathered(root, 0).merged(gathered(root, 1)) if apart else gathered(root, 0, 1)
    x, y = (np.concatenate(each) for each in zip(rows(200, 0), rows(230, 1), strict=True))
    dx, dy = x - x.mean(axis=0), y - y.mean(axis=0)
    np.testing.assert_allclose(found.inputs.covariance, dx.T @ dx / len(x), atol=1e-8)
    np.testing.assert_allclose(found.target.cross, dy.T @ dx / len(x), atol=1e-8)
    np.testing.assert_allclose(found.target.mean, y.mean(axis=0))
    assert found.target.variance == pytest.approx(np.square(dy).sum() / len(x))
    assert found.counted == pytest.approx(np.square(rooted(root, dy.T)).sum() / len(x))


@pytest.mark.parametrize("name", ROOTS)
def test_what_a_kernel_loses_is_counted_by_its_root(name: str) -> None:
    root, found = ROOTS[name], gathered(ROOTS[name], 0)
    x, y = rows(200, 0)
    kernel = np.random.default_rng(5).standard_normal((OUT, INSIDE))
    gap = (y - y.mean(axis=0)) - (x - x.mean(axis=0)) @ kernel.T
    assert found.lost(kernel) == pytest.approx(np.square(rooted(root, gap.T)).sum() / len(x))
    assert found.lost(kernel, as_counted=False) == pytest.approx(np.square(gap).sum() / len(x))


@pytest.mark.parametrize("name", ["each by itself", "together"])
def test_a_root_is_undone(name: str) -> None:
    root = ROOTS[name]
    assert root is not None
    kernel = np.random.default_rng(1).standard_normal((OUT, 3, 3))
    np.testing.assert_allclose(rooted(unrooted(root), rooted(root, kernel)), kernel, atol=1e-12)
