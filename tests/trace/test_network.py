"""Every number of a traced network against the chapter and torch.autograd, and every origin against its number."""

import itertools
import math
import random
import re

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nnlab.ops import ACTIVATIONS, LOSSES
from nnlab.trace.command import EXAMPLES
from nnlab.trace.description import read_description
from nnlab.trace.network import NetworkTrace, trace_network
from nnlab.trace.notation import Row, Writer
from nnlab.trace.tables import FORMULAS, FUNCTIONS
from nnlab.trace.words import ERRORS, OUTPUTS, SLOPES
from tests.tolerances import assert_close

EXACT = Writer(17)
TORCHS = {"identity": lambda u: u, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}


def trace_of(content: object, write: Writer = EXACT) -> NetworkTrace:
    return trace_network(read_description(content), write)


def random_network(seed: int) -> dict:
    """A small network of any depth, activations, error and number of samples."""
    draw = random.Random(seed)
    sizes = [draw.randint(1, 5) for _ in range(draw.randint(2, 5))]
    loss = sorted(LOSSES)[seed % 3]
    names = [draw.choice(sorted(ACTIVATIONS)) for _ in sizes[1:]]
    n = draw.randint(1, 4)

    def matrix(rows: int, columns: int) -> list[list[float]]:
        return [[draw.gauss(0, 1) for _ in range(columns)] for _ in range(rows)]

    targets = matrix(n, sizes[-1])
    if loss == "binary_cross_entropy":
        names[-1] = draw.choice(["identity", "sigmoid"])
        targets = [[draw.choice([0, 1, 0.25]) for _ in row] for row in targets]
    if loss == "softmax_cross_entropy":
        names[-1] = draw.choice(["identity", "softmax"])
        targets = [draw.randrange(sizes[-1]) for _ in targets]
    return {
        "weights": [matrix(1 + i, o) for i, o in itertools.pairwise(sizes)],
        "activations": names,
        "inputs": matrix(n, sizes[0]),
        "targets": targets,
        "loss": loss,
    }


def autograds(content: dict) -> dict[tuple, float]:
    """Every number by torch and its autograd alone: (name, sample, layer, unit, input) -> value."""
    f64 = torch.float64
    weights = [torch.tensor(w, dtype=f64, requires_grad=True) for w in content["weights"]]
    loss = content.get("loss", "sum_of_squares")
    inputs = torch.tensor(content["inputs"], dtype=f64)
    o, us, zs = (inputs if inputs.ndim == 2 else inputs[None]), [], []
    ones = torch.ones(len(o), 1, dtype=f64)
    for w, name in zip(weights, content["activations"], strict=True):
        u = torch.hstack([ones, o]) @ w
        u.retain_grad()
        own = loss != "sum_of_squares" and w is weights[-1]
        o = u if own else TORCHS[name](u)
        us.append(u)
        zs.append(o)
    if loss == "sum_of_squares":
        errors = 0.5 * ((o - torch.tensor(content["targets"], dtype=f64).reshape(o.shape)) ** 2).sum(1)
    elif loss == "binary_cross_entropy":
        t = torch.tensor(content["targets"], dtype=f64).reshape(o.shape)
        errors = functional.binary_cross_entropy_with_logits(o, t, reduction="none").sum(1)
        zs[-1] = torch.sigmoid(o)
    else:
        errors = functional.cross_entropy(o, torch.tensor(content["targets"]), reduction="none")
        zs[-1] = torch.softmax(o, 1)
    errors.sum().backward()
    found: dict[tuple, float] = {("E", None, None, None, None): errors.sum().item()}
    found |= {("E", n, None, None, None): e.item() for n, e in enumerate(errors, 1)}

    def note(name: str, k: int, values: Tensor) -> None:
        found.update({(name, n + 1, k, j + 1, None): values[n, j].item() for n, j in _places(values)})

    for k, (u, z, w) in enumerate(zip(us, zs, weights, strict=True), 1):
        note("u", k, u)
        note("y" if k == len(us) else "z", k, z)
        note("delta", k, u.grad)
        found.update({("dE/dw", None, k, j + 1, i): w.grad[i, j].item() for i, j in _places(w)})
    return found


def _places(values: Tensor) -> list[tuple[int, int]]:
    return [(a, b) for a in range(values.shape[0]) for b in range(values.shape[1])]


def key(row: Row) -> tuple:
    return row.name, row.sample, row.layer, row.unit, row.input


def assert_rows_are_autograds(content: dict) -> None:
    rows, expected = trace_of(content).rows, autograds(content)
    found = {key(row): row.value for row in rows}
    assert len(found) == len(rows)
    if len(trace_of(content).errors) == 1:
        expected.pop(("E", None, None, None, None))
    assert found.keys() == expected.keys()
    for name in {k[0] for k in expected}:
        mine, theirs = ([d[k] for k in expected if k[0] == name] for d in (found, expected))
        assert_close(torch.tensor(mine, dtype=torch.float64), torch.tensor(theirs, dtype=torch.float64))


def test_worked_example_in_the_chapters_digits() -> None:
    trace = trace_of(EXAMPLES["chapter"])
    for found, printed, half in [
        (trace.u[0], [[0.7, 1.0]], 1e-12),
        (trace.outputs[1], [[0.60, 0.76]], 0.005),
        (trace.u[1], [[-1.48]], 0.005),
        (trace.outputs[2], [[-0.90]], 0.005),
        (trace.u[2], [[-0.80]], 0.005),
        (trace.outputs[3], [[-0.666]], 0.0005),
        (trace.deltas[2], [[-0.927]], 0.0005),
        (trace.deltas[1], [[-0.347]], 0.0005),
        (trace.deltas[0], [[-0.220, 0.438]], 0.0005),
        (trace.gradients[0], [[-0.22, 0.44], [-0.44, 0.88]], 0.005),
        (trace.gradients[1], [[-0.35], [-0.21], [-0.26]], 0.005),
        (trace.gradients[2], [[-0.93], [0.84]], 0.005),
    ]:
        torch.testing.assert_close(found, torch.tensor(printed, dtype=torch.float64), rtol=0, atol=half)


def test_worked_example_is_autograds() -> None:
    assert_rows_are_autograds(EXAMPLES["chapter"])


@pytest.mark.parametrize("seed", range(30))
def test_every_number_of_a_random_network_is_autograds(seed: int) -> None:
    assert_rows_are_autograds(random_network(seed))


def value_of(origin: str) -> float:
    """What an origin works out to, as a reader with a calculator would find it."""
    text = origin.translate(str.maketrans({"·": "*", "−": "-", "[": "(", "]": ")"}))
    text = text.replace("²", "**2").replace("½", "0.5").replace("e^", "e**").replace("σ", "sigma")
    text = re.sub(r"ln sigma\(([^)]*)\)", r"ln(sigma(\1))", text)
    names = {"tanh": math.tanh, "ln": math.log, "max": max, "e": math.e, "sigma": lambda u: 1 / (1 + math.exp(-u))}
    return float(eval(text, {"__builtins__": {}}, names))


@pytest.mark.parametrize("seed", range(30))
def test_every_origin_works_out_to_its_number(seed: int) -> None:
    for row in trace_of(random_network(seed)).rows:
        assert value_of(row.origin) == pytest.approx(row.value, rel=1e-12, abs=1e-13), row


def test_origins_in_few_digits_work_out_to_the_digits_shown() -> None:
    for row in trace_of(EXAMPLES["chapter"], Writer(4)).rows:
        assert value_of(row.origin) == pytest.approx(row.value, rel=2e-3), row


def test_equations() -> None:
    numbers = {(row.name, row.layer): row.equation for row in trace_of(EXAMPLES["chapter"]).rows}
    assert [numbers["u", k] for k in (1, 2, 3)] == ["3.1", "3.1", "3.3"]
    assert [numbers["z", 1], numbers["z", 2], numbers["y", 3]] == ["3.2", "3.2", "3.4"]
    assert [numbers["delta", k] for k in (3, 2, 1)] == ["3.11", "3.17", "3.17"]
    assert {numbers["dE/dw", k] for k in (1, 2, 3)} == {"3.9"}
    assert numbers["E", None] == "3.10"


def test_one_layer_starts_from_the_inputs() -> None:
    content = {"weights": [[[0.5], [2.0]]], "activations": ["identity"], "inputs": [3], "targets": [1]}
    rows = {row.name: row for row in trace_of(content, Writer(4)).rows if row.input in (None, 1)}
    assert (rows["u"].equation, rows["u"].origin, rows["u"].value) == ("3.1", "0.5·1 + 2·3", 6.5)
    assert (rows["delta"].origin, rows["delta"].value) == ("(6.5 − 1)·1", 5.5)
    assert (rows["dE/dw"].symbol, rows["dE/dw"].origin, rows["dE/dw"].value) == ("∂E/∂w₁₁⁽¹⁾", "5.5·3", 16.5)


def test_cross_entropy_of_large_potentials_is_finite() -> None:
    for loss, targets in (("binary_cross_entropy", [[0.0, 1.0]]), ("softmax_cross_entropy", [0])):
        content = {
            "weights": [[[0.0, 0.0], [1e4, 2e4]]],
            "activations": ["identity"],
            "inputs": [1],
            "targets": targets,
            "loss": loss,
        }
        assert trace_of(content).error.item() == 1e4


def test_random_weights_come_from_the_seed_alone() -> None:
    content = {"sizes": [2, 3, 1], "inputs": [1, 2], "targets": [1]}
    first, again, other = (trace_of({**content, "seed": seed}) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.gradients, again.gradients, strict=True))
    assert not torch.equal(first.gradients[0], other.gradients[0])


def test_every_function_has_its_words() -> None:
    assert set(OUTPUTS) == {*ACTIVATIONS, "softmax"} == set(FUNCTIONS)
    assert set(SLOPES) == set(ACTIVATIONS)
    assert set(ERRORS) == set(LOSSES)
    used = {row.equation for seed in range(30) for row in trace_of(random_network(seed)).rows}
    assert used | {"§3.2", "§3.2.1"} == set(FORMULAS)
