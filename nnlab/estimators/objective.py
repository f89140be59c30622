"""What a network of the estimators minimises, and the gradient that is applied: E(w) = Σₙ wₙ Eₙ + λ/2 Σ w²."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnlab.networks import mlp_backward, mlp_forward
from nnlab.ops import LOSSES, l2_penalty_backward, l2_penalty_forward

CHUNK = 8192  # samples propagated at once where no gradient is needed


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

    def outputs(self, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        """The network's outputs, (N, K)."""
        return torch.cat([mlp_forward(part, parameters, self.activations)[-1] for part in torch.split(x, CHUNK)])

    def errors(self, outputs: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> float:
        """The part of E that the data make, Σₙ wₙ Eₙ."""
        return LOSSES[self.loss].forward(outputs, target, "sum", sample_weight).item()

    def penalty(self, parameters: Sequence[Tensor]) -> float:
        """The part of E that the weights make, λ/2 Σ w²."""
        return sum(l2_penalty_forward(weight, self.l2).item() for weight in parameters[::2])

    def gradient(
        self,
        parameters: Sequence[Tensor],
        x: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
        masks: Sequence[Tensor] = (),
    ) -> list[Tensor]:
        """∂E/∂w for the samples given, in the order of the parameters: forward, and the errors propagated back.

        Args:
            parameters: W⁽¹⁾, b⁽¹⁾, …, as ``nnlab.networks.mlp_forward`` takes them.
            x: (N, I).
            target: as the loss takes it.
            sample_weight: wₙ, (N,), or None for all 1; they may all be zero, as in a mini-batch they can be.
            masks: dropout, as ``nnlab.networks.mlp_forward`` takes them.
        """
        one = x.new_ones(())
        cache = mlp_forward(x, parameters, self.activations, masks)
        delta = LOSSES[self.loss].backward(one, cache[-1], target)
        if sample_weight is not None:
            delta = delta * sample_weight[:, None]
        gradients = mlp_backward(delta, cache, parameters, self.activations, masks=masks).parameters
        if self.l2 == 0:
            return list(gradients)
        return [
            gradient if k % 2 else gradient + l2_penalty_backward(one, parameter, self.l2)
            for k, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True))
        ]
