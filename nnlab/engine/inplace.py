"""The in-place forms of activations and losses, bound to their buffers; without one, the pure functions and a copy.

Tests compare each with its op.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from nnlab.ops import ACTIVATIONS, LOSSES

Bound = Callable[[], Any]


def activate_(name: str, u: Tensor) -> Bound:
    """What turns u into z = h(u)."""
    row = ACTIVATIONS[name]
    return partial(row.forward_, u) if row.forward_ is not None else lambda: u.copy_(row.forward(u))


def activation_backward_(name: str, grad_z: Tensor, saved: Tensor) -> Bound:
    """What turns ∂E/∂z into δ = ∂E/∂z h'(u), given u or z as the row saves it."""
    row = ACTIVATIONS[name]
    if row.backward_ is not None:
        return partial(row.backward_, grad_z, saved)
    return lambda: grad_z.copy_(row.backward(grad_z, saved))


def loss_backward_(name: str, logits: Tensor, target: Tensor, delta: Tensor) -> Bound:
    """What writes the gradient of the summed errors into δ, all (N, K), a label being a row of the unit matrix."""
    row = LOSSES[name]
    if row.backward_ is not None:
        return partial(row.backward_, logits, target, delta)

    def run() -> None:
        given = target.argmax(1) if row.target == "labels" else target
        delta.copy_(row.backward(logits.new_ones(()), logits, given))

    return run
