"""One row is enough: activations and losses made up here, registered at run time, work in the whole package."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import one_hot

import nnlab
from nnlab.engine import Descent, MLPEngine
from nnlab.estimators import NeuralNetMLP
from nnlab.networks import MLP
from nnlab.ops import ACTIVATIONS, LOSSES, Activation, Loss, Reduction
from nnlab.ops.losses import weights
from nnlab.training import LitMLP
from nnlab.validation import NK, AnyShape, Labels, SampleWeight, Scalar, op
from nnlab.verify import check_gradients, suite
from nnlab.verify.optable import in_place_forms, networks, operations
from tests.tolerances import TRAJECTORY, assert_close
from tests.training.runs import digits, epochs, trainer

CPU = torch.device("cpu")

# ---- two activations, one of which needs u and has no form in place, and two losses --------------------------------


@op
def softsign_forward(u: AnyShape) -> AnyShape:
    """z = u / (1 + |u|)."""
    return u / (1 + u.abs())


@op
def softsign_backward(grad_z: AnyShape, u: AnyShape) -> AnyShape:
    """δ = ∂E/∂z / (1 + |u|)²."""
    return grad_z / (1 + u.abs()) ** 2


def std(n_in: int, n_out: int) -> float:
    """√(1 / I)."""
    return (1 / n_in) ** 0.5


SOFTSIGN = Activation(
    softsign_forward, softsign_backward, "u", nn.Softsign, std, "{u} / (1 + |{u}|)", "1 / (1 + |{u}|)²"
)


@op
def elu_forward(u: AnyShape) -> AnyShape:
    """z = u where u > 0, else e^u − 1."""
    return torch.where(u > 0, u, torch.expm1(u))


@op
def elu_backward(grad_z: AnyShape, z: AnyShape) -> AnyShape:
    """δ = ∂E/∂z where z > 0, else ∂E/∂z · (z + 1)."""
    return torch.where(z > 0, grad_z, grad_z * (z + 1))


ELU = Activation(
    *(elu_forward, elu_backward, "z", nn.ELU, std, "({u} if {u} > 0 else e^{u} − 1)", "(1 if {z} > 0 else {z} + 1)"),
    *(functional.elu_, lambda grad_z, z: grad_z.mul_(torch.where(z > 0, 1, z + 1))),
)


def log_cosh(y: Tensor, t: Tensor) -> Tensor:
    """Eₙ = Σₖ ln cosh(yₖ − tₖ), of which e^|y − t| would overflow."""
    distance = (y - t).abs()
    return (distance + torch.log1p(torch.exp(-2 * distance)) - math.log(2)).sum(1)


@op
def log_cosh_forward(
    logits: NK, target: NK, reduction: Reduction = "sum", sample_weight: SampleWeight | None = None
) -> Scalar:
    """E = Σₙ wₙ Eₙ."""
    return (weights(logits, reduction, sample_weight) * log_cosh(logits, target)).sum()


@op
def log_cosh_backward(
    grad_E: Scalar, logits: NK, target: NK, reduction: Reduction = "sum", sample_weight: SampleWeight | None = None
) -> NK:
    """∂E/∂y = wₙ tanh(y − t)."""
    return grad_E * weights(logits, reduction, sample_weight)[:, None] * torch.tanh(logits - target)


LOG_COSH = Loss(
    *(log_cosh_forward, log_cosh_backward, log_cosh),
    lambda y, t: (functional.softplus(2 * (y - t)) - (y - t) - math.log(2)).sum(1),
    "values",
    *("Eₙ = Σₖ ln cosh(yₖ − tₖ)", "ln(cosh({y} − {t}))"),
    delta="tanh({y} − {t})",
)


def smoothed(u: Tensor, t: Tensor) -> Tensor:
    """qₖ = 0.9 for the target's class and 0.1/K more for each."""
    return 0.9 * one_hot(t, u.shape[1]).to(u.dtype) + 0.1 / u.shape[1]


def smoothed_errors(u: Tensor, t: Tensor) -> Tensor:
    """Eₙ = −Σₖ qₖ ln yₖ."""
    return -(smoothed(u, t) * torch.log_softmax(u, 1)).sum(1)


@op
def smoothed_forward(
    logits: NK, target: Labels, reduction: Reduction = "sum", sample_weight: SampleWeight | None = None
) -> Scalar:
    """E = Σₙ wₙ Eₙ."""
    return (weights(logits, reduction, sample_weight) * smoothed_errors(logits, target)).sum()


@op
def smoothed_backward(
    grad_E: Scalar, logits: NK, target: Labels, reduction: Reduction = "sum", sample_weight: SampleWeight | None = None
) -> NK:
    """δ = wₙ (softmax(u) − q)."""
    error = torch.softmax(logits, 1) - smoothed(logits, target)
    return grad_E * weights(logits, reduction, sample_weight)[:, None] * error


SMOOTHED = Loss(
    *(smoothed_forward, smoothed_backward, smoothed_errors),
    lambda u, t: functional.cross_entropy(u, t, reduction="none", label_smoothing=0.1),
    "labels",
    *("Eₙ = −Σₖ qₖ ln yₖ", "−(0.9·{t} + 0.1/K)·ln {y}"),
    output=lambda u: torch.softmax(u, 1),
    output_name="softmax",
    output_formula="e^({u}) / ({exponentials})",
    log_probabilities=lambda u: torch.log_softmax(u, 1),
)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The rows in their tables, for the length of a test."""
    for name, row in {"softsign": SOFTSIGN, "elu": ELU}.items():
        monkeypatch.setitem(ACTIVATIONS, name, row)
    for name, loss in {"log_cosh": LOG_COSH, "smoothed": SMOOTHED}.items():
        monkeypatch.setitem(LOSSES, name, loss)
    return


pytestmark = pytest.mark.usefixtures("registered")
each_pair = pytest.mark.parametrize(
    ("activation", "loss"),
    [("softsign", "log_cosh"), ("elu", "smoothed"), ("softsign", "smoothed"), ("elu", "log_cosh")],
)


def torch_step(model: nn.Module, loss: str, x: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """A step by torch's own autograd, of the mean."""
    row = LOSSES[loss]
    logits = model(x)
    target = labels if row.target == "labels" else one_hot(labels, logits.shape[1]).to(logits)
    optimizer.zero_grad()
    row.reference(logits, target).mean().backward()
    optimizer.step()


# ---- what reads the tables ----------------------------------------------------------------------------------------


def test_nnlab_check_covers_them_and_accepts_them() -> None:
    found = {operation.name: operation for operation in operations()}
    names = ["softsign", "elu"]
    names += [f"{loss}, {how}" for loss in ("log_cosh", "smoothed") for how in ("sum", "mean, weighted")]
    names += [
        name for name in found if name.startswith("network") and re.search("softsign|elu,|log_cosh|smoothed", name)
    ]
    assert len(names) > 10
    for name in names:
        for dtype in suite.DTYPES if name in ("softsign", "elu", "log_cosh, mean, weighted") else (torch.float64,):
            result = suite.check_operation(found[name], dtype, CPU)
            assert result.ok, result
    theirs = [settings for settings in networks() if {"softsign", "elu", "log_cosh", "smoothed"} & {*settings[1:]}]
    assert len(theirs) > 3
    for depth, hidden, loss in theirs:
        assert suite.check_trajectory(depth, hidden, loss, torch.float64, CPU).ok
    assert suite.count() > len(found) + len(theirs)


@pytest.mark.parametrize("table", [ACTIVATIONS, LOSSES], ids=["activation", "loss"])
def test_nnlab_check_refuses_one_that_is_wrong(table: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    name, wrong = ("softsign", lambda g, u: g / (1 + u.abs())) if table is ACTIVATIONS else ("log_cosh", None)
    wrong = wrong or (
        lambda g, y, t, reduction="sum", weight=None: g * weights(y, reduction, weight)[:, None] * (y - t)
    )
    monkeypatch.setitem(table, name, table[name]._replace(backward=wrong))
    operation = next(each for each in operations() if each.name.split(",")[0] == name)
    result = suite.check_operation(operation, torch.float64, CPU)
    assert not result.ok
    assert result.diagnosis


@pytest.mark.parametrize(
    ("table", "name", "wrong"),
    [
        (ACTIVATIONS, "tanh", {"forward_": torch.Tensor.sigmoid_}),
        (ACTIVATIONS, "relu", {"backward_": lambda grad_z, z: grad_z.mul_(z)}),
        (LOSSES, "softmax_cross_entropy", {"output": torch.sigmoid}),
        (LOSSES, "binary_cross_entropy", {"errors": lambda u, t: (u - t).square().sum(1)}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nnlab_check_refuses_a_wrong_form_for_the_engine(
    table: dict[str, Any], name: str, wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def checked() -> suite.Result:
        operation = next(each for each in in_place_forms() if each.name.split(",")[0] == name)
        return suite.check_operation(operation, torch.float32, CPU)

    assert checked().ok
    monkeypatch.setitem(table, name, table[name]._replace(**wrong))
    assert not checked().ok


def test_check_gradients_knows_them() -> None:
    u = torch.tensor([0.5, -1.0, 2.0])
    assert check_gradients(softsign_forward, softsign_backward, [u]).ok
    assert not check_gradients(softsign_forward, lambda g, u: g, [u]).ok


@each_pair
def test_a_network_has_them_and_so_has_its_twin(activation: str, loss: str) -> None:
    network = MLP([4, 5, 3], activation, dtype=torch.float64)
    twin = network.to_sequential()
    assert isinstance(twin[1], nn.Softsign if activation == "softsign" else nn.ELU)
    assert MLP.from_sequential(twin).activations == (activation, "identity")
    x = torch.randn(6, 4, dtype=torch.float64)
    assert_close(network(x).detach(), twin(x).detach())
    with pytest.raises(
        nnlab.validation.ArgumentError, match=r"^model\[1\] must be .*ELU\(alpha=1\.0\).*, got ELU\(alpha=2"
    ):
        MLP.from_sequential(nn.Sequential(nn.Linear(4, 3), nn.ELU(2.0)))


@each_pair
@pytest.mark.parametrize(("momentum", "l2"), [(0.0, 0.01), (0.9, 0.0)])
def test_the_engine_is_the_plain_loop(activation: str, loss: str, momentum: float, l2: float) -> None:
    x, labels = torch.randn(23, 6, dtype=torch.float64), torch.randint(3, (23,))
    row, one = LOSSES[loss], torch.ones((), dtype=torch.float64)
    target = labels if row.target == "labels" else one_hot(labels, 3).double()
    network = MLP([6, 5, 4, 3], [activation, activation, activation], dtype=torch.float64)
    plain = MLP.from_sequential(network.to_sequential())
    engine = MLPEngine(list(network.parameters()), network.activations, loss, x, target, batch_size=5, l2=l2)
    order = torch.randperm(23)
    outputs = engine.run_(order, Descent(0.1, momentum=momentum)).outputs
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=momentum)
    for batch, output in zip(order.split(5), outputs.split(5), strict=True):
        passes = plain.propagate(x[batch])
        assert_close(output, passes[-1].z)
        grad_y = row.backward(one, passes[-1].z, target[batch], "mean")
        for p, gradient in zip(plain.parameters(), plain.backward(grad_y, passes).parameters, strict=True):
            p.grad = gradient + (l2 * p.detach() if p.ndim == 2 else 0)
        optimizer.step()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert_close(ours.detach(), theirs.detach(), TRAJECTORY[torch.float64])


@each_pair
def test_an_estimator_learns_with_them(activation: str, loss: str) -> None:
    labels = torch.arange(60) % 3
    X = (torch.eye(3)[labels] * 3 + torch.randn(60, 3)).double()
    y = [["red", "green", "blue"][label] for label in labels.tolist()]
    settings: dict[str, Any] = {"n_hidden": 5, "minibatch_size": 10, "seed": 1, "activation": activation, "loss": loss}
    model = NeuralNetMLP(epochs=30, eta=0.02, **settings).fit(X.numpy(), y)
    assert model.eval_["loss"][-1] < 0.5 * model.eval_["loss"][0]
    assert model.score(X.numpy(), y) > 0.8
    # the outputs, from the weights and torch's own modules
    hidden, *rest = (torch.from_numpy(w) for w in (*model.coefs_, *model.intercepts_))
    z = ACTIVATIONS[activation].module()(X @ hidden + rest[1])
    u = z @ rest[0] + rest[2]
    expected = torch.softmax(u if loss == "smoothed" else functional.logsigmoid(u), 1)
    assert_close(torch.from_numpy(model.predict_proba(X.numpy())), expected)
    assert model.predict(X.numpy()).tolist() == [model.classes_[k] for k in u.argmax(1).tolist()]


@each_pair
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW], ids=["by the engine", "by the bridge"])
def test_lightning_trains_with_them(tmp_path: Path, activation: str, loss: str, optimizer: Any) -> None:
    torch.manual_seed(5)
    model = LitMLP(hidden=[5], activation=activation, loss=loss, in_features=64)
    model.configure_optimizers = lambda: optimizer(model.parameters(), lr=0.05)
    twin = model.network.to_sequential().double()
    trainer(CPU, tmp_path, precision="64-true", limit_val_batches=0).fit(model, digits(20, 10))
    updates = optimizer(twin.parameters(), lr=0.05)
    for x, labels in epochs(digits(20, 10)):
        torch_step(twin, loss, x.double(), labels, updates)
    for ours, theirs in zip(model.network.parameters(), twin.parameters(), strict=True):
        assert_close(ours.detach(), theirs.detach(), TRAJECTORY[torch.float64])


def test_they_are_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # what the fixture does at the end of a test
    assert not {"softsign", "elu"} & set(ACTIVATIONS)
    assert not {"log_cosh", "smoothed"} & set(LOSSES)


def test_only_ops_knows_the_activations_that_are_not_the_chapters() -> None:
    """A row is one entry in one place: no other module names it."""
    package = Path(nnlab.__file__).parent
    ours = set(ACTIVATIONS) - {"identity", "sigmoid", "tanh", "relu", "softsign", "elu"}
    assert ours == {"gelu", "leaky_relu"}
    words = "|".join(re.escape(name).replace("_", "[ _]?") for name in ours)
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(rf"(?<![a-z])({words})(?![a-z])", path.read_text(encoding="utf-8"), re.IGNORECASE)
    }
    assert found == {"ops/__init__.py", "ops/activations.py"}
