"""The engine's steps in place are the pure operations', whatever is asked of it, to rounding alone."""

import contextlib
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

from nnlab.engine import Adam, Descent, Masks, MLPEngine, NotFiniteError, mlp, sparse
from nnlab.networks import mlp_forward
from nnlab.ops import ACTIVATIONS, LOSSES
from nnlab.validation import ArgumentError
from tests.loops import Problem, assert_all_close, by_the_loop, problem
from tests.pairwise import pairwise
from tests.tolerances import RELATIVE, TRAJECTORY, assert_close

DTYPES = [torch.float32, torch.float64]
DESCENTS = {
    "plain": Descent(0.05),
    "momentum": Descent(0.05, momentum=0.9),
    "decay": Descent(0.05, weight_decay=0.1),
    "momentum,decay": Descent(0.05, momentum=0.5, weight_decay=0.1),
}
PLAIN, FULL = DESCENTS["plain"], DESCENTS["momentum,decay"]
DENSITY = {"dense": 1.0, "sparse": 0.1}
L2 = {"unpenalised": 0.0, "l2": 0.3}
WEIGHTED = {"unweighted": False, "weighted": True}
NETWORKS = {
    "one layer": lambda name: ([7, 3], [name]),
    "two layers": lambda name: ([7, 5, 3], [name, "identity"]),
    "a layer of one unit": lambda name: ([1, 1, 4, 2], [name, "relu", name]),
    "three layers": lambda name: ([40, 6, 5, 3], ["identity", name, "identity"]),
}


@pytest.fixture(autouse=True)
def few_zeros_are_worth_it(monkeypatch):
    """Leave zeros out however small a problem is."""
    monkeypatch.setattr(sparse, "MIN_INPUTS", 0)
    monkeypatch.setattr(sparse, "MIN_UNITS", 1)


@pytest.fixture
def sparse_inputs(monkeypatch) -> list[object]:
    """An entry for each engine that learns its samples without their zeros."""
    noted: list[object] = []
    make = mlp.SparseInputs
    monkeypatch.setattr(mlp, "SparseInputs", lambda *args, **kw: noted.append(make(*args, **kw)) or noted[-1])
    return noted


def engine_of(given: Problem, batch_size: int, **options: object) -> tuple[MLPEngine, list[Tensor]]:
    parameters = [p.detach().clone() for p in given.network.parameters()]
    found = MLPEngine(
        parameters,
        given.network.activations,
        given.loss,
        given.x,
        given.target,
        batch_size=batch_size,
        sample_weight=given.weight,
        **options,
    )
    return found, parameters


def classes(dtype: torch.dtype, device: torch.device = "cpu", hidden: int = 8, **options: object) -> Problem:
    """The problem of the tests to which it does not matter: 40 inputs, one hidden layer, three classes."""
    return problem([40, hidden, 3], ["relu", "identity"], "softmax_cross_entropy", dtype, device, **options)


def order_of(given: Problem, seed: int = 1) -> Tensor:
    return torch.randperm(len(given.x), generator=torch.Generator().manual_seed(seed)).to(given.x.device)


@pairwise(
    name=[*ACTIVATIONS],
    loss=[*LOSSES],
    network=NETWORKS,
    descent=DESCENTS,
    dtype=DTYPES,
    reduction=["mean", "sum"],
    l2=L2,
    weighted=WEIGHTED,
    density=DENSITY,
)
def test_an_epoch_is_the_plain_loop(device, name, loss, network, descent, dtype, reduction, l2, weighted, density):
    given = problem(*network(name), loss, dtype, device, weighted=weighted, density=density)
    engine, parameters = engine_of(given, 6, reduction=reduction, l2=l2)  # 53 samples: a tail of 5
    order = order_of(given)
    expected = by_the_loop(given, order.split(6), descent, reduction=reduction, l2=l2)
    run = engine.run_(order, descent)
    assert_all_close(parameters, expected.parameters, TRAJECTORY[dtype])
    assert_close(run.outputs, expected.outputs, TRAJECTORY[dtype])
    assert_close(run.penalties.double().cpu(), torch.tensor(expected.penalties, dtype=torch.float64), TRAJECTORY[dtype])
    assert_close(run.losses.double().cpu(), torch.tensor(expected.losses, dtype=torch.float64), TRAJECTORY[dtype])
    moved = [(a - b).norm() > 0.01 * b.norm() for a, b in zip(parameters, given.network.parameters(), strict=True)]
    assert any(moved)  # it did train


def test_an_activation_or_a_loss_without_a_form_in_place_is_copied(device, monkeypatch):
    for name in ("tanh", "gelu"):  # one that saves z, and one that saves u
        monkeypatch.setitem(ACTIVATIONS, name, ACTIVATIONS[name]._replace(forward_=None, backward_=None))
    for loss, row in list(LOSSES.items()):
        monkeypatch.setitem(LOSSES, loss, row._replace(is_difference=False))
        given = problem([7, 5, 4, 3], ["tanh", "gelu", "identity"], loss, torch.float64, device)
        engine, parameters = engine_of(given, 6)
        engine.run_(order_of(given), FULL)
        expected = by_the_loop(given, order_of(given).split(6), FULL)
        assert_all_close(parameters, expected.parameters, TRAJECTORY[torch.float64])


@pytest.mark.parametrize(
    ("density", "units", "dtype", "used"),
    [
        (0.1, 40, torch.float64, True),
        (0.1, 40, torch.float16, False),
        (0.1, 31, torch.float32, False),
        (0.1, 32, torch.float32, True),
        (1.0, 40, torch.float32, False),
    ],
    ids=str,
)
def test_zeros_are_left_out_where_that_pays(monkeypatch, sparse_inputs, density, units, dtype, used):
    monkeypatch.setattr(sparse, "MIN_UNITS", 32)
    given = classes(torch.float32, hidden=units, density=density)
    given = given._replace(x=given.x.to(dtype), network=given.network.to(dtype))
    engine, _ = engine_of(given, 6)
    engine.run_(order_of(given), PLAIN)
    assert bool(sparse_inputs) == used
    sparse_inputs.clear()
    monkeypatch.setattr(sparse, "MIN_INPUTS", given.x.numel() + 1)
    engine, _ = engine_of(given, 6)
    engine.run_(order_of(given), PLAIN)
    assert not sparse_inputs


@pairwise(
    units=[1, 33, 150],
    descent={"plain": PLAIN, "momentum,decay": FULL},
    dtype=DTYPES,
)
def test_without_zeros_the_bits_do_not_depend_on_the_number_of_threads(sparse_inputs, units, descent, dtype):
    given = problem([40, units, 3], "tanh", "sum_of_squares", dtype, "cpu", density=0.1)
    found, before = [], (torch.get_num_threads(), numba.get_num_threads())
    try:
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            torch.set_num_threads(threads)
            engine, parameters = engine_of(given, 6)
            outputs = engine.run_(order_of(given), descent).outputs
            found.append([*parameters, outputs, engine.outputs()])
            assert numba.get_num_threads() == before[1]
    finally:
        torch.set_num_threads(before[0])
    assert sparse_inputs
    assert_all_close(found[0][:-2], by_the_loop(given, order_of(given).split(6), descent).parameters, TRAJECTORY[dtype])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)


@pytest.mark.parametrize("why", ["no numba", "no threads", "a compiler that fails"])
def test_zeros_are_multiplied_where_they_cannot_be_left_out(monkeypatch, caplog, why):
    if why == "no numba":
        monkeypatch.setitem(sys.modules, "nnlab.compiled", None)
    elif why == "no threads":
        monkeypatch.setattr(numba, "threading_layer", lambda: "workqueue")
    else:
        monkeypatch.setattr("nnlab.engine.sparse_kernels.run_steps", lambda *given: 1 / 0)
    given = classes(torch.float64, density=0.1)
    order = order_of(given)
    engine, parameters = engine_of(given, 6)
    with caplog.at_level("INFO", "nnlab"):
        engine.run_(order, PLAIN)
        engine.run_(order, PLAIN)
    (record,) = [r for r in caplog.records if "zeros" in r.message]
    assert "times as long" in record.message
    expected = by_the_loop(given, [*order.split(6), *order.split(6)], PLAIN)
    assert_all_close(parameters, expected.parameters, TRAJECTORY[torch.float64])


@pairwise(descent={"plain": PLAIN, "momentum,decay": FULL}, density=DENSITY, l2=L2)
def test_however_an_epoch_is_cut_into_runs_the_weights_are_the_same_bits(device, descent, density, l2):
    given = classes(torch.float32, device, n=97, density=density)
    order = torch.cat([order_of(given, seed) for seed in range(2)])
    whole, expected = engine_of(given, 8, l2=l2)
    first, second = torch.split(order, 97)
    outputs = torch.cat([whole.run_(first, descent).outputs, whole.run_(second, descent).outputs])
    cut, parameters = engine_of(given, 8, l2=l2)
    parts = [(0, 8), (8, 48), (48, 56), (56, 97), (97, 177), (177, 194)]
    runs = [cut.run_(order[a:b], descent) for a, b in parts]
    torch.testing.assert_close(parameters, expected, rtol=0, atol=0)
    torch.testing.assert_close(torch.cat([run.outputs for run in runs]), outputs, rtol=0, atol=0)
    assert [len(run.penalties) for run in runs] == [1, 5, 1, 6, 10, 3]


@pytest.mark.parametrize("density", DENSITY.values(), ids=DENSITY)
def test_another_engine_goes_on_with_the_momentum_of_one(device, density):
    given, descent = classes(torch.float64, device, density=density), Descent(0.1, momentum=0.9, weight_decay=0.01)
    order = order_of(given)
    one, expected = engine_of(given, 6)
    one.run_(order, descent)
    one.run_(order, descent)
    first, parameters = engine_of(given, 6)
    kept = [torch.zeros_like(p) for p in parameters]
    first.state = kept
    first.run_(order, descent)
    second = MLPEngine(parameters, given.network.activations, given.loss, given.x, given.target, batch_size=6)
    second.state = kept
    second.run_(order, descent)
    torch.testing.assert_close(parameters, expected, rtol=0, atol=0)
    torch.testing.assert_close(kept, one.state, rtol=0, atol=0)


@pairwise(change=["velocity", "descent"], density=DENSITY)
def test_a_new_velocity_or_descent_is_used_from_then_on(device, change, density):
    given, descent = classes(torch.float64, device, density=density), Descent(0.1, momentum=0.9)
    order, (engine, parameters) = order_of(given), engine_of(given, 6)
    engine.run_(order, descent)
    if change == "velocity":
        engine.state = [torch.zeros_like(p) for p in parameters]
    else:
        descent = Descent(0.02, momentum=0.5)
    given.network.load_state_dict(dict(zip(given.network.state_dict(), parameters, strict=True)))
    fresh, expected = engine_of(given, 6)
    fresh.state = [v.clone() for v in engine.state]
    for each in (engine, fresh):
        each.run_(order, descent)
    torch.testing.assert_close(parameters, expected, rtol=0, atol=0)


def adam_of(update: Adam):
    """``torch.optim.Adam`` as the loop's update."""
    made: list[torch.optim.Adam] = []

    def step(parameters: list[Tensor], gradients: list[Tensor]) -> None:
        if not made:
            made.append(torch.optim.Adam(parameters, update.lr, (update.beta1, update.beta2), update.epsilon))
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
        made[0].step()

    return step


@pairwise(
    reduction=["mean", "sum"],
    l2=L2,
    weighted=WEIGHTED,
    density=DENSITY,
    dtype=DTYPES,
    network={"one hidden layer": [8], "two": [8, 5]},
)
def test_adam_is_torchs(device, reduction, l2, weighted, density, dtype, network):
    sizes, update = [40, *network, 3], Adam(0.01, 0.8, 0.99, 1e-6)
    given = problem(sizes, "tanh", "softmax_cross_entropy", dtype, device, weighted=weighted, density=density)
    orders = [order_of(given, seed) for seed in range(3)]
    batches = [batch for order in orders for batch in order.split(6)]
    expected = by_the_loop(given, batches, adam_of(update), reduction=reduction, l2=l2)
    engine, parameters = engine_of(given, 6, reduction=reduction, l2=l2)
    for order in orders:
        engine.run_(order, update)
    assert_all_close(parameters, expected.parameters, 3 * TRAJECTORY[dtype])
    assert float(engine.state[-1]) == len(batches)


@pairwise(update={"plain": PLAIN, "momentum,decay": FULL, "adam": Adam(0.01)}, density=DENSITY)
def test_dropout_masks_what_they_mask_in_the_pure_operations(device, update, density):
    given = problem([40, 6, 5, 3], ["relu", "gelu", "identity"], "softmax_cross_entropy", torch.float64, device)
    given = given._replace(x=given.x * (torch.rand(given.x.shape, device=device) < density))
    order, loop = order_of(given), adam_of(update) if isinstance(update, Adam) else update
    g = torch.Generator().manual_seed(3)
    kept = [(torch.rand(len(order), units, generator=g) < 0.6).byte().to(device) for units in (6, 5)]
    parts = iter(range(0, len(order), 6))

    def drawn(n: int) -> list[Tensor]:
        start = next(parts)
        return [layer[start : start + n].to(given.x) / 0.6 for layer in kept]

    expected = by_the_loop(given, order.split(6), loop, masks=drawn)
    engine, parameters = engine_of(given, 6)
    run = engine.run_(order, update, Masks(kept, 1 / 0.6))
    assert_all_close(parameters, expected.parameters, TRAJECTORY[torch.float64])
    assert_close(run.outputs, expected.outputs, TRAJECTORY[torch.float64])
    plain = by_the_loop(given, order.split(6), loop)
    assert (run.outputs - plain.outputs).norm() > 0.1 * plain.outputs.norm()
    again, others = engine_of(given, 6)  # without dropout, then with it
    again.run_(order, update)
    again.run_(order, update, Masks(kept, 1 / 0.6))
    assert not torch.equal(others[0], parameters[0])


@pairwise(name=["relu", "gelu", "tanh"], loss=[*LOSSES], descent={"plain": PLAIN, "momentum,decay": FULL}, l2=L2)
def test_bfloat16_arithmetic_moves_float32_parameters(device, name, loss, descent, l2):
    given = problem([30, 20, 3], [name, "identity"], loss, torch.float32, device)
    order, descent = order_of(given), descent._replace(lr=0.002)
    engine, parameters = engine_of(given, 6, dtype=torch.bfloat16, l2=l2)
    expected = by_the_loop(given, order.split(6), descent, l2=l2)
    engine.run_(order, descent)
    assert all(p.dtype == torch.float32 for p in parameters)
    for p, theirs in zip(parameters[::2], expected.parameters[::2], strict=True):
        assert_close(p, theirs, RELATIVE[torch.bfloat16])
        assert not torch.equal(p, theirs)  # bfloat16 was used
    # steps too small for a bfloat16 are kept
    engine, parameters = engine_of(given, 6, dtype=torch.bfloat16, l2=l2)
    before = [p.clone() for p in parameters]
    engine.run_(order, descent._replace(lr=2e-6))
    assert all(not torch.equal(p, q) for p, q in zip(parameters, before, strict=True))
    unseen = [(p.bfloat16() == q.bfloat16()).double().mean() for p, q in zip(parameters, before, strict=True)]
    assert min(unseen[::2]) > 0.9  # of the weights; the biases start at 0, near which a bfloat16 is fine


@pairwise(density=DENSITY, deep={"one hidden layer": [], "two": [5]}, update={"momentum": FULL, "adam": Adam(0.1)})
def test_a_call_that_is_interrupted_changes_nothing(monkeypatch, density, deep, update):
    given = problem([40, 8, *deep, 3], "gelu", "sum_of_squares", torch.float64, "cpu", density=density)
    steps, row = iter(range(14)), ACTIVATIONS["gelu"]

    def interrupted(u: Tensor) -> object:
        if u.shape[1] == 8 and next(steps, None) is None:
            raise KeyboardInterrupt
        return row.forward_(u)

    monkeypatch.setitem(ACTIVATIONS, "gelu", row._replace(forward_=interrupted))
    engine, parameters = engine_of(given, 6)
    engine.run_(order_of(given), update)  # 9 steps, and a state
    before = [tensor.clone() for tensor in (*parameters, *engine.state)]
    with pytest.raises(KeyboardInterrupt):
        engine.run_(order_of(given), update)
    torch.testing.assert_close([*parameters, *engine.state], before, rtol=0, atol=0)


def test_an_interrupt_while_buffers_are_made_costs_nothing(device, monkeypatch):
    given = classes(torch.float64, device)
    engine, parameters = engine_of(given, 6)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(torch, "zeros", lambda *size, **kw: (_ for _ in ()).throw(KeyboardInterrupt))
        engine.run_(order_of(given), PLAIN)
    engine.run_(order_of(given), PLAIN)
    expected = by_the_loop(given, order_of(given).split(6), PLAIN)
    assert_all_close(parameters, expected.parameters, TRAJECTORY[torch.float64])


def test_bfloat16_computes_each_step_with_what_the_last_one_left(device):
    given = classes(torch.float32, device, hidden=20)
    engine, _ = engine_of(given, 6, dtype=torch.bfloat16)
    outputs = engine.run_(order_of(given), Descent(0.1)).outputs.float()
    expected = by_the_loop(given, order_of(given).split(6), Descent(0.1)).outputs
    before = given.network(given.x[order_of(given)]).detach()
    assert (outputs - expected).norm() < 0.1 * (before - expected).norm()


def test_bfloat16_computes_with_parameters_changed_by_another_hand():
    given = classes(torch.float32, hidden=20)
    engine, parameters = engine_of(given, 60, dtype=torch.bfloat16)
    for p in parameters:
        p.mul_(-3)
    expected = mlp_forward(given.x, parameters, given.network.activations)[-1].z
    assert_close(engine.outputs().float(), expected, RELATIVE[torch.bfloat16])
    assert_close(engine.run_(torch.arange(53), Descent(0.1)).outputs.float(), expected, RELATIVE[torch.bfloat16])


@pytest.mark.parametrize("l2", L2.values(), ids=L2)
def test_inputs_that_are_all_zero_teach_the_biases(l2):
    given = classes(torch.float64)
    given = given._replace(x=torch.zeros_like(given.x))
    engine, parameters = engine_of(given, 6, l2=l2)
    expected = by_the_loop(given, order_of(given).split(6), Descent(0.1), l2=l2)
    engine.run_(order_of(given), Descent(0.1))
    assert_all_close(parameters, expected.parameters, TRAJECTORY[torch.float64])


@pytest.mark.parametrize("density", DENSITY.values(), ids=DENSITY)
def test_a_sample_may_come_more_than_once(density):
    given = classes(torch.float64, density=density)
    order = torch.randint(0, 53, (53,))
    engine, parameters = engine_of(given, 6)
    expected = by_the_loop(given, order.split(6), Descent(0.1))
    assert_close(engine.run_(order, Descent(0.1)).outputs, expected.outputs, TRAJECTORY[torch.float64])
    assert_all_close(parameters, expected.parameters, TRAJECTORY[torch.float64])


def test_no_samples_are_no_steps():
    given = classes(torch.float32, n=0)
    engine, _ = engine_of(given, 6)
    assert engine.run_(torch.arange(0), Descent(0.1)).outputs.shape == (0, 3)
    assert engine.outputs().shape == (0, 3)


def test_no_inputs_teach_the_biases():
    target = torch.tensor([0, 1, 1])
    weight, bias = torch.zeros(2, 0), torch.zeros(2)
    engine = MLPEngine([weight, bias], ["identity"], "softmax_cross_entropy", torch.zeros(3, 0), target)
    engine.run_(torch.arange(3), Descent(6.0))
    assert_close(bias, torch.tensor([-1.0, 1.0]))


def test_an_empty_order_changes_nothing():
    given = classes(torch.float64)
    engine, parameters = engine_of(given, 6)
    run = engine.run_(torch.arange(0), Descent(0.1))
    assert (run.outputs.shape, run.penalties.shape) == ((0, 3), (0,))
    torch.testing.assert_close(parameters, [p.detach() for p in given.network.parameters()], rtol=0, atol=0)


@pairwise(network=NETWORKS, density=DENSITY, dtype=DTYPES, l2=L2)
def test_the_outputs_for_all_samples_are_forward_propagation(device, monkeypatch, network, density, l2, dtype):
    monkeypatch.setattr(mlp, "AT_ONCE", 8)  # so that there are many parts, and a tail
    given = problem(*network("tanh"), "softmax_cross_entropy", dtype, device, density=density)
    engine, parameters = engine_of(given, 6, l2=l2)

    def expected() -> Tensor:
        return mlp_forward(given.x, parameters, given.network.activations)[-1].z

    for _ in range(2):  # before training, and after it
        assert_close(engine.outputs(), expected())
        engine.run_(order_of(given), Descent(0.05, momentum=0.9))
    parameters[0].mul_(0.5)  # by another hand
    assert_close(engine.outputs(), expected())


# The operations in place

FLOATS = [torch.float32, torch.float64, torch.bfloat16]


def by_class(tensor: Tensor) -> Tensor:
    """The same numbers, those of a class side by side in memory, as the engine has the output layer."""
    return tensor.T.contiguous().T


@pairwise(name=[*ACTIVATIONS], dtype=FLOATS, layout={"by sample": torch.clone, "by class": by_class})
def test_an_activation_in_place_is_its_operation(device, name, dtype, layout):
    u, grad_z = (torch.randn(30, 7, dtype=torch.float64).to(device, dtype) for _ in range(2))
    u[0], u[1], u[2, 0], u[2, 1] = 0, 30 * u[1], -0.0, torch.nan
    row = ACTIVATIONS[name]
    z = row.forward(u)
    saved = u if row.saves == "u" else z
    expected = row.backward(grad_z, saved)
    ours, delta, saved = layout(u), layout(grad_z), layout(saved)
    row.forward_(ours)
    row.backward_(delta, saved)
    for found, right in ((ours, z), (delta, expected)):
        relative = RELATIVE[dtype]
        scale = right.nan_to_num().abs().max().item()
        torch.testing.assert_close(found, right, rtol=relative, atol=relative * scale, equal_nan=True)


@pairwise(name=["relu", "gelu"], update={"plain": PLAIN, "adam": Adam(0.01)}, masked=[False, True])
def test_products_of_onednn_are_those_of_torch(monkeypatch, name, update, masked):
    monkeypatch.setattr(mlp, "ONEDNN_FROM", 1)
    given = problem([7, 6, 5, 3], [name, name, "identity"], "softmax_cross_entropy", torch.float32, "cpu")
    kept = [(torch.rand(53, units) < 0.6).byte() for units in (6, 5)]
    parts = iter(range(0, 53, 6))

    def drawn(n: int) -> list[Tensor]:
        start = next(parts)
        return [layer[start : start + n] / 0.6 for layer in kept]

    loop = adam_of(update) if isinstance(update, Adam) else update
    expected = by_the_loop(given, order_of(given).split(6), loop, masks=drawn if masked else None)
    engine, parameters = engine_of(given, 6)
    run = engine.run_(order_of(given), update, Masks(kept, 1 / 0.6) if masked else None)
    assert_all_close(parameters, expected.parameters, TRAJECTORY[torch.float32])
    assert_close(run.outputs, expected.outputs, TRAJECTORY[torch.float32])


def test_onednn_is_for_float32_alone(monkeypatch):
    monkeypatch.setattr(mlp, "ONEDNN_FROM", 1)
    given = problem([7, 6, 5, 3], ["relu", "relu", "identity"], "softmax_cross_entropy", torch.float64, "cpu")
    expected = by_the_loop(given, order_of(given).split(6), PLAIN)
    engine, parameters = engine_of(given, 6)
    engine.run_(order_of(given), PLAIN)
    assert_all_close(parameters, expected.parameters, TRAJECTORY[torch.float64])


@pytest.mark.parametrize("density", DENSITY.values(), ids=DENSITY)
def test_each_call_may_ask_for_something_else(device, density):
    given = classes(torch.float64, device, density=density)
    order, parameters = order_of(given), [p.detach().clone() for p in given.network.parameters()]
    masks = Masks([(torch.rand(53, 8) < 0.6).byte().to(device)], 1 / 0.6)
    calls = [(PLAIN, None), (PLAIN, masks), (PLAIN, None), (Adam(0.01), None), (PLAIN, masks._replace(factor=2.0))]
    calls += [(Adam(0.02), masks), (PLAIN, None), (Adam(0.02, beta1=0.5), None)]
    engine, found = engine_of(given, 6)
    state: list[Tensor] = []
    for update, asked in (call for call in calls for _ in range(2)):
        fresh = MLPEngine(parameters, given.network.activations, given.loss, given.x, given.target, batch_size=6)
        fresh.state = state
        run, expected = engine.run_(order, update, asked), fresh.run_(order, update, asked)
        state = fresh.state
        torch.testing.assert_close([*found, *engine.state, *run], [*parameters, *state, *expected], rtol=0, atol=0)


def test_every_row_of_the_tables_has_its_forms_in_place():
    """Without them a row works and is copied, which takes longer."""
    assert [name for name, row in ACTIVATIONS.items() if row.forward_ is None or row.backward_ is None] == []


# Samples in other forms


@pairwise(
    form=["csr32", "csr64", "uint8"], few={"few zeros": 0.9, "many": 0.1}, deep={"one": [], "two": [5]}, dtype=DTYPES
)
def test_samples_in_other_forms_are_the_samples(monkeypatch, form, few, deep, dtype):
    if few > 0.5:
        monkeypatch.setattr(sparse, "MIN_UNITS", 100)
    given = problem([41, 8, *deep, 3], "tanh", "softmax_cross_entropy", dtype, "cpu")
    codes = torch.randint(0, 256, given.x.shape, dtype=torch.uint8) * (torch.rand(given.x.shape) < few)
    dense = codes.to(dtype) / 255
    if form == "uint8":
        x = codes
    else:
        x = scipy.sparse.csr_array(dense.numpy())
        x.indices, x.indptr = (a.astype(np.int32 if form == "csr32" else np.int64) for a in (x.indices, x.indptr))
    given, order = given._replace(x=dense), order_of(given)
    engine, parameters = engine_of(given._replace(x=x), 6)
    run = engine.run_(order, FULL)
    expected = by_the_loop(given, order.split(6), FULL)
    assert_all_close(parameters, expected.parameters, TRAJECTORY[dtype])
    assert_close(run.outputs, expected.outputs, TRAJECTORY[dtype])
    assert_close(engine.outputs(), mlp_forward(dense, parameters, given.network.activations)[-1].z)


@pairwise(form=["float", "uint8", "csr"], density=DENSITY)
def test_other_inputs_for_the_same_samples_need_no_other_engine(form, density):
    given = classes(torch.float64)
    epochs = [torch.randint(0, 256, given.x.shape).byte() * (torch.rand(given.x.shape) < density) for _ in range(2)]
    forms = {
        "float": lambda x: x / 255,
        "uint8": lambda x: x,
        "csr": lambda x: scipy.sparse.csr_array((x / 255).numpy()),
    }
    dense, given = [x.double() / 255 for x in epochs], classes(torch.float64)
    epochs = [forms[form](x if form == "uint8" else x.double()) for x in epochs]
    engine, parameters = engine_of(given._replace(x=epochs[0]), 6)
    order = order_of(given)
    engine.run_(order, PLAIN)
    engine.set_inputs_(epochs[1])
    engine.run_(order, PLAIN)
    first = by_the_loop(given._replace(x=dense[0]), order.split(6), PLAIN)
    given.network.load_state_dict(dict(zip(given.network.state_dict(), first.parameters, strict=True)))
    expected = by_the_loop(given._replace(x=dense[1]), order.split(6), PLAIN)
    assert_all_close(parameters, expected.parameters, TRAJECTORY[torch.float64])
    other = forms["csr" if form == "float" else "float"](dense[1])
    for bad in (epochs[1][:9], other):
        with pytest.raises(ArgumentError, match=r"^x must stay .*40\), got "):
            engine.set_inputs_(bad)


@pytest.mark.parametrize("parameters", DTYPES, ids=str)
def test_a_csr_matrix_is_taken_in_the_dtype_of_the_parameters(sparse_inputs, parameters):
    given = classes(parameters, density=0.1)
    kinds = [np.float32, np.float64] if parameters == torch.float32 else [np.float64, np.float32]
    given = given._replace(x=given.x.half().to(parameters))  # exact in each
    of_dtype, of_other = (scipy.sparse.csr_array(given.x.numpy().astype(kind)) for kind in kinds)
    found = []
    for x in (of_dtype, of_other, scipy.sparse.csr_matrix(of_dtype)):
        engine, changed = engine_of(given._replace(x=of_dtype), 6)
        engine.set_inputs_(x)
        engine.run_(order_of(given), PLAIN)
        found.append([*changed, engine.outputs()])
        engine, changed = engine_of(given._replace(x=x), 6)
        engine.run_(order_of(given), PLAIN)
        found.append([*changed, engine.outputs()])
    assert len(sparse_inputs) == 6
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)


@pytest.mark.parametrize("when", ["before", "during"])
def test_other_inputs_are_taken_although_they_cannot_be_compiled(monkeypatch, when):
    given = classes(torch.float64, density=0.1)
    engine, parameters = engine_of(given, 6)
    engine.run_(order_of(given), PLAIN)
    start = [p.clone() for p in parameters]
    problem = sparse.NotCompiledError("no threads") if when == "before" else KeyboardInterrupt()
    with monkeypatch.context() as patch:
        patch.setattr(sparse.SparseInputs, "replace_", lambda *_: (_ for _ in ()).throw(problem))
        with pytest.raises(KeyboardInterrupt) if when == "during" else contextlib.nullcontext():
            engine.set_inputs_(2 * given.x)
    assert not engine.skips_zeros
    engine.run_(order_of(given), PLAIN)
    assert engine.skips_zeros == (when == "during")  # after an interrupt they are looked at again
    other, expected = engine_of(given._replace(x=2 * given.x), 6)
    for p, q in zip(expected, start, strict=True):
        p.copy_(q)
    other.run_(order_of(given), PLAIN)
    assert_all_close(parameters, expected, TRAJECTORY[torch.float64])


@pairwise(inputs=["dense", "sparse"], first=["run", "outputs", "made"])
def test_an_engine_is_used_in_inference_mode_and_out_of_it(inputs, first):
    given = classes(torch.float32, density=DENSITY[inputs])
    expected = by_the_loop(given, [*order_of(given).split(6)] * (3 if first == "run" else 2), FULL)
    engine, parameters = engine_of(given, 6)
    with torch.inference_mode():
        if first == "run":
            engine.run_(order_of(given), FULL)
        elif first == "outputs":
            engine.outputs()
        else:
            engine = MLPEngine(parameters, given.network.activations, given.loss, given.x, given.target, batch_size=6)
    for _ in range(2):
        engine.run_(order_of(given), FULL)
    assert_all_close(parameters, expected.parameters, 2 * TRAJECTORY[torch.float32])


@pytest.mark.parametrize("density", DENSITY.values(), ids=DENSITY)
def test_tensors_that_require_a_gradient_are_taken_as_they_are(density):
    given = problem([40, 8, 3], ["tanh", "identity"], "sum_of_squares", torch.float64, "cpu", density=density)
    expected = by_the_loop(given, order_of(given).split(6), PLAIN)
    for tensor in (given.x, given.target):
        tensor.requires_grad_()
    engine = MLPEngine(
        [*given.network.parameters()], given.network.activations, given.loss, given.x, given.target, batch_size=6
    )
    assert not engine.run_(order_of(given), PLAIN).outputs.requires_grad
    engine.set_inputs_(given.x)
    assert engine.skips_zeros == (density < 1)
    assert_all_close([p.detach() for p in given.network.parameters()], expected.parameters, TRAJECTORY[torch.float64])


def test_engines_in_threads_do_not_disturb_one_another():
    given = [classes(torch.float64, hidden=8 + k, density=0.1) for k in range(4)]
    expected = [by_the_loop(each, order_of(each).split(6), FULL).parameters for each in given]
    engines = [engine_of(each, 6) for each in given]
    with ThreadPoolExecutor(4) as pool:
        [*pool.map(lambda k: engines[k][0].run_(order_of(given[k]), FULL), range(4))]
    for (_, found), right in zip(engines, expected, strict=True):
        assert_all_close(found, right, TRAJECTORY[torch.float64])


@pytest.mark.parametrize(
    ("kept", "factor", "message"),
    [
        (torch.ones(53, 8, dtype=torch.bool), 2.0, "masks must be uint8 on cpu, got torch.bool on cpu"),
        (torch.ones(53, 8, dtype=torch.uint8), 0.0, "factor must be a number greater than 0, got 0.0"),
        (torch.ones(53, 7, dtype=torch.uint8), 2.0, "masks must be of shapes [(53, 8)], got [(53, 7)]"),
    ],
    ids=["dtype", "factor", "shape"],
)
def test_masks_that_do_not_fit_are_refused(kept, factor, message):
    engine, _ = engine_of(classes(torch.float32), 6)
    with pytest.raises(ArgumentError) as error:
        engine.run_(torch.arange(53), PLAIN, Masks([kept], factor))
    assert str(error.value) == message


def test_outputs_after_a_plain_call_are_the_networks(device):
    """On CUDA, such a call has copies of the parameters of its own."""
    given = classes(torch.float64, device)
    engine, parameters = engine_of(given, 6)
    engine.run_(order_of(given), PLAIN)
    assert_close(engine.outputs(), mlp_forward(given.x, parameters, given.network.activations)[-1].z)


# NaN and infinity


@pairwise(update={"plain": PLAIN, "momentum": FULL, "adam": Adam(0.05)}, density=DENSITY, masked=[False, True])
def test_a_call_that_meets_infinity_names_where_and_changes_nothing(device, update, density, masked):
    given = classes(torch.float64, device, density=density)
    engine, parameters = engine_of(given, 6)
    masks = Masks([torch.ones(53, 8, dtype=torch.uint8, device=device)], 1.0) if masked else None
    order = order_of(given)
    engine.run_(order, update, masks)  # so that there is a state
    before = [t.clone() for t in (*parameters, *engine.state)]
    given.x[order[20]] = torch.inf
    engine.set_inputs_(given.x)
    with pytest.raises(NotFiniteError, match=r"^the .* became NaN or infinite at mini-batch 4 of this call") as error:
        engine.run_(order, update, masks)
    assert error.value.step == 3
    assert error.value.parameter in {"weight of layer 1", "weight of layer 2", "bias of layer 1", "bias of layer 2"}
    torch.testing.assert_close([*parameters, *engine.state], before, rtol=0, atol=0)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_a_loss_that_is_infinite_is_named():
    given = problem([2, 1], ["identity"], "sum_of_squares", torch.float32, "cpu", n=4)
    given.x[2], given.target[:] = 1e20, 0
    engine, parameters = engine_of(given, 1)
    with pytest.raises(NotFiniteError, match=r"^the loss became NaN or infinite at mini-batch 3"):
        engine.run_(torch.arange(3), Descent(1e-30))
    assert torch.equal(parameters[0], next(given.network.parameters()))


def test_a_sum_of_losses_that_is_infinite_is_named():
    given = problem([2, 1], ["identity"], "sum_of_squares", torch.float32, "cpu", n=6)
    given.x[:3], given.x[3:], given.target[:] = 0, 1, 0
    engine, parameters = engine_of(given, 3, reduction="sum")
    parameters[0][:], parameters[1][:] = 0.9e19, 0  # an error is then 1.6e38, the sum of three more than 3.4e38
    with pytest.raises(NotFiniteError, match=r"^the loss became NaN or infinite at mini-batch 2"):
        engine.run_(torch.arange(6), Descent(1e-30))


# Bad input

GOOD = {"activations": ["relu", "identity"], "loss": "softmax_cross_entropy"}


def test_parameters_that_are_not_contiguous_are_refused():
    given = classes(torch.float32)
    parameters = [p.detach() for p in given.network.parameters()]
    parameters[2] = parameters[2].T.contiguous().T
    with pytest.raises(ArgumentError, match="contiguous in memory, those of layer 2 are not"):
        MLPEngine(parameters, given.network.activations, given.loss, given.x, given.target)


@pytest.mark.parametrize(
    ("k", "other", "message"),
    [
        (1, torch.zeros(4), "bias must have shape (O,) with O = 5 as in weight, got (4,)"),
        (1, torch.zeros(5, 1), "bias must have shape (O,) with O = 5 as in weight, got (5, 1)"),
        (2, torch.zeros(3, 4), "parameters must fit one another, layer 2 has (3, 4)"),
        (3, torch.zeros(3, dtype=torch.float64), "bias must have the dtype of weight, float32, got float64"),
    ],
)
def test_layers_that_do_not_fit_one_another_are_refused(k, other, message):
    given = problem([7, 5, 3], GOOD["activations"], GOOD["loss"], torch.float32, "cpu", n=9)
    parameters = [p.detach() for p in given.network.parameters()]
    parameters[k] = other
    with pytest.raises(ArgumentError) as error:
        MLPEngine(parameters, GOOD["activations"], GOOD["loss"], given.x, given.target)
    assert str(error.value) == message


def test_no_layers_are_refused():
    with pytest.raises(ArgumentError, match="parameters must be two for each of 0 layers, got 0"):
        MLPEngine([], [], GOOD["loss"], torch.zeros(9, 7), torch.zeros(9, dtype=torch.int64))


def test_layers_of_two_dtypes_are_refused():
    given = problem([7, 5, 3], GOOD["activations"], GOOD["loss"], torch.float32, "cpu", n=9)
    weight, bias, *others = [p.detach() for p in given.network.parameters()]
    with pytest.raises(ArgumentError, match="must have one dtype and one device, layer 2 has another"):
        MLPEngine(
            [weight, bias, *(p.double() for p in others)], GOOD["activations"], GOOD["loss"], given.x, given.target
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activations": ["relu"]}, "parameters must be two for each of 1 layers, got 4"),
        ({"activations": ["relu", "rely"]}, "activations must be one of"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"x": torch.zeros(9, 6)}, "weight must have shape (O, I) with I = 6 as in x, got (5, 7)"),
        ({"x": torch.zeros(9, 6, dtype=torch.uint8)}, "x must be (N, 7) on cpu, got (9, 6) on cpu"),
        ({"x": scipy.sparse.csr_array(np.zeros((9, 7), int))}, "x must be float32 or float64 in CSR form, got int64"),
        ({"dtype": torch.int64}, "dtype must be a floating-point dtype, got torch.int64"),
        ({"x": [[0.0] * 7]}, "x must be a torch.Tensor or a CSR matrix of scipy, got list"),
        ({"x": torch.zeros(9, 7, dtype=torch.float64)}, "weight must have the dtype of x"),
        ({"target": torch.zeros(8, dtype=torch.int64)}, "target must have shape (N,) with N = 9, got (8,)"),
        ({"target": torch.full((9,), 3)}, "target must hold labels from 0 to 2, got 3"),
        ({"loss": "sum_of_squares", "target": torch.zeros(9, 2)}, "target must have shape (9, 3), got (9, 2)"),
        ({"loss": "binary_cross_entropy", "target": torch.full((9, 3), 2.0)}, "target must hold values from 0 to 1"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"reduction": "max"}, "reduction must be one of"),
        ({"l2": -1.0}, "l2 must be a number of at least 0, got -1.0"),
        ({"sample_weight": torch.ones(8)}, "sample_weight must have shape"),
        ({"sample_weight": -torch.ones(9)}, "sample_weight must be finite and not negative"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_what_cannot_be_trained_is_refused(change, message):
    given = problem([7, 5, 3], GOOD["activations"], GOOD["loss"], torch.float32, "cpu", n=9)
    options = {"x": given.x, "target": given.target, **GOOD, **change}
    with pytest.raises(ArgumentError) as error:
        MLPEngine(list(given.network.parameters()), **options)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("order", "update", "message"),
    [
        (torch.tensor([0, 9]), Descent(0.1), "order must hold indices from 0 to 8, the samples there are"),
        (torch.tensor([-1]), Descent(0.1), "order must hold indices from 0 to 8, the samples there are"),
        (torch.tensor([0.0]), Descent(0.1), "order must be int64 (n,) on cpu, got float32 (1,) on cpu"),
        (torch.arange(10) % 9, Descent(0.1), "order must hold at most 9 indices, got 10"),
        (torch.tensor([[0]]), Descent(0.1), "order must be int64 (n,) on cpu, got int64 (1, 1) on cpu"),
        ([0], Descent(0.1), "order must be int64 (n,) on cpu, got list"),
        (torch.tensor([0]), (0.1, 0.0, 0.0), "update must be Descent or Adam, got (0.1, 0.0, 0.0)"),
        (torch.tensor([0]), Descent(-0.5), "lr must be a number of at least 0, got -0.5"),
        (torch.tensor([0]), Descent(0.1, momentum=1.0), "momentum must be less than 1, got 1.0"),
        (torch.tensor([0]), Descent(0.1, weight_decay=-1.0), "weight_decay must be a number of at least 0, got -1.0"),
        (torch.tensor([0]), Adam(0.1, beta1=1.0), "beta1 must be less than 1, got 1.0"),
        (torch.tensor([0]), Descent(1e300), "lr must be at most 3.4e+38 in torch.float32, got 1e+300"),
        (torch.tensor([0]), Adam(0.1, epsilon=0.0), "epsilon must be a number greater than 0, got 0.0"),
    ],
    ids=str,
)
def test_what_cannot_be_run_is_refused_and_nothing_is_changed(order, update, message):
    given = problem([7, 5, 3], GOOD["activations"], GOOD["loss"], torch.float32, "cpu", n=9)
    engine, parameters = engine_of(given, 4)
    with pytest.raises(ArgumentError) as error:
        engine.run_(order, update)
    assert str(error.value) == message
    torch.testing.assert_close(parameters, [p.detach() for p in given.network.parameters()], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state[:3],
            "state must be 4 tensors for Descent(lr=0.05, momentum=0.9, weight_decay=0.0), got 3",
        ),
        (lambda state: [state[0][:1], *state[1:]], "state must have float32 (5, 7) on cpu at 0, got float32 (1, 7) on"),
        (lambda state: [*state[:3], state[3].double()], "state must have float32 (3,) on cpu at 3, got float64 (3,)"),
        (
            lambda state: [state[0].T.contiguous().T, *state[1:]],
            "state must have float32 (5, 7) on cpu at 0, got float32 (5, 7) on cpu, not contiguous",
        ),
    ],
    ids=["too few", "shape", "dtype", "not contiguous"],
)
def test_a_state_of_another_update_or_network_is_refused(change, message):
    given = problem([7, 5, 3], GOOD["activations"], GOOD["loss"], torch.float32, "cpu", n=9)
    engine, parameters = engine_of(given, 4)
    engine.run_(torch.arange(9), DESCENTS["momentum"])
    engine.state, before = change(engine.state), [p.clone() for p in parameters]
    with pytest.raises(ArgumentError) as error:
        engine.run_(torch.arange(9), DESCENTS["momentum"])
    assert str(error.value).startswith(message)
    torch.testing.assert_close(parameters, before, rtol=0, atol=0)
    engine.run_(torch.arange(9), PLAIN)  # which needs none


def test_dropout_is_refused_without_a_hidden_layer():
    given = problem([7, 3], ["identity"], GOOD["loss"], torch.float32, "cpu", n=9)
    engine, _ = engine_of(given, 4)
    with pytest.raises(ArgumentError, match=r"^masks must be None for a network without a hidden layer"):
        engine.run_(torch.arange(9), PLAIN, Masks([], 2.0))


def test_a_mean_over_weights_that_are_all_zero_is_refused():
    given = problem([7, 5, 3], GOOD["activations"], GOOD["loss"], torch.float32, "cpu", n=9, weighted=True)
    given.weight[4:8] = 0
    engine, _ = engine_of(given, 4)
    with pytest.raises(ArgumentError, match="sample_weight must not be zero for every sample"):
        engine.run_(torch.arange(9), Descent(0.1))
    summed, parameters = engine_of(given, 4, reduction="sum")
    summed.run_(torch.arange(4, 8), Descent(0.1))  # a sum of nothing moves nothing
    torch.testing.assert_close(parameters, [p.detach() for p in given.network.parameters()], rtol=0, atol=0)
