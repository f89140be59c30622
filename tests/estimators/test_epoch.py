"""An epoch of a network estimator is the plain loop over its mini-batches: the pure ops, and the stream of chance."""

import itertools

import numpy as np
import pytest
import torch

from nnlab import NeuralNetMLP, NeuralNetRegressor
from nnlab.estimators.optimizers import Adam
from nnlab.networks import mlp_backward, mlp_forward
from nnlab.ops import LOSSES, gradient_descent, l2_penalty_backward
from tests.tolerances import TRAJECTORY, assert_close

EPOCHS, N, ETA = 2, 53, 0.02
SETTINGS = [
    {},
    {"shuffle": False, "drop_last": True, "l2": 0.5},
    {"n_hidden": (), "l2": 0.3},
    {"n_hidden": (6, 5), "activation": ("tanh", "relu"), "momentum": 0.9, "l2": 0.3},
    {"n_hidden": (6, 5), "activation": ("relu", "identity"), "dropout": 0.4},
    {"n_hidden": (6, 5), "dropout": 0.3, "momentum": 0.5, "l2": 0.1, "loss": "sum_of_squares"},
    {"activation": "relu", "loss": "softmax_cross_entropy", "minibatch_size": 1},
    {"activation": "tanh", "loss": "softmax_cross_entropy", "momentum": 0.9, "minibatch_size": N},
    {"activation": "tanh", "loss": "sum_of_squares", "optimizer": "adam", "l2": 0.3, "dropout": 0.2},
]


def by_the_loop(x, target, weight, sizes, activations, loss, settings) -> list[torch.Tensor]:
    """W⁽¹⁾, b⁽¹⁾, … after the epochs, each step made of ``nnlab.networks`` and ``nnlab.ops``."""
    rng, one = np.random.RandomState(3), x.new_ones(())
    parameters = []
    for shape in itertools.pairwise(sizes):
        parameters += [torch.from_numpy(rng.normal(0, 0.1, shape).T.copy()).to(x), x.new_zeros(shape[1])]
    velocity, n_steps = [torch.zeros_like(w) for w in parameters], 0
    first, second = [torch.zeros_like(w) for w in parameters], [torch.zeros_like(w) for w in parameters]
    for _ in range(EPOCHS):
        order = np.arange(N)
        if settings["shuffle"]:
            rng.shuffle(order)
        for part in np.split(order, range(settings["minibatch_size"], N, settings["minibatch_size"])):
            if settings["drop_last"] and len(part) < settings["minibatch_size"]:
                continue
            masks = []
            if settings["dropout"]:
                for n_units in sizes[1:-1]:
                    kept = rng.random_sample((len(part), n_units)) >= settings["dropout"]
                    masks.append(torch.from_numpy(kept / (1 - settings["dropout"])).to(x))
            cache = mlp_forward(x[part], parameters, activations, masks)
            delta = LOSSES[loss].backward(one, cache[-1], target[part])
            if weight is not None:
                delta = delta * weight[part, None]
            gradients = list(mlp_backward(delta, cache, parameters, activations, masks=masks).parameters)
            for k in range(0, len(gradients), 2):
                gradients[k] = gradients[k] + l2_penalty_backward(one, parameters[k], settings["l2"])
            n_steps += 1
            for k, gradient in enumerate(gradients):
                if settings["optimizer"] == "adam":
                    beta1, beta2 = Adam.beta1, Adam.beta2
                    first[k] = beta1 * first[k] + (1 - beta1) * gradient
                    second[k] = beta2 * second[k] + (1 - beta2) * gradient**2
                    ahead = first[k] / (1 - beta1**n_steps)
                    step = ahead / ((second[k] / (1 - beta2**n_steps)).sqrt() + Adam.epsilon)
                else:
                    velocity[k] = settings["momentum"] * velocity[k] + gradient
                    step = velocity[k]
                parameters[k] = gradient_descent(parameters[k], step, ETA)
    return parameters


@pytest.mark.parametrize("kind", [NeuralNetMLP, NeuralNetRegressor])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("weighted", [False, True])
def test_an_epoch_is_the_plain_loop(kind, settings, dtype, weighted, device, blobs):
    settings = {"minibatch_size": 10, "drop_last": False, "shuffle": True, "momentum": 0.0, "dropout": 0.0, "l2": 0.0,
                "optimizer": "sgd", "activation": "sigmoid", "n_hidden": 7} | settings  # fmt: skip
    settings["seed"], loss, output = 3, settings.pop("loss", "binary_cross_entropy"), "identity"
    X, y = blobs[0][:N].astype(str(dtype).removeprefix("torch.")), blobs[1][:N]
    if kind is NeuralNetRegressor:
        loss, target = "sum_of_squares", np.c_[y, X[:, 0] ** 2]
        network, y, n_outputs = kind(epochs=EPOCHS, eta=ETA, device=str(device), **settings), target, 2
    else:
        network, n_outputs = kind(epochs=EPOCHS, eta=ETA, loss=loss, device=str(device), **settings), 3
        target = y if loss == "softmax_cross_entropy" else np.eye(3)[y]
        output = "sigmoid" if loss == "sum_of_squares" else "identity"
    x, target = torch.from_numpy(X).to(device), torch.from_numpy(target).to(device)
    target = target.to(dtype) if target.ndim == 2 else target
    weight, tensor = None, None
    if weighted:
        weight = np.random.RandomState(0).uniform(0, 2, N)
        weight[10:20] = 0  # without shuffling, of a whole mini-batch
        tensor = torch.from_numpy(weight).to(x)
    network.fit(X, y, sample_weight=weight)

    hidden = settings["n_hidden"] if isinstance(settings["n_hidden"], tuple) else (settings["n_hidden"],)
    names = settings["activation"]
    names = names if isinstance(names, tuple) else (names,) * len(hidden)
    expected = by_the_loop(x, target, tensor, (4, *hidden, n_outputs), (*names, output), loss, settings)
    found = [a for w, b in zip(network.coefs_, network.intercepts_, strict=True) for a in (w.T, b)]
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(torch.from_numpy(ours.copy()), theirs.cpu(), 5 * TRAJECTORY[dtype])
