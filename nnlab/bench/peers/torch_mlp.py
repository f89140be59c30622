"""torch's autograd, eager and compiled, and the dense matrix products of the first layer."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nnlab.bench.problem import MLPProblem


class Autograd:
    """Modules, ``backward`` and ``torch.optim.SGD`` on resident samples, permuted once per epoch into one buffer.

    Args:
        problem: what is learnt.
        compiled: nothing; the "loss", forward and backward, beside the fused optimizer; or the whole "step".
    """

    def __init__(self, problem: MLPProblem, compiled: Literal["nothing", "loss", "step"] = "nothing") -> None:
        self._problem = problem
        self._x, self._labels = torch.empty_like(problem.x), torch.empty_like(problem.labels)
        self._network = problem.network().to_sequential()
        whole = compiled == "step"  # there the compiler fuses the updates itself
        self._optimizer = torch.optim.SGD(self._network.parameters(), lr=problem.lr, fused=not whole, foreach=whole)
        self._loss_of = torch.compile(self._loss, dynamic=False) if compiled == "loss" else self._loss
        self._step_of = torch.compile(self._step, dynamic=False) if whole else self._step

    def _loss(self, x: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(self._network(x), labels)

    def _step(self, x: Tensor, labels: Tensor) -> None:
        torch.autograd.backward(self._loss_of(x, labels))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def train(self, order: Tensor) -> None:
        """Learn these samples."""
        x, labels, size = self._x[: len(order)], self._labels[: len(order)], self._problem.batch_size
        torch.index_select(self._problem.x, 0, order, out=x)
        torch.index_select(self._problem.labels, 0, order, out=labels)
        for batch, target in zip(torch.split(x, size), torch.split(labels, size), strict=True):
            self._step_of(batch, target)

    def parameters(self) -> list[Tensor]:
        """W⁽¹⁾, b⁽¹⁾, …."""
        return [p.detach() for p in self._network.parameters()]


class Floor:
    """The permutation copy, and of each step the two products with the inputs: x Wᵀ and δᵀ x. It learns nothing."""

    def __init__(self, problem: MLPProblem) -> None:
        self._problem = problem
        self._x = torch.empty_like(problem.x)
        self._weight = next(problem.network().parameters()).detach()
        n, (n_units, _) = problem.batch_size, self._weight.shape
        self._delta = torch.full((n, n_units), 1e-3, dtype=self._x.dtype, device=self._x.device)
        self._u, self._gradient = torch.empty_like(self._delta), torch.empty_like(self._weight)

    def train(self, order: Tensor) -> None:
        """Copy and multiply."""
        x = self._x[: len(order)]
        torch.index_select(self._problem.x, 0, order, out=x)
        for batch in torch.split(x, self._problem.batch_size):
            n = len(batch)
            torch.mm(batch, self._weight.T, out=self._u[:n])
            torch.mm(self._delta[:n].T, batch, out=self._gradient)

    def parameters(self) -> list[Tensor]:
        """None that change."""
        return []
