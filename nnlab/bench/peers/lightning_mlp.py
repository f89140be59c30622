"""Lightning as its MNIST tutorial uses it: a ``DataLoader``, automatic optimization, ``cross_entropy``."""

from __future__ import annotations

import lightning as L
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from nnlab.bench.lightning import fit
from nnlab.bench.problem import MLPProblem


class _Module(L.LightningModule):
    def __init__(self, problem: MLPProblem) -> None:
        super().__init__()
        self.network = problem.network().to_sequential()
        self.lr = problem.lr

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        return cross_entropy(self.network(x), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, fused=True)


class LightningMLP:
    """Better off than the tutorial's: images are tensors in memory already, and the optimizer is fused."""

    def __init__(self, problem: MLPProblem) -> None:
        self._problem = problem
        self._model = _Module(problem)
        self._samples = TensorDataset(problem.x.cpu(), problem.labels.cpu())

    def train(self, order: Tensor) -> None:
        """Learn these samples."""
        self.epoch(order, 1)

    def epoch(self, order: Tensor, epochs: int = 3) -> float:
        """Learn these samples in each of some epochs; the seconds of one."""
        loader = DataLoader(self._samples, self._problem.batch_size, sampler=order.tolist())
        return fit(self._model, loader, self._problem.x.device, epochs)

    def parameters(self) -> list[Tensor]:
        """W⁽¹⁾, b⁽¹⁾, …."""
        return [p.detach() for p in self._model.network.parameters()]
