"""torch's autograd, eager and compiled; the perceptron's rule, a sample at a time; and the first layer's products."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from benchmarks.problems import MLPProblem, PerceptronProblem, SpeedrunProblem, splines
from benchmarks.process import Contestant
from nnlab.data import Distortion
from nnlab.training.mlp import HOLDS


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

    mode = "reduce-overhead" if problem.x.is_cuda else None  # with CUDA graphs
    loss_of = torch.compile(loss, dynamic=False, mode=mode) if compiled == "loss" else loss

    def step(x: Tensor, labels: Tensor) -> None:
        torch.autograd.backward(loss_of(x, labels))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step_of = torch.compile(step, dynamic=False, mode=mode) if whole else step

    def train(order: Tensor) -> None:
        n, size = len(order), problem.batch_size
        torch.index_select(problem.x, 0, order, out=x[:n])
        torch.index_select(problem.labels, 0, order, out=labels[:n])
        for batch, target in zip(torch.split(x[:n], size), torch.split(labels[:n], size), strict=True):
            step_of(batch, target)

    return Contestant(train, lambda: list(network.parameters()))


def distorted(images: Tensor, limits: Distortion, u: Tensor, knots: Tensor) -> Tensor:
    """``Distortion`` of images, (n, S²), from u, (6, n) from -1 to 1, and normal knots, (n, 2, 49)."""
    side = math.isqrt(images.shape[1])
    angle, across = math.radians(limits.rotation) * u[0], 2 / (side - 1)  # the grid is from -1 to 1
    c, s, sheared, t = torch.cos(angle), torch.sin(angle), limits.shear * u[3], limits.shift * across * u[4:]
    kx, ky = 1 / (1 + limits.scale * u[1]), 1 / (1 + limits.scale * u[2])
    rows = [c * kx, c * sheared - s * ky, t[0], s * kx, s * sheared + c * ky, t[1]]
    grid = affine_grid(torch.stack(rows, 1).view(-1, 2, 3), [len(images), 1, side, side], align_corners=True)
    moved = knots * (limits.elastic * across) @ splines(side).to(images.device)
    grid = grid + moved.view(-1, 2, side, side).permute(0, 2, 3, 1)
    return grid_sample(images.view(-1, 1, side, side), grid, align_corners=True).flatten(1)


AT_ONCE = 1000  # images that are distorted at a time: their grid stays in the cache


def speedrun(problem: SpeedrunProblem, *, compiled: bool = False) -> Contestant:
    """Modules and a fused ``torch.optim.SGD`` on resident images, distorted or permuted 100 mini-batches at a time.

    With ``compiled`` torch.compile is given the loss; the distortion took 1.5 times as long with it. An order is a seed
    and an epoch.
    """
    images, network = problem.scaled, problem.network().to_sequential()
    size = problem.batch_size
    x = images.new_empty(min(HOLDS * size, len(images)), images.shape[1])
    optimizer = torch.optim.SGD(
        network.parameters(), problem.lr, problem.momentum, weight_decay=problem.weight_decay, fused=True
    )

    def loss(x: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(network(x), labels)

    loss_of = torch.compile(loss, dynamic=False) if compiled else loss

    def start(seed: int) -> None:
        network.load_state_dict(problem.network(seed).to_sequential().state_dict())
        for state in optimizer.state.values():
            state["momentum_buffer"].zero_()
        torch.manual_seed(seed)

    def train(order: Tensor) -> None:
        seed, epoch = order.tolist()
        if epoch == 0:
            start(seed)
        for part, lr in problem.parts(seed, epoch):
            optimizer.param_groups[0]["lr"] = lr
            for some, out in zip(torch.split(part, AT_ONCE), torch.split(x[: len(part)], AT_ONCE), strict=True):
                torch.index_select(images, 0, some, out=out)
                if problem.distortion:
                    u = torch.rand(6, len(some), device=x.device) * 2 - 1
                    out.copy_(distorted(out, problem.distortion, u, torch.randn(len(some), 2, 49, device=x.device)))
            labels = problem.labels[part]
            for batch, target in zip(torch.split(x[: len(part)], size), torch.split(labels, size), strict=True):
                torch.autograd.backward(loss_of(batch, target))
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

    return Contestant(train, lambda: [p.detach() for p in network.parameters()])


def graphed(problem: MLPProblem) -> Contestant:
    """Autograd and ``torch.optim.SGD``, the step of a whole mini-batch captured as a CUDA graph.

    Samples are gathered into the graph's inputs; the tail is a step without it.
    """
    size = problem.batch_size
    x, labels = torch.zeros_like(problem.x[:size]), torch.zeros_like(problem.labels[:size])
    network = problem.network().to_sequential()
    optimizer = torch.optim.SGD(network.parameters(), lr=problem.lr, momentum=problem.momentum, fused=True)

    def step(x: Tensor, labels: Tensor) -> None:
        torch.autograd.backward(cross_entropy(network(x), labels))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    start = [p.detach().clone() for p in network.parameters()]
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # as torch's documentation asks for before a capture
            step(x, labels)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(x, labels)
    with torch.no_grad():  # the steps before the capture are taken back
        for parameter, value in zip(network.parameters(), start, strict=True):
            parameter.copy_(value)
            momentum = optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                momentum.zero_()

    def train(order: Tensor) -> None:
        for part in torch.split(order, size):
            if len(part) < size:
                step(problem.x[part], problem.labels[part])
            else:
                torch.index_select(problem.x, 0, part, out=x)
                torch.index_select(problem.labels, 0, part, out=labels)
                graph.replay()

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
