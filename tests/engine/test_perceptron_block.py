"""The rule in blocks against the rule sample by sample: equal to the last bit, whatever the numbers."""

from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits, load_iris

from nnlab.engine import perceptron_block, perceptron_rule_blocked
from nnlab.ops import StepFunction, bipolar_step, linear_forward, perceptron_rule, step
from nnlab.validation import ArgumentError
from tests.ops.oracles import Problem, check_rule, float_problem, integer_problem

BLOCKS = [1, 7, 64]
each_block = pytest.mark.parametrize("block", BLOCKS)
each_g = pytest.mark.parametrize("g", [step, bipolar_step])


@pytest.fixture
def redone(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The samples that were learnt by the sequential rule, as they come."""
    samples: list[torch.Tensor] = []

    def counting(x, *rest):
        samples.extend(x)
        return perceptron_rule(x, *rest)

    monkeypatch.setattr(perceptron_block, "perceptron_rule", counting)
    return samples


def assert_equal(problem: Problem, block: int) -> None:
    for blocked, sequential in zip(perceptron_rule_blocked(*problem, block), perceptron_rule(*problem), strict=True):
        assert torch.equal(blocked, sequential)


def real_data(name: str, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers full of ties: Iris in tenths of a centimetre, or the pixels of scikit-learn's digits."""
    data = load_iris() if name == "iris" else load_digits()
    x = torch.tensor(data.data * (10 if name == "iris" else 1), device=device).round().to(dtype)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1)).to(device)[:600]
    return x[order], torch.tensor(data.target, device=device)[order]


def one_vs_all(labels: torch.Tensor, g, dtype: torch.dtype) -> torch.Tensor:
    return g(torch.nn.functional.one_hot(labels).to(dtype) - 0.5)


@each_block
def test_equal_on_whole_numbers(block, dtype, device):
    for seed in range(60):
        assert_equal(integer_problem(seed, dtype, device), block)


@each_block
def test_equal_on_tenths_whose_scores_lie_within_rounding_of_zero(block, dtype, device):
    for seed in range(60):
        assert_equal(float_problem(seed, dtype, device), block)


def test_equal_where_squares_underflow(device):
    x, target, weight, bias, _, g = float_problem(214, torch.float32, device)
    for scale in (1e-25, 1e-38, 1e-42):
        assert_equal(Problem(x, target, weight * scale, bias * scale, scale / 10 if scale > 1e-40 else 1e-42, g), 64)


@pytest.mark.parametrize(("lr", "dtype"), [(0.1, torch.float32), (0.01, torch.float64)], ids=str)
def test_equal_over_epochs_of_real_data_at_any_learning_rate(lr, dtype, device):
    data = load_digits()
    x = torch.tensor(data.data / 16, dtype=dtype, device=device)
    target = one_vs_all(torch.tensor(data.target, device=device), step, dtype)
    weight, bias = x.new_zeros(10, 64), x.new_zeros(10)
    for _ in range(2):
        problem = Problem(x, target, weight, bias, lr, step)
        assert_equal(problem, 64)
        _, weight, bias = perceptron_rule_blocked(*problem)


@each_g
@each_block
def test_equal_on_random_numbers_for_ten_classes(block, g, dtype, device):
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        x, weight, bias = (torch.randn(s, generator=draw).to(device, dtype) for s in ((100, 20), (10, 20), (10,)))
        labels = torch.randint(0, 10, (100,), generator=draw).to(device)
        assert_equal(Problem(x, one_vs_all(labels, g, dtype), weight, bias, 0.1, g), block)


@each_g
@pytest.mark.parametrize("data", ["iris", "digits"])
@pytest.mark.parametrize("one_unit", [False, True], ids=["one-vs-all", "one unit"])
def test_equal_on_real_whole_numbers(data, g, one_unit, device):
    x, labels = real_data(data, torch.float64, device)
    target = one_vs_all(labels, g, torch.float64)
    target = target[:, 1:2] if one_unit else target
    for low, high in ((0, 0), (-3, 3)):  # a zero start and another
        weight = torch.randint(low, high + 1, (target.shape[1], x.shape[1]), device=device).double()
        bias = torch.randint(low, high + 1, (target.shape[1],), device=device).double()
        for epoch, block in enumerate((64, 7)):
            problem = Problem(x.flip(0) if epoch else x, target.flip(0) if epoch else target, weight, bias, 1.0, g)
            assert_equal(problem, block)
            _, weight, bias = perceptron_rule(*problem)


@each_g
def test_equal_on_iris_in_centimetres(g, dtype, device):
    x, labels = real_data("iris", dtype, device)
    target = one_vs_all(labels, g, dtype)
    weight, bias = x.new_zeros(3, 4), x.new_zeros(3)
    for _ in range(3):
        problem = Problem(x / 10, target, weight, bias, 0.1, g)
        assert_equal(problem, 64)
        _, weight, bias = perceptron_rule(*problem)


def test_from_a_zero_start_the_first_sample_is_redone(redone, dtype, device):
    problem = float_problem(12, dtype, device)
    problem = problem._replace(weight=torch.zeros_like(problem.weight), bias=torch.zeros_like(problem.bias))
    assert_equal(problem, 7)  # the first score is 0: the sequential rule says positive
    assert torch.equal(redone[0], problem.x[0])
    assert len(redone) < len(problem.x)


def test_whole_numbers_are_never_redone(redone, dtype, device):
    for seed in range(60):
        problem = integer_problem(seed, dtype, device)
        if problem.lr >= 1:
            assert_equal(problem, 7)
    assert not redone


def test_whole_numbers_too_large_to_be_exact_are_redone(redone, device):
    # 2²⁵ + 1 − 2²⁵ is 1, or in float32 0 where the 1 is added to the large number first
    x = torch.tensor([[2.0**25, 1.0, 2.0**25]], device=device)
    weight = torch.tensor([[1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]], device=device)
    assert_equal(Problem(x, x.new_zeros(1, 2), weight, x.new_zeros(2), 1.0, step), 1)
    assert len(redone) == 1


def test_a_score_within_rounding_of_zero_is_redone(redone, dtype, device):
    # u = 0.1 + 0.2 − 0.3 and so on, in an order in which their sum is 0 or some 1e-17, either side of the step
    weight = torch.tensor([[0.1, 0.2, -0.3], [-0.1, -0.2, 0.3], [0.3, 0.6, -0.9]], dtype=dtype, device=device)
    for factor in range(1, 40):
        x = torch.full((3, 3), factor, dtype=dtype, device=device)
        target = torch.eye(3, dtype=dtype, device=device)
        assert_equal(Problem(x, target, weight, x.new_zeros(3), 0.1, step), 3)
    assert len(redone) >= 39


@pytest.mark.parametrize(
    ("third", "start"),
    [
        ([0.75, -0.25], [-0.00075, 0.00025]),  # v once more, from a w that is nothing beside the first change
        ([0.75, 0.75], [-100.001, 100.0]),  # from a w that v is clear of, a sample that is not
    ],
)
def test_the_changes_within_a_block_count_in_its_rounding_bound(third, start, redone, dtype, device):
    # v = (¾, −¼) with d = 1 is judged 0, and w grows by v/8; with d = 0 it is judged 1, and w is taken back. What
    # the third sample has to be judged 0, some 1e-3 ε of w, has drowned in rounding by then: it is judged 1
    v, third, start = (torch.tensor([row], dtype=dtype, device=device) for row in ([0.75, -0.25], third, start))
    start = torch.finfo(dtype).eps * start
    target = v.new_tensor([[1.0], [0.0], [0.0]])
    problem = Problem(torch.cat([v, v, third]), target, start, v.new_zeros(1), 0.125, step)
    assert perceptron_rule(*problem)[0].flatten().tolist() == [-1.0, 1.0, 1.0]
    assert_equal(problem, 3)
    assert torch.equal(redone[-1], third[0])


def test_samples_are_not_redone_without_need(redone, dtype, device):
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=draw).to(device, dtype) for s in ((640, 20), (3, 20), (3,)))
    labels = torch.randint(0, 3, (640,), generator=draw).to(device)
    assert_equal(Problem(x, one_vs_all(labels, step, dtype), weight, bias, 0.1, step), 64)
    assert len(redone) <= (1 if dtype == torch.float32 else 0)


def test_numbers_that_are_not_finite_are_learnt_sample_by_sample(redone, dtype, device):
    problem = float_problem(7, dtype, device)
    for value in (float("nan"), float("inf")):
        x = problem.x.clone()
        x[1, 0] = value
        problem = problem._replace(x=x)
        blocked, sequential = perceptron_rule_blocked(*problem), perceptron_rule(*problem)
        for ours, expected in zip(blocked, sequential, strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)
    assert redone


@pytest.mark.parametrize("block", [0, -1, 2.0, True, "64"])
def test_a_block_that_holds_no_sample_is_refused(block, dtype, device):
    with pytest.raises(ArgumentError, match=rf"^block must be a whole number of at least 1, got {block!r}$"):
        perceptron_rule_blocked(*integer_problem(0, dtype, device), block)


# ---- what the other tests would show of a wrong rule, and of a call that is wrong ---------------------------------


def blocked(
    diagonal: int = -1,
    constant: int = 1,
    sweeps: int = 10_000,
    tail: bool = True,
    bias_mean: bool = False,
    previous: bool = False,
    eta: float | None = None,
) -> Callable[..., tuple[torch.Tensor, ...]]:
    """The rule in blocks of 7, right as it stands, wrong with any argument given."""

    def rule(
        x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, lr: float, g: StepFunction
    ) -> tuple[torch.Tensor, ...]:
        errors, start = [], (weight, bias)
        for x_b, d_b in zip(x.split(7), target.split(7), strict=True):
            if not tail and len(x_b) < 7:
                errors.append(torch.zeros_like(d_b))
                break
            net = linear_forward(x_b, *(start if previous else (weight, bias)))
            before = (x_b @ x_b.T + constant).tril(diagonal)
            error = g(net) - d_b
            for _ in range(min(sweeps, len(x_b))):
                error = g(net - (eta or lr) * before @ error) - d_b
            weight = weight - lr * error.T @ x_b
            bias = bias - lr * (error.mean(0) if bias_mean else error.sum(0))
            errors.append(error)
        return torch.cat(errors), weight, bias

    return rule


WRONG_RULES = {
    "own error counted": blocked(diagonal=0),
    "later errors counted": blocked(diagonal=1000),
    "bias not among the inputs": blocked(constant=0),
    "no sweep": blocked(sweeps=0),
    "one sweep": blocked(sweeps=1),
    "tail left out": blocked(tail=False),
    "bias a mean for a sum": blocked(bias_mean=True),
    "weights of the start of the epoch": blocked(previous=True),
    "eta left out": blocked(eta=1.0),
}


def check_rules(rule: Callable[..., tuple[torch.Tensor, ...]]) -> None:
    for seed in range(60):
        check_rule(rule, seed, torch.float64, torch.device("cpu"))


@pytest.mark.parametrize("rule", [perceptron_rule_blocked, blocked()])
def test_the_right_rule_is_accepted(rule):
    check_rules(rule)


@pytest.mark.parametrize("name", WRONG_RULES)
def test_the_wrong_rule_is_refused(name):
    with pytest.raises(AssertionError):
        check_rules(WRONG_RULES[name])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x", lambda t: t[0], r"^x must have shape \(N, I\), got "),
        ("target", lambda t: t[:-1], r"^target must have shape \(N, K\) with N = \d+ as in x, got "),
        ("target", lambda t: t + 0.5, r"^target must hold 0 and 1 alone, got "),
        ("weight", lambda t: t[:, :-1], r"^weight must have shape \(K, I\) with K = \d+ as in target and I = \d+ as"),
        ("bias", lambda t: t[None], r"^bias must have shape \(K,\) with K = \d+ as in target, got "),
        ("lr", lambda lr: 0.0, r"^lr must be a number greater than 0, got 0\.0$"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(name, change, message, device):
    arguments = integer_problem(0, torch.float64, device)._asdict()
    with pytest.raises(ArgumentError, match=message):
        perceptron_rule_blocked(**{**arguments, name: change(arguments[name])})


def test_no_samples_change_nothing(device):
    x, weight, bias = (torch.ones(s, device=device) for s in ((0, 3), (2, 3), (2,)))
    error, new_weight, new_bias = perceptron_rule_blocked(x, x[:, :2], weight, bias, 1.0)
    assert error.shape == (0, 2)
    assert torch.equal(new_weight, weight)
    assert torch.equal(new_bias, bias)
