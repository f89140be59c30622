"""What an engine is given, held to what it must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nnlab.ops import ACTIVATIONS, LOSSES
from nnlab.validation import ArgumentError, check_choice, check_labels, check_tensors

Update = Callable[[Sequence[Tensor]], object]
"""An optimizer's step: it is given ∂E/∂w in the order of the parameters, in buffers that the next step reuses."""

Masks = Callable[[int], Sequence[Tensor]]
"""Dropout: the masks (N, O) of the hidden layers for a mini-batch of N samples."""


def check_network(parameters: Sequence[Tensor], activations: Sequence[str], x: Tensor) -> None:
    """Check that the layers fit one another and the inputs.

    Raises:
        ArgumentError: their number, a shape, dtype, device or layout, or the name of an activation is wrong.
    """
    if len(parameters) != 2 * len(activations) or not activations:
        raise ArgumentError("parameters", f"must be two for each of {len(activations)} layers, got {len(parameters)}")
    below = x
    for k, name in enumerate(activations):
        weight, bias = parameters[2 * k], parameters[2 * k + 1]
        check_choice("activations", name, ACTIVATIONS)
        check_tensors(x=(x, "N I"), weight=(weight, "O I" if k == 0 else "O H"), bias=(bias, "O"))
        if weight.shape[1] != below.shape[1 if k == 0 else 0]:
            raise ArgumentError("parameters", f"must fit one another, layer {k + 1} has {tuple(weight.shape)}")
        if not (weight.is_contiguous() and bias.is_contiguous()):
            raise ArgumentError("parameters", f"must be contiguous in memory, those of layer {k + 1} are not")
        below = weight


def check_target(target: Tensor, x: Tensor, loss: str, n_outputs: int) -> None:
    """Check that the target, (N,) int64 or (N, K) as the loss takes it, fits the samples.

    Raises:
        ArgumentError: shape, dtype or device is wrong, or a value out of range.
    """
    row = LOSSES[loss]
    if row.target == "labels":
        check_labels(target, x, n_outputs, everywhere=True)
    elif target.ndim != 2 or target.shape[1] != n_outputs:
        raise ArgumentError("target", f"must have shape (N, {n_outputs}), got {tuple(target.shape)}")
    else:
        check_tensors(x=(x, "N I"), target=(target, "N K"))
        if row.bounds is not None:
            row.bounds("target", target, {})


def check_order(order: Tensor, x: Tensor, most: int | None = None) -> None:
    """Check sample indices, (n,) int64, and that n is at most a maximum.

    Raises:
        ArgumentError: shape, dtype or device, a number out of range, or too many.
    """
    if order.dtype != torch.int64 or order.ndim != 1 or order.device != x.device:
        came = f"{str(order.dtype).removeprefix('torch.')} {tuple(order.shape)} on {order.device}"
        raise ArgumentError("order", f"must be int64 (n,) on {x.device}, got {came}")
    if len(order) and (order.min() < 0 or order.max() >= len(x)):
        raise ArgumentError("order", f"must hold numbers from 0 to {len(x) - 1}, the samples there are")
    if most is not None and len(order) > most:
        raise ArgumentError("order", f"must hold at most {most} numbers, got {len(order)}")
