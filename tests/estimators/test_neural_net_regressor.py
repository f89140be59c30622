"""The regressor: one target and many, what it reports, and that it learns."""

import numpy as np
import pytest
from sklearn.datasets import make_regression
from sklearn.preprocessing import scale

from nnlab import NeuralNetRegressor


@pytest.mark.parametrize("shape", [(), (1,), (3,)], ids=str)
def test_targets_keep_their_shape(shape):
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(20, 4)), rng.normal(size=(20, *shape))
    network = NeuralNetRegressor(5, epochs=2).fit(X, y, X[:7], y[:7])
    assert network.predict(X[:9]).shape == (9, *shape)
    assert [len(values) for values in network.eval_.values()] == [2, 2, 2, 2]


@pytest.mark.parametrize("n_targets", [1, 4])
def test_the_reported_cost_is_the_sum_of_squares_and_the_penalty(n_targets):
    rng = np.random.RandomState(0)
    X, y, weight = rng.normal(size=(20, 4)), rng.normal(size=(20, n_targets)), rng.uniform(size=20)
    network = NeuralNetRegressor(5, 0.3, epochs=3, seed=1).fit(X, y, X[:5], y[:5], weight)
    penalty = 0.15 * sum((w**2).sum() for w in network.coefs_)
    squares = 0.5 * ((network.predict(X) - y) ** 2).sum(1)
    assert network.eval_["cost"][-1] == pytest.approx((weight * squares).sum() + penalty, rel=1e-12)
    assert network.eval_["valid_cost"][-1] == pytest.approx(squares[:5].sum() + penalty, rel=1e-12)
    assert network.eval_["cost_per_sample"][-1] == pytest.approx(np.average(squares, weights=weight), rel=1e-12)
    assert network.eval_["valid_cost_per_sample"][-1] == pytest.approx(squares[:5].mean(), rel=1e-12)


def test_it_learns_many_targets_as_well_as_one():
    X, y = make_regression(150, 5, n_informative=3, n_targets=2, noise=1, random_state=0)
    X, y = scale(X), scale(y)
    settings = {"n_hidden": 10, "activation": "tanh", "epochs": 60, "eta": 0.02, "minibatch_size": 10, "seed": 1}
    assert NeuralNetRegressor(**settings).fit(X, y).score(X, y) > 0.97
    assert NeuralNetRegressor(**settings).fit(X, y[:, 0]).score(X, y[:, 0]) > 0.97


def test_many_targets_pull_as_the_sum_of_single_ones_does():
    """No factor is lost with the number of targets: the first step of the output layer is each target's own."""
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(20, 4)), rng.normal(size=(20, 3))
    settings = {"n_hidden": (), "epochs": 1, "eta": 0.01, "minibatch_size": 20, "warm_start": True, "seed": 1}

    def step(y):
        network = NeuralNetRegressor(**settings).fit(X, y)
        network.coefs_[0][:] = network.intercepts_[0][:] = 0
        network.fit(X, y)
        return np.vstack([network.coefs_[0], network.intercepts_[0]])

    together, alone = step(y), np.hstack([step(y[:, [k]]) for k in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.zeros((20, 2)), np.zeros((20, 3, 1))], ids=str)
def test_validation_targets_of_another_shape_are_refused(bad):
    X, y = np.zeros((20, 4)), np.zeros((20, 3))
    with pytest.raises(ValueError, match=r"y must have shape \('N', 3\), got|Found array with dim 3"):
        NeuralNetRegressor(epochs=1).fit(X, y, X, bad)
