"""The sparse first layer and the compiled steps: the plain loop's results, whatever form the samples come in."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

pytest.importorskip("numba")

from nnlab import compiled, engine
from nnlab.engine import Descent, sparse_kernels
from nnlab.engine.sparse import CompiledSteps, NotCompiledError, SparseInputs, SparseLayer, pays
from nnlab.ops import ACTIVATIONS
from nnlab.validation import ArgumentError
from tests.loops import Problem, assert_all_close, by_the_loop, problem
from tests.pairwise import pairwise
from tests.tolerances import TRAJECTORY, assert_close

DESCENTS = {
    "plain": Descent(0.1),
    "decay": Descent(0.1, weight_decay=0.05),
    "momentum": Descent(0.1, 0.9),
    "both": Descent(0.1, 0.8, 0.05),
}
KNOWN = [name for name, row in ACTIVATIONS.items() if row.ramp is not None or row.logistic is not None]
LOSSES = ["sum_of_squares", "binary_cross_entropy", "softmax_cross_entropy"]


def few_values(x: torch.Tensor) -> torch.Tensor:
    """x with at most 81 distinct values, 0 among them."""
    return x.clamp(-4, 4).mul(10).round() / 10


def inputs_of(x: torch.Tensor, coded: bool) -> SparseInputs:
    """x, where it is not to be coded with samples behind that have more than 256 values."""
    more = torch.zeros(300, x.shape[1]) if coded else torch.randn(300, x.shape[1])
    inputs = SparseInputs(torch.cat([few_values(x) if coded else x, more.to(x.dtype)]))
    assert inputs.coded == coded
    return inputs


def scales(given: Problem, batches: list[torch.Tensor], reduction: str) -> torch.Tensor:
    """What the error of each sample is multiplied by, in the order of the batches."""
    weight = torch.ones(len(given.x), dtype=given.x.dtype) if given.weight is None else given.weight
    parts = [weight[batch] for batch in batches]
    return torch.cat([w / w.sum() for w in parts] if reduction == "mean" else parts)


def by_compiled_steps(
    given: Problem, batches: list[torch.Tensor], descent: Descent, *, reduction: str = "mean", l2: float = 0.0,
    inputs: Any = None,
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor, CompiledSteps]:  # fmt: skip
    parameters = [p.detach().clone() for p in given.network.parameters()]
    velocity = [torch.zeros_like(p) for p in parameters]
    n_outputs, n_units = parameters[2].shape
    inputs = SparseInputs(given.x) if inputs is None else inputs
    steps = CompiledSteps(
        inputs, n_units, n_outputs, given.network.activations, given.loss, given.target, len(batches[0])
    )
    outputs, squares = steps.run_(
        parameters, velocity if descent.momentum else (), torch.cat(batches), scales(given, batches, reduction),
        lr=descent.lr, momentum=descent.momentum, decay=descent.weight_decay, l2=l2,
    )  # fmt: skip
    return parameters, outputs.T, squares * (l2 / 2), steps


@pairwise(
    hidden=KNOWN,
    output=KNOWN,
    loss=LOSSES,
    descent=DESCENTS,
    l2=[0.0, 0.1],
    reduction=["mean", "sum"],
    weighted=[False, True],
    coded=[False, True],
    sizes={"one part": (7, 5, 3), "two parts": (12, 70, 4), "one input": (1, 64, 2), "one output": (9, 130, 1)},
    batch_size=[1, 10, 53],
    dtype=[torch.float32, torch.float64],
)
def test_compiled_steps_are_the_plain_loop(
    hidden, output, loss, descent, l2, reduction, weighted, coded, sizes, batch_size, dtype
):
    given = problem(sizes, [hidden, output], loss, dtype, "cpu", density=0.4, weighted=weighted)
    if coded:
        given = given._replace(x=few_values(given.x))
    if reduction == "sum":
        descent = descent._replace(lr=descent.lr / batch_size)
    batches = list(torch.randperm(53).split(batch_size))
    expected = by_the_loop(given, batches, descent, reduction=reduction, l2=l2)
    parameters, outputs, penalties, steps = by_compiled_steps(
        given, batches, descent, reduction=reduction, l2=l2, inputs=inputs_of(given.x, coded)
    )
    assert_all_close(parameters, expected.parameters, TRAJECTORY[dtype])
    assert_close(outputs, expected.outputs, TRAJECTORY[dtype])
    assert_close(penalties, torch.tensor(expected.penalties, dtype=torch.float64), TRAJECTORY[dtype])
    after = torch.empty(sizes[-1], 53, dtype=dtype)
    steps.outputs_(parameters, after, torch.arange(53))
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(parameters), given.network.parameters())
        assert_close(after.T, given.network(given.x), TRAJECTORY[dtype])


@pairwise(
    descent=DESCENTS,
    coded=[False, True],
    n_inputs=[1, 8, 13],
    n_units=[1, 64, 100],
    batch_size=[7, 300],
    dtype=[torch.float32, torch.float64],
)
def test_the_layer_is_the_plain_product(descent, coded, n_inputs, n_units, batch_size, dtype):
    lr, momentum, decay = descent
    g = torch.Generator().manual_seed(0)
    x = torch.randn(650, n_inputs, generator=g, dtype=dtype) * (torch.rand(650, n_inputs, generator=g) < 0.3)
    x = few_values(x) if coded else x
    weight, bias = torch.randn(n_units, n_inputs, generator=g, dtype=dtype), torch.randn(n_units, dtype=dtype)
    w, v = weight.clone(), torch.zeros_like(weight)
    layer = SparseLayer(inputs_of(x, coded), n_units, batch_size)
    order, gradient = torch.randperm(650, generator=g)[: 2 * batch_size], torch.empty_like(weight)
    velocity = torch.zeros_like(weight)
    with layer.packed(weight, velocity, gradient) as (packed, packed_v, packed_gradient):
        assert layer.gather_(order[: layer.chunk]) == 2
        for b, batch in enumerate(order.split(batch_size)):
            u, delta = torch.empty(len(batch), n_units, dtype=dtype), torch.randn(len(batch), n_units, dtype=dtype)
            layer.net_inputs_(b, packed, bias, u)
            assert_close(u, x[batch] @ w.T + bias, TRAJECTORY[dtype])
            expected = 0.1 * delta.T @ x[batch] + 0.5 * w
            layer.gradient_(b, packed, delta, 0.1, 0.5, packed_gradient)
            step = {"scale": 0.1, "lr": lr, "momentum": momentum, "decay": decay}
            layer.descend_(b, packed, packed_v if momentum else None, delta, **step)
            v = momentum * v + 0.1 * delta.T @ x[batch] + decay * w
            w = w - lr * v
        everything = torch.cat([u.clone() for u in layer.all_net_inputs(packed, bias)])[:650]
    assert_close(everything, x @ w.T + bias, TRAJECTORY[dtype])
    assert_close(gradient, expected, TRAJECTORY[dtype])
    assert_close(weight, w, TRAJECTORY[dtype])
    if momentum:
        assert_close(velocity, v, TRAJECTORY[dtype])


def as_csr(x: torch.Tensor, form: str) -> Any:
    matrix = sparse.csr_array(x.numpy())
    if form == "int64 indices":
        matrix.indices, matrix.indptr = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
    elif form == "explicit zeros":
        matrix = sparse.csr_array(np.where(x.numpy() == 0, 7.0, x.numpy()).astype(x.numpy().dtype))
        matrix.data[matrix.data == 7.0] = 0
    elif form in ("unsorted", "duplicates"):
        coo = matrix.tocoo()
        rows, columns, data = coo.row[::-1], coo.col[::-1], coo.data[::-1]
        if form == "duplicates":  # each value as half of it twice
            rows, columns, data = np.tile(rows, 2), np.tile(columns, 2), np.tile(data / 2, 2)
        order = np.argsort(rows, kind="stable")
        indptr = np.append(0, np.cumsum(np.bincount(rows, minlength=len(x))))
        matrix = sparse.csr_array((data[order], columns[order], indptr), shape=x.shape)
    return matrix


@pytest.mark.parametrize("form", ["sorted", "int64 indices", "explicit zeros", "unsorted", "duplicates"])
@pytest.mark.parametrize("coded", [False, True])
def test_a_csr_matrix_is_the_dense_samples(form, coded):
    given = problem([53, 20, 3], ["relu", "identity"], LOSSES[2], torch.float32, "cpu", density=0.2)
    x = few_values(given.x) if coded else given.x
    x[5] = 0  # a row without entries
    given = given._replace(x=x)
    matrix = as_csr(x, form)
    kept = matrix.data.copy()
    batches = list(torch.arange(53).split(10))
    expected = by_compiled_steps(given, batches, DESCENTS["plain"])[0]
    inputs = SparseInputs(matrix)
    assert inputs.coded == coded
    found = by_compiled_steps(given, batches, DESCENTS["plain"], inputs=inputs)[0]
    assert all(map(torch.equal, found, expected))
    np.testing.assert_array_equal(matrix.data, kept)  # the caller's matrix is as it was


@pytest.mark.parametrize("n_inputs", [12, 13])
def test_bytes_are_their_levels(n_inputs):
    given = problem([n_inputs, 20, 3], ["tanh", "identity"], LOSSES[2], torch.float64, "cpu")
    codes = torch.randint(0, 256, (53, n_inputs), dtype=torch.uint8) * (torch.rand(53, n_inputs) < 0.3)
    levels = torch.linspace(0, -2, 256, dtype=torch.float64)
    given, batches = given._replace(x=levels[codes.long()]), list(torch.arange(53).split(10))
    expected = by_the_loop(given, batches, DESCENTS["both"])
    inputs = SparseInputs(codes, levels=levels, dtype=torch.float64)
    parameters = by_compiled_steps(given, batches, DESCENTS["both"], inputs=inputs)[0]
    assert_all_close(parameters, expected.parameters, TRAJECTORY[torch.float64])
    assert SparseInputs(codes).table[1] == np.float32(1 / 255)


def test_other_samples_take_the_place_of_the_first():
    given = problem([13, 20, 3], ["relu", "identity"], LOSSES[2], torch.float32, "cpu", density=0.2)
    batches = list(torch.arange(53).split(10))
    inputs = SparseInputs(few_values(torch.randn(53, 13)))
    for x in (given.x, few_values(given.x), torch.zeros_like(given.x), torch.randn(53, 13)):
        inputs.replace_(x)
        expected = by_the_loop(given._replace(x=x), batches, DESCENTS["momentum"])
        found = by_compiled_steps(given, batches, DESCENTS["momentum"], inputs=inputs)[0]
        assert_all_close(found, expected.parameters, TRAJECTORY[torch.float32])


@pytest.mark.parametrize("descent", DESCENTS.values(), ids=DESCENTS)
def test_the_bits_do_not_depend_on_the_number_of_threads(descent):
    given = problem([30, 200, 3], ["tanh", "identity"], LOSSES[2], torch.float32, "cpu", density=0.2, n=400)
    batches, results = list(torch.arange(400).split(20)), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(by_compiled_steps(given, batches, descent, l2=0.01)[:3])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_a_penalty_that_moves_nothing_counts_all_weights():
    given = problem([12, 70, 3], ["relu", "identity"], LOSSES[2], torch.float32, "cpu")
    x = given.x * (torch.arange(12) < 6)  # the other weights have no entries, and 1 - lr l2 rounds to 1
    squares = sum(float(w.detach().double().square().sum()) for w in list(given.network.parameters())[::2])
    penalty = by_compiled_steps(given._replace(x=x), [torch.arange(53)], Descent(0.1), l2=1e-12)[2]
    torch.testing.assert_close(float(penalty[0]), squares * 0.5e-12, rtol=1e-6, atol=0)


@pytest.mark.parametrize("hidden", KNOWN)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_reach_the_outputs_as_in_torch(hidden, bad):
    given = problem([6, 5, 3], [hidden, "identity"], LOSSES[0], torch.float32, "cpu")
    with torch.no_grad():
        next(given.network.parameters())[2, 3] = bad
    batches = list(torch.arange(53).split(53))
    expected = by_the_loop(given, batches, Descent(0.1))
    parameters, outputs, _, _ = by_compiled_steps(given, batches, Descent(0.1))
    torch.testing.assert_close(outputs, expected.outputs, equal_nan=True, rtol=1e-4, atol=1e-5)
    for found, wanted in zip(parameters, expected.parameters, strict=True):
        assert bool(found.isfinite().all()) == bool(wanted.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_of_any_size_and_units_near_zero_are_precise(dtype):
    u = torch.cat([torch.logspace(-12, 4, 60), -torch.logspace(-12, 4, 60)]).to(dtype)
    x = torch.zeros(120, 2, dtype=dtype)
    x[:, 0] = u
    for name in ("sigmoid", "tanh"):
        given = problem([2, 1, 2], [name, "identity"], LOSSES[2], dtype, "cpu", n=120)._replace(x=x)
        parameters = [torch.tensor([[1.0, 0]]), torch.zeros(1), torch.tensor([[1.0], [0.0]]), torch.zeros(2)]
        with torch.no_grad():
            for parameter, value in zip(given.network.parameters(), parameters, strict=True):
                parameter.copy_(value)
        outputs = by_compiled_steps(given, [torch.arange(120)], Descent(0.1))[1][:, 0]  # z of the one unit
        exact = ACTIVATIONS[name].forward(u.double())
        tiny = torch.finfo(dtype).tiny * 1e4
        torch.testing.assert_close(outputs.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=tiny)
    given = problem([2, 1, 2], ["identity", "identity"], LOSSES[2], dtype, "cpu", n=120)._replace(x=x)
    with torch.no_grad():
        for parameter, value in zip(given.network.parameters(), parameters, strict=True):
            parameter.copy_(value)
    expected = by_the_loop(given, [torch.arange(120)], Descent(0.1))
    found = by_compiled_steps(given, [torch.arange(120)], Descent(0.1))[0]
    torch.testing.assert_close(found, expected.parameters, rtol=1e-5, atol=1e-5)


def test_wrong_samples_are_refused():
    codes, x = torch.zeros(3, 4, dtype=torch.uint8), torch.zeros(3, 4)
    for given, settings, message in [
        (x, {"levels": torch.zeros(256)}, "levels must be None"),
        (codes, {"levels": torch.ones(256)}, "levels must be 256 values"),
        (codes, {"levels": torch.zeros(255)}, "levels must be 256 values"),
        (sparse.csr_array(np.zeros((3, 4), np.int64)), {}, "x must be"),
        (x.half(), {}, "x must be"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            SparseInputs(given, **settings)
    inputs = SparseInputs(x)
    for given in (torch.zeros(3, 5), x.double(), codes, sparse.csr_array((3, 5), dtype=np.float32)):
        with pytest.raises(ArgumentError, match="x must be"):
            inputs.replace_(given)


def test_what_pays():
    x = torch.zeros(2000, 600)
    assert pays(x, 16)
    assert not pays(x, 15)
    assert not pays(x[:100], 16)
    assert not pays(x + 1, 16)
    assert not pays(x.half(), 16)


def test_without_numba_or_safe_threads_one_exception_says_so(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "threads_are_safe", lambda: False)
        with pytest.raises(NotCompiledError, match="no threads"):
            SparseInputs(torch.zeros(3, 4))
    with monkeypatch.context() as patch:
        patch.setattr(sparse_kernels, "count_values", None)
        with pytest.raises(NotCompiledError, match="not callable"):
            SparseInputs(torch.zeros(3, 4))
    monkeypatch.delattr(engine, "sparse_kernels")
    monkeypatch.setitem(sys.modules, "nnlab.engine.sparse_kernels", None)
    with pytest.raises(NotCompiledError, match="numba cannot be imported"):
        SparseInputs(torch.zeros(3, 4))


SECOND = """
import torch
from nnlab.engine import sparse_kernels
from nnlab.engine.sparse import CompiledSteps, SparseInputs, SparseLayer
x = torch.eye(70)
inputs = SparseInputs(x)
SparseLayer(inputs, 70, 10)
steps = CompiledSteps(inputs, 70, 5, ["relu", "identity"], "softmax_cross_entropy", torch.zeros(70).long(), 10)
functions = [f for f in vars(sparse_kernels).values() if hasattr(f, "stats")]
print(sum(sum(f.stats.cache_misses.values()) for f in functions))
"""


@pytest.mark.slow
def test_a_second_process_compiles_nothing():
    for _ in range(2):
        found = subprocess.run([sys.executable, "-c", SECOND], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["0"]
