"""What is learnt, the same for all: samples, the weights to start from, and the steps to make."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from nnlab.data import SPECS, ensure, load
from nnlab.networks import MLP, PerceptronBank

SEED = 0


class Learner(Protocol):
    """One way to compute the steps of a problem, which goes on from where it is with each call."""

    def train(self, order: Tensor) -> None:
        """Learn the samples of these numbers, int64 on the problem's device, (n,), in this order."""

    def parameters(self) -> list[Tensor]:
        """W⁽¹⁾, b⁽¹⁾, … as they are now, (O, I), (O,), on any device."""


@dataclass(frozen=True)
class Images:
    """Images with pixels 0 … 255 as they lie in the files, uint8 (N, I), and labels, int64 (N,)."""

    train_pixels: Tensor
    train_labels: Tensor
    test_pixels: Tensor
    test_labels: Tensor


def load_images() -> Images:
    """MNIST, got where it is missing, and checked.

    Raises:
        DataError: it is not to be had, or not what it must be.
    """
    ensure("mnist")
    splits = load("mnist")
    train, test = splits["train"], splits["test"]
    return Images(train.images.flatten(1), train.labels, test.images.flatten(1), test.labels)


def scale(pixels: Tensor, device: torch.device) -> Tensor:
    """Pixels from 0 to 1, float32 (N, I), with no copy besides the one that is returned."""
    return pixels.to(device, torch.float32).div_(SPECS["mnist"].max_pixel)


@dataclass(frozen=True)
class MLPProblem:
    """A multi-layer perceptron that is trained by gradient descent without momentum.

    Attributes:
        x: (N, I).
        labels: (N,).
        sizes: inputs, the units of each hidden layer, outputs.
        batch_size: samples of a step.
        lr: η, of the error averaged over a mini-batch.
        kind: "softmax" is ReLU units and the mean softmax cross-entropy; "chapter" is sigmoid units and the logistic
            cost summed over the mini-batch, with η over the batch size.
    """

    x: Tensor
    labels: Tensor
    sizes: tuple[int, ...]
    batch_size: int
    lr: float = 0.1
    kind: Literal["softmax", "chapter"] = "softmax"

    def network(self) -> MLP:
        """The network that all start from, the same in every precision, its output layer giving logits."""
        hidden = "relu" if self.kind == "softmax" else "sigmoid"
        generator = torch.Generator().manual_seed(SEED)
        return MLP(self.sizes, hidden, generator=generator, dtype=torch.float32, device=self.x.device).to(self.x.dtype)

    def steps(self, n: int) -> Tensor:
        """Sample numbers that make n steps, from an order of its own."""
        return self.order(SEED)[: n * self.batch_size]

    def order(self, seed: int) -> Tensor:
        """An order of all samples, on their device."""
        return shuffled(len(self.x), seed, self.x.device)

    def to(self, dtype: torch.dtype) -> MLPProblem:
        """The same in another precision."""
        return replace(self, x=self.x.to(dtype))


@dataclass(frozen=True)
class PerceptronProblem:
    """Ten perceptrons, one for each class against all the others, by the perceptron rule with η = 1.

    Pixels stay whole numbers, and the weights start as small random multiples of 1/1024, the biases at odd multiples
    of 1/2048: in float64 every sum is exact, in whatever order it is taken, and no net input is ever exactly 0, where
    scikit-learn and the chapter would disagree. All who follow the rule make the same mistakes, to the last one.

    Attributes:
        x: whole numbers, float64 (N, I).
        labels: (N,).
        n_units: K.
    """

    x: Tensor
    labels: Tensor
    n_units: int = 10

    def bank(self) -> PerceptronBank:
        """The units that all start from."""
        generator = torch.Generator().manual_seed(SEED)
        bank = PerceptronBank(self.x.shape[1], self.n_units, dtype=self.x.dtype, device=self.x.device)
        weight = torch.randint(-1024, 1025, bank.weight.shape, generator=generator).to(bank.weight) / 1024
        bias = (2 * torch.randint(-1024, 1024, bank.bias.shape, generator=generator) + 1).to(bank.bias) / 2048
        bank.weight.copy_(weight)
        bank.bias.copy_(bias)
        return bank


def shuffled(n: int, seed: int, device: torch.device) -> Tensor:
    """The numbers 0 … n − 1 in an order drawn on the CPU, the same on every device."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(device)
