"""The perceptron's rule on a CUDA device: one launch learns an epoch, each unit a program of its own.

A program looks ahead: it takes the scores of the next samples at once, passes over those that its unit judges right,
and where the unit errs changes its weight and looks ahead from there. The host hears of an epoch once, at its end,
unless the sign of a score is uncertain: the sequential rule then judges that sample, and the unit goes on behind it.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from nnlab.engine.perceptron_block import sample_error
from nnlab.networks import PerceptronBank

AHEAD = 32  # samples looked at at once: about as many as lie between two mistakes of a unit on MNIST
FEATURES = 256  # looked at at once
ROWS = 4096  # samples measured at once
UNKNOWN = 2  # in place of an error of −1, 0 or 1


@triton.jit
def _scores(x, sample, inside, weight, n_features, ahead: tl.constexpr, features: tl.constexpr):
    """Σᵢ wᵢ xᵢ of the next samples, (ahead,)."""
    u = tl.zeros((ahead,), dtype=weight.dtype.element_ty)
    for start in range(0, n_features, features):
        i = start + tl.arange(0, features)
        w = tl.load(weight + i, mask=i < n_features, other=0)
        mask = inside[:, None] & (i < n_features)[None, :]
        u += tl.sum(tl.load(x + sample[:, None] * n_features + i[None, :], mask=mask, other=0) * w[None, :], axis=1)
    return u


@triton.jit
def _sign(x, weight, bias, gamma, numbers, n_features, features: tl.constexpr):
    """The sign of a score that every order of its sum has: 1 (u >= 0), −1, or 0 where orders may differ."""
    eps, tiny, most = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2)
    total = bias.to(tl.float64)
    size, fractions = tl.abs(total), tl.where(total == tl.floor(total), 0, 1)
    for start in range(0, n_features, features):
        i = start + tl.arange(0, features)
        w = tl.load(weight + i, mask=i < n_features, other=0).to(tl.float64)
        z = tl.load(x + i, mask=i < n_features, other=0).to(tl.float64)
        total += tl.sum(w * z, axis=0)
        size += tl.sum(tl.abs(w * z), axis=0)
        fractions += tl.sum(tl.where((w == tl.floor(w)) & (z == tl.floor(z)), 0, 1), axis=0)
    clear = tl.abs(total) > 2.02 * gamma * size + n_features * tiny  # float64's own γ is at most the dtype's
    exact = (fractions == 0) & (size <= 1 / eps)  # whole numbers are not rounded
    return tl.where((size < most) & (clear | exact), tl.where(total >= 0, 1, -1), 0)


@triton.jit
def _subtract(weight, lag, step, late, x, n_features, features: tl.constexpr):
    """The changes w −= s x and lag −= s t x: each product is rounded, and so is each difference."""
    for start in range(0, n_features, features):
        i = start + tl.arange(0, features)
        z = tl.load(x + i, mask=i < n_features, other=0)
        tl.store(weight + i, tl.load(weight + i, mask=i < n_features, other=0) - step * z, mask=i < n_features)
        tl.store(lag + i, tl.load(lag + i, mask=i < n_features, other=0) - late * z, mask=i < n_features)
    tl.debug_barrier()  # what one thread has stored another is going to load


@triton.jit(do_not_specialize=["n", "before"])
def learn(
    x, order, wanted, length, gamma, weight, bias, weight_lag, bias_lag, norm, errors, learnt, given, numbers, lr,
    n, n_features, n_units, before, gap, ahead: tl.constexpr, features: tl.constexpr, unknown: tl.constexpr,
):  # fmt: skip
    """Learn order[learnt[k]:], up to the first sample that has a score of uncertain sign, for the unit k of the grid.

    Arrays are contiguous. x (N, I), order (n,), the wanted unit (N,), ‖[1, x]‖ and γ (N,) float64, the units' state
    (K, I) and (K,), errors (n, K), learnt (K,), the error given for the next sample (K,) int32, ``Limits`` (5,)
    float64, η (1,).
    """
    k = tl.program_id(0)
    rate, rows = tl.load(lr), tl.arange(0, ahead)
    eps, shortest, longest = tl.load(numbers), tl.load(numbers + 3), tl.load(numbers + 4)
    u_bias, u_lag, u_norm = tl.load(bias + k), tl.load(bias_lag + k), tl.load(norm + k)
    position, verdict = tl.load(learnt + k), tl.load(given + k)
    weight += k * n_features
    weight_lag += k * n_features
    going = position < n
    while going:
        inside = position + rows < n
        sample = tl.load(order + position + rows, mask=inside, other=0)
        u = _scores(x, sample, inside, weight, n_features, ahead, features) + u_bias
        reach = 2.02 * tl.load(gamma + sample) * tl.load(length + sample) * u_norm
        right = tl.where(tl.load(wanted + sample) == k, u, -u) > reach
        first = tl.where(verdict == unknown, tl.min(tl.where(right & inside, ahead, rows), axis=0), 0)
        position += first
        going = position < n
        if going & (first < ahead):
            here = tl.load(order + position)
            score = tl.sum(tl.where(rows == first, u, 0), axis=0).to(tl.float64)
            clear = tl.sum(tl.where((rows == first) & (tl.abs(u) > reach), 1, 0), axis=0) > 0
            judged = tl.where(score > 0, 1, -1)
            if (verdict == unknown) & (clear == 0):
                judged = _sign(
                    x + here * n_features, weight, u_bias, tl.load(gamma + here), numbers, n_features, features
                )
            going = judged != 0
            if going:
                error = tl.where((judged == 1) == (tl.load(wanted + here) == k), 0, judged)
                error = tl.where(verdict == unknown, error, verdict)
                step = rate * (error * gap).to(rate.dtype)
                late = (before + position).to(rate.dtype) * step
                _subtract(weight, weight_lag, step, late, x + here * n_features, n_features, features)
                u_bias -= step
                u_lag -= late
                tl.store(errors + position * n_units + k, (error * gap).to(rate.dtype))
                known = clear & (verdict == unknown)
                far, change = tl.load(length + here), tl.abs(step).to(tl.float64)
                square = u_norm * u_norm + change * (change * far * far - tl.where(known, tl.abs(score), 0.0))
                slack = tl.where(known, 0.0, 4.04 * tl.load(gamma + here))
                longer = tl.maximum(tl.sqrt(square * (1 + slack + 8 * eps)), shortest)
                u_norm = tl.where(longer < longest, longer, float("inf"))
                verdict = tl.full((), unknown, tl.int32)
                position += 1
                going = position < n
    tl.store(bias + k, u_bias)
    tl.store(bias_lag + k, u_lag)
    tl.store(norm + k, u_norm)
    tl.store(learnt + k, tl.minimum(position, n))


class Lookahead:
    """Samples on a device, and the bank that learns them.

    Args:
        bank: of dtype float32 or float64.
        x: (N, I).
        labels: (N,).
    """

    def __init__(self, bank: PerceptronBank, x: Tensor, labels: Tensor) -> None:
        self._bank, self._x, self._labels = bank, x.contiguous(), labels
        self._wanted = labels if len(bank.weight) > 1 else labels - 1
        info = torch.finfo(x.dtype)
        part = torch.cat([rows.count_nonzero(1) for rows in torch.split(x, ROWS)]).add(2).double() * info.eps / 2
        self._gamma = torch.where(part < 1, part / (1 - part), math.inf)  # as in nnlab.engine.rule
        norms = [torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64) for rows in torch.split(x, ROWS)]
        self._length = torch.cat(norms).square().add(1).sqrt()
        self._shortest = math.sqrt(x.shape[1] * info.tiny)
        self._longest = info.max / 4 / float(self._length.max())
        self._numbers = self._length.new_tensor([info.eps, info.tiny, info.max / 4, self._shortest, self._longest])

    def run_(self, order: Tensor, lr: float) -> Tensor:
        """Learn x[order] in place; the errors, (n, K). Where it is interrupted, the bank stays what it was."""
        bank, n = self._bank, len(order)
        tensors = bank.weight, bank.bias, bank.weight_lag, bank.bias_lag
        state = [tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in tensors]
        weight, bias, *_ = state
        norm = torch.hypot(torch.linalg.vector_norm(weight.double(), dim=1), bias.double()).clamp(min=self._shortest)
        norm[~(norm < self._longest)] = math.inf
        errors, gap = self._x.new_zeros(n, len(bias)), 2 if bank.bipolar else 1
        learnt = torch.zeros(len(bias), dtype=torch.int64, device=bias.device)
        given = torch.full_like(learnt, UNKNOWN, dtype=torch.int32)
        before, rate = int(bank.n_samples), bias.new_tensor([lr])
        while True:
            learn[(len(bias),)](
                self._x, order.contiguous(), self._wanted, self._length, self._gamma, *state, norm, errors, learnt,
                given, self._numbers, rate, n, weight.shape[1], len(bias), before, gap, AHEAD, FEATURES, UNKNOWN,
                num_warps=8, enable_fp_fusion=False,
            )  # fmt: skip
            given.fill_(UNKNOWN)
            stopped = learnt.tolist()  # here the host waits
            if min(stopped) == n:
                break
            for k, position in enumerate(stopped):
                if position < n:
                    sample = order[position]
                    desired = bank.desired(self._labels[sample][None])[0]
                    given[k] = sample_error(self._x[sample], desired, weight, bias, bank.g)[k] / gap
        for tensor, new in zip(tensors, state, strict=True):
            tensor.copy_(new)
        bank.n_samples += n
        return errors
