"""nnlab's side of each comparison, but for Lightning's (``ours_lightning``)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from benchmarks.problems import SEED, AccuracyProblem, MLPProblem, PerceptronProblem, Problem, SpeedrunProblem
from benchmarks.process import Contestant, synchronise
from nnlab.data import Distortion
from nnlab.engine import Descent, MLPEngine, PerceptronEngine
from nnlab.estimators import NeuralNetMLP
from nnlab.networks import MLP


def engine(problem: MLPProblem, *, evaluate: bool = False) -> Contestant:
    """``MLPEngine``; with ``evaluate``, also cost and accuracy on all samples after each epoch, as in the estimator."""
    network, target, loss, lr = problem.network(), problem.labels, "softmax_cross_entropy", problem.lr
    if problem.kind == "chapter":
        target, loss = one_hot(target, problem.sizes[-1]).to(problem.x.dtype), "binary_cross_entropy"
        lr /= problem.batch_size
    parameters = [p.detach() for p in network.parameters()]
    engine = MLPEngine(
        parameters,
        network.activations,
        loss,
        problem.x,
        target,
        batch_size=problem.batch_size,
        reduction="sum" if problem.kind == "chapter" else "mean",
    )

    def train(order: Tensor) -> None:
        engine.run_(order, Descent(lr, problem.momentum))
        if evaluate:
            outputs = engine.outputs()
            cross_entropy(outputs, problem.labels, reduction="sum").item()
            (outputs.argmax(1) == problem.labels).double().mean().item()

    return Contestant(train, lambda: parameters)


def speedrun(problem: SpeedrunProblem) -> Contestant:
    """``MLPEngine``, given the images of an epoch as ``Distortion`` leaves them; an order is a seed and an epoch."""
    weights, activations = list[Tensor](), problem.network().activations
    engine: MLPEngine

    def train(order: Tensor) -> None:
        nonlocal weights, engine
        seed, epoch = order.tolist()
        x = problem.distortion(problem.x, seed=seed, epoch=epoch) if problem.distortion else problem.x
        if epoch == 0:
            weights, loss = [p.detach() for p in problem.network(seed).parameters()], "softmax_cross_entropy"
            engine = MLPEngine(weights, activations, loss, x, problem.labels, batch_size=problem.batch_size)
        elif problem.distortion:
            engine.set_inputs_(x)
        for part, lr in problem.parts(seed, epoch):
            engine.run_(part, Descent(lr, problem.momentum, problem.weight_decay))

    return Contestant(train, lambda: weights)


def perceptron(problem: PerceptronProblem) -> Contestant:
    """``PerceptronEngine``."""
    bank = problem.bank()
    engine = PerceptronEngine(bank, problem.x, problem.labels)
    return Contestant(lambda order: engine.run_(order, 1.0), lambda: [bank.weight, bank.bias])


def distortion(problem: Problem, *, compiled: bool = True) -> Contestant:
    """``Distortion``; its "parameters" are the distorted images, at first the images."""
    found = [problem.x]

    def train(order: Tensor) -> None:
        found[0] = Distortion()(problem.x, seed=SEED, epoch=0, indices=order, compiled=compiled)

    return Contestant(train, lambda: found)


class _EpochEnds:
    """A scikit-learn callback that notes when each epoch ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def setup(self, estimator: Any, context: Any) -> None:
        self.times.clear()

    def teardown(self, estimator: Any, context: Any) -> None:
        pass

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        pass

    def on_fit_task_end(self, estimator: Any, context: Any) -> bool:
        if context.task_name == "epoch":
            self.times.append(time.perf_counter())  # its cost is a Python float by then: the device has finished
        return False


def estimator(problem: MLPProblem) -> Contestant:
    """``NeuralNetMLP.fit``, which evaluates cost and accuracy on all samples after each epoch.

    An epoch is timed from the end of the one before to its own end, the median of three in orders that it draws.
    """
    on_cpu, ends = problem.x.device.type == "cpu", _EpochEnds()
    x: Any = problem.x.numpy() if on_cpu else problem.x
    labels: Any = problem.labels.numpy() if on_cpu else problem.labels
    model = NeuralNetMLP(
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
    ).set_callbacks(ends)
    model.fit(x, labels)  # makes the arrays
    start = [p.detach().cpu().numpy() for p in problem.network().parameters()]
    model.coefs_, model.intercepts_ = [w.T.copy() for w in start[::2]], [b.copy() for b in start[1::2]]

    def train(order: Tensor) -> None:
        at = order.numpy() if on_cpu else order
        model.set_params(epochs=1, shuffle=False).fit(x[at], labels[at])

    def seconds(order: Tensor) -> float:
        model.set_params(epochs=4, shuffle=True).fit(x, labels)
        return median(end - start for start, end in pairwise(ends.times))

    def parameters() -> list[Tensor]:
        return [torch.as_tensor(a) for w, b in zip(model.coefs_, model.intercepts_, strict=True) for a in (w.T, b)]

    return Contestant(train, parameters, seconds)


Accuracy = Callable[[Tensor, Tensor], float]  # of samples and labels


def until_goal(problem: AccuracyProblem, start: Callable[[int], tuple[Callable[[], object], Accuracy]]) -> Contestant:
    """Train until the goal on the validation images; evaluation is not counted, and what does not reach it takes inf.

    ``start`` is given a seed and returns a function that trains an epoch, and one that returns the accuracy. The
    contestant's "parameters" are the accuracies on the test images where it reached the goal.
    """
    tests: list[float] = []

    def seconds(order: Tensor, epochs: int = problem.epochs) -> float:
        epoch, accuracy = start(int(order))
        total, device = 0.0, problem.x.device
        for _ in range(epochs):
            synchronise(device)
            began = time.perf_counter()
            epoch()
            synchronise(device)
            total += time.perf_counter() - began
            if accuracy(problem.x_validation, problem.labels_validation) >= problem.goal:
                tests.append(accuracy(problem.x_test, problem.labels_test))
                return total
        return float("inf")

    def warm_up(order: Tensor) -> None:
        seconds(order, 1)
        tests.clear()

    return Contestant(warm_up, lambda: [torch.tensor(tests, dtype=torch.float64)], seconds)


def engine_to_goal(problem: AccuracyProblem) -> Contestant:
    """784-256-10 in batches of 40, learning rate 0.6; the weights are averaged over the last 15/25 of each epoch."""
    x, batch_size, pieces, averaged = problem.x, 40, 25, 15

    def start(seed: int) -> tuple[Callable[[], object], Accuracy]:
        generator = torch.Generator().manual_seed(seed)
        network, mean = (MLP((x.shape[1], 256, 10), generator=generator, device=x.device) for _ in range(2))
        weights, means = ([p.detach() for p in net.parameters()] for net in (network, mean))
        engine = MLPEngine(
            weights, network.activations, "softmax_cross_entropy", x, problem.labels, batch_size=batch_size
        )

        def epoch() -> None:
            order = torch.randperm(len(x), generator=generator).to(x.device)
            parts = torch.split(order, -(-len(x) // (batch_size * pieces)) * batch_size)
            first = max(0, len(parts) - averaged)
            for k, part in enumerate(parts):
                engine.run_(part, Descent(0.6))
                if k >= first:
                    for m, w in zip(means, weights, strict=True):
                        m.lerp_(w, 1 / (k - first + 1))

        def accuracy(x: Tensor, labels: Tensor) -> float:
            with torch.no_grad():
                outputs = mean.to_sequential()(x)
            return float((outputs.argmax(1) == labels).double().mean())

        return epoch, accuracy

    return until_goal(problem, start)


def statement(problem: Problem, *, text: str) -> Contestant:
    """A Python statement, timed in a new interpreter each time."""
    code = f"from time import perf_counter as t; s = t(); {text}; print(t() - s)"

    def seconds(order: Tensor) -> float:
        command = [sys.executable, "-c", code]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # the nnlab that this process has
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, env=environment)
        return float(done.stdout)

    return Contestant(seconds, seconds=seconds)
