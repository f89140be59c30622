import pytest
import torch

from nnlab.ops import gradient_descent, gradient_descent_
from nnlab.validation import ArgumentError
from tests.tolerances import assert_close

BOTH = pytest.mark.parametrize("update", [gradient_descent, gradient_descent_])


@BOTH
def test_by_hand(update, dtype, device):
    # w − η g: 1 − 0.25 · 2 = 0.5 and −3 − 0.25 · (−4) = −2
    w, g = (torch.tensor(v, dtype=dtype, device=device) for v in ([1.0, -3.0], [2.0, -4.0]))
    assert_close(update(w, g, 0.25), w.new_tensor([0.5, -2.0]))


@BOTH
def test_is_the_step_of_torchs_sgd(update, dtype, device):
    w, g = torch.randn(2, 7, 5, dtype=dtype, device=device)
    twin = torch.nn.Parameter(w.clone())
    twin.grad = g.clone()
    torch.optim.SGD([twin], lr=0.1).step()
    assert_close(update(w, g, 0.1), twin.detach())


@pytest.mark.parametrize("view", [lambda w: w, lambda w: w.T, lambda w: w[:, ::2]], ids=["whole", "transposed", "view"])
def test_the_form_in_place_is_the_pure_form(view, dtype, device):
    storage = torch.randn(6, 6, dtype=dtype, device=device)
    w, g = view(storage), view(torch.randn_like(storage))
    expected, address = gradient_descent(w, g, 0.3), w.data_ptr()
    assert expected.data_ptr() != address
    result = gradient_descent_(w, g, 0.3)
    assert result is w
    assert w.data_ptr() == address
    assert torch.equal(w, expected)
    assert torch.equal(view(storage), expected)  # written through to what it is a view of


@BOTH
def test_a_gradient_that_would_broadcast_is_refused(update, dtype, device):
    w = torch.ones(3, 2, dtype=dtype, device=device)
    with pytest.raises(ArgumentError, match=r"^gradient must have the shape of parameter, \(3, 2\), got \(2,\)$"):
        update(w, w[0], 0.1)
    assert torch.equal(w, torch.ones_like(w))
