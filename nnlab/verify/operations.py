"""What ``nnlab check`` proves: every pair of the package, an independent expression in torch, and inputs to try."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nnlab import ops
from nnlab.networks import MLP, mlp_backward, mlp_forward
from nnlab.ops import Reduction
from nnlab.verify.subjects import torch_loss

Inputs = tuple[Any, ...]


class Operation(NamedTuple):
    """One pair under test.

    Attributes:
        name: for the table.
        forward: of the inputs; the package's own.
        backward: ``backward(grad_output, *inputs)``, None for what is not differentiated.
        reference: of the inputs; torch's own functions, written apart from the package.
        cases: lists of inputs in float64.
        network: it is a chain of operations.
    """

    name: str
    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor | None, ...]]
    reference: Callable[..., Tensor]
    cases: tuple[Inputs, ...]
    network: bool = False


def _reference(name: str) -> Callable[[Tensor], Tensor]:
    """Torch's own module for an activation, of a new tensor: the identity's returns what it is given."""
    module = ops.ACTIVATIONS[name].module()
    return lambda u: module(1 * u)


def _activation_backward(name: str) -> Callable[[Tensor, Tensor], tuple[Tensor]]:
    row = ops.ACTIVATIONS[name]
    return lambda g, u: (row.backward(g, u if row.saves == "u" else row.forward(u)),)


def operations(seed: int = 0) -> Iterator[Operation]:
    """Every operation, loss by reduction and weights, and network by depth."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    def strided(*shape: int) -> Tensor:
        return normal(*shape[:-1], 2 * shape[-1])[..., ::2]

    yield Operation(
        "linear",
        ops.linear_forward,
        lambda g, x, w, b: ops.linear_backward(g, x, w),
        functional.linear,
        tuple(
            (new(n, i), new(o, i), normal(o))
            for n, i, o, new in [(7, 5, 3, normal), (1, 3, 1, normal), (4, 4, 4, strided)]
        ),
    )
    for name, pair in ops.ACTIVATIONS.items():
        yield Operation(
            name,
            pair.forward,
            _activation_backward(name),
            _reference(name),
            ((normal(7, 5),), (normal(1),), (strided(2, 3, 5),)),
        )
    yield Operation(
        "l2 penalty",
        lambda w: ops.l2_penalty_forward(w, 0.3),
        lambda g, w: (ops.l2_penalty_backward(g, w, 0.3),),
        lambda w: 0.15 * torch.einsum("oi,oi", w, w),
        ((normal(7, 5),), (strided(4, 4),)),
    )
    yield from _losses(draw, normal)
    yield from _perceptron(draw, normal)
    yield from _networks(draw, normal)


def _weights(normal: Callable[..., Tensor], n: int) -> Tensor:
    weight = normal(n).abs() + 0.1
    if n > 1:
        weight[1] = 0.0
    return weight


def _losses(draw: torch.Generator, normal: Callable[..., Tensor]) -> Iterator[Operation]:
    reductions: tuple[Reduction, ...] = ("sum", "mean")
    for (name, pair), reduction, weighted in product(ops.LOSSES.items(), reductions, (False, True)):
        cases = tuple(
            (normal(n, k), network_target(name, n, draw, k), _weights(normal, n) if weighted else None)
            for n, k in [(7, 5), (1, 3), (5, 1), (4, 4)]
        )
        yield Operation(
            f"{name}, {reduction}{', weighted' * weighted}",
            lambda u, t, w, p=pair, r=reduction: p.forward(u, t, r, w),
            lambda g, u, t, w, p=pair, r=reduction: (p.backward(g, u, t, r, w), None, None),
            lambda u, t, w, n=name, r=reduction: torch_loss(n, u, t, r, w),
            cases,
        )


def _perceptron(draw: torch.Generator, normal: Callable[..., Tensor]) -> Iterator[Operation]:
    steps: tuple[ops.StepFunction, ...] = (ops.step, ops.bipolar_step)
    reductions: tuple[Reduction, ...] = ("sum", "mean")
    for g, reduction, weighted in product(steps, reductions, (False, True)):
        low = 0.0 if g is ops.step else -1.0
        cases = tuple(
            (
                normal(n, k),
                low + (1 - low) * torch.randint(0, 2, (n, k), generator=draw).double(),
                _weights(normal, n) if weighted else None,
            )
            for n, k in [(7, 5), (1, 3)]
        )

        def reference(u: Tensor, d: Tensor, w: Tensor | None, low: float = low, r: str = reduction) -> Tensor:
            y = low + (1 - low) * torch.heaviside(u.detach(), u.new_ones(()))
            errors = torch.einsum("nk,nk->n", y - d, u)
            total = (errors if w is None else errors * w).sum()
            return total if r == "sum" else total / (len(u) if w is None else w.sum())

        yield Operation(
            f"perceptron_loss ({g.__name__}), {reduction}{', weighted' * weighted}",
            lambda u, d, w, g=g, r=reduction: ops.perceptron_loss_forward(u, d, r, w, g),
            lambda e, u, d, w, g=g, r=reduction: (ops.perceptron_loss_backward(e, u, d, r, w, g), None, None),
            reference,
            cases,
        )


def network(depth: int, hidden: str, loss: str, seed: int = 0) -> tuple[MLP, str]:
    """A network of a depth, and the loss that it is trained with."""
    sizes = [*[5, 7, 6, 4, 3][:depth], 3]
    drawn = torch.Generator().manual_seed(seed + depth)
    return MLP(sizes, hidden, generator=drawn, dtype=torch.float64), loss


NETWORKS = (
    (1, "relu", "binary_cross_entropy"),
    (2, "sigmoid", "binary_cross_entropy"),
    (2, "relu", "softmax_cross_entropy"),
    (3, "tanh", "sum_of_squares"),
    (3, "relu", "softmax_cross_entropy"),
    (4, "tanh", "softmax_cross_entropy"),
    (4, "sigmoid", "sum_of_squares"),
)
"""Depth, hidden activation and loss of the networks under test."""


def network_target(loss: str, n: int, draw: torch.Generator, n_outputs: int = 3) -> Tensor:
    """A target as the loss takes it."""
    row = ops.LOSSES[loss]
    if row.target == "labels":
        return torch.randint(0, n_outputs, (n,), generator=draw)
    values = torch.rand(n, n_outputs, generator=draw, dtype=torch.float64)
    return 3 * values if row.bounds is None else row.bounds.low + (row.bounds.high - row.bounds.low) * values


def _networks(draw: torch.Generator, normal: Callable[..., Tensor]) -> Iterator[Operation]:
    for depth, hidden, loss in NETWORKS:
        mlp, _ = network(depth, hidden, loss)
        parameters = [p.detach().clone() + 0.1 * normal(*p.shape) for p in mlp.parameters()]
        names, pair = mlp.activations, ops.LOSSES[loss]

        def forward(x: Tensor, *rest: Tensor, names: Any = names, pair: Any = pair) -> Tensor:
            value: Tensor = pair.forward(mlp_forward(x, rest[:-1], names)[-1].z, rest[-1], "mean")
            return value

        def backward(g: Tensor, x: Tensor, *rest: Tensor, names: Any = names, pair: Any = pair) -> Inputs:
            passes = mlp_forward(x, rest[:-1], names)
            grad_y = pair.backward(g, passes[-1].z, rest[-1], "mean")
            found = mlp_backward(grad_y, passes, names, with_input=True)
            return found.x, *found.parameters, None

        def reference(x: Tensor, *rest: Tensor, names: Any = names, loss: str = loss) -> Tensor:
            for weight, bias, name in zip(rest[:-1:2], rest[1:-1:2], names, strict=True):
                x = _reference(name)(functional.linear(x, weight, bias))
            return torch_loss(loss, x, rest[-1], "mean", None)

        case = (normal(6, 5), *parameters, network_target(loss, 6, draw))
        yield Operation(
            f"network of {depth} layer{'s' * (depth > 1)}, {hidden}, {loss}",
            forward,
            backward,
            reference,
            (case,),
            True,
        )
