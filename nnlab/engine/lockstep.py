"""The compiled loop over samples of which the zeros are left out, and the bank that it trains."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nnlab.engine.layout import Known, Limits, Units, from_lanes, measure, narrow, to_lanes, without_zeros
from nnlab.engine.rule import learn
from nnlab.networks import PerceptronBank
from nnlab.ops.perceptron_sample import sample_error

FEW = 4  # units of a small bank
LANES = 16  # units side by side: two vectors of 64 bytes in float64, one in float32


class Lockstep:
    """Samples as the compiled loop reads them, and the bank that learns them.

    Args:
        bank: of dtype float32 or float64, on the CPU.
        x: (N, I).
        labels: (N,).
    """

    def __init__(self, bank: PerceptronBank, x: Tensor, labels: Tensor) -> None:
        self._bank, self._x, self._labels = bank, x, labels
        n_units, n_features = bank.weight.shape
        wanted = labels if n_units > 1 else labels - 1
        images, length = x.detach().contiguous().numpy(), np.empty(len(x))
        rows = without_zeros(images)
        measure(images, length)
        self._rows, self._known = rows._replace(value=narrow(rows.value)), Known(length, wanted.contiguous().numpy())
        self._lanes = tuple(range(FEW if n_units <= FEW else LANES))
        info = torch.finfo(x.dtype)
        longest = info.max / 4 / float(length.max(initial=1.0))
        self._limits = Limits(info.eps, info.tiny, info.max / 4, math.sqrt(n_features * info.tiny), longest)

    def run_(self, order: Tensor, lr: float) -> Tensor:
        """Learn x[order] in place; the errors, (n, K). Where it is interrupted, the bank is as some sample left it."""
        bank = self._bank
        errors = torch.zeros(len(order), len(bank.bias), dtype=bank.bias.dtype)
        units, state = self._load(), np.zeros(2, np.int64)
        number = units.bias.dtype.type
        how = number(lr), number(2 if bank.bipolar else 1), int(bank.n_samples)
        numbers, samples = order.contiguous().numpy(), (self._rows, self._known)
        given = *samples, numbers, how, units, self._lanes, self._limits, errors.numpy(), state
        try:
            while learn(*given):
                position = int(state[0])
                errors[position] = self._judge(int(order[position]), units)
                state[1] = 1
        finally:
            for tensor, array in zip(self._tensors(), units[:4], strict=True):
                tensor.copy_(from_lanes(torch.from_numpy(array), len(tensor)))
            bank.n_samples += int(state[0])
        return errors

    def _judge(self, n: int, units: Units) -> Tensor:
        """The errors of one sample by the sequential rule, (K,)."""
        weight, bias = torch.empty_like(self._bank.weight), torch.empty_like(self._bank.bias)
        weight.copy_(from_lanes(torch.from_numpy(units.weight), len(weight)))
        bias.copy_(torch.from_numpy(units.bias[: len(bias)]))
        return sample_error(self._x[n], self._bank.desired(self._labels[n : n + 1])[0], weight, bias, self._bank.g)

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._bank.weight, self._bank.bias, self._bank.weight_lag, self._bank.bias_lag

    def _load(self) -> Units:
        """The bank's state of now; the lanes that are left over are units that are always right."""
        weight, bias, weight_lag, bias_lag = (to_lanes(t, len(self._lanes)).numpy() for t in self._tensors())
        bias[len(self._bank.bias) :] = -1
        norm = np.zeros(len(bias))
        length = torch.hypot(torch.linalg.vector_norm(self._bank.weight.double(), dim=1), self._bank.bias.double())
        norm[: len(length)] = length.clamp(min=self._limits.shortest)
        norm[~(norm < self._limits.longest)] = np.inf
        return Units(weight, bias, weight_lag, bias_lag, norm)
