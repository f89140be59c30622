"""The first layer on samples of which most inputs are zero, such as images: nothing is multiplied by zero.

Of the 784 pixels of an MNIST image 150 are lit on average. A zero adds nothing to a net input and nothing to a
gradient, so leaving it out of both products changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnlab.engine.layout import Array, Rows, from_lanes, to_lanes, without_zeros
from nnlab.engine.products import LANES, net_inputs, subtract_gradient
from nnlab.engine.samples import CHUNK_BATCHES, Samples
from nnlab.engine.threads import as_torch, safe

WIDTHS = (64, 32, 16)  # units side by side: the most that leave every thread some, or the least


@dataclass(frozen=True)
class SparseBatch:
    """The inputs of a mini-batch that are not zero.

    Attributes:
        rows: all samples.
        numbers: those of the mini-batch, (n,) int64.
        row: a number for each vector in a row of P weights.
    """

    rows: Rows
    numbers: Array
    row: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def net_inputs(self, weight: Tensor, bias: Tensor, u: Tensor) -> Callable[[], Any]:
        """What writes x Wᵀ + b into u, (n, O); the weight is (parts, I, P), the bias (O,)."""
        return self._bound(net_inputs, weight, bias.numpy(), u.numpy())

    def add_gradient(self, weight: Tensor, delta: Tensor, alpha: float) -> Callable[[], Any]:
        """What adds α δᵀ x to a weight or its velocity, (parts, I, P); δ is (n, O)."""
        step = weight.numpy().dtype.type(-alpha)
        return self._bound(subtract_gradient, weight, delta.numpy(), step)

    def _bound(self, function: Any, weight: Tensor, *others: Any) -> Callable[[], Any]:
        first, _, terms, feature, value = self.rows
        return partial(function, first, terms, feature, value, self.numbers, weight.numpy(), *others, self.row)


class SparseInputs:
    """All samples without the zeros among their inputs; a mini-batch is but its samples' numbers.

    Args:
        rows: the samples.
        row: a number for each vector in a row of P weights.
    """

    def __init__(self, rows: Rows, row: tuple[int, ...]) -> None:
        self._rows, self._row = rows, row
        self._numbers = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._rows.terms)

    def at_once(self, batch_size: int) -> int:
        """How many mini-batches are made ready at once."""
        n_batches = min(-(-len(self) // batch_size), CHUNK_BATCHES)
        self._numbers = np.empty(min(n_batches * batch_size, len(self)), np.int64)
        return n_batches

    def gather_(self, order: Tensor) -> None:
        """Note the numbers of samples, int64 (n,)."""
        self._numbers[: len(order)] = order.numpy()

    def batches(self, n: int, batch_size: int) -> Sequence[SparseBatch]:
        """The mini-batches of the n samples noted last."""
        return self._split(self._numbers[:n], batch_size)

    def all(self, size: int) -> Sequence[SparseBatch]:
        """All samples in their own order, ``size`` at a time."""
        return self._split(np.arange(len(self)), size)

    def _split(self, numbers: Array, size: int) -> Sequence[SparseBatch]:
        parts = (numbers[start : start + size] for start in range(0, max(1, len(numbers)), size))
        return [SparseBatch(self._rows, part, self._row) for part in parts]


class SparseFirst:
    """The first layer's parameters, P units side by side, and its samples.

    Args:
        samples: with their inputs as they are.
        x: these inputs, (N, I).
        weight: of the layer, (O, I).

    Attributes:
        samples: with sparse inputs.
        weight: (parts, I, P).
        velocity: v of it, (parts, I, P).

    Raises:
        RuntimeError: numba's threads cannot be used here, see ``threads.safe``.
    """

    def __init__(self, samples: Samples, x: Tensor, weight: Tensor) -> None:
        if not safe():
            raise RuntimeError("numba has neither OpenMP's threads nor TBB's here")
        self._n_units = len(weight)
        shares = (width for width in WIDTHS if -(-self._n_units // width) >= torch.get_num_threads())
        width = next(shares, WIDTHS[-1])
        row = tuple(range(width // len(LANES)))
        self._inputs = SparseInputs(without_zeros(x.contiguous().numpy()), row)
        self.samples = samples.with_inputs(self._inputs)
        self.weight = torch.zeros_like(to_lanes(weight, width))
        self.velocity = torch.zeros_like(self.weight)
        none, u = self._inputs.batches(0, 1), weight.new_empty(0, self._n_units)
        for batch in none:  # compiles both, where a failure can still be met
            batch.net_inputs(self.weight, weight[:, 0].contiguous(), u)()
            batch.add_gradient(self.weight, u, 0.0)()

    @staticmethod
    def usable() -> bool:
        """Whether this process has the threads for it."""
        return safe()

    @contextmanager
    def holding(self, parameters: Sequence[Tensor], velocity: Sequence[Tensor]) -> Iterator[None]:
        """Take over the weight, (O, I), and its v where there is momentum, and put them back in the end."""
        pairs = [(p, given[0]) for p, given in ((self.weight, parameters), (self.velocity, velocity)) if given]
        for packed, own in pairs:
            packed.copy_(to_lanes(own, packed.shape[2]))
        try:
            with as_torch():
                yield
        finally:  # what was learnt before an interrupt is kept
            for packed, own in pairs:
                own.copy_(from_lanes(packed, len(own)))

    def parts(self, size: int) -> Sequence[SparseBatch]:
        """All samples, ``size`` at a time."""
        return self._inputs.all(size)
