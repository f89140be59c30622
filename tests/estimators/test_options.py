"""The networks' options, each against torch's own modules and optimizers, trained on the same batches."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from nnlab import NeuralNetMLP, NeuralNetRegressor
from nnlab.engine import MLPEngine
from nnlab.ops import ACTIVATIONS, LOSSES
from nnlab.validation import ArgumentError
from tests.pairwise import pairwise
from tests.tolerances import TRAJECTORY, assert_close


def twin_of(sizes, activations, seed) -> nn.Sequential:
    rng, twin = np.random.RandomState(seed), nn.Sequential()
    for n_in, n_out, name in zip(sizes[:-1], sizes[1:], activations, strict=True):
        layer = nn.Linear(n_in, n_out, dtype=torch.float64)
        layer.weight.data = torch.from_numpy(rng.normal(0, 0.1, (n_in, n_out)).T.copy())
        nn.init.zeros_(layer.bias)
        twin.append(layer).append(ACTIVATIONS[name].module())
    return twin


SETTINGS = {
    "relu": {"loss": "softmax_cross_entropy", "activation": "relu"},
    "momentum": {"loss": "binary_cross_entropy", "n_hidden": (6, 5), "activation": ("tanh", "relu"), "momentum": 0.9},
    "adam": {"loss": "sum_of_squares", "activation": "gelu", "optimizer": "adam", "l2": 0.0},
    "adam, l2": {"loss": "binary_cross_entropy", "n_hidden": (4, 4, 4), "optimizer": "adam", "l2": 0.3},
    "classes weighted": {"loss": "softmax_cross_entropy", "l2": 0.2, "class_weight": {0: 2.0, 1: 0.5, 2: 1.0}},
    "classes balanced": {"loss": "softmax_cross_entropy", "class_weight": "balanced", "activation": "identity"},
}


@pairwise(settings=SETTINGS, weighted={"unweighted": False, "weighted": True})
def test_ten_steps_are_those_of_torchs_modules_and_optimizers(settings, weighted, blobs):
    X, y = blobs
    X, y = X[:53], y[:53]  # classes of different sizes
    weight = np.random.RandomState(0).uniform(0, 2, 53) if weighted else None
    settings = {"n_hidden": 5, "l2": 0.1, "eta": 0.01, "minibatch_size": 10, "shuffle": False, "seed": 7} | settings
    network = NeuralNetMLP(epochs=2, **settings).fit(X, y, sample_weight=weight)
    hidden = settings["n_hidden"] if isinstance(settings["n_hidden"], tuple) else (settings["n_hidden"],)
    names = settings.get("activation", "sigmoid")
    names = names if isinstance(names, tuple) else (names,) * len(hidden)
    twin = twin_of((4, *hidden, 3), (*names, LOSSES[settings["loss"]].classifier_units), seed=7)
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
    x, labels, loss = torch.from_numpy(X), torch.from_numpy(y), LOSSES[settings["loss"]]
    target = labels if loss.target == "labels" else nn.functional.one_hot(labels, 3).double()
    for _ in range(2):
        for start in range(0, 50, 10):
            part = slice(start, start + 10)
            error = (weights[part] * loss.reference(twin(x[part]), target[part])).sum()
            penalty = sum(p.square().sum() for p in twin.parameters() if p.ndim == 2)
            optimizer.zero_grad()
            (error + settings["l2"] / 2 * penalty).backward()
            optimizer.step()
    layers = [layer for layer in twin if isinstance(layer, nn.Linear)]
    for layer, w, b in zip(layers, network.coefs_, network.intercepts_, strict=True):
        assert_close(torch.from_numpy(w), layer.weight.detach().T, TRAJECTORY[torch.float64])
        assert_close(torch.from_numpy(b), layer.bias.detach(), TRAJECTORY[torch.float64])


def test_dropout_is_of_training_only_and_keeps_the_mean(blobs, monkeypatch):
    X, y = blobs
    seen = []
    run_ = MLPEngine.run_

    def spying(self, order, update, masks=None):
        seen.append(masks)
        return run_(self, order, update, masks)

    monkeypatch.setattr(MLPEngine, "run_", spying)
    network = NeuralNetMLP((300, 200), epochs=2, minibatch_size=45, dropout=0.25, seed=1).fit(X, y)
    assert [[m.shape for m in masks.kept] for masks in seen] == [[(90, 300), (90, 200)]] * 2
    values = torch.cat([m.flatten() for masks in seen for m in masks.kept])
    assert set(values.tolist()) == {0, 1}
    assert values.double().mean().item() * seen[0].factor == pytest.approx(1, abs=0.01)
    assert not torch.equal(seen[0].kept[0][:45], seen[0].kept[0][45:])
    assert not torch.equal(seen[0].kept[0], seen[1].kept[0])
    assert (network.predict_proba(X) == network.predict_proba(X)).all()


def test_no_dropout_draws_nothing(blobs):
    """The chapter's stream must not be disturbed by an option that is off."""
    streams = [np.random.RandomState(1) for _ in range(2)]
    for stream, chance in zip(streams, (0, 1e-12), strict=True):
        NeuralNetMLP(epochs=2, random_state=stream, dropout=chance).fit(*blobs)
    twin = np.random.RandomState(1)
    twin.normal(size=4 * 30 + 30 * 3)  # the weights
    for _ in range(2):
        twin.shuffle(np.arange(90))
    after = twin.random_sample()
    assert [stream.random_sample() == after for stream in streams] == [True, False]


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
        ({"activation": "step"}, "activation must be one of 'identity', 'sigmoid', .*, got 'step'"),
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
def test_a_parameter_out_of_range_is_named(options, message, blobs):
    for kind in (NeuralNetMLP, NeuralNetRegressor):
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
    expected = r"^eta must be smaller than 1e\+30: the (weight of layer 1|loss) became NaN or infinite in epoch 1$"
    with pytest.raises(ArgumentError, match=expected):
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
