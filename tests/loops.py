"""Training written out as a plain loop of the pure operations: what the engine and the estimators are compared with."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnlab.engine import Descent
from nnlab.networks import MLP
from nnlab.ops import (
    ACTIVATIONS,
    LOSSES,
    dropout_backward,
    dropout_forward,
    gradient_descent,
    l2_penalty_backward,
    l2_penalty_forward,
    linear_backward,
    linear_forward,
)
from tests.tolerances import assert_close

Masks = Callable[[int], Sequence[Tensor]]


class Problem(NamedTuple):
    """A network, samples and what is minimised."""

    network: MLP
    loss: str
    x: Tensor
    target: Tensor
    weight: Tensor | None


def problem(
    sizes: Sequence[int],
    activations: Sequence[str],
    loss: str,
    dtype: torch.dtype,
    device: torch.device,
    *,
    n: int = 53,
    density: float = 1.0,
    weighted: bool = False,
    seed: int = 0,
) -> Problem:
    """A random one; ``density`` is the share of inputs that are not zero, more of them in the first columns."""
    g = torch.Generator().manual_seed(seed)
    network = MLP(sizes, activations, generator=g, dtype=dtype).to(device)
    x = torch.randn(n, sizes[0], generator=g, dtype=torch.float64)
    if density < 1:
        x *= torch.rand(n, sizes[0], generator=g) < torch.linspace(2 * density, 0, sizes[0])
    labels = torch.randint(0, sizes[-1], (n,), generator=g)
    target = labels if LOSSES[loss].target == "labels" else torch.eye(sizes[-1], dtype=dtype)[labels]
    weight = torch.rand(n, generator=g, dtype=torch.float64).to(device, dtype) if weighted else None
    return Problem(network, loss, x.to(device, dtype), target.to(device), weight)


class Trained(NamedTuple):
    """Where the loop ended, and what it met on the way."""

    parameters: list[Tensor]
    outputs: Tensor
    penalties: list[float]
    losses: list[float]


def by_the_loop(
    given: Problem,
    batches: Iterable[Tensor],
    update: Descent | Callable[[list[Tensor], list[Tensor]], None],
    *,
    reduction: str = "mean",
    l2: float = 0.0,
    masks: Masks | None = None,
) -> Trained:
    """Train a copy of the network on mini-batches of sample indices.

    ``masks`` gives dropout's masks of the hidden layers for a mini-batch of N samples. An ``update`` that is no descent
    is given the parameters, to be changed in place, and the gradients.
    """
    network, loss, x, target, weight = given
    activations = [ACTIVATIONS[name] for name in network.activations]
    parameters = [p.detach().clone() for p in network.parameters()]
    velocity = [torch.zeros_like(p) for p in parameters]
    outputs, penalties, losses, one = [], [], [], x.new_ones(())
    for batch in batches:
        drawn = list(masks(len(batch))) if masks else []
        inputs, saved, z = [], [], x[batch]
        for k, h in enumerate(activations):
            u = linear_forward(z, parameters[2 * k], parameters[2 * k + 1])
            inputs.append(z)
            z = h.forward(u)
            saved.append(u if h.saves == "u" else z)
            if k < len(drawn):
                z = dropout_forward(z, drawn[k])
        outputs.append(z)
        penalties.append(sum(l2_penalty_forward(p, l2).item() for p in parameters[::2]))

        w = x.new_ones(len(batch)) if weight is None else weight[batch]
        w = w / w.sum() if reduction == "mean" else w
        losses.append((w * LOSSES[loss].errors(z, target[batch])).sum().item())
        grad_z, gradients = w[:, None] * LOSSES[loss].backward(one, z, target[batch]), []
        for k, h in reversed(list(enumerate(activations))):
            if k < len(drawn):
                grad_z = dropout_backward(grad_z, drawn[k])
            delta = h.backward(grad_z, saved[k])
            grad_z, of_weight, of_bias = linear_backward(delta, inputs[k], parameters[2 * k])
            gradients[:0] = [of_weight + l2_penalty_backward(one, parameters[2 * k], l2), of_bias]
        if not isinstance(update, Descent):
            update(parameters, gradients)
            continue
        for k, gradient in enumerate(gradients):
            velocity[k] = update.momentum * velocity[k] + gradient + update.weight_decay * parameters[k]
            parameters[k] = gradient_descent(parameters[k], velocity[k], update.lr)
    return Trained(parameters, torch.cat(outputs), penalties, losses)


def assert_all_close(actual: Sequence[Tensor], expected: Sequence[Tensor], relative: float) -> None:
    """``assert_close`` of each."""
    for ours, theirs in zip(actual, expected, strict=True):
        assert_close(ours, theirs, relative)
