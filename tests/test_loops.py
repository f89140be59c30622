"""The plain loop itself: a step of it is torch's, by autograd, with everything switched on."""

import torch

from nnlab.ops import ACTIVATIONS, LOSSES
from tests.loops import assert_all_close, by_the_loop, problem
from tests.pairwise import pairwise
from tests.tolerances import RELATIVE


@pairwise(
    name=[*ACTIVATIONS],
    loss=[*LOSSES],
    reduction=["mean", "sum"],
    weighted={"unweighted": False, "weighted": True},
    dropped={"whole": False, "dropout": True},
)
def test_a_step_is_that_of_autograd(name, loss, reduction, weighted, dropped):
    given = problem([7, 5, 4, 3], [name, "tanh", name], loss, torch.float64, "cpu", weighted=weighted)
    masks = [(torch.rand(53, units) < 0.6).double() / 0.6 for units in (5, 4)] if dropped else []
    found = []
    by_the_loop(
        given,
        [torch.arange(53)],
        lambda parameters, gradients: found.extend(gradients),
        reduction=reduction,
        l2=0.3,
        masks=lambda n: masks,
    )
    z = given.x
    for k, layer in enumerate(twin := given.network.to_sequential()):
        z = layer(z)
        if k % 2 and k // 2 < len(masks):
            z = z * masks[k // 2]
    w = torch.ones(53, dtype=torch.float64) if given.weight is None else given.weight
    error = (w * LOSSES[loss].reference(z, given.target)).sum() / (w.sum() if reduction == "mean" else 1)
    penalty = 0.3 / 2 * sum(p.square().sum() for p in twin.parameters() if p.ndim == 2)
    assert_all_close(found, torch.autograd.grad(error + penalty, list(twin.parameters())), RELATIVE[torch.float64])
