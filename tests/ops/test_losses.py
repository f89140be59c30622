import math

import pytest
import torch

from nnlab.ops import LOSSES, sum_of_squares_backward, sum_of_squares_forward
from nnlab.validation import ArgumentError
from tests.ops.oracles import (
    OPS,
    Case,
    calls,
    check_autograd,
    check_central_differences,
    check_precision,
    pairs,
)
from tests.tolerances import assert_close

NAMES = ["sum_of_squares", "binary_cross_entropy", "softmax_cross_entropy", "perceptron_loss"]
VALUES = ["sum_of_squares", "binary_cross_entropy", "perceptron_loss"]  # one target value per output

each_loss = pytest.mark.parametrize("name", NAMES)
each_reduction = pytest.mark.parametrize("reduction", ["sum", "mean"])


def sample(name: str, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, (5, 2), and a target for the loss."""
    arguments = calls(dtype, device)[f"{name}_forward"]
    return arguments["logits"], arguments["target"]


@pytest.mark.parametrize(
    ("name", "logits", "target", "errors", "gradient"),
    [
        # ½ ((1 − 3)² + (2 − 1)²) = 2.5; y − t
        ("sum_of_squares", [[1.0, 2.0]], [[3.0, 1.0]], 2.5, [[-2.0, 1.0]]),
        # σ(ln 3) = 3/4 for t = 1, σ(0) = 1/2 for t = 0: −log 3/4 − log 1/2 = log 8/3
        ("binary_cross_entropy", [[math.log(3), 0.0]], [[1.0, 0.0]], math.log(8 / 3), [[-0.25, 0.5]]),
        # softmax(ln 2, ln 3, ln 5) = (0.2, 0.3, 0.5); −log 0.3
        ("softmax_cross_entropy", [[math.log(v) for v in (2, 3, 5)]], [1], -math.log(0.3), [[0.2, -0.7, 0.5]]),
        # y = (1, 0, 1), d = (0, 1, 1): 1·2 − 1·(−3) + 0 = 5; score 0 counts as positive
        ("perceptron_loss", [[2.0, -3.0, 0.0]], [[0.0, 1.0, 1.0]], 5.0, [[1.0, -1.0, 0.0]]),
    ],
)
def test_by_hand(name, logits, target, errors, gradient, dtype, device):
    forward, backward = OPS[name][:2]
    logits = torch.tensor(logits, dtype=dtype, device=device)
    target = torch.tensor(target, dtype=None if name == "softmax_cross_entropy" else dtype, device=device)
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


@pytest.mark.parametrize(("name", "case"), pairs(*NAMES), ids=str)
def test_agrees_with_autograd(name: str, case: Case, dtype, device):
    check_autograd(OPS[name], case, dtype, device)


@pytest.mark.parametrize(("name", "case"), pairs(*NAMES, smooth=True), ids=str)
def test_agrees_with_central_differences(name: str, case: Case, device):
    check_central_differences(OPS[name], case, device)


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "case"), pairs(*NAMES), ids=str)
def test_as_precise_as_torch(name: str, case: Case, low, device):
    check_precision(OPS[name], case, low, device)


@each_reduction
@pytest.mark.parametrize("name", ["binary_cross_entropy", "softmax_cross_entropy", "perceptron_loss"])
def test_far_logits_are_finite_in_float32(name, reduction, device):
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4], [-1e4, -1e4]], device=device)
    right = torch.tensor([0, 1, 0, 1], device=device)
    for labels in (right, 1 - right):
        target = labels if name == "softmax_cross_entropy" else torch.eye(2, device=device)[labels]
        forward, backward = OPS[name][:2]
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
    forward, backward = OPS[name][:2]
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
    forward, backward = OPS[name][:2]
    ones, scale = logits.new_ones(5), logits.new_tensor(-1.7)
    assert_close(forward(logits, target, reduction, ones), forward(logits, target, reduction))
    expected = backward(scale, logits, target, reduction)
    assert_close(backward(scale, logits, target, reduction, ones), expected)


@each_reduction
@each_loss
def test_a_sample_of_weight_two_is_the_sample_twice(name, reduction, dtype, device):
    logits, target = sample(name, dtype, device)
    forward, backward = OPS[name][:2]
    twice = torch.tensor([0, 1, 2, 2, 3, 4], device=device)
    weight, scale = logits.new_tensor([1.0, 1.0, 2.0, 1.0, 1.0]), logits.new_tensor(0.3)
    assert_close(forward(logits, target, reduction, weight), forward(logits[twice], target[twice], reduction))
    of_each = backward(scale, logits[twice], target[twice], reduction)
    expected = torch.zeros_like(logits).index_add_(0, twice, of_each)
    assert_close(backward(scale, logits, target, reduction, weight), expected)


@pytest.mark.parametrize("name", VALUES)
def test_the_error_is_summed_over_the_outputs(name, dtype, device):
    logits, target = sample(name, dtype, device)
    forward = OPS[name].forward
    per_output = [forward(logits[:, k : k + 1], target[:, k : k + 1], "mean") for k in range(2)]
    assert_close(forward(logits, target, "mean"), per_output[0] + per_output[1])


@pytest.mark.parametrize("name", [n for n in NAMES if n != "sum_of_squares"])
def test_the_perfect_answer_costs_nothing(name, dtype, device):
    target = torch.tensor([0, 1], device=device)
    logits = 2e4 * torch.eye(2, dtype=dtype, device=device) - 1e4
    values = target if name == "softmax_cross_entropy" else (logits > 0).to(dtype)
    assert OPS[name].forward(logits, values) == 0


@each_loss
def test_an_empty_batch_sums_to_zero_and_has_no_mean(name, dtype, device):
    logits, target = (t[:0] for t in sample(name, dtype, device))
    forward, backward = OPS[name][:2]
    assert forward(logits, target, "sum") == 0
    assert backward(logits.new_tensor(1.0), logits, target, "sum").shape == (0, 2)
    with pytest.raises(ArgumentError, match=r"^reduction must be 'sum' for a batch of 0 samples, got 'mean'$"):
        forward(logits, target, "mean")
    with pytest.raises(ArgumentError, match=r"^reduction must be 'sum' for a batch of 0 samples, got 'mean'$"):
        backward(logits.new_tensor(1.0), logits, target, "mean")


def test_every_loss_is_known_by_its_name():
    for name, loss in LOSSES.items():
        assert (loss.forward, loss.backward) == OPS[name][:2]
        assert loss.target == ("labels" if name == "softmax_cross_entropy" else "values")


# ---- bad input: the forward and the backward refuse it with the same words ----------------------------------------


def refused(name: str, logits: torch.Tensor, target: object, *rest: object, match: str) -> None:
    forward, backward = OPS[name][:2]
    with pytest.raises(ArgumentError, match=match):
        forward(logits, target, *rest)
    with pytest.raises(ArgumentError, match=match):
        backward(logits.new_tensor(1.0), logits, target, *rest)


@each_loss
def test_an_unknown_reduction_is_refused(name, dtype, device):
    message = r"^reduction must be one of 'sum', 'mean', got 'none'$"
    refused(name, *sample(name, dtype, device), "none", match=message)


@pytest.mark.parametrize("name", VALUES)
def test_a_target_that_would_broadcast_is_refused(name, dtype, device):
    logits, target = sample(name, dtype, device)
    message = r"^target must have shape \(N, K\) with N = 5 as in logits and K = 2 as in logits, got "
    refused(name, logits, target[:, :1], match=message + r"\(5, 1\)$")
    refused(name, logits, target[:, 0], match=message + r"\(5,\)$")


@pytest.mark.parametrize(
    ("weight", "problem"),
    [
        ([1, 1, 1, 1], r"must have shape \(N,\) with N = 5 as in logits, got \(4,\)"),
        ([[1], [1], [1], [1], [1]], r"must have shape \(N,\) with N = 5 as in logits, got \(5, 1\)"),
    ],
)
@each_loss
def test_sample_weights_of_another_shape_are_refused(name, weight, problem, dtype, device):
    logits, target = sample(name, dtype, device)
    refused(name, logits, target, "sum", logits.new_tensor(weight), match=f"^sample_weight {problem}$")


@pytest.mark.parametrize(
    ("weight", "problem"),
    [
        ([1, 1, -1e-9, 1, 1], "must be finite and not negative"),
        ([1, 1, math.nan, 1, 1], "must be finite and not negative"),
        ([1, 1, math.inf, 1, 1], "must be finite and not negative"),
        ([0, 0, 0, 0, 0], "must not be zero for every sample"),
    ],
)
@each_loss
def test_sample_weights_that_weigh_nothing_are_refused_on_the_cpu(name, weight, problem, dtype):
    logits, target = sample(name, dtype, torch.device("cpu"))
    refused(name, logits, target, "mean", logits.new_tensor(weight), match=f"^sample_weight {problem}$")


@pytest.mark.parametrize(("label", "named"), [(-1, -1), (2, 2), (-100, -100), (10, 10)])
def test_a_label_out_of_range_is_refused_on_the_cpu(label, named, dtype):
    logits, target = sample("softmax_cross_entropy", dtype, torch.device("cpu"))
    target[3] = label
    refused("softmax_cross_entropy", logits, target, match=f"^target must hold labels from 0 to 1, got {named}$")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (torch.Tensor.int, "must hold class labels as int64, got int32"),
        (torch.Tensor.double, "must hold class labels as int64, got float64"),
        (torch.Tensor.bool, "must hold class labels as int64, got bool"),
        (lambda t: t[:4], r"must have shape \(N,\) with N = 5.*, got \(4,\)"),
        (lambda t: t[:, None], r"must have shape \(N,\) with N = 5.*, got \(5, 1\)"),
        (lambda t: t.to("meta"), "must be on .*, got meta"),
        (torch.Tensor.tolist, r"must be a torch\.Tensor, got list"),
    ],
)
def test_labels_of_another_kind_are_refused(change, problem, dtype, device):
    logits, target = sample("softmax_cross_entropy", dtype, device)
    refused("softmax_cross_entropy", logits, change(target), match=f"^target {problem}$")
