"""What a fit leaves for the next one to go on from."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nnlab.estimators.optimizers import Optimizer


@dataclass
class Memory:
    """The random stream, the optimizer and early stopping's choice; kept on the CPU, so that it can be pickled.

    Attributes:
        rng: the stream that the weights, the shuffling and the dropout are drawn from.
        optimizer: with its memory.
        last: the last epoch's parameters, where early stopping chose those of another.
        best: the parameters early stopping would choose; None before it looked.
        best_merit: their merit.
        best_epoch: their epoch, counted from 1.
    """

    rng: np.random.RandomState
    optimizer: Optimizer
    last: list[Tensor] | None = None  # the last epoch's parameters, where early stopping chose others
    best: list[Tensor] | None = None
    best_merit: float = -math.inf
    best_epoch: int = 0  # counted from 1

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Memory:
        """A copy of its own for the arithmetic to go on with, or to be kept."""
        moved = copy.deepcopy(self)
        memory = moved.optimizer.memory
        moved.optimizer.memory = [t.to(device, dtype if t.ndim else t.dtype) for t in memory]  # counts stay as they are
        for name in ("last", "best"):
            tensors = getattr(moved, name)
            setattr(moved, name, tensors and [t.to(device, dtype) for t in tensors])
        return moved
