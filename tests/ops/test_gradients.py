"""Every gradient of the table against torch's autograd, central differences, and torch's own precision."""

import pytest
import torch

from tests.ops.oracles import OPERATIONS, check_autograd, check_central_differences, check_precision
from tests.tolerances import assert_close

each_operation = pytest.mark.parametrize("name", OPERATIONS)


@each_operation
def test_agrees_with_autograd(name, dtype, device):
    check_autograd(OPERATIONS[name], dtype, device)


@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if not operation.network])
def test_agrees_with_central_differences(name, device):
    check_central_differences(OPERATIONS[name], device)


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if not operation.network])
def test_as_precise_as_torch(name, low, device):
    check_precision(OPERATIONS[name], low, device)


@each_operation
def test_a_forward_that_autograd_records_has_the_same_gradient(name, device):
    """Nothing in a forward hides from autograd: no detached piece, no change in place of what it saved."""
    operation = OPERATIONS[name]
    inputs = operation.cases[0].on(torch.float64, device)
    leaves = [a.detach().requires_grad_() for a in inputs[: operation.n_grad]]
    output = operation.forward(*leaves, *inputs[operation.n_grad :])
    incoming = torch.randn_like(output)
    recorded = torch.autograd.grad(output, leaves, incoming)
    for ours, theirs in zip(operation.gradients(incoming, *inputs), recorded, strict=False):
        assert_close(ours, theirs)
