"""The activations and losses of ``nnlab.ops``, bound to buffers that they write in place; tests hold each to its op."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

Bound = list[Callable[[], Any]]

_aten = torch.ops.aten

ACTIVATE_: dict[str, Callable[[Tensor], Bound]] = {
    "identity": lambda u: [],
    "sigmoid": lambda u: [u.sigmoid_],
    "tanh": lambda u: [u.tanh_],
    "relu": lambda u: [u.relu_],
}
"""u becomes z = h(u)."""

PULL_BACK_: dict[str, Callable[[Tensor, Tensor], Bound]] = {
    "identity": lambda delta, z: [],
    "sigmoid": lambda delta, z: [partial(_aten.sigmoid_backward.grad_input, delta, z, grad_input=delta)],
    "tanh": lambda delta, z: [partial(_aten.tanh_backward.grad_input, delta, z, grad_input=delta)],
    "relu": lambda delta, z: [partial(_aten.threshold_backward.grad_input, delta, z, 0, grad_input=delta)],
}
"""∂E/∂z becomes ∂E/∂u = ∂E/∂z h'(u), given z."""

DIFFERENTIATE_: dict[str, Callable[[Tensor, Tensor, Tensor], Bound]] = {
    "sum_of_squares": lambda y, target, delta: [partial(torch.sub, y, target, out=delta)],
    "binary_cross_entropy": lambda y, target, delta: [
        partial(torch.sigmoid, y, out=delta),
        partial(delta.sub_, target),
    ],
    "softmax_cross_entropy": lambda y, target, delta: [
        partial(torch.softmax, y.T, 0, out=delta.T),
        partial(delta.sub_, target),
    ],
}
"""``(outputs, target, delta)``, each (N, K), a label's target being its row of the unit matrix: delta becomes the
gradient of the summed errors with respect to the outputs."""
