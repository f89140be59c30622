"""What is trained, the same on both sides: samples, initial weights, and the order of the samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from nnlab.data import SPECS, Distortion, ensure, load
from nnlab.networks import MLP, PerceptronBank
from nnlab.training.mlp import FALLS, HOLDS

SEED = 0


@dataclass(frozen=True)
class Problem:
    """Samples, (N, I), and their labels, (N,)."""

    x: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Self:
        """Move the tensors to a device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)})

    def order(self, seed: int) -> Tensor:
        """Return the sample indices of an epoch, on the CPU."""
        return torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class MLPProblem(Problem):
    """Gradient descent on a multi-layer perceptron; not every peer has ``momentum``.

    ``kind`` is "softmax": ReLU units and the mean softmax cross-entropy with learning rate ``lr``; or "chapter":
    sigmoid units and the logistic cost summed over the mini-batch with ``lr / batch_size``.
    """

    sizes: tuple[int, ...]
    batch_size: int
    lr: float = 0.1
    momentum: float = 0.0
    kind: Literal["softmax", "chapter"] = "softmax"

    def network(self, seed: int = SEED) -> MLP:
        """Return the initial network, the same in every precision; its output layer gives logits."""
        hidden = "relu" if self.kind == "softmax" else "sigmoid"
        generator = torch.Generator().manual_seed(seed)
        network = MLP(self.sizes, hidden, generator=generator, dtype=torch.float32, device=self.x.device)
        return network.to(self.x.dtype if self.x.is_floating_point() else torch.float32)


@dataclass(frozen=True)
class SpeedrunProblem(MLPProblem):
    """uint8 images, distorted anew in each epoch or never; a run is a seed, and its rate falls to 0 over ``epochs``."""

    momentum: float = 0.9
    weight_decay: float = 1e-5
    epochs: int = 1
    distortion: Distortion | None = None

    def parts(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, float]]:
        """Yield the samples of an epoch in its order, at most ``HOLDS`` mini-batches at a time, and their rate."""
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(1000 * seed + epoch))
        for k, part in enumerate(torch.split(order.to(self.x.device), HOLDS * self.batch_size)):
            done = (epoch + k * HOLDS * self.batch_size / len(order)) / self.epochs
            yield part, self.lr * FALLS["linear"](done)

    @property
    def scaled(self) -> Tensor:
        """The pixels from 0 to 1, float32."""
        return self.x.float() / SPECS["mnist"].max_pixel


def splines(side: int) -> Tensor:
    """Return how much of each of 7 × 7 knots a pixel's displacement is, by cubic B-splines, (49, side²)."""
    at = torch.linspace(-1, 5, 7)[:, None] - torch.linspace(0, 4, side)
    near, far = (2 - at.abs()).clamp(min=0), (1 - at.abs()).clamp(min=0)
    along = (near**3 - 4 * far**3) / 6
    return torch.kron(along, along)


@dataclass(frozen=True)
class PerceptronProblem(Problem):
    """Perceptrons, one per class against all others, by the perceptron rule with η = 1.

    ``x`` holds whole numbers in float64. Weights start as small random multiples of 1/1024, biases at odd multiples of
    1/2048: every sum is exact in any order, and no net input is exactly 0, where scikit-learn and the chapter
    disagree. So all who follow the rule end in the same weights, bit for bit.
    """

    n_units: int = 10

    def order(self, seed: int) -> Tensor:
        """Return the samples' own order, in which scikit-learn needs no copy of them."""
        return torch.arange(len(self.x))

    def bank(self) -> PerceptronBank:
        """Return the initial perceptrons."""
        generator = torch.Generator().manual_seed(SEED)
        bank = PerceptronBank(self.x.shape[1], self.n_units, dtype=self.x.dtype, device=self.x.device)
        bank.weight.copy_(torch.randint(-1024, 1025, bank.weight.shape, generator=generator) / 1024)
        bank.bias.copy_((2 * torch.randint(-1024, 1024, bank.bias.shape, generator=generator) + 1) / 2048)
        return bank


@dataclass(frozen=True)
class AccuracyProblem(Problem):
    """Training until ``goal`` of the validation images are classified correctly, or ``epochs`` have passed."""

    x_validation: Tensor
    labels_validation: Tensor
    x_test: Tensor
    labels_test: Tensor
    goal: float = 0.98
    epochs: int = 15

    def order(self, seed: int) -> Tensor:
        """Return a seed alone, from 0 where the timed orders begin: each side draws its weights and orders from it."""
        return torch.tensor([(seed - 2) % 1000])


DISTORTED = 12_000  # images that are distorted at a time


class Images:
    """MNIST, read and verified when it is first needed, and downloaded where it is missing."""

    @cached_property
    def splits(self) -> Any:
        """The training and the test images, as they are in the files."""
        ensure("mnist")
        return load("mnist")

    @cached_property
    def train(self) -> tuple[Tensor, Tensor]:
        """Training images from 0 to 1, float32 (N, I), and labels."""
        return self._scaled("train")

    def _scaled(self, split: str) -> tuple[Tensor, Tensor]:
        images = self.splits[split].images.flatten(1).to(torch.float32)
        return images.div_(SPECS["mnist"].max_pixel), self.splits[split].labels

    def softmax(self) -> MLPProblem:
        """784-100-10 in mini-batches of 100."""
        return MLPProblem(*self.train, (784, 100, 10), 100)

    def wide(self, n: int | None) -> MLPProblem:
        """784-1024-1024-10 in mini-batches of 512, on the first n samples."""
        x, labels = self.train
        return MLPProblem(x[:n], labels[:n], (784, 1024, 1024, 10), 512)

    def chapter(self, dtype: torch.dtype) -> MLPProblem:
        """784-100-10 with the chapter's mathematics."""
        return replace(self.softmax(), x=self.train[0].to(dtype), kind="chapter")

    def perceptrons(self) -> PerceptronProblem:
        """Pixels from 0 to 255."""
        return PerceptronProblem(self.splits["train"].images.flatten(1).double(), self.train[1])

    def accuracy(self) -> AccuracyProblem:
        """98 % of the images; the last twelfth of the training images is for validation."""
        (x, labels), n = self.train, held_out(self.train[0])
        return AccuracyProblem(x[:-n], labels[:-n], x[-n:], labels[-n:], *self._scaled("test"))

    def to_distort(self) -> Problem:
        """The first of the training images, as bytes."""
        images, labels = self.splits["train"]
        return Problem(images[:DISTORTED].flatten(1), labels[:DISTORTED])


def held_out(images: Tensor) -> int:
    """Return how many of the training images, the last, are for validation: 5,000 of MNIST's."""
    return len(images) // 12


def blobs(n: int, density: float) -> Tensor:
    """Return made-up images in 256 levels from 0 to 1, (n, 784); this share of each is not zero, in blobs."""
    generator = torch.Generator().manual_seed(SEED)
    hills = interpolate(torch.randn(n, 1, 7, 7, generator=generator), size=(28, 28), mode="bicubic").flatten(1)
    lit = hills.argsort(1, descending=True)[:, : round(density * 784)]
    levels = torch.randint(1, 256, lit.shape, generator=generator) / 255
    return torch.zeros(n, 784).scatter_(1, lit, levels)


PROBLEMS: dict[str, Callable[[Images, bool], Problem]] = {
    "softmax": lambda images, quick: images.softmax(),
    "wide": lambda images, quick: images.wide(12_288 if quick else None),
    "chapter, float32": lambda images, quick: images.chapter(torch.float32),
    "chapter, float64": lambda images, quick: images.chapter(torch.float64),
    "perceptrons": lambda images, quick: images.perceptrons(),
    "accuracy": lambda images, quick: images.accuracy(),
    "bytes": lambda images, quick: images.to_distort(),
    "no samples": lambda images, quick: Problem(torch.zeros(1, 1), torch.zeros(1)),
}
"""What makes each problem, given the images and whether the run is a quick one."""
