"""What Lightning costs: ``lightning_epoch``."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from nnlab.bench.ours import Engine
from nnlab.bench.problem import SEED, Learner, MLPProblem
from nnlab.bench.session import Peer, Session


def lightning_epoch(session: Session) -> None:
    """``LitMLP`` under the trainer, training only, against the bare engine."""
    problem = MLPProblem(session.x, session.labels, (session.x.shape[1], 100, 10), 100)
    order = problem.order(SEED)  # which is that of the data module's first epoch
    ours = session.ours("LitMLP under Lightning's Trainer", partial(_lit, problem), order, order)
    peers = [Peer("bare engine", {"": partial(Engine, problem)})]
    pairs = session.admit("lightning_epoch", ours, peers, order, order, compared="weights after one epoch")
    session.race(pairs, 11, lambda repeat: problem.order(2 + repeat))


def _lit(problem: MLPProblem) -> Learner:
    from nnlab.bench.lightning import fit  # noqa: PLC0415 - Lightning's import takes seconds
    from nnlab.training import LitMLP, MNISTDataModule  # noqa: PLC0415

    class Model(LitMLP):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=problem.lr)

    class Lit:
        """An order of its own: that of the data module, drawn from its seed."""

        def __init__(self) -> None:
            self._model = Model(list(problem.sizes[1:-1]), in_features=problem.sizes[0])
            self._model.network.load_state_dict(problem.network().state_dict())
            self._data = MNISTDataModule("mnist", batch_size=problem.batch_size, val_size=0, seed=SEED)

        def train(self, order: Tensor) -> None:
            fit(self._model, self._data, problem.x.device, 1)

        def epoch(self, order: Tensor) -> float:
            return fit(self._model, self._data, problem.x.device, 4)

        def parameters(self) -> list[Tensor]:
            return [p.detach() for p in self._model.network.parameters()]

    return Lit()
