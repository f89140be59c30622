"""Going on where a fit ended: k times one epoch is one time k epochs, bit for bit, whatever is switched on."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from nnlab import NeuralNetMLP, NeuralNetRegressor
from nnlab.validation import ArgumentError
from tests.pairwise import pairwise
from tests.tolerances import assert_same

OPTIONS = {
    "plain": {},
    "momentum": {"momentum": 0.9, "eta": 0.002},
    "adam": {"optimizer": "adam", "eta": 0.01},
    "dropout": {"dropout": 0.4, "n_hidden": (6, 5)},
    "adam, dropout, l2": {"optimizer": "adam", "dropout": 0.2, "minibatch_size": 7, "drop_last": False, "l2": 0.1},
    "in order": {"shuffle": False, "momentum": 0.5, "activation": "tanh"},
}
KINDS = {"classifier": NeuralNetMLP, "regressor": NeuralNetRegressor}


def make(kind, options, **more):
    return kind(**{"n_hidden": 6, "eta": 0.05, "minibatch_size": 9, "seed": 3, **options, **more})


def data(kind, blobs, n_valid=0):
    X, y = blobs
    y = y if kind is NeuralNetMLP else np.c_[y, X[:, 0] ** 2]
    return (X[n_valid:], y[n_valid:]) + ((X[:n_valid], y[:n_valid]) if n_valid else ())


def learnt(network) -> dict[str, torch.Tensor]:
    """All that a fit leaves behind to be read."""
    found = {f"eval_[{name!r}]": np.array(values) for name, values in network.eval_.items()}
    found |= {f"coefs_[{k}]": w for k, w in enumerate(network.coefs_)}
    found |= {f"intercepts_[{k}]": b for k, b in enumerate(network.intercepts_)}
    found |= {"n_iter_": np.array(network.n_iter_), "best_epoch_": np.array(network.best_epoch_)}
    return {name: torch.from_numpy(value) for name, value in found.items()}


@pairwise(options=OPTIONS, kind=KINDS, dtype={"float64": np.float64, "float32": np.float32})
def test_k_fits_of_one_epoch_are_one_fit_of_k(options, kind, dtype, blobs):
    X, *others = data(kind, blobs, n_valid=20)
    arguments = (X.astype(dtype), *others)
    whole = make(kind, options, epochs=5).fit(*arguments)
    parts = make(kind, options, epochs=1, warm_start=True)
    for _ in range(5):
        parts = pickle.loads(pickle.dumps(parts.fit(*arguments)))  # and each could be another day
    assert_same(learnt(parts), learnt(whole))
    twice = make(kind, options, epochs=2, warm_start=True).fit(*arguments).set_params(epochs=3).fit(*arguments)
    assert_same(learnt(twice), learnt(whole))


@pytest.mark.parametrize("options", [*OPTIONS.values(), {"l2": 0.1}], ids=[*OPTIONS, "l2"])
def test_the_same_on_images_most_of_which_is_black(options):
    """Where nearly all inputs are zero, the engine learns without them, and must put everything back after each fit."""
    X, y = load_digits(return_X_y=True)
    X = np.where(X > 12, X / 16, 0)[:200].astype(np.float32)
    whole = make(NeuralNetMLP, options, epochs=4).fit(X, y[:200])
    parts = make(NeuralNetMLP, options, epochs=1, warm_start=True)
    for _ in range(4):
        parts = pickle.loads(pickle.dumps(parts.fit(X, y[:200])))
    assert_same(learnt(parts), learnt(whole))


@pairwise(options=OPTIONS, kind=KINDS)
def test_partial_fits_are_epochs(options, kind, blobs):
    arguments = data(kind, blobs)
    whole, parts = make(kind, options, epochs=4).fit(*arguments), make(kind, options)
    for _ in range(4):
        parts.partial_fit(*arguments, **({"classes": [0, 1, 2]} if kind is NeuralNetMLP else {}))
    assert_same(learnt(parts), learnt(whole))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_early_stopping_counts_on(kind, blobs):
    settings = {"early_stopping": True, "patience": 3, "eta": 0.3, "optimizer": "adam"}
    arguments = data(kind, blobs, n_valid=30)
    whole = make(kind, settings, epochs=60).fit(*arguments)
    assert 0 < whole.best_epoch_ == whole.n_iter_ - 3 < 57  # it did stop
    parts = make(kind, settings, epochs=1, warm_start=True)
    for _ in range(60):
        parts.fit(*arguments)
    assert_same(learnt(parts), learnt(whole))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_early_stopping_keeps_the_best_epochs_weights(kind, blobs):
    X, y, X_valid, y_valid = data(kind, blobs, n_valid=30)
    network = make(kind, {"early_stopping": True, "patience": 4, "eta": 0.3, "optimizer": "adam"}, epochs=80)
    network.fit(X, y, X_valid, y_valid)
    if kind is NeuralNetMLP:
        history = network.eval_["valid_acc"]
        assert network.score(X_valid, y_valid) == max(history)
    else:
        history = [-cost for cost in network.eval_["valid_cost"]]
    assert history.index(max(history)) + 1 == network.best_epoch_  # the first of equals
    shorter = network.best_epoch_
    plain = make(kind, {"eta": 0.3, "optimizer": "adam"}, epochs=shorter).fit(X, y, X_valid, y_valid)
    assert all((a == b).all() for a, b in zip(network.coefs_, plain.coefs_, strict=True))


def test_early_stopping_without_validation_data_is_refused(blobs):
    for kind in KINDS.values():
        with pytest.raises(
            ValueError, match=r"^early_stopping needs validation data: give X_valid and y_valid to fit$"
        ):
            kind(early_stopping=True).fit(*data(kind, blobs))


def test_figures_without_validation_data_leave_a_gap(blobs):
    X, y, X_valid, y_valid = data(NeuralNetMLP, blobs, n_valid=30)
    network = NeuralNetMLP(epochs=1, warm_start=True).fit(X, y).fit(X, y, X_valid, y_valid).fit(X, y)
    assert all(len(values) == 3 for values in network.eval_.values())
    assert np.isnan(network.eval_["valid_acc"]).tolist() == [True, False, True]


def test_a_warm_fit_of_another_shape_is_refused_and_changes_nothing(blobs):
    X, y = blobs
    network = NeuralNetMLP(4, epochs=1, warm_start=True, minibatch_size=10).fit(X, y)
    before, figures = network.w_h, dict(network.eval_)
    with pytest.raises(ArgumentError, match=r"^n_hidden must stay \(4,\) to go on, got 5$"):
        network.set_params(n_hidden=5).fit(X, y)
    with pytest.raises(ValueError, match="X has 3 features, but NeuralNetMLP is expecting 4 features as input"):
        network.set_params(n_hidden=4).fit(X[:, :3], y)
    with pytest.raises(ValueError, match="y contains previously unseen labels"):
        network.fit(X, y + 1)
    with pytest.raises(ArgumentError, match=r"^eta must be smaller"):
        network.set_params(activation="identity", loss="softmax_cross_entropy", eta=1e300).fit(X, y)
    assert network.w_h is before
    assert network.eval_ == figures


def test_another_optimizer_starts_with_an_empty_memory(blobs):
    network = NeuralNetMLP(4, epochs=1, momentum=0.5, warm_start=True).fit(*blobs)
    network.set_params(optimizer="adam").fit(*blobs)
    network.set_params(optimizer="sgd").fit(*blobs)
    assert network.n_iter_ == 3


def test_partial_fit_asks_for_the_classes_first(blobs):
    X, y = blobs
    with pytest.raises(ValueError, match=r"classes must be passed on the first call to partial_fit\."):
        NeuralNetMLP().partial_fit(X, y)
    network = NeuralNetMLP().partial_fit(X[y < 2], y[y < 2], classes=[0, 1, 2, 9])
    assert network.w_out.shape == (30, 4)
    network.partial_fit(X, y)
    with pytest.raises(ValueError, match=r"y contains previously unseen labels: \[.*3.*\]"):
        network.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match=r"^class_weight 'balanced' needs all samples at once"):
        NeuralNetMLP(class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])


def test_a_random_state_that_is_given_is_drawn_from(blobs):
    rng, twin = np.random.RandomState(5), np.random.RandomState(5)
    network = NeuralNetMLP(4, epochs=1, minibatch_size=10, random_state=rng).fit(*blobs)
    assert not (
        network.fit(*blobs).w_h == NeuralNetMLP(4, epochs=1, minibatch_size=10, random_state=twin).fit(*blobs).w_h
    ).all()
    NeuralNetMLP(4, epochs=1, minibatch_size=10, random_state=twin).fit(*blobs)
    assert rng.random_sample() == twin.random_sample()
