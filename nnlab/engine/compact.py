"""The first layer on inputs of which many are zero, such as images: what multiplies zeros is left out.

Of MNIST's 784 pixels 717 are ever lit, and a mini-batch of 100 images lights some 520 of them. A column of zeros adds
nothing to a net input and nothing to a gradient, so leaving it out of both products changes no result. With the columns
in the order of how often they are lit, those that a mini-batch can be spared are the last ones, and what is left is a
view.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnlab.engine.samples import Samples

ALIGNED = 16  # columns are left out by 16 at a time: a row of float32 then starts on a cache line
ROWS = 256  # samples looked at at once: they stay in the cache
PAYS = 0.9  # of the columns: where more than that is expected to be needed, nothing is left out


class CompactFirst:
    """The first layer's parameters and inputs, with the columns in the order of how often they are not zero.

    Attributes:
        samples: the originals in the order of how many columns they need, with x[:, order] for inputs but for the
            columns that are always zero, and before it, where ``with_bias``, a column of ones, whose weight is the
            bias: (N, W).
        place: where each of the originals is among them, (N,).
        weight: the parameters of the layer in the same order, followed by the columns always zero, (O, W').
        velocity: v of the same, (O, W').
        with_bias: whether the bias is the first weight.
    """

    def __init__(self, samples: Samples, order: Tensor, n_lit: int, n_units: int, with_bias: bool) -> None:
        x = samples.x
        self.with_bias = with_bias
        self._order, self._bias = order, int(with_bias)
        width = _aligned(self._bias + n_lit)
        rank = x.new_empty(len(order))  # of each column, counted from 1, the ones included
        rank[order] = torch.arange(1 + self._bias, 1 + self._bias + len(order)).to(x)
        needed, buffer = x.new_empty(len(x)), x.new_empty(ROWS, x.shape[1])
        for rows, into in zip(torch.split(x, ROWS), torch.split(needed, ROWS), strict=True):
            torch.amax(torch.ne(rows, 0, out=buffer[: len(rows)]).mul_(rank), 1, out=into)
        by_need = needed.argsort(stable=True)
        self.place = torch.empty_like(by_need)
        self.place[by_need] = torch.arange(len(x))
        self._needed = needed[by_need].long().clamp_(min=1)
        packed, columns = x.new_empty(len(x), width), order[:n_lit].expand(ROWS, n_lit).contiguous()
        for number, into in zip(torch.split(by_need, ROWS), torch.split(packed, ROWS), strict=True):
            n = len(number)
            torch.index_select(x, 0, number, out=buffer[:n])
            into[:, : self._bias] = 1
            torch.gather(buffer[:n], 1, columns[:n], out=into[:, self._bias : self._bias + n_lit])
            into[:, self._bias + n_lit :] = 0
        self.samples = samples.with_inputs(packed, by_need)
        self.weight = x.new_zeros(n_units, _aligned(self._bias + len(order)))
        self.velocity = torch.zeros_like(self.weight)

    def load_(self, parameters: Sequence[Tensor], velocity: Sequence[Tensor]) -> None:
        """Take over the weight, (O, I), and the bias, (O,), and v of both where there is momentum."""
        for packed, pair in ((self.weight, parameters[:2]), (self.velocity, velocity[:2])):
            if pair:
                packed[:, self._bias : self._bias + len(self._order)] = pair[0][:, self._order]
                packed[:, : self._bias] = pair[1][:, None]

    def store_(self, parameters: Sequence[Tensor], velocity: Sequence[Tensor]) -> None:
        """Put them back."""
        for packed, pair in ((self.weight, parameters[:2]), (self.velocity, velocity[:2])):
            if pair:
                pair[0].index_copy_(1, self._order, packed[:, self._bias : self._bias + len(self._order)])
                if self._bias:
                    pair[1].copy_(packed[:, 0])

    def parts(self, size: int) -> list[Tensor]:
        """All samples in the order of their need, ``size`` at a time, without the columns that these do not need."""
        parts = zip(torch.split(self.samples.x, size), torch.split(self._needed, size), strict=True)
        return [x[:, : _aligned(int(needed[-1]))] for x, needed in parts]

    def needed(self, order: Tensor) -> list[int]:
        """How many columns each mini-batch of the samples at these places needs."""
        size = self.samples.batch_size
        needed = self._needed[order]
        needed = torch.nn.functional.pad(needed, (0, -len(needed) % size)).view(-1, size)
        return [_aligned(columns) for columns in needed.amax(1).tolist()]


def compact_first(samples: Samples, n_units: int, with_bias: bool) -> CompactFirst | None:
    """The compact form of a layer of O units, where that spares a tenth of the work or more; else None."""
    x = samples.x
    often = torch.zeros(x.shape[1], dtype=torch.float64)
    buffer = x.new_empty(ROWS, x.shape[1])
    for rows in torch.split(x, ROWS):
        often += torch.ne(rows, 0, out=buffer[: len(rows)]).sum(0)
    often /= len(x)
    order = often.argsort(descending=True, stable=True)
    spared = torch.log1p(-often[order]) * samples.batch_size  # log P(a mini-batch has zeros alone in that column)
    expected = float((1 - spared.flip(0).cumsum(0).exp()).sum())  # as if the columns were independent of one another
    if expected > PAYS * x.shape[1]:
        return None
    return CompactFirst(samples, order, int(often.count_nonzero()), n_units, with_bias)


def _aligned(n: int) -> int:
    return -(-n // ALIGNED) * ALIGNED
