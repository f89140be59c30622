"""The engine's steps in place are the pure operations', whatever is asked of it, to rounding alone."""

import itertools
import sys
from collections.abc import Sequence

import numba
import pytest
import torch
from torch import Tensor

from nnlab.engine import Descent, MLPEngine, sparse, sparsity
from nnlab.engine.inplace import ACTIVATE_, DIFFERENTIATE_, PULL_BACK_
from nnlab.networks import mlp_forward
from nnlab.ops import ACTIVATIONS, LOSSES
from nnlab.validation import ArgumentError
from tests.engine.loops import Problem, by_the_loop, problem
from tests.tolerances import RELATIVE, TRAJECTORY, assert_close

DTYPES = [torch.float32, torch.float64]
NETWORKS = [
    ([7, 3], ["identity"]),
    ([7, 5, 3], ["sigmoid", "identity"]),
    ([7, 5, 3], ["relu", "identity"]),
    ([7, 1, 4, 2], ["tanh", "relu", "identity"]),
    ([40, 6, 5, 3], ["identity", "tanh", "identity"]),
    ([1, 3, 2], ["relu", "tanh"]),
]
DESCENTS = [
    Descent(0.05),
    Descent(0.05, momentum=0.9),
    Descent(0.05, weight_decay=0.1),
    Descent(0.05, momentum=0.5, weight_decay=0.1),
]


@pytest.fixture(autouse=True)
def few_zeros_are_worth_it(monkeypatch):
    """Leave zeros out however small a problem is."""
    monkeypatch.setattr(sparsity, "WORTH", 0)
    monkeypatch.setattr(sparsity, "UNITS", 1)


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


def order_of(given: Problem, seed: int = 1) -> Tensor:
    return torch.randperm(len(given.x), generator=torch.Generator().manual_seed(seed)).to(given.x.device)


def assert_all_close(actual: Sequence[Tensor], expected: Sequence[Tensor], relative: float) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        assert_close(ours, theirs, relative)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("descent", DESCENTS, ids=lambda d: f"momentum={d.momentum},decay={d.weight_decay}")
@pytest.mark.parametrize(
    ("reduction", "l2", "weighted"), [("mean", 0.0, False), ("sum", 0.3, False), ("mean", 0.3, True), ("sum", 0, True)]
)
@pytest.mark.parametrize(("sizes", "activations"), NETWORKS, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("lit", [1.0, 0.1], ids=["dense", "sparse"])
def test_an_epoch_is_the_plain_loop(device, loss, sizes, activations, reduction, l2, weighted, descent, dtype, lit):
    given = problem(sizes, activations, loss, dtype, device, weighted=weighted, lit=lit)
    engine, parameters = engine_of(given, 6, reduction=reduction, l2=l2)  # 53 samples: a tail of 5
    order = order_of(given)
    expected = by_the_loop(given, order, 6, descent, reduction=reduction, l2=l2)
    run = engine.run_(order, descent)
    assert_all_close(parameters, expected.parameters, TRAJECTORY[dtype])
    assert_close(run.outputs, expected.outputs, TRAJECTORY[dtype])
    assert_close(run.penalties.double().cpu(), torch.tensor(expected.penalties, dtype=torch.float64), TRAJECTORY[dtype])
    moved = [(a - b).norm() > 0.01 * b.norm() for a, b in zip(parameters, given.network.parameters(), strict=True)]
    assert any(moved)  # it did train


@pytest.mark.parametrize(
    ("lit", "units", "dtype", "used"),
    [
        (0.1, 40, torch.float32, True),
        (0.1, 40, torch.float64, True),
        (0.1, 40, torch.float16, False),
        (0.1, 31, torch.float32, False),
        (0.1, 32, torch.float32, True),
        (0.6, 40, torch.float32, False),
    ],
    ids=str,
)
def test_zeros_are_left_out_where_that_pays(monkeypatch, lit, units, dtype, used):
    monkeypatch.setattr(sparsity, "UNITS", 32)
    given = problem([40, units, 3], ["relu", "identity"], "softmax_cross_entropy", torch.float32, "cpu", lit=lit)
    given = given._replace(x=given.x.to(dtype), network=given.network.to(dtype))
    engine, _ = engine_of(given, 6)
    engine.run_(order_of(given), DESCENTS[0])
    assert (engine._first is not None) == used
    monkeypatch.setattr(sparsity, "WORTH", given.x.numel() + 1)
    engine, _ = engine_of(given, 6)
    engine.run_(order_of(given), DESCENTS[0])
    assert engine._first is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("descent", [DESCENTS[0], DESCENTS[3]], ids=str)
@pytest.mark.parametrize("units", [1, 32, 33, 64, 65, 150])
@pytest.mark.parametrize("threads", [1, 2])
def test_units_are_divided_among_threads(units, threads, descent, dtype):
    given = problem([40, units, 3], ["relu", "identity"], "softmax_cross_entropy", dtype, "cpu", lit=0.1)
    order, before = order_of(given), torch.get_num_threads()
    expected = by_the_loop(given, order, 6, descent, l2=0.1)
    engine, parameters = engine_of(given, 6, l2=0.1)
    other = numba.get_num_threads()
    torch.set_num_threads(threads)
    try:
        engine.run_(order, descent)
        assert numba.get_num_threads() == other
    finally:
        torch.set_num_threads(before)
    assert engine._first is not None
    assert_all_close(parameters, expected.parameters, TRAJECTORY[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("units", [1, 33, 150])
def test_products_are_the_same_bits_however_many_threads_there_are(units, dtype):
    given = problem([40, units, 3], ["relu", "identity"], "softmax_cross_entropy", dtype, "cpu", lit=0.1)
    engine, _ = engine_of(given, 6)
    engine.run_(order_of(given), DESCENTS[0])
    first, before = engine._first, numba.get_num_threads()
    (batch,) = first.parts(len(given.x))
    delta = torch.randn(len(given.x), units, dtype=dtype, generator=torch.Generator().manual_seed(0))
    found = []
    try:
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(threads)
            weight, u = first.weight.clone(), torch.empty_like(delta)
            batch.add_gradient(weight, delta, -0.1)()
            batch.net_inputs(weight, torch.arange(units, dtype=dtype), u)()
            found += [weight, u]
    finally:
        numba.set_num_threads(before)
    for weight, u in zip(found[::2], found[1::2], strict=True):
        torch.testing.assert_close([weight, u], found[:2], rtol=0, atol=0)


@pytest.mark.parametrize("why", ["no numba", "no threads", "a compiler that fails"])
def test_zeros_are_multiplied_where_they_cannot_be_left_out(monkeypatch, caplog, why):
    if why == "no numba":
        monkeypatch.setitem(sys.modules, "nnlab.engine.sparse", None)
    elif why == "no threads":
        monkeypatch.setattr(numba, "threading_layer", lambda: "workqueue")
    else:
        monkeypatch.setattr(sparse, "net_inputs", lambda *given: 1 / 0)
    given = problem([40, 6, 3], ["relu", "identity"], "softmax_cross_entropy", torch.float64, "cpu", n=54, lit=0.1)
    order = order_of(given)
    engine, parameters = engine_of(given, 6)
    with caplog.at_level("INFO", "nnlab"):
        engine.run_(order, DESCENTS[0])
        engine.run_(order, DESCENTS[0])
    (record,) = [r for r in caplog.records if "zeros" in r.message]
    assert "takes longer" in record.message
    assert engine._first is None
    expected = by_the_loop(given, torch.cat([order, order]), 6, DESCENTS[0])
    assert_all_close(parameters, expected.parameters, TRAJECTORY[torch.float64])


def test_an_interrupt_keeps_what_was_learnt(monkeypatch):
    given = problem([40, 6, 3], ["relu", "identity"], "softmax_cross_entropy", torch.float64, "cpu", n=60, lit=0.1)
    order = order_of(given)
    engine, parameters = engine_of(given, 6)
    engine.run_(order[:0], DESCENTS[0])
    gather, chunks = engine._first.samples.gather_, []

    def interrupted(part):
        chunks.append(part)
        if len(chunks) == 3:
            raise KeyboardInterrupt
        return gather(part)

    engine._first.samples.chunk = 12
    monkeypatch.setattr(engine._first.samples, "gather_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.run_(order, DESCENTS[0])
    expected = by_the_loop(given, order[:24], 6, DESCENTS[0])
    assert_all_close(parameters, expected.parameters, TRAJECTORY[torch.float64])


@pytest.mark.parametrize("descent", DESCENTS, ids=str)
@pytest.mark.parametrize("lit", [1.0, 0.1], ids=["dense", "sparse"])
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_however_an_epoch_is_cut_into_runs_the_weights_are_the_same_bits(device, descent, lit, l2):
    given = problem([40, 8, 3], ["relu", "identity"], "softmax_cross_entropy", torch.float32, device, n=97, lit=lit)
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


@pytest.mark.parametrize("lit", [1.0, 0.1], ids=["dense", "sparse"])
def test_another_engine_goes_on_with_the_momentum_of_one(device, lit):
    given, descent = (
        problem([40, 8, 3], ["tanh", "identity"], "binary_cross_entropy", torch.float64, device, lit=lit),
        (Descent(0.1, momentum=0.9, weight_decay=0.01)),
    )
    order = order_of(given)
    one, expected = engine_of(given, 6)
    one.run_(order, descent)
    one.run_(order, descent)
    first, parameters = engine_of(given, 6)
    kept = [torch.zeros_like(p) for p in parameters]
    first.velocity = kept
    first.run_(order, descent)
    second = MLPEngine(parameters, given.network.activations, given.loss, given.x, given.target, batch_size=6)
    second.velocity = kept
    second.run_(order, descent)
    torch.testing.assert_close(parameters, expected, rtol=0, atol=0)
    torch.testing.assert_close(kept, one.velocity, rtol=0, atol=0)


@pytest.mark.parametrize("lit", [1.0, 0.1], ids=["dense", "sparse"])
def test_a_new_velocity_or_descent_is_used_from_then_on(device, lit):
    given = problem([40, 8, 3], ["relu", "identity"], "softmax_cross_entropy", torch.float64, device, lit=lit)
    order, engine_and_parameters = order_of(given), engine_of(given, 6)
    engine, parameters = engine_and_parameters
    engine.run_(order, Descent(0.1, momentum=0.9))
    engine.velocity = [torch.zeros_like(p) for p in parameters]
    middle = given._replace(network=_network_with(given, parameters))
    expected = by_the_loop(middle, order, 6, Descent(0.02, momentum=0.5))
    engine.run_(order, Descent(0.02, momentum=0.5))
    assert_all_close(parameters, expected.parameters, TRAJECTORY[torch.float64])


def _network_with(given: Problem, parameters: Sequence[Tensor]) -> torch.nn.Module:
    given.network.load_state_dict(dict(zip(given.network.state_dict(), parameters, strict=True)))
    return given.network


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_any_optimizer_is_given_the_gradients(device, reduction, l2, dtype):
    given = problem([7, 5, 3], ["tanh", "identity"], "softmax_cross_entropy", dtype, device, weighted=True)
    order = order_of(given)

    def bent(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        for p, g in zip(parameters, gradients, strict=True):
            p.sub_(0.05 * g.tanh() + 0.01 * g)

    expected = by_the_loop(given, order, 6, bent, reduction=reduction, l2=l2)
    engine, parameters = engine_of(given, 6, reduction=reduction, l2=l2)
    engine.run_(order, lambda gradients: bent(parameters, gradients))
    assert_all_close(parameters, expected.parameters, TRAJECTORY[dtype])


@pytest.mark.parametrize("descent", DESCENTS, ids=str)
@pytest.mark.parametrize("by_gradients", [False, True])
def test_dropout_masks_what_they_mask_in_the_pure_operations(device, descent, by_gradients):
    given = problem([7, 5, 4, 3], ["relu", "tanh", "identity"], "softmax_cross_entropy", torch.float64, device)
    order = order_of(given)

    def masks_of(seed: int):
        g = torch.Generator().manual_seed(seed)
        return lambda n: [(torch.rand(n, units, generator=g) < 0.6).to(given.x) / 0.6 for units in (5, 4)]

    update = (lambda p, g: [a.sub_(0.1 * b) for a, b in zip(p, g, strict=True)]) if by_gradients else descent
    expected = by_the_loop(given, order, 6, update, masks=masks_of(3))
    engine, parameters = engine_of(given, 6)
    run = engine.run_(order, (lambda g: update(parameters, g)) if by_gradients else descent, masks_of(3))
    assert_all_close(parameters, expected.parameters, TRAJECTORY[torch.float64])
    assert_close(run.outputs, expected.outputs, TRAJECTORY[torch.float64])
    plain = by_the_loop(given, order, 6, update)
    assert (run.outputs - plain.outputs).norm() > 0.1 * plain.outputs.norm()


def test_all_steps_share_what_dropout_is_computed_in():
    given = problem([7, 5, 4, 3], ["relu", "tanh", "identity"], "softmax_cross_entropy", torch.float64, "cpu")
    engine, _ = engine_of(given, 6)
    engine.run_(order_of(given), Descent(0.1), lambda n: [given.x.new_ones(n, units) for units in (5, 4)])
    operations = [operation for line in engine._lines.values() for operation in line]
    written = [each.keywords["out"].data_ptr() for each in operations if getattr(each, "func", None) is torch.mul]
    assert len(written) == 2 * len(engine._lines) > 2
    assert len(set(written)) == 2


@pytest.mark.parametrize("descent", DESCENTS, ids=str)
@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize("loss", LOSSES)
def test_bfloat16_arithmetic_moves_float32_parameters(device, loss, descent, l2):
    given = problem([30, 20, 3], ["relu", "identity"], loss, torch.float32, device)
    order, descent = order_of(given), descent._replace(lr=0.002)
    engine, parameters = engine_of(given, 6, dtype=torch.bfloat16, l2=l2)
    expected = by_the_loop(given, order, 6, descent, l2=l2)
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


@pytest.mark.parametrize("lit", [1.0, 0.1], ids=["dense", "sparse"])
def test_what_was_learnt_before_an_interrupt_is_kept(lit):
    given = problem([40, 8, 3], ["relu", "identity"], "softmax_cross_entropy", torch.float64, "cpu", lit=lit)
    engine, parameters = engine_of(given, 6)
    steps = iter(range(5))

    def masks(n: int) -> list[Tensor]:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return [torch.ones(n, 8, dtype=torch.float64)]

    with pytest.raises(KeyboardInterrupt):
        engine.run_(order_of(given), Descent(0.1), masks)
    expected = by_the_loop(given, order_of(given)[:30], 6, Descent(0.1))
    assert_all_close(parameters, expected.parameters, TRAJECTORY[torch.float64])


def test_bfloat16_computes_with_parameters_changed_by_another_hand():
    given = problem([30, 20, 3], ["relu", "identity"], "softmax_cross_entropy", torch.float32, "cpu")
    engine, parameters = engine_of(given, 60, dtype=torch.bfloat16)
    for p in parameters:
        p.mul_(-3)
    expected = mlp_forward(given.x, parameters, given.network.activations)[-1]
    assert_close(engine.outputs().float(), expected, RELATIVE[torch.bfloat16])
    assert_close(engine.run_(torch.arange(53), Descent(0.1)).outputs.float(), expected, RELATIVE[torch.bfloat16])


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_inputs_that_are_all_zero_teach_the_biases(l2):
    given = problem([7, 5, 3], ["relu", "identity"], "softmax_cross_entropy", torch.float64, "cpu")
    given = given._replace(x=torch.zeros_like(given.x))
    engine, parameters = engine_of(given, 6, l2=l2)
    expected = by_the_loop(given, order_of(given), 6, Descent(0.1), l2=l2)
    engine.run_(order_of(given), Descent(0.1))
    assert_all_close(parameters, expected.parameters, TRAJECTORY[torch.float64])


@pytest.mark.parametrize("lit", [1.0, 0.1], ids=["dense", "sparse"])
def test_a_sample_may_come_more_than_once(lit):
    given = problem([40, 8, 3], ["relu", "identity"], "softmax_cross_entropy", torch.float64, "cpu", lit=lit)
    order = torch.randint(0, 53, (53,))
    engine, parameters = engine_of(given, 6)
    expected = by_the_loop(given, order, 6, Descent(0.1))
    assert_close(engine.run_(order, Descent(0.1)).outputs, expected.outputs, TRAJECTORY[torch.float64])
    assert_all_close(parameters, expected.parameters, TRAJECTORY[torch.float64])


def test_parameters_that_are_not_contiguous_are_refused():
    given = problem([7, 5, 3], ["relu", "identity"], "softmax_cross_entropy", torch.float32, "cpu")
    parameters = [p.detach() for p in given.network.parameters()]
    parameters[2] = parameters[2].T.contiguous().T
    with pytest.raises(ArgumentError, match="contiguous in memory, those of layer 2 are not"):
        MLPEngine(parameters, given.network.activations, given.loss, given.x, given.target)


def test_no_samples_are_no_steps():
    given = problem([7, 5, 3], ["relu", "identity"], "softmax_cross_entropy", torch.float32, "cpu", n=0)
    engine, _ = engine_of(given, 6)
    assert engine.run_(torch.arange(0), Descent(0.1)).outputs.shape == (0, 3)
    assert engine.outputs().shape == (0, 3)


def test_an_empty_order_changes_nothing():
    given = problem([7, 5, 3], ["relu", "identity"], "softmax_cross_entropy", torch.float64, "cpu")
    engine, parameters = engine_of(given, 6)
    run = engine.run_(torch.arange(0), Descent(0.1))
    assert (run.outputs.shape, run.penalties.shape) == ((0, 3), (0,))
    torch.testing.assert_close(parameters, [p.detach() for p in given.network.parameters()], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("sizes", "activations"), NETWORKS, ids=str)
@pytest.mark.parametrize("lit", [1.0, 0.1], ids=["dense", "sparse"])
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_the_outputs_for_all_samples_are_forward_propagation(device, monkeypatch, sizes, activations, lit, l2, dtype):
    for module in ("mlp", "forward"):
        monkeypatch.setattr(f"nnlab.engine.{module}.AT_ONCE", 8)  # so that there are many parts, and a tail
    given = problem(sizes, activations, "softmax_cross_entropy", dtype, device, lit=lit)
    engine, parameters = engine_of(given, 6, l2=l2)
    for _ in range(2):  # before training, and after it
        assert_close(engine.outputs(), mlp_forward(given.x, parameters, activations)[-1])
        engine.run_(order_of(given), Descent(0.05, momentum=0.9))
    parameters[0].mul_(0.5)  # by another hand
    assert_close(engine.outputs(), mlp_forward(given.x, parameters, activations)[-1])


# The operations in place


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_in_place_is_its_operation(device, name, dtype):
    u = torch.randn(5, 7, dtype=dtype, device=device)
    u[0] = 0
    delta = torch.randn(5, 7, dtype=dtype, device=device)
    z = ACTIVATIONS[name].forward(u)
    expected = ACTIVATIONS[name].backward(delta, z)
    for operation in itertools.chain(ACTIVATE_[name](u), PULL_BACK_[name](delta, u)):
        operation()
    assert_close(u, z)
    assert_close(delta, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_in_place_is_its_operation(device, name, scale, dtype):
    y = scale * torch.randn(5, 7, dtype=dtype, device=device)
    labels = torch.randint(0, 7, (5,), device=device)
    unit = torch.eye(7, dtype=dtype, device=device)[labels]
    target = labels if LOSSES[name].target == "labels" else unit
    expected = LOSSES[name].backward(y.new_ones(()), y, target)
    delta = torch.full_like(y, torch.nan).T.contiguous().T
    for operation in DIFFERENTIATE_[name](y, unit, delta):
        operation()
    assert_close(delta, expected)
    assert set(DIFFERENTIATE_) == set(LOSSES)
    assert set(ACTIVATE_) == set(PULL_BACK_) == set(ACTIVATIONS)


# Bad input

GOOD = {"activations": ["relu", "identity"], "loss": "softmax_cross_entropy"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activations": ["relu"]}, "parameters must be two for each of 1 layers, got 4"),
        ({"activations": ["relu", "rely"]}, "activations must be one of"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"x": torch.zeros(9, 6)}, "weight must have shape (O, I) with I = 6 as in x, got (5, 7)"),
        ({"x": torch.zeros(9, 7, dtype=torch.float64)}, "weight must have the dtype of x"),
        ({"target": torch.zeros(8, dtype=torch.int64)}, "target must have shape (N,) with N = 9, got (8,)"),
        ({"target": torch.full((9,), 3)}, "target must hold labels from 0 to 2, got 3"),
        ({"loss": "sum_of_squares", "target": torch.zeros(9, 2)}, "target must have shape (N, 3), got (9, 2)"),
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
        (torch.tensor([0, 9]), Descent(0.1), "order must hold numbers from 0 to 8, the samples there are"),
        (torch.tensor([-1]), Descent(0.1), "order must hold numbers from 0 to 8, the samples there are"),
        (torch.tensor([0.0]), Descent(0.1), "order must be int64 (n,) on cpu, got float32 (1,) on cpu"),
        (torch.arange(10) % 9, Descent(0.1), "order must hold at most 9 numbers, got 10"),
        (torch.tensor([[0]]), Descent(0.1), "order must be int64 (n,) on cpu, got int64 (1, 1) on cpu"),
        (torch.tensor([0]), Descent(0.0), "lr must be a number greater than 0, got 0.0"),
        (torch.tensor([0]), Descent(0.1, momentum=1.0), "momentum must be less than 1, got 1.0"),
        (torch.tensor([0]), Descent(0.1, weight_decay=-1.0), "weight_decay must be a number of at least 0, got -1.0"),
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


def test_a_mean_over_weights_that_are_all_zero_is_refused():
    given = problem([7, 5, 3], GOOD["activations"], GOOD["loss"], torch.float32, "cpu", n=9, weighted=True)
    given.weight[4:8] = 0
    engine, _ = engine_of(given, 4)
    with pytest.raises(ArgumentError, match="sample_weight must not be zero for every sample"):
        engine.run_(torch.arange(9), Descent(0.1))
    summed, parameters = engine_of(given, 4, reduction="sum")
    summed.run_(torch.arange(4, 8), Descent(0.1))  # a sum of nothing moves nothing
    torch.testing.assert_close(parameters, [p.detach() for p in given.network.parameters()], rtol=0, atol=0)
