"""A network's forward and backward pass, number by number, each with its equation and how it came about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nnlab.networks import MLP
from nnlab.ops import ACTIVATIONS, LOSSES
from nnlab.trace.description import OWN_OUTPUT, Network
from nnlab.trace.notation import Row, Writer, indexed
from nnlab.trace.words import ERRORS, OUTPUTS, SLOPES, first_delta
from nnlab.validation import ArgumentError


@dataclass(frozen=True)
class NetworkTrace:
    """Every number of one forward and one backward pass, computed by nnlab's own operations in float64.

    Lists have an entry for each layer, from the first to the last; samples are rows.
    """

    network: Network
    u: list[Tensor]  # (N, O) each
    outputs: list[Tensor]  # x, z⁽¹⁾, …, y: (N, I), then (N, O) each
    errors: Tensor  # Eₙ, (N,)
    error: Tensor  # E
    deltas: list[Tensor]  # (N, O) each
    gradients: list[Tensor]  # ∂E/∂W in the chapter's layout, (1 + I, O) each
    rows: list[Row] = field(repr=False)

    @property
    def names(self) -> list[str]:
        """The activations as a reader means them: the loss's own in the last layer, where it has one."""
        return _names(self.network)

    def as_json(self) -> dict[str, Any]:
        """The same as plain lists and numbers."""
        return {
            "kind": "network",
            "sizes": list(self.network.sizes),
            "activations": self.names,
            "loss": self.network.loss,
            "weights": [w.tolist() for w in self.network.weights],
            "x": self.outputs[0].tolist(),
            "targets": self.network.targets.tolist(),
            "u": [u.tolist() for u in self.u],
            "z": [z.tolist() for z in self.outputs[1:-1]],
            "y": self.outputs[-1].tolist(),
            "E": self.error.item(),
            "delta": [d.tolist() for d in self.deltas],
            "dE/dW": [g.tolist() for g in self.gradients],
            "rows": [row.as_json() for row in self.rows],
        }


def trace_network(network: Network, write: Writer) -> NetworkTrace:
    """Propagate forward and backward, and describe every number.

    Raises:
        ArgumentError: a number is too large for float64.
    """
    mlp = MLP(network.sizes, network.activations, dtype=torch.float64)
    parameters: list[Tensor] = []
    for matrix in network.weights:
        parameters += [matrix[1:].T.contiguous(), matrix[0]]
    for parameter, value in zip(mlp.parameters(), parameters, strict=True):
        parameter.data = value
    passes = mlp.propagate(network.inputs)
    u, cache = [layer.u for layer in passes], [network.inputs, *(layer.z for layer in passes)]
    loss, one = LOSSES[network.loss], torch.ones((), dtype=torch.float64)
    samples = zip(torch.split(cache[-1], 1), torch.split(network.targets, 1), strict=True)
    errors = torch.stack([loss.forward(y, t) for y, t in samples])
    grad_y = loss.backward(one, cache[-1], network.targets)
    found, deltas = mlp.backward(grad_y, passes)[1:]
    gradients = [torch.vstack([b, w.T]) for w, b in zip(found[::2], found[1::2], strict=True)]
    trace = NetworkTrace(
        network=network,
        u=u,
        outputs=[*cache[:-1], _output(network, cache[-1])],
        errors=errors,
        error=loss.forward(cache[-1], network.targets),
        deltas=list(deltas),
        gradients=gradients,
        rows=[],
    )
    if not all(bool(torch.isfinite(t).all()) for t in (*u, *trace.outputs, trace.error, *deltas, *gradients)):
        raise ArgumentError("weights", "and inputs must be smaller: a number grows beyond what float64 can hold")
    for n in range(len(network.inputs)):
        trace.rows.extend([*_forward_rows(trace, n, write), *_backward_rows(trace, n, write)])
    trace.rows.extend(_gradient_rows(trace, write))
    return trace


def _names(network: Network) -> list[str]:
    return [*network.activations[:-1], OWN_OUTPUT.get(network.loss, network.activations[-1])]


def _output(network: Network, last: Tensor) -> Tensor:
    name = _names(network)[-1]
    if name == "softmax":
        return torch.softmax(last, 1)
    return ACTIVATIONS[name].forward(last) if network.loss in OWN_OUTPUT else last


def _forward_rows(trace: NetworkTrace, n: int, write: Writer) -> list[Row]:
    rows, names, last = [], trace.names, len(trace.u)
    for k, (weight, name) in enumerate(zip(trace.network.weights, names, strict=True), 1):
        o, u, z = ([1.0, *trace.outputs[k - 1][n].tolist()], trace.u[k - 1][n].tolist(), trace.outputs[k][n].tolist())
        for j, value in enumerate(u, 1):
            origin = write.products(zip(weight[:, j - 1].tolist(), o, strict=True))
            number = "3.3" if k == last > 1 else "3.1"
            rows.append(Row("u", indexed("u", j, layer=k), value, number, origin, layer=k, unit=j, sample=n + 1))
        letter, number = ("y", "3.4") if k == last else ("z", "3.2")
        for j, value in enumerate(z, 1):
            origin = OUTPUTS[name](u, j - 1, write)
            rows.append(Row(letter, indexed(letter, j, layer=k), value, number, origin, layer=k, unit=j, sample=n + 1))
    number, words = ERRORS[trace.network.loss]
    origin = words(trace.u[-1][n].tolist(), trace.outputs[-1][n].tolist(), trace.network.targets[n].tolist(), write)
    rows.append(Row("E", indexed("E", n + 1), trace.errors[n].item(), number, origin, sample=n + 1))
    return rows


def _backward_rows(trace: NetworkTrace, n: int, write: Writer) -> list[Row]:
    rows, network = [], trace.network
    for k in range(len(trace.u), 0, -1):
        z, delta = trace.outputs[k][n].tolist(), trace.deltas[k - 1][n].tolist()
        for j, value in enumerate(delta, 1):
            if k == len(trace.u):
                number, origin = first_delta(network.loss, network.activations[-1], z, network.targets[n], j - 1, write)
            else:
                above = trace.deltas[k][n].tolist()
                terms = list(zip(network.weights[k][j].tolist(), above, strict=True))
                total = write.products(terms)
                slope = SLOPES[network.activations[k - 1]](z[j - 1], write)
                number, origin = "3.17", f"{slope}·{total if len(terms) == 1 else f'[{total}]'}"
            rows.append(Row("delta", indexed("δ", j, layer=k), value, number, origin, layer=k, unit=j, sample=n + 1))
    return rows


def _gradient_rows(trace: NetworkTrace, write: Writer) -> list[Row]:
    rows = []
    if len(trace.errors) > 1:
        origin = " + ".join(write.factor(e) for e in trace.errors.tolist())
        rows.append(Row("E", "E", trace.error.item(), "3.5", origin))
    for k, gradient in enumerate(trace.gradients, 1):
        ones = torch.ones(len(trace.errors), 1, dtype=torch.float64)
        o = torch.hstack([ones, trace.outputs[k - 1]]).T.tolist()  # input -> sample
        delta = trace.deltas[k - 1].T.tolist()  # unit -> sample
        for i, line in enumerate(gradient.tolist()):
            for j, value in enumerate(line, 1):
                origin = write.products(zip(delta[j - 1], o[i], strict=True))
                symbol = indexed("∂E/∂w", j, i, layer=k)
                rows.append(Row("dE/dw", symbol, value, "3.9", origin, layer=k, unit=j, input=i))
    return rows
