"""How long it takes to learn MNIST well: ``time_to_98``."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import sklearn
import torch
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from nnlab.bench.apart import Apart
from nnlab.bench.problem import scale, shuffled
from nnlab.bench.session import Session
from nnlab.bench.stopwatch import REST, synchronise
from nnlab.engine import Descent, MLPEngine
from nnlab.networks import MLP, Pass, mlp_forward

GOAL = 0.98
SEEDS = 5

HIDDEN, BATCH, LR = 256, 40, 0.6
PIECES, AVERAGED = 25, 15  # of an epoch; the weights after each of the last pieces are averaged
OURS = f"engine: 784-{HIDDEN}-10, batch {BATCH}, learning rate {LR}, weights averaged within the epoch"

SKLEARN: dict[str, Any] = {
    "hidden_layer_sizes": (256,),
    "solver": "sgd",
    "alpha": 0.0,
    "batch_size": 200,
    "learning_rate_init": 0.14,
    "momentum": 0.9,
    "nesterovs_momentum": True,
}
MOST = 15  # epochs
PEER = "scikit-learn MLPClassifier: 784-256-10, batch 200, learning rate 0.14, Nesterov momentum 0.9"

Run = Iterator[Callable[[], float]]
"""Trains an epoch each time it is asked for the next, and gives a function that tells the accuracy."""


class Split(NamedTuple):
    """What is learnt, and what it is measured on: x, (N, I), and labels, (N,)."""

    x: Tensor
    labels: Tensor
    x_test: Tensor
    labels_test: Tensor


class Attempts:
    """One side's attempts at the goal.

    Args:
        run: what trains on a split, from a seed.
        split: the data.
    """

    def __init__(self, run: Callable[[Split, int], Run], split: Split) -> None:
        self._run, self._split = run, split

    def seconds(self, seed: int, most: int) -> float:
        """The seconds of training until the goal, inf where it is not reached within some epochs."""
        run, device, seconds = self._run(self._split, seed), self._split.x.device, 0.0
        for _ in range(most):
            synchronise(device)
            start = time.perf_counter()
            accuracy = next(run)
            synchronise(device)
            seconds += time.perf_counter() - start
            if accuracy() >= GOAL:
                return seconds
        return float("inf")


def time_to_98(session: Session) -> None:
    """Seconds of training until the test accuracy is 98 % at the end of an epoch; evaluation is not counted."""
    images, device = session.images, session.device
    split = Split(session.x, session.labels, scale(images.test_pixels, device), images.test_labels.to(device))
    row = session.row("time_to_98", OURS, PEER)
    session.rows.append(row)
    sides = [session.apart(partial(Attempts, run, split))() for run in (_ours, _scikit_learn)]
    seconds: tuple[list[float], list[float]] = ([], [])
    try:
        for seed in range(-1, SEEDS):  # the first is the warm-up
            for name, side, taken in zip((OURS, PEER), sides, seconds, strict=True):
                session.tell(f"{name.partition(':')[0]}, {f'{seed + 1} of {SEEDS}' if seed >= 0 else 'warm-up'}")
                time.sleep(REST)
                given = seed, 1 if seed < 0 else MOST
                took = side.ask("seconds", *given) if isinstance(side, Apart) else side.seconds(*given)
                if seed >= 0:
                    taken.append(took)
    finally:
        n = len(seconds[1])
        pairs = [(a, b) for a, b in zip(seconds[0][:n], seconds[1], strict=True) if max(a, b) < float("inf")]
        if pairs:
            row.time(*zip(*pairs, strict=True))
        row.note = f"{len(pairs)} of {n} seeds reached it on both sides"


def _ours(split: Split, seed: int) -> Run:
    x, n = split.x, len(split.x)
    network = MLP((x.shape[1], HIDDEN, 10), generator=torch.Generator().manual_seed(seed + 1), device=x.device)
    weights, loss = [p.detach() for p in network.parameters()], "softmax_cross_entropy"
    engine = MLPEngine(weights, network.activations, loss, x, split.labels, batch_size=BATCH)
    piece = -(-n // (BATCH * PIECES)) * BATCH
    for epoch in itertools.count():
        means = [torch.zeros_like(w) for w in weights]
        parts = torch.split(shuffled(n, MOST * (seed + 1) + epoch, x.device), piece)
        for left, part in zip(range(len(parts), 0, -1), parts, strict=True):
            engine.run_(part, Descent(LR))
            if left <= AVERAGED:
                for mean, weight in zip(means, weights, strict=True):
                    mean.lerp_(weight, 1 / (min(AVERAGED, len(parts)) + 1 - left))
        outputs = partial(mlp_forward, split.x_test, means, network.activations)
        yield partial(_accuracy, outputs, split.labels_test)


def _accuracy(forward: Callable[[], Sequence[Pass]], labels: Tensor) -> float:
    return float((forward()[-1].z.argmax(1) == labels).double().mean())


def _scikit_learn(split: Split, seed: int) -> Run:
    x, labels, x_test, labels_test = (tensor.cpu().numpy() for tensor in split)
    model = MLPClassifier(**SKLEARN, random_state=seed + 1)
    while True:
        with sklearn.config_context(assume_finite=True):
            model.partial_fit(x, labels, classes=np.arange(10))
        yield lambda: float(model.score(x_test, labels_test))
