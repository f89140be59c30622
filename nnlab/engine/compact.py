"""Inputs without the columns that are zero everywhere, the others in order of how often they are not.

Of MNIST's 784 pixels 717 are ever lit, and a mini-batch of 100 images lights some 520 of them. A column of zeros
adds nothing to a net input and nothing to a gradient, so leaving it out of both GEMMs changes no result. With the
columns sorted, those that a mini-batch can be spared are the last ones, and what is left is a view.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nnlab.engine.samples import Samples
from nnlab.engine.step import Layer

ALIGNED = 16  # columns are left out by 16 at a time: a row of float32 then starts on a cache line
ROWS = 4096  # samples looked at at once


class Compact(NamedTuple):
    """Samples as the first layer sees them, its bias a weight like the others.

    Attributes:
        x: [1, x in the order of ``index``, 0 …], (N, W).
        index: the columns of the original that it holds, (L,).
        last: for each sample the number of leading columns that hold all that is not zero, (N,).
    """

    x: Tensor
    index: Tensor
    last: Tensor


def compact(x: Tensor, batch_size: int) -> Compact | None:
    """Leave columns out, where that spares a tenth of the work or more.

    Args:
        x: (N, I).
        batch_size: samples of the mini-batches to come.

    Returns:
        the samples without them, or None where it would not pay.
    """
    often = torch.zeros(x.shape[1], dtype=torch.float64)
    for rows in x.split(ROWS):
        often += (rows != 0).sum(0)
    often /= len(x)
    index = often.argsort(descending=True, stable=True)[: int(often.count_nonzero())]
    all_zero = (batch_size * torch.log1p(-often[index])).flip(0).cumsum(0).exp()  # P(a batch needs none from here on)
    if float((1 - all_zero).sum()) > 0.9 * x.shape[1]:  # the expected number of columns, were they independent
        return None
    packed = x.new_zeros(len(x), _aligned(1 + len(index)))
    last = torch.empty(len(x), dtype=torch.int64)
    for rows, into, ends in zip(x.split(ROWS), packed.split(ROWS), last.split(ROWS), strict=True):
        into[:, 0] = 1
        into[:, 1 : 1 + len(index)] = rows[:, index]
        ends.copy_(packed.shape[1] - (into != 0).flip(1).to(torch.uint8).argmax(1))
    return Compact(packed, index, last)


class CompactFirst:
    """The first layer of a network on compact samples.

    Args:
        found: the samples.
        samples: their originals, whose targets and order go on being used.
        n_units: O.
    """

    def __init__(self, found: Compact, samples: Samples, n_units: int) -> None:
        self.samples = samples.with_inputs(found.x)
        self._index, self._last = found.index, found.last
        self._packed = found.x.new_zeros(n_units, found.x.shape[1])

    def load_(self, weight: Tensor, bias: Tensor) -> None:
        """Take over the parameters, (O, I) and (O,)."""
        self._packed[:, 0] = bias
        self._packed[:, 1 : 1 + len(self._index)] = weight[:, self._index]

    def store_(self, weight: Tensor, bias: Tensor) -> None:
        """Put them back; a weight of a column left out stays what it is."""
        bias.copy_(self._packed[:, 0])
        weight.index_copy_(1, self._index, self._packed[:, 1 : 1 + len(self._index)])

    def needed(self, order: Tensor) -> list[int]:
        """The columns that each mini-batch of ``order`` needs."""
        size = self.samples.batch_size
        last = self._last[order]
        last = torch.nn.functional.pad(last, (0, -len(last) % size)).view(-1, size)
        return [_aligned(columns) for columns in last.amax(1).tolist()]

    def layer(self, columns: int) -> Layer:
        """The layer up to that column."""
        return Layer(self._packed[:, :columns], None)


def _aligned(n: int) -> int:
    return -(-n // ALIGNED) * ALIGNED
