"""The bridge: what torch gets is the gradient by hand, once differentiable, in full precision within its border."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, vmap

from nnlab import autograd, ops
from nnlab.networks import MLP
from nnlab.ops import ACTIVATIONS, LOSSES, Reduction
from nnlab.validation import ArgumentError
from nnlab.verify.optable import target_of
from nnlab.verify.subjects import torch_loss
from tests.tolerances import TRAJECTORY, assert_as_precise, assert_close

CPU = torch.device("cpu")


def batch(loss: str, n: int, dtype: torch.dtype = torch.float64, device: torch.device = CPU) -> Tensor:
    """A target of n samples and 3 outputs."""
    target = target_of(loss, torch.Generator().manual_seed(n), n, 3)
    return target.to(device, dtype) if target.is_floating_point() else target.to(device)


# ---- autograd -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reduction", "weighted"), [("sum", True), ("mean", False), ("mean", True)])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_whole_network_by_central_differences(
    device: torch.device, loss: str, reduction: Reduction, weighted: bool
) -> None:
    network = MLP([4, 5, 3], ["tanh", "identity"], dtype=torch.float64, device=device)
    x = torch.randn(4, 4, dtype=torch.float64, device=device, requires_grad=True)
    target = batch(loss, 4, device=device)
    weight = torch.tensor([0.5, 2, 0, 1], dtype=torch.float64, device=device) if weighted else None

    def error(x: Tensor, *_: Tensor) -> Tensor:  # gradcheck moves the parameters in place
        return autograd.loss(autograd.mlp(network, x), target, loss, reduction, weight)

    assert torch.autograd.gradcheck(error, (x, *network.parameters()))


def test_the_penalty_by_central_differences(device: torch.device) -> None:
    weight = torch.randn(2, 3, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: 3 * autograd.l2_penalty(w, 0.3), (weight,))
    assert autograd.l2_penalty(weight, 0.3) == ops.l2_penalty_forward(weight, 0.3)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), ()], ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_of_any_shape(device: torch.device, name: str, shape: tuple[int, ...]) -> None:
    u = torch.randn(shape, dtype=torch.float64, device=device, requires_grad=True)
    z, expected = autograd.activation(u, name), ACTIVATIONS[name].module()(1 * u)
    assert_close(z.detach(), expected.detach())
    incoming = torch.randn_like(z)
    assert_close(*(torch.autograd.grad(y, u, incoming)[0] for y in (z, expected)))


@pytest.mark.parametrize(
    ("loss", "reduction", "optimizer", "dtype"),
    [
        ("sum_of_squares", "sum", "SGD", torch.float64),
        ("sum_of_squares", "mean", "AdamW", torch.float32),
        ("binary_cross_entropy", "sum", "AdamW", torch.float64),
        ("binary_cross_entropy", "mean", "SGD", torch.float32),
        ("softmax_cross_entropy", "sum", "SGD", torch.float32),
        ("softmax_cross_entropy", "mean", "AdamW", torch.float64),
    ],
)
def test_ten_steps_equal_the_twins(
    device: torch.device, loss: str, reduction: Reduction, optimizer: str, dtype: torch.dtype
) -> None:
    ours = MLP([6, 7, 5, 3], "tanh", dtype=dtype, device=device)
    theirs = ours.to_sequential()
    arguments = {"lr": 0.05, "momentum": 0.9} if optimizer == "SGD" else {"lr": 0.01}
    optimizers = [getattr(torch.optim, optimizer)(net.parameters(), **arguments) for net in (ours, theirs)]
    target = batch(loss, 11, dtype, device)
    for _ in range(10):
        x = torch.randn(11, 6, dtype=dtype, device=device)
        errors = (
            autograd.loss(autograd.mlp(ours, x), target, loss, reduction),
            torch_loss(loss, theirs(x), target, reduction, None),
        )
        for error, opt in zip(errors, optimizers, strict=True):
            opt.zero_grad()
            error.backward()
            opt.step()
        assert_close(errors[0].detach(), errors[1].detach(), TRAJECTORY[dtype])
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(a.detach(), b.detach(), TRAJECTORY[dtype])


def test_a_tensor_changed_before_backward_is_an_error() -> None:
    network, target = MLP([3, 4, 2]), torch.tensor([0, 1])
    output = autograd.mlp(network, torch.randn(5, 3))
    with torch.no_grad():
        network[2].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
    for change in (lambda logits, target: logits.add_(1), lambda logits, target: target.zero_()):
        logits = torch.randn(2, 3, requires_grad=True)
        error = autograd.loss(logits, target, "softmax_cross_entropy")
        with torch.no_grad():
            change(logits, target)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            error.backward()


def test_the_first_layers_inputs_get_a_gradient_only_where_they_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """∂E/∂x of the first layer is one matrix product of three, which training has no use for."""
    calls: list[str] = []
    for name in ("linear_backward", "linear_backward_parameters"):
        own = getattr(autograd, name)
        monkeypatch.setattr(autograd, name, lambda *a, own=own, name=name: calls.append(name) or own(*a))
    network, front = MLP([3, 4, 2]), nn.Linear(4, 3)
    autograd.mlp(network, torch.randn(5, 3)).sum().backward()
    assert calls == ["linear_backward", "linear_backward_parameters"]  # from the last layer to the first
    calls.clear()
    autograd.mlp(network, front(torch.randn(5, 4))).square().sum().backward()
    assert calls == ["linear_backward", "linear_backward"]
    assert front.weight.grad is not None
    assert front.weight.grad.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: autograd.activation(torch.zeros(2), "swish"), "^name must be one of .*, got 'swish'$"),
        (lambda: autograd.loss(torch.zeros(2, 2), torch.zeros(2, 2), "hinge"), "^name must be one of .*, got 'hinge'$"),
        (
            lambda: autograd.loss(torch.zeros(2, 3), [0, 1], "softmax_cross_entropy"),
            r"^target must be a torch\.Tensor, got list$",
        ),
        (lambda: autograd.mlp(MLP([3, 2]), torch.zeros(4, 3).double()), "^weight must have the dtype of x"),
        (lambda: autograd.mlp(MLP([3, 2]), [[0.0]]), r"^x must be a torch\.Tensor, got list$"),
        (lambda: autograd.activation([0.0], "relu"), r"^u must be a torch\.Tensor, got list$"),
        (lambda: autograd.loss([0.0], [0], "sum_of_squares"), r"^logits must be a torch\.Tensor, got list$"),
        (lambda: autograd.l2_penalty(torch.zeros(3), 0.1), r"^weight must have shape \(O, I\), got \(3,\)$"),
        (lambda: autograd.linear(torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(3)), "^bias must have shape"),
    ],
)
def test_refusals(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()


# ---- autocast -----------------------------------------------------------------------------------------------------


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


def test_under_autocast_a_loss_is_float32_and_an_operation_keeps_its_dtype(device: torch.device) -> None:
    x, weight, bias = (torch.randn(s, device=device, requires_grad=True) for s in ((5, 3), (2, 3), (2,)))
    half = torch.randn(4, 3, device=device).bfloat16().requires_grad_()
    labels = torch.tensor([0, 1, 2, 0], device=device)
    with torch.autocast(device.type, torch.bfloat16):
        u = autograd.linear(x, weight, bias)
        error = autograd.loss(half, labels, "softmax_cross_entropy")
        (u.sum() + error).backward()
        wide = autograd.loss(half.double(), labels, "softmax_cross_entropy")
    assert u.dtype == error.dtype == torch.float32
    assert_close(u.detach(), ops.linear_forward(x, weight, bias).detach())  # a product in bfloat16 is float32 again too
    assert wide.dtype == torch.float64
    assert autograd.loss(half, labels, "softmax_cross_entropy").dtype == torch.bfloat16  # autocast is off: as given
    assert weight.grad is not None
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16


def test_under_autocast_a_shape_that_does_not_fit_is_still_named() -> None:
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ArgumentError, match=r"^weight must have shape \(O, I\)"):
        autograd.mlp(MLP([3, 2]), torch.zeros(4, 5))
    network = MLP([3, 2])
    network[0].bias = nn.Parameter(torch.zeros(2).double())
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ArgumentError, match=r"^bias must have the dtype of weight"),
    ):
        autograd.mlp(network, torch.zeros(4, 3))


# ---- torch.func -----------------------------------------------------------------------------------------------------


class ByHand(nn.Module):
    """A module whose forward is ``autograd.mlp``, for ``functional_call``."""

    def __init__(self, network: MLP) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return autograd.mlp(self.network, x)


def both(activation: str, loss: str) -> tuple[list[Callable[..., Tensor]], dict[str, Tensor], Tensor, Tensor]:
    """Ours and torch's error of parameters, x and target; parameters, x, and target."""
    network = MLP([4, 5, 6, 3], activation, dtype=torch.float64)
    by_hand, twin = ByHand(network), network.to_sequential()
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def ours(parameters: dict[str, Tensor], x: Tensor, t: Tensor) -> Tensor:
        named = {f"network.{name}": p for name, p in parameters.items()}
        return autograd.loss(functional_call(by_hand, named, (x,)), t, loss, "mean")

    def plain(parameters: dict[str, Tensor], x: Tensor, t: Tensor) -> Tensor:
        return torch_loss(loss, functional_call(network, parameters, (x,)), t, "mean", None)

    def theirs(parameters: dict[str, Tensor], x: Tensor, t: Tensor) -> Tensor:
        return torch_loss(loss, functional_call(twin, parameters, (x,)), t, "mean", None)

    return [theirs, ours, plain], parameters, torch.randn(7, 4, dtype=torch.float64), batch(loss, 7)


def assert_all_close(found: list[dict[str, Tensor]]) -> None:
    expected, *others = found
    for other in others:
        for name, values in expected.items():
            assert_close(other[name].detach(), values.detach())


PAIRS = [(name, list(LOSSES)[k % len(LOSSES)]) for k, name in enumerate(ACTIVATIONS)]


@pytest.mark.parametrize(("activation", "loss"), PAIRS)
def test_func_grad_vmap_and_jacrev_are_torchs(activation: str, loss: str) -> None:
    errors, parameters, x, target = both(activation, loss)
    assert_all_close([grad(error)(parameters, x, target) for error in errors])
    assert_all_close(  # per sample
        [
            vmap(grad(lambda p, x, t, error=error: error(p, x[None], t[None])), (None, 0, 0))(parameters, x, target)
            for error in errors
        ]
    )
    assert_all_close(  # several sets of parameters
        [
            vmap(grad(error), (0, None, None))({k: torch.stack([p, 2 * p]) for k, p in parameters.items()}, x, target)
            for error in errors
        ]
    )
    assert_all_close([{"x": jacrev(error, 1)(parameters, x, target)} for error in errors])
    assert_all_close(
        [vmap(lambda x, t, e=error: {"E": e(parameters, x[None], t[None])})(x, target) for error in errors]
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_jacrev_of_the_outputs_is_torchs(activation: str) -> None:
    network = MLP([4, 5, 3], [activation, activation], dtype=torch.float64)
    by_hand, twin, x = ByHand(network), network.to_sequential(), torch.randn(2, 4, dtype=torch.float64)
    assert_all_close([{"x": jacrev(model)(x)} for model in (twin, by_hand, network)])
    parameters = dict(network.named_parameters())
    assert_all_close([jacrev(lambda p, m=m: functional_call(m, p, (x,)))(parameters) for m in (twin, network)])
    named = {f"network.{name}": p for name, p in parameters.items()}
    found = jacrev(lambda p: functional_call(by_hand, p, (x,)))(named)
    expected = jacrev(lambda p: functional_call(twin, p, (x,)))(parameters)
    assert_all_close([expected, {name.removeprefix("network."): values for name, values in found.items()}])


@pytest.mark.parametrize("loss", LOSSES)
def test_sample_weights_under_vmap(loss: str) -> None:
    u, w, target = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, dtype=torch.float64), batch(loss, 5)
    ours = vmap(grad(lambda u, t, w: autograd.loss(u[None], t[None], loss, "sum", w[None])))(u, target, w)
    theirs = vmap(grad(lambda u, t, w: torch_loss(loss, u[None], t[None], "sum", w[None])))(u, target, w)
    assert_close(ours, theirs)


def test_bad_values_inside_vmap_are_still_refused() -> None:
    u, labels, w = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0]), torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0])

    def error(u: Tensor, t: Tensor, w: Tensor | None = None, name: str = "softmax_cross_entropy") -> Tensor:
        return autograd.loss(u[None], t[None], name, "sum", None if w is None else w[None])

    with pytest.raises(ArgumentError, match=r"^target must hold labels from 0 to 2, got 3$"):
        vmap(error)(u, labels)
    with pytest.raises(ArgumentError, match=r"^target must hold labels from 0 to 2, got 3$"):
        vmap(grad(error))(u, labels)
    with pytest.raises(ArgumentError, match=r"^sample_weight must be finite and not negative$"):
        vmap(error)(u, labels.clamp(max=2), w)
    with pytest.raises(ArgumentError, match=r"^target must hold values from 0 to 1, got "):
        vmap(lambda u, t: error(u, t, name="binary_cross_entropy"))(u, 2 * torch.ones(5, 3))


# ---- once differentiable ------------------------------------------------------------------------------------------


def scalars() -> dict[str, Callable[[Tensor], Tensor]]:
    """Functions of x, (5, 3): a scalar each, of which some are linear in what the gradient by hand gives."""
    generator = torch.Generator().manual_seed(0)
    network = MLP([3, 4, 3], "tanh", generator=generator, dtype=torch.float64)
    weight, bias = network[0].weight, network[0].bias
    values, labels = batch("sum_of_squares", 5), batch("softmax_cross_entropy", 5)
    return {
        "mlp(x).sum()": lambda x: autograd.mlp(network, x).sum(),
        "mlp(x) squared": lambda x: autograd.mlp(network, x).square().sum(),
        "loss of mlp(x)": lambda x: autograd.loss(autograd.mlp(network, x), values, "sum_of_squares"),
        "loss": lambda x: autograd.loss(x, labels, "softmax_cross_entropy"),
        "linear": lambda x: autograd.linear(x, weight, bias).sum(),
        "activation": lambda x: autograd.activation(x, "gelu").sum(),
        "identity": lambda x: autograd.activation(x, "identity").sum(),
        "penalty": lambda x: autograd.l2_penalty(x, 0.5),
    }


def grad_twice(f: Callable[[Tensor], Tensor], x: Tensor) -> Any:
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(x), x, create_graph=True)
    assert first.requires_grad  # else the second would be torch's error, or zeros where a graph has other parts
    return torch.autograd.grad(first.sum(), x)


def backward_twice(f: Callable[[Tensor], Tensor], x: Tensor) -> Any:
    x = x.clone().requires_grad_()
    f(x).backward(create_graph=True)
    assert x.grad is not None
    return (x.grad * x).sum().backward()


SECOND_DERIVATIVES: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Any]] = {
    "grad of grad": lambda f, x: grad(lambda x: grad(f)(x).sum())(x),
    "hessian": lambda f, x: hessian(f)(x),
    "jacrev twice": lambda f, x: jacrev(jacrev(f))(x),
    "jacfwd": lambda f, x: jacfwd(f)(x),
    "jacfwd of grad": lambda f, x: jacfwd(grad(f))(x),
    "autograd.grad twice": grad_twice,
    "backward twice": backward_twice,
    "functional.hessian": torch.autograd.functional.hessian,
}


def test_a_second_derivative_by_the_parameters_alone_is_an_error() -> None:
    """The first layer then has no ∂E/∂x at which a second derivative could arrive."""
    network = MLP([3, 4, 2], "tanh")
    error = autograd.mlp(network, torch.randn(5, 3)).square().sum()
    gradients = torch.autograd.grad(error, list(network.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match=r"once differentiable"):
        sum(g.square().sum() for g in gradients).backward()


def test_a_network_on_the_meta_device_has_shapes() -> None:
    network, x = MLP([3, 4, 2], device="meta"), torch.empty(5, 3, device="meta")
    autograd.mlp(network, x).sum().backward()
    assert network[0].weight.grad is not None
    assert network[0].weight.grad.shape == (4, 3)


# torch itself calls torch.jit.script there: a DeprecationWarning up to torch 2.13, a FutureWarning from 2.14 on
FORWARD_MODE = pytest.mark.filterwarnings("ignore:.*torch.jit.script")


@FORWARD_MODE
@pytest.mark.filterwarnings("ignore:Using backward.* with create_graph=True:UserWarning")
@pytest.mark.parametrize("way", SECOND_DERIVATIVES)
def test_a_second_derivative_is_an_error(way: str) -> None:
    x, message = torch.randn(5, 3, dtype=torch.float64), r"once differentiable, in reverse mode: for .* network\(x\)"
    for name, function in scalars().items():
        print(name)  # which pytest shows if this one gives something
        with pytest.raises(RuntimeError, match=message):
            SECOND_DERIVATIVES[way](function, x)


@FORWARD_MODE
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_network_itself_has_the_second_derivative_that_the_error_promises(activation: str) -> None:
    network, x = MLP([3, 4, 2], activation, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    twin = network.to_sequential()
    ours, theirs = (hessian(lambda x, model=model: model(x).square().sum())(x) for model in (network, twin))
    assert_close(ours.detach(), theirs.detach())


# ---- torch.compile --------------------------------------------------------------------------------------------------


def compiled_functions() -> dict[str, Callable[[Tensor], Tensor]]:
    network = MLP([4, 5, 3], "tanh")
    labels, weight = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1.0, 0.5, 2.0, 1.0, 3.0])
    return {
        "mlp": lambda x: autograd.mlp(network, x),
        "loss": lambda x: autograd.loss(x, labels, "softmax_cross_entropy", "mean", weight),
        "both": lambda x: autograd.loss(autograd.mlp(network, x), labels, "softmax_cross_entropy"),
        "activation": lambda x: autograd.activation(x, "gelu"),
        "linear": lambda x: autograd.linear(x, network[0].weight, network[0].bias),
        "network": network,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", compiled_functions())
def test_compiled_in_one_graph_forward_and_backward_are_the_same(name: str) -> None:
    function, x = compiled_functions()[name], torch.randn(5, 4)
    torch.compiler.reset()
    found = []
    for f in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        leaf = x.clone().requires_grad_()
        y = f(leaf)
        found.append((y.detach(), *torch.autograd.grad(y.sum(), leaf)))
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours, theirs)
    torch.compiler.reset()


def test_dropout_is_torchs_product_with_the_mask(dtype):
    z, mask = torch.randn(5, 3, dtype=dtype, requires_grad=True), (torch.rand(5, 3) < 0.6).to(dtype) / 0.6
    grad = torch.randn(5, 3, dtype=dtype)
    (found,) = torch.autograd.grad(autograd.dropout(z, mask), z, grad)
    (expected,) = torch.autograd.grad(z * mask, z, grad)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_masks_are_of_the_hidden_layers(dtype):
    network = MLP([4, 3, 5, 2], "tanh", dtype=dtype)
    x = torch.randn(6, 4, dtype=dtype)
    masks = [(torch.rand(6, n) < 0.5).to(dtype) * 2 for n in (3, 5)]
    z = x
    for k, layer in enumerate(network):
        z = layer(z)
        if k in (1, 3):
            z = z * masks[k // 2]
    torch.testing.assert_close(autograd.mlp(network, x, masks), z)
