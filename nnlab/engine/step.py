"""One step of the engine as a straight line of tensor operations, bound to their buffers once and run many times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnlab.engine.inplace import activate_, activation_backward_, loss_backward_
from nnlab.engine.samples import Batch, Sparse, by_class
from nnlab.ops import ACTIVATIONS


class Line(list[Callable[[], Any]]):
    """Operations bound to their arguments: what an epoch's steps would look up again is looked up once.

    A CUDA graph can record them.
    """

    def then(self, operation: Callable[..., Any], *tensors: Any, **settings: Any) -> None:
        """Add an operation."""
        self.append(partial(operation, *tensors, **settings))

    def run(self) -> None:
        """Carry them all out."""
        for operation in self:
            operation()


class Layer(NamedTuple):
    """A layer's parameters, and what goes with them.

    Attributes:
        weight: (O, I), or (parts, I, P) where the inputs are sparse.
        bias: (O,).
        velocity: v of both; None without momentum.
    """

    weight: Tensor
    bias: Tensor
    velocity: tuple[Tensor | None, Tensor | None]


class Space(NamedTuple):
    """What a mini-batch of N samples is computed in."""

    z: list[Tensor]  # each hidden layer's output, (N, O)
    delta: list[Tensor]  # each layer's δ, (N, O)
    u: list[Tensor]  # each layer's net inputs, (N, O), where its activation saves u; else (N, 0)
    masks: list[Tensor]  # of each hidden layer, (N, O); empty without dropout
    masked: list[Tensor]  # each hidden layer's output after dropout, likewise
    ones: Tensor  # (N,)

    @staticmethod
    def of(sizes: Sequence[int], activations: Sequence[str], n: int, like: Tensor) -> Space:
        """Buffers for n samples in layers of these sizes, of the dtype and on the device of ``like``."""
        z, delta = ([like.new_empty(n, size) for size in sizes[:-1]] for _ in "zδ")
        kept = [size if ACTIVATIONS[h].saves == "u" else 0 for size, h in zip(sizes, activations, strict=True)]
        u = [like.new_empty(n, size) for size in kept]
        return Space(z, [*delta, by_class(like, n, sizes[-1])], u, [], [], like.new_ones(n))

    def with_masks(self, wanted: bool) -> Space:
        """The same with room for dropout, or without."""
        masks, masked = ([torch.empty_like(z) for z in self.z] if wanted else [] for _ in range(2))
        return self._replace(masks=masks, masked=masked)

    def first(self, n: int) -> Space:
        """The same for fewer samples."""
        z, delta, u, masks, masked = ([t[:n] for t in tensors] for tensors in self[:-1])
        return Space(z, delta, u, masks, masked, self.ones[:n])


def propagate(
    line: Line, batch: Batch, layers: Sequence[Layer], activations: Sequence[str], loss: str, space: Space
) -> list[Tensor | Sparse]:
    """Add forward propagation, outputs into ``batch.outputs``, and backpropagation of the summed errors.

    Args:
        line: what it is added to.
        batch: the samples.
        layers: from the input to the output.
        activations: the name of each layer's, the output layer's included.
        loss: a key of ``nnlab.ops.LOSSES``.
        space: for the batch's number of samples.

    Returns:
        what each layer is given, (N, I).

    Source: chapter 3, eqs. 3.1 to 3.4, 3.11 and 3.17.
    """
    z: Tensor | Sparse = batch.x
    inputs: list[Tensor | Sparse] = []
    last, outputs = len(layers) - 1, [*space.z, batch.outputs]
    for k, (layer, name, u) in enumerate(zip(layers, activations, outputs, strict=True)):
        inputs.append(z)
        line.append(net_inputs(z, layer, u))  # eq. 3.1
        if ACTIVATIONS[name].saves == "u":
            line.then(space.u[k].copy_, u)
        line.append(activate_(name, u))  # eq. 3.2
        z = u
        if space.masks and k < last:
            z = space.masked[k]
            line.then(torch.mul, u, space.masks[k], out=z)
    delta = space.delta
    line.append(loss_backward_(loss, batch.outputs, batch.target, delta[last]))  # the first factor of eq. 3.11
    if batch.weight is not None:
        line.then(delta[last].mul_, batch.weight)
    for k in range(last, -1, -1):
        saved = space.u[k] if ACTIVATIONS[activations[k]].saves == "u" else outputs[k]
        line.append(activation_backward_(activations[k], delta[k], saved))
        if k > 0:
            line.then(torch.mm, delta[k], layers[k].weight, out=delta[k - 1])  # eq. 3.17: Σ_l δ_l w_lj
            if space.masks:
                line.then(delta[k - 1].mul_, space.masks[k - 1])
    return inputs


def net_inputs(z: Tensor | Sparse, layer: Layer, u: Tensor) -> Callable[[], Any]:
    """What writes u = z Wᵀ + b, (N, O)."""
    if isinstance(z, Tensor):
        return partial(torch.addmm, layer.bias, z, layer.weight.T, out=u)
    return z.net_inputs(layer.weight, layer.bias, u)


def differentiate(
    line: Line, gradients: Sequence[Tensor], inputs: Sequence[Tensor], space: Space, scale: float
) -> None:
    """Add the gradients s δᵀ z and s Σₙ δₙ of the errors, into buffers in the order of the parameters."""
    for k, (z, delta) in enumerate(zip(inputs, space.delta, strict=True)):
        weight, bias = gradients[2 * k], gradients[2 * k + 1]
        if z.dtype == weight.dtype:
            line.then(weight.addmm_, delta.T, z, beta=0, alpha=scale)
        else:
            low = torch.empty_like(weight, dtype=z.dtype)
            line.then(torch.mm, delta.T, z, out=low)
            line.then(torch.mul, low, scale, out=weight)
        line.then(torch.sum, delta, 0, dtype=bias.dtype, out=bias)
        line.then(bias.mul_, scale)


def penalise(line: Line, weights: Sequence[Tensor], penalty: Tensor) -> None:
    """Add Σ w² of all weights into ``penalty``."""
    total, square = weights[0].new_empty(()), weights[0].new_empty(())
    for k, weight in enumerate(weights):
        w = weight.flatten()
        line.then(torch.dot, w, w, out=square if k else total)
        if k:
            line.then(total.add_, square)
    line.then(penalty.copy_, total)
