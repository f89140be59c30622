"""How the estimators change parameters, and what that remembers from one fit to the next."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from nnlab import engine


class Optimizer(Protocol):
    """How parameters are changed; what it remembers is kept in ``memory``, which a later fit takes up."""

    memory: list[Tensor]

    def attach(self, trainer: engine.MLPEngine, parameters: Sequence[Tensor], eta: float) -> engine.Update:
        """The update by which an engine changes its parameters with learning rate η, remembering in ``memory``."""


@dataclass
class GradientDescent:
    """w ← w − η ∇E; with momentum μ > 0, v ← μ v + ∇E and w ← w − η v (section 3.3.2; Polyak, 1964)."""

    momentum: float = 0.0
    memory: list[Tensor] = field(default_factory=list)  # v of each parameter

    def attach(self, trainer: engine.MLPEngine, parameters: Sequence[Tensor], eta: float) -> engine.Update:
        """Gradient descent, whose velocity is the memory."""
        if self.momentum and not self.memory:
            self.memory = [torch.zeros_like(w) for w in parameters]
        trainer.state = self.memory
        return engine.Descent(eta, self.momentum)


@dataclass
class Adam:
    """Adam (Kingma and Ba, 2015, algorithm 1)."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    memory: list[Tensor] = field(default_factory=list)  # all m, all v, and the count of steps

    def attach(self, trainer: engine.MLPEngine, parameters: Sequence[Tensor], eta: float) -> engine.Update:
        """Adam, whose moments are the memory."""
        if not self.memory:
            self.memory = [torch.zeros_like(w) for _ in "mv" for w in parameters]
            self.memory.append(torch.zeros((), device=parameters[0].device))
        trainer.state = self.memory
        return engine.Adam(eta, self.beta1, self.beta2, self.epsilon)
