"""Losses at numbers worked by hand, their reductions and sample weights, and what they refuse."""

import math

import pytest
import torch

from nnlab.ops import (
    LOSSES,
    perceptron_loss_backward,
    perceptron_loss_forward,
    sum_of_squares_backward,
    sum_of_squares_forward,
)
from nnlab.validation import ArgumentError
from tests.tolerances import assert_close

PAIRS = {name: (row.forward, row.backward) for name, row in LOSSES.items()}
PAIRS["perceptron_loss"] = (perceptron_loss_forward, perceptron_loss_backward)
LABELS = [name for name, row in LOSSES.items() if row.target == "labels"]
VALUES = [name for name in PAIRS if name not in LABELS]  # one target value per output

each_loss = pytest.mark.parametrize("name", PAIRS)
each_reduction = pytest.mark.parametrize("reduction", ["sum", "mean"])


def sample(name: str, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, (5, 2), and a target for the loss."""
    logits = torch.randn(5, 2, dtype=dtype, device=device)
    labels = torch.tensor([0, 1, 1, 0, 1], device=device)
    return logits, labels if name in LABELS else torch.eye(2, dtype=dtype, device=device)[labels]


BY_HAND = [
    # ½ ((1 − 3)² + (2 − 1)²) = 2.5; y − t
    ("sum_of_squares", [[1.0, 2.0]], [[3.0, 1.0]], 2.5, [[-2.0, 1.0]]),
    # σ(ln 3) = 3/4 for t = 1, σ(0) = 1/2 for t = 0: −log 3/4 − log 1/2 = log 8/3
    ("binary_cross_entropy", [[math.log(3), 0.0]], [[1.0, 0.0]], math.log(8 / 3), [[-0.25, 0.5]]),
    # softmax(ln 2, ln 3, ln 5) = (0.2, 0.3, 0.5); −log 0.3
    ("softmax_cross_entropy", [[math.log(v) for v in (2, 3, 5)]], [1], -math.log(0.3), [[0.2, -0.7, 0.5]]),
    # y = (1, 0, 1), d = (0, 1, 1): 1·2 − 1·(−3) + 0 = 5; score 0 counts as positive
    ("perceptron_loss", [[2.0, -3.0, 0.0]], [[0.0, 1.0, 1.0]], 5.0, [[1.0, -1.0, 0.0]]),
]


@pytest.mark.parametrize(
    ("name", "logits", "target", "errors", "gradient"), BY_HAND, ids=[name for name, *_ in BY_HAND]
)
def test_by_hand(name, logits, target, errors, gradient, dtype, device):
    forward, backward = PAIRS[name]
    logits = torch.tensor(logits, dtype=dtype, device=device)
    target = torch.tensor(target, dtype=None if name in LABELS else dtype, device=device)
    assert_close(forward(logits, target), logits.new_tensor(errors))
    assert_close(backward(logits.new_tensor(2.0), logits, target), 2 * logits.new_tensor(gradient))
    # twice the same sample: the sum doubles, the mean does not, and each row has half the mean's gradient
    logits, target = torch.cat([logits, logits]), torch.cat([target, target])
    assert_close(forward(logits, target, "sum"), logits.new_tensor(2 * errors))
    assert_close(forward(logits, target, "mean"), logits.new_tensor(errors))
    assert_close(backward(logits.new_tensor(1.0), logits, target, "mean"), logits.new_tensor(2 * gradient) / 2)


def test_the_worked_example_of_the_chapter(dtype, device):
    # y = −0.666, t = 1: E = ½ · 1.666² = 1.388, and the first factor of δ3 is y − t = −1.666
    y, t = (torch.tensor([[v]], dtype=dtype, device=device) for v in (-0.666, 1.0))
    assert_close(sum_of_squares_forward(y, t), y.new_tensor(1.387778))
    assert_close(sum_of_squares_backward(y.new_tensor(1.0), y, t), y.new_tensor([[-1.666]]))


@each_reduction
@pytest.mark.parametrize("name", ["binary_cross_entropy", "softmax_cross_entropy", "perceptron_loss"])
def test_far_logits_are_finite_in_float32(name, reduction, device):
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4], [-1e4, -1e4]], device=device)
    right = torch.tensor([0, 1, 0, 1], device=device)
    for labels in (right, 1 - right):
        target = labels if name in LABELS else torch.eye(2, device=device)[labels]
        forward, backward = PAIRS[name]
        error = forward(logits, target, reduction)
        gradient = backward(logits.new_tensor(1.0), logits, target, reduction)
        assert torch.isfinite(error)
        assert error >= 0
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() <= 1
    # the last labels are the wrong ones: each sample errs by 2e4 at most, and the first by 2e4, not by log(1e-8)
    assert error > (1e4 if reduction == "mean" else 4e4) / 2


@each_loss
def test_a_mean_with_sample_weights_divides_by_their_sum(name, dtype, device):
    logits, target = sample(name, dtype, device)
    forward, backward = PAIRS[name]
    weight = logits.new_tensor([1.0, 0.0, 2.5, 0.5, 3.0])  # sums to 7
    single = torch.stack([forward(logits[n : n + 1], target[n : n + 1]) for n in range(5)])
    one = logits.new_tensor(1.0)
    assert_close(forward(logits, target, "mean", weight), (single * weight).sum() / 7)
    assert_close(forward(logits, target, "sum", weight), (single * weight).sum())
    expected = backward(one, logits, target) * weight[:, None]
    assert_close(backward(one, logits, target, "sum", weight), expected)
    assert_close(backward(one, logits, target, "mean", weight), expected / 7)


@each_reduction
@each_loss
def test_weights_of_one_are_no_weights(name, reduction, dtype, device):
    logits, target = sample(name, dtype, device)
    forward, backward = PAIRS[name]
    ones, scale = logits.new_ones(5), logits.new_tensor(-1.7)
    assert_close(forward(logits, target, reduction, ones), forward(logits, target, reduction))
    expected = backward(scale, logits, target, reduction)
    assert_close(backward(scale, logits, target, reduction, ones), expected)


@each_reduction
@each_loss
def test_a_sample_of_weight_two_is_the_sample_twice(name, reduction, dtype, device):
    logits, target = sample(name, dtype, device)
    forward, backward = PAIRS[name]
    twice = torch.tensor([0, 1, 2, 2, 3, 4], device=device)
    weight, scale = logits.new_tensor([1.0, 1.0, 2.0, 1.0, 1.0]), logits.new_tensor(0.3)
    assert_close(forward(logits, target, reduction, weight), forward(logits[twice], target[twice], reduction))
    of_each = backward(scale, logits[twice], target[twice], reduction)
    expected = torch.zeros_like(logits).index_add_(0, twice, of_each)
    assert_close(backward(scale, logits, target, reduction, weight), expected)


@pytest.mark.parametrize("name", VALUES)
def test_the_error_is_summed_over_the_outputs(name, dtype, device):
    logits, target = sample(name, dtype, device)
    forward = PAIRS[name][0]
    per_output = [forward(logits[:, k : k + 1], target[:, k : k + 1], "mean") for k in range(2)]
    assert_close(forward(logits, target, "mean"), per_output[0] + per_output[1])


@pytest.mark.parametrize("name", [n for n in PAIRS if n != "sum_of_squares"])
def test_the_perfect_answer_costs_nothing(name, dtype, device):
    target = torch.tensor([0, 1], device=device)
    logits = 2e4 * torch.eye(2, dtype=dtype, device=device) - 1e4
    values = target if name in LABELS else (logits > 0).to(dtype)
    assert PAIRS[name][0](logits, values) == 0


@each_loss
def test_an_empty_batch_sums_to_zero_and_has_no_mean(name, dtype, device):
    logits, target = (t[:0] for t in sample(name, dtype, device))
    forward, backward = PAIRS[name]
    assert forward(logits, target, "sum") == 0
    assert backward(logits.new_tensor(1.0), logits, target, "sum").shape == (0, 2)
    with pytest.raises(ArgumentError, match=r"^reduction must be 'sum' for a batch of 0 samples, got 'mean'$"):
        forward(logits, target, "mean")
    with pytest.raises(ArgumentError, match=r"^reduction must be 'sum' for a batch of 0 samples, got 'mean'$"):
        backward(logits.new_tensor(1.0), logits, target, "mean")


def test_every_loss_is_worked_by_hand():
    assert {name for name, *_ in BY_HAND} == set(PAIRS)


@pytest.mark.parametrize("name", LOSSES)
def test_the_columns_of_a_row_are_its_functions(name, dtype, device):
    row, (logits, target) = LOSSES[name], sample(name, dtype, device)
    single = [row.forward(u[None], t[None]) for u, t in zip(logits, target, strict=True)]
    assert_close(row.errors(logits, target), torch.stack(single))
    assert_close(row.errors(logits, target), row.reference(logits, target))
    values = torch.eye(2, dtype=dtype, device=device)[target] if row.target == "labels" else target
    # ∂Eₙ/∂u is the output less the target, whatever the layout, and so is the text
    for u in (logits, logits.T.contiguous().T):
        assert_close(row.output(u) - values, row.backward(logits.new_tensor(1.0), logits, target))
    assert row.is_difference
    assert row.delta == "{y} − {t}"
    if row.log_probabilities is not None:
        assert_close(row.log_probabilities(logits).exp(), row.output(logits))


@pytest.mark.parametrize("name", LOSSES)
def test_the_words_of_a_row_are_its_functions(name):
    """The texts that ``nnlab trace`` fills with numbers, computed."""
    row, (logits, target) = LOSSES[name], sample(name, torch.float64, torch.device("cpu"))
    values = torch.eye(2, dtype=torch.float64)[target] if row.target == "labels" else target

    def computed(text: str, **numbers: object) -> float:
        text = text.format(**{key: f"({value})" for key, value in numbers.items()})
        for old, new in {
            "·": "*",
            "−": "-",
            "²": "**2",
            "½": "0.5",
            "^": "**",
            "ln ": "ln",
            "[": "(",
            "]": ")",
        }.items():
            text = text.replace(old, new)
        return eval(text, {"e": math.e, "ln": math.log, "lnσ": lambda u: -math.log1p(math.exp(-u))})

    for u, t, error, y in zip(logits, values, row.errors(logits, target), row.output(logits), strict=True):
        exponentials = "+".join(f"e**({u_k})" for u_k in u.tolist())
        outputs = [computed(row.output_formula, u=u_k, exponentials=exponentials) for u_k in u.tolist()]
        assert outputs == pytest.approx(y.tolist(), rel=1e-12)
        terms = (
            computed(row.term, y=y_k, t=t_k, u=u_k)
            for y_k, t_k, u_k in zip(y.tolist(), t.tolist(), u.tolist(), strict=True)
        )
        assert sum(terms) == pytest.approx(error.item(), rel=1e-12)


# ---- bad input: the forward and the backward refuse it with the same words ----------------------------------------


def refused(name: str, logits: torch.Tensor, target: object, *rest: object, match: str) -> None:
    forward, backward = PAIRS[name]
    with pytest.raises(ArgumentError, match=match):
        forward(logits, target, *rest)
    with pytest.raises(ArgumentError, match=match):
        backward(logits.new_tensor(1.0), logits, target, *rest)


@each_loss
def test_arguments_that_do_not_fit_are_refused(name, device):
    logits, target = sample(name, torch.float32, device)
    refused(name, logits, target, "none", match=r"^reduction must be one of 'sum', 'mean', got 'none'$")
    shape = r"must have shape \(N,\) with N = 5.*, got \(5, 1\)$"
    refused(name, logits, target, "sum", logits[:, :1], match=f"^sample_weight {shape}")
    refused(name, logits[0], target, match=r"^logits must have shape \(N, K\), got \(2,\)$")
    if name in LABELS:
        refused(name, logits, target[:, None], match=f"^target {shape}")
        refused(name, logits, target.int(), match="^target must hold class labels as int64, got int32$")
    else:
        shape = r"must have shape \(N, K\) with N = 5 as in logits and K = 2 as in logits, got"
        refused(name, logits, target[:, :1], match=rf"^target {shape} \(5, 1\)$")  # which would broadcast
        refused(name, logits, target[:, 0], match=rf"^target {shape} \(5,\)$")


@each_loss
def test_values_that_do_not_fit_are_refused_on_the_cpu(name):
    logits, target = sample(name, torch.float32, torch.device("cpu"))
    message = "^sample_weight must be finite and not negative$"
    refused(name, logits, target, "mean", logits.new_tensor([1, 1, -1e-9, 1, 1]), match=message)
    message = "^sample_weight must not be zero for every sample$"
    refused(name, logits, target, "mean", logits.new_zeros(5), match=message)
    bounds = LOSSES[name].bounds if name in LOSSES else None
    if name in LABELS:
        refused(name, logits, target + 1, match="^target must hold labels from 0 to 1, got 2$")
    if bounds is not None:
        low, high = bounds
        target[1, 1] = high + 0.25
        message = f"^target must hold values from {low} to {high}, got {target.min():g} to {target.max():g}$"
        refused(name, logits, target, match=message)
    if name == "perceptron_loss":
        refused(name, logits, target / 2, match=r"^target must hold 0 and 1 alone, got 0\.5$")
