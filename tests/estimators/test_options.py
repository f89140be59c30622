"""The networks' options, each against torch's own modules and optimizers, trained on the same batches."""

import itertools
import re

import numpy as np
import pytest
import torch
from torch import nn

from nnlab import NeuralNetMLP, NeuralNetRegressor
from nnlab.engine import MLPEngine
from nnlab.networks import mlp_backward, mlp_forward
from nnlab.validation import ArgumentError
from tests.tolerances import TRAJECTORY, assert_close

LAYERS = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU, "identity": nn.Identity}


def twin_of(network, sizes, activations, seed) -> nn.Sequential:
    rng, twin = np.random.RandomState(seed), nn.Sequential()
    for n_in, n_out, name in zip(sizes[:-1], sizes[1:], activations, strict=True):
        layer = nn.Linear(n_in, n_out, dtype=torch.float64)
        layer.weight.data = torch.from_numpy(rng.normal(0, 0.1, (n_in, n_out)).T.copy())
        nn.init.zeros_(layer.bias)
        twin.append(layer).append(LAYERS[name]())
    return twin


def cross_entropy(outputs, y):
    return nn.functional.cross_entropy(outputs, y, reduction="none")


def logistic(outputs, y):
    target = nn.functional.one_hot(y, 3).double()
    return nn.functional.binary_cross_entropy_with_logits(outputs, target, reduction="none").sum(1)


def squares(outputs, y):
    return 0.5 * (outputs.sigmoid() - nn.functional.one_hot(y, 3)).square().sum(1)


LOSSES = {"softmax_cross_entropy": cross_entropy, "binary_cross_entropy": logistic, "sum_of_squares": squares}
SETTINGS = [
    {"loss": "softmax_cross_entropy", "activation": "relu"},
    {"loss": "binary_cross_entropy", "n_hidden": (6, 5), "activation": ("tanh", "relu"), "momentum": 0.9},
    {"loss": "sum_of_squares", "activation": "tanh", "optimizer": "adam", "l2": 0.0},
    {"loss": "binary_cross_entropy", "n_hidden": (4, 4, 4), "optimizer": "adam", "l2": 0.3},
    {"loss": "softmax_cross_entropy", "momentum": 0.5, "l2": 0.2, "class_weight": {0: 2.0, 1: 0.5, 2: 1.0}},
    {"loss": "softmax_cross_entropy", "class_weight": "balanced", "activation": "identity"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_ten_steps_are_those_of_torchs_modules_and_optimizers(settings, weighted, blobs):
    X, y = blobs
    X, y = X[:53], y[:53]  # classes of different sizes
    weight = np.random.RandomState(0).uniform(0, 2, 53) if weighted else None
    settings = {"n_hidden": 5, "l2": 0.1, "eta": 0.01, "minibatch_size": 10, "shuffle": False, "seed": 7} | settings
    network = NeuralNetMLP(epochs=2, **settings).fit(X, y, sample_weight=weight)
    hidden = settings["n_hidden"] if isinstance(settings["n_hidden"], tuple) else (settings["n_hidden"],)
    names = settings.get("activation", "sigmoid")
    names = names if isinstance(names, tuple) else (names,) * len(hidden)
    twin = twin_of(network, (4, *hidden, 3), (*names, "identity"), seed=7)
    if settings.get("optimizer") == "adam":
        optimizer = torch.optim.Adam(twin.parameters(), lr=0.01)
    else:
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.01, momentum=settings.get("momentum", 0))
    weights = torch.ones(53, dtype=torch.float64) if weight is None else torch.from_numpy(weight)
    of_class = settings.get("class_weight") or {0: 1.0, 1: 1.0, 2: 1.0}
    if of_class == "balanced":
        counts = [weights[torch.from_numpy(y) == k].sum() for k in range(3)]
        of_class = {k: float(weights.sum() / (3 * counts[k])) for k in range(3)}
    weights = weights * torch.tensor([of_class[int(k)] for k in y], dtype=torch.float64)
    x, labels = torch.from_numpy(X), torch.from_numpy(y)
    for _ in range(2):
        for start in range(0, 50, 10):
            part = slice(start, start + 10)
            error = (weights[part] * LOSSES[settings["loss"]](twin(x[part]), labels[part])).sum()
            penalty = sum(p.square().sum() for p in twin.parameters() if p.ndim == 2)
            optimizer.zero_grad()
            (error + settings["l2"] / 2 * penalty).backward()
            optimizer.step()
    layers = [layer for layer in twin if isinstance(layer, nn.Linear)]
    for layer, w, b in zip(layers, network.coefs_, network.intercepts_, strict=True):
        assert_close(torch.from_numpy(w), layer.weight.detach().T, TRAJECTORY[torch.float64])
        assert_close(torch.from_numpy(b), layer.bias.detach(), TRAJECTORY[torch.float64])


def test_dropout_masks_every_hidden_layer_and_its_gradient(device):
    """The masked network against autograd, with a random cotangent."""
    generator = torch.Generator().manual_seed(0)
    sizes, activations = (3, 5, 4, 2), ("tanh", "relu", "identity")

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(device)

    parameters = [t for i, o in itertools.pairwise(sizes) for t in (draw(o, i), draw(o))]
    x, cotangent = draw(7, 3).requires_grad_(), draw(7, 2)
    masks = [(draw(7, n) > 0).double() / 0.5 for n in (5, 4)]
    for p in parameters:
        p.requires_grad_()
    z = x
    for k, name in enumerate(activations):
        z = LAYERS[name]()(z @ parameters[2 * k].T + parameters[2 * k + 1])
        z = z * masks[k] if k < 2 else z
    recorded = torch.autograd.grad(z, [x, *parameters], cotangent)
    with torch.no_grad():
        cache = mlp_forward(x, parameters, activations, masks)
        assert_close(cache[-1], z.detach())
        found = mlp_backward(cotangent, cache, parameters, activations, with_input=True, masks=masks)
    for ours, theirs in zip((found.x, *found.parameters), recorded, strict=True):
        assert_close(ours, theirs)


def test_dropout_is_of_training_only_and_keeps_the_mean(blobs, monkeypatch):
    X, y = blobs
    seen = []
    run_ = MLPEngine.run_

    def spying(self, order, update, masks=None):
        def noted(n):
            seen.append(masks(n))
            return seen[-1]

        return run_(self, order, update, noted)

    monkeypatch.setattr(MLPEngine, "run_", spying)
    network = NeuralNetMLP((300, 200), epochs=2, minibatch_size=45, dropout=0.25, seed=1).fit(X, y)
    assert [[m.shape for m in masks] for masks in seen] == [[(45, 300), (45, 200)]] * 4
    values = torch.cat([m.flatten() for masks in seen for m in masks])
    assert set(values.tolist()) == {0.0, 1 / 0.75}
    assert values.mean().item() == pytest.approx(1, abs=0.01)
    assert not torch.equal(seen[0][0], seen[1][0])
    assert (network.predict_proba(X) == network.predict_proba(X)).all()


def test_no_dropout_draws_nothing(blobs):
    """The chapter's stream must not be disturbed by an option that is off."""
    one, other = (NeuralNetMLP(epochs=2, seed=1, dropout=p).fit(*blobs) for p in (0, 1e-12))
    assert (one._memory.rng.get_state()[1] != other._memory.rng.get_state()[1]).any()
    assert one.eval_["cost"][0] == pytest.approx(other.eval_["cost"][0], rel=1e-9)  # the same first shuffle


@pytest.mark.parametrize("kind", [NeuralNetMLP, NeuralNetRegressor])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_hidden": 0}, "n_hidden must be a whole number of at least 1, got 0"),
        ({"n_hidden": (5, 0)}, "n_hidden must be a whole number of at least 1, got 0"),
        ({"n_hidden": "many"}, "n_hidden must be a whole number of at least 1, got 'm'"),
        ({"l2": -0.1}, "l2 must be a number of at least 0, got -0.1"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"eta": 0}, "eta must be a number greater than 0, got 0"),
        ({"minibatch_size": 0}, "minibatch_size must be a whole number of at least 1, got 0"),
        ({"activation": "step"}, "activation must be one of 'identity', 'sigmoid', 'tanh', 'relu', got 'step'"),
        (
            {"activation": ("tanh", "relu")},
            r"activation must be one name, or one for each of 1 hidden layers, got \(.*",
        ),
        ({"optimizer": "lbfgs"}, "optimizer must be one of 'sgd', 'adam', got 'lbfgs'"),
        ({"momentum": 1.0}, "momentum must be less than 1, got 1.0"),
        ({"dropout": 1}, "dropout must be less than 1, got 1"),
        ({"dropout": -0.5}, "dropout must be a number of at least 0, got -0.5"),
        ({"patience": 0}, "patience must be a whole number of at least 1, got 0"),
        ({"device": "tpu"}, "device must be 'auto' or a device as torch names it, got 'tpu'"),
    ],
    ids=str,
)
def test_a_parameter_out_of_range_is_named(kind, options, message, blobs):
    with pytest.raises(ArgumentError, match=f"^{message}$"):
        kind(**options).fit(*blobs)


def test_an_unknown_loss_is_named(blobs):
    with pytest.raises(ArgumentError, match=r"^loss must be one of 'sum_of_squares', .*, got 'hinge'$"):
        NeuralNetMLP(loss="hinge").fit(*blobs)


@pytest.mark.parametrize("kind", [NeuralNetMLP, NeuralNetRegressor])
def test_divergence_names_eta(kind, blobs):
    X, y = blobs
    network = kind(
        activation="identity", eta=1e30, **({"loss": "softmax_cross_entropy"} if kind is NeuralNetMLP else {})
    )
    with pytest.raises(
        ArgumentError, match=r"^eta must be smaller than 1e\+30: the cost is (nan|inf) after epoch \d+$"
    ):
        network.fit(1e20 * X, y)
    assert not hasattr(network, "coefs_")


def test_verbose_shows_the_figures(blobs, capsys):
    X, y = blobs
    NeuralNetMLP(epochs=3, minibatch_size=30, verbose=True).fit(X[:60], y[:60], X[60:], y[60:])
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r" 3/3 .*cost \d+\.\d+  train \d+\.\d\d%  valid \d+\.\d\d%", err)
    NeuralNetRegressor(epochs=3, minibatch_size=30, verbose=True).fit(X[:60], y[:60], X[60:], y[60:])
    assert re.search(r" 3/3 .*cost [\d.]+  valid_cost [\d.]+", capsys.readouterr().err)
    NeuralNetMLP(epochs=3, minibatch_size=30).fit(X, y)
    assert capsys.readouterr() == ("", "")
