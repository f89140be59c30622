"""Backpropagation written out, with every step replaceable: right as it stands, and the place to plant a mistake."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nnlab.ops import ACTIVATIONS, LOSSES
from nnlab.verify.subjects import Subject


@dataclass
class Layer:
    """What a layer keeps from the forward: its number, h's name, o, u, z = h(u), W, and o, u and z of all layers."""

    number: int
    h: str
    o: Tensor
    u: Tensor
    z: Tensor
    weight: Tensor
    all_inputs: list[Tensor] = field(default_factory=list)
    all_u: list[Tensor] = field(default_factory=list)
    all_z: list[Tensor] = field(default_factory=list)


def derivative(h: str, saved: Tensor) -> Tensor:
    """The formula of h'(u), for u or z, whichever the activation saves."""
    return ACTIVATIONS[h].backward(torch.ones_like(saved), saved)


def slope(layer: Layer) -> Tensor:
    """h'(u) of a layer."""
    return derivative(layer.h, layer.u if ACTIVATIONS[layer.h].saves == "u" else layer.z)


def probabilities(loss: str, u: Tensor) -> Tensor:
    """The y of y − t."""
    return LOSSES[loss].output(u)


def onehot(u: Tensor, t: Tensor) -> Tensor:
    """The t of y − t: the target itself, or the one-hot rows of labels."""
    return t if t.is_floating_point() else torch.nn.functional.one_hot(t, u.shape[1]).to(u.dtype)


def per_sample(g: Tensor, n: int, reduction: str, weight: Tensor | None) -> Tensor:
    """∂E/∂Eₙ, (N, 1) or a scalar."""
    g = g / (n if weight is None else weight.sum()) if reduction == "mean" else g
    return g if weight is None else g * weight[:, None]


@dataclass
class Steps:
    """The steps of backpropagation; each mistake replaces one of them."""

    start: Callable[[Tensor], Tensor] = lambda g: g
    delta: Callable[[str, Tensor, Tensor], Tensor] = lambda loss, u, t: probabilities(loss, u) - onehot(u, t)
    sample: Callable[[Tensor, int, str, Tensor | None], Tensor] = per_sample
    activation: Callable[[Tensor, Layer], Tensor] = lambda g, layer: g * slope(layer)
    weight: Callable[[Tensor, Layer], Tensor] = lambda delta, layer: delta.T @ layer.o
    bias: Callable[[Tensor, Layer], Tensor] = lambda delta, layer: delta.sum(0)
    down: Callable[[Tensor, Layer], Tensor] = lambda delta, layer: delta @ layer.weight
    penalty: Callable[[Tensor, float], Tensor] = lambda w, l2: l2 * w
    bias_penalty: Callable[[Tensor, float], Tensor] | None = None
    finish: Callable[[list[Tensor], Subject], list[Tensor]] = lambda gradients, subject: gradients


Backward = Callable[..., tuple[Any, ...]]


def backward_of(subject: Subject, steps: Steps) -> Backward:
    """``backward(grad_output, *inputs)`` of a subject."""

    def backward(grad_output: Tensor, *inputs: Any) -> tuple[Any, ...]:
        n, weights = subject.n_wanted, inputs[1 : subject.n_wanted : 2]
        layers, o = [], inputs[0]
        for k, h in enumerate(subject.activations):
            u = o @ weights[k].T + inputs[2 + 2 * k] if subject.layers else o
            layers.append(Layer(k, h, o, u, ACTIVATIONS[h].forward(u), weights[k] if weights else o.new_empty(0, 0)))
            o = layers[-1].z
        for layer in layers:
            layer.all_inputs, layer.all_u = [one.o for one in layers], [one.u for one in layers]
            layer.all_z = [one.z for one in layers]
        g = start = steps.start(grad_output)
        if subject.loss is not None:
            u, t, weight = layers[-1].z, inputs[n], inputs[n + 1]
            g = steps.delta(subject.loss, u, t) * steps.sample(start, len(u), subject.reduction, weight)
        found: list[Tensor] = []
        for layer in reversed(layers):
            g = steps.activation(g, layer)
            if subject.layers:
                found[:0] = [steps.weight(g, layer), steps.bias(g, layer)]
                g = steps.down(g, layer)
        if subject.l2:
            for k in range(0, len(found), 2):
                found[k] = found[k] + start * steps.penalty(weights[k // 2], subject.l2)
                if steps.bias_penalty is not None:
                    found[k + 1] = found[k + 1] + start * steps.bias_penalty(inputs[2 + k], subject.l2)
        return (*steps.finish([g, *found], subject), *[None] * (len(inputs) - n))

    return backward
