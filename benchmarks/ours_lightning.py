"""nnlab's Lightning module under Lightning's Trainer."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.peers.lightning_mlp import fit
from benchmarks.problems import SEED, MLPProblem
from benchmarks.process import Contestant
from nnlab.training import LitMLP, MNISTDataModule


def lightning(problem: MLPProblem) -> Contestant:
    """``LitMLP`` and ``MNISTDataModule``, training only.

    The data module draws the order of the samples; that of its first epoch is ``problem.order(SEED)``.
    """

    class Model(LitMLP):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=problem.lr)

    model = Model(list(problem.sizes[1:-1]), in_features=problem.sizes[0])
    model.network.load_state_dict(problem.network().state_dict())
    data = MNISTDataModule("mnist", batch_size=problem.batch_size, val_size=0, seed=SEED)

    def run(epochs: int) -> float:
        return fit(model, data, problem.x.device, epochs)

    def parameters() -> list[Tensor]:
        return list(model.network.parameters())

    return Contestant(lambda order: run(1), parameters, lambda order: run(4))
