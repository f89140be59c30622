"""The rule in blocks against the rule sample by sample: equal to the last bit, whatever the numbers."""

import pytest
import torch
from nnlab.ops.perceptron_sample import sample_error
from sklearn.datasets import load_digits, load_iris

from nnlab.ops import bipolar_step, perceptron_block, perceptron_rule, perceptron_rule_blocked, step
from nnlab.validation import ArgumentError
from tests.ops.oracles import Problem, float_problem, integer_problem

BLOCKS = [1, 2, 7, 64, 1000]
each_block = pytest.mark.parametrize("block", BLOCKS)
each_g = pytest.mark.parametrize("g", [step, bipolar_step])


@pytest.fixture
def redone(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The samples that were judged as the sequential rule does, as they come."""
    samples: list[torch.Tensor] = []

    def counting(x, *rest):
        samples.append(x)
        return sample_error(x, *rest)

    monkeypatch.setattr(perceptron_block, "sample_error", counting)
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


@pytest.mark.parametrize("lr", [0.1, 0.01])
def test_equal_over_epochs_of_real_data_at_any_learning_rate(lr, dtype, device):
    data = load_digits()
    x = torch.tensor(data.data / 16, dtype=dtype, device=device)
    target = one_vs_all(torch.tensor(data.target, device=device), step, dtype)
    weight, bias = x.new_zeros(10, 64), x.new_zeros(10)
    for _ in range(4):
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
