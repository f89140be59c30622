import math

import pytest
import torch

from nnlab.ops import l2_penalty_backward, l2_penalty_forward
from nnlab.validation import ArgumentError
from tests.ops.oracles import CASES, OPS, Case, check_autograd, check_central_differences, check_precision
from tests.tolerances import assert_close

each_case = pytest.mark.parametrize("case", CASES["l2_penalty"], ids=str)


def test_by_hand(dtype, device):
    # λ/2 Σ w² = 0.1/2 · (1 + 4 + 9) = 0.7, and its gradient λ w under a cotangent of 10 is w itself
    weight = torch.tensor([[1.0, -2.0, 3.0]], dtype=dtype, device=device)
    assert_close(l2_penalty_forward(weight, 0.1), weight.new_tensor(0.7))
    assert_close(l2_penalty_backward(weight.new_tensor(10.0), weight, 0.1), weight)


@each_case
def test_agrees_with_autograd(case: Case, dtype, device):
    check_autograd(OPS["l2_penalty"], case, dtype, device)


@each_case
def test_agrees_with_central_differences(case: Case, device):
    check_central_differences(OPS["l2_penalty"], case, device)


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@each_case
def test_as_precise_as_torch(case: Case, low, device):
    check_precision(OPS["l2_penalty"], case, low, device)


@pytest.mark.parametrize("l2", [-0.1, math.nan, math.inf])
def test_a_penalty_that_is_none_is_refused(l2, dtype, device):
    weight = torch.zeros(2, 3, dtype=dtype, device=device)
    with pytest.raises(ArgumentError, match=r"^l2 must be a number of at least 0, got"):
        l2_penalty_forward(weight, l2)
    with pytest.raises(ArgumentError, match=r"^l2 must be a number of at least 0, got"):
        l2_penalty_backward(weight.new_tensor(1.0), weight, l2)


def test_biases_are_not_penalised(dtype, device):
    with pytest.raises(ArgumentError, match=r"^weight must have shape \(O, I\), got \(3,\)$"):
        l2_penalty_forward(torch.zeros(3, dtype=dtype, device=device), 0.1)
