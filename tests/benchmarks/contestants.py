"""Contestants that are wrong, or fail."""

import os
import signal

import torch

import nnlab
from benchmarks.ours import perceptron
from benchmarks.peers.torch_models import autograd
from benchmarks.process import Contestant


def wrong(problem):
    """The learning rate is one per cent too large."""
    object.__setattr__(problem, "lr", problem.lr * 1.01)
    return autograd(problem)


def last_bit(problem):
    """One weight is the next floating-point number."""
    train, parameters, _ = perceptron(problem)
    one = torch.tensor(float("inf"), dtype=torch.float64)
    return Contestant(train, lambda: [parameters()[0], torch.nextafter(parameters()[1], one)])


def another_shape(problem):
    return Contestant(lambda order: None, lambda: [p[:1] for p in autograd(problem).parameters()])


def broken(problem):
    raise RuntimeError("no such thing\nat all")


def missing(problem):
    raise ModuleNotFoundError("No module named 'jax'", name="jax")


def slow(problem):
    """The right contestant, which says that it is slow."""
    return autograd(problem)._replace(seconds=lambda order: 1000.0)


def fails_when_timed(problem):
    return autograd(problem)._replace(seconds=lambda order: 1 / 0)


def own_process(problem):
    """Its parameters are what it knows of its process; training on one sample ends that."""

    def train(order):
        if len(order) == 1:
            os._exit(3)
        os.kill(os.getpid(), signal.SIGINT)

    return autograd(problem)._replace(train=train, seconds=lambda order: os.getpid())


def times(problem, *, seconds):
    return Contestant(lambda order: None, seconds=lambda order: seconds)


def which_nnlab(problem):
    """Its parameters are the path of its nnlab."""
    return Contestant(lambda order: None, lambda: [torch.tensor(list(nnlab.__file__.encode()))])
