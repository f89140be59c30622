"""An epoch of a network estimator is the plain loop over its mini-batches: the pure ops, and the stream of chance."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from nnlab import NeuralNetMLP, NeuralNetRegressor
from nnlab.engine import Descent
from nnlab.estimators.optimizers import Adam
from nnlab.networks import MLP
from tests.loops import Problem, by_the_loop
from tests.pairwise import pairwise
from tests.tolerances import TRAJECTORY, assert_close

EPOCHS, N, ETA = 2, 53, 0.02
SETTINGS = {
    "default": {},
    "in order, without the tail": {"shuffle": False, "drop_last": True, "l2": 0.5},
    "no hidden layer": {"n_hidden": (), "l2": 0.3},
    "two hidden layers": {"n_hidden": (6, 5), "activation": ("tanh", "relu"), "momentum": 0.9, "l2": 0.3},
    "dropout": {"n_hidden": (6, 5), "activation": ("gelu", "identity"), "dropout": 0.4},
    "squares": {"n_hidden": (6, 5), "dropout": 0.3, "momentum": 0.5, "l2": 0.1, "loss": "sum_of_squares"},
    "one by one": {"activation": "leaky_relu", "loss": "softmax_cross_entropy", "minibatch_size": 1},
    "one batch": {"activation": "tanh", "loss": "softmax_cross_entropy", "momentum": 0.9, "minibatch_size": N},
    "adam": {"activation": "tanh", "loss": "sum_of_squares", "optimizer": "adam", "l2": 0.3, "dropout": 0.2},
}


class AdamLoop:
    """Adam as Kingma and Ba (2015) print it."""

    def __init__(self) -> None:
        self.moments: list[list[Tensor]] = []
        self.n_steps = 0

    def __call__(self, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        self.moments = self.moments or [[torch.zeros_like(g) for g in gradients] for _ in range(2)]
        self.n_steps += 1
        for parameter, m, v, g in zip(parameters, *self.moments, gradients, strict=True):
            m.copy_(Adam.beta1 * m + (1 - Adam.beta1) * g)
            v.copy_(Adam.beta2 * v + (1 - Adam.beta2) * g**2)
            ahead = m / (1 - Adam.beta1**self.n_steps)
            parameter.sub_(ETA * ahead / ((v / (1 - Adam.beta2**self.n_steps)).sqrt() + Adam.epsilon))


def trained_by_the_loop(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    sizes: tuple[int, ...],
    names: list[str],
    loss: str,
    settings: dict,
) -> list[Tensor]:
    """W⁽¹⁾, b⁽¹⁾, … after the epochs; all that is random is drawn from one stream, in this order."""
    rng = np.random.RandomState(3)
    network = MLP(sizes, names, dtype=x.dtype, device=x.device)
    with torch.no_grad():
        for k, shape in enumerate(itertools.pairwise(sizes)):
            network[2 * k].weight.copy_(torch.from_numpy(rng.normal(0, 0.1, shape).T.copy()))

    def batches() -> Iterator[Tensor]:
        size = settings["minibatch_size"]
        for _ in range(EPOCHS):
            order = np.arange(N)
            if settings["shuffle"]:
                rng.shuffle(order)
            parts = torch.from_numpy(order).to(x.device).split(size)
            yield from (part for part in parts if len(part) == size or not settings["drop_last"])

    def masks(n: int) -> list[Tensor]:
        kept = [rng.random_sample((n, units)) >= settings["dropout"] for units in sizes[1:-1]]
        return [torch.from_numpy(k / (1 - settings["dropout"])).to(x) for k in kept]

    update = AdamLoop() if settings["optimizer"] == "adam" else Descent(ETA, settings["momentum"])
    trained = by_the_loop(
        Problem(network, loss, x, target, weight),
        batches(),
        update,
        reduction="sum",
        l2=settings["l2"],
        masks=masks if settings["dropout"] else None,
    )
    return trained.parameters


@pairwise(
    settings=SETTINGS,
    kind={"classifier": NeuralNetMLP, "regressor": NeuralNetRegressor},
    dtype=[torch.float64, torch.float32],
    weighted={"unweighted": False, "weighted": True},
)
def test_an_epoch_is_the_plain_loop(settings, kind, dtype, weighted, device, blobs):
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
    sizes = (4, *hidden, n_outputs)
    expected = trained_by_the_loop(x, target, tensor, sizes, [*names, output], loss, settings)
    found = [a for w, b in zip(network.coefs_, network.intercepts_, strict=True) for a in (w.T, b)]
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(torch.from_numpy(ours.copy()), theirs.cpu(), 5 * TRAJECTORY[dtype])
