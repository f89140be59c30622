"""``check_gradients``: it says what is wrong, in the student's words, and never raises because of a bad function."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nnlab import ops
from nnlab.validation import ArgumentError
from nnlab.verify import check_gradients


def first(report) -> str:
    assert not report.ok
    assert report.diagnosis
    return report.findings[0].fault


def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x @ weight.T + bias


LAYER = [torch.randn(32, 5), torch.randn(3, 5), torch.randn(3)]
SQUARE = [torch.randn(4, 4), torch.randn(4, 4), torch.randn(4)]

WRONG_LAYERS = {
    "bias-averaged": (lambda g, x, w, b: (g @ w, g.T @ x, g.mean(0)), "averaged over the batch, not summed"),
    "batch-mean-extra": (lambda g, x, w, b: (g @ w, g.T @ x / 32, g.mean(0)), "the batch is 32"),
    "transposed": (lambda g, x, w, b: (g @ w, x.T @ g, g.sum(0)), "transpose"),
    "sign": (lambda g, x, w, b: (-g @ w, -g.T @ x, -g.sum(0)), "sign"),
    "cotangent-ignored": (
        lambda g, x, w, b: (torch.ones_like(g) @ w, torch.ones_like(g).T @ x, torch.ones_like(g).sum(0)),
        "ignores grad_output",
    ),
    "order": (lambda g, x, w, b: (g.T @ x, g @ w, g.sum(0)), "another order"),
    "zero": (lambda g, x, w, b: (0 * x, g.T @ x, g.sum(0)), "zero"),
    "first-sample": (lambda g, x, w, b: (g @ w, g[:1].T @ x[:1], g[0]), "one sample"),
    "not-summed": (lambda g, x, w, b: (g @ w, g.T @ x, g), "not summed over the batch"),
    "bias-wrong-axis": (lambda g, x, w, b: (g @ w, g.T @ x, g.sum(1)), "wrong axis"),
    "count": (lambda g, x, w, b: (g @ w, g.T @ x), "3 gradients, one per input, got 2"),
}


@pytest.mark.parametrize("fault", WRONG_LAYERS)
def test_a_layer(fault: str):
    backward, words = WRONG_LAYERS[fault]
    report = check_gradients(layer, backward, LAYER)
    assert first(report) == fault
    assert words in report.diagnosis


def test_the_sentence_of_the_issue():
    def forward(x, weight, target):
        return functional.cross_entropy(x @ weight.T, target)

    def backward(grad_output, x, weight, target):
        delta = torch.softmax(x @ weight.T, 1) - functional.one_hot(target, 3)
        return None, grad_output * delta.T @ x, None

    report = check_gradients(forward, backward, [*LAYER[:2], torch.randint(0, 3, (32,))])
    assert report.diagnosis.startswith("grad_weight is 32.000 × the right one, and the batch is 32: the mean was taken")
    assert "in the loss and not in the gradient" in report.diagnosis


def test_weights_the_wrong_way_round_where_only_a_square_lets_it_pass():
    wrong = check_gradients(layer, lambda g, x, w, b: (g @ w.T, g.T @ x, g.sum(0)), SQUARE)
    assert first(wrong) == "weight-not-transposed"


def test_two_mistakes_are_both_named():
    report = check_gradients(layer, lambda g, x, w, b: (-g @ w, g.T @ x, g.mean(0)), LAYER)
    assert {finding.fault for finding in report.findings} == {"sign", "bias-averaged"}
    assert {finding.gradients for finding in report.findings} == {("grad_x",), ("grad_bias",)}
    assert len(report.diagnosis.splitlines()) == 2


U = torch.randn(4, 3)

WRONG_ACTIVATIONS = {
    "derivative-missing": (torch.sigmoid, lambda g, u: g),
    "derivative-at-output": (torch.sigmoid, lambda g, u: g * u.sigmoid().sigmoid() * (1 - u.sigmoid().sigmoid())),
    "derivative-fed-u": (torch.sigmoid, lambda g, u: g * u * (1 - u)),
    "square-missing": (torch.tanh, lambda g, u: g * (1 - u.tanh())),
    "derivative-of-other": (torch.tanh, lambda g, u: g * u.tanh() * (1 - u.tanh())),
    "derivative-twice": (torch.tanh, lambda g, u: g * (1 - u.tanh() ** 2) ** 2),
    "mask-inverted": (torch.relu, lambda g, u: g * (u <= 0)),
    "value-for-derivative": (torch.relu, lambda g, u: g * u.relu()),
    "cotangent-masked": (torch.relu, lambda g, u: g * (g > 0)),
    "at-zero": (torch.relu, lambda g, u: g * (u >= 0)),
    "overflow": (torch.sigmoid, lambda g, u: g * u.exp() / (1 + u.exp()) ** 2),
    "softmax-diagonal": (lambda u: u.softmax(1), lambda g, u: g * u.softmax(1) * (1 - u.softmax(1))),
    "extra-factor": (torch.exp, lambda g, u: g * u.exp() ** 2),
}


@pytest.mark.parametrize("fault", WRONG_ACTIVATIONS)
def test_an_activation(fault: str):
    forward, backward = WRONG_ACTIVATIONS[fault]
    assert first(check_gradients(forward, backward, [U])) == fault


HAND_WRITTEN = {
    "sigmoid": lambda u: 1 / (1 + torch.exp(-u)),
    "tanh": lambda u: (u.exp() - (-u).exp()) / (u.exp() + (-u).exp()),
    "relu": lambda u: u * (u > 0),
    "relu by where": lambda u: torch.where(u > 0, u, torch.zeros_like(u)),
}


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_an_activation_is_known_by_its_values(name: str):
    report = check_gradients(HAND_WRITTEN[name], lambda g, u: g, [U])
    assert first(report) == "derivative-missing"
    assert "h'(u)" in report.diagnosis


NUMPY = {
    "derivative-missing": lambda g, u: g,
    "derivative-fed-u": lambda g, u: g * u * (1 - u),
    "sign": lambda g, u: -g * np.exp(-u) / (1 + np.exp(-u)) ** 2,
}


@pytest.mark.parametrize("fault", NUMPY)
def test_numpy(fault: str):
    report = check_gradients(lambda u: 1 / (1 + np.exp(-u)), NUMPY[fault], [U.numpy().astype(float)])
    assert first(report) == fault


def test_a_numpy_network():
    def forward(x, w1, b1, w2, b2):
        return np.tanh(np.tanh(x @ w1 + b1) @ w2 + b2)

    def backward(g, x, w1, b1, w2, b2):
        h = np.tanh(x @ w1 + b1)
        delta_2 = g * (1 - np.tanh(h @ w2 + b2) ** 2)
        delta_1 = delta_2 @ w2.T
        return delta_1 @ w1.T, x.T @ delta_1, delta_1.sum(0), h.T @ delta_2, delta_2.sum(0)

    draw = np.random.default_rng(0)
    inputs = [draw.normal(size=s) for s in ((6, 4), (4, 5), (5,), (5, 2), (2,))]
    report = check_gradients(forward, backward, inputs)
    assert first(report) == "derivative-missing"
    assert report.findings[0].gradients == ("grad_x", "grad_w1", "grad_b1")
    assert "layer 1" in report.diagnosis


def test_zeros_of_a_forward_with_a_kink_of_its_own_are_dropped_and_the_report_says_so():
    def forward(u):
        return np.maximum(u, 0)

    for mask in (lambda u: u > 0, lambda u: u >= 0):
        report = check_gradients(forward, lambda g, u, mask=mask: g * mask(u), [U.numpy().astype(float)])
        assert report.ok
        assert any("straddle a kink" in note for note in report.notes)


def test_values_where_the_forward_is_not_finite_are_dropped_and_the_report_says_so():
    report = check_gradients(torch.log, lambda g, x: g / x, [torch.rand(5) + 0.5])
    assert report.ok
    assert any("exact zeros were dropped" in note and "not finite" in note for note in report.notes)


def test_a_cache_that_is_one_call_late():
    class Tanh:
        z = torch.zeros(4, 3)
        fresh: Tensor

        def forward(self, u):
            self.fresh = torch.tanh(u)
            return self.fresh

        def backward(self, grad_output, u):
            used, self.z = self.z, self.fresh
            return grad_output * (1 - used**2)

    op = Tanh()
    report = check_gradients(op.forward, op.backward, [U])
    assert first(report) == "stale-cache"
    assert "right for the previous input" in report.diagnosis


def test_a_pair_that_shares_a_cache_is_right():
    memory = {}

    def forward(u):
        memory["z"] = torch.tanh(u)
        return memory["z"]

    assert check_gradients(forward, lambda g, u: g * (1 - memory["z"] ** 2), [U]).ok


def test_one_use_of_two():
    report = check_gradients(lambda x: x * x.tanh(), lambda g, x: g * x.tanh(), [U])
    assert first(report) == "not-accumulated"
    hidden = check_gradients(lambda x: x * x.sum().item(), lambda g, x: g * x.sum(), [U])
    assert first(hidden) == "detached"


def test_ties():
    def backward(g, x):
        return g[:, None] * (x == x.amax(1, keepdim=True))

    assert check_gradients(lambda x: x.amax(1), backward, [U]).ok  # any slope between the sides of a kink


def raises(g, u):
    return g @ g.unknown


BAD = {
    "raises": raises,
    "nothing": lambda g, u: (None,),
    "count": lambda g, u: "gradient",
    "not-finite": lambda g, u: g / 0,
    "keepdims": lambda g, u: (g * (1 - u.tanh() ** 2))[None],
    "in-place": lambda g, u: g.mul_(1 - u.tanh() ** 2),
    "shape": lambda g, u: torch.ones(7),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_backward_is_a_report(fault: str):
    assert first(check_gradients(torch.tanh, BAD[fault], [U])) == fault


@pytest.mark.parametrize("error", [SystemExit(3), RecursionError("deep"), np.linalg.LinAlgError("singular")])
def test_whatever_a_backward_raises(error: BaseException):
    def backward(g, u):
        raise error

    assert first(check_gradients(torch.tanh, backward, [U])) == "raises"


def test_the_line_that_raised_is_named():
    report = check_gradients(torch.tanh, raises, [U])
    assert "AttributeError" in report.diagnosis
    assert "test_gradients.py (`return g @ g.unknown`)" in report.diagnosis
    assert "\n" not in report.diagnosis


def test_a_backward_that_fails_only_where_values_are_planted():
    def backward(g, u):
        assert (u != 0).all(), "no zeros please"
        return g * (1 - u.tanh() ** 2)

    report = check_gradients(torch.tanh, backward, [U])
    assert first(report) == "raises"
    assert "exact zeros" in report.diagnosis


def test_a_random_backward():
    report = check_gradients(torch.tanh, lambda g, u: g * torch.rand_like(u), [U])
    assert first(report) == "random"


BAD_FORWARDS = {
    "forward must return one tensor": lambda u: (u, u),
    "floating-point": lambda u: u > 0,
    "ZeroDivisionError": lambda u: 1 / 0,
    "not finite": lambda u: u / 0,
    "another result every time": lambda u: u * torch.rand(()),
}


@pytest.mark.parametrize("words", BAD_FORWARDS)
def test_a_bad_forward_is_a_report(words: str):
    report = check_gradients(BAD_FORWARDS[words], lambda g, u: g, [U])
    assert not report.ok
    assert words in report.diagnosis


def test_a_wrong_call_is_an_error():
    with pytest.raises(ArgumentError, match="at least one floating-point"):
        check_gradients(torch.tanh, raises, [torch.tensor([1, 2])])
    with pytest.raises(ArgumentError, match="dtype must be a floating-point dtype"):
        check_gradients(torch.tanh, raises, [U], dtype=torch.int64)


def test_the_report():
    report = check_gradients(layer, lambda g, x, w, b: (g @ w, g.T @ x, g.mean(0)), LAYER, name="my layer", seed=7)
    table = report.table()
    assert table == str(report)
    assert table.startswith("my layer: NOT RIGHT")
    assert [row.name for row in report.rows] == ["grad_x", "grad_weight", "grad_bias"]
    assert [row.ok for row in report.rows] == [True, True, False]
    for words in ("vs autograd", "vs differences", "tolerance", "1e-12 (eps", "WRONG", "likely: grad_bias is 0.031 ×"):
        assert words in table
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["ok"] is False
    assert data["seed"] == 7
    assert data["findings"][0]["fault"] == "bias-averaged"
    assert data["rows"][2]["shape"] == [3]


def test_json_of_errors_that_are_not_finite():
    report = check_gradients(torch.tanh, lambda g, u: g / 0, [U])
    json.dumps(report.to_dict(), allow_nan=False)


def test_the_packages_own_losses_with_what_learners_get_wrong():
    u, labels, weight = torch.randn(6, 3), torch.randint(0, 3, (6,)), torch.rand(6) + 0.1

    def forward(u, t, w):
        return ops.softmax_cross_entropy_forward(u, t, "mean", w)

    def backward(g, u, t, w):
        return ops.softmax_cross_entropy_backward(g, u, t, "mean"), None, None

    assert first(check_gradients(forward, backward, [u, labels, weight])) == "sample-weight-ignored"

    def squares(y, t):
        return functional.mse_loss(y, t)

    report = check_gradients(squares, lambda g, y, t: (g * 2 * (y - t) / len(y), None), [u, torch.randn(6, 3)])
    assert first(report) == "outputs-mean-missing"
