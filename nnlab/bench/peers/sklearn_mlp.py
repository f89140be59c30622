"""scikit-learn's ``MLPClassifier``."""

from __future__ import annotations

import numpy as np
import sklearn
import torch
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from nnlab.bench.problem import MLPProblem


class ScikitLearnMLP:
    """Gradient descent on the mean softmax cross-entropy, in the samples' own dtype, on the CPU.

    An epoch is one ``partial_fit`` without the search for NaN in all samples. The samples are put in order before by
    the permutation that the others use, so the classifier need not gather each mini-batch.
    """

    def __init__(self, problem: MLPProblem) -> None:
        self._x, self._labels = problem.x.cpu(), problem.labels.cpu()
        self._x_buffer, self._labels_buffer = torch.empty_like(self._x), torch.empty_like(self._labels)
        self._classes = np.arange(problem.sizes[-1])
        self._model = MLPClassifier(
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
        self.train(torch.arange(min(len(self._x), problem.batch_size)))  # makes the arrays
        start = [p.detach().cpu().numpy() for p in problem.network().parameters()]
        for made, wanted in zip(self._model.coefs_, start[::2], strict=True):
            made[...] = wanted.T
        for made, wanted in zip(self._model.intercepts_, start[1::2], strict=True):
            made[...] = wanted

    def train(self, order: Tensor) -> None:
        """Learn these samples."""
        order = order.cpu()
        x, labels = self._x_buffer[: len(order)], self._labels_buffer[: len(order)]
        torch.index_select(self._x, 0, order, out=x)
        torch.index_select(self._labels, 0, order, out=labels)
        with sklearn.config_context(assume_finite=True):
            self._model.partial_fit(x.numpy(), labels.numpy(), classes=self._classes)

    def parameters(self) -> list[Tensor]:
        """W⁽¹⁾, b⁽¹⁾, …."""
        pairs = zip(self._model.coefs_, self._model.intercepts_, strict=True)
        return [torch.from_numpy(a.copy()) for w, b in pairs for a in (w.T, b)]
