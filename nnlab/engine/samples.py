"""Resident samples in any order, as mini-batches that are views of a buffer small enough to stay in the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from nnlab.validation import check_sample_weight

CHUNK_BYTES = 2 << 20  # of a copy: more than the cache holds would have to be read from memory a second time
CHUNK_BATCHES = 64  # at most: a step has a line of its own at each place of a chunk
LINE = 64  # bytes


class Sparse(Protocol):
    """The inputs of a mini-batch of which most are zero; the weight that goes with them is (parts, I, P)."""

    def __len__(self) -> int:
        """The number of samples, n."""

    def net_inputs(self, weight: Tensor, bias: Tensor, u: Tensor) -> Callable[[], Any]:
        """What writes x Wᵀ + b, (n, O), into u; the bias is (O,)."""

    def add_gradient(self, weight: Tensor, delta: Tensor, alpha: float) -> Callable[[], Any]:
        """What adds α δᵀ x to the weight or its velocity; δ is (n, O)."""


class Inputs(Protocol):
    """All samples' inputs, a chunk of which is made ready as mini-batches."""

    def __len__(self) -> int:
        """The number of samples, N."""

    def at_once(self, batch_size: int) -> int:
        """How many mini-batches are made ready at once."""

    def gather_(self, order: Tensor) -> None:
        """Make the samples of these numbers ready, int64 (n,)."""

    def batches(self, n: int, batch_size: int) -> Sequence[Tensor | Sparse]:
        """The mini-batches of n samples, which hold whatever was made ready last."""


class Dense:
    """Inputs as they are: those of a chunk are copied, on a CPU so few that they stay in the cache.

    A mini-batch always begins on a cache line or at the buffer's start: where the operands of a product lie can decide
    how it rounds.

    Args:
        x: (N, I).
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self._buffer = x.new_empty(0, x.shape[1])

    def __len__(self) -> int:
        return len(self.x)

    def at_once(self, batch_size: int) -> int:
        """How many mini-batches are copied at once: on a CUDA device all, so that a graph finds them in their place."""
        n_batches = -(-len(self.x) // batch_size)
        if self.x.device.type == "cpu":
            size = batch_size * self.x.shape[1] * self.x.element_size()
            n_batches = min(n_batches, CHUNK_BATCHES, max(1, CHUNK_BYTES // max(1, size)) if size % LINE == 0 else 1)
        self._buffer = self.x.new_empty(min(n_batches * batch_size, len(self.x)), self.x.shape[1])
        return n_batches

    def gather_(self, order: Tensor) -> None:
        """Copy the samples of these numbers, int64 (n,)."""
        torch.index_select(self.x, 0, order, out=self._buffer[: len(order)])

    def batches(self, n: int, batch_size: int) -> Sequence[Tensor]:
        """The mini-batches of the n samples copied last."""
        return torch.split(self._buffer[:n], batch_size)


class Batch(NamedTuple):
    """A mini-batch of n samples, valid until the next are gathered.

    Attributes:
        x: (n, I).
        target: values, (n, K).
        weight: what each sample's error counts, (n, 1); None where they all count ``scale``.
        scale: what every error counts besides.
        outputs: where the network's outputs are kept, (n, K).
        penalty: where Σ w² is kept, a scalar.
    """

    x: Tensor | Sparse
    target: Tensor
    weight: Tensor | None
    scale: float
    outputs: Tensor
    penalty: Tensor


def by_class(like: Tensor, n: int, n_outputs: int) -> Tensor:
    """Memory for outputs, (n, K), those of a class side by side: a softmax is then a few long vectors, not n short."""
    return like.new_empty(n_outputs, n).T


class Samples:
    """Samples and what is wanted of them, gathered in the order in which they are learnt.

    Args:
        inputs: of N samples.
        target: labels, (N,) int64, each of which becomes that row of the unit matrix, or values, (N, K).
        n_outputs: K.
        weight: wₙ, (N,), or None for all 1.
        batch_size: samples of a mini-batch but for the last.
        mean: whether the errors are divided by their number, or by the sum of their weights.
        like: a tensor of the dtype and on the device of the arithmetic.

    Attributes:
        chunk: samples that can be gathered at once, a multiple of the batch size.
        outputs: the network's, for each sample of the chunk.
        penalties: Σ w², for each mini-batch of the chunk.
    """

    def __init__(
        self,
        inputs: Inputs,
        target: Tensor,
        n_outputs: int,
        weight: Tensor | None,
        batch_size: int,
        mean: bool,
        like: Tensor,
    ) -> None:
        self.inputs, self.batch_size = inputs, batch_size
        self._given = target, n_outputs, weight, batch_size, mean, like
        self._target, self._weight, self._mean = target, weight, mean
        self._values = target.to(like.dtype) if target.ndim == 2 else torch.eye(n_outputs).to(like)
        n_batches = inputs.at_once(batch_size)
        self.chunk = n_batches * batch_size
        n = min(self.chunk, len(inputs))
        self._target_buffer, self._weight_buffer = like.new_empty(n, n_outputs), like.new_empty(n, 1)
        self.outputs = by_class(like, n, n_outputs)
        self.penalties = like.new_zeros(n_batches, dtype=torch.promote_types(like.dtype, torch.float32))
        self._views: dict[int, list[Batch]] = {}

    def with_inputs(self, inputs: Inputs) -> Samples:
        """The same samples with their inputs in another form."""
        return Samples(inputs, *self._given)

    def gather_(self, order: Tensor) -> list[Batch]:
        """The mini-batches of the samples of these numbers, int64 (n,), at most ``chunk``."""
        n = len(order)
        if n not in self._views:
            self._views = {k: v for k, v in self._views.items() if k == self.chunk} | {n: self._batches(n)}
        self.inputs.gather_(order)
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
        inputs = self.inputs.batches(n, self.batch_size)
        buffers = (self._target_buffer, self._weight_buffer, self.outputs)
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
            for k, (x, target, weight, outputs) in enumerate(zip(inputs, *parts, strict=True))
        ]
