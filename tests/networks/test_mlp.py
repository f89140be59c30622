"""The MLP: the chapter's worked example, its twin of torch modules, every gradient, and its refusals."""

import itertools

import pytest
import torch
from torch import nn

from nnlab.networks import MLP
from nnlab.ops import ACTIVATIONS, sum_of_squares_backward
from nnlab.validation import ArgumentError
from tests.tolerances import assert_as_precise, assert_close

SHAPES = [[3, 2], [7, 5, 3], [5, 11, 2, 7], [4, 3, 3, 3, 2]]


def chapters_network(device: torch.device) -> MLP:
    """The worked example of section 3.3, tanh everywhere; the chapter's matrices have the bias as first row."""
    network = MLP([1, 2, 1, 1], ["tanh", "tanh", "tanh"], dtype=torch.float64, device=device)
    w1 = torch.tensor([[0.1, 0.2], [0.3, 0.4]], dtype=torch.float64)
    w2 = torch.tensor([[0.2], [1.0], [-3.0]], dtype=torch.float64)
    w3 = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    state = {}
    for key, w in zip("024", (w1, w2, w3), strict=True):
        state[f"{key}.weight"], state[f"{key}.bias"] = w[1:].T, w[0]
    network.load_state_dict(state)
    return network


def test_worked_example_of_the_chapter(device: torch.device) -> None:
    network = chapters_network(device)
    x, t = (
        torch.tensor([[2.0]], dtype=torch.float64, device=device),
        torch.ones(1, 1, dtype=torch.float64, device=device),
    )
    cache = network.forward(x)
    z1, z2, y = (o.cpu() for o in cache[1:])
    half = 0.005  # the chapter prints two decimals, three for delta and y
    torch.testing.assert_close(z1, torch.tensor([[0.60, 0.76]], dtype=torch.float64), rtol=0, atol=half)
    torch.testing.assert_close(z2, torch.tensor([[-0.90]], dtype=torch.float64), rtol=0, atol=half)
    # u3 = −0.80 to two decimals and tanh(u3) = −0.666
    torch.testing.assert_close(y, torch.tensor([[-0.666]], dtype=torch.float64), rtol=0, atol=0.0005)
    one = torch.ones((), dtype=torch.float64, device=device)
    gradients = network.backward(sum_of_squares_backward(one, cache[-1], t), cache).parameters
    w1, b1, w2, b2, w3, b3 = (g.cpu() for g in gradients)
    for found, printed in [
        (torch.vstack([b1, w1.T]), [[-0.22, 0.44], [-0.44, 0.88]]),
        (torch.vstack([b2, w2.T]), [[-0.35], [-0.21], [-0.26]]),
        (torch.vstack([b3, w3.T]), [[-0.93], [0.84]]),
    ]:
        torch.testing.assert_close(found, torch.tensor(printed, dtype=torch.float64), rtol=0, atol=half)
    deltas = torch.cat([b3, b2, b1])  # ∂E/∂b is δ for one sample
    printed = torch.tensor([-0.927, -0.347, -0.220, 0.438], dtype=torch.float64)
    torch.testing.assert_close(deltas, printed, rtol=0, atol=0.0005)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("n", [1, 13])
def test_gradients_are_those_of_the_twin(
    device: torch.device, dtype: torch.dtype, sizes: list[int], activation: str, n: int
) -> None:
    network = MLP(sizes, [activation] * (len(sizes) - 1), dtype=dtype, device=device, init_std=0.7)
    twin = network.to_sequential()
    x = torch.randn(n, sizes[0], dtype=dtype, device=device)
    x[:, 0] = 0  # an exact zero
    cotangent = torch.randn(n, sizes[-1], dtype=dtype, device=device)
    cache = network.forward(x)
    found = network.backward(cotangent, cache, with_input=True)
    twins_x = x.clone().requires_grad_()
    y = twin(twins_x)
    expected = torch.autograd.grad(y, [twins_x, *twin.parameters()], cotangent)
    assert_close(cache[-1], y.detach())
    assert found.x is not None
    for ours, theirs in zip((found.x, *found.parameters), expected, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
def test_float32_is_as_precise_as_torch(device: torch.device, activation: str) -> None:
    exact = MLP([31, 17, 13, 5], activation, dtype=torch.float64, device=device)
    x, cotangent = (torch.randn(23, k, dtype=torch.float64, device=device).float().double() for k in (31, 5))
    for p in exact.parameters():
        p.data = p.data.float().double()  # so that both start from the same numbers
    twin = exact.to_sequential()
    references = torch.autograd.grad(twin(x), list(twin.parameters()), cotangent)
    ours = MLP([31, 17, 13, 5], activation, device=device)
    ours.load_state_dict({k: v.float() for k, v in exact.state_dict().items()})
    theirs = ours.to_sequential()
    torchs = torch.autograd.grad(theirs(x.float()), list(theirs.parameters()), cotangent.float())
    found = ours.backward(cotangent.float(), ours.forward(x.float())).parameters
    for a, b, c in zip(found, torchs, references, strict=True):
        assert_as_precise(a, b, c)


def test_state_dict_loads_into_the_twin_and_back(device: torch.device) -> None:
    network = MLP([6, 5, 4], "relu", device=device)
    plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).to(device)
    plain.load_state_dict(network.state_dict())
    x = torch.randn(3, 6, device=device)
    assert_close(network.forward(x)[-1], plain(x).detach())
    other = MLP([6, 5, 4], "relu", device=device)
    other.load_state_dict(plain.state_dict())
    assert torch.equal(other.forward(x)[-1], network.forward(x)[-1])


def test_the_twin_holds_a_copy() -> None:
    network = MLP([2, 3, 1])
    twin = network.to_sequential()
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(1)
    assert all(not torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))


def test_initial_weights_come_from_the_generator_alone(device: torch.device) -> None:
    def draw(seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [p.detach().cpu() for p in MLP([8, 4, 3], generator=generator, device=device).parameters()]

    before = torch.get_rng_state()
    first, again, other = draw(0), draw(0), draw(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


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


def test_nothing_is_recorded_for_autograd() -> None:
    network = MLP([2, 3, 1])
    cache = network.forward(torch.randn(4, 2, requires_grad=True))
    assert not any(o.requires_grad for o in cache[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": [3]}, "sizes must name at least the inputs and the outputs"),
        ({"sizes": [3, 0, 2]}, "sizes must be a whole number of at least 1, got 0"),
        ({"sizes": [3, 2], "activation": "swish"}, "activation must be one of .* got 'swish'"),
        ({"sizes": [3, 2, 1], "activation": ["relu"]}, "activation must name one activation for each of 2 layers"),
        ({"sizes": [3, 2], "init_std": -1.0}, "init_std must be a number greater than 0"),
    ],
)
def test_refusals(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        MLP(**arguments)  # type: ignore[arg-type]


def test_wrong_width_names_both_sizes() -> None:
    with pytest.raises(ArgumentError, match=r"weight must have shape \(O, I\) with I = 5 as in x, got \(3, 4\)"):
        MLP([4, 3]).forward(torch.zeros(2, 5))
