"""The in-place forms of activations and losses, bound to their buffers.

Where a row of the tables has none, the result of the pure function is copied. Tests compare each with its op.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from nnlab.ops import ACTIVATIONS, LOSSES

Bound = Callable[[], Any]


def activate_(name: str, u: Tensor) -> Bound:
    """A function that overwrites u with z = h(u)."""
    row = ACTIVATIONS[name]
    return partial(row.forward_, u) if row.forward_ is not None else lambda: u.copy_(row.forward(u))


def activation_backward_(name: str, grad_z: Tensor, saved: Tensor) -> Bound:
    """A function that overwrites ∂E/∂z with δ = ∂E/∂z h'(u); ``saved`` is u or z, as the row says."""
    row = ACTIVATIONS[name]
    if row.backward_ is not None:
        return partial(row.backward_, grad_z, saved)
    return lambda: grad_z.copy_(row.backward(grad_z, saved))


def loss_backward_(name: str, logits: Tensor, target: Tensor, delta: Tensor) -> Bound:
    """A function that writes the gradient of Σₙ Eₙ into ``delta``; all are (N, K), labels as rows of 0 and 1."""
    row = LOSSES[name]
    if row.backward_ is not None:
        return partial(row.backward_, logits, target, delta)

    def run() -> None:
        expected = target.argmax(1) if row.target == "labels" else target
        delta.copy_(row.backward(logits.new_ones(()), logits, expected))

    return run
