"""The chapter's perceptron: its numbers, the printed class, any labels, any number of classes, and its options."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from nnlab import Perceptron
from nnlab.ops import bipolar_step, perceptron_rule, step
from nnlab.validation import ArgumentError
from tests.estimators.reference import ReferencePerceptron


@pytest.mark.parametrize("eta", [0.1, 0.01])
def test_the_chapters_numbers_on_iris(iris, eta):
    X, y = iris
    perceptron = Perceptron(eta=eta, n_iter=10).fit(X, y)
    assert perceptron.errors_ == [1, 3, 3, 2, 1, 0, 0, 0, 0, 0]
    assert perceptron.converged_
    assert perceptron.score(X, y) == 1
    if eta == 0.1:
        assert perceptron.w_.round(8).tolist() == [-0.38375655, -0.70611756, 1.83471828]


def test_the_default_is_the_printed_class(iris):
    X, y = iris
    ours, page = Perceptron().fit(X, y), ReferencePerceptron().fit(X, y)
    assert ours.errors_ == page.errors_
    assert len(ours.errors_) == ours.n_iter_ == 50
    np.testing.assert_allclose(ours.w_, page.w_, rtol=1e-13)
    grid = np.random.RandomState(0).uniform(-9, 9, (200, 2))
    np.testing.assert_allclose(ours.net_input(grid), page.net_input(grid), rtol=1e-12)
    assert ours.predict(grid).tolist() == page.predict(grid).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_the_printed_class_on_data_that_it_cannot_separate(seed):
    X, y = load_digits(return_X_y=True)  # one digit against the others, in whole numbers: many updates, no rounding
    y = np.where(y == seed, 1, -1)
    ours = Perceptron(eta=0.5, n_iter=3, random_state=seed).fit(X[:500], y[:500])
    page = ReferencePerceptron(eta=0.5, n_iter=3, random_state=seed).fit(X[:500], y[:500])
    assert ours.errors_ == page.errors_
    np.testing.assert_allclose(ours.w_, page.w_, rtol=1e-12)


@pytest.mark.parametrize("labels", [(-1, 1), (1, 2), (0, 7), ("no", "yes"), (False, True), (-2.0, 3.0)], ids=str)
def test_two_labels_of_any_kind_make_no_difference(iris, labels):
    X, y = iris
    named = np.array(labels)[(y == 1).astype(int)]
    perceptron = Perceptron(n_iter=10).fit(X, named)
    assert perceptron.classes_.tolist() == list(labels)
    assert perceptron.w_.tolist() == Perceptron(n_iter=10).fit(X, y).w_.tolist()
    predicted = perceptron.predict(X)
    assert predicted.dtype == named.dtype
    assert (predicted == named).all()


@pytest.mark.parametrize("labels", [(0, 1, 2), (1, 2, 3), (-7, 0, 40), ("a", "bb", "ccc")], ids=str)
def test_more_classes_are_learnt_one_against_all(blobs, labels):
    X, y = blobs
    named = np.array(labels)[y]
    perceptron = Perceptron(n_iter=7).fit(X, named)
    assert perceptron.w_.shape == (3, 5)
    start = np.random.RandomState(1).normal(0, 0.01, (3, 5))
    updates = np.zeros(7, dtype=int)
    for k in range(3):  # one printed class each, from its own row of the start
        page = ReferencePerceptron(n_iter=7)
        page.w_ = start[k]
        for epoch in range(7):
            for xi, target in zip(X, np.where(y == k, 1, -1), strict=True):
                update = 0.01 * (target - page.predict(xi))
                page.w_[1:] += update * xi
                page.w_[0] += update
                updates[epoch] += int(update != 0)
        np.testing.assert_allclose(perceptron.w_[k], page.w_, rtol=1e-10)
    assert perceptron.errors_ == updates.tolist()
    assert (perceptron.predict(X) == np.array(labels)[perceptron.net_input(X).argmax(1)]).all()


def test_coef_and_intercept_are_scikit_learns(iris, blobs):
    for (X, y), units in ((iris, 1), (blobs, 3)):
        perceptron = Perceptron(n_iter=3).fit(X, y)
        assert perceptron.coef_.shape == (units, X.shape[1])
        assert perceptron.intercept_.shape == (units,)
        u = X @ perceptron.coef_.T + perceptron.intercept_
        np.testing.assert_allclose(perceptron.decision_function(X), u[:, 0] if units == 1 else u, rtol=1e-12)
        assert perceptron.decision_function(X).shape == ((len(X),) if units == 1 else (len(X), units))


@pytest.mark.parametrize("output", ["bipolar", "step"])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_options_follow_the_rule(blobs, output, average, shuffle):
    X, y = blobs
    perceptron = Perceptron(0.3, 4, 5, output=output, average=average, shuffle=shuffle).fit(X, y)
    rng, g = np.random.RandomState(5), bipolar_step if output == "bipolar" else step
    start = torch.from_numpy(rng.normal(0, 0.01, (3, 5)))
    weight, bias, met = start[:, 1:], start[:, 0], []
    for _ in range(4):
        for n in rng.permutation(90) if shuffle else range(90):
            d = g((torch.arange(3) == int(y[n])).double() - 0.5)
            _, weight, bias = perceptron_rule(torch.from_numpy(X[[n]]), d[None], weight, bias, 0.3, g)
            met.append(torch.cat([bias[:, None], weight], 1))
    expected = torch.stack(met).mean(0) if average else met[-1]
    np.testing.assert_allclose(perceptron.w_, expected.numpy(), rtol=1e-10, atol=1e-12)


def test_tolerance_stops_after_an_epoch_with_as_few_updates(iris):
    X, y = iris
    assert Perceptron(tol=0).fit(X, y).errors_ == [1, 3, 3, 2, 1, 0]
    patient = Perceptron(tol=2).fit(X, y)
    assert (patient.errors_, patient.n_iter_, patient.converged_) == ([1], 1, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 0.0}, "eta must be a number greater than 0, got 0.0"),
        ({"eta": float("nan")}, "eta must be a number greater than 0, got nan"),
        ({"n_iter": 0}, "n_iter must be a whole number of at least 1, got 0"),
        ({"n_iter": 2.5}, "n_iter must be a whole number of at least 1, got 2.5"),
        ({"output": "sigmoid"}, "output must be one of 'bipolar', 'step', got 'sigmoid'"),
        ({"tol": -1}, "tol must be a number of at least 0, got -1"),
        ({"init_std": -0.1}, "init_std must be a number of at least 0, got -0.1"),
        ({"device": "tpu"}, "device must be 'auto' or a device as torch names it, got 'tpu'"),
    ],
)
def test_a_parameter_out_of_range_is_named(iris, options, message):
    with pytest.raises(ArgumentError, match=f"^{message}$"):
        Perceptron(**options).fit(*iris)


def test_numpys_numbers_are_numbers(iris):
    perceptron = Perceptron(np.float32(0.5), np.int64(3), tol=np.int32(0)).fit(*iris)
    assert perceptron.n_iter_ == 3


@pytest.mark.parametrize(
    ("name", "value", "dtype"), [("eta", 1e308, np.float64), ("eta", 1e60, np.float32), ("init_std", 1e60, np.float32)]
)
def test_weights_that_become_infinite_name_what_was_too_large(iris, name, value, dtype):
    X, y = iris
    with pytest.raises(ArgumentError, match=f"^{name} must be smaller than") as caught:
        Perceptron(**{name: value}).fit((1e4 * X).astype(dtype), y)
    assert caught.value.argument == name
