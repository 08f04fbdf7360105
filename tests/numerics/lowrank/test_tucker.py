"""Exact ranks and factors, moments, and fitted factors."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.numerics.kernels.algebra import compose
from graphopt.numerics.lowrank import tucker, tucker_fit
from graphopt.numerics.lowrank.moments import Moments, MomentsAccumulator, relative_error
from graphopt.numerics.lowrank.tucker import Factors

Float64 = npt.NDArray[np.float64]


def patches(rng: np.random.Generator, count: int, channels: int, taps: int) -> Float64:
    """Correlated, rectified, far from zero mean: like the input of a convolution inside a network."""
    smooth = rng.standard_normal((count, channels, 2)) @ (1 + 0.3 * rng.standard_normal((2, taps)))
    mixed = np.einsum("nct,ec->net", smooth, rng.standard_normal((channels, channels)) / math.sqrt(channels))
    rough = mixed * np.exp(-np.arange(channels) / 3)[:, None] + 0.1 * rng.standard_normal(mixed.shape)
    return (np.maximum(rough, -0.5) + 2).reshape(count, channels * taps)


def moments_of(rows: Float64) -> Moments:
    accumulator = MomentsAccumulator(rows.shape[1])
    accumulator.add(rows)
    return accumulator.result()


def fit(kernel: Float64, moments: Moments, *ranks: int | None, refine: int = 2) -> tuple[Factors, float]:
    """The factors, and their relative error under the moments that they were fitted to."""
    factors = tucker_fit.fit_factors(kernel, moments, *ranks, refine=refine)
    return factors, relative_error(kernel, factors.kernel(), moments)


def measured_error(kernel: Float64, factors: Factors, rows: Float64) -> float:
    """E‖y − ŷ‖² / Var(y) by running both maps, with a bias that keeps the mean."""
    y, y_hat = (rows @ each.reshape(len(kernel), -1).T for each in (kernel, factors.kernel()))
    y_hat += y.mean(0) - y_hat.mean(0)
    return float(np.mean((y - y_hat) ** 2) / np.mean((y - y.mean(0)) ** 2))


def multilinear(rng: np.random.Generator, shape: tuple[int, ...], rank_in: int, rank_out: int) -> Float64:
    """A kernel whose input side has rank `rank_in` and output side `rank_out`."""
    return Factors(
        rng.standard_normal((rank_in, shape[1])),
        rng.standard_normal((rank_out, rank_in, *shape[2:])),
        rng.standard_normal((shape[0], rank_out)),
    ).kernel()


@st.composite
def problems(draw: st.DrawFn) -> tuple[Float64, Float64]:
    """A kernel with 0 to 3 spatial axes, and patches of its input."""
    axes = draw(st.integers(0, 3))
    taps = tuple(draw(st.integers(1, 3 if axes < 3 else 2)) for _ in range(axes))
    out, channels = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = patches(rng, draw(st.sampled_from([1, 5, 400])), channels, math.prod(taps))
    return rng.standard_normal((out, channels, *taps)), rows


# factors


@settings(deadline=None, max_examples=50)
@given(problems(), st.booleans(), st.booleans(), st.integers(1, 4), st.integers(1, 4))
def test_factors_are_a_chain_of_convolutions(problem, cut_in, cut_out, rank_in, rank_out):
    (out, channels, *taps), rng = problem[0].shape, np.random.default_rng(0)
    pointwise = (1,) * len(taps)
    factors = Factors(
        rng.standard_normal((rank_in, channels)) if cut_in else None,
        rng.standard_normal((rank_out if cut_out else out, rank_in if cut_in else channels, *taps)),
        rng.standard_normal((out, rank_out)) if cut_out else None,
    )
    chain = factors.core
    if factors.reduce is not None:
        chain = compose(factors.reduce.reshape(*factors.reduce.shape, *pointwise), chain).kernel
    if factors.expand is not None:
        chain = compose(chain, factors.expand.reshape(*factors.expand.shape, *pointwise)).kernel
    np.testing.assert_allclose(factors.kernel(), chain, rtol=1e-12, atol=1e-12)

    balanced = factors.balanced()
    np.testing.assert_allclose(balanced.kernel(), chain, rtol=1e-12, atol=1e-12)
    inner = [balanced.reduce] * cut_in + [balanced.core.reshape(len(balanced.core), -1)] * cut_out
    for weights in inner:
        np.testing.assert_allclose(np.linalg.norm(weights, axis=1), 1)


# exact factors


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("shape", [(32, 144), (64, 576), (144, 48), (256, 1152)])
@pytest.mark.parametrize("rank", [1, 16, 31])
def test_numerical_rank_of_products(dtype, shape, rank):
    rng = np.random.default_rng(rank)
    compute = np.float64 if dtype == np.float64 else np.float32
    left, right = rng.standard_normal((shape[0], rank)), rng.standard_normal((rank, shape[1])) / 20
    matrix = (left.astype(compute) @ right.astype(compute)).astype(dtype)
    assert tucker.numerical_rank(matrix, float(np.finfo(dtype).eps)) == rank


def test_numerical_rank_of_a_product_with_many_inner_channels():
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((512, 256), np.float32), rng.standard_normal((256, 2304), np.float32)
    assert tucker.numerical_rank(left @ right, float(np.finfo(np.float32).eps)) == 256


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 24),
    st.integers(1, 40),
    st.integers(0, 24),
    st.integers(1, 30),
    st.integers(0, 2**32 - 1),
)
def test_stop_only_caps_the_rank(rows, columns, rank, stop, seed):
    rng = np.random.default_rng(seed)
    rank = min(rank, rows, columns)
    left, right = np.linalg.qr(rng.standard_normal((rows, rank)))[0], rng.standard_normal((rank, columns))
    matrix = left @ np.linalg.qr(right.T)[0].T if rank else np.zeros((rows, columns))
    eps = float(np.finfo(np.float32).eps)
    assert tucker.numerical_rank(matrix, eps) == rank
    assert tucker.numerical_rank(matrix, eps, stop) == min(rank, stop)


def test_a_high_rank_is_certified_without_svd(monkeypatch):
    matrix = np.random.default_rng(0).standard_normal((64, 576)).astype(np.float16)
    matrix[::9] = 0  # dead channels are not picked
    monkeypatch.setattr(np.linalg, "svd", lambda *_, **__: pytest.fail("decomposed"))
    for view in (matrix, matrix.T):
        assert tucker.numerical_rank(view, float(np.finfo(np.float16).eps), stop=50) == 50


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(64, 64), (64, 576), (32, 4608)])
def test_rounding_norm_bounds_the_rounding(dtype, shape):
    matrix = np.random.default_rng(0).standard_normal(shape)
    noise = np.linalg.norm(matrix.astype(dtype) - matrix, 2)
    estimate = tucker.rounding_norm(matrix, float(np.finfo(dtype).eps))
    assert 0.1 * estimate < noise < 0.5 * estimate


def test_rank_of_weights_that_are_zero_or_not_finite():
    assert tucker.numerical_rank(np.zeros((4, 9)), 1e-7, stop=2) == 0
    with pytest.raises(ValueError, match="not finite"):
        tucker.numerical_rank(np.array([[1.0, np.nan]]), 1e-7)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 3e-7), (np.float16, 1e-3)])
@pytest.mark.parametrize("taps", [(), (5,), (3, 3), (2, 2, 2)])
def test_exact_factors_recover_a_low_rank_kernel(dtype, tolerance, taps):
    eps = float(np.finfo(dtype).eps)
    rank_in, rank_out = (5, 5) if not taps else (5, 7)
    kernel = multilinear(np.random.default_rng(0), (24, 16, *taps), rank_in, rank_out).astype(dtype)
    assert tucker.numerical_rank(tucker.input_unfolding(kernel), eps) == rank_in
    assert tucker.numerical_rank(tucker.output_unfolding(kernel), eps) == rank_out
    for ranks in ((rank_in, rank_out), (rank_in, None), (None, rank_out)):
        factors = tucker.exact_factors(kernel, *ranks)
        stored = Factors(
            *(
                None if f is None else f.astype(dtype).astype(np.float64)
                for f in (factors.reduce, factors.core, factors.expand)
            )
        )
        for approximation in (factors, stored):
            difference = approximation.kernel() - kernel
            assert np.linalg.norm(difference) <= tolerance * np.linalg.norm(kernel.astype(np.float64))
        if factors.reduce is not None:
            np.testing.assert_allclose(factors.reduce @ factors.reduce.T, np.eye(rank_in), atol=1e-12)
        if factors.expand is not None:
            gram = factors.expand.T @ factors.expand
            np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-10 * gram.max())


@settings(deadline=None, max_examples=40)
@given(problems())
def test_exact_factors_of_full_rank_are_the_kernel(problem):
    kernel = problem[0]
    factors = tucker.exact_factors(kernel, kernel.shape[1], kernel.shape[0])
    np.testing.assert_allclose(factors.kernel(), kernel, atol=1e-12)


# moments


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_moments_are_those_of_all_rows(dimension, sizes, seed):
    rng = np.random.default_rng(seed)
    batches = [rng.standard_normal((n, dimension)) + 3 for n in sizes]
    rows = np.concatenate(batches)
    accumulator = MomentsAccumulator(dimension)
    for batch in batches:
        accumulator.add(batch)
    if not len(rows):
        assert accumulator.result().count == 0
        return
    moments = accumulator.result()
    assert moments.count == len(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(0), atol=1e-12)
    expected = np.cov(rows.T, bias=True).reshape(dimension, dimension)
    np.testing.assert_allclose(moments.covariance, expected, atol=1e-12)


def test_float32_patches_far_from_zero_keep_their_covariance():
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((20_000, 8)) + 1000).astype(np.float32)
    accumulator = MomentsAccumulator(8)
    for batch in np.split(rows, 10):
        before = batch.copy()
        accumulator.add(batch)
        np.testing.assert_array_equal(batch, before)
    moments = accumulator.result()
    np.testing.assert_allclose(moments.mean, rows.mean(0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(moments.covariance, np.cov(rows.T.astype(np.float64), bias=True), atol=1e-5)


def test_patches_of_another_dimension_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\): expected \[n, 4\]"):
        MomentsAccumulator(4).add(np.zeros((2, 3)))


# fitted factors


@settings(deadline=None, max_examples=60)
@given(problems(), st.data())
def test_the_error_of_a_fit_is_the_one_measured(problem, data):
    kernel, rows = problem
    rank_in = data.draw(st.none() | st.integers(1, kernel.shape[1]))
    rank_out = data.draw(st.none() | st.integers(1, kernel.shape[0]))
    factors, error = fit(kernel, moments_of(rows), rank_in, rank_out)
    assert factors.kernel().shape == kernel.shape
    assert math.isfinite(error)
    assert error <= 1 + 1e-3
    if len(rows) > 1:
        assert error == pytest.approx(measured_error(kernel, factors, rows), rel=1e-6, abs=1e-10)


@settings(deadline=None, max_examples=40)
@given(problems())
def test_predictions_are_those_of_the_closed_form_and_fall_with_rank(problem):
    kernel, rows = problem
    moments = moments_of(rows)
    ranks_in, ranks_out = [*range(1, kernel.shape[1] + 1), None], [*range(1, kernel.shape[0] + 1), None]
    predictions = tucker_fit.errors(kernel, moments, ranks_in, ranks_out)
    assert [p[:2] for p in predictions] == list(itertools.product(ranks_in, ranks_out))
    table = np.array([p.error for p in predictions]).reshape(len(ranks_in), len(ranks_out))
    assert table.min() >= 0
    assert table.max() <= 1
    assert (np.diff(table, axis=0) <= 1e-9).all()
    assert (np.diff(table, axis=1) <= 1e-9).all()
    assert table[-2:, -2:].max() <= 1e-9
    if len(rows) < 400:
        return
    for rank_in, rank_out, error in predictions[::3]:
        _, closed = fit(kernel, moments, rank_in, rank_out, refine=0)
        assert closed == pytest.approx(error, rel=1e-2, abs=2e-4)
        assert fit(kernel, moments, rank_in, rank_out)[1] <= closed + 2e-4


@settings(deadline=None, max_examples=30)
@given(problems())
def test_a_fit_of_full_rank_is_the_kernel(problem):
    kernel, rows = problem
    out, channels = kernel.shape[:2]
    for ranks in ((channels, out), (channels, None), (None, out), (None, None)):
        factors, error = fit(kernel, moments_of(rows), *ranks)
        assert error <= 1e-9
        np.testing.assert_allclose(factors.kernel(), kernel, atol=1e-5)


@pytest.mark.parametrize(("rank_in", "rank_out"), [(8, None), (None, 8), (8, 8), (4, 12), (2, 2)])
def test_fit_beats_truncation_on_correlated_data(rank_in, rank_out):
    rng = np.random.default_rng(0)
    kernel, rows = rng.standard_normal((24, 16, 3, 3)), patches(rng, 6000, 16, 9)
    moments = moments_of(rows.astype(np.float32))
    truncated = tucker.exact_factors(kernel, rank_in, rank_out).kernel()
    _, closed = fit(kernel, moments, rank_in, rank_out, refine=0)
    factors, refined = fit(kernel, moments, rank_in, rank_out)
    assert closed < 0.8 * relative_error(kernel, truncated, moments)
    assert refined == pytest.approx(measured_error(kernel, factors, rows), rel=1e-4)
    if rank_in is None:
        assert refined == closed
    else:
        assert refined < closed


def test_output_cut_is_the_tail_of_the_principal_components():
    rng = np.random.default_rng(1)
    kernel, rows = rng.standard_normal((10, 4, 3)), patches(rng, 3000, 4, 3)
    values = np.linalg.eigvalsh(np.cov((rows @ kernel.reshape(10, -1).T).T, bias=True))
    _, error = fit(kernel, moments_of(rows), None, 3)
    assert error == pytest.approx(values[:-3].sum() / values.sum(), rel=1e-6)


def test_without_taps_either_side_gives_the_same_optimum():
    rng = np.random.default_rng(2)
    kernel, moments = rng.standard_normal((9, 12)), moments_of(patches(rng, 3000, 12, 1))
    for rank in (1, 4, 8):
        _, left = fit(kernel, moments, rank, None, refine=0)
        assert left == pytest.approx(fit(kernel, moments, None, rank)[1], rel=1e-3)


def test_white_moments_give_the_singular_value_decomposition():
    kernel = np.random.default_rng(3).standard_normal((12, 8, 3, 3))
    moments = Moments.white(72)
    values = np.linalg.svd(kernel.reshape(12, -1), compute_uv=False) ** 2
    (prediction,) = tucker_fit.errors(kernel, moments, [None], [5])
    assert prediction.error == pytest.approx(values[5:].sum() / values.sum())
    truncated = tucker.exact_factors(kernel, 5, 7).kernel()
    assert fit(kernel, moments, 5, 7)[1] <= relative_error(kernel, truncated, moments)


def test_rows_of_the_kernel_as_channels_fit_a_separable_form():
    rng = np.random.default_rng(4)
    column, row = rng.standard_normal((5, 8, 3, 1)), rng.standard_normal((12, 5, 1, 3))
    kernel = compose(column, row).kernel
    moments = moments_of(patches(rng, 2000, 8, 9))
    factors, error = fit(kernel.reshape(12, 24, 3), moments, 5, None)
    assert error < 1e-8
    assert factors.reduce is not None
    rebuilt = compose(factors.reduce.reshape(5, 8, 3, 1), factors.core.reshape(12, 5, 1, 3))
    np.testing.assert_allclose(rebuilt.kernel, kernel, atol=1e-3)


@pytest.mark.parametrize(
    "case", ["dead channels", "one sample", "zero kernel", "zero output channel", "one tap"]
)
@pytest.mark.parametrize("ranks", [(2, 3), (4, None), (None, 4), (6, 6)])
def test_degenerate_cases_stay_finite(case, ranks):
    rng = np.random.default_rng(5)
    kernel, rows = rng.standard_normal((6, 6, 3, 3)), patches(rng, 2000, 6, 9)
    if case == "dead channels":
        rows[:, :36] = 7.0
    elif case == "one sample":
        rows = rows[:1]
    elif case == "zero kernel":
        kernel[:] = 0
    elif case == "zero output channel":
        kernel[3] = 0
    elif case == "one tap":
        kernel[..., 1:] = 0
        kernel[..., 1:, :] = 0
    moments = moments_of(rows.astype(np.float32))
    factors, lost = fit(kernel, moments, *ranks)
    for array in (factors.kernel(), lost):
        assert np.isfinite(array).all()
    predictions = tucker_fit.errors(kernel, moments, [None, 2, 6], [None, 3, 6])
    assert all(0 <= p.error <= 1 for p in predictions)
    if case == "dead channels" and ranks == (2, 3):
        assert lost < 0.7  # two live channels are left, and both are kept
    if case in ("one sample", "zero kernel"):
        assert lost == 0.0


def test_a_covariance_that_rounding_made_indefinite_is_lifted():
    rng = np.random.default_rng(7)
    kernel, moments = rng.standard_normal((6, 8, 3)), moments_of(patches(rng, 10, 8, 3))
    values, vectors = np.linalg.eigh(moments.covariance)
    values[:3] = -1e-4 * values[-1]
    indefinite = Moments(moments.mean, (vectors * values) @ vectors.T, 10)
    for rank_in, rank_out in ((7, None), (3, 2), (None, 2)):
        factors, error = fit(kernel, indefinite, rank_in, rank_out)
        assert math.isfinite(error)
        assert np.isfinite(factors.kernel()).all()
    assert all(0 <= p.error <= 1 for p in tucker_fit.errors(kernel, indefinite, [1, 7, 8], [None, 3]))


def test_an_output_that_does_not_vary_has_no_relative_error():
    kernel, moments = np.ones((1, 2)), Moments(np.zeros(2), np.diag([0.0, 1.0]), 10)
    constant = kernel * [1, 0]
    assert relative_error(constant, constant * 2, moments) == 0.0
    assert relative_error(constant, kernel, moments) == math.inf


def test_the_same_input_gives_the_same_bytes():
    rng = np.random.default_rng(6)
    kernel, moments = rng.standard_normal((16, 16, 3, 3)), moments_of(patches(rng, 1500, 16, 9))
    first, second = (fit(kernel, moments, 6, 10) for _ in range(2))
    assert first[0].kernel().tobytes() == second[0].kernel().tobytes()
    assert first[1] == second[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w, m: fit(w, m, 9, None), "rank_in is 9: expected 1 to 8"),
        (lambda w, m: fit(w, m, None, 0), "rank_out is 0: expected 1 to 4"),
        (lambda w, m: tucker_fit.errors(w, m, [1], [5]), "rank_out is 5"),
        (lambda w, m: tucker.exact_factors(w, 9, None), "rank_in is 9"),
        (lambda w, m: fit(w, Moments.white(9), 1, 1), "dimension 9 .* expected 24"),
        (lambda w, m: fit(w * np.nan, m, 1, 1), "not finite"),
        (
            lambda w, m: tucker_fit.errors(w, Moments(m.mean, m.covariance + np.inf, 1), [1], [1]),
            "not finite",
        ),
    ],
)
def test_mistakes_are_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((4, 8, 3)), Moments.white(24))
