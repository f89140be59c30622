"""What a network minimises, E(w) = Σₙ wₙ Eₙ + λ/2 Σ w², and how it is measured."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnlab.engine import MLPEngine
from nnlab.engine.mlp import AT_ONCE
from nnlab.estimators.epoch import Data
from nnlab.networks import mlp_forward
from nnlab.ops import LOSSES, l2_penalty_forward


class Objective(NamedTuple):
    """E(w) of a network: the sum of the samples' errors, and the L2 penalty of all weights but the biases.

    Attributes:
        activations: the name of each layer's activation, the output layer's included.
        loss: a key of ``nnlab.ops.LOSSES``.
        l2: λ.
    """

    activations: tuple[str, ...]
    loss: str
    l2: float

    def engine(self, parameters: Sequence[Tensor], data: Data, batch_size: int) -> MLPEngine:
        """What descends E of one mini-batch after another, changing the parameters in place."""
        return MLPEngine(
            parameters,
            self.activations,
            self.loss,
            data.x,
            data.target,
            batch_size=batch_size,
            reduction="sum",
            l2=self.l2,
            sample_weight=data.weight,
        )

    def outputs(self, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        """The network's outputs, (N, K)."""
        return torch.cat([mlp_forward(part, parameters, self.activations)[-1].z for part in torch.split(x, AT_ONCE)])

    def measure(self, outputs: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """The part of E that the data make, Σₙ wₙ Eₙ, and Σₙ wₙ: scalars where the data are."""
        errors = LOSSES[self.loss].forward(outputs, data.target, "sum", data.weight)
        total = errors.new_full((), len(data.x), dtype=torch.float64) if data.weight is None else data.weight.sum()
        return errors, total

    def penalties(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """The part of E that each weight makes, λ/2 Σ w²: scalars where the parameters are."""
        return [l2_penalty_forward(weight, self.l2) for weight in parameters[::2]]
