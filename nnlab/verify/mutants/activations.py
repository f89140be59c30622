"""Mistakes with h', each in one layer or in all of them."""

from collections.abc import Callable

import torch
from torch import Tensor

from nnlab.ops import ACTIVATIONS
from nnlab.verify.backprop import Backward, Layer, derivative, slope
from nnlab.verify.mutants.draw import Draw, Make, chosen, whole, with_steps
from nnlab.verify.subjects import Subject


def _factor(factor: Callable[[Layer], Tensor], *names: str) -> Make:
    """Another factor than h'(u) in layers with these activations."""
    usable = names or tuple(h for h in ACTIVATIONS if h != "identity")

    def make(subject: Subject, draw: Draw) -> Backward | None:
        layers = chosen(subject, draw, lambda k: subject.activations[k] in usable)

        def activation(g: Tensor, layer: Layer) -> Tensor:
            return g * (factor(layer) if layer.number in layers else slope(layer))

        return with_steps(subject, activation=activation) if layers else None

    return make


def _at_output(layer: Layer) -> Tensor:
    return derivative(layer.h, ACTIVATIONS[layer.h].forward(layer.z))


def _of_other(layer: Layer) -> Tensor:
    return derivative("sigmoid" if layer.h == "tanh" else "tanh", layer.z)


def _other_layer(subject: Subject, draw: Draw) -> Backward | None:
    """The derivative h' taken one layer off."""
    sizes = [len(b) for b in subject.inputs[2 : subject.n_wanted : 2]]
    pairs = [(k, j) for k in range(len(sizes)) for j in (k - 1, k + 1) if 0 <= j < len(sizes) and sizes[j] == sizes[k]]
    pairs = [(k, j) for k, j in pairs if subject.activations[k] != "identity"]
    if not pairs:
        return None
    here, there = pairs[whole(draw, 0, len(pairs) - 1)]

    def activation(g: Tensor, layer: Layer) -> Tensor:
        return g * (derivative(layer.h, layer.all_z[there]) if layer.number == here else slope(layer))

    return with_steps(subject, activation=activation)


def _masked(subject: Subject, draw: Draw) -> Backward | None:
    layers = chosen(subject, draw, lambda k: subject.activations[k] == "relu")

    def activation(g: Tensor, layer: Layer) -> Tensor:
        return g * (g > 0) if layer.number in layers else g * slope(layer)

    return with_steps(subject, activation=activation) if layers else None


ACTIVATION_MUTANTS: dict[str, Make] = {
    "derivative-missing": _factor(lambda layer: torch.ones_like(layer.z)),
    "derivative-at-output": _factor(
        lambda layer: derivative(layer.h, ACTIVATIONS[layer.h].forward(layer.z)), "sigmoid", "tanh"
    ),
    "derivative-fed-u": _factor(lambda layer: derivative(layer.h, layer.u), "sigmoid", "tanh"),
    "derivative-twice": _factor(lambda layer: derivative(layer.h, layer.z) ** 2, "sigmoid", "tanh"),
    "derivative-divided": _factor(lambda layer: 1 / derivative(layer.h, layer.z), "sigmoid", "tanh"),
    "derivative-of-other": _factor(_of_other),
    "value-for-derivative": _factor(lambda layer: layer.z),
    "square-missing": _factor(lambda layer: 1 - layer.z, "tanh"),
    "mask-inverted": _factor(lambda layer: (layer.u <= 0).to(layer.u.dtype), "relu"),
    "at-zero": _factor(lambda layer: (layer.u >= 0).to(layer.u.dtype), "relu"),
    "derivative-other-layer": _other_layer,
    "cotangent-masked": _masked,
}
"""How to make each of them."""
