"""What the engine computes, as a plain loop of the pure operations."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnlab.engine import Descent
from nnlab.networks import MLP, mlp_backward, mlp_forward
from nnlab.ops import LOSSES, gradient_descent, l2_penalty_backward, l2_penalty_forward


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
    lit: float = 1.0,
    weighted: bool = False,
    seed: int = 0,
) -> Problem:
    """A random one; ``lit`` is the share of inputs that are not zero, the first columns being lit more often."""
    g = torch.Generator().manual_seed(seed)
    network = MLP(sizes, activations, generator=g, dtype=dtype).to(device)
    x = torch.randn(n, sizes[0], generator=g, dtype=torch.float64)
    if lit < 1:
        x *= torch.rand(n, sizes[0], generator=g) < torch.linspace(2 * lit, 0, sizes[0])
    labels = torch.randint(0, sizes[-1], (n,), generator=g)
    target = labels if LOSSES[loss].target == "labels" else torch.eye(sizes[-1], dtype=dtype)[labels]
    weight = torch.rand(n, generator=g, dtype=torch.float64).to(device, dtype) if weighted else None
    return Problem(network, loss, x.to(device, dtype), target.to(device), weight)


class Trained(NamedTuple):
    """Where the loop ended, and what it met on the way."""

    parameters: list[Tensor]
    outputs: Tensor
    penalties: list[float]


def by_the_loop(
    given: Problem,
    order: Tensor,
    batch_size: int,
    update: Descent | Callable[[list[Tensor], list[Tensor]], None],
    *,
    reduction: str = "mean",
    l2: float = 0.0,
    masks: Callable[[int], Sequence[Tensor]] | None = None,
) -> Trained:
    """Train a copy of the network; an ``update`` that is no descent is given the parameters and the gradients."""
    network, loss, x, target, weight = given
    parameters = [p.detach().clone() for p in network.parameters()]
    velocity = [torch.zeros_like(p) for p in parameters]
    outputs, penalties, one = [], [], x.new_ones(())
    for batch in torch.split(order, batch_size):
        drawn = masks(len(batch)) if masks else ()
        w = None if weight is None else weight[batch]
        cache = mlp_forward(x[batch], parameters, network.activations, drawn)
        outputs.append(cache[-1])
        penalties.append(sum(l2_penalty_forward(p, l2).item() for p in parameters[::2]))
        delta = LOSSES[loss].backward(one, cache[-1], target[batch], reduction, w)
        gradients = list(mlp_backward(delta, cache, parameters, network.activations, masks=drawn).parameters)
        for k in range(0, len(gradients), 2):
            gradients[k] = gradients[k] + l2_penalty_backward(one, parameters[k], l2)
        if not isinstance(update, Descent):
            update(parameters, gradients)
            continue
        for k, gradient in enumerate(gradients):
            velocity[k] = update.momentum * velocity[k] + gradient + update.weight_decay * parameters[k]
            parameters[k] = gradient_descent(parameters[k], velocity[k], update.lr)
    return Trained(parameters, torch.cat(outputs), penalties)
