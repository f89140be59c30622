"""Rosenblatt's perceptron under Lightning: the learning rule as an optimizer, and the module that applies it."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from nnlab.engine import PerceptronEngine
from nnlab.networks import PerceptronBank
from nnlab.ops import perceptron_loss_forward
from nnlab.training.blocks import BlockLearner
from nnlab.training.classifier import Batch
from nnlab.validation import ArgumentError, check_positive


class PerceptronRule(torch.optim.Optimizer):
    """The perceptron's learning rule as an optimizer, so that Lightning counts its steps and writes checkpoints.

    Args:
        bank: the units that learn.
        lr: η > 0.

    Raises:
        ValueError: η is not greater than 0.
    """

    def __init__(self, bank: PerceptronBank, lr: float = 1.0) -> None:
        check_positive("lr", lr)
        super().__init__([bank.weight, bank.bias], {"lr": lr})
        self.bank = bank

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], Any] | None = None, *, x: Tensor, labels: Tensor
    ) -> Tensor:
        """Learn the samples x, (N, I), with labels, (N,), one after the other.

        Returns:
            the error y − d of each unit as each sample was met, (N, K).
        """
        if closure is not None:
            closure()
        return self.bank.learn_(x, labels, self.param_groups[0]["lr"])


class LitPerceptron(BlockLearner):
    """A bank of perceptrons, one per class against all the others, trained by Rosenblatt's rule.

    The samples are learnt one after the other, however large the batches are. ``train_errors`` is the number of updates
    in the epoch, over all units (the chapter's ``errors_``); losses are the perceptron criterion per sample.

    Args:
        lr: The learning rate η. The weights start at zero, so it scales them and changes no prediction.
        average: Whether to predict with the average of the weights over all samples learnt, which is far steadier, in
            place of the last weights.
        bipolar: Whether the units' desired outputs are −1 and +1 in place of 0 and 1.
        in_features: The number of inputs; the command takes it from the data.
        n_classes: The number of classes; the command takes it from the data.
    """

    architecture = ("in_features", "n_classes", "bipolar")
    figures = ("train_errors", "val_loss", "val_acc")

    train_errors: Tensor

    def __init__(
        self,
        lr: float = 1.0,
        average: bool = True,
        bipolar: bool = False,
        in_features: int = 784,
        n_classes: int = 10,
    ) -> None:
        super().__init__(n_classes)
        check_positive("lr", lr)
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.lr, self.average = lr, average
        self.bank = PerceptronBank(in_features, n_classes, bipolar=bipolar)
        self.register_buffer("train_errors", torch.zeros((), dtype=torch.int64))

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Refuse what the sequential rule cannot be true to: several processes, and reduced precision."""
        if trainer.world_size > 1:
            raise ArgumentError(
                "devices",
                f"must be 1 for the perceptron, whose rule learns one sample after the other; there are "
                f"{trainer.world_size} processes",
            )
        if trainer.precision not in ("32-true", "64-true"):
            raise ArgumentError("precision", f"must be 32-true or 64-true for the perceptron, got {trainer.precision}")

    def logits(self, x: Tensor) -> Tensor:
        """Net inputs of the units, (N, K)."""
        u: Tensor = self.bank(x, self.average)
        return u

    def mean_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The perceptron criterion averaged over the batch."""
        return perceptron_loss_forward(logits, self.bank.desired(labels), "mean", g=self.bank.g)

    def training_step(self, batch: Batch | Tensor, batch_idx: int) -> None:
        """Learn a batch or a block, sample after sample."""
        if batch_idx == 0:  # on_train_epoch_start is left out where a run goes on from the end of an epoch
            self.train_errors.zero_()
        if isinstance(batch, Tensor):
            self.learn_block(batch)
            return
        x, labels = batch
        optimizer: Any = self.optimizers()
        error = optimizer.step(x=x, labels=labels)
        self.train_errors += error.count_nonzero()

    def own_obstacle(self) -> str | None:
        """Another optimizer than the rule for this bank."""
        optimizer = self.trainer.optimizers[0]
        if type(optimizer) is not PerceptronRule or optimizer.bank is not self.bank:
            return f"--optimizer={type(optimizer).__name__}"
        hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
        return "--optimizer: hooks on its step" if hooks else None

    def changed(self) -> list[Tensor]:
        """All that the bank holds."""
        return list(self.bank.state_dict().values())

    def make_engine(self, x: Tensor, labels: Tensor, batch_size: int) -> PerceptronEngine:
        """The engine for this bank, to which mini-batches are nothing."""
        return PerceptronEngine(self.bank, x, labels)

    def learn(self, engine: PerceptronEngine, order: Tensor, labels: Tensor, batch_size: int) -> None:
        """Learn samples in their order, and count the updates."""
        self.train_errors += engine.run_(order, self.trainer.optimizers[0].param_groups[0]["lr"]).count_nonzero()

    def on_train_epoch_end(self) -> None:
        """Log ``train_errors``."""
        self.log("train_errors", self.train_errors.double(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The learning rule."""
        return PerceptronRule(self.bank, self.lr)
