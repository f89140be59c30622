"""The perceptron's rule on a CUDA device: one launch learns a chunk of samples, each unit a program of its own.

A program looks ahead: it takes the net inputs of the next 8 samples at once, passes over those that its unit judges
right, and where the unit errs changes the weights and looks ahead from there. Weights and their sums for the average
stay in registers; samples are gathered in order before the launch, in the smallest dtype that holds them. Net inputs
are summed in float64, in an order of Triton's own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from nnlab.engine.perceptron import narrow
from nnlab.networks import PerceptronBank

AHEAD = 8  # samples looked at at once: on MNIST the unit that errs most does so at every 12th
MOST_FEATURES = 2048  # whose weights, and 8 samples of them, fit in a program's registers
FIXED = ["n", "n_units", "gap"]  # arguments whose values compile no kernel of their own


@triton.jit(do_not_specialize=FIXED, do_not_specialize_on_alignment=FIXED)
def learn(
    x, unit, weight, bias, weight_lag, bias_lag, n_samples, lr, errors, n, n_features, n_units, gap,
    ahead: tl.constexpr, features: tl.constexpr,
):  # fmt: skip
    """Learn n samples in their order, for the unit k of the grid.

    Arrays are contiguous: x (n, I), the unit that should be high (n,), weight and its sums (K, I), bias and its sums
    (K,), samples learnt before (1,), η (1,), errors (n, K), which are 0 before.
    """
    k = tl.program_id(0)
    i, rows = tl.arange(0, features), tl.arange(0, ahead)
    own = i < n_features
    w = tl.load(weight + k * n_features + i, mask=own, other=0)
    lag = tl.load(weight_lag + k * n_features + i, mask=own, other=0)
    b, b_lag, rate, before = tl.load(bias + k), tl.load(bias_lag + k), tl.load(lr), tl.load(n_samples)
    position = tl.zeros((), tl.int64)
    while position < n:
        at = position + rows
        tile = tl.load(x + at[:, None] * n_features + i[None, :], mask=(at < n)[:, None] & own[None, :], other=0)
        u = tl.sum(tile.to(tl.float64) * w.to(tl.float64)[None, :], axis=1) + b.to(tl.float64)
        wrong = (at < n) & ((u >= 0) != (tl.load(unit + at, mask=at < n, other=0) == k))
        first = tl.min(tl.where(wrong, tl.arange(0, ahead), ahead), axis=0)
        position += first
        if first < ahead:
            z = tl.load(x + position * n_features + i, mask=own, other=0).to(w.dtype)
            error = tl.where(tl.load(unit + position) == k, -gap, gap).to(rate.dtype)  # low where it should be high
            step = rate * error
            late = (before + position).to(rate.dtype) * step
            w -= step * z
            lag -= late * z
            b -= step
            b_lag -= late
            tl.store(errors + position * n_units + k, error)
            position += 1
    tl.store(weight + k * n_features + i, w, mask=own)
    tl.store(weight_lag + k * n_features + i, lag, mask=own)
    tl.store(bias + k, b)
    tl.store(bias_lag + k, b_lag)


def shape_of(n_features: int) -> dict[str, int]:
    """The kernel's sizes for a number of features."""
    features = max(16, triton.next_power_of_2(n_features))
    return {"ahead": AHEAD, "features": features, "num_warps": max(1, features // 128)}


OPTIONS = {
    "enable_fp_fusion": False,  # the rule rounds a product before it subtracts it
    "maxnreg": 128,  # registers of a thread; left to itself, ptxas takes 64 on some devices and spills
}


class TritonKernel:
    """Samples on a CUDA device, and the bank that learns them.

    Args:
        bank: of dtype float32 or float64.
        x: (N, I), finite.
        labels: (N,).

    Raises:
        Exception: whatever Triton raises where it cannot compile; ValueError for too many features.
    """

    chunk = 1 << 16  # samples gathered at once

    def __init__(self, bank: PerceptronBank, x: Tensor, labels: Tensor) -> None:
        if x.shape[1] > MOST_FEATURES:
            raise ValueError(f"there are {x.shape[1]} features")
        self._bank, self._x = bank, narrow(x)
        self._unit = labels if len(bank.weight) > 1 else labels - 1
        self.learn_(labels[:0], 1.0)  # compiles the kernel

    def learn_(self, order: Tensor, lr: float) -> Tensor:
        """Learn x[order] in place, without waiting for the device; returns the errors, (n, K)."""
        bank, n, (n_units, n_features) = self._bank, len(order), self._bank.weight.shape
        x, unit = self._x.index_select(0, order), self._unit.index_select(0, order)
        tensors = bank.weight, bank.bias, bank.weight_lag, bank.bias_lag
        state = [tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in tensors]
        errors, rate = state[1].new_zeros(n, n_units), state[1].new_full((1,), lr)
        sizes = n, n_features, n_units, 2 if bank.bipolar else 1
        with torch.cuda.device(x.device):  # Triton launches on the current device
            learn[(n_units,)](x, unit, *state, bank.n_samples, rate, errors, *sizes, **shape_of(n_features), **OPTIONS)
        for tensor, new in zip(tensors, state, strict=True):
            tensor.copy_(new)
        bank.n_samples += n
        return errors
