"""What all makers of mistakes share: the choice of layers, and backpropagation with one step replaced."""

from collections.abc import Callable
from typing import Any

import torch

from nnlab.verify.backprop import Backward, Steps, backward_of
from nnlab.verify.subjects import Subject

Draw = torch.Generator
Make = Callable[[Subject, Draw], Backward | None]


def whole(draw: Draw, low: int, high: int) -> int:
    """A random whole number from low to high."""
    return int(torch.randint(low, high + 1, (), generator=draw))


def chosen(subject: Subject, draw: Draw, fits: Callable[[int], bool] = lambda k: True) -> set[int]:
    """One layer for which ``fits``, or all of them, at random; empty where there is none."""
    layers = [k for k in range(len(subject.activations)) if fits(k)]
    if not layers:
        return set()
    return set(layers) if whole(draw, 0, 1) else {layers[whole(draw, 0, len(layers) - 1)]}


def with_steps(subject: Subject, **changes: Any) -> Backward:
    """The backward of a subject with some steps replaced."""
    return backward_of(subject, Steps(**changes))
