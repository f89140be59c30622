"""What theory says of the perceptron, checked on data drawn at random."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nnlab import Perceptron

SEEDS = st.integers(0, 2**32 - 1)


def separable(seed: int, n_features: int, n_samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole numbers, their side of a random plane that none lies on, −1 or +1, and the plane, bias first."""
    rng = np.random.RandomState(seed)
    plane = rng.randint(-9, 10, 1 + n_features).astype(float)
    plane[0] += 0.5  # whole numbers are then never on it
    X = rng.randint(-20, 21, (n_samples, n_features)).astype(float)
    return X, np.where(plane[0] + X @ plane[1:] > 0, 1, -1), plane


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 6), st.integers(4, 40))
def test_no_more_mistakes_than_the_radius_over_the_margin_squared(seed, n_features, n_samples):
    """Novikoff (1962): from w = 0, at most (R / γ)² updates, in any order and however often the data are passed."""
    X, y, plane = separable(seed, n_features, n_samples)
    if len(set(y)) < 2:
        return
    extended = np.c_[np.ones(n_samples), X]  # the bias is a weight of a constant input
    radius = np.linalg.norm(extended, axis=1).max()
    margin = (y * (extended @ plane)).min() / np.linalg.norm(plane)
    bound = (radius / margin) ** 2
    for shuffle in (False, True):
        perceptron = Perceptron(1.0, 100_000, seed, init_std=0, tol=0, shuffle=shuffle, output="step").fit(X, y)
        assert sum(perceptron.errors_) <= bound
        assert perceptron.converged_
        assert perceptron.score(X, y) == 1


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 5), st.integers(2, 4), st.sampled_from([2.0**-20, 0.25, 3.0, 1024.0]))
def test_from_zero_eta_is_a_pure_scale(seed, n_features, n_classes, eta):
    """On whole numbers every sum is exact, so the mistakes are the very same and the weights η times those of η = 1."""
    rng = np.random.RandomState(seed)
    X, y = rng.randint(-20, 21, (40, n_features)).astype(float), np.arange(40) % n_classes
    one, other = (Perceptron(e, 5, init_std=0).fit(X, y) for e in (1.0, eta))
    assert one.errors_ == other.errors_
    assert (other.w_ == eta * one.w_).all()
    assert (one.predict(X) == other.predict(X)).all()


def test_from_another_start_eta_is_more_than_a_scale(iris_rows):
    X, y = iris_rows
    small, large = (Perceptron(eta, 10, init_std=0.5).fit(X, y) for eta in (0.001, 1.0))
    assert small.errors_ != large.errors_


@pytest.fixture
def iris_rows():
    from sklearn.datasets import load_iris

    data = load_iris()
    return data.data[:100][:, [0, 2]], data.target[:100]


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 4), st.booleans(), st.booleans(), st.sampled_from([0.0, 0.01, 3.0]))
def test_what_no_plane_separates_never_converges(seed, n_features, shuffle, average, init_std):
    """One point with both labels, among separable ones: some update is made in every epoch."""
    X, y, _ = separable(seed, n_features, 12)
    X, y = np.vstack([X, X[:1]]), np.r_[y, -y[0]]
    perceptron = Perceptron(0.5, 30, seed, shuffle=shuffle, average=average, init_std=init_std, tol=0).fit(X, y)
    assert not perceptron.converged_
    assert perceptron.n_iter_ == 30
    assert min(perceptron.errors_) >= 1


@pytest.mark.parametrize("average", [False, True])
def test_exclusive_or_never_converges(average):
    X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    perceptron = Perceptron(n_iter=100, average=average, tol=0).fit(X, y)
    assert not perceptron.converged_
    assert perceptron.n_iter_ == 100


@settings(max_examples=25, deadline=None)
@given(
    arrays(np.float64, (5, 3), elements=st.integers(-2, 2)), arrays(np.float64, (20, 2), elements=st.integers(-2, 2))
)
def test_one_against_all_takes_the_largest_net_input_and_the_first_of_equals(w, X):
    perceptron = Perceptron(n_iter=1).fit(np.eye(5, 2), [10, 20, 30, 40, 50])
    perceptron.w_ = w
    u = w[:, 0] + X @ w[:, 1:].T
    expected = [max(range(5), key=lambda k: (row[k], -k)) for row in u]
    assert perceptron.predict(X).tolist() == [10 * (k + 1) for k in expected]


def test_the_largest_absolute_net_input_would_be_the_surest_no():
    """The text's rule for one-against-all, which nnlab does not follow."""
    X, y = np.array([[-9.0], [0.0], [9.0]]), np.array([0, 1, 2])
    perceptron = Perceptron().fit(X, y)
    perceptron.w_ = np.array([[0.0, -1.0], [1.0, 0.0], [0.0, 1.0]])
    assert perceptron.predict(X).tolist() == [0, 1, 2]
    assert np.abs(perceptron.net_input(X)).argmax(1).tolist() == [0, 1, 0]  # a tie, and a 0 where 2 is right


def test_two_classes_at_a_net_input_of_zero_are_the_second():
    perceptron = Perceptron(n_iter=1).fit([[0.0], [1.0]], ["no", "yes"])
    perceptron.w_ = np.zeros(2)
    assert perceptron.predict([[0.0], [5.0]]).tolist() == ["yes", "yes"]
