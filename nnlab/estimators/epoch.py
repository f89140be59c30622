"""One pass over the training data in mini-batches."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nnlab.estimators.objective import Objective
from nnlab.estimators.optimizers import Optimizer
from nnlab.validation import ArgumentError


class Data(NamedTuple):
    """Samples where the arithmetic is done: x (N, I), the loss's target, and weights (N,) or None for all 1."""

    x: Tensor
    target: Tensor
    weight: Tensor | None

    def like(self) -> "Data":
        """Uninitialised memory for as many samples."""
        return Data(*(None if t is None else torch.empty_like(t) for t in self))  # type: ignore[arg-type]

    def gather_(self, source: "Data", order: Tensor) -> None:
        """Copy the samples of another in the order given."""
        for ours, theirs in zip(self, source, strict=True):
            if ours is not None and theirs is not None:
                torch.index_select(theirs, 0, order, out=ours)


def batches(n_samples: int, size: int, drop_last: bool) -> list[slice]:
    """The mini-batches of an epoch; a tail shorter than one is left out or kept.

    >>> batches(5, 2, drop_last=True)
    [slice(0, 2, None), slice(2, 4, None)]

    Raises:
        ArgumentError: no mini-batch would be left, for which ``minibatch_size`` is named.
    """
    if drop_last and n_samples < size:
        raise ArgumentError(
            "minibatch_size", f"must be at most n_samples = {n_samples}, or drop_last be False, got {size}"
        )
    last = n_samples - size + 1 if drop_last else n_samples
    return [slice(start, start + size) for start in range(0, last, size)]


def train_epoch_(
    parameters: list[Tensor],
    data: Data,
    slices: list[slice],
    objective: Objective,
    optimizer: Optimizer,
    eta: float,
    dropout: float,
    rng: np.random.RandomState,
) -> None:
    """Change the parameters in place, once per mini-batch, by its gradient.

    Args:
        parameters: W⁽¹⁾, b⁽¹⁾, ….
        data: in the order in which they are learnt.
        slices: the mini-batches.
        objective: what is minimised.
        optimizer: how.
        eta: the learning rate η.
        dropout: the chance of each hidden unit's output to be left out; those left in grow by 1 / (1 − dropout).
        rng: the source of that chance.
    """
    for part in slices:
        x, weight = data.x[part], None if data.weight is None else data.weight[part]
        masks = []
        if dropout:
            for hidden_bias in parameters[1:-2:2]:
                kept = rng.random_sample((len(x), len(hidden_bias))) >= dropout
                masks.append(torch.from_numpy(kept / (1 - dropout)).to(x))
        gradients = objective.gradient(parameters, x, data.target[part], weight, masks)
        optimizer.step_(parameters, gradients, eta)
