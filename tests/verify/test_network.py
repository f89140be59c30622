"""``check_network``: the layer where a mistake enters, for the package's network and for any module."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from nnlab.networks import MLP, Gradients, mlp_forward
from nnlab.ops import ACTIVATIONS, LOSSES
from nnlab.validation import ArgumentError
from nnlab.verify import NetworkReport, check_network
from tests.pairwise import pairwise

X, LABELS = torch.randn(7, 5), torch.randint(0, 3, (7,))


def network(*activations: str, seed: int = 0) -> MLP:
    sizes = [*[5, 4, 6, 4][: len(activations)], 3]
    return MLP(sizes, list(activations), generator=torch.Generator().manual_seed(seed))


def target(loss: str) -> torch.Tensor:
    return LABELS if LOSSES[loss].target == "labels" else torch.rand(7, 3)


@pairwise(
    loss=[*LOSSES],
    hidden={
        "1 layer": (),
        "2 layers": ("tanh",),
        "3 layers": ("relu", "gelu"),
        "4 layers": ("leaky_relu", "sigmoid", "tanh"),
    },
)
def test_the_packages_network_is_right(loss: str, hidden: tuple[str, ...]):
    mlp = network(*hidden, "identity")
    before = copy.deepcopy(mlp.state_dict())
    report = check_network(mlp, loss, X, target(loss))
    assert report.ok, report
    assert report.layer is None
    assert all(row.autograd <= 1e-12 for row in report.rows)
    for key, value in mlp.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key])


def test_a_loss_of_ones_own():
    report = check_network(network("tanh", "identity"), nn.CrossEntropyLoss(label_smoothing=0.1), X, LABELS)
    assert report.ok, report


def test_a_backward_put_in_place_of_the_networks_own():
    mlp = network("tanh", "relu", "identity")
    own = mlp.backward

    def backward(grad_output, passes, with_input=False):
        found = own(grad_output, passes)
        w1, b1, w2, *others = found.parameters
        return found._replace(parameters=(w1, b1, 2 * w2, *others))

    mlp.backward = backward
    report = check_network(mlp, "softmax_cross_entropy", X, LABELS)
    assert not report.ok
    assert report.layer == "layer 2 of 3 (2.weight, all layers above it are right)"
    assert report.diagnosis.startswith("layer 2 of 3")
    assert "2.000 × the right one" in report.diagnosis
    assert report.to_dict()["layer"] == report.layer
    assert report.layer in report.table()


class NoDerivative(MLP):
    """Forgets h' in its second layer."""

    @torch.no_grad()
    def backward(self, grad_output, passes, with_input=False):
        found, grad_z = [], grad_output
        for k in (2, 1, 0):
            x, weight, _, z = passes[k]
            delta = grad_z if k == 1 else ACTIVATIONS[self.activations[k]].backward(grad_z, z)
            found[:0] = [delta.T @ x, delta.sum(0)]
            grad_z = delta @ weight
        return Gradients(None, tuple(found), ())


def test_a_subclass_with_a_backward_of_its_own():
    mlp = NoDerivative([5, 4, 6, 3], ["tanh", "sigmoid", "identity"])
    report = check_network(mlp, "softmax_cross_entropy", X, LABELS)
    assert report.findings[0].fault == "derivative-missing"
    assert "at the sigmoid of layer 2" in report.diagnosis
    assert report.layer.startswith("layer 2 of 3 (2.weight, 2.bias")


class OwnForward(MLP):
    """Twice the package's output, with a gradient that knows, or does not."""

    factor = 2.0

    def forward(self, x, *functions):
        return 2 * super().forward(x, *functions)

    def propagate(self, x):
        *passes, last = mlp_forward(x, list(self.parameters()), self.activations)
        return [*passes, last._replace(z=2 * last.z)]

    def backward(self, grad_output, passes, with_input=False):
        *others, last = passes
        return super().backward(self.factor * grad_output, [*others, last._replace(z=last.z / 2)])


def test_a_subclass_with_a_forward_of_its_own_is_judged_by_differences():
    mlp = OwnForward([5, 4, 3], "tanh", dtype=torch.float64)
    report = check_network(mlp, "softmax_cross_entropy", X.double(), LABELS)
    assert report.ok, report
    assert all(row.autograd is None for row in report.rows)
    mlp.factor = 1.0
    assert check_network(mlp, "softmax_cross_entropy", X.double(), LABELS).findings[0].fault == "factor-half"


def frozen(mlp: MLP) -> None:
    mlp[0].weight.requires_grad_(False)


def pruned(mlp: MLP) -> None:
    prune.l1_unstructured(mlp[0], "weight", 0.5)


def pruned_for_good(mlp: MLP) -> None:
    pruned(mlp)
    prune.remove(mlp[0], "weight")


@pytest.mark.parametrize("change", [frozen, pruned, pruned_for_good])
def test_a_network_whose_layers_were_changed_is_right(change):
    mlp = network("tanh", "identity")
    change(mlp)
    report = check_network(mlp, "softmax_cross_entropy", X, LABELS)
    assert report.ok, report
    assert [row.name for row in report.rows] == [
        f"grad_{name}" for name, p in mlp.named_parameters() if p.requires_grad
    ]


class Sigmoid(torch.autograd.Function):
    """Its derivative is taken of u in place of z."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return u.sigmoid()

    @staticmethod
    def backward(ctx, grad_output):
        (u,) = ctx.saved_tensors
        return grad_output * u * (1 - u)


class Activation(nn.Module):
    def forward(self, u):
        return Sigmoid.apply(u)


def test_a_module_with_a_function_of_its_own():
    module = nn.Sequential(nn.Linear(5, 4), Activation(), nn.Linear(4, 3))
    module[0].weight.grad = torch.ones(4, 5)
    for loss in (nn.CrossEntropyLoss(), "softmax_cross_entropy"):
        report = check_network(module, loss, X, LABELS)
        assert isinstance(report, NetworkReport)
        assert report.findings[0].fault == "derivative-fed-u"
        assert report.layer.startswith("layer 1 of 2 (0.weight, 0.bias")
        assert [row.ok for row in report.rows] == [False, False, True, True]
    assert torch.equal(module[0].weight.grad, torch.ones(4, 5))
    assert module[2].weight.grad is None


def test_a_module_is_given_back_as_it_came():
    module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))
    parameters, before = list(module.parameters()), copy.deepcopy(module.state_dict())
    report = check_network(module, nn.CrossEntropyLoss(), X, LABELS)
    assert report.ok, report
    assert all(a is b for a, b in zip(parameters, module.parameters(), strict=True))
    for key, value in module.state_dict().items():
        assert value.dtype == before[key].dtype
        assert torch.equal(value, before[key])
    nn.CrossEntropyLoss()(module(X), LABELS).backward()


def test_dropout_cannot_be_judged_and_the_report_says_so():
    module = nn.Sequential(nn.Linear(5, 4), nn.Dropout(), nn.Linear(4, 3))
    report = check_network(module, nn.CrossEntropyLoss(), X, LABELS)
    assert report.findings[0].fault == "random-forward"
    assert check_network(module.eval(), nn.CrossEntropyLoss(), X, LABELS).ok


def test_a_network_of_the_chapters_size_takes_seconds():
    report = check_network(MLP([784, 100, 10]), "softmax_cross_entropy", torch.randn(5, 784), torch.arange(5))
    assert report.ok, report


def test_wrong_calls_are_errors():
    with pytest.raises(ArgumentError, match="loss must be one of"):
        check_network(network("identity"), "absolute", X, LABELS)
    with pytest.raises(ArgumentError, match="network must have parameters"):
        check_network(nn.Tanh(), "sum_of_squares", X, X)
