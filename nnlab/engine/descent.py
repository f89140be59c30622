"""Gradient descent with momentum and weight decay, folded into the product that makes the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from nnlab.engine.arguments import Update
from nnlab.engine.samples import Sparse
from nnlab.engine.step import Line
from nnlab.validation import ArgumentError, check_not_negative, check_positive


class Descent(NamedTuple):
    """v ← μ v + ∇E + λ w, w ← w − η v, as ``torch.optim.SGD`` does it; without momentum w ← w − η (∇E + λ w).

    Attributes:
        lr: η > 0.
        momentum: μ in [0, 1).
        weight_decay: λ >= 0 of every parameter, the biases included.

    Source: chapter 3, section 3.3.2; Polyak (1964) for the momentum.
    """

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def check(self) -> None:
        """Raise an ArgumentError for a setting out of range."""
        check_positive("lr", self.lr)
        check_not_negative("momentum", self.momentum)
        if self.momentum >= 1:
            raise ArgumentError("momentum", f"must be less than 1, got {self.momentum!r}")
        check_not_negative("weight_decay", self.weight_decay)


def descend_product(
    line: Line,
    parameter: Tensor,
    velocity: Tensor | None,
    delta: Tensor,
    z: Tensor | Sparse,
    descent: Descent,
    scale: float,
    l2: float,
) -> None:
    """Add the step of a parameter by its gradient s δᵀ z + l2 w: without momentum one product, and no gradient is kept.

    Args:
        line: what it is added to.
        parameter: a weight (O, I), or (parts, I, P) where z is sparse, or a bias (O,).
        velocity: v; None without momentum.
        delta: the layer's δ, (N, O), of the summed errors.
        z: what the layer was given, (N, I); for a bias ones, (N,).
        descent: η, μ and λ.
        scale: s, 1 / N for a mean.
        l2: of the penalty l2/2 Σ w².
    """
    decay = descent.weight_decay + l2
    moved = parameter if velocity is None else velocity
    kept, alpha = (1 - descent.lr * decay, -descent.lr * scale) if velocity is None else (descent.momentum, scale)
    if not isinstance(z, Tensor):
        if kept != 1:
            line.then(moved.mul_, kept)
        line.append(z.add_gradient(moved, delta, alpha))
    else:
        add = moved.addmv_ if z.ndim == 1 else moved.addmm_
        line.then(add, delta.T, z, beta=kept, alpha=alpha)
    if velocity is not None:
        _follow(line, parameter, velocity, descent.lr, decay)


def apply_gradients(
    line: Line,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    velocity: Sequence[Tensor],
    update: Descent | Update,
    l2: float,
) -> None:
    """Add the step by gradients that are there, to which the penalty's l2 w of the weights is still to be added."""
    for k, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        of_penalty = 0.0 if k % 2 else l2
        if not isinstance(update, Descent):
            if of_penalty:
                line.then(gradient.add_, parameter, alpha=of_penalty)
            continue
        decay = update.weight_decay + of_penalty
        if update.momentum:
            line.then(velocity[k].mul_, update.momentum)
            line.then(velocity[k].add_, gradient)
            _follow(line, parameter, velocity[k], update.lr, decay)
        else:
            line.then(parameter.mul_, 1 - update.lr * decay)
            line.then(parameter.add_, gradient, alpha=-update.lr)
    if not isinstance(update, Descent):
        line.then(update, gradients)


def _follow(line: Line, parameter: Tensor, velocity: Tensor, lr: float, decay: float) -> None:
    """Add v ← v + λ w and w ← w − η v."""
    if decay:
        line.then(velocity.add_, parameter, alpha=decay)
    line.then(parameter.add_, velocity, alpha=-lr)
