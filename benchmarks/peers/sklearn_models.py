"""scikit-learn's ``MLPClassifier`` and ``Perceptron``, on the CPU, without the search for NaN in all samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Perceptron
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from benchmarks.ours import until_goal
from benchmarks.problems import AccuracyProblem, MLPProblem, PerceptronProblem
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
    start = [p.detach().cpu().numpy() for p in problem.network().parameters()]
    for layer, (weight, bias) in enumerate(zip(start[::2], start[1::2], strict=True)):
        model.coefs_[layer][...], model.intercepts_[layer][...] = weight.T, bias

    def parameters() -> list[Tensor]:
        pairs = zip(model.coefs_, model.intercepts_, strict=True)
        return [torch.from_numpy(a) for w, b in pairs for a in (w.T, b)]

    return Contestant(train, parameters)


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
    tensors = (problem.x, problem.labels, problem.x_test, problem.labels_test)
    x, labels, x_test, labels_test = (tensor.cpu().numpy() for tensor in tensors)

    def start(seed: int) -> tuple[Callable[[], object], Callable[[], float]]:
        model = MLPClassifier(
            (256,), solver="sgd", alpha=0.0, batch_size=200, learning_rate_init=0.14, momentum=0.9, random_state=seed
        )

        def epoch() -> None:
            with sklearn.config_context(assume_finite=True):
                model.partial_fit(x, labels, classes=np.arange(10))

        return epoch, lambda: float(model.score(x_test, labels_test))

    return until_goal(problem, start)
