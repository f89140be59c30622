"""Resident samples in any order, as mini-batches that are views of a buffer small enough to stay in the cache."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nnlab.validation import check_sample_weight

CHUNK_BYTES = 2 << 20  # of a copy: more than the cache holds would have to be read from memory a second time
CHUNK_BATCHES = 64  # at most: a step has a line of its own at each place of a chunk
LINE = 64  # bytes


class Batch(NamedTuple):
    """A mini-batch of n samples, valid until the next are gathered.

    Attributes:
        x: (n, I).
        target: values, (n, K).
        weight: what each sample's error counts, (n, 1); None where they all count ``scale``.
        scale: what every error counts besides.
        outputs: where the network's outputs are kept, (n, K).
        penalty: where Σ w² is kept, a scalar.
        more: of the first m samples the inputs behind those of ``x``, (m, J); None where all other inputs are 0.
    """

    x: Tensor
    target: Tensor
    weight: Tensor | None
    scale: float
    outputs: Tensor
    penalty: Tensor
    more: Tensor | None = None


def by_class(like: Tensor, n: int, n_outputs: int) -> Tensor:
    """Memory for outputs, (n, K), those of a class side by side: a softmax is then a few long vectors, not n short."""
    return like.new_empty(n_outputs, n).T


class Samples:
    """Samples and what is wanted of them, gathered in the order in which they are learnt.

    On a CPU a few mini-batches are gathered at once, on a CUDA device a whole epoch, so that a graph finds them where
    it was recorded. A mini-batch always begins on a cache line or at the buffer's start: where the operands of a
    product lie can decide how it rounds.

    Args:
        x: (N, I).
        target: labels, (N,) int64, each of which becomes that row of the unit matrix, or values, (N, K).
        n_outputs: K.
        weight: wₙ, (N,), or None for all 1.
        batch_size: samples of a mini-batch but for the last.
        mean: whether the errors are divided by their number, or by the sum of their weights.

    Attributes:
        chunk: samples that can be gathered at once, a multiple of the batch size.
        outputs: the network's, for each sample of the chunk.
        penalties: Σ w², for each mini-batch of the chunk.
    """

    def __init__(
        self, x: Tensor, target: Tensor, n_outputs: int, weight: Tensor | None, batch_size: int, mean: bool
    ) -> None:
        self.x, self.batch_size, self._mean = x, batch_size, mean
        self._target, self._n_outputs = target, n_outputs
        self._values = target.to(x.dtype) if target.ndim == 2 else torch.eye(n_outputs, dtype=x.dtype, device=x.device)
        self._weight = weight
        n_batches = -(-len(x) // batch_size)
        size = batch_size * x.shape[1] * x.element_size()
        if x.device.type == "cpu":
            n_batches = min(n_batches, CHUNK_BATCHES, max(1, CHUNK_BYTES // max(1, size)) if size % LINE == 0 else 1)
        self.chunk = n_batches * batch_size
        n = min(self.chunk, len(x))
        self._x_buffer, self._target_buffer = x.new_empty(n, x.shape[1]), x.new_empty(n, n_outputs)
        self._weight_buffer, self.outputs = x.new_empty(n, 1), by_class(x, n, n_outputs)
        self.penalties = x.new_zeros(n_batches, dtype=torch.promote_types(x.dtype, torch.float32))
        self._views: dict[int, list[Batch]] = {}

    def with_inputs(self, x: Tensor, order: Tensor) -> Samples:
        """The same samples in an order, (N,), with other inputs, (N, any)."""
        weight = None if self._weight is None else self._weight[order]
        return Samples(x, self._target[order], self._n_outputs, weight, self.batch_size, self._mean)

    def gather_(self, order: Tensor) -> list[Batch]:
        """The mini-batches of x[order], ``order`` being int64, (n,), of at most ``chunk`` samples."""
        n = len(order)
        if n not in self._views:
            self._views = {k: v for k, v in self._views.items() if k == self.chunk} | {n: self._batches(n)}
        torch.index_select(self.x, 0, order, out=self._x_buffer[:n])
        rows = order if self._target.ndim == 2 else self._target[order]
        torch.index_select(self._values, 0, rows, out=self._target_buffer[:n])
        if self._weight is not None:
            torch.index_select(self._weight, 0, order, out=self._weight_buffer[:n, 0])
            if self._mean:
                for weight in torch.split(self._weight_buffer[:n], self.batch_size):
                    check_sample_weight(weight)  # a mean divides by their sum
                    weight.div_(weight.sum())
        return self._views[n]

    def _batches(self, n: int) -> list[Batch]:
        """Views of the buffers' first n samples."""
        buffers = (self._x_buffer, self._target_buffer, self._weight_buffer, self.outputs)
        parts = [torch.split(buffer[:n], self.batch_size) for buffer in buffers]
        return [
            Batch(
                x,
                target,
                None if self._weight is None else weight,
                1 / len(x) if self._mean and self._weight is None else 1.0,
                outputs,
                self.penalties[k],
            )
            for k, (x, target, weight, outputs) in enumerate(zip(*parts, strict=True))
        ]
