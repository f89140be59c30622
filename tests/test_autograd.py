"""The bridge: what autograd gets is the manual gradient, once, in full precision outside of its border."""

import pytest
import torch
from torch import nn

from nnlab import autograd
from nnlab.networks import MLP
from nnlab.ops import ACTIVATIONS, LOSSES
from nnlab.validation import ArgumentError
from tests.tolerances import TRAJECTORY, assert_as_precise, assert_close


def batch(name: str, n: int, device: torch.device, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    if LOSSES[name].target == "labels":
        return torch.randint(3, (n,), device=device)
    return torch.rand(n, 3, device=device, dtype=dtype)


def torch_loss(name: str, logits: torch.Tensor, target: torch.Tensor, reduction: str) -> torch.Tensor:
    if name == "sum_of_squares":
        errors = 0.5 * nn.functional.mse_loss(logits, target, reduction="none").sum(1)
    elif name == "binary_cross_entropy":
        errors = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)
    else:
        errors = nn.functional.cross_entropy(logits, target, reduction="none")
    return errors.sum() if reduction == "sum" else errors.mean()


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_whole_network_by_central_differences(device: torch.device, loss: str, reduction: str) -> None:
    network = MLP([4, 5, 3], ["tanh", "identity"], dtype=torch.float64, device=device)
    x = torch.randn(6, 4, dtype=torch.float64, device=device, requires_grad=True)
    target = batch(loss, 6, device)

    def error(x: torch.Tensor, *_: nn.Parameter) -> torch.Tensor:  # gradcheck moves the parameters in place
        return autograd.loss(autograd.mlp(network, x), target, loss, reduction)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(error, (x, *network.parameters()))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_by_central_differences(device: torch.device, name: str) -> None:
    u = torch.randn(3, 4, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: autograd.activation(u, name), (u,))


def test_linear_and_penalty_by_central_differences(device: torch.device) -> None:
    x, weight, bias = (
        torch.randn(s, dtype=torch.float64, device=device, requires_grad=True) for s in ((5, 3), (2, 3), (2,))
    )
    assert torch.autograd.gradcheck(autograd.linear, (x, weight, bias))
    assert torch.autograd.gradcheck(lambda w: autograd.l2_penalty(w, 0.3), (weight,))


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_sample_weights_reach_the_gradient(device: torch.device, loss: str, reduction: str) -> None:
    logits = torch.randn(4, 3, dtype=torch.float64, device=device, requires_grad=True)
    target, weight = batch(loss, 4, device), torch.tensor([0.5, 2, 0, 1], dtype=torch.float64, device=device)
    assert torch.autograd.gradcheck(
        lambda u: autograd.loss(u, target, loss, reduction, weight),  # type: ignore[arg-type]
        (logits,),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_ten_steps_equal_the_twins(
    device: torch.device, dtype: torch.dtype, optimizer: str, loss: str, reduction: str
) -> None:
    ours = MLP([6, 7, 5, 3], "tanh", dtype=dtype, device=device)
    theirs = ours.to_sequential()
    arguments = {"lr": 0.05, "momentum": 0.9} if optimizer == "SGD" else {"lr": 0.01}
    optimizers = [getattr(torch.optim, optimizer)(net.parameters(), **arguments) for net in (ours, theirs)]
    for _ in range(10):
        x, target = torch.randn(11, 6, dtype=dtype, device=device), batch(loss, 11, device, dtype)
        errors = (
            autograd.loss(autograd.mlp(ours, x), target, loss, reduction),  # type: ignore[arg-type]
            torch_loss(loss, theirs(x), target, reduction),
        )
        for error, opt in zip(errors, optimizers, strict=True):
            opt.zero_grad()
            error.backward()
            opt.step()
        assert_close(errors[0].detach(), errors[1].detach(), TRAJECTORY[dtype])
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(a.detach(), b.detach(), TRAJECTORY[dtype])


def test_under_autocast_only_the_network_is_rounded(device: torch.device) -> None:
    network = MLP([64, 48, 10], "relu", device=device)
    x = torch.randn(32, 64, device=device, requires_grad=True)
    labels = torch.randint(10, (32,), device=device)
    with torch.autocast(device.type, torch.bfloat16):
        logits = autograd.mlp(network, x)
        error = autograd.loss(logits, labels, "softmax_cross_entropy", "mean")
        error.backward()  # inside: the border itself must turn autocast off
    assert logits.dtype == error.dtype == torch.float32
    # the network alone ran in bfloat16 …
    twin = network.to_sequential().bfloat16()
    expected = twin(x.detach().bfloat16()).float()
    assert torch.equal(logits, expected)
    assert torch.equal(logits, logits.bfloat16().float())
    # … and the loss in float32, on exactly those logits
    assert_close(error.detach(), nn.functional.cross_entropy(logits.detach(), labels))
    exact = MLP([64, 48, 10], "relu", dtype=torch.float64, device=device)
    exact.load_state_dict({k: v.double() for k, v in network.state_dict().items()})
    full = autograd.loss(autograd.mlp(exact, x.detach().double()), labels, "softmax_cross_entropy", "mean")
    full.backward()
    twin = network.to_sequential()
    with torch.autocast(device.type, torch.bfloat16):
        nn.functional.cross_entropy(twin(x.detach()), labels).backward()
    for ours, theirs, best in zip(network.parameters(), twin.parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert best.grad is not None
        assert_as_precise(ours.grad, theirs.grad, best.grad)
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_a_second_derivative_is_an_error() -> None:
    network = MLP([3, 2])
    logits = autograd.mlp(network, torch.randn(4, 3))
    gradients = torch.autograd.grad(logits.square().sum(), list(network.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradients[0].sum().backward()


def test_a_parameter_changed_before_backward_is_an_error() -> None:
    network = MLP([3, 4, 2])
    logits = autograd.mlp(network, torch.randn(5, 3))
    with torch.no_grad():
        next(network.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logits.sum().backward()


def test_inputs_get_a_gradient_only_where_they_ask() -> None:
    network = MLP([3, 2])
    front = nn.Linear(4, 3)
    autograd.mlp(network, front(torch.randn(5, 4))).square().sum().backward()
    assert front.weight.grad is not None
    assert front.weight.grad.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: autograd.activation(torch.zeros(2), "swish"), "name must be one of"),
        (lambda: autograd.loss(torch.zeros(2, 2), torch.zeros(2, 2), "hinge"), "name must be one of"),
        (lambda: autograd.mlp(MLP([3, 2]), torch.zeros(4, 3).double()), "weight must have the dtype of x"),
        (lambda: autograd.mlp(MLP([3, 2]), torch.zeros(4, 5)), "weight must have shape"),
    ],
)
def test_refusals(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ArgumentError, match=message):
        call()


def test_under_autocast_a_loss_is_float32_and_an_operation_keeps_its_dtype(device: torch.device) -> None:
    x, weight, bias = (torch.randn(s, device=device, requires_grad=True) for s in ((5, 3), (2, 3), (2,)))
    half = torch.randn(4, 3, device=device).bfloat16().requires_grad_()
    with torch.autocast(device.type, torch.bfloat16):
        u = autograd.linear(x, weight, bias)
        error = autograd.loss(half, torch.tensor([0, 1, 2, 0], device=device), "softmax_cross_entropy")
        (u.sum() + error).backward()
    assert u.dtype == error.dtype == torch.float32
    assert weight.grad is not None
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
