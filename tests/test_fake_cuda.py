"""Every public function of ops, networks and autograd on a CUDA device that computes nothing (FakeTensorMode).

It needs no GPU, and no torch that was built for one. An operand on another device is an error there, and so is whatever
would make the host wait for a value. Backward passes do not run on it; the pretended device runs them.
"""

import inspect
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from nnlab import autograd, networks, ops
from nnlab.networks import MLP, PerceptronBank
from tests.ops.oracles import good_arguments

CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def fake() -> Iterator[None]:
    with FakeTensorMode():
        yield


def x(*shape: int) -> Tensor:
    return torch.empty(*shape, device=CUDA)


def labels(n: int = 6) -> Tensor:
    return torch.zeros(n, dtype=torch.int64, device=CUDA)


def net() -> MLP:
    return MLP([7, 5, 3], "relu", device=CUDA)


def bank() -> PerceptronBank:
    return PerceptronBank(7, 3, device=CUDA)


def passes() -> list[networks.Pass]:
    return net().propagate(x(6, 7))


def parameters() -> list[Tensor]:
    return [p.detach() for p in net().parameters()]


def tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for part in value for t in tensors(part)] if isinstance(value, (tuple, list)) else []


@pytest.mark.parametrize("name", [name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))])
def test_an_operation_stays_on_its_device_and_does_not_wait(name):
    function = getattr(ops, name)
    found = tensors(function(**good_arguments(function, torch.float32, CUDA)))
    assert found
    assert {t.device for t in found} == {CUDA}


CALLS: dict[str, Callable[[], object]] = {
    "MLP": lambda: list(net().parameters()),
    "MLP.forward": lambda: net()(x(6, 7)),
    "MLP.propagate": passes,
    "MLP.backward": lambda: net().backward(x(6, 3), passes(), with_input=True),
    "MLP.to_sequential": lambda: list(net().to_sequential().parameters()),
    "MLP.from_sequential": lambda: list(MLP.from_sequential(net().to_sequential()).parameters()),
    "Linear": lambda: networks.Linear(x(3, 7), x(3))(x(6, 7)),
    "Activation": lambda: networks.Activation("gelu")(x(6, 7)),
    "mlp_forward": lambda: networks.mlp_forward(x(6, 7), parameters(), ("relu", "identity")),
    "mlp_backward": lambda: networks.mlp_backward(x(6, 3), passes(), ("relu", "identity")),
    "PerceptronBank.forward": lambda: bank()(x(6, 7), average=True),
    "PerceptronBank.averaged": lambda: bank().averaged(),
    "PerceptronBank.desired": lambda: bank().desired(labels()),
    "PerceptronBank.predict": lambda: bank().predict(x(6, 7)),
    "autograd.mlp": lambda: autograd.mlp(net(), x(6, 7)),
    **{
        f"autograd.loss {name}": lambda name=name, row=row: autograd.loss(
            x(6, 3), labels() if row.target == "labels" else x(6, 3), name, "mean"
        )
        for name, row in ops.LOSSES.items()
    },
    **{f"autograd.activation {name}": lambda name=name: autograd.activation(x(6, 3), name) for name in ops.ACTIVATIONS},
    "autograd.dropout": lambda: autograd.dropout(x(6, 3), x(6, 3)),
    "autograd.linear": lambda: autograd.linear(x(6, 7), x(3, 7), x(3)),
    "autograd.l2_penalty": lambda: autograd.l2_penalty(x(6, 7), 0.1),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_network_stays_on_its_device_and_does_not_wait(name):
    found = tensors(CALLS[name]())
    assert found
    assert {t.device for t in found} == {CUDA}


def test_every_public_name_is_called():
    named = {
        name.partition(" ")[0].rpartition(".")[2] if "autograd" in name else name.partition(".")[0] for name in CALLS
    }
    apart = {"Gradients", "Pass", "ManualGradient", "by_hand"}  # which hold values, or are what the others are made of
    assert {*autograd.__all__, *networks.__all__} - named == apart


def test_a_hidden_wait_and_another_device_are_noticed():
    with pytest.raises(RuntimeError, match="_local_scalar_dense"):
        float(x(3).sum())
    with pytest.raises(RuntimeError, match=r"found two different devices|same device"):
        x(3) + torch.empty(3)
