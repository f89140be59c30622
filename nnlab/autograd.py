"""The bridge: hand-written gradients for code that expects ``torch.autograd``.

One ``torch.autograd.Function`` saves and delegates; no gradient is computed here. It is ``@once_differentiable``: a
second derivative is an error, not a wrong number.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nnlab.networks import MLP, mlp_backward, mlp_forward
from nnlab.ops import (
    ACTIVATIONS,
    LOSSES,
    Reduction,
    l2_penalty_backward,
    l2_penalty_forward,
    linear_backward,
    linear_forward,
)
from nnlab.validation import check_choice, check_tensors

Tensors = tuple[Tensor | None, ...]


class ManualGradient(torch.autograd.Function):
    """A function whose gradient was written by hand.

    ``forward(*inputs)`` returns the output and the tensors that ``backward(grad_output, *saved)`` needs; that returns
    one gradient, or None, per input. Autograd refuses to go on when a saved tensor was changed in between.
    """

    @staticmethod
    def forward(
        ctx: Any, forward: Callable[..., tuple[Tensor, Tensors]], backward: Callable[..., Tensors], *inputs: Tensor
    ) -> Tensor:
        """Run ``forward`` and save what it hands over."""
        with torch.autocast(inputs[0].device.type, enabled=False):  # the operations cast nothing
            output, saved = forward(*inputs)
        ctx.save_for_backward(*saved)
        ctx.delegate = backward
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        """Delegate to the hand-written ``backward``, with autocast off as in the forward."""
        with torch.autocast(grad_output.device.type, enabled=False):
            return None, None, *ctx.delegate(grad_output, *ctx.saved_tensors)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``nnlab.ops.linear_forward`` with ``linear_backward`` as its gradient."""

    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensors]:
        return linear_forward(x, weight, bias), (x, weight)

    return _apply(forward, linear_backward, x, weight, bias)


def activation(u: Tensor, name: str) -> Tensor:
    """An activation of ``nnlab.ops.ACTIVATIONS``, by name, with its own gradient; u of any shape."""
    check_choice("name", name, ACTIVATIONS)
    pair = ACTIVATIONS[name]

    def forward(u: Tensor) -> tuple[Tensor, Tensors]:
        z = pair.forward(u)
        return z, (z,)

    return _apply(forward, lambda grad_output, z: (pair.backward(grad_output, z),), u)


def loss(
    logits: Tensor, target: Tensor, name: str, reduction: Reduction = "sum", sample_weight: Tensor | None = None
) -> Tensor:
    """A loss of ``nnlab.ops.LOSSES``, by name, with its own gradient; under ``torch.autocast`` in float32 at least.

    Args:
        logits: (N, K).
        target: as the loss takes it; data, without a gradient, and so are the weights.
        name: a key of ``nnlab.ops.LOSSES``.
        reduction: "sum" or "mean".
        sample_weight: (N,), or None.

    Returns:
        E, a scalar tensor.

    Raises:
        ValueError: an unknown name, or what the loss raises.
    """
    check_choice("name", name, LOSSES)
    pair = LOSSES[name]
    if torch.is_autocast_enabled(logits.device.type) and logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()

    def forward(logits: Tensor) -> tuple[Tensor, Tensors]:
        return pair.forward(logits, target, reduction, sample_weight), (logits, target, sample_weight)

    def backward(grad_output: Tensor, logits: Tensor, target: Tensor, sample_weight: Tensor | None) -> Tensors:
        return (pair.backward(grad_output, logits, target, reduction, sample_weight),)

    return _apply(forward, backward, logits)


def l2_penalty(weight: Tensor, l2: float) -> Tensor:
    """``nnlab.ops.l2_penalty_forward``, λ/2 Σ w², with its own gradient λ w."""

    def forward(weight: Tensor) -> tuple[Tensor, Tensors]:
        return l2_penalty_forward(weight, l2), (weight,)

    return _apply(forward, lambda grad_output, weight: (l2_penalty_backward(grad_output, weight, l2),), weight)


def mlp(network: MLP, x: Tensor) -> Tensor:
    """The network's outputs, with backpropagation by hand as their gradient.

    Under ``torch.autocast`` this is the border: the inputs and the parameters are cast to the autocast dtype, the
    outputs and the gradients back to the parameters' dtype, so that a loss after it runs in full precision.

    Args:
        network: whose parameters are used, and receive the gradients.
        x: (N, I), of the parameters' dtype.

    Returns:
        logits, (N, K), of the parameters' dtype.

    Raises:
        ValueError: x does not fit the network.
    """
    device = x.device.type
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    parameters = tuple(network.parameters())
    check_tensors(x=(x, "N I"), weight=(parameters[0], "O I"))
    full, n_parameters, with_input = parameters[0].dtype, len(parameters), x.requires_grad

    def cast(tensor: Tensor) -> Tensor:
        return tensor if compute is None else tensor.to(compute)

    def forward(x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensors]:
        cache = mlp_forward(cast(x), [cast(p) for p in parameters], network.activations)
        return cache[-1].to(full), (*parameters, *cache)

    def backward(grad_output: Tensor, *saved: Tensor) -> Tensors:
        parameters, cache = [cast(p) for p in saved[:n_parameters]], saved[n_parameters:]
        found = mlp_backward(cast(grad_output), cache, parameters, network.activations, with_input)
        return tuple(None if g is None else g.to(full) for g in (found.x, *found.parameters))

    return _apply(forward, backward, x, *parameters)


def _apply(forward: Callable[..., tuple[Tensor, Tensors]], backward: Callable[..., Tensors], *inputs: Tensor) -> Tensor:
    output: Tensor = ManualGradient.apply(forward, backward, *inputs)
    return output
