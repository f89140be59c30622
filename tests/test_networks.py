"""Networks: the chapter's worked example, gradients and δs against autograd, hooks and parametrisations; the bank."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, spectral_norm, weight_norm
from torch.nn.utils.parametrizations import spectral_norm as spectral_parametrization
from torch.nn.utils.parametrizations import weight_norm as weight_parametrization

from nnlab import autograd, networks
from nnlab.networks import MLP, PerceptronBank, mlp_backward, mlp_forward
from nnlab.ops import ACTIVATIONS, bipolar_step, perceptron_rule, step, sum_of_squares_backward
from nnlab.validation import ArgumentError
from tests.tolerances import assert_as_precise, assert_close


def chapters_network(device: torch.device) -> MLP:
    """The worked example of section 3.3, tanh everywhere; the chapter's matrices have the bias as first row."""
    network = MLP([1, 2, 1, 1], ["tanh", "tanh", "tanh"], dtype=torch.float64, device=device)
    matrices = [[[0.1, 0.2], [0.3, 0.4]], [[0.2], [1.0], [-3.0]], [[1.0], [2.0]]]
    state = {}
    for k, matrix in enumerate(torch.tensor(matrix, dtype=torch.float64) for matrix in matrices):
        state[f"{2 * k}.weight"], state[f"{2 * k}.bias"] = matrix[1:].T, matrix[0]
    network.load_state_dict(state)
    return network


def test_the_worked_example_of_the_chapter(device: torch.device) -> None:
    network = chapters_network(device)
    x, t, one = (torch.tensor(v, dtype=torch.float64, device=device) for v in ([[2.0]], [[1.0]], 1.0))

    def printed(found: Tensor, values: Any, half: float) -> None:
        torch.testing.assert_close(found.cpu(), torch.tensor(values, dtype=torch.float64), rtol=0, atol=half)

    passes = network.propagate(x)
    for layer, u, z in zip(
        passes, ([[0.7, 1.0]], [[-1.48]], [[-0.80]]), ([[0.60, 0.76]], [[-0.90]], [[-0.666]]), strict=True
    ):
        printed(layer.u, u, 0.005)
        printed(layer.z, z, 0.005)
    printed(passes[-1].z, [[-0.666]], 0.0005)
    found = network.backward(sum_of_squares_backward(one, passes[-1].z, t), passes, with_input=True)
    for delta, values in zip(found.deltas, ([[-0.220, 0.438]], [[-0.347]], [[-0.927]]), strict=True):
        printed(delta, values, 0.0005)
    w1, b1, w2, b2, w3, b3 = found.parameters
    printed(torch.vstack([b1, w1.T]), [[-0.22, 0.44], [-0.44, 0.88]], 0.005)
    printed(torch.vstack([b2, w2.T]), [[-0.35], [-0.21], [-0.26]], 0.005)
    printed(torch.vstack([b3, w3.T]), [[-0.93], [0.84]], 0.005)
    # ∂E/∂x = δ1 · (0.3, 0.4) = −0.220 · 0.3 + 0.438 · 0.4
    assert found.x is not None
    printed(found.x, [[0.109]], 0.0005)
    assert network.backward(t, passes).x is None


# sizes, activations, samples: every activation, hidden and at the output, with depths from 1 to 4 and one sample
CASES = [
    ([3, 2], ["relu"], 13),
    ([7, 5, 3], "gelu", 1),
    ([7, 5, 3], ["identity", "gelu"], 13),
    ([5, 11, 2, 7], "tanh", 13),
    ([5, 11, 2, 7], ["sigmoid", "leaky_relu", "sigmoid"], 1),
    ([4, 3, 3, 3, 2], "relu", 13),
    ([4, 3, 3, 3, 2], ["leaky_relu", "tanh", "gelu", "relu"], 13),
]


def test_the_gradient_of_the_input_is_left_out_unless_asked_for() -> None:
    network = MLP([3, 2, 2])
    passes = network.propagate(torch.ones(4, 3))
    assert mlp_backward(torch.ones(4, 2), passes, network.activations).x is None
    assert network.backward(torch.ones(4, 2), passes).x is None


def test_the_cases_have_every_activation() -> None:
    named = {name for _, names, _ in CASES for name in ([names] if isinstance(names, str) else names)}
    assert named == set(ACTIVATIONS)


@pytest.mark.parametrize(("sizes", "activation", "n"), CASES, ids=str)
def test_gradients_and_deltas_are_autograds(
    device: torch.device, dtype: torch.dtype, sizes: list[int], activation: str | list[str], n: int
) -> None:
    network = MLP(sizes, activation, dtype=dtype, device=device, init_std=0.7)
    twin = network.to_sequential()
    x, incoming = (torch.randn(n, k, dtype=dtype, device=device) for k in (sizes[0], sizes[-1]))
    x[:, 0] = 0  # an exact zero
    passes = network.propagate(x)
    found = network.backward(incoming, passes, with_input=True)
    assert found.x is not None
    assert not any(t.requires_grad for layer in passes for t in (layer.u, layer.z))
    assert not any(t.requires_grad for t in (*found.parameters, *found.deltas))
    for model in (network, twin):  # the plain operations under autograd, and torch's own modules
        net_inputs: list[Tensor] = []
        for layer in list(model)[::2]:
            layer.register_forward_hook(lambda module, args, u, into=net_inputs: into.append(u))
        leaf = x.clone().requires_grad_()
        y = model(leaf)
        assert_close(passes[-1].z, y.detach())
        for layer, u in zip(passes, net_inputs, strict=True):
            assert_close(layer.u, u.detach())
        expected = torch.autograd.grad(y, [leaf, *model.parameters(), *net_inputs], incoming)
        for ours, theirs in zip((found.x, *found.parameters, *found.deltas), expected, strict=True):
            assert_close(ours, theirs)
    again = mlp_backward(incoming, mlp_forward(x, list(network.parameters()), network.activations), network.activations)
    for ours, theirs in zip(again.parameters, found.parameters, strict=True):
        assert torch.equal(ours.detach(), theirs)


def test_an_activation_too_few_is_an_error() -> None:
    parameters = list(MLP([4, 3, 2]).parameters())
    for activations in (["relu"], ["relu"] * 3):
        with pytest.raises(ValueError, match=r"zip\(\) argument 3 is (shorter|longer) than argument"):
            mlp_forward(torch.zeros(5, 4), parameters, activations)


def test_the_gradient_of_the_inputs_is_left_out_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """∂E/∂x is one matrix product of the first layer's three, which training has no use for."""
    calls: list[str] = []
    for name in ("linear_backward", "linear_backward_parameters"):
        own = getattr(networks, name)
        monkeypatch.setattr(networks, name, lambda *a, own=own, name=name: calls.append(name) or own(*a))
    network, x, incoming = MLP([4, 3, 2]), torch.randn(5, 4), torch.randn(5, 2)
    network.backward(incoming, network.propagate(x))
    assert calls == ["linear_backward", "linear_backward_parameters"]  # from the last layer to the first
    calls.clear()
    network.backward(incoming, network.propagate(x), with_input=True)
    assert calls == ["linear_backward", "linear_backward"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_float32_is_as_precise_as_torch(device: torch.device, activation: str) -> None:
    exact = MLP([31, 17, 13, 5], activation, dtype=torch.float64, device=device)
    x, incoming = (torch.randn(23, k, dtype=torch.float64, device=device).float().double() for k in (31, 5))
    for p in exact.parameters():
        p.data = p.data.float().double()  # so that both start from the same numbers
    twin = exact.to_sequential()
    references = torch.autograd.grad(twin(x), list(twin.parameters()), incoming)
    ours = MLP([31, 17, 13, 5], activation, device=device)
    ours.load_state_dict({k: v.float() for k, v in exact.state_dict().items()})
    theirs = ours.to_sequential()
    torchs = torch.autograd.grad(theirs(x.float()), list(theirs.parameters()), incoming.float())
    found = ours.backward(incoming.float(), ours.propagate(x.float())).parameters
    for a, b, c in zip(found, torchs, references, strict=True):
        assert_as_precise(a, b, c)


# ---- made, printed, converted -----------------------------------------------------------------------------------


def test_a_network_is_a_sequence_of_layers() -> None:
    network = MLP([6, 5, 4, 3], "relu")
    assert repr(network) == (
        "MLP(\n"
        "  (0): Linear(6, 5)\n  (1): Activation(relu)\n"
        "  (2): Linear(5, 4)\n  (3): Activation(relu)\n"
        "  (4): Linear(4, 3)\n  (5): Activation(identity)\n)"
    )
    assert len(network) == 6
    assert [network[k] for k in range(6)] == list(network)
    assert network[-1] is network[5]
    assert network[0].weight.shape == (5, 6)
    assert (network.sizes, network.activations) == ((6, 5, 4, 3), ("relu", "relu", "identity"))
    x = torch.randn(2, 6)
    assert torch.equal(nn.Sequential(*network)(x), network(x))
    with pytest.raises(IndexError):
        network[6]


def test_a_state_dict_loads_into_torchs_modules_and_back(device: torch.device) -> None:
    network = MLP([6, 5, 4], "relu", device=device)
    plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).to(device)
    plain.load_state_dict(network.state_dict())
    x = torch.randn(3, 6, device=device)
    assert_close(network(x).detach(), plain(x).detach())
    other = MLP([6, 5, 4], "relu", device=device)
    other.load_state_dict(plain.state_dict())
    assert torch.equal(other(x), network(x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_to_torchs_modules_and_back(device: torch.device, activation: str) -> None:
    network = MLP([4, 3, 2], [activation, activation], dtype=torch.float64, device=device)
    twin = network.to_sequential()
    again = MLP.from_sequential(twin)
    assert (again.sizes, again.activations) == (network.sizes, network.activations)
    x = torch.randn(5, 4, dtype=torch.float64, device=device)
    assert torch.equal(again(x), network(x))
    with torch.no_grad():  # each holds a copy
        for p in twin.parameters():
            p.add_(1)
    for p, theirs, own in zip(network.parameters(), twin.parameters(), again.parameters(), strict=True):
        assert not torch.equal(p, theirs)
        assert torch.equal(p, own)


@pytest.mark.parametrize(
    ("between", "activations"),
    [([], ("identity", "identity")), ([nn.ReLU(inplace=True)], ("identity", "relu"))],
    ids=["none", "one behind two"],
)
def test_what_a_sequential_leaves_out_is_the_identity(between: list[nn.Module], activations: tuple[str, ...]) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), *between, nn.Linear(3, 2)).double()
    network = MLP.from_sequential(model)
    assert network.activations == (*activations, "identity")
    x = torch.randn(5, 4, dtype=torch.float64)
    assert_close(network(x).detach(), model(x).detach())


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([], "^model must have at least one Linear layer, got none$"),
        ([nn.Flatten(), nn.Linear(4, 3)], r"^model\[0\] must be a Linear with a bias, or .*, got Flatten\("),
        ([nn.ReLU(), nn.Linear(4, 3)], r"^model\[0\] must be .*, got ReLU\(\)$"),
        ([nn.Linear(4, 3), nn.ReLU(), nn.ReLU()], r"^model\[2\] must be .*, got ReLU\(\)$"),
        ([nn.Linear(4, 3, bias=False)], r"^model\[0\] must be .*, got Linear\(.*bias=False\)$"),
        (
            [nn.Linear(4, 3), nn.LeakyReLU(0.2)],
            r"^model\[1\] must be .*LeakyReLU\(negative_slope=0\.01\).* got LeakyReLU",
        ),
        ([nn.Linear(4, 3), nn.GELU(approximate="tanh")], r"^model\[1\] must be .*, got GELU\(approximate='tanh'\)$"),
        (
            [nn.Linear(4, 3), nn.Linear(2, 5)],
            r"^model must have layers that fit one another, got Linear\(.* and Linear",
        ),
    ],
)
def test_a_sequential_that_computes_something_else_is_refused(modules: list[nn.Module], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        MLP.from_sequential(nn.Sequential(*modules))


def test_initial_weights_come_from_the_generator_alone(device: torch.device) -> None:
    def draw(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [p.detach().cpu() for p in MLP([8, 4, 3], generator=generator, device=device).parameters()]

    before = torch.get_rng_state()
    first, again, other = draw(0), draw(0), draw(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert all(p.requires_grad for p in MLP([8, 4, 3]).parameters())


@pytest.mark.parametrize(
    ("activation", "init_std", "expected"),
    [("relu", None, (2 / 400) ** 0.5), ("tanh", None, (2 / 700) ** 0.5), ("sigmoid", 0.1, 0.1)],
)
def test_initial_standard_deviation(activation: str, init_std: float | None, expected: float) -> None:
    network = MLP([400, 300, 2], activation, init_std=init_std)
    weight, bias = itertools.islice(network.parameters(), 2)
    assert abs(weight.std().item() / expected - 1) < 0.02  # 120,000 numbers
    assert abs(weight.mean().item()) < 0.02 * expected
    assert not bias.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": [3]}, "^sizes must name at least the inputs and the outputs, got "),
        ({"sizes": [3, 0, 2]}, "^sizes must be a whole number of at least 1, got 0$"),
        ({"sizes": [3, 2], "activation": "swish"}, "^activation must be one of .* got 'swish'$"),
        ({"sizes": [3, 2, 1], "activation": ["relu", "swish"]}, "^activation must be one of .* got 'swish'$"),
        (
            {"sizes": [3, 2, 1], "activation": ["relu"]},
            "^activation must name one activation for each of 2 layers, got ",
        ),
        ({"sizes": [3, 2], "init_std": -1.0}, r"^init_std must be a number greater than 0, got -1\.0$"),
        ({"sizes": [3, 2], "init_std": 0.0}, r"^init_std must be a number greater than 0, got 0\.0$"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        MLP(**arguments)


@pytest.mark.parametrize("call", [MLP.forward, MLP.propagate, autograd.mlp])
def test_a_wrong_width_names_both_sizes(call: Callable[[MLP, Tensor], Any]) -> None:
    with pytest.raises(ArgumentError, match=r"weight must have shape \(O, I\) with I = 5 as in x, got \(3, 4\)"):
        call(MLP([4, 3]), torch.zeros(2, 5))


# ---- hooks, parametrisations, pruning -----------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0, 1, 2, 3, None])
@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_that_changes_something_makes_propagate_refuse(where: int | None, register: str) -> None:
    network, x = MLP([4, 3, 2], "tanh"), torch.randn(5, 4)
    module = network if where is None else network[where]
    if register == "register_forward_hook":
        module.register_forward_hook(lambda module, args, output: 2 * output)
    else:
        module.register_forward_pre_hook(lambda module, args: (2 * args[0], *args[1:]))
    with pytest.raises(
        ArgumentError, match=r"^network must have no hook that changes a layer's input or output, got one"
    ):
        network.propagate(x)


def test_a_hook_that_looks_on_is_called_once_and_changes_nothing() -> None:
    network, x, seen = MLP([4, 3, 2], "tanh"), torch.randn(5, 4), []
    before = network.propagate(x)
    for layer in network:
        layer.register_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    for ours, theirs in zip(network.propagate(x), before, strict=True):
        assert torch.equal(ours.z, theirs.z)
    assert seen == ["Linear", "Activation"] * 2
    autograd.mlp(network, x)
    network(x)
    assert seen == ["Linear", "Activation"] * 6


class Doubled(nn.Module):
    """A parametrisation that counts how often it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.reads += 1
        return 2 * weight


def doubled(*names: str) -> Callable[[nn.Sequential | MLP], object]:
    return lambda model: [parametrize.register_parametrization(model[0], name, Doubled()) for name in names]


def pruned(*names: str) -> Callable[[nn.Sequential | MLP], object]:
    return lambda model: [prune.random_unstructured(model[2], name, 0.5) for name in names]


def hooked(model: nn.Sequential | MLP) -> object:
    model[1].register_forward_hook(lambda module, args, z: z**2)
    return model[2].register_forward_pre_hook(lambda module, args: (3 * args[0], *args[1:]))


MODIFICATIONS: dict[str, Callable[[Any], object]] = {
    "prune the weight": pruned("weight"),
    "prune both": pruned("weight", "bias"),
    "weight_norm": lambda model: weight_norm(model[2]),
    "weight_norm as a parametrisation": lambda model: weight_parametrization(model[2]),
    "spectral_norm": lambda model: spectral_norm(model[0]),
    "spectral_norm as a parametrisation": lambda model: spectral_parametrization(model[0]),
    "parametrize the weight": doubled("weight"),
    "parametrize both": doubled("weight", "bias"),
    "hooks that change something": hooked,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("name", MODIFICATIONS)
def test_a_modification_acts_on_outputs_and_gradients_as_on_torchs_modules(device: torch.device, name: str) -> None:
    network = MLP([6, 5, 4, 3], "tanh", dtype=torch.float64, device=device)
    twin = network.to_sequential()
    for model in (network, twin):
        torch.manual_seed(5)  # what is pruned, or where the power iteration starts
        MODIFICATIONS[name](model)
    twin.load_state_dict(network.state_dict())
    x, incoming = (torch.randn(7, k, dtype=torch.float64, device=device) for k in (6, 3))
    assert not network.plain
    for training in (True, False, True):
        network.train(training)
        twin.train(training)
        leaf, theirs_leaf = x.clone().requires_grad_(), x.clone().requires_grad_()
        output, theirs = autograd.mlp(network, leaf), twin(theirs_leaf)
        assert_close(output.detach(), theirs.detach())
        ours = torch.autograd.grad(output, [leaf, *network.parameters()], incoming)
        expected = torch.autograd.grad(theirs, [theirs_leaf, *twin.parameters()], incoming)
        for our, their in zip(ours, expected, strict=True):
            assert_close(our, their)


@pytest.mark.parametrize("call", [MLP.__call__, MLP.propagate, autograd.mlp])
def test_a_parametrisation_is_read_once_per_forward_pass(call: Callable[[MLP, Tensor], Any]) -> None:
    network = MLP([4, 3, 2], "tanh")
    doubled("weight", "bias")(network)
    counters = [network[0].parametrizations[name][0] for name in ("weight", "bias")]
    before = [counter.reads for counter in counters]
    call(network, torch.randn(5, 4))
    assert [counter.reads - reads for counter, reads in zip(counters, before, strict=True)] == [1, 1]


def test_propagate_and_backward_have_the_weights_as_they_were_read() -> None:
    network, x = MLP([4, 3, 2], "tanh", dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    doubled("weight")(network)
    passes = network.propagate(x)
    found = network.backward(torch.ones(5, 2, dtype=torch.float64), passes)
    assert torch.equal(passes[0].weight, network[0].weight)
    weight = network[0].weight.detach().requires_grad_()
    parameters = [weight, network[0].bias, network[2].weight, network[2].bias]
    expected = torch.autograd.grad(mlp_forward(x, parameters, network.activations)[-1].z.sum(), weight)
    assert_close(found.parameters[0], expected[0])


HOOKS = ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_network_with_a_hook_is_not_plain(hook: str) -> None:
    """``plain`` reads attributes that are torch's own: this fails when one of them goes, or is no longer used."""
    network = MLP([4, 3, 2])
    assert network.plain
    for module in (network, network[0], network[3]):
        handle = getattr(module, f"register_{hook}")(lambda *args: None)
        assert not network.plain
        handle.remove()
        assert network.plain


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_of_all_modules_is_one_of_the_network(hook: str) -> None:
    network = MLP([4, 3, 2])
    handle = getattr(nn.modules.module, f"register_module_{hook}")(lambda *args: None)
    try:
        assert not network.plain
    finally:
        handle.remove()
    assert network.plain


def test_a_network_with_a_layer_that_has_a_forward_of_its_own_is_not_plain() -> None:
    network = MLP([4, 2])
    network[0].forward = lambda x, function: 2 * function(x, network[0].weight, network[0].bias)
    assert not network.plain
    network = MLP([3, 2])
    network.forward = lambda x: x
    assert not network.plain


@pytest.mark.parametrize("name", ["prune the weight", "parametrize both", "hooks that change something"])
def test_only_a_plain_network_is_copied_to_a_sequential(name: str) -> None:
    network = MLP([6, 5, 4, 3])
    MODIFICATIONS[name](network)
    with pytest.raises(ArgumentError, match=r"^network must have no hook, parametrisation, pruning or forward"):
        network.to_sequential()


def test_a_sequential_that_computes_something_else_is_not_copied() -> None:
    class Twice(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    for name in ("prune the weight", "hooks that change something"):
        model = MLP([6, 5, 4, 3]).to_sequential()
        MODIFICATIONS[name](model)
        with pytest.raises(ArgumentError, match=r"^model must have no hook and no pruning to be copied, got one$"):
            MLP.from_sequential(model)
    with pytest.raises(ArgumentError, match=r"^model\[0\] must be a Linear with a bias, .*, got Twice"):
        MLP.from_sequential(nn.Sequential(Twice(4, 3)))
    mixed = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2).double())
    with pytest.raises(
        ArgumentError, match=r"^model must have parameters of one dtype on one device, got torch\.float32 on cpu and "
    ):
        MLP.from_sequential(mixed)
    with pytest.raises(ArgumentError, match=r"^model must be a torch\.nn\.Sequential, got Linear$"):
        MLP.from_sequential(nn.Linear(4, 3))  # type: ignore[arg-type]
    model = MLP([6, 5, 4, 3]).to_sequential()
    MODIFICATIONS["parametrize both"](model)  # its weights are what it computes with
    x = torch.randn(5, 6)
    assert_close(MLP.from_sequential(model)(x).detach(), model(x).detach())


def test_backpropagation_needs_the_passes_of_every_layer() -> None:
    network = MLP([4, 3, 3, 3])
    with pytest.raises(ArgumentError, match=r"^passes must be one for each of 3 layers, got 2$"):
        network.backward(torch.ones(5, 3), network.propagate(torch.randn(5, 4))[1:])


def test_a_network_with_a_layer_of_another_kind_is_not_plain() -> None:
    network = MLP([4, 3, 2])
    network[0].requires_grad_(False)
    assert network.plain

    class Linear(type(network[0])):  # type: ignore[misc]
        """One that may do something else."""

    network[2].__class__ = Linear
    assert not network.plain
    network = MLP([4, 3, 2])
    network.add_module("1", nn.ReLU())
    assert not network.plain


# ---- the bank of perceptrons --------------------------------------------------------------------------------------


def problem(n: int, n_features: int, n_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, n_features), generator=generator).double()
    return x, torch.randint(0, n_classes, (n,), generator=generator)


@pytest.mark.parametrize("bipolar", [False, True])
@pytest.mark.parametrize(("n_classes", "n_units"), [(2, 1), (5, 5)])
def test_the_bank_learns_as_the_rule_says_and_averages_every_weight(
    device: torch.device, bipolar: bool, n_classes: int, n_units: int
) -> None:
    x, labels = (t.to(device) for t in problem(150, 7, n_classes, seed=3))
    bank = PerceptronBank(7, n_units, bipolar=bipolar, dtype=torch.float64, device=device)
    errors = torch.cat([bank.learn_(x[:70], labels[:70], lr=0.5), bank.learn_(x[70:], labels[70:], lr=0.5)])
    # the definition: one sample at a time, and the plain mean of all weights
    weight, bias = torch.zeros(n_units, 7, dtype=torch.float64), torch.zeros(n_units, dtype=torch.float64)
    weights, biases, expected = [], [], []
    for x_n, label in zip(x.cpu(), labels.cpu(), strict=True):
        high = (torch.arange(n_units) == label) if n_units > 1 else label[None] == 1
        d = high.double() * 2 - 1 if bipolar else high.double()
        error, weight, bias = perceptron_rule(x_n[None], d[None], weight, bias, 0.5, bipolar_step if bipolar else step)
        weights.append(weight)
        biases.append(bias)
        expected.append(error)
    assert torch.equal(errors.cpu(), torch.cat(expected))
    assert torch.equal(bank.weight.cpu(), weight)
    assert torch.equal(bank.bias.cpu(), bias)
    mean_weight, mean_bias = bank.averaged()
    torch.testing.assert_close(mean_weight.cpu(), torch.stack(weights).mean(0), rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(mean_bias.cpu(), torch.stack(biases).mean(0), rtol=1e-12, atol=1e-9)
    assert bank.n_samples == 150
    assert not bank.weight.requires_grad
    for given, (w, b) in (
        ((), (bank.weight, bank.bias)),
        ((False,), (bank.weight, bank.bias)),
        ((True,), bank.averaged()),
    ):
        u = bank(x, *given)
        assert_close(u, x @ w.T + b)
        assert torch.equal(bank.predict(x, *given), u.argmax(1) if n_units > 1 else (u[:, 0] >= 0).long())


@pytest.mark.cuda
def test_on_integers_cuda_equals_the_cpu_update_for_update() -> None:
    x, labels = problem(2000, 31, 10, seed=0)
    banks = [PerceptronBank(31, 10, dtype=torch.float64, device=d) for d in ("cpu", "cuda")]
    errors = [b.learn_(x.to(b.weight.device), labels.to(b.weight.device), lr=1.0).cpu() for b in banks]
    assert torch.equal(*errors)
    for name, value in banks[0].state_dict().items():
        assert torch.equal(banks[1].state_dict()[name].cpu(), value), name


def test_prediction_of_one_unit_and_of_a_bank(device: torch.device) -> None:
    one = PerceptronBank(2, 1, device=device)
    one.load_state_dict(one.state_dict() | {"weight": torch.tensor([[1.0, -1.0]])})
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], device=device)  # u = 1, −1, 0
    assert one.predict(x).tolist() == [1, 0, 1]
    bank = PerceptronBank(2, 3, device=device)
    bank.load_state_dict(bank.state_dict() | {"weight": torch.tensor([[-9.0, 0.0], [1.0, 2.0], [2.0, 1.0]])})
    # the surest "no" of unit 0 must not win, and a tie goes to the first
    assert bank.predict(x).tolist() == [2, 1, 1]


def test_the_average_before_any_sample_is_the_start() -> None:
    weight, bias = PerceptronBank(3, 2).averaged()
    assert not weight.any()
    assert not bias.any()


@pytest.mark.parametrize(
    ("labels", "lr", "message"),
    [
        (torch.tensor([0, 3]), 1.0, "^labels must hold labels from 0 to 2, got 3$"),
        (torch.tensor([0.0, 1.0]), 1.0, "^labels must hold class labels as int64, got float32$"),
        (torch.tensor([0]), 1.0, r"^labels must have shape \(N,\) with N = 2, got \(1,\)$"),
        (torch.tensor([0, 1]), 0.0, r"^lr must be a number greater than 0, got 0\.0$"),
    ],
)
def test_bad_arguments_change_nothing(device: torch.device, labels: Tensor, lr: float, message: str) -> None:
    bank = PerceptronBank(2, 3, device=device)
    with pytest.raises(ArgumentError, match=message):
        bank.learn_(torch.ones(2, 2, device=device), labels.to(device), lr)
    assert not bank.weight.any()
    assert bank.n_samples == 0


def test_a_bank_records_nothing_of_samples_that_require_a_gradient() -> None:
    bank = PerceptronBank(2, 3)
    bank.learn_(torch.ones(2, 2, requires_grad=True), torch.tensor([1, 2]), lr=1.0)
    assert bank.weight.any()
    assert not any(value.requires_grad for value in (*bank.parameters(), *bank.buffers()))


def test_a_bank_is_as_it_was_where_storing_is_broken_off() -> None:
    bank = PerceptronBank(3, 2, dtype=torch.float64)
    x, labels = problem(20, 3, 2, seed=1)
    bank.learn_(x, labels, lr=1.0)
    before = {name: value.clone() for name, value in bank.state_dict().items()}
    error = torch.ones(20, 2, dtype=torch.float64)
    with pytest.raises(IndexError):  # after the changes of ten samples; Ctrl-C would do the same
        bank.store_(error, bank.weight + 1, bank.bias + 1, x[:10], 1.0)
    for name, value in bank.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("sizes", [(0, 1), (3, 0)])
def test_a_bank_of_nothing_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ArgumentError, match=r"^n_(features|units) must be a whole number of at least 1, got 0$"):
        PerceptronBank(*sizes)


def test_a_single_unit_learns_labels_0_and_1_alone() -> None:
    with pytest.raises(ArgumentError, match=r"^labels must hold labels from 0 to 1, got 2$"):
        PerceptronBank(2, 1).learn_(torch.ones(1, 2), torch.tensor([2]), lr=1.0)
