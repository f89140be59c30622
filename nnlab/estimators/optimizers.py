"""From gradients to new weights: gradient descent, with momentum, and Adam, and what they remember."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from nnlab.engine import Descent, MLPEngine


class Optimizer(Protocol):
    """How parameters are changed; what it remembers is kept in ``memory``, which a later fit takes up."""

    memory: list[Tensor]

    def attach(
        self, engine: MLPEngine, parameters: Sequence[Tensor], eta: float
    ) -> Descent | Callable[[Sequence[Tensor]], None]:
        """The update by which an engine changes its parameters with learning rate η, remembering in ``memory``."""


@dataclass
class GradientDescent:
    """w ← w − η ∇E; with momentum μ > 0, v ← μ v + ∇E and w ← w − η v.

    Source: chapter 3, section 3.3.2; Polyak (1964) for the momentum.
    """

    momentum: float = 0.0
    memory: list[Tensor] = field(default_factory=list)  # v of each parameter

    def attach(self, engine: MLPEngine, parameters: Sequence[Tensor], eta: float) -> Descent:
        """The engine's own step; its velocity is the memory."""
        if self.momentum and not self.memory:
            self.memory = [torch.zeros_like(w) for w in parameters]
        engine.velocity = self.memory
        return Descent(eta, self.momentum)


@dataclass
class Adam:
    """m ← β₁ m + (1 − β₁) ∇E, v ← β₂ v + (1 − β₂) (∇E)², w ← w − η m̂ / (√v̂ + ε), both corrected for starting at 0.

    Source: Kingma and Ba (2015), "Adam: a method for stochastic optimization", algorithm 1.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    n_steps: int = 0
    memory: list[Tensor] = field(default_factory=list)  # m, v of each parameter

    def attach(self, engine: MLPEngine, parameters: Sequence[Tensor], eta: float) -> Callable[[Sequence[Tensor]], None]:
        """A step that is given the gradients."""
        self.memory = self.memory or [torch.zeros_like(w) for w in parameters for _ in "mv"]
        return partial(self._step_, parameters, eta)

    def _step_(self, parameters: Sequence[Tensor], eta: float, gradients: Sequence[Tensor]) -> None:
        self.n_steps += 1
        mean_part, square_part = 1 - self.beta1**self.n_steps, 1 - self.beta2**self.n_steps
        for w, gradient, m, v in zip(parameters, gradients, self.memory[::2], self.memory[1::2], strict=True):
            m.mul_(self.beta1).add_(gradient, alpha=1 - self.beta1)
            v.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
            w.addcdiv_(m, (v / square_part).sqrt_().add_(self.epsilon), value=-eta / mean_part)
