"""What an epoch learns: the samples, how many of them make whole mini-batches, and the dropout of its steps."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nnlab.engine import Masks
from nnlab.validation import ArgumentError


class Data(NamedTuple):
    """Samples where the arithmetic is done: x (N, I), the loss's target, and weights (N,) or None for all 1."""

    x: Tensor
    target: Tensor
    weight: Tensor | None


def learnt_samples(n_samples: int, size: int, drop_last: bool) -> int:
    """How many samples an epoch learns; a tail shorter than a mini-batch is left out or kept.

    >>> learnt_samples(5, 2, drop_last=True), learnt_samples(5, 2, drop_last=False)
    (4, 5)

    Raises:
        ArgumentError: no mini-batch would be left, for which ``minibatch_size`` is named.
    """
    if not drop_last:
        return n_samples
    if n_samples < size:
        raise ArgumentError(
            "minibatch_size", f"must be at most n_samples = {n_samples}, or drop_last be False, got {size}"
        )
    return n_samples // size * size


def dropout(
    chance: float, hidden_biases: Sequence[Tensor], n: int, size: int, rng: np.random.RandomState
) -> Masks | None:
    """The masks of an epoch's n samples, drawn mini-batch by mini-batch; None where none are to be drawn.

    Args:
        chance: of a hidden unit's output to be left out; those left in grow by 1 / (1 − chance).
        hidden_biases: of each hidden layer, whose sizes and device the masks have.
        n: samples of the epoch.
        size: samples of a mini-batch.
        rng: what they are drawn from.
    """
    if not (chance and hidden_biases):
        return None
    kept = [np.empty((n, len(bias)), np.uint8) for bias in hidden_biases]
    for start in range(0, n, size):
        for layer in kept:
            part = layer[start : start + size]
            part[:] = rng.random_sample(part.shape) >= chance
    return Masks(
        [torch.from_numpy(layer).to(bias.device) for layer, bias in zip(kept, hidden_biases, strict=True)],
        1 / (1 - chance),
    )
