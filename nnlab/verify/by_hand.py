"""Oracle one: numbers worked by hand, the chapter's own among them, each with half a unit of its last digit."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nnlab import ops
from nnlab.networks import MLP


def _tensor(device: torch.device, values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=device)


def _worst(*pairs: tuple[Tensor, object]) -> float:
    return max(float((ours - _tensor(ours.device, theirs)).abs().max()) for ours, theirs in pairs)


def _chapter(device: torch.device) -> tuple[float, float]:
    """The chapter's worked example: tanh everywhere, x = 2, t = 1; its matrices' rows are the bias and the inputs."""
    network = MLP([1, 2, 1, 1], ["tanh"] * 3, dtype=torch.float64, device=device)
    matrices = [[[0.1, 0.2], [0.3, 0.4]], [[0.2], [1.0], [-3.0]], [[1.0], [2.0]]]
    with torch.no_grad():
        for k, matrix in enumerate(matrices):
            own = _tensor(device, matrix)
            network.get_parameter(f"{2 * k}.bias").copy_(own[0])
            network.get_parameter(f"{2 * k}.weight").copy_(own[1:].T)
    passes = network.propagate(_tensor(device, [[2.0]]))
    one, target = _tensor(device, 1.0), _tensor(device, [[1.0]])
    grad_y = ops.sum_of_squares_backward(one, passes[-1].z, target)
    found, deltas = network.backward(grad_y, passes)[1:]
    error = _worst(
        (passes[0].z, [[0.60, 0.76]]),
        (passes[1].z, [[-0.90]]),
        (deltas[2], [[-0.927]]),
        (deltas[1], [[-0.347]]),
        (deltas[0], [[-0.220, 0.438]]),
        (found[1], [-0.22, 0.44]),
        (found[0], [[-0.44], [0.88]]),
        (found[3], [-0.35]),
        (found[2], [[-0.21, -0.26]]),
        (found[5], [-0.93]),
        (found[4], [[0.84]]),
    )
    return error, 0.005


def _perceptron(device: torch.device) -> tuple[float, float]:
    """Three inputs of weight 0.3, θ = 0.4: the unit says 1 where two inputs or more are 1."""
    x = _tensor(device, [[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    u = ops.linear_forward(x, _tensor(device, [[0.3, 0.3, 0.3]]), _tensor(device, [-0.4]))
    expected = [[float(row >= 2)] for row in x.sum(1).tolist()]
    return _worst((ops.step(u), expected), (u[-1], [0.5])), 1e-15


def _losses(device: torch.device) -> tuple[float, float]:
    """At u = 0: E = 2 ln 2 and δ = ½ − t; E = ln 3 and δ = ⅓ − onehot; at y − t = (1, −2): E = 2½, δ = (1, −2)."""
    one = _tensor(device, 1.0)
    zeros, t = _tensor(device, [[0.0, 0.0]]), _tensor(device, [[1.0, 0.0]])
    three, label = _tensor(device, [[0.0, 0.0, 0.0]]), torch.tensor([1], device=device)
    y = _tensor(device, [[2.0, -2.0]])
    error = _worst(
        (ops.binary_cross_entropy_forward(zeros, t), 2 * math.log(2)),
        (ops.binary_cross_entropy_backward(one, zeros, t), [[-0.5, 0.5]]),
        (ops.softmax_cross_entropy_forward(three, label), math.log(3)),
        (ops.softmax_cross_entropy_backward(one, three, label), [[1 / 3, -2 / 3, 1 / 3]]),
        (ops.sum_of_squares_forward(y, t), 2.5),
        (ops.sum_of_squares_backward(one, y, t), [[1.0, -2.0]]),
        (ops.l2_penalty_forward(y, 0.5), 2.0),
        (ops.l2_penalty_backward(one, y, 0.5), [[1.0, -1.0]]),
    )
    return error, 1e-15


def _activations(device: torch.device) -> tuple[float, float]:
    """σ(0) = ½ and σ' = ¼; tanh(0) = 0 and tanh' = 1; relu(−1, 0, 2) = (0, 0, 2) and relu' = (0, 0, 1)."""
    zero, u = _tensor(device, [0.0]), _tensor(device, [-1.0, 0.0, 2.0])
    g, g3 = _tensor(device, [8.0]), _tensor(device, [3.0, 4.0, 5.0])
    error = _worst(
        (ops.sigmoid_backward(g, ops.sigmoid_forward(zero)), [2.0]),
        (ops.tanh_backward(g, ops.tanh_forward(zero)), [8.0]),
        (ops.relu_forward(u), [0.0, 0.0, 2.0]),
        (ops.relu_backward(g3, ops.relu_forward(u)), [0.0, 0.0, 5.0]),
        (ops.identity_backward(g3, ops.identity_forward(u)), [3.0, 4.0, 5.0]),
    )
    return error, 1e-15


EXAMPLES: dict[str, Callable[[torch.device], tuple[float, float]]] = {
    "the chapter's worked example": _chapter,
    "the chapter's 0.3 / 0.4 unit, all eight inputs": _perceptron,
    "losses at numbers worked by hand": _losses,
    "activations at numbers worked by hand": _activations,
}
"""Each gives the largest difference and what is allowed."""
