"""What the two learners share: the metrics of training, validation and test, each logged once per epoch."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, cast

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

Batch = tuple[Tensor, Tensor]
TRAINING = ("train_loss", "train_acc")


class MeanLoss(Metric):
    """The loss per sample over all batches and processes; a NaN in it is reported, not left out."""

    total: Tensor
    n: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("n", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, losses: Tensor, n: int) -> None:
        """Take in the loss of a mini-batch summed over its n samples, or of several, (m,), of n samples together.

        They are added one after the other, so that it does not matter which come together.
        """
        if losses.ndim == 0:
            self.total += losses
        else:
            terms = torch.cat((self.total[None], losses.to(self.total.dtype))).cpu().numpy()
            with np.errstate(all="ignore"):  # a NaN and an infinity are figures, too
                self.total.fill_(float(np.add.accumulate(terms)[-1]))
        self.n += n

    def compute(self) -> Tensor:
        """The mean."""
        return self.total / self.n


class Classifier(L.LightningModule, ABC):
    """A Lightning module that classifies and reports its loss per sample and its accuracy.

    A subclass computes logits and the loss of a batch; validation, test and prediction follow from them.
    """

    architecture: ClassVar[tuple[str, ...]]
    """The hyper-parameters that say what the weights mean: a checkpoint fits a learner that agrees in all of them."""

    figures: ClassVar[tuple[str, ...]]
    """What is logged in training, and can be watched; the first needs no validation."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.metrics = nn.ModuleDict()
        for stage in ("train", "val", "test"):
            self.metrics[f"{stage}_loss"] = MeanLoss()
            self.metrics[f"{stage}_acc"] = MulticlassAccuracy(n_classes, average="micro", validate_args=False)

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """The scores of x, (N, I), whose largest is the prediction: (N, K)."""

    @abstractmethod
    def mean_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss per sample of logits, (N, K), given labels, (N,)."""

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Refuse a trainer that the learner cannot be trained with."""

    def setup(self, stage: str) -> None:
        """Look at the trainer before training."""
        if stage == "fit":
            self.check_trainer(self.trainer)

    def metric(self, name: str) -> Metric:
        """The metric that is logged as ``name``."""
        return cast(Metric, self.metrics[name])

    def _evaluate(self, batch: Batch, stage: str) -> None:
        x, labels = batch
        if len(x):  # this process's part of a short tail may be empty
            logits = self.logits(x)
            self.measure(stage, self.mean_loss(logits, labels) * len(x), logits, labels)

    def measure(self, stage: str, loss: Tensor, predicted: Tensor, labels: Tensor) -> None:
        """Take samples into the figures of a stage: a mini-batch, or several together.

        Args:
            stage: "train", "val" or "test".
            loss: summed over a mini-batch's samples, a scalar, or that of each mini-batch, (m,).
            predicted: logits, (N, K), or the labels that they predict, (N,).
            labels: (N,).
        """
        self.metric(f"{stage}_loss").update(loss, len(labels))
        if len(labels):
            self.metric(f"{stage}_acc").update(predicted, labels)

    def log_epoch(self, stage: str) -> None:
        """Log ``<stage>_loss`` and ``<stage>_acc`` over the samples of all processes; Lightning resets them."""
        for name in (f"{stage}_loss", f"{stage}_acc"):
            self.log(name, self.metric(name), prog_bar=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure a batch of the validation set."""
        self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Log ``val_loss`` and ``val_acc``."""
        self.log_epoch("val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure a batch of the test set."""
        self._evaluate(batch, "test")

    def on_test_epoch_end(self) -> None:
        """Log ``test_loss`` and ``test_acc``."""
        self.log_epoch("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The predicted class labels of a batch, (N,) int64."""
        return self.logits(batch[0]).argmax(1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the learner in the checkpoint, so that it is not loaded into another; keep the figures of the epoch."""
        checkpoint["learner"] = type(self).__name__
        if self._trainer is not None and self._trainer.world_size == 1:  # another process's figures are not known here
            checkpoint["figures"] = {name: self.metric(name).metric_state for name in TRAINING}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the figures of the epoch."""
        if self._trainer is not None and self._trainer.world_size == 1:
            for name, state in checkpoint.get("figures", {}).items():
                for key, value in state.items():
                    setattr(self.metric(name), key, value.to(self.device))
