"""torch's autograd, eager and compiled; the perceptron's rule, a sample at a time; and the first layer's products."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.problems import MLPProblem, PerceptronProblem
from benchmarks.process import Contestant


def autograd(problem: MLPProblem, *, compiled: str = "") -> Contestant:
    """Modules, ``backward`` and ``torch.optim.SGD`` on resident samples, permuted once per epoch into one buffer.

    ``compiled`` is what torch.compile is given: the "loss", forward and backward, beside a fused optimizer; or the
    whole "step", where the compiler fuses the updates itself.
    """
    x, labels = torch.empty_like(problem.x), torch.empty_like(problem.labels)
    network, whole = problem.network().to_sequential(), compiled == "step"
    optimizer = torch.optim.SGD(
        network.parameters(), lr=problem.lr, momentum=problem.momentum, fused=not whole, foreach=whole
    )

    def loss(x: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(network(x), labels)

    loss_of = torch.compile(loss, dynamic=False) if compiled == "loss" else loss

    def step(x: Tensor, labels: Tensor) -> None:
        torch.autograd.backward(loss_of(x, labels))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step_of = torch.compile(step, dynamic=False) if whole else step

    def train(order: Tensor) -> None:
        n, size = len(order), problem.batch_size
        torch.index_select(problem.x, 0, order, out=x[:n])
        torch.index_select(problem.labels, 0, order, out=labels[:n])
        for batch, target in zip(torch.split(x[:n], size), torch.split(labels[:n], size), strict=True):
            step_of(batch, target)

    return Contestant(train, lambda: list(network.parameters()))


def floor(problem: MLPProblem) -> Contestant:
    """The permutation copy, and of each step the two products with the inputs, x Wᵀ and δᵀ x; nothing is trained.

    Its "parameters" are the last x Wᵀ and δᵀ x.
    """
    x, weight = torch.empty_like(problem.x), next(problem.network().parameters()).detach()
    delta = x.new_full((problem.batch_size, len(weight)), 1e-3)
    u, gradient = torch.empty_like(delta), torch.empty_like(weight)

    def train(order: Tensor) -> None:
        torch.index_select(problem.x, 0, order, out=x[: len(order)])
        for batch in torch.split(x[: len(order)], problem.batch_size):
            torch.mm(batch, weight.T, out=u[: len(batch)])
            torch.mm(delta[: len(batch)].T, batch, out=gradient)

    return Contestant(train, lambda: [u, gradient])


def products(problem: MLPProblem, *, linear: bool = False) -> Contestant:
    """All dense products of each step, z Wᵀ, δ W and W − η δᵀ z with a tiny η, and nothing else.

    Those of the forward and the backward pass by ``torch.mm``, or by oneDNN's ``linear``. Its "parameters" are the
    results of the last forward pass, with constants in place of each layer's inputs but the first's.
    """
    weights, size = [w.detach() for w in list(problem.network().parameters())[::2]], problem.batch_size
    inputs = [problem.x.new_full((size, w.shape[1]), 1e-3) for w in weights]
    deltas = [problem.x.new_full((size, len(w)), 1e-3) for w in weights]
    found: list[Tensor] = []

    def product(a: Tensor, b: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.T, None, "none", [], "") if linear else torch.mm(a, b)
        return result

    def train(order: Tensor) -> None:
        for x in torch.split(problem.x[: len(order)], size):
            z = [x, *(full[: len(x)] for full in inputs[1:])]
            found[:] = [product(z_l, w.T) for z_l, w in zip(z, weights, strict=True)]
            for i, (z_l, w, delta) in enumerate(zip(z, weights, deltas, strict=True)):
                if i > 0:
                    product(delta[: len(x)], w)
                w.addmm_(delta[: len(x)].T, z_l, alpha=1e-30)

    return Contestant(train, lambda: found)


def sample_loop(problem: PerceptronProblem) -> Contestant:
    """The perceptron's rule as it is written, in as few operations as it can be: four per sample, for all units."""
    bank = problem.bank()
    desired, weight, bias = bank.desired(problem.labels), bank.weight.detach(), bank.bias.detach()

    def train(order: Tensor) -> None:
        error = torch.empty_like(bias)
        for x_n, d_n in zip(problem.x[order].unbind(), desired[order].unbind(), strict=True):
            torch.ge(torch.addmv(bias, weight, x_n), 0, out=error)
            error.sub_(d_n)
            weight.addr_(error, x_n, alpha=-1)
            bias.sub_(error)

    return Contestant(train, lambda: [weight, bias])
