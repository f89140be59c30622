"""The chapter's NumPy code (section 3.4), its backpropagation filled in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnlab.bench.problem import MLPProblem

Array = NDArray[Any]


class NumPyMLP:
    """One hidden layer of sigmoid units, sigmoid outputs, the logistic cost summed over the mini-batch.

    It computes in the dtype of the problem's samples, on the CPU.

    Source: chapter 3, section 3.4; its gradients are eqs. 3.11, 3.17 and 3.18.
    """

    def __init__(self, problem: MLPProblem) -> None:
        w_h, b_h, w_out, b_out = (p.detach().cpu().numpy().copy() for p in problem.network().parameters())
        self.w_h, self.b_h, self.w_out, self.b_out = (
            np.ascontiguousarray(w_h.T),
            b_h,
            np.ascontiguousarray(w_out.T),
            b_out,
        )
        self._x: Array = problem.x.cpu().numpy()
        self._y_enc: Array = np.eye(problem.sizes[-1], dtype=self._x.dtype)[problem.labels.cpu().numpy()]
        self._eta, self._batch_size = problem.lr / problem.batch_size, problem.batch_size

    def train(self, order: Tensor) -> None:
        """Learn these samples, a tail shorter than a mini-batch included."""
        indices = order.cpu().numpy()
        for start in range(0, len(indices), self._batch_size):
            batch = indices[start : start + self._batch_size]
            x, y_enc = self._x[batch], self._y_enc[batch]
            a_h, a_out = self._forward(x)
            delta_out = a_out - y_enc
            delta_h = np.dot(delta_out, self.w_out.T) * (a_h * (1.0 - a_h))
            self.w_h -= self._eta * np.dot(x.T, delta_h)
            self.b_h -= self._eta * delta_h.sum(axis=0)
            self.w_out -= self._eta * np.dot(a_h.T, delta_out)
            self.b_out -= self._eta * delta_out.sum(axis=0)

    def _forward(self, x: Array) -> tuple[Array, Array]:
        a_h = _sigmoid(np.dot(x, self.w_h) + self.b_h)
        return a_h, _sigmoid(np.dot(a_h, self.w_out) + self.b_out)

    def parameters(self) -> list[Tensor]:
        """W⁽¹⁾, b⁽¹⁾, W⁽²⁾, b⁽²⁾."""
        return [torch.from_numpy(a.copy()) for a in (self.w_h.T, self.b_h, self.w_out.T, self.b_out)]


def _sigmoid(z: Array) -> Array:
    with np.errstate(over="ignore"):  # in float32 exp(250) is inf, and 1 / inf is the 0 that is meant
        result: Array = 1.0 / (1.0 + np.exp(-np.clip(z, -250, 250)))
    return result
