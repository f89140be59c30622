"""The linear unit as a classifier: its descent, its end, and the error when there is none."""

import numpy as np
import pytest
from sklearn.preprocessing import scale

from nnlab import Adaline
from nnlab.validation import ArgumentError


def extended(X: np.ndarray) -> np.ndarray:
    return np.c_[np.ones(len(X)), X]


def test_the_descent_is_the_pages(iris):
    """w ← w − η ∇E with ∇E = 1/N Σ (y − t) [1, x], from a random start, written out in NumPy."""
    X, y = iris
    unit = Adaline(eta=0.01, n_iter=20, random_state=3, tol=0).fit(X, y)
    w = np.random.RandomState(3).normal(0, 0.01, 3)
    for n in range(20):
        w -= 0.01 * extended(X).T @ (extended(X) @ w - y) / 100
        output = extended(X) @ w
        assert unit.cost_[n] == pytest.approx(((output - y) ** 2).mean() / 2, rel=1e-12)
        assert unit.errors_[n] == ((output >= 0) != (y == 1)).sum()
    np.testing.assert_allclose(unit.w_, w, rtol=1e-12)
    assert (unit.n_iter_, unit.converged_, unit.eta_) == (20, False, 0.01)


def test_it_ends_at_the_least_squares_solution(iris, blobs):
    for X, y in ((scale(iris[0]), iris[1]), blobs):
        unit = Adaline(n_iter=20000, tol=1e-9).fit(X, y)
        classes = unit.classes_[1:] if len(unit.classes_) == 2 else unit.classes_
        target = np.where(y[:, None] == classes, 1, -1)
        expected = np.linalg.lstsq(extended(X), target)[0].T
        np.testing.assert_allclose(unit.w_.reshape(expected.shape), expected, atol=1e-6)
        assert unit.converged_
        assert unit.n_iter_ == len(unit.cost_) == len(unit.errors_) < 20000
        assert unit.errors_[-1] == round((1 - unit.score(X, y)) * len(y))


def test_it_stops_when_the_step_is_shorter_than_tol(iris):
    X, y = iris
    unit = Adaline(eta=0.01, n_iter=500, tol=1e-3).fit(X, y)
    steps = [
        np.linalg.norm(np.subtract(*(Adaline(0.01, k, tol=0).fit(X, y).w_ for k in (n, n - 1))))
        for n in (unit.n_iter_ - 1, unit.n_iter_)
    ]
    assert steps[0] >= 1e-3 > steps[1]
    assert unit.converged_


def test_the_cost_never_rises_with_the_automatic_eta(blobs):
    X, y = blobs
    for size in (1e-3, 1, 1e3):
        unit = Adaline(n_iter=200, tol=0).fit(size * X + size, y)
        assert (np.diff(unit.cost_) <= 1e-12).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("factor", [2.2, 1e3, 1e30])
def test_divergence_is_an_error_that_names_eta(iris, dtype, factor):
    X, y = iris[0].astype(dtype), iris[1]
    curvature = np.linalg.eigvalsh(extended(X).T @ extended(X) / 100)[-1]
    message = (
        rf"^eta must be less than {2 / curvature:.3g} for these data, got \S+: the descent diverges, the cost rose "
    )
    with pytest.raises(ArgumentError, match=message) as caught:
        Adaline(eta=float(factor / curvature), n_iter=200).fit(X, y)
    assert caught.value.argument == "eta"
    Adaline(eta=float(1.9 / curvature), n_iter=1000).fit(X, y)  # and the bound it names is true


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": "fast"}, "eta must be one of 'auto', got 'fast'"),
        ({"eta": -1}, "eta must be a number greater than 0, got -1"),
        ({"n_iter": 0}, "n_iter must be a whole number of at least 1, got 0"),
        ({"tol": -1e-9}, "tol must be a number of at least 0, got -1e-09"),
        ({"init_std": None}, "init_std must be a number of at least 0, got None"),
    ],
)
def test_a_parameter_out_of_range_is_named(iris, options, message):
    with pytest.raises(ArgumentError, match=f"^{message}$"):
        Adaline(**options).fit(*iris)
