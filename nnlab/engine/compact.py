"""The first layer on inputs of which many are zero, such as images: what multiplies zeros is left out.

Of MNIST's 784 pixels 717 are ever lit, and an image lights some 150 of them. A column of zeros adds nothing to a net
input and nothing to a gradient, so leaving it out of both products changes no result. With the columns in the order of
how often they are lit, an image needs the first 411 on average, and three quarters of a mini-batch of 100 the first
480. The others come first in the mini-batch, so that all it needs is two views: the first columns of all its samples,
and the next columns of the few.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnlab.engine.samples import Samples

ALIGNED = (
    32  # columns are left out by 32 at a time: rows start on a cache line, and there are few kinds of mini-batches
)
FEW = 4  # one in four samples of a mini-batch may need more columns than the others
ROWS = 256  # samples looked at at once: they stay in the cache
PAYS = 0.9  # of the columns: where more than that is needed, nothing is left out


class Columns(NamedTuple):
    """The columns that all samples of a mini-batch need, and those that its first n // ``FEW`` need."""

    of_all: int
    of_few: int


class CompactFirst:
    """The first layer's parameters and inputs, with the columns in the order of how often they are not zero.

    Args:
        samples: the originals.
        order: of the columns, (I,).
        needed: how many of them each sample needs, (N,).
        n_units: O.
        with_bias: whether the bias becomes the first weight, of a column of ones.

    Attributes:
        samples: in the order of how many columns they need, without the columns that none needs, (N, W).
        place: where each of the originals is among them, (N,).
        weight: the parameters of the layer in the same order, followed by those of the columns left out, (O, W').
        velocity: v of the same, (O, W').
    """

    def __init__(self, samples: Samples, order: Tensor, needed: Tensor, n_units: int, with_bias: bool) -> None:
        x = samples.x
        self.with_bias = with_bias
        self._order, self._bias = order, int(with_bias)
        by_need = needed.argsort(stable=True)
        self.place = torch.empty_like(by_need)
        self.place[by_need] = torch.arange(len(x))
        self._needed = (needed[by_need] + self._bias).clamp_(min=1)
        n_lit = int(needed.max())
        packed, buffer = x.new_empty(len(x), _aligned(max(1, self._bias + n_lit))), x.new_empty(ROWS, x.shape[1])
        columns = order[:n_lit].expand(ROWS, n_lit).contiguous()
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

    def arrange(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """Put the samples of each mini-batch that need most columns first.

        Args:
            order: numbers of the originals, (n,).

        Returns:
            their places in ``samples``, and the position in ``order`` that each came from, both (n,).
        """
        places, size = self.place[order], self.samples.batch_size
        full = len(order) // size * size
        first, position = places[:full].view(-1, size).sort(1, descending=True)
        last, of_last = places[full:].sort(descending=True)
        position += torch.arange(0, full, size)[:, None]
        return torch.cat([first.flatten(), last]), torch.cat([position.flatten(), full + of_last])

    def needed(self, places: Tensor) -> list[Columns]:
        """The columns of each mini-batch of the samples at these places."""
        size = self.samples.batch_size
        start = torch.arange(0, len(places), size)
        few = torch.div((len(places) - start).clamp(max=size), FEW, rounding_mode="floor")
        of_all, of_few = (self._needed[places[first]].tolist() for first in (start + few, start))
        return [Columns(_aligned(a), _aligned(f)) for a, f in zip(of_all, of_few, strict=True)]


def compact_first(samples: Samples, n_units: int, with_bias: bool) -> CompactFirst | None:
    """The compact form of a layer of O units, where that spares a tenth of the work or more; else None."""
    x = samples.x
    if not x.numel():
        return None
    often, buffer = torch.zeros(x.shape[1], dtype=torch.float64), x.new_empty(ROWS, x.shape[1])
    for rows in torch.split(x, ROWS):
        often += torch.ne(rows, 0, out=buffer[: len(rows)]).sum(0)
    order = often.argsort(descending=True, stable=True)
    rank, last = x.new_empty(len(order)), x.new_empty(len(x))
    rank[order] = torch.arange(1, 1 + len(order)).to(x)
    for rows, into in zip(torch.split(x, ROWS), torch.split(last, ROWS), strict=True):
        torch.amax(torch.ne(rows, 0, out=buffer[: len(rows)]).mul_(rank), 1, out=into)
    needed = last.long()
    spread = needed.sort().values
    few = 1 / FEW if samples.batch_size >= FEW else 0.0
    expected = (1 - few) * float(spread[int((1 - few) * (len(x) - 1))]) + few * float(spread[-1])  # at most, and about
    return CompactFirst(samples, order, needed, n_units, with_bias) if expected <= PAYS * x.shape[1] else None


def _aligned(n: int) -> int:
    return -(-n // ALIGNED) * ALIGNED
