"""The reported loss is the loss whose gradient is applied: central differences over the step that was taken.

Everything goes through the public attributes: an epoch of one batch moves the weights by −η ∇E, and an epoch with a
vanishing η reports E where the weights were put by hand.
"""

import itertools
import warnings

import numpy as np
import pytest

from nnlab import Adaline, NeuralNetMLP, NeuralNetRegressor

ETA, STANDSTILL, H = 1.0, 1e-300, 1e-5


def parameters(network) -> list[np.ndarray]:
    return [*network.coefs_, *network.intercepts_]


def reported(network, key, fit_arguments) -> float:
    network.set_params(eta=STANDSTILL).fit(*fit_arguments[0], **fit_arguments[1])
    return network.eval_[key][-1]


def applied_gradient(network, fit_arguments) -> list[np.ndarray]:
    before = [w.copy() for w in parameters(network)]
    network.set_params(eta=ETA).fit(*fit_arguments[0], **fit_arguments[1])
    step = [(old - new) / ETA for old, new in zip(before, parameters(network), strict=True)]
    for w, old in zip(parameters(network), before, strict=True):
        w[:] = old
    return step


def differences(network, key, fit_arguments, directions) -> float:
    """The slope of the reported loss along the directions."""
    origin, slopes = [w.copy() for w in parameters(network)], []
    for sign in (1, -1):
        for w, at, direction in zip(parameters(network), origin, directions, strict=True):
            w[:] = at + sign * H * direction
        slopes.append(reported(network, key, fit_arguments))
        for w, at in zip(parameters(network), origin, strict=True):
            w[:] = at
    return (slopes[0] - slopes[1]) / (2 * H)


def assert_is_the_gradient(network, key, fit_arguments) -> None:
    gradient = applied_gradient(network, fit_arguments)
    rng, norm = np.random.RandomState(0), np.sqrt(sum((g**2).sum() for g in gradient))
    for direction in (
        [g / norm for g in gradient],  # all parameters at once, along the gradient
        *([g / norm if k == j else 0 * g for k, g in enumerate(gradient)] for j in range(len(gradient))),  # each alone
        [rng.choice([-1.0, 1.0], g.shape) * np.sign(g) * rng.uniform(0.5, 1, g.shape) + 3 * g / norm for g in gradient],
    ):
        expected = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
        ratio = differences(network, key, fit_arguments, direction) / expected
        assert abs(ratio - 1) < 1e-6, f"central differences over the applied gradient: {ratio!r}"


ONE_BATCH = {"minibatch_size": 12, "epochs": 1, "eta": 0.1, "warm_start": True, "seed": 4}


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "softmax_cross_entropy", "sum_of_squares"])
@pytest.mark.parametrize(("n_hidden", "activation"), [(4, "sigmoid"), ((5, 4), ("tanh", "sigmoid")), ((), "tanh")])
def test_classifier_with_l2_sample_weight_and_class_weight(loss, n_hidden, activation):
    rng = np.random.RandomState(1)
    X, y, weight = rng.normal(size=(12, 3)), np.arange(12) % 3, rng.uniform(0, 2, 12)
    weight[3] = 0
    network = NeuralNetMLP(
        n_hidden, 0.7, loss=loss, activation=activation, class_weight={0: 0.5, 1: 3, 2: 1.5}, **ONE_BATCH
    ).fit(X, y)
    assert_is_the_gradient(network, "loss", ((X, y), {"sample_weight": weight}))


def test_the_printed_cost_is_not_what_is_descended():
    """The chapter's form, kept so that figures compare: with λ on, the check above must tell the two apart."""
    X, y = np.random.RandomState(1).normal(size=(12, 3)), np.arange(12) % 3
    network = NeuralNetMLP(4, 0.7, **ONE_BATCH).fit(X, y)
    with pytest.raises(AssertionError, match="central differences over the applied gradient"):
        assert_is_the_gradient(network, "cost", ((X, y), {}))


@pytest.mark.parametrize("n_targets", [1, 3])
@pytest.mark.parametrize(("n_hidden", "activation"), [(4, "tanh"), ((5, 4), ("sigmoid", "tanh"))])
def test_regressor_with_l2_and_sample_weight(n_targets, n_hidden, activation):
    rng = np.random.RandomState(2)
    X, y, weight = rng.normal(size=(12, 3)), rng.normal(size=(12, n_targets)), rng.uniform(0, 2, 12)
    network = NeuralNetRegressor(n_hidden, 0.7, activation=activation, **ONE_BATCH).fit(X, y)
    assert_is_the_gradient(network, "cost", ((X, y), {"sample_weight": weight}))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_adaline(monkeypatch, n_classes, weighted):
    rng = np.random.RandomState(3)
    X, y = rng.normal(size=(12, 3)), np.arange(12) % n_classes
    weight = rng.uniform(0, 2, 12) if weighted else None
    shape = (1 if n_classes == 2 else 3, 4)
    start = rng.normal(size=shape)

    def run(at, eta):
        monkeypatch.setattr(Adaline, "_draw", lambda *_: at)
        return Adaline(eta, 1).fit(X, y, weight)

    gradient = (start - run(start, 0.01).w_.reshape(shape)) / 0.01
    for k, i in itertools.product(*map(range, shape)):
        e = np.zeros(shape)
        e[k, i] = H
        slope = (run(start + e, STANDSTILL).cost_[0] - run(start - e, STANDSTILL).cost_[0]) / (2 * H)
        assert slope == pytest.approx(gradient[k, i], rel=1e-6, abs=1e-9)


def test_this_file_would_see_scikit_learns_regressor():
    """Its loss for several targets is off by their number (as of 1.9), which a ratio of 3 betrays."""
    from sklearn.neural_network import MLPRegressor

    rng = np.random.RandomState(2)
    X, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 3))
    network = MLPRegressor(
        hidden_layer_sizes=4,
        activation="tanh",
        solver="sgd",
        momentum=0,
        batch_size=12,
        alpha=0,
        max_iter=1,
        warm_start=True,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one iteration does not converge
        network.set_params(learning_rate_init=1e-3).fit(X, y)
        before = network.intercepts_[-1].copy()
        network.fit(X, y)
    gradient = (before - network.intercepts_[-1]) / 1e-3
    network.intercepts_[-1][:] = before
    losses = []
    for sign in (1, -1):
        network.intercepts_[-1][:] = before + sign * H
        losses.append(0.5 * ((network.predict(X) - y) ** 2).mean())  # as it reports it
    assert gradient.sum() / ((losses[0] - losses[1]) / (2 * H)) == pytest.approx(3, rel=0.05)
