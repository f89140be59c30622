"""The compiled loop over samples of which the zeros are left out, and the bank that it trains."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from nnlab.engine.layout import Array, Known, Limits, Units, from_lanes, measure, narrow, rows_of, to_lanes
from nnlab.engine.perceptron_block import sample_error
from nnlab.engine.rule import learn, learn_in_groups
from nnlab.engine.threads import as_torch
from nnlab.networks import PerceptronBank

LANES = (4, 8, 16)  # units side by side: the least that hold a group, or the most


class Groups:
    """A bank's units in groups of as many, which learn without one another.

    Args:
        bank: whose.
        most: groups.
        limits: of the bank's dtype.

    Attributes:
        units: all, those of a group behind a further, first index.
        lanes: P numbers.
        state: of each group how many samples it has learnt, and whether it has been given the errors of the next.
    """

    def __init__(self, bank: PerceptronBank, most: int, limits: Limits) -> None:
        self._bank, self._n_units = bank, len(bank.bias)
        size = max(LANES[0], -(-self._n_units // most))
        size = -(-self._n_units // -(-self._n_units // size))  # as equal as can be
        n_groups = -(-self._n_units // size)
        self.lanes = tuple(range(next((width for width in LANES if width >= size), LANES[-1])))
        self._size, self._of = size, [slice(k * size, min((k + 1) * size, self._n_units)) for k in range(n_groups)]
        length = torch.hypot(torch.linalg.vector_norm(bank.weight.double(), dim=1), bank.bias.double())
        tensors = *self._tensors(), length.clamp(min=limits.shortest)
        weight, bias, weight_lag, bias_lag, norm = (self._in_lanes(t) for t in tensors)
        for units, theta in zip(self._of, bias, strict=True):
            theta[units.stop - units.start :] = -1  # what is left over are units that are always right
        norm[~(norm < limits.longest)] = np.inf
        self.units = Units(weight, bias, weight_lag, bias_lag, norm)
        self.state = np.zeros((n_groups, 2), np.int64)

    def __getitem__(self, g: int) -> slice:
        """The units of a group."""
        return self._of[g]

    def now(self) -> tuple[Tensor, Tensor]:
        """Weight, (K, I), and bias, (K,), as they are now."""
        return self._from_lanes(self.units.weight), self._from_lanes(self.units.bias)

    def store_(self) -> None:
        """Give the bank what its units have learnt."""
        for tensor, array in zip(self._tensors(), self.units[:4], strict=True):
            tensor.copy_(self._from_lanes(array))

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._bank.weight, self._bank.bias, self._bank.weight_lag, self._bank.bias_lag

    def _in_lanes(self, tensor: Tensor) -> Array:
        """(K, …) as (groups, …), the last group filled up with units of zeros."""
        full = tensor.new_zeros(len(self._of) * self._size, *tensor.shape[1:])
        full[: self._n_units] = tensor
        return np.stack([to_lanes(units, len(self.lanes)).numpy() for units in torch.split(full, self._size)])

    def _from_lanes(self, array: Array) -> Tensor:
        """The reverse, in memory of its own."""
        tensor = torch.from_numpy(array)
        return torch.cat([from_lanes(t, u.stop - u.start) for t, u in zip(tensor, self._of, strict=True)])


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
        rows = rows_of(images)
        measure(images, length)
        self._rows, self._known = rows._replace(value=narrow(rows.value)), Known(length, wanted.contiguous().numpy())
        info = torch.finfo(x.dtype)
        longest = info.max / 4 / float(length.max(initial=1.0))
        self._limits = Limits(info.eps, info.tiny, info.max / 4, math.sqrt(n_features * info.tiny), longest)

    def run_(self, order: Tensor, lr: float) -> Tensor:
        """Learn x[order] in place; the errors, (n, K).

        The units are divided among as many threads as torch uses. Where it is interrupted, the bank is as the last
        sample left it that all its units have met at that time, or as it was before where they have met different ones.
        """
        bank = self._bank
        errors = torch.zeros(len(order), len(bank.bias), dtype=bank.bias.dtype)
        number = errors.numpy().dtype.type
        how = number(lr), number(2 if bank.bipolar else 1), int(bank.n_samples)
        with as_torch() as threads:
            groups = Groups(bank, threads, self._limits)
            samples = self._rows, self._known, order.contiguous().numpy(), how
            rest = groups.lanes, self._limits, errors.numpy()
            go_on = partial(learn_in_groups, *samples, groups.units, *rest, groups.state)
            if threads == 1:  # a single group, and none of numba's threads
                units = Units(*(array[0] for array in groups.units))
                go_on = partial(learn, *samples, 0, units, *rest, groups.state[0])
            try:
                while True:
                    go_on()
                    behind = [g for g, (learnt, _) in enumerate(groups.state.tolist()) if learnt < len(order)]
                    if not behind:
                        break
                    for g in behind:
                        position = int(groups.state[g, 0])
                        errors[position, groups[g]] = self._judge(int(order[position]), groups, g)
                        groups.state[g, 1] = 1
            finally:
                learnt = set(groups.state[:, 0].tolist())
                if len(learnt) == 1:
                    groups.store_()
                    bank.n_samples += learnt.pop()
        return errors

    def _judge(self, n: int, groups: Groups, g: int) -> Tensor:
        """The errors of a group for one sample by the sequential rule, computed as for all units: so it rounds."""
        desired = self._bank.desired(self._labels[n : n + 1])[0]
        return sample_error(self._x[n], desired, *groups.now(), self._bank.g)[groups[g]]
