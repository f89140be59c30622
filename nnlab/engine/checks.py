"""What ``MLPEngine`` refuses, each in a sentence that names the argument, what is expected and what came."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nnlab.engine.updates import Adam, Descent, Masks, Update
from nnlab.ops import ACTIVATIONS, Loss
from nnlab.validation import (
    ArgumentError,
    check_choice,
    check_labels,
    check_positive,
    check_sample_weight,
    check_tensors,
)

logger = logging.getLogger("nnlab")


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, once for each message."""
    logger.warning(message)


def check_network(parameters: Sequence[Tensor], activations: Sequence[str]) -> None:
    """Check that the layers fit one another: their count, shapes, dtypes, devices, layouts and activations."""
    if len(parameters) != 2 * len(activations) or not activations:
        raise ArgumentError("parameters", f"must be two for each of {len(activations)} layers, got {len(parameters)}")
    for k, name in enumerate(activations):
        weight, bias = parameters[2 * k : 2 * k + 2]
        check_choice("activations", name, ACTIVATIONS)
        check_tensors(weight=(weight, "O I"), bias=(bias, "O"))
        if (weight.dtype, weight.device) != (parameters[0].dtype, parameters[0].device):
            raise ArgumentError("parameters", f"must have one dtype and one device, layer {k + 1} has another")
        if k and weight.shape[1] != len(parameters[2 * k - 1]):
            raise ArgumentError("parameters", f"must fit one another, layer {k + 1} has {tuple(weight.shape)}")
        if not (weight.is_contiguous() and bias.is_contiguous()):
            raise ArgumentError("parameters", f"must be contiguous in memory, those of layer {k + 1} are not")


def check_weight(sample_weight: Tensor, n: int, like: Tensor) -> None:
    """Check sample weights, (N,), finite and not negative."""
    if sample_weight.shape != (n,):
        raise ArgumentError("sample_weight", f"must have shape ({n},), got {tuple(sample_weight.shape)}")
    check_tensors(weight=(like, "O I"), sample_weight=(sample_weight, "N"))
    check_sample_weight(sample_weight.cpu())


def check_target(target: Tensor, n: int, n_outputs: int, loss: Loss, like: Tensor) -> None:
    """Check labels, (N,) int64, or values, (N, K), as the loss takes them."""
    if loss.target == "labels":
        check_labels(target, like.new_empty(0).expand(n, 0), n_outputs, everywhere=True)
    elif target.shape != (n, n_outputs):
        raise ArgumentError("target", f"must have shape ({n}, {n_outputs}), got {tuple(target.shape)}")
    else:
        check_tensors(weight=(like, "O I"), target=(target, "N K"))
        if loss.bounds is not None:
            loss.bounds("target", target.cpu(), {})


def checked_inputs(x: Any, weight: Tensor, dtype: torch.dtype) -> Any:
    """The inputs as they are kept: of the arithmetic's dtype, uint8, or sparse."""
    if not isinstance(x, Tensor):
        if not (hasattr(x, "tocsr") and getattr(x, "format", None) == "csr"):
            raise ArgumentError("x", f"must be a torch.Tensor or a CSR matrix of scipy, got {type(x).__name__}")
        if weight.device.type != "cpu":
            raise ArgumentError("x", f"must be a torch.Tensor where the parameters are on {weight.device}, got CSR")
        if x.shape[1] != weight.shape[1]:
            raise ArgumentError("x", f"must have shape (N, I) with I = {weight.shape[1]}, got {x.shape}")
        if x.dtype.name not in ("float32", "float64"):
            raise ArgumentError("x", f"must be float32 or float64 in CSR form, got {x.dtype}")
        return x.astype("float64" if weight.dtype == torch.float64 else "float32", copy=False)
    if x.dtype == torch.uint8:
        if x.ndim != 2 or x.shape[1] != weight.shape[1] or x.device != weight.device:
            raise ArgumentError(
                "x", f"must be (N, {weight.shape[1]}) on {weight.device}, got {tuple(x.shape)} on {x.device}"
            )
        return x
    check_tensors(x=(x, "N I"), weight=(weight, "O I"))
    return x.detach().to(dtype)


def checked_order(order: Tensor, n_samples: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The indices, and whether one is out of range: on a CUDA device that is found out when the call ends."""
    if not isinstance(order, Tensor) or (order.dtype, order.ndim, order.device) != (torch.int64, 1, device):
        came = f"{form(order)} on {order.device}" if isinstance(order, Tensor) else type(order).__name__
        raise ArgumentError("order", f"must be int64 (n,) on {device}, got {came}")
    if len(order) > n_samples:
        raise ArgumentError("order", f"must hold at most {n_samples} indices, got {len(order)}")
    bad = ((order < 0) | (order >= n_samples)).any()
    if device.type == "cpu" and bad:
        raise out_of_range(n_samples)
    order = order.contiguous()  # of other indices, compiled loops would be compiled anew
    return (order if device.type == "cpu" or not len(order) else order.clamp(0, n_samples - 1)), bad


def check_masks(masks: Masks | None, n: int, sizes: Sequence[int], device: torch.device) -> None:
    """Check dropout's masks of n samples, for layers of these sizes."""
    if masks is None:
        return
    if len(sizes) == 1:
        raise ArgumentError("masks", "must be None for a network without a hidden layer")
    check_positive("factor", masks.factor)
    expected = [(n, o) for o in sizes[:-1]]
    if [tuple(kept.shape) for kept in masks.kept] != expected:
        raise ArgumentError("masks", f"must be of shapes {expected}, got {[tuple(k.shape) for k in masks.kept]}")
    for kept in masks.kept:
        if kept.dtype != torch.uint8 or kept.device != device:
            raise ArgumentError("masks", f"must be uint8 on {device}, got {kept.dtype} on {kept.device}")


def check_update(update: Update, dtype: torch.dtype) -> None:
    """Check an update, and that the parameters' dtype can hold its settings."""
    if not isinstance(update, Descent | Adam):
        raise ArgumentError("update", f"must be Descent or Adam, got {update!r}")
    update.check()
    for name, value in update._asdict().items():
        if value > torch.finfo(dtype).max:
            raise ArgumentError(name, f"must be at most {torch.finfo(dtype).max:.3g} in {dtype}, got {value!r}")


def check_state(state: Sequence[Tensor], update: Update, parameters: Sequence[Tensor]) -> None:
    """Check that a state is an update's: a tensor like each parameter, Adam's count (), float32."""
    n = len(parameters)
    expected = update.n_state(n)
    if expected and len(state) != expected:
        raise ArgumentError("state", f"must be {expected} tensors for {update}, got {len(state)}")
    for k, tensor in enumerate(state[:expected]):
        like = parameters[k % n] if k < 2 * n else torch.empty((), dtype=torch.float32, device=parameters[0].device)
        right = tensor.dtype == like.dtype and tensor.shape == like.shape and tensor.device == like.device
        if not (right and tensor.is_contiguous()):
            came = f"{form(tensor)} on {tensor.device}" + ", not contiguous" * right
            raise ArgumentError("state", f"must have {form(like)} on {like.device} at {k}, got {came}")


def form(x: Any) -> str:
    """What samples or indices are, in a few words: "CSR float32 (53, 40)"."""
    return f"{'' if isinstance(x, Tensor) else 'CSR '}{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"


def out_of_range(n: int) -> ArgumentError:
    """What is wrong with an order."""
    return ArgumentError("order", f"must hold indices from 0 to {n - 1}, the samples there are")


def all_zero() -> ArgumentError:
    """What is wrong with the weights of a mini-batch where these are averaged."""
    return ArgumentError("sample_weight", "must not be zero for every sample of a mini-batch")
