"""The chapter's class: its random stream, costs and accuracies against a NumPy reference, and its attributes."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from nnlab import NeuralNetMLP
from tests.estimators.reference import ReferenceMLP

DATA = Path(os.environ.get("NNLAB_DATA") or "data")  # as it was before conftest hid it from the tests
FIGURES = ("cost", "train_acc", "valid_acc")


def digits() -> list[np.ndarray]:
    X, y = load_digits(return_X_y=True)
    X = X / 8 - 1
    return [X[:505], y[:505], X[505:700], y[505:700]]


def assert_equal_figures(ours: NeuralNetMLP, page: ReferenceMLP) -> None:
    for key in FIGURES:
        np.testing.assert_allclose(ours.eval_[key], page.eval_[key], rtol=1e-9, atol=0, err_msg=key)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 2, "seed": 1},  # the chapter's defaults
        {
            "n_hidden": 20,
            "l2": 0.01,
            "epochs": 8,
            "eta": 0.005,
            "minibatch_size": 50,
            "seed": 1,
        },  # a tail of 5 is left out
        {"n_hidden": 7, "l2": 0.5, "epochs": 3, "eta": 0.01, "shuffle": False, "minibatch_size": 8, "seed": 42},
        {"n_hidden": 1, "epochs": 2, "eta": 0.1, "minibatch_size": 505, "seed": 0},
    ],
    ids=str,
)
def test_costs_accuracies_and_weights_are_the_printed_classs(settings):
    data = digits()
    ours, page = NeuralNetMLP(**settings).fit(*data), ReferenceMLP(**settings).fit(*data)
    assert_equal_figures(ours, page)
    for name in ("w_h", "b_h", "w_out", "b_out"):
        assert getattr(ours, name).shape == getattr(page, name).shape
        np.testing.assert_allclose(getattr(ours, name), getattr(page, name), rtol=1e-9, atol=1e-13, err_msg=name)
    assert ours.predict(data[2]).tolist() == page.predict(data[2]).tolist()


@pytest.mark.mnist
@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "MNIST" / "raw").is_dir(), reason=f"no MNIST in {DATA}")
def test_three_epochs_of_the_chapters_experiment_are_the_printed_classs():
    """Seed 1, 55,000 and 5,000 images of MNIST in [−1, 1], 784-100-10, λ 0.01, η 0.0005, mini-batch 100, float64."""
    from nnlab.data import load_split

    split = load_split("mnist", DATA, "train")
    X = (split.images.flatten(1).double() / 255 - 0.5).mul(2).numpy()
    y = split.labels.numpy()
    data = [X[:55000], y[:55000], X[55000:], y[55000:]]
    settings = {"n_hidden": 100, "l2": 0.01, "epochs": 3, "eta": 0.0005, "minibatch_size": 100, "seed": 1}
    assert_equal_figures(NeuralNetMLP(**settings).fit(*data), ReferenceMLP(**settings).fit(*data))


def test_random_state_is_the_seed_where_there_is_none():
    X, y, *_ = digits()
    settings = {"epochs": 1, "minibatch_size": 100}
    by_seed = NeuralNetMLP(seed=3, random_state=4, **settings).fit(X, y)
    by_state = NeuralNetMLP(random_state=3, **settings).fit(X, y)
    assert by_seed.eval_ == by_state.eval_
    assert NeuralNetMLP(random_state=4, **settings).fit(X, y).eval_ != by_seed.eval_


def test_a_cold_fit_seeds_anew():
    X, y, *_ = digits()
    network = NeuralNetMLP(epochs=2, minibatch_size=100, seed=3)
    first = network.fit(X, y).eval_
    assert network.fit(X, y).eval_ == first
    assert len(first["cost"]) == network.n_iter_ == network.best_epoch_ == 2


def test_eval_reports_the_printed_cost_and_the_loss_that_is_descended():
    data = digits()
    network = NeuralNetMLP(epochs=2, l2=0.3, minibatch_size=100, seed=1).fit(*data)
    per_sample = {"cost_per_sample", "valid_cost_per_sample"}
    assert set(network.eval_) == {"cost", "loss", "train_acc", "valid_acc", "valid_cost", *per_sample}
    squares = (network.w_h**2).sum() + (network.w_out**2).sum()
    u = (1 / (1 + np.exp(-data[0] @ network.w_h - network.b_h))) @ network.w_out + network.b_out
    errors = np.logaddexp(0, np.where(np.eye(10)[data[1]] == 1, -u, u)).sum()
    assert network.eval_["cost"][-1] == pytest.approx(errors + 0.3 * squares, rel=1e-12)
    assert network.eval_["loss"][-1] == pytest.approx(errors + 0.15 * squares, rel=1e-12)
    assert network.eval_["cost_per_sample"][-1] == pytest.approx(errors / len(data[0]), rel=1e-12)
    assert network.eval_["train_acc"][-1] == network.score(*data[:2])
    assert network.eval_["valid_acc"][-1] == network.score(*data[2:])
    swapped = NeuralNetMLP(epochs=2, l2=0.3, minibatch_size=100, seed=1).fit(*data[:2], *data[:2])
    assert swapped.eval_["valid_cost"] == pytest.approx(swapped.eval_["cost"], rel=1e-12)
    assert swapped.eval_["valid_cost_per_sample"] == pytest.approx(swapped.eval_["cost_per_sample"], rel=1e-12)
    alone = NeuralNetMLP(epochs=1, minibatch_size=100).fit(*data[:2])
    assert set(alone.eval_) == {"cost", "loss", "cost_per_sample", "train_acc"}


def test_probabilities_sum_to_one_and_agree_with_the_labels():
    X, y, X_valid, _ = digits()
    for loss in ("binary_cross_entropy", "softmax_cross_entropy", "sum_of_squares"):
        network = NeuralNetMLP(20, epochs=10, eta=0.01, minibatch_size=10, loss=loss, seed=1).fit(X, y)
        p = network.predict_proba(X_valid)
        np.testing.assert_allclose(p.sum(1), 1, rtol=1e-12)
        assert (network.classes_[p.argmax(1)] == network.predict(X_valid)).all()
        np.testing.assert_allclose(np.log(p), network.predict_log_proba(X_valid), rtol=1e-10)
    u = (1 / (1 + np.exp(-X_valid @ network.w_h - network.b_h))) @ network.w_out + network.b_out
    a = 1 / (1 + np.exp(-u))
    np.testing.assert_allclose(p, a / a.sum(1, keepdims=True), rtol=1e-10)  # the sigmoid units', made to sum to 1


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "softmax_cross_entropy", "sum_of_squares"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_loss_and_no_probability_overflows_for_logits_of_1e4(loss, dtype):
    X = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], dtype=dtype)
    network = NeuralNetMLP((), epochs=1, minibatch_size=4, eta=1e-30, loss=loss, warm_start=True, seed=0)
    network.fit(X, [0, 1, 1, 0])
    network.coefs_[0][:] = [[1e4, -1e4], [-1e4, 1e4]]  # two samples are as right, and two as wrong, as can be
    network.fit(X, [0, 1, 1, 0], X, [0, 1, 1, 0])
    wrong = {"binary_cross_entropy": 4e4, "softmax_cross_entropy": 4e4, "sum_of_squares": 2.0}[loss]
    assert network.eval_["cost"][-1] == network.eval_["valid_cost"][-1] == pytest.approx(wrong, rel=1e-6)
    p = network.predict_proba(X)
    assert p.dtype == dtype
    np.testing.assert_allclose(p, [[1, 0], [0, 1], [1, 0], [0, 1]], atol=1e-300)
    assert np.isfinite(network.predict_log_proba(X)).all()


def test_the_chapters_names_are_for_one_hidden_layer():
    X, y, *_ = digits()
    deep = NeuralNetMLP((9, 4), epochs=1, minibatch_size=100).fit(X, y)
    assert [w.shape for w in deep.coefs_] == [(64, 9), (9, 4), (4, 10)]
    assert [b.shape for b in deep.intercepts_] == [(9,), (4,), (10,)]
    assert not hasattr(deep, "w_h")
    with pytest.raises(AttributeError, match="one hidden layer, here are 2: see coefs_"):
        _ = deep.w_out
    assert not hasattr(NeuralNetMLP(), "w_h")  # not fitted


def test_a_fit_changes_nothing_that_an_earlier_one_gave_out():
    X, y, *_ = digits()
    network = NeuralNetMLP(epochs=1, minibatch_size=100, seed=1, warm_start=True).fit(X, y)
    arrays, costs = [*network.coefs_, *network.intercepts_], network.eval_["cost"]
    copies = [w.copy() for w in arrays]
    network.fit(X, y)
    assert len(costs) == 1
    assert all((w == c).all() for w, c in zip(arrays, copies, strict=True))
    assert not any((w == c).all() for w, c in zip([*network.coefs_, *network.intercepts_], copies, strict=True))


def test_a_tail_shorter_than_a_mini_batch():
    X, y = (a[:25] for a in digits()[:2])
    settings = {"epochs": 1, "eta": 0.5, "minibatch_size": 10, "shuffle": False, "seed": 1}
    left_out = NeuralNetMLP(**settings).fit(X, y)
    shorter = NeuralNetMLP(**settings).fit(X[:20], np.r_[y[:20]])
    assert set(y[:20]) == set(y)
    assert (left_out.w_h == shorter.w_h).all()
    kept = NeuralNetMLP(drop_last=False, **settings).fit(X, y)
    assert not (kept.w_h == left_out.w_h).all()
    with pytest.raises(
        ValueError, match=r"^minibatch_size must be at most n_samples = 25, or drop_last be False, got 26$"
    ):
        NeuralNetMLP(minibatch_size=26).fit(X, y)
    NeuralNetMLP(minibatch_size=26, drop_last=False, epochs=1).fit(X, y)


def test_many_samples_are_measured_in_parts(monkeypatch):
    from nnlab.estimators import objective

    data = digits()
    whole = NeuralNetMLP(epochs=2, l2=0.1, minibatch_size=100, seed=1).fit(*data)
    monkeypatch.setattr(objective, "AT_ONCE", 64)
    monkeypatch.setattr("nnlab.engine.mlp.AT_ONCE", 64)
    parts = NeuralNetMLP(epochs=2, l2=0.1, minibatch_size=100, seed=1).fit(*data)
    for key in whole.eval_:
        np.testing.assert_allclose(parts.eval_[key], whole.eval_[key], rtol=1e-13)
    assert (parts.w_h == whole.w_h).all()
    assert torch.get_default_dtype() == torch.float32  # nothing global was changed
