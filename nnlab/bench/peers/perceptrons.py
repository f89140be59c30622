"""The perceptron's rule by scikit-learn, and by torch, a sample at a time."""

from __future__ import annotations

import warnings

import numpy as np
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Perceptron
from torch import Tensor

from nnlab.bench.problem import PerceptronProblem


class ScikitLearnPerceptron:
    """One pass of ``fit`` over the samples, from given weights; on the CPU.

    In their own order the samples are used where they are; in any other they are put in order before.

    Args:
        problem: what is learnt.
        n_jobs: classes learnt at the same time.
    """

    def __init__(self, problem: PerceptronProblem, n_jobs: int | None = None) -> None:
        bank = problem.bank()
        self._x, self._labels = problem.x.cpu(), problem.labels.cpu()
        self._coef, self._intercept = bank.weight.detach().cpu().numpy(), bank.bias.detach().cpu().numpy()
        self._model = Perceptron(penalty=None, eta0=1.0, shuffle=False, max_iter=1, tol=None, n_jobs=n_jobs)

    def train(self, order: Tensor) -> None:
        """Learn these samples, among which every class must be."""
        order, n = order.cpu(), len(order)
        x = self._x[:n]
        if not torch.equal(order, torch.arange(n)):
            x = self._x[order]
        with sklearn.config_context(assume_finite=True), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model.fit(
                x.numpy(), self._labels[order].numpy(), coef_init=self._coef, intercept_init=self._intercept
            )
        self._coef, self._intercept = self._model.coef_, self._model.intercept_

    def parameters(self) -> list[Tensor]:
        """W and b."""
        return [torch.from_numpy(self._coef.copy()), torch.from_numpy(self._intercept.copy())]


def mistakes_of_scikit_learn(problem: PerceptronProblem, order: Tensor) -> Tensor:
    """Whether each unit errs as it meets each sample, (n, K): asked, and then told, a sample at a time."""
    bank, at = problem.bank(), order.cpu()
    x, labels = problem.x.cpu()[at].numpy(), problem.labels.cpu()[at].numpy()
    classes = np.arange(problem.n_units)
    model = Perceptron(penalty=None, eta0=1.0, shuffle=False)
    model.coef_, model.intercept_ = bank.weight.detach().cpu().numpy(), bank.bias.detach().cpu().numpy()
    mistakes = []
    for n in range(len(x)):
        u = x[n] @ model.coef_.T + model.intercept_
        mistakes.append((u > 0) != (classes == labels[n]))
        model.partial_fit(x[n : n + 1], labels[n : n + 1], classes=classes)
    return torch.from_numpy(np.array(mistakes))


class SampleLoop:
    """The rule as it is written, sample after sample, in as few operations as there can be: four of all units each."""

    def __init__(self, problem: PerceptronProblem) -> None:
        bank = problem.bank()
        self._x = problem.x
        self._desired = bank.desired(problem.labels)
        self._weight, self._bias = bank.weight.detach(), bank.bias.detach()
        self.mistakes = self._desired.new_empty(0, problem.n_units)

    def train(self, order: Tensor) -> None:
        """Learn these samples."""
        weight, bias = self._weight, self._bias
        x, desired = self._x[order], self._desired[order]
        self.mistakes = torch.empty_like(desired)
        for x_n, d_n, error in zip(x.unbind(), desired.unbind(), self.mistakes.unbind(), strict=True):
            torch.ge(torch.addmv(bias, weight, x_n), 0, out=error)
            error.sub_(d_n)
            weight.addr_(error, x_n, alpha=-1)
            bias.sub_(error)

    def parameters(self) -> list[Tensor]:
        """W and b."""
        return [self._weight, self._bias]
