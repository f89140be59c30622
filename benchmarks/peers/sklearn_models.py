"""scikit-learn's ``MLPClassifier`` and ``Perceptron``, on the CPU, without the search for NaN in all samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import numpy as np
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Perceptron
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from benchmarks.ours import Accuracy, until_goal
from benchmarks.problems import AccuracyProblem, MLPProblem, PerceptronProblem, SpeedrunProblem
from benchmarks.process import Contestant


def mlp(problem: MLPProblem) -> Contestant:
    """Gradient descent on the mean softmax cross-entropy, in the samples' own dtype, one ``partial_fit`` per epoch.

    The samples are permuted before it, into one buffer, so that the classifier need not gather each mini-batch.
    """
    x, labels, classes = problem.x.cpu(), problem.labels.cpu(), np.arange(problem.sizes[-1])
    x_buffer, labels_buffer = torch.empty_like(x), torch.empty_like(labels)
    model = MLPClassifier(
        problem.sizes[1:-1],
        activation="relu",
        solver="sgd",
        alpha=0.0,
        batch_size=problem.batch_size,
        learning_rate_init=problem.lr,
        momentum=0.0,
        nesterovs_momentum=False,
        shuffle=False,
        random_state=0,
    )

    def train(order: Tensor) -> None:
        order, n = order.cpu(), len(order)
        torch.index_select(x, 0, order, out=x_buffer[:n])
        torch.index_select(labels, 0, order, out=labels_buffer[:n])
        with sklearn.config_context(assume_finite=True):
            model.partial_fit(x_buffer[:n].numpy(), labels_buffer[:n].numpy(), classes=classes)

    train(torch.arange(min(len(x), problem.batch_size)))  # makes the arrays
    _set_weights(model, problem.network().parameters())
    return Contestant(train, lambda: _weights(model))


def perceptron(problem: PerceptronProblem, *, n_jobs: int = 1) -> Contestant:
    """One pass of ``fit`` over all samples in their own order, ``n_jobs`` classes at the same time."""
    bank, x, labels = problem.bank(), problem.x.cpu().numpy(), problem.labels.cpu().numpy()
    model = Perceptron(penalty=None, eta0=1.0, shuffle=False, max_iter=1, tol=None, n_jobs=n_jobs)
    model.coef_, model.intercept_ = bank.weight.cpu().numpy(), bank.bias.cpu().numpy()

    def train(order: Tensor) -> None:
        with sklearn.config_context(assume_finite=True), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, labels, coef_init=model.coef_, intercept_init=model.intercept_)

    return Contestant(train, lambda: [torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)])


def mlp_to_goal(problem: AccuracyProblem) -> Contestant:
    """784-256-10 in batches of 200, learning rate 0.14, Nesterov momentum 0.9, one ``partial_fit`` per epoch."""
    x, labels = problem.x.cpu().numpy(), problem.labels.cpu().numpy()

    def start(seed: int) -> tuple[Callable[[], object], Accuracy]:
        model = MLPClassifier(
            (256,), solver="sgd", alpha=0.0, batch_size=200, learning_rate_init=0.14, momentum=0.9, random_state=seed
        )

        def epoch() -> None:
            with sklearn.config_context(assume_finite=True):
                model.partial_fit(x, labels, classes=np.arange(10))

        return epoch, lambda x, labels: float(model.score(x.cpu().numpy(), labels.cpu().numpy()))

    return until_goal(problem, start)


def speedrun(problem: SpeedrunProblem) -> Contestant:
    """Gradient descent with momentum on images without distortions, a ``fit`` with a warm start per 100 mini-batches.

    It takes another rate only from one ``fit`` to the next, where its momentum begins at 0 again; its penalty is of the
    weights alone. An order is a seed and an epoch.
    """
    images = problem.scaled.numpy()
    model = MLPClassifier(
        problem.sizes[1:-1],
        solver="sgd",
        alpha=problem.weight_decay * problem.batch_size,  # it divides the penalty by the samples of the mini-batch
        batch_size=problem.batch_size,
        momentum=problem.momentum,
        nesterovs_momentum=False,
        shuffle=False,
        max_iter=1,
        warm_start=True,
        random_state=0,
    )

    def fit(order: Tensor, lr: float) -> None:
        model.set_params(learning_rate_init=lr, batch_size=min(problem.batch_size, len(order)))
        with sklearn.config_context(assume_finite=True), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(images[order.numpy()], problem.labels[order].numpy())

    def train(order: Tensor) -> None:
        seed, epoch = order.tolist()
        if epoch == 0:
            _set_weights(model, problem.network(seed).parameters())
        for part, lr in problem.parts(seed, epoch):
            fit(part, lr)

    fit(*next(problem.parts(0, 0)))  # makes the arrays
    return Contestant(train, lambda: _weights(model))


def _set_weights(model: MLPClassifier, parameters: Iterable[Tensor]) -> None:
    """Set the weights and biases of a model that has its arrays."""
    start = [p.detach().cpu().numpy() for p in parameters]
    for layer, (weight, bias) in enumerate(zip(start[::2], start[1::2], strict=True)):
        model.coefs_[layer][...], model.intercepts_[layer][...] = weight.T, bias


def _weights(model: MLPClassifier) -> list[Tensor]:
    """Return W⁽¹⁾, b⁽¹⁾, …, each weight (O, I)."""
    pairs = zip(model.coefs_, model.intercepts_, strict=True)
    return [torch.from_numpy(a) for w, b in pairs for a in (w.T, b)]
