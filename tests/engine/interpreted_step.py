"""The step as Triton kernels against the plain loop: ``test_triton_step.py`` runs this with TRITON_INTERPRET=1."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder

from nnlab.engine.triton_step import TritonStep
from nnlab.ops import LOSSES
from tests.loops import Problem, Trained, assert_all_close, by_the_loop, problem
from tests.pairwise import pairwise
from tests.tolerances import RELATIVE, assert_close

CPU = torch.device("cpu")
BETAS, EPS = (0.8, 0.99), 1e-3  # as large as this, ε is seen


class Recipe(NamedTuple):
    """How a step changes the parameters."""

    kind: str = "plain"
    weight_decay: float = 0.0
    l2: float = 0.0
    reduction: str = "mean"
    dropout: bool = False


def rate(step: int) -> float:
    return 0.1 * 0.8**step


def reference(given: Problem, batches: Sequence[Tensor], recipe: Recipe, kept: Tensor) -> Trained:
    """The plain loop in float64, with torch's optimizers at a rate that falls from step to step."""
    made: list[torch.optim.Optimizer] = []
    steps = iter(range(len(batches)))
    drawn = iter(batches)

    def update(parameters: list[Tensor], gradients: list[Tensor]) -> None:
        if not made and recipe.kind == "adam":
            made.append(torch.optim.Adam(parameters, betas=BETAS, eps=EPS, weight_decay=recipe.weight_decay))
        elif not made:
            momentum = 0.9 if recipe.kind == "momentum" else 0.0
            made.append(torch.optim.SGD(parameters, momentum=momentum, weight_decay=recipe.weight_decay))
        made[0].param_groups[0]["lr"] = rate(next(steps))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        made[0].step()

    masks = (lambda n: [kept[next(drawn)].double() / 0.7]) if recipe.dropout else None
    return by_the_loop(given, batches, update, reduction=recipe.reduction, l2=recipe.l2, masks=masks)


def by_the_kernels(
    given: Problem, batches: Sequence[Tensor], recipe: Recipe, kept: Tensor, dtype: torch.dtype = torch.float32
) -> Trained:
    """The same by the kernels."""
    network, loss, x, target, weight = given
    parameters = [p.detach().float().contiguous() for p in network.parameters()]
    state = [torch.zeros_like(p) for p in parameters] * (recipe.kind == "momentum")
    if recipe.kind == "adam":
        state = [torch.zeros_like(p) for p in parameters * 2] + [torch.zeros((), device=x.device)]
    size = len(batches[0])
    sizes = (x.shape[1], len(parameters[1]), len(parameters[3]))
    assert TritonStep.obstacle(sizes, network.activations, loss, batch_size=size, dtype=dtype) is None
    kernels = TritonStep(
        parameters,
        network.activations,
        loss,
        batch_size=size,
        state=state,
        momentum=0.9 if recipe.kind == "momentum" else 0.0,
        weight_decay=recipe.weight_decay,
        l2=recipe.l2,
        adam=(*BETAS, EPS) if recipe.kind == "adam" else None,
        dtype=dtype,
    )
    n = sum(map(len, batches))
    outputs = torch.full((n + 1, sizes[-1]), 7.0, dtype=dtype, device=x.device)
    lr, penalties, done = torch.zeros((), device=x.device), [], 0
    target = target if target.dtype == torch.int64 else target.to(dtype)
    for k, batch in enumerate(batches):
        scale = 1 / len(batch) if recipe.reduction == "mean" else 1.0
        if weight is not None:
            scale = (weight[batch] / (weight[batch].sum() if recipe.reduction == "mean" else 1)).float()
        penalty = torch.full((kernels.tiles,), float("nan"), device=x.device) if recipe.l2 else None
        kernels.step(
            x[batch].to(dtype),
            target[batch],
            outputs[done : done + len(batch)],
            lr.fill_(rate(k)),
            scale=scale,
            mask=kept[batch] if recipe.dropout else None,
            factor=1 / 0.7,
            penalty=penalty,
        )
        done += len(batch)
        penalties.append(0.0 if penalty is None else penalty.sum().item() * recipe.l2 / 2)
    assert outputs[n].eq(7).all()
    assert all(count.item() == len(batches) for count in state[8:])
    return Trained(parameters, outputs[:n], penalties, [])  # the losses follow from the outputs


def compare(
    sizes: tuple[int, int, int], n: int, size: int, hidden: str, output: str, loss: str, weighted: bool,
    recipe: Recipe, device: torch.device, dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Train by the loop in float64 and by the kernels, and check that they agree."""
    given = problem(sizes, (hidden, output), loss, torch.float64, device, n=n, weighted=weighted)
    given = given._replace(x=given.x.to(dtype).double())
    batches = torch.split(torch.randperm(n, generator=torch.Generator().manual_seed(1)).to(device), size)
    kept = (torch.rand(n, sizes[1], generator=torch.Generator().manual_seed(2)) < 0.7).to(device, torch.uint8)
    ours, theirs = by_the_kernels(given, batches, recipe, kept, dtype), reference(given, batches, recipe, kept)
    assert_close(ours.outputs.double(), theirs.outputs, RELATIVE[dtype])
    assert_all_close([p.double() for p in ours.parameters], theirs.parameters, RELATIVE[dtype])
    assert ours.penalties == pytest.approx(theirs.penalties, rel=RELATIVE[dtype])


SHAPES = {
    "33-20-3, a tail of 9": ((33, 20, 3), 41, 16),
    "5-1-1, single samples": ((5, 1, 1), 3, 1),
    "7-150-12, blocks of units": ((7, 150, 12), 23, 20),
    "9-70-40, many outputs": ((9, 70, 40), 34, 17),
}


@pairwise(
    shape=SHAPES,
    hidden=["relu", "leaky_relu", "identity", "sigmoid", "tanh"],
    output=["identity", "sigmoid", "tanh", "leaky_relu"],
    loss=[name for name, loss in LOSSES.items() if loss.is_difference],
    kind=["plain", "momentum", "adam"],
    weight_decay=[0.0, 0.01],
    l2=[0.0, 0.1],
    reduction=["mean", "sum"],
    weighted={"equal": False, "weighted": True},
    dropout={"all": False, "dropout": True},
)
def test_it_is_the_plain_loop(
    shape, hidden, output, loss, kind, weight_decay, l2, reduction, weighted, dropout
):  # fmt: skip
    recipe = Recipe(kind, weight_decay, l2, reduction, dropout)
    compare(*shape, hidden, output, loss, weighted, recipe, CPU)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "momentum", "adam"])
def test_it_is_the_plain_loop_at_the_size_of_mnist(kind):
    compare((784, 100, 10), 150, 100, "relu", "identity", "softmax_cross_entropy", False, Recipe(kind, l2=0.1), CPU)


def test_many_outputs():
    compare((5, 40, 100), 20, 20, "tanh", "identity", "softmax_cross_entropy", False, Recipe(), CPU)


def test_bfloat16(monkeypatch):
    product = InterpreterBuilder.create_dot  # has bfloat16 as whole numbers of 16 bits, and multiplies these

    def create_dot(builder: InterpreterBuilder, a: Any, b: Any, *rest: Any) -> Any:
        whole = [builder.cast_impl(t, tl.float32) for t in (a, b)]
        return product(builder, *(whole if a.dtype.scalar == tl.bfloat16 else (a, b)), *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
    recipe = Recipe("momentum", l2=0.1)
    compare((33, 20, 3), 41, 16, "relu", "identity", "softmax_cross_entropy", True, recipe, CPU, torch.bfloat16)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy, which interprets the kernels, warns of NaN
@pytest.mark.parametrize("hidden", ["relu", "sigmoid"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(hidden, value):
    given = problem((33, 20, 3), (hidden, "identity"), "softmax_cross_entropy", torch.float64, CPU, n=20)
    given.x[7, 4] = value
    batches, kept = [torch.arange(20)], torch.empty(0)
    ours, theirs = by_the_kernels(given, batches, Recipe(), kept), reference(given, batches, Recipe(), kept)
    for a, b in zip([ours.outputs, *ours.parameters], [theirs.outputs, *theirs.parameters], strict=True):
        assert torch.equal(a.isfinite(), b.isfinite())
