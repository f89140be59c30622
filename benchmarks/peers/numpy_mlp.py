"""The chapter's NumPy code (section 3.4), its backpropagation filled in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.problems import MLPProblem
from benchmarks.process import Contestant

Array = NDArray[Any]


def numpy_mlp(problem: MLPProblem, *, dtype: str = "") -> Contestant:
    """One hidden layer of sigmoid units, sigmoid outputs, the logistic cost summed over the mini-batch.

    It computes in ``dtype``, by default that of the samples; the gradients are eqs. 3.11, 3.17 and 3.18.
    """
    x: Array = problem.x.cpu().numpy()
    x = x.astype(dtype or x.dtype, copy=False)
    y: Array = np.eye(problem.sizes[-1], dtype=x.dtype)[problem.labels.cpu().numpy()]
    start = [p.detach().cpu().numpy().T.astype(x.dtype, order="C") for p in problem.network().parameters()]
    w_h, b_h, w_out, b_out = start
    eta, size = problem.lr / problem.batch_size, problem.batch_size

    def train(order: Tensor) -> None:
        indices = order.cpu().numpy()
        for begin in range(0, len(indices), size):
            batch = indices[begin : begin + size]
            x_n, y_n = x[batch], y[batch]
            a_h = _sigmoid(np.dot(x_n, w_h) + b_h)
            a_out = _sigmoid(np.dot(a_h, w_out) + b_out)
            delta_out = a_out - y_n
            delta_h = np.dot(delta_out, w_out.T) * (a_h * (1.0 - a_h))
            w_h[...] -= eta * np.dot(x_n.T, delta_h)
            b_h[...] -= eta * delta_h.sum(axis=0)
            w_out[...] -= eta * np.dot(a_h.T, delta_out)
            b_out[...] -= eta * delta_out.sum(axis=0)

    return Contestant(train, lambda: [torch.from_numpy(p.T.copy()) for p in start])


def _sigmoid(z: Array) -> Array:
    with np.errstate(over="ignore"):  # in float32 exp(250) is inf, and 1 / inf is the 0 that is meant
        result: Array = 1.0 / (1.0 + np.exp(-np.clip(z, -250, 250)))
    return result
