"""What scikit-learn's manners cost: ``estimator_epoch``."""

from __future__ import annotations

import time
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nnlab.bench.ours import Engine
from nnlab.bench.peers.sklearn_mlp import ScikitLearnMLP
from nnlab.bench.problem import MLPProblem
from nnlab.bench.session import STEPS, Peer, Session
from nnlab.estimators import NeuralNetMLP


class _Clock:
    """A callback of scikit-learn's that notes when each epoch was over."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []

    def setup(self, estimator: Any, context: Any) -> None:
        self.ends.clear()

    def teardown(self, estimator: Any, context: Any) -> None:
        pass

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        pass

    def on_fit_task_end(self, estimator: Any, context: Any) -> bool:
        if context.task_name == "epoch":
            self.ends.append(time.perf_counter())  # an epoch's figures are numbers by then, so all of it is over
        return False


class Estimator:
    """``NeuralNetMLP.fit``, which evaluates cost and accuracy on all training data after each epoch."""

    def __init__(self, problem: MLPProblem) -> None:
        on_cpu = problem.x.device.type == "cpu"
        self._x: Any = problem.x.numpy() if on_cpu else problem.x
        self._labels: Any = problem.labels.numpy() if on_cpu else problem.labels
        self._clock = _Clock(problem.x.device)
        self._model = NeuralNetMLP(
            problem.sizes[1:-1],
            eta=problem.lr / problem.batch_size,
            epochs=1,
            shuffle=False,
            minibatch_size=problem.batch_size,
            seed=0,
            activation="relu",
            loss="softmax_cross_entropy",
            drop_last=False,
            warm_start=True,
            device=problem.x.device.type,
        ).set_callbacks(self._clock)
        self._model.fit(self._x, self._labels)  # makes the arrays
        start = [p.detach().cpu().numpy() for p in problem.network().parameters()]
        self._model.coefs_ = [w.T.copy() for w in start[::2]]
        self._model.intercepts_ = [b.copy() for b in start[1::2]]

    def train(self, order: Tensor) -> None:
        """Learn these samples."""
        at = order.numpy() if order.device.type == "cpu" else order
        self._model.set_params(epochs=1, shuffle=False).fit(self._x[at], self._labels[at])

    def epoch(self, order: Tensor) -> float:
        """The seconds of an epoch, from the end of one to the end of the next, in orders of its own."""
        self._model.set_params(epochs=4, shuffle=True).fit(self._x, self._labels)
        ends = self._clock.ends
        return median(end - start for start, end in pairwise(ends))

    def parameters(self) -> list[Tensor]:
        """W⁽¹⁾, b⁽¹⁾, …."""
        pairs = zip(self._model.coefs_, self._model.intercepts_, strict=True)
        return [torch.as_tensor(a) for w, b in pairs for a in (w.T, b)]


class EvaluatedEngine(Engine):
    """The bare engine, with cost and accuracy on all training data after each epoch."""

    def __init__(self, problem: MLPProblem) -> None:
        super().__init__(problem)
        self._labels = problem.labels

    def train(self, order: Tensor) -> None:
        """Learn these samples, and evaluate."""
        super().train(order)
        outputs = self._engine.outputs()
        self.cost = cross_entropy(outputs, self._labels, reduction="sum").item()
        self.accuracy = (outputs.argmax(1) == self._labels).double().mean().item()


def estimator_epoch(session: Session) -> None:
    """784-100-10, mini-batches of 100, the evaluation at the end of each epoch included in ours."""
    problem = MLPProblem(session.x, session.labels, (session.x.shape[1], 100, 10), 100)
    steps, order = problem.steps(STEPS), problem.order(1)
    peers = [
        Peer("bare engine and the same evaluation", {"": partial(EvaluatedEngine, problem)}),
        Peer("scikit-learn MLPClassifier float32, no evaluation", {"": partial(ScikitLearnMLP, problem)}),
    ]
    ours = session.ours("NeuralNetMLP.fit and its evaluation", partial(Estimator, problem), steps, order)
    pairs = session.admit("estimator_epoch", ours, peers, steps, order)
    session.race(pairs, 11, lambda repeat: problem.order(2 + repeat))
