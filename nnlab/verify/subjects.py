"""Random operations and networks to try gradients on: shapes, activations, losses and values all drawn from a seed."""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnlab.ops import ACTIVATIONS, LOSSES

KINDS = ("linear", "activation", "layer", "loss", "network", "trained network")


class Subject(NamedTuple):
    """A function of ``x, W₁, b₁, …, target, sample_weight``, as far as it has them.

    Attributes:
        kind: one of ``KINDS``.
        activations: of each layer; of x itself where there are no layers.
        layers: how many pairs of weights and biases follow x among the inputs.
        loss: a name of ``nnlab.ops.LOSSES``, or None where the output is the network's.
        reduction: of the loss.
        l2: λ of the penalty λ/2 Σ w² on the weights, 0 for none.
        inputs: x and all that follows.
    """

    kind: str
    activations: tuple[str, ...]
    layers: int
    loss: str | None
    reduction: str
    l2: float
    inputs: tuple[Any, ...]

    @property
    def n_wanted(self) -> int:
        """How many of the inputs are differentiated: x, the weights and the biases."""
        return 1 + 2 * self.layers

    def forward(self, *inputs: Any) -> Tensor:
        """The function."""
        weights: tuple[Tensor, ...] = inputs[1 : self.n_wanted : 2]
        o: Tensor = inputs[0]
        for k in range(max(self.layers, len(self.activations))):
            u = o @ inputs[1 + 2 * k].T + inputs[2 + 2 * k] if self.layers else o
            o = ACTIVATIONS[self.activations[k]].module()(u)
        if self.loss is None:
            return o
        error = torch_loss(self.loss, o, inputs[self.n_wanted], self.reduction, inputs[self.n_wanted + 1])
        for weight in weights if self.l2 else ():
            error = error + self.l2 / 2 * weight.square().sum()
        return error


def torch_loss(name: str, u: Tensor, t: Tensor, reduction: str, weight: Tensor | None) -> Tensor:
    """A loss of ``nnlab.ops.LOSSES`` in torch's own functions."""
    errors = LOSSES[name].reference(u, t)
    if weight is None:
        return errors.sum() if reduction == "sum" else errors.mean()
    total = (errors * weight).sum()
    return total if reduction == "sum" else total / weight.sum()


def subject(kind: str, seed: int, dtype: torch.dtype = torch.float64) -> Subject:
    """A random subject of a kind."""
    draw = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draw))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)

    def one_of(names: Any) -> Any:
        return list(names)[whole(0, len(names) - 1)]

    n, layers = whole(2, 9), {"linear": 1, "layer": 1, "activation": 0, "loss": 0}.get(kind, whole(2, 4))
    width = whole(2, 6) if whole(0, 1) else None  # half of the networks have all layers of one width
    sizes = [width or whole(2, 6) for _ in range(layers + 1)]
    curved = [h for h in ACTIVATIONS if h != "identity"]
    names = [one_of(curved) for _ in range(max(1, layers))]
    if kind in {"linear", "loss"}:
        names = ["identity"]
    loss = one_of(LOSSES)
    row = LOSSES[loss]
    if kind == "trained network" and row.output_name != "identity":
        names[-1] = "identity"  # a cross-entropy takes logits
    if row.target == "values" and not whole(0, 3):
        sizes[-1] = 1
    inputs: list[Any] = [normal(n, sizes[0])]
    for n_in, n_out in pairwise(sizes):
        inputs += [normal(n_out, n_in) * (2 / n_in) ** 0.5, normal(n_out) * 0.5]
    if kind not in {"loss", "trained network"}:
        return Subject(kind, tuple(names), layers, None, "sum", 0.0, tuple(inputs))
    k = sizes[-1]
    if row.target == "labels":
        target = torch.randint(0, k, (n,), generator=draw)
    else:
        target = normal(n, k) if row.bounds is None else torch.rand((n, k), generator=draw).to(dtype)
    weight = torch.rand(n, generator=draw).to(dtype) + 0.1 if whole(0, 1) else None
    l2 = 0.05 + 0.1 * whole(0, 9) if kind == "trained network" and whole(0, 1) else 0.0
    return Subject(kind, tuple(names), layers, loss, one_of(["sum", "mean"]), l2, (*inputs, target, weight))
