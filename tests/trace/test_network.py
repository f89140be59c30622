"""Every number of a traced network against torch.autograd and the chapter, and every origin against its number."""

import itertools
import math
import random
import re

import pytest
import torch
from torch import Tensor, nn

from nnlab.ops import ACTIVATIONS, LOSSES, Activation, Loss
from nnlab.trace import trace
from nnlab.trace.network import NetworkTrace
from tests.tolerances import assert_close

F64 = torch.float64


def trace_of(content: dict, digits: int = 17) -> NetworkTrace:
    found = trace(content, digits=digits)
    assert isinstance(found, NetworkTrace)
    return found


def random_network(seed: int, loss: str, activation: str) -> dict:
    """A network of any depth and number of samples, with the activation in its first layer."""
    draw = random.Random(seed)
    sizes = [draw.randint(1, 5) for _ in range(draw.randint(2, 5))]
    names = [activation, *draw.choices(sorted(ACTIVATIONS), k=len(sizes) - 2)]
    n, row = draw.randint(1, 4), LOSSES[loss]

    def matrix(rows: int, columns: int) -> list[list[float]]:
        return [[draw.gauss(0, 1) for _ in range(columns)] for _ in range(rows)]

    targets: list = matrix(n, sizes[-1])
    if row.bounds is not None:
        targets = [[draw.choice([0, 1, 0.25]) for _ in line] for line in targets]
    if row.target == "labels":
        targets = [draw.randrange(sizes[-1]) for _ in targets]
    if row.output_name != "identity":
        names[-1] = draw.choice(["identity", row.output_name])
    return {
        "weights": [matrix(1 + i, o) for i, o in itertools.pairwise(sizes)],
        "activations": names,
        "inputs": matrix(n, sizes[0]),
        "targets": targets,
        "loss": loss,
    }


def autograds(content: dict) -> dict[tuple, float]:
    """Every number by torch and its autograd alone: (name, sample, layer, unit, input) -> value."""
    weights = [torch.tensor(w, dtype=F64, requires_grad=True) for w in content["weights"]]
    row = LOSSES[content["loss"]]
    o, us, zs = torch.tensor(content["inputs"], dtype=F64), [], []
    ones = torch.ones(len(o), 1, dtype=F64)
    for w, name in zip(weights, content["activations"], strict=True):
        u = torch.hstack([ones, o]) @ w
        u.retain_grad()
        own = row.output_name != "identity" and w is weights[-1]
        o = u if own else ACTIVATIONS[name].module()(u)
        us.append(u)
        zs.append(o)
    targets = torch.tensor(content["targets"], dtype=torch.int64 if row.target == "labels" else F64)
    errors = row.reference(o, targets)
    zs[-1] = {"sigmoid": torch.sigmoid, "softmax": nn.Softmax(1), "exp": torch.exp}.get(row.output_name, nn.Identity())(
        o
    )
    errors.sum().backward()
    found: dict[tuple, float] = {("E", n, None, None, None): e.item() for n, e in enumerate(errors, 1)}
    if len(errors) > 1:
        found["E", None, None, None, None] = errors.sum().item()

    def note(name: str, k: int, values: Tensor) -> None:
        found.update({(name, n + 1, k, j + 1, None): values[n, j].item() for n, j in _places(values)})

    for k, (u, z, w) in enumerate(zip(us, zs, weights, strict=True), 1):
        note("u", k, u)
        note("y" if k == len(us) else "z", k, z)
        note("delta", k, u.grad)
        found.update({("dE/dw", None, k, j + 1, i): w.grad[i, j].item() for i, j in _places(w)})
    return found


def _places(values: Tensor) -> list[tuple[int, int]]:
    return list(itertools.product(*map(range, values.shape)))


def value_of(origin: str) -> float:
    """What an origin works out to, as a reader with a calculator would find it."""
    text = origin.translate(str.maketrans({"·": "*", "−": "-", "[": "(", "]": ")"}))
    text = text.replace("²", "**2").replace("½", "0.5").replace("e^", "e**").replace("ln σ(", "lnσ(")
    text = re.sub(r"ln ([\d.e-]+)", r"ln(\1)", text)
    names = {
        "e": math.e,
        "ln": math.log,
        "lnσ": lambda u: -math.log1p(math.exp(-u)),
        "tanh": math.tanh,
        "cosh": math.cosh,
        "max": max,
        "Φ": lambda u: math.erfc(-u / math.sqrt(2)) / 2,
        "φ": lambda u: math.exp(-u * u / 2) / math.sqrt(2 * math.pi),
    }
    return float(eval(text, {"__builtins__": {}}, names))


def check(content: dict) -> None:
    found, expected = trace_of(content), autograds(content)
    values = {(row.name, row.sample, row.layer, row.unit, row.input): row.value for row in found.rows}
    assert len(values) == len(found.rows)
    assert values.keys() == expected.keys()
    for name in {key[0] for key in expected}:
        mine, theirs = ([d[key] for key in expected if key[0] == name] for d in (values, expected))
        assert_close(torch.tensor(mine, dtype=F64), torch.tensor(theirs, dtype=F64))
    for row in found.rows:
        assert value_of(row.origin) == pytest.approx(row.value, rel=1e-11, abs=1e-12), row
        assert "+ −" not in row.origin
    assert {row.equation for row in found.rows} <= found.legend().keys()
    assert set(found.activations) <= found.legend().keys()


PAIRS = list(itertools.product(sorted(LOSSES), sorted(ACTIVATIONS)))


@pytest.mark.parametrize("seed", range(len(PAIRS)), ids=lambda k: "-".join(PAIRS[k]))
def test_every_number_is_autograds_and_every_origin_works_out(seed: int) -> None:
    check(random_network(seed, *PAIRS[seed]))


def test_a_made_up_activation_and_made_up_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        ACTIVATIONS,
        "softsign",
        Activation(
            forward=lambda u: u / (1 + u.abs()),
            backward=lambda grad_z, u: grad_z / (1 + u.abs()) ** 2,
            saves="u",
            module=nn.Softsign,
            initial_std=lambda n_in, n_out: 1.0,
            formula="{u} / (1 + max({u}, −{u}))",
            slope="(1 / (1 + max({u}, −{u}))²)",
        ),
    )

    def log_cosh(y: Tensor, t: Tensor) -> Tensor:
        return torch.log(torch.cosh(y - t)).sum(1)

    def poisson(u: Tensor, t: Tensor) -> Tensor:
        return (torch.exp(u) - t * u).sum(1)

    monkeypatch.setitem(
        LOSSES,
        "log_cosh",
        Loss(
            forward=lambda y, t: log_cosh(y, t).sum(),
            backward=lambda grad_E, y, t: grad_E * torch.tanh(y - t),
            errors=log_cosh,
            reference=log_cosh,
            target="values",
            formula="Eₙ = Σⱼ ln cosh(yⱼ − tⱼ)",
            term="ln(cosh({y} − {t}))",
            delta="tanh({y} − {t})",
        ),
    )
    monkeypatch.setitem(
        LOSSES,
        "poisson",
        Loss(
            forward=lambda u, t: poisson(u, t).sum(),
            backward=lambda grad_E, u, t: grad_E * (torch.exp(u) - t),
            errors=poisson,
            reference=poisson,
            target="values",
            formula="Eₙ = Σⱼ (e^uⱼ − tⱼ uⱼ)",
            term="e^{u} − {t}·{u}",
            output=torch.exp,
            output_name="exp",
            output_formula="e^{u}",
        ),
    )
    for seed, loss in enumerate(("log_cosh", "poisson") * 4):
        content = random_network(seed, loss, "softsign")
        check(content)
        text = " ".join(repr(trace_of(content, 4)).split())
        assert "softsign h(u) = u / (1 + max(u, −u)), h′(u) = (1 / (1 + max(u, −u))²)" in text
        assert "(–)" in text
        assert ("exp yₖ = e^uₖ" in text) == (loss == "poisson")
    assert trace_of(content).activations[-1] == "exp"


def test_worked_example_in_the_chapters_digits() -> None:
    found = trace("chapter")
    for value, printed, half in [
        (found.u[0], [[0.7, 1.0]], 1e-12),
        (found.z[0], [[0.60, 0.76]], 0.005),
        (found.u[1], [[-1.48]], 0.005),
        (found.z[1], [[-0.90]], 0.005),
        (found.u[2], [[-0.80]], 0.005),
        (found.y, [[-0.666]], 0.0005),
        (found.delta[2], [[-0.927]], 0.0005),
        (found.delta[1], [[-0.347]], 0.0005),
        (found.delta[0], [[-0.220, 0.438]], 0.0005),
        (found.gradients[0], [[-0.22, 0.44], [-0.44, 0.88]], 0.005),
        (found.gradients[1], [[-0.35], [-0.21], [-0.26]], 0.005),
        (found.gradients[2], [[-0.93], [0.84]], 0.005),
    ]:
        torch.testing.assert_close(value, torch.tensor(printed, dtype=F64), rtol=0, atol=half)
    for row in found.rows:
        assert value_of(row.origin) == pytest.approx(row.value, rel=2e-3), row
    numbers = {(row.name, row.layer): row.equation for row in found.rows}
    assert [numbers["u", k] for k in (1, 2, 3)] == ["3.1", "3.1", "3.3"]
    assert [numbers["z", 1], numbers["z", 2], numbers["y", 3]] == ["3.2", "3.2", "3.4"]
    assert [numbers["delta", k] for k in (3, 2, 1)] == ["3.11", "3.17", "3.17"]
    assert {numbers["dE/dw", k] for k in (1, 2, 3)} == {"3.9"}
    assert numbers["E", None] == "3.10"


def test_one_layer_starts_from_the_inputs() -> None:
    content = {"weights": [[[0.5], [2.0]]], "activations": ["identity"], "inputs": [3], "targets": [1]}
    rows = {row.name: row for row in trace_of(content, 4).rows if row.input in (None, 1)}
    assert (rows["u"].equation, rows["u"].origin, rows["u"].value) == ("3.1", "0.5·1 + 2·3", 6.5)
    assert (rows["delta"].origin, rows["delta"].value) == ("(6.5 − 1)·1", 5.5)
    assert (rows["dE/dw"].symbol, rows["dE/dw"].origin, rows["dE/dw"].value) == ("∂E/∂w₁₁⁽¹⁾", "5.5·3", 16.5)


@pytest.mark.parametrize("loss", [name for name, row in LOSSES.items() if row.output_name != "identity"])
def test_cross_entropy_of_large_potentials_is_finite(loss: str) -> None:
    targets = [0] if LOSSES[loss].target == "labels" else [[0.0, 1.0]]
    content = {"weights": [[[0, 0], [1e4, 2e4]]], "inputs": [1], "targets": targets, "loss": loss}
    assert trace_of(content).E.item() == 1e4


def test_random_weights_come_from_the_seed_alone() -> None:
    content = {"sizes": [2, 3, 1], "inputs": [1, 2], "targets": [1]}
    first, again, other = (trace_of({**content, "seed": seed}) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.gradients, again.gradients, strict=True))
    assert not torch.equal(first.gradients[0], other.gradients[0])
