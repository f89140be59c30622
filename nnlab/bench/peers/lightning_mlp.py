"""Lightning as its MNIST tutorial uses it: a ``DataLoader``, automatic optimization, ``cross_entropy``."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from nnlab.bench.lightning import fit
from nnlab.bench.problem import MLPProblem
from nnlab.data import default_root


class _Module(L.LightningModule):
    def __init__(self, problem: MLPProblem) -> None:
        super().__init__()
        self.network = problem.network().to_sequential()
        self.lr = problem.lr

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        return cross_entropy(self.network(x.flatten(1)), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, fused=True)


class LightningMLP:
    """Training alone, the optimizer fused.

    Args:
        problem: what is learnt.
        samples: the same samples as a data set; tensors in memory when None.
    """

    def __init__(self, problem: MLPProblem, samples: Dataset[Any] | None = None) -> None:
        self._problem = problem
        self._model = _Module(problem)
        self._samples = TensorDataset(problem.x.cpu(), problem.labels.cpu()) if samples is None else samples

    def train(self, order: Tensor) -> None:
        """Learn these samples."""
        self.epoch(order, 1)

    def epoch(self, order: Tensor, epochs: int = 2) -> float:
        """Learn these samples in each of some epochs; the seconds of one."""
        loader = DataLoader(self._samples, self._problem.batch_size, sampler=order.tolist())
        return fit(self._model, loader, self._problem.x.device, epochs)

    def parameters(self) -> list[Tensor]:
        """W⁽¹⁾, b⁽¹⁾, …."""
        return [p.detach() for p in self._model.network.parameters()]


def tutorial(problem: MLPProblem) -> LightningMLP:
    """As the tutorial has it: torchvision's MNIST, each image opened and made a tensor when its turn comes.

    Raises:
        RuntimeError: the files are there, but as .gz alone, which torchvision does not read.
    """
    return LightningMLP(problem, MNIST(default_root(), train=True, transform=ToTensor()))
