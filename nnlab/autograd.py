"""The bridge: hand-written gradients for code that expects ``torch.autograd``, ``torch.func`` or ``torch.compile``.

``ManualGradient`` calls the functions of ``nnlab.ops``; no gradient is written here.
A second derivative is an error, not a wrong number.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from nnlab.networks import MLP
from nnlab.ops import (
    ACTIVATIONS,
    LOSSES,
    Reduction,
    dropout_backward,
    dropout_forward,
    l2_penalty_backward,
    l2_penalty_forward,
    linear_backward,
    linear_backward_parameters,
    linear_forward,
)
from nnlab.validation import check_choice, check_tensors

__all__ = ["ManualGradient", "activation", "by_hand", "dropout", "l2_penalty", "linear", "loss", "mlp"]

Tensors = tuple[Tensor | None, ...]


class ManualGradient(torch.autograd.Function):
    """A function whose gradient was written by hand; ``by_hand(forward, saved, backward, *inputs)`` calls it.

    ``forward(*inputs)`` returns the output, ``saved(inputs, output)`` what the gradient needs, and
    ``backward(needed, gradient, *saved)`` one gradient, or None, per input; ``needed`` says which inputs need one.
    Autograd raises an error if a saved tensor was changed in between.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(forward: Callable[..., Any], saved: Any, backward: Any, *inputs: Any) -> Any:
        """The output."""
        return _without_autocast(forward, *inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Save what the gradient needs."""
        _, saved, ctx.gradient, *tensors = inputs
        ctx.save_for_backward(*saved(tensors, output))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The gradient by hand, which is a function with a gradient of its own: one that refuses."""
        if ctx.gradient is _refuse:  # here, as not all of its outputs need have a gradient to look at
            _refuse()
        gradient = partial(ctx.gradient, ctx.needs_input_grad[3:])
        tensors = (*gradients, *ctx.saved_tensors)
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():  # no second derivative can be asked for
            return None, None, None, *_without_autocast(gradient, *tensors)
        return None, None, None, *by_hand(gradient, _nothing, _refuse, *tensors)


class _NoForwardMode(ManualGradient):
    """The same where forward mode could ask for its derivative; ``torch.compile`` takes no class with a ``jvp``."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        """Refuse, as ``torch.func.hessian`` would go on to a second derivative."""
        _refuse()


def by_hand(forward: Callable[..., Any], saved: Any, backward: Any, *inputs: Tensor) -> Any:
    """``forward(*inputs)`` with ``backward`` as its gradient, see ``ManualGradient``."""
    function = ManualGradient if torch.compiler.is_compiling() else _NoForwardMode
    output: Any = function.apply(forward, saved, backward, *inputs)
    return output


def _without_autocast(function: Callable[..., Any], *tensors: Tensor) -> Any:
    """``function(*tensors)``, whose operations cast nothing."""
    if not _autocast(tensors[0]):  # the context takes 3 µs, ten times a step
        return function(*tensors)
    with torch.autocast(tensors[0].device.type, enabled=False):
        return function(*tensors)


def _autocast(x: object) -> bool:
    """Whether autocast is on where a tensor is; not for what is no tensor, which the operation's own error names."""
    if not isinstance(x, Tensor):
        return False
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _nothing(inputs: Sequence[Tensor], output: Any) -> Tensors:
    return ()


def _refuse(*args: Any) -> NoReturn:
    raise RuntimeError(
        "a hand-written gradient is once differentiable, in reverse mode: for a second derivative or for forward mode "
        "call the network itself, network(x), and torch's own losses, which autograd differentiates as often as asked"
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``nnlab.ops.linear_forward`` with ``linear_backward`` as its gradient."""

    def backward(needed: Sequence[bool], delta: Tensor, x: Tensor, weight: Tensor) -> Tensors:
        if needed[0]:
            return linear_backward(delta, x, weight)
        return None, *linear_backward_parameters(delta, x)  # the first layer's ∂E/∂x is left out: one product of three

    u: Tensor = by_hand(linear_forward, lambda inputs, u: inputs[:2], backward, x, weight, bias)
    return u


def activation(u: Tensor, name: str) -> Tensor:
    """An activation of ``nnlab.ops.ACTIVATIONS``, by name, with its own gradient; u of any shape."""
    check_choice("name", name, ACTIVATIONS)
    row = ACTIVATIONS[name]
    z: Tensor = by_hand(
        lambda u: row.forward(u).view_as(u),  # a Function must not return its input itself, as the identity does
        lambda inputs, z: (inputs[0] if row.saves == "u" else z,),
        lambda needed, grad_z, saved: (row.backward(grad_z, saved),),
        u,
    )
    return z


def dropout(z: Tensor, mask: Tensor) -> Tensor:
    """``nnlab.ops.dropout_forward`` with its own gradient; the mask is data."""
    kept: Tensor = by_hand(
        dropout_forward,
        lambda inputs, output: (inputs[1],),
        lambda needed, gradient, mask: (dropout_backward(gradient, mask), None),
        z,
        mask,
    )
    return kept


def loss(
    logits: Tensor, target: Tensor, name: str, reduction: Reduction = "sum", sample_weight: Tensor | None = None
) -> Tensor:
    """E, a scalar, by a loss of ``nnlab.ops.LOSSES`` with its own gradient; under autocast in float32 at least.

    The target and the sample weights are as the loss takes them; they are data, and have no gradient.

    Raises:
        ArgumentError: an unknown name, or what the loss raises.
    """
    check_choice("name", name, LOSSES)
    row = LOSSES[name]
    if _autocast(logits) and logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()

    def forward(logits: Tensor, target: Tensor, *weight: Tensor) -> Tensor:
        error: Tensor = row.forward(logits, target, reduction, *weight)
        return error

    def backward(needed: Sequence[bool], grad_E: Tensor, logits: Tensor, target: Tensor, *weight: Tensor) -> Tensors:
        return row.backward(grad_E, logits, target, reduction, *weight), None, *(None for _ in weight)

    weight = () if sample_weight is None else (sample_weight,)
    error: Tensor = by_hand(forward, lambda inputs, error: tuple(inputs), backward, logits, target, *weight)
    return error


def l2_penalty(weight: Tensor, l2: float) -> Tensor:
    """``nnlab.ops.l2_penalty_forward``, λ/2 Σ w², with its own gradient λ w."""
    penalty: Tensor = by_hand(
        lambda weight: l2_penalty_forward(weight, l2),
        lambda inputs, error: tuple(inputs),
        lambda needed, grad_E, weight: (l2_penalty_backward(grad_E, weight, l2),),
        weight,
    )
    return penalty


def mlp(network: MLP, x: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
    """The network's outputs, (N, K), of x, (N, I), with the gradient by hand of every layer.

    Dropout multiplies the outputs of each hidden layer by its mask, (N, O), where there are masks.

    Each layer is called once as the module that it is, so hooks, parametrisations and pruning act on the outputs and
    on the gradients. Under ``torch.autocast`` the inputs and parameters are cast to the autocast dtype, and the outputs
    and gradients back to the parameters' dtype, so that a loss after it runs in full precision.

    Raises:
        ArgumentError: x does not fit the network.
    """
    left = iter(masks)

    def dropped(u: Tensor, name: str) -> Tensor:
        z, mask = activation(u, name), next(left, None)  # none is left for the output layer
        return z if mask is None else dropout(z, mask.to(z.dtype))

    if not _autocast(x):
        output: Tensor = network(x, linear, dropped)
        return output
    dtype, full = torch.get_autocast_dtype(x.device.type), x.dtype

    def cast(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        check_tensors(weight=(weight, "O I"), bias=(bias, "O"))
        return linear(x.to(dtype), weight.to(dtype), bias.to(dtype))

    output = network(x, cast, dropped)
    return output.to(full)
