"""nnlab's own side of each row."""

from __future__ import annotations

import torch
from torch import Tensor

from nnlab.bench.problem import MLPProblem, PerceptronProblem
from nnlab.engine import Descent, MLPEngine, PerceptronEngine


class Engine:
    """The bare engine: samples that stay where they are, and steps in place."""

    def __init__(self, problem: MLPProblem) -> None:
        network = problem.network()
        chapter = problem.kind == "chapter"
        target = problem.labels
        if chapter:
            target = torch.nn.functional.one_hot(target, problem.sizes[-1]).to(problem.x.dtype)
        self._parameters = [p.detach() for p in network.parameters()]
        self._engine = MLPEngine(
            self._parameters,
            network.activations,
            "binary_cross_entropy" if chapter else "softmax_cross_entropy",
            problem.x,
            target,
            batch_size=problem.batch_size,
            reduction="sum" if chapter else "mean",
        )
        self._descent = Descent(problem.lr / problem.batch_size if chapter else problem.lr)

    def train(self, order: Tensor) -> None:
        """Learn these samples."""
        self._engine.run_(order, self._descent)

    def parameters(self) -> list[Tensor]:
        """W⁽¹⁾, b⁽¹⁾, …."""
        return self._parameters


class PerceptronLearner:
    """The bare engine of the perceptron."""

    def __init__(self, problem: PerceptronProblem) -> None:
        self._bank = problem.bank()
        self._engine = PerceptronEngine(self._bank, problem.x, problem.labels)

    def train(self, order: Tensor) -> None:
        """Learn these samples."""
        self.mistakes = self._engine.run_(order, 1.0)

    def parameters(self) -> list[Tensor]:
        """W and b."""
        return [self._bank.weight.detach(), self._bank.bias.detach()]
