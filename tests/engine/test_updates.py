"""What the engine says it takes, and the optimizers of torch that it has a form of."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from nnlab.engine import Adam, Descent, MLPEngine, supports, update_of
from nnlab.networks import MLP
from nnlab.validation import ArgumentError

LOSS = "softmax_cross_entropy"


def network(**options: object) -> MLP:
    return MLP([4, 3, 2], generator=torch.Generator().manual_seed(0), **options)


def of(kind: type[torch.optim.Optimizer], **options: object):
    return lambda net: kind(net.parameters(), **options)


SGD, ADAM = torch.optim.SGD, torch.optim.Adam


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (of(SGD, lr=0.1), Descent(0.1)),
        (of(SGD, lr=0.1, momentum=0.9, weight_decay=1e-4), Descent(0.1, 0.9, 1e-4)),
        (of(ADAM, lr=0.01, betas=(0.8, 0.9), eps=1e-7), Adam(0.01, 0.8, 0.9, 1e-7)),
        (of(torch.optim.AdamW), "optimizer must be torch.optim.SGD or Adam for the engine, got AdamW"),
        (of(SGD, lr=0.1, momentum=0.9, nesterov=True), "nesterov of SGD must be off for the engine, got True"),
        (of(ADAM, amsgrad=True), "amsgrad of Adam must be off for the engine, got True"),
        (of(ADAM, weight_decay=0.1), "weight_decay of Adam must be off for the engine, got 0.1"),
        (lambda net: SGD([{"params": [p]} for p in net.parameters()], lr=0.1), "optimizer must have one group"),
        (lambda net: SGD(list(net.parameters())[:2], lr=0.1), "optimizer must have one group"),
    ],
)
def test_the_engines_form_of_an_optimizer(make, expected):
    net = network()
    support = supports(net, LOSS, make(net))
    if isinstance(expected, str):
        with pytest.raises(ArgumentError, match=f"^{expected}"):
            update_of(make(net), [*net.parameters()])
        assert not support
        assert support.reason.startswith(expected)
        return
    assert update_of(make(net), [*net.parameters()]) == expected
    assert support
    x, labels, optimizer = torch.rand(6, 4), torch.tensor([0, 1, 1, 0, 1, 0]), make(net)
    parameters = [p.detach().clone() for p in net.parameters()]
    engine = MLPEngine(parameters, net.activations, LOSS, x, labels, batch_size=2)
    for _ in range(2):
        engine.run_(torch.arange(6), update_of(optimizer, [*net.parameters()]))
        for rows in torch.arange(6).split(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), labels[rows]).backward()
            optimizer.step()
    torch.testing.assert_close(parameters, [p.detach() for p in net.parameters()], rtol=1e-5, atol=1e-6)


class Other(MLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def hooked() -> MLP:
    net = network()
    parametrizations.weight_norm(net[0])
    return net


def frozen() -> MLP:
    net = network()
    net[0].weight.requires_grad_(False)
    return net


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, ""),
        ({"precision": "bf16-mixed", "dropout": 0.5, "optimizer": Adam()}, ""),
        ({"network": nn.Linear(4, 2)}, "the engine trains nnlab.MLP, not Linear"),
        ({"network": Other([4, 3, 2])}, "the engine trains nnlab.MLP, not Other"),
        ({"network": hooked()}, "a layer has a hook, a parametrisation, pruning or a forward of its own"),
        ({"network": frozen()}, "a parameter is frozen"),
        ({"network": network(device="meta")}, "the engine computes on cpu and cuda, not on meta"),
        ({"loss": "hinge"}, "the engine's losses are sum_of_squares, binary_cross_entropy"),
        ({"precision": "16-mixed"}, "the engine computes in 32-true, 64-true or bf16-mixed, not in 16-mixed"),
        ({"dropout": 1.0}, "dropout must be from 0 to less than 1, got 1.0"),
        ({"dropout": 0.5, "network": MLP([4, 2])}, "dropout needs a hidden layer"),
        ({"optimizer": Descent(-1.0)}, "lr must be a number of at least 0, got -1.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_the_engine_takes(given, reason):
    support = supports(**({"network": network(), "loss": LOSS} | given))
    assert bool(support) == (not reason)
    assert support.reason.startswith(reason)
