"""Rosenblatt's perceptron under Lightning: the learning rule as an optimizer, and the module that applies it."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics import SumMetric

from nnlab.engine import PerceptronEngine
from nnlab.networks import PerceptronBank
from nnlab.ops import perceptron_loss_forward
from nnlab.training.classifier import Classifier, Engine
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
    def step(
        self, closure: Callable[[], Any] | None = None, *, x: Tensor | None = None, labels: Tensor | None = None
    ) -> Any:
        """Learn the samples x, (N, I), with labels, (N,), one after the other; or let the closure learn.

        Returns:
            the error y − d of each unit as each sample was met, (N, K); or what the closure returns.
        """
        learnt = None if closure is None else closure()
        if x is None or labels is None:
            return learnt
        return self.bank.learn_(x, labels, self.param_groups[0]["lr"])


class LitPerceptron(Classifier):
    """A bank of perceptrons, one per class against all the others, trained by Rosenblatt's rule.

    The samples are learnt one after the other, however large the batches are. ``train_errors`` is the number of updates
    in the epoch, over all units (the chapter's ``errors_``); losses are the perceptron criterion per sample.

    Args:
        lr: The learning rate η. The weights start at zero, so it scales them and changes no prediction.
        average: Whether to predict with the average of the weights over all samples learnt, which is far steadier, in
            place of the last weights.
        bipolar: Whether the units' desired outputs are −1 and +1 in place of 0 and 1.
        engine: Who trains. auto takes nnlab's engine, several times as fast, where the settings allow it, and a line
            says where they do not; on refuses such settings; off leaves the batches to Lightning, one by one. With
            the engine, one of Lightning's batches and steps is a chunk of batches (--data.chunk).
        in_features: The number of inputs; the command takes it from the data.
        n_classes: The number of classes; the command takes it from the data.
    """

    architecture = ("in_features", "n_classes", "bipolar")
    figures = ("train_errors", "val_loss", "val_acc")
    training_figures = ("train_errors",)

    def __init__(
        self,
        lr: float = 1.0,
        average: bool = True,
        bipolar: bool = False,
        engine: Engine = "auto",
        in_features: int = 784,
        n_classes: int = 10,
    ) -> None:
        super().__init__(in_features, n_classes, engine)
        check_positive("lr", lr)
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.lr, self.average = lr, average
        self.bank = PerceptronBank(in_features, n_classes, bipolar=bipolar)
        self.metrics["train_errors"] = SumMetric().set_dtype(torch.float64)

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Refuse several processes and reduced precision, under which the sequential rule would not be exact."""
        if trainer.world_size > 1:
            raise ArgumentError(
                "devices",
                f"must be 1 for the perceptron, whose rule learns one sample after the other; there are "
                f"{trainer.world_size} processes",
            )
        if trainer.precision not in ("32-true", "64-true"):
            raise ArgumentError("precision", f"must be 32-true or 64-true for the perceptron, got {trainer.precision}")

    @staticmethod
    def sizes_fit(hyper_parameters: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
        """Whether the bank's weight has the sizes of ``in_features`` and ``n_classes``."""
        weight = state.get("bank.weight")
        sizes = hyper_parameters.get("n_classes"), hyper_parameters.get("in_features")
        return isinstance(weight, Tensor) and tuple(weight.shape) == sizes

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check a checkpoint; weights that are not 0 were learnt from samples."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        if not 0 < int(state["bank.n_samples"]) < 2**53 and state["bank.weight"].any():
            raise ArgumentError("ckpt_path", "has weights, but no count of the samples that they were learnt from")

    @property
    def words(self) -> str:
        """What the model is, in a few words."""
        return f"{len(self.bank.bias)} perceptrons of {self.in_features} inputs"

    def forward(self, x: Tensor) -> Tensor:
        """The net inputs of the units, (N, K), of samples or images, (N, …)."""
        return self.logits(self.samples(x))

    def logits(self, x: Tensor) -> Tensor:
        """Net inputs of the units, (N, K)."""
        u: Tensor = self.bank(x, self.average)
        return u

    def mean_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The perceptron criterion averaged over the batch."""
        return perceptron_loss_forward(logits, self.bank.desired(labels), "mean", g=self.bank.g)

    def mini_batch(self, x: Tensor, labels: Tensor, batch_idx: int) -> None:
        """Learn a batch, sample after sample."""
        optimizer: Any = self.optimizers()
        error = optimizer.step(x=x, labels=labels)
        self.metric("train_errors").update(error.count_nonzero())

    def state_after(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """All that the bank holds, by name."""
        return {name.replace("_", " "): value for name, value in self.bank.state_dict().items()}

    def engine_obstacle(self) -> str | None:
        """An optimizer other than this bank's rule, or hooks on its step; or None."""
        optimizer = self.trainer.optimizers[0]
        if type(optimizer) is not PerceptronRule or optimizer.bank is not self.bank:
            return f"the optimizer must be PerceptronRule of the model's bank, not {type(optimizer).__name__}"
        hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
        return "the optimizer has hooks on its step" if hooks else None

    def changed(self) -> list[Tensor]:
        """All that the bank holds."""
        return list(self.bank.state_dict().values())

    def make_engine(self, x: Tensor, labels: Tensor, batch_size: int) -> PerceptronEngine:
        """The engine for this bank; the rule is per sample, so the batch size is ignored."""
        return PerceptronEngine(self.bank, x, labels)

    def chunk(self, engine: PerceptronEngine, order: Tensor, labels: Tensor, batch_size: int, first: int) -> Tensor:
        """Learn samples in their order, count the updates, and return their share."""
        optimizer: Any = self.optimizers()
        lr = optimizer.param_groups[0]["lr"]
        errors = optimizer.step(lambda: engine.run_(order, lr))  # through step, so that Lightning counts it
        self.metric("train_errors").update(errors.count_nonzero())
        share: Tensor = errors.count_nonzero() / errors.numel()
        return share

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The learning rule."""
        return PerceptronRule(self.bank, self.lr)


LitPerceptron.base = LitPerceptron
