"""The perceptron's engine against the rule sample by sample: equal to the last bit, whatever computes it."""

import logging
import sys
from collections.abc import Iterator

import pytest
import torch
from sklearn.datasets import load_digits, load_iris
from torch import Tensor

from nnlab.engine import PerceptronEngine, lockstep, perceptron
from nnlab.networks import PerceptronBank
from nnlab.ops import perceptron_rule
from nnlab.validation import ArgumentError
from tests.pairwise import pairwise
from tests.tolerances import assert_same

DTYPES = [torch.float32, torch.float64]
LOOPS = ["compiled", "blocked"]
THREADS = {"1 thread": 1, "2 threads": 2}


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What computes a run: the device's compiled loop, or tensor operations."""
    if request.param == "blocked":
        monkeypatch.setattr(perceptron, "compiled_loop", lambda device: None)
        monkeypatch.setattr(perceptron, "CHUNK", 16)
    return str(request.param)


@pytest.fixture(params=THREADS.values(), ids=THREADS)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """How many there are to share the units."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def redone(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The samples that the compiled loop left to the sequential rule, as they come."""
    samples: list[Tensor] = []
    error_of = lockstep.sample_error
    monkeypatch.setattr(lockstep, "sample_error", lambda x, *rest: samples.append(x) or error_of(x, *rest))
    return samples


def a_bank(weight: Tensor, bias: Tensor, bipolar: bool = False) -> PerceptronBank:
    """A bank that has just started from these weights."""
    n_units, n_features = weight.shape
    bank = PerceptronBank(n_features, n_units, bipolar=bipolar, dtype=weight.dtype, device=weight.device)
    bank.weight.copy_(weight)
    bank.bias.copy_(bias)
    return bank


def by_the_rule(bank: PerceptronBank, x: Tensor, labels: Tensor, lr: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The errors, and the bank's state afterwards, from the rule sample by sample and the definition of the lags."""
    error, weight, bias = perceptron_rule(x, bank.desired(labels), bank.weight, bank.bias, lr, bank.g)
    weight_lag, bias_lag = bank.weight_lag, bank.bias_lag
    for n, (error_n, x_n) in enumerate(zip(error, x, strict=True)):
        change = error_n * lr * (n + bank.n_samples)
        weight_lag, bias_lag = weight_lag - change[:, None] * x_n, bias_lag - change
    n_samples = bank.n_samples + len(x)
    state = {"weight": weight, "bias": bias, "weight_lag": weight_lag, "bias_lag": bias_lag, "n_samples": n_samples}
    return error, state


def assert_learns_as_the_rule(
    bank: PerceptronBank, x: Tensor, labels: Tensor, orders: list[Tensor], lr: float
) -> PerceptronEngine:
    """Run after run, errors and the whole state of the bank are the rule's to the last bit."""
    engine = PerceptronEngine(bank, x, labels)
    for order in orders:
        error, state = by_the_rule(bank, x[order], labels[order], lr)
        assert_same({"error": engine.run_(order, lr)} | bank.state_dict(), {"error": error} | state)
    return engine


def draw_problem(
    seed: int, kind: str, n_units: int, dtype: torch.dtype, device: torch.device, bipolar: bool
) -> tuple[PerceptronBank, Tensor, Tensor, list[Tensor], float]:
    """A random problem: its numbers whole, or tenths whose scores lie within rounding of 0, or any."""
    draw = torch.Generator().manual_seed(seed)
    n, n_features = (int(torch.randint(1, high, (), generator=draw)) for high in (50, 20))

    def numbers(*shape: int) -> Tensor:
        if kind == "any":
            return torch.randn(shape, generator=draw).to(device, dtype)
        whole = torch.randint(-3, 4, shape, generator=draw)
        sparse = whole * (torch.rand(shape, generator=draw) < [0.3, 1.0][seed % 2])
        return (sparse if kind == "whole" else sparse / 10).to(device, dtype)

    bank = a_bank(numbers(n_units, n_features), numbers(n_units), bipolar)
    if seed // 2 % 2:
        bank.weight.zero_()
        bank.bias.zero_()
    labels = torch.randint(0, max(2, n_units), (n,), generator=draw).to(device)
    orders = [torch.randperm(n, generator=draw), torch.randint(0, n, (n // 2 + 1,), generator=draw)]
    return bank, numbers(n, n_features), labels, [order.to(device) for order in orders], 1.0 if kind == "whole" else 0.1


@pairwise(
    ["loop", "threads"], n_units=[1, 10, 17], kind=["whole", "tenths", "any"], loop=LOOPS, dtype=DTYPES, threads=THREADS
)
def test_equal_to_the_rule(device, n_units, kind, loop, dtype, threads):
    for seed in range(8):
        assert_learns_as_the_rule(*draw_problem(seed, kind, n_units, dtype, device, bipolar=seed >= 4))


@pairwise(
    ["loop", "threads"],
    data={"whole pixels": ("digits", 1.0), "pixels": ("digits", 0.01), "ties": ("iris", 0.1), "iris": ("iris", 1.0)},
    loop=LOOPS,
    dtype=DTYPES,
    threads=THREADS,
)
def test_equal_to_the_rule_over_epochs_of_real_data(device, data, loop, dtype, threads):
    (name, lr) = data
    raw = load_digits() if name == "digits" else load_iris()  # whole pixels; tenths of a centimetre, full of ties
    keep = torch.randperm(len(raw.target), generator=torch.Generator().manual_seed(0))[:300]
    x, labels = torch.tensor(raw.data)[keep].to(device, dtype), torch.tensor(raw.target)[keep].to(device)
    bank = PerceptronBank(x.shape[1], int(labels.max()) + 1, dtype=dtype, device=device)
    orders = [torch.randperm(len(x), device=device) for _ in range(2)]
    assert_learns_as_the_rule(bank, x, labels, orders, lr)


def test_the_average_is_that_of_the_weights_as_each_sample_left_them(device, loop):
    x, labels = torch.randint(0, 256, (90, 7), device=device).double(), torch.randint(0, 3, (90,), device=device)
    bank = PerceptronBank(7, 3, dtype=torch.float64, device=device)
    engine, weight, bias, total = PerceptronEngine(bank, x, labels), bank.weight.clone(), bank.bias.clone(), 0
    for order in torch.randperm(90, device=device).split(40):
        engine.run_(order, 1.0)
        for n in order.tolist():
            _, weight, bias = perceptron_rule(x[n : n + 1], bank.desired(labels[n : n + 1]), weight, bias, 1.0)
            total = total + torch.cat([weight, bias[:, None]], 1)
    lag = torch.cat([bank.weight_lag, bank.bias_lag[:, None]], 1)
    last = torch.cat([bank.weight, bank.bias[:, None]], 1)
    assert torch.equal(90 * last - lag, total)  # on whole numbers no bit is lost
    torch.testing.assert_close(torch.cat([bank.averaged()[0], bank.averaged()[1][:, None]], 1), total / 90)


def test_however_an_epoch_is_cut_into_runs_the_bits_are_the_same(device, loop):
    bank, x, labels, _, lr = draw_problem(4, "any", 3, torch.float32, device, False)
    twin, order = a_bank(bank.weight, bank.bias), torch.randint(0, len(x), (100,), device=device)
    whole = PerceptronEngine(bank, x, labels).run_(order, lr)
    engine = PerceptronEngine(twin, x, labels)
    parts = [engine.run_(part, lr) for part in order.split([1, 30, 0, 2, 67])]
    assert torch.equal(torch.cat(parts), whole)
    assert_same(twin.state_dict(), bank.state_dict())


def test_a_run_goes_on_from_what_the_bank_holds(device, loop):
    bank, x, labels, orders, lr = draw_problem(6, "any", 3, torch.float64, device, True)
    engine = PerceptronEngine(bank, x, labels)
    engine.run_(orders[0], lr)
    bank.load_state_dict(PerceptronBank(x.shape[1], 3, bipolar=True, dtype=x.dtype).state_dict())
    bank.weight[1] = 0.5
    bank.bias[2] = -2
    error, state = by_the_rule(bank, x[orders[0]], labels[orders[0]], lr)
    assert torch.equal(engine.run_(orders[0], lr), error)
    assert_same(bank.state_dict(), state)


def test_samples_of_any_layout(device, loop):
    for seed, layout in enumerate([lambda t: t.T.contiguous().T, lambda t: t.repeat(1, 2)[:, ::2], lambda t: t[::2]]):
        bank, x, labels, _, lr = draw_problem(seed + 3, "tenths", 3, torch.float64, device, False)
        x = layout(x)[:, : x.shape[1]]
        bank = PerceptronBank(x.shape[1], 3, dtype=x.dtype, device=device)
        assert_learns_as_the_rule(bank, x, labels[: len(x)], [torch.arange(len(x), device=device)], lr)


def test_more_features_than_fit_in_two_bytes(device, loop):
    x = torch.zeros(4, 70_000, device=device)
    x[:, [0, 65_535, 65_536, 69_999]] = torch.randn(4, 4, device=device)
    bank = PerceptronBank(70_000, 2, device=device)
    labels = torch.tensor([0, 1, 1, 0], device=device)
    assert_learns_as_the_rule(bank, x, labels, [torch.arange(4, device=device)] * 2, 0.1)


@pytest.mark.parametrize("scale", [1e-25, 1e-38, 1e-42, 1e19, 1e30, 1e38])
def test_numbers_near_the_ends_of_what_is_represented(device, loop, scale):
    for seed in (4, 5, 8):
        bank, x, labels, orders, _ = draw_problem(seed, "any", 3, torch.float32, device, False)
        bank.weight.mul_(scale)
        bank.bias.mul_(scale)
        x = x * scale if scale > 1 else x
        assert_learns_as_the_rule(bank, x, labels, orders, scale / 10 if 1e-40 < scale < 1 else 1e-40)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_learnt_as_the_rule_does(device, loop, value):
    bank, x, labels, orders, lr = draw_problem(8, "any", 3, torch.float64, device, False)
    x[len(x) // 2, 0] = value
    assert_learns_as_the_rule(bank, x, labels, orders[:1], lr)


def test_half_precision_is_learnt_in_tensor_operations(device):
    bank, x, labels, orders, lr = draw_problem(2, "whole", 3, torch.bfloat16, device, False)
    assert_learns_as_the_rule(bank, x, labels, orders, lr)


# ---- certainty: what the compiled loop leaves to the sequential rule --------------------------------------------


def ties(dtype: torch.dtype, n_units: int = 3) -> Iterator[tuple[PerceptronBank, Tensor, Tensor]]:
    """Problems whose scores are 0 but for rounding: each sample is tenths, and the weights cancel in pairs."""
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        x = torch.randint(1, 100, (30, 12), generator=draw).to(dtype) / 10
        half = torch.randint(-50, 50, (n_units, 6), generator=draw).to(dtype) / 10
        x[:, 6:] = x[:, :6] * 3
        order = torch.randperm(12, generator=draw)  # w·x = Σ (half x − half/3 · 3x) in some order
        yield a_bank(torch.cat([half, -half / 3], 1)[:, order], torch.zeros(n_units, dtype=dtype)), x[:, order], order


@pairwise(["threads"], n_units=[3, 11], dtype=DTYPES, threads=THREADS)
def test_scores_within_rounding_of_zero_are_left_to_the_rule(redone, n_units, dtype, threads):
    labels, first = torch.arange(30) % n_units, torch.arange(30)
    for bank, x, _ in ties(dtype, n_units):
        assert_learns_as_the_rule(bank, x, labels, [first, first.flip(0)], 0.1)
    assert len(redone) >= 20


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_the_bound_the_mistakes_would_be_others(dtype, monkeypatch):
    """The problems above tell a loop that trusts its own sums from the rule."""
    limits = lockstep.Limits
    monkeypatch.setattr(lockstep, "Limits", lambda eps, tiny, *rest: limits(0.0, 0.0, *rest))
    labels, first, wrong = torch.arange(30) % 3, torch.arange(30), 0
    for bank, x, _ in ties(dtype):
        expected, _ = by_the_rule(bank, x, labels, 0.1)
        wrong += int((PerceptronEngine(bank, x, labels).run_(first, 0.1) != expected).sum())
    assert wrong > 0


@pytest.mark.parametrize("ulps", [-1, 0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_score_a_last_bit_from_zero(redone, dtype, ulps):
    # u = 1 · 1 − 1 · 1, where the second 1 is the number below it, itself, or the number above it; no order rounds
    weight = torch.tensor([[1.0, -1.0]], dtype=dtype).repeat(4, 1)
    weight[:, 1] = torch.nextafter(weight[:, 1], weight[:, 1] + ulps)
    x = torch.ones(1, 2, dtype=dtype)
    bank = a_bank(weight, torch.zeros(4, dtype=dtype))
    engine = PerceptronEngine(bank, x, torch.tensor([1]))
    high = float(ulps >= 0)
    assert engine.run_(torch.arange(1), 1.0).tolist() == [[high, high - 1, high, high]]
    assert len(redone) == (ulps != 0)  # 1 − 1 is whole, and its sum exact


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_weight_that_has_grown_is_less_certain(redone, dtype):
    # w starts next to nothing and becomes 0.1 x₁; its bias goes back to 0, and x₂ is orthogonal but for rounding
    for seed in range(20):
        half = torch.randint(1, 100, (2, 6), generator=torch.Generator().manual_seed(seed)).to(dtype) / 10
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
        x = torch.stack([half.flatten(), torch.zeros(12, dtype=dtype), torch.cat([half[1], -half[0]])])[:, order]
        bank = a_bank(-1e-25 * x[:1], torch.zeros(1, dtype=dtype))
        assert_learns_as_the_rule(bank, x, torch.tensor([1, 0, 1]), [torch.arange(3)], 0.1)
    assert len(redone) >= 10


def test_whole_numbers_too_large_to_be_exact_are_left_to_the_rule(redone):
    # 2²⁵ + 1 − 2²⁵ is 1, or in float32 0 where the 1 is added to the large number first
    x = torch.tensor([[2.0**25, 1.0, 2.0**25]])
    bank = a_bank(torch.tensor([[1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]), torch.zeros(2))
    assert_learns_as_the_rule(bank, x, torch.tensor([0]), [torch.arange(1)], 1.0)
    assert len(redone) == 1


def test_samples_are_not_left_to_the_rule_without_need(redone):
    for dtype in DTYPES:
        for seed in range(4, 20, 4):  # from a start that is not 0
            assert_learns_as_the_rule(*draw_problem(seed, "any", 10, dtype, torch.device("cpu"), False))
        for seed in range(12):
            assert_learns_as_the_rule(*draw_problem(seed, "whole", 3, dtype, torch.device("cpu"), True))
    assert not redone


# ---- interruption, and what is not installed --------------------------------------------------------------------


@pytest.mark.parametrize("n_units", [3, 11])
@pytest.mark.parametrize("last", [1, 2, 3])
def test_an_interrupted_run_leaves_the_bank_as_a_sample_left_it(monkeypatch, threads, n_units, last):
    bank, x, _ = next(ties(torch.float64, n_units))
    labels, order, calls, error_of = torch.arange(30) % n_units, torch.randperm(30), [], lockstep.sample_error

    def interrupted(*arguments: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == last:
            raise KeyboardInterrupt
        return error_of(*arguments)

    twin, engine = a_bank(bank.weight, bank.bias), PerceptronEngine(bank, x, labels)
    monkeypatch.setattr(lockstep, "sample_error", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.run_(order, 0.1)
    n = int(bank.n_samples)
    assert n < 30
    assert n or last == 1 or threads > 1 < n_units - 3  # units that have met different samples have met none
    assert_same(bank.state_dict(), by_the_rule(twin, x[order[:n]], labels[order[:n]], 0.1)[1])
    engine.run_(order[n:], 0.1)
    assert_same(bank.state_dict(), by_the_rule(twin, x[order], labels[order], 0.1)[1])


def test_a_run_that_is_interrupted_with_units_at_different_samples_leaves_the_bank_as_it_was(monkeypatch):
    # sample 2 ties for the units of the second group alone: their weights cancel but for rounding
    x = torch.tensor([[0.1, 0.3], [0.3, 0.1], [0.7, 2.1], [0.2, 0.5]], dtype=torch.float64)
    weight = torch.tensor([[1.0, 1.0]] * 4 + [[0.9, -0.3]] * 4, dtype=torch.float64)
    bank, before = a_bank(weight, torch.zeros(8, dtype=torch.float64)), torch.get_num_threads()
    state = {name: value.clone() for name, value in bank.state_dict().items()}
    loop = perceptron.compiled_loop("cpu")(bank, x, torch.tensor([0, 1, 2, 3]))

    def interrupted(*arguments: Tensor) -> Tensor:
        raise KeyboardInterrupt

    seen = []
    groups = lockstep.Groups
    monkeypatch.setattr(lockstep, "Groups", lambda *given: seen.append(groups(*given)) or seen[-1])
    monkeypatch.setattr(lockstep, "sample_error", interrupted)
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_(torch.tensor([2, 0, 1, 3]), 1e-3)
    finally:
        torch.set_num_threads(before)
    assert seen[0].state[:, 0].tolist() == [4, 0]
    assert_same(bank.state_dict(), state)


def test_an_interrupted_run_in_tensor_operations_does_so_too(device, monkeypatch):
    monkeypatch.setattr(perceptron, "compiled_loop", lambda device: None)
    monkeypatch.setattr(perceptron, "CHUNK", 8)
    bank, x, labels, _, lr = draw_problem(8, "any", 3, torch.float64, device, False)
    twin, learn, order = a_bank(bank.weight, bank.bias), perceptron.learn_blocked_, torch.arange(20) % len(x)
    order = order.to(device)

    def interrupted(bank: PerceptronBank, *rest: object) -> Tensor:
        if bank.n_samples == 16:
            raise KeyboardInterrupt
        return learn(bank, *rest)

    monkeypatch.setattr(perceptron, "learn_blocked_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        PerceptronEngine(bank, x, labels).run_(order, lr)
    assert_same(bank.state_dict(), by_the_rule(twin, x[order[:16]], labels[order[:16]], lr)[1])


def test_without_numba_tensor_operations_serve_and_one_line_says_so(monkeypatch, caplog):
    perceptron.compiled_loop.cache_clear()
    for name in ("numba", "llvmlite"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("lockstep", "layout", "rule"):
        monkeypatch.delitem(sys.modules, f"nnlab.engine.{name}", raising=False)
    try:
        with caplog.at_level(logging.INFO, "nnlab"):
            for seed in (1, 2):
                assert_learns_as_the_rule(*draw_problem(seed, "tenths", 3, torch.float64, torch.device("cpu"), False))
    finally:
        perceptron.compiled_loop.cache_clear()
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "numba" in caplog.text
    assert "takes longer" in caplog.text


# ---- arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(4, 3)}, r"^x must have shape \(N, I\) with I = 2 as in weight, got \(4, 3\)$"),
        ({"x": torch.ones(4, 2).double()}, "^x must have the dtype of weight, float32, got float64$"),
        ({"labels": torch.tensor([0, 1, 2, 3])}, "^labels must hold labels from 0 to 2, got 3$"),
        ({"labels": torch.zeros(3).long()}, r"^labels must have shape \(N,\) with N = 4, got \(3,\)$"),
    ],
)
def test_samples_that_do_not_fit_the_bank_are_refused(change, message):
    arguments = {"x": torch.ones(4, 2), "labels": torch.zeros(4).long()} | change
    with pytest.raises(ArgumentError, match=message):
        PerceptronEngine(PerceptronBank(2, 3), **arguments)


@pytest.mark.parametrize(
    ("order", "lr", "message"),
    [
        (torch.tensor([0, 4]), 1.0, "^order must hold numbers from 0 to 3"),
        (torch.tensor([-1]), 1.0, "^order must hold numbers from 0 to 3"),
        (torch.tensor([0.0]), 1.0, r"^order must be int64 \(n,\) on cpu, got float32 \(1,\) on cpu$"),
        (torch.tensor([[0]]), 1.0, r"^order must be int64 \(n,\) on cpu, got int64 \(1, 1\) on cpu$"),
        (torch.tensor([0]), 0.0, r"^lr must be a number greater than 0, got 0\.0$"),
    ],
)
def test_a_run_that_cannot_be_is_refused_and_changes_nothing(order, lr, message, loop):
    bank = PerceptronBank(2, 3)
    with pytest.raises(ArgumentError, match=message):
        PerceptronEngine(bank, torch.ones(4, 2), torch.zeros(4).long()).run_(order, lr)
    assert_same(bank.state_dict(), PerceptronBank(2, 3).state_dict())


def test_a_bank_that_has_changed_its_dtype_is_refused(loop):
    bank = PerceptronBank(2, 3)
    engine = PerceptronEngine(bank, torch.ones(4, 2), torch.zeros(4).long())
    bank.double()
    with pytest.raises(ArgumentError, match=r"^weight must have the dtype of x, float32, got float64$"):
        engine.run_(torch.arange(4), 1.0)


def test_no_samples_change_nothing(device, loop):
    bank = PerceptronBank(2, 3, device=device)
    engine = PerceptronEngine(bank, torch.ones(0, 2, device=device), torch.zeros(0, device=device).long())
    assert engine.run_(torch.arange(0, device=device), 1.0).shape == (0, 3)
    assert_same(bank.state_dict(), PerceptronBank(2, 3, device=device).state_dict())
