"""The perceptron's engine against the rule: equal to the last bit on a CPU, and on whole numbers everywhere."""

import math
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
import torch
from sklearn.datasets import load_digits, load_iris
from torch import Tensor

from nnlab.engine import PerceptronEngine, perceptron, rounding_bound
from nnlab.networks import PerceptronBank
from nnlab.ops import perceptron_rule
from nnlab.validation import ArgumentError
from tests.pairwise import pairwise
from tests.tolerances import assert_same

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.float64]
THREADS = {"1 thread": 1, "2 threads": 2}
N_UNITS = [1, 8, 10, 17, 35]  # groups: one of 8 lanes; one of 16, or two of 8; two of 16; three of 16


@pytest.fixture(params=THREADS.values(), ids=THREADS)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """How many there are to share the units."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


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


def differing(
    bank: PerceptronBank, x: Tensor, labels: Tensor, lr: float, error: Tensor
) -> tuple[int, int, dict[str, Tensor]]:
    """How many decisions are not the rule's, of these how many outside the bound, and the state that the errors give.

    The rule judges each sample with the weights that the errors before it have made.
    """
    desired = bank.desired(labels)
    twin = a_bank(bank.weight, bank.bias, bank.bipolar)
    twin.load_state_dict(bank.state_dict())
    different = outside = 0
    for n in range(len(x)):
        one = slice(n, n + 1)
        expected, _, _ = perceptron_rule(x[one], desired[one], twin.weight, twin.bias, lr, bank.g)
        u = twin.bias.double() + twin.weight.double() @ x[n].double()
        other = (error[one] != expected)[0]
        different += int(other.sum())
        outside += int((other & (u.abs() > rounding_bound(x[one], twin.weight, twin.bias)[0])).sum())
        twin.store_(error[one], twin.weight - lr * error[n][:, None] * x[n], twin.bias - lr * error[n], x[one], lr)
    return different, outside, dict(twin.state_dict())


def assert_learns_as_the_rule(
    bank: PerceptronBank, x: Tensor, labels: Tensor, orders: list[Tensor], lr: float
) -> PerceptronEngine:
    """Run after run: errors and state are the rule's to the last bit; on CUDA, but for decisions within the bound."""
    engine = PerceptronEngine(bank, x, labels)
    for order in orders:
        before = a_bank(bank.weight, bank.bias, bank.bipolar)
        before.load_state_dict(bank.state_dict())
        error = engine.run_(order, lr)
        if x.device.type == "cpu" or all(bool((t == t.round()).all()) for t in (x, bank.weight, bank.bias)):
            expected, state = by_the_rule(before, x[order], labels[order], lr)
            assert torch.equal(error, expected)
        else:
            _, outside, state = differing(before, x[order], labels[order], lr, error)
            assert outside == 0
        assert_same(bank.state_dict(), state)
    return engine


def draw_problem(
    seed: int, kind: str, n_units: int, dtype: torch.dtype, device: torch.device, bipolar: bool
) -> tuple[PerceptronBank, Tensor, Tensor, list[Tensor], float]:
    """A random problem: its numbers whole, or tenths whose scores lie within rounding of 0, or any."""
    draw = torch.Generator().manual_seed(seed)
    n, n_features = (int(torch.randint(1, high, (), generator=draw)) for high in (50, 40))

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


@pairwise(["threads"], n_units=N_UNITS, kind=["whole", "tenths", "any"], dtype=DTYPES, threads=THREADS)
def test_equal_to_the_rule(device, n_units, kind, dtype, threads):
    on_cuda = device.type == "cuda"  # where units know nothing of one another, and Triton's interpreter takes long
    for seed in range(2 if on_cuda else 6):
        problem = draw_problem(
            seed, kind, min(n_units, 3) if on_cuda else n_units, dtype, device, bipolar=seed % 2 == 1
        )
        assert_learns_as_the_rule(*problem)


@pairwise(
    data={"whole pixels": ("digits", 1.0), "pixels": ("digits", 0.01), "ties": ("iris", 0.1)},
    dtype=DTYPES,
)
def test_equal_to_the_rule_over_epochs_of_real_data(device, data, dtype):
    (name, lr) = data
    raw = load_digits() if name == "digits" else load_iris()  # whole pixels; tenths of a centimetre, full of ties
    keep = torch.randperm(len(raw.target), generator=torch.Generator().manual_seed(0))
    keep = keep[: 150 if device.type == "cpu" else 30]
    x, labels = torch.tensor(raw.data)[keep].to(device, dtype), torch.tensor(raw.target)[keep].to(device)
    bank = PerceptronBank(x.shape[1], int(labels.max()) + 1, dtype=dtype, device=device)
    orders = [torch.randperm(len(x), device=device) for _ in range(2)]
    assert_learns_as_the_rule(bank, x, labels, orders, lr)


def test_the_average_is_that_of_the_weights_as_each_sample_left_them(device):
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


@pytest.mark.parametrize("chunk", [1 << 16, 16], ids=["one chunk", "chunks"])
def test_however_an_epoch_is_cut_into_runs_the_bits_are_the_same(device, monkeypatch, chunk):
    bank, x, labels, _, lr = draw_problem(4, "any", 3, torch.float32, device, False)
    twin, order = a_bank(bank.weight, bank.bias), torch.randint(0, len(x), (100,), device=device)
    whole = PerceptronEngine(bank, x, labels).run_(order, lr)
    in_chunks(monkeypatch, chunk)
    engine = PerceptronEngine(twin, x, labels)
    parts = [engine.run_(part, lr) for part in order.split([1, 30, 0, 2, 67])]
    assert torch.equal(torch.cat(parts), whole)
    assert_same(twin.state_dict(), bank.state_dict())


def in_chunks(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Let whatever learns do so in chunks of so many samples."""
    learner_for = perceptron.learner_for

    def chunked(*arguments: object) -> perceptron.Learner:
        learner = learner_for(*arguments)
        learner.chunk = chunk
        return learner

    monkeypatch.setattr(perceptron, "learner_for", chunked)


def test_a_run_goes_on_from_what_the_bank_holds(device):
    bank, x, labels, orders, lr = draw_problem(6, "whole", 3, torch.float64, device, True)
    engine = PerceptronEngine(bank, x, labels)
    engine.run_(orders[0], lr)
    bank.load_state_dict(PerceptronBank(x.shape[1], 3, bipolar=True, dtype=x.dtype).state_dict())
    bank.weight[1] = 5
    bank.bias[2] = -2
    error, state = by_the_rule(bank, x[orders[0]], labels[orders[0]], lr)
    assert torch.equal(engine.run_(orders[0], lr), error)
    assert_same(bank.state_dict(), state)


def test_tensors_of_any_layout(device):
    for seed, layout in enumerate([lambda t: t.T.contiguous().T, lambda t: t.repeat(1, 2)[:, ::2], lambda t: t[::2]]):
        bank, x, labels, _, lr = draw_problem(seed + 3, "tenths", 3, torch.float64, device, False)
        bank.weight.data, x = bank.weight.T.contiguous().T, layout(x)[:, : x.shape[1]]
        every_other = torch.arange(2 * len(x), device=device)[::2] // 2
        assert_learns_as_the_rule(bank, x, labels[: len(x)], [every_other], lr)


@pytest.mark.filterwarnings("default")
def test_more_features_than_fit_in_two_bytes(device):
    x = torch.zeros(4, 70_000, device=device)
    x[:, [0, 65_535, 65_536, 69_999]] = torch.randn(4, 4, device=device)
    bank = PerceptronBank(70_000, 2, device=device)
    labels = torch.tensor([0, 1, 1, 0], device=device)
    assert_learns_as_the_rule(bank, x, labels, [torch.arange(4, device=device)] * 2, 0.1)


@pytest.mark.parametrize("value", [255.0, 256.0, -1.0, 0.5, 2.0**24 + 1, 0.1], ids=str)
def test_values_that_a_smaller_dtype_does_not_hold(device, value):
    x = torch.tensor([[value, 1.0], [1.0, value]], dtype=torch.float64, device=device)
    bank, twin = (PerceptronBank(2, 1, dtype=torch.float64, device=device) for _ in range(2))
    labels, order = torch.tensor([0, 1], device=device), torch.tensor([0, 1, 1, 0], device=device)
    PerceptronEngine(bank, x, labels).run_(order, 1.0)
    assert_same(bank.state_dict(), by_the_rule(twin, x[order], labels[order], 1.0)[1])


@pytest.mark.parametrize("scale", [1e-25, 1e-42, 1e19, 1e30])
def test_numbers_near_the_ends_of_what_float32_represents(scale):
    bank, x, labels, orders, _ = draw_problem(5, "any", 3, torch.float32, CPU, False)
    bank.weight.mul_(scale)
    bank.bias.mul_(scale)
    assert_learns_as_the_rule(bank, x, labels, orders, scale / 10)


def test_engines_in_several_threads_do_not_disturb_one_another(threads):
    problems = [draw_problem(seed, "any", 17, torch.float64, CPU, False) for seed in range(4)]
    expected = []
    for bank, x, labels, orders, lr in problems:
        expected.append(by_the_rule(bank, x[orders[0]], labels[orders[0]], lr)[1])
    engines = [PerceptronEngine(bank, x, labels) for bank, x, labels, _, _ in problems]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda engine, problem: engine.run_(problem[3][0], problem[4]), engines, problems))
    for (bank, *_), state in zip(problems, expected, strict=True):
        assert_same(bank.state_dict(), state)


@pytest.mark.filterwarnings("default")
def test_half_precision_is_learnt_by_the_rule_itself(device, caplog):
    perceptron.warn_once.cache_clear()
    assert_learns_as_the_rule(*draw_problem(2, "whole", 3, torch.bfloat16, device, False))
    assert "bfloat16" in caplog.text


# ---- the rounding bound ------------------------------------------------------------------------------------------


def ties(dtype: torch.dtype, device: torch.device) -> Iterator[tuple[PerceptronBank, Tensor, Tensor]]:
    """Problems whose net inputs are 0 but for rounding: each sample is tenths, and the weights cancel in pairs."""
    for seed in range(10 if device.type == "cpu" else 1):
        draw = torch.Generator().manual_seed(seed)
        x = torch.randint(1, 100, (30, 12), generator=draw).to(dtype) / 10
        half = torch.randint(-50, 50, (3, 6), generator=draw).to(dtype) / 10
        x[:, 6:] = x[:, :6] * 3
        order = torch.randperm(12, generator=draw)  # w·x = Σ (half x − half/3 · 3x) in some order
        weight = torch.cat([half, -half / 3], 1)[:, order]
        yield a_bank(weight.to(device), weight.new_zeros(3).to(device)), x[:, order].to(device), torch.arange(30) % 3


def test_ties_are_decided_as_the_rule_does_or_within_the_bound(device):
    for dtype in DTYPES:
        for bank, x, labels in ties(dtype, device):
            assert_learns_as_the_rule(bank, x, labels.to(device), [torch.arange(30, device=device)], 0.1)


def backwards(bank: PerceptronBank, x: Tensor, labels: Tensor, lr: float, shift: float = 0.0) -> Tensor:
    """The errors of a rule that sums from right to left, and that is wrong by ``shift`` times Σ |terms|."""
    weight, bias, errors = bank.weight, bank.bias, []
    for x_n, d in zip(x, bank.desired(labels), strict=True):
        terms = torch.column_stack([bias.double(), weight.double() * x_n])
        u = terms.flip(1).cumsum(1)[:, -1] + shift * terms.abs().sum(1)
        errors.append(bank.g(u).to(d.dtype) - d)
        weight, bias = weight - lr * errors[-1][:, None] * x_n, bias - lr * errors[-1]
    return torch.stack(errors)


def test_a_sum_in_another_order_differs_within_the_bound_alone_and_a_wrong_sum_beyond_it():
    different = outside = 0
    for bank, x, labels in ties(torch.float64, CPU):
        one, none, _ = differing(bank, x, labels, 0.1, backwards(bank, x, labels, 0.1))
        different += one
        assert none == 0
        outside += differing(bank, x, labels, 0.1, backwards(bank, x, labels, 0.1, -0.5))[1]
    assert different > 0
    assert outside > 0


def test_the_bound_is_twice_the_error_of_a_sum_and_a_little():
    x = torch.tensor([[3.0, -4.0]])
    size = Fraction(2) + 3 * Fraction(5) + 4 * Fraction(7)
    bound = rounding_bound(x, torch.tensor([[5.0, 7.0]]), torch.tensor([-2.0]))
    unit = Fraction(1, 2**53)
    exact = 2 * 3 * unit / (1 - 3 * unit) * size
    assert bound.shape == (1, 1)
    assert exact < Fraction(bound.item()) < exact * Fraction(102, 100)


# ---- what goes wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_units", "call"), [(3, 1), (3, 2), (17, 2)])
def test_an_interrupted_run_leaves_the_bank_as_a_sample_left_it(device, monkeypatch, n_units, call):
    bank, x, labels, _, lr = draw_problem(8, "whole", n_units, torch.float64, device, False)
    in_chunks(monkeypatch, 8)
    twin, order = a_bank(bank.weight, bank.bias), torch.arange(20, device=device) % len(x)
    engine = PerceptronEngine(bank, x, labels)
    engine.run_(order[:4], lr)
    learner = engine._learner
    learn_, calls = learner.learn_, []

    def interrupted(*arguments: object) -> Tensor:
        calls.append(1)
        errors = learn_(*arguments)  # whole, but the interrupt comes before the bank is known to be so
        if len(calls) == call:
            raise KeyboardInterrupt
        return errors

    learner.learn_ = interrupted
    with pytest.raises(KeyboardInterrupt):
        engine.run_(order[4:], lr)
    learner.learn_ = learn_
    learnt = order[: 4 + 8 * (call - 1)]
    assert_same(bank.state_dict(), by_the_rule(twin, x[learnt], labels[learnt], lr)[1])
    engine.run_(order[len(learnt) :], lr)
    assert_same(bank.state_dict(), by_the_rule(twin, x[order], labels[order], lr)[1])


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # by Triton's interpreter
@pytest.mark.parametrize("n", [0, 1, 6, 10])
def test_weights_that_overflow_are_named_and_the_bank_is_as_it_was(device, n):
    x = torch.ones(11, 2, device=device)
    x[n] = 3e38  # the only sample that unit 1 errs at: its weights become −inf with η = 2
    bank = a_bank(torch.tensor([[0.0, 0.0], [1.0, 1.0]]).to(device), torch.tensor([1.0, -3.0]).to(device))
    before = {name: value.clone() for name, value in bank.state_dict().items()}
    engine = PerceptronEngine(bank, x, torch.zeros(11, dtype=torch.int64, device=device))
    with pytest.raises(
        FloatingPointError, match=f"^the weights of unit 1 are not finite after sample {n} of this call$"
    ):
        engine.run_(torch.arange(11, device=device), 2.0)
    assert_same(bank.state_dict(), before)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bank_that_is_not_finite_is_named(value):
    bank = PerceptronBank(2, 3)
    bank.weight[2, 1] = value
    with pytest.raises(FloatingPointError, match=r"^the weights of unit 2 were not finite before this call$"):
        PerceptronEngine(bank, torch.ones(4, 2), torch.zeros(4).long()).run_(torch.arange(4), 1.0)


@pytest.mark.filterwarnings("default")
def test_without_numba_the_rule_itself_learns_and_one_warning_says_so(monkeypatch, caplog):
    perceptron.warn_once.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in ("perceptron_loop", "compiled"):
        monkeypatch.delitem(sys.modules, f"nnlab.engine.{name}", raising=False)
    for seed in (1, 2):
        assert_learns_as_the_rule(*draw_problem(seed, "tenths", 3, torch.float64, CPU, False))
    perceptron.warn_once.cache_clear()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "pip install 'nnlab[fast]'" in caplog.text
    assert "times slower" in caplog.text


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["triton", "nnlab.engine.perceptron_triton"], ids=["missing", "does not compile"])
def test_where_triton_cannot_compile_the_loop_of_the_cpu_learns_and_a_warning_says_so(monkeypatch, caplog, name):
    perceptron.warn_once.cache_clear()
    if name == "triton":
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, "nnlab.engine.perceptron_triton", raising=False)
    else:
        from nnlab.engine import perceptron_triton

        def learn_(*arguments: object) -> Tensor:
            raise RuntimeError("Failed to find C compiler")

        monkeypatch.setattr(perceptron_triton.TritonKernel, "learn_", learn_)
    bank, x, labels, orders, lr = draw_problem(3, "any", 3, torch.float64, CPU, False)
    on_cuda = a_bank(bank.weight.cuda(), bank.bias.cuda())
    engine = PerceptronEngine(on_cuda, x.cuda(), labels.cuda())
    for order in orders:
        error, state = by_the_rule(bank, x[order], labels[order], lr)
        assert torch.equal(engine.run_(order.cuda(), lr).cpu(), error)
        assert_same({name: value.cpu() for name, value in on_cuda.state_dict().items()}, state)
        bank.load_state_dict(state)
    perceptron.warn_once.cache_clear()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "pip install triton" in caplog.text


# ---- arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(4, 3)}, r"^x must have shape \(N, I\) with I = 2 as in weight, got \(4, 3\)$"),
        ({"x": torch.ones(4, 2).double()}, "^x must have the dtype of weight, float32, got float64$"),
        (
            {"x": torch.ones(4, 2).index_fill(0, torch.tensor([2, 3]), math.nan)},
            "^x must hold finite values, sample 2 ",
        ),
        ({"x": torch.ones(4, 2).index_fill(0, torch.tensor([1]), math.inf)}, "^x must hold finite values, sample 1 "),
        ({"labels": torch.tensor([0, 1, 2, 3])}, "^labels must hold labels from 0 to 2, got 3$"),
        ({"labels": torch.zeros(3).long()}, r"^labels must have shape \(N,\) with N = 4, got \(3,\)$"),
    ],
)
def test_samples_that_do_not_fit_the_bank_are_refused(device, change, message):
    arguments = {"x": torch.ones(4, 2), "labels": torch.zeros(4).long()} | change
    with pytest.raises(ArgumentError, match=message):
        PerceptronEngine(PerceptronBank(2, 3, device=device), **{k: v.to(device) for k, v in arguments.items()})


@pytest.mark.parametrize(
    ("order", "lr", "message"),
    [
        (torch.tensor([0, 4]), 1.0, "^order must hold indices from 0 to 3, the samples there are$"),
        (torch.tensor([-1]), 1.0, "^order must hold indices from 0 to 3"),
        (torch.tensor([0.0]), 1.0, r"^order must be int64 \(n,\) on \w+(:0)?, got float32 \(1,\) on \w+(:0)?$"),
        (torch.tensor([[0]]), 1.0, r"^order must be int64 \(n,\) on \w+(:0)?, got int64 \(1, 1\) on"),
        (torch.tensor([0]), 0.0, r"^lr must be a number greater than 0, got 0\.0$"),
    ],
)
def test_a_run_that_cannot_be_is_refused_and_changes_nothing(device, order, lr, message):
    bank = PerceptronBank(2, 3, device=device)
    engine = PerceptronEngine(bank, torch.ones(4, 2, device=device), torch.zeros(4, device=device).long())
    with pytest.raises(ArgumentError, match=message):
        engine.run_(order.to(device), lr)
    assert_same(bank.state_dict(), PerceptronBank(2, 3, device=device).state_dict())


@pytest.mark.cuda
def test_an_order_on_another_device_is_refused():
    engine = PerceptronEngine(
        PerceptronBank(2, 3, device="cuda"), torch.ones(4, 2).cuda(), torch.zeros(4).long().cuda()
    )
    with pytest.raises(ArgumentError, match=r"^order must be int64 \(n,\) on cuda:0, got int64 \(1,\) on cpu$"):
        engine.run_(torch.tensor([0]), 1.0)


def test_a_bank_that_has_changed_its_dtype_is_refused():
    bank = PerceptronBank(2, 3)
    engine = PerceptronEngine(bank, torch.ones(4, 2), torch.zeros(4).long())
    bank.double()
    with pytest.raises(ArgumentError, match=r"^weight must have the dtype of x, float32, got float64$"):
        engine.run_(torch.arange(4), 1.0)


def test_no_samples_change_nothing(device):
    bank = PerceptronBank(2, 3, device=device)
    engine = PerceptronEngine(bank, torch.ones(0, 2, device=device), torch.zeros(0, device=device).long())
    assert engine.run_(torch.arange(0, device=device), 1.0).shape == (0, 3)
    assert_same(bank.state_dict(), PerceptronBank(2, 3, device=device).state_dict())
    with pytest.raises(ArgumentError, match=r"^order must be empty, there are no samples$"):
        engine.run_(torch.zeros(1, device=device).long(), 1.0)
