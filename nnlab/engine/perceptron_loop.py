"""The perceptron's rule on a CPU, sample after sample, compiled by numba.

8 or 16 units learn side by side: a feature's weights of all of them lie next to one another, and their net inputs are
an array on the stack that LLVM keeps in vector registers. Each net input is summed in float64 from left to right, as
``nnlab.ops.perceptron_rule`` says. Features that are 0 are left out, since they add nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import carray, prange
from torch import Tensor

from nnlab.compiled import Array, compiled, fetch, on_stack, threads_as_torch
from nnlab.engine.perceptron import narrow
from nnlab.networks import PerceptronBank

BLOCK = 16  # terms added in one go: with 8, LLVM unrolls the loop over 8 units and does not vectorise it (1.6 times)
AHEAD = 4  # samples between the one fetched from memory and the one learnt: 1.6 times as fast as without


class Samples(NamedTuple):
    """Samples without their zeros, in blocks of 16 features; the last block of a sample is filled up with zeros.

    Attributes:
        first: (N + 1,), the blocks of sample n are first[n] to first[n + 1] − 1.
        feature: (blocks, 16), indices.
        value: (blocks, 16), in the smallest dtype that holds every value: uint8, float32 or float64.
        unit: (N,), the unit that should be high; −1 for none.
    """

    first: Array
    feature: Array
    value: Array
    unit: Array


class Units(NamedTuple):
    """Units in groups, which learn without one another.

    Attributes:
        weight: (groups, lanes I) float64, whose values the bank's dtype holds: weight i of unit l at lanes i + l.
        bias: (groups, lanes), of the bank's dtype, as are the sums that follow.
        weight_lag: (groups, lanes, I).
        bias_lag: (groups, lanes).
    """

    weight: Array
    bias: Array
    weight_lag: Array
    bias_lag: Array


@compiled
def count_blocks(x: Array, first: Array) -> None:
    """Write the first block of each sample."""
    for n in range(x.shape[0]):
        nonzero = 0
        for i in range(x.shape[1]):
            nonzero += x[n, i] != 0
        first[n + 1] = first[n] + np.uint64((nonzero + BLOCK - 1) // BLOCK)


@compiled
def fill_blocks(x: Array, first: Array, feature: Array, value: Array) -> None:
    """Write the blocks of each sample into arrays of zeros."""
    feature, value = feature.ravel(), value.ravel()
    for n in range(x.shape[0]):
        j = BLOCK * np.int64(first[n])
        for i in range(x.shape[1]):
            if x[n, i] != 0:
                feature[j], value[j] = i, x[n, i]
                j += 1


def _change(units: Units, g: int, k: int, step: Any, late: Any, feature: Array, value: Array) -> None:
    """Let w −= step x and Σₛ s Δₛ −= late x for one unit; each product and each difference is rounded."""
    weight, lag, number = units.weight[g], units.weight_lag[g, k], units.bias.dtype.type
    lanes, lane = np.uint64(units.bias.shape[1]), np.uint64(k)
    units.bias[g, k] -= step
    units.bias_lag[g, k] -= late
    for block in range(len(feature)):
        for j in range(BLOCK):
            at, x = lanes * feature[block, j] + lane, number(value[block, j])
            weight[at] = number(weight[at]) - step * x
            lag[feature[block, j]] -= late * x


change = compiled(_change)


def compiled_loop(width: int) -> tuple[Any, Any]:
    """The loop of a group with 8 or 16 lanes, a constant to the compiler, and the loop that shares groups out."""
    lanes = np.uint64(width)  # an unsigned index is not tested for being negative

    def learn_group(
        samples: Samples, order: Array, units: Units, g: int, size: int, lr: Any, gap: Any, met: int, errors: Array
    ) -> None:
        """Let a group of units learn the samples at ``order``.

        Args:
            samples: all samples.
            order: sample indices, (n,).
            units: all units.
            g: index of the group, whose units are g · size to (g + 1) · size − 1.
            size: units in a group.
            lr: η, in the bank's dtype.
            gap: g(1) − g(−1), in the bank's dtype.
            met: samples that the bank has learnt before these.
            errors: y − d of all units, (n, K), 0 before.
        """
        u, weight, number = carray(on_stack(64, units.weight), width), units.weight[g], units.bias.dtype.type
        start, n_units = g * size, min(size, errors.shape[1] - g * size)
        for position in range(len(order)):
            if position + AHEAD < len(order):
                n = order[position + AHEAD]
                begin, count = BLOCK * samples.first[n], BLOCK * (samples.first[n + 1] - samples.first[n])
                fetch(samples.feature, begin, count)
                fetch(samples.value, begin, count)
            n = order[position]
            feature = samples.feature[samples.first[n] : samples.first[n + 1]]
            value = samples.value[samples.first[n] : samples.first[n + 1]]
            for k in range(width):
                u[k] = units.bias[g, k]
            for block in range(len(feature)):  # in a function of its own this takes 1.5 times as long
                f, x = feature[block], value[block]
                for k in range(lanes):
                    total = u[k]
                    for j in range(BLOCK):
                        total += np.float64(x[j]) * weight[lanes * f[j] + k]
                    u[k] = total
            for k in range(n_units):
                high = u[k] >= 0
                if high != (start + k == samples.unit[n]):
                    error = gap if high else -gap
                    errors[position, start + k] = error
                    step = lr * error
                    change(units, g, k, step, number(met + position) * step, feature, value)

    learn_one = compiled(learn_group)

    def learn_groups(
        samples: Samples, order: Array, units: Units, size: int, lr: Any, gap: Any, met: int, errors: Array
    ) -> None:
        """Let the groups learn at the same time; none needs to know of the others."""
        for g in prange(len(units.weight)):
            learn_one(samples, order, units, g, size, lr, gap, met, errors)

    return learn_one, compiled(learn_groups, parallel=True)


LOOPS = {width: compiled_loop(width) for width in (8, 16)}


class CompiledLoop:
    """Samples as the compiled loop reads them, and the bank that learns them.

    Args:
        bank: of dtype float32 or float64, on the CPU.
        x: (N, I), finite.
        labels: (N,).
    """

    chunk = 1 << 16  # samples learnt in one call, which an interrupt does not break off

    def __init__(self, bank: PerceptronBank, x: Tensor, labels: Tensor) -> None:
        n_units, n_features = bank.weight.shape
        values, first = narrow(x).contiguous().numpy(), np.zeros(len(x) + 1, np.uint64)
        count_blocks(values, first)
        shape = int(first[-1]), BLOCK
        feature = np.zeros(shape, np.uint16 if n_features <= 1 << 16 else np.uint32)
        value = np.zeros(shape, values.dtype)
        fill_blocks(values, first, feature, value)
        unit = labels if n_units > 1 else labels - 1
        self._bank, self._samples = bank, Samples(first, feature, value, unit.contiguous().numpy())

    def learn_(self, order: Tensor, lr: float) -> Tensor:
        """Learn x[order] in place; returns the errors, (n, K).

        Up to 8 units learn on one thread, more on as many as torch uses. No sum depends on their number.
        """
        n_units = len(self._bank.bias)
        if n_units <= 8:  # a single group, for which numba's threads need not be started
            return self._learn_(order, lr, 8, 1)
        with threads_as_torch() as threads:
            return self._learn_(order, lr, 8 if n_units <= 8 * threads else 16, threads)

    def _learn_(self, order: Tensor, lr: float, width: int, threads: int) -> Tensor:
        bank, n_units = self._bank, len(self._bank.bias)
        n_groups = -(-n_units // width)
        size = -(-n_units // n_groups)
        errors = bank.bias.new_zeros(len(order), n_units)
        tensors = [bank.weight, bank.bias, bank.weight_lag, bank.bias_lag]
        weight, *others = [_in_groups(tensor, n_groups, size, width) for tensor in tensors]
        weight = weight.double().transpose(1, 2).flatten(1).contiguous()
        units, number = Units(*(t.numpy() for t in (weight, *others))), errors.numpy().dtype.type
        with np.errstate(over="ignore"):  # an η that is infinite in this dtype is found in the weights
            rate = number(lr)
        numbers = size, rate, number(2 if bank.bipolar else 1), int(bank.n_samples), errors.numpy()
        learn_one, learn_groups = LOOPS[width]
        if threads > 1 and n_groups > 1:
            learn_groups(self._samples, order.contiguous().numpy(), units, *numbers)
        else:
            for g in range(n_groups):
                learn_one(self._samples, order.contiguous().numpy(), units, g, *numbers)
        learnt = [weight.view(n_groups, -1, width).transpose(1, 2), *others]
        for tensor, groups in zip(tensors, learnt, strict=True):
            tensor.copy_(groups[:, :size].flatten(0, 1)[:n_units])
        bank.n_samples += len(order)
        return errors


def _in_groups(tensor: Tensor, n_groups: int, size: int, width: int) -> Tensor:
    """A copy of (K, …) as (groups, lanes, …), filled up with zeros."""
    full = tensor.new_zeros(n_groups * size, *tensor.shape[1:])
    full[: len(tensor)] = tensor
    groups = tensor.new_zeros(n_groups, width, *tensor.shape[1:])
    groups[:, :size] = full.view(n_groups, size, *tensor.shape[1:])
    return groups
