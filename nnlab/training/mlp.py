"""The multi-layer perceptron under Lightning's automatic optimization, by the engine or through the bridge."""

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import lightning as L
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.nn.utils import parametrize

from nnlab import autograd
from nnlab.data import ResidentLoader
from nnlab.engine import Descent, MLPEngine
from nnlab.networks import MLP, Linear
from nnlab.ops import ACTIVATIONS, LOSSES, Reduction
from nnlab.training.blocks import BlockLearner
from nnlab.training.classifier import TRAINING, Batch
from nnlab.training.obstacles import descent_of
from nnlab.validation import ArgumentError, check_at_least, check_choice, check_not_negative

if TYPE_CHECKING:
    ActivationName: TypeAlias = str
    LossName: TypeAlias = str
else:  # the command lists the names of the tables
    ActivationName, LossName = Literal[tuple(ACTIVATIONS)], Literal[tuple(LOSSES)]


class LitMLP(BlockLearner):
    """A multi-layer perceptron trained by hand-written backpropagation.

    It works with any torch optimizer and scheduler, gradient clipping, accumulation, bf16-mixed precision and DDP. With
    ``reduction="sum"``, the processes' and the accumulated batches make one step as the joined batch would on one
    process. So do the processes' with ``"mean"``; of accumulated batches it takes the mean of their means. With
    SGD, and where nothing needs every mini-batch, ``nnlab.engine`` learns them in blocks: the same but for rounding.

    ``train_loss`` is the value whose gradient is applied, per sample; ``val_loss`` and ``test_loss`` leave out the L2
    penalty.

    Args:
        hidden: The number of units of each hidden layer, from the input to the output.
        activation: Activation function of the hidden layers; the output layer is linear and gives logits.
        loss: Error function. binary_cross_entropy is the chapter's logistic cost of sigmoid outputs;
            sum_of_squares is eq. 3.5 on linear outputs; softmax_cross_entropy is the usual one for classes.
        reduction: Whether the error of a mini-batch is the sum over its samples, as in the chapter, or their mean. With
            sum, the learning rate must be smaller by a factor of about the batch size.
        l2: The λ of the penalty λ/2 Σ w² on the weights (biases are not penalised), added once per mini-batch.
        init_std: Standard deviation of the normal initial weights. By default it follows the layer's size: He for relu,
            Glorot for the others. The chapter has 0.1.
        in_features: The number of inputs; the command takes it from the data.
        n_classes: The number of classes; the command takes it from the data.
    """

    architecture = ("in_features", "hidden", "n_classes", "activation", "loss")
    figures = ("train_loss", "train_acc", "val_loss", "val_acc")

    def __init__(
        self,
        hidden: list[int] = [100],  # noqa: B006 - read only; a list is what YAML and the command line give
        activation: ActivationName = "relu",
        loss: LossName = "softmax_cross_entropy",
        reduction: Reduction = "mean",
        l2: float = 0.0,
        init_std: float | None = None,
        in_features: int = 784,
        n_classes: int = 10,
    ) -> None:
        super().__init__(n_classes)
        check_choice("loss", loss, LOSSES)
        check_choice("reduction", reduction, ("sum", "mean"))
        check_not_negative("l2", l2)
        self.save_hyperparameters()
        for units in hidden:
            check_at_least("hidden", units, 1)
        sizes = [in_features, *hidden, n_classes]
        # torch's default generator is what seed_everything seeds
        self.network = MLP(sizes, activation, generator=torch.default_generator, init_std=init_std)
        self.n_classes, self.loss, self.reduction, self.l2 = n_classes, loss, reduction, l2

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Refuse weights of less than 32 bits, in which neither small steps nor the figures of an epoch add up."""
        if trainer.precision not in ("32-true", "64-true", "bf16-mixed", "16-mixed"):
            raise ArgumentError(
                "precision", f"must be 32-true, 64-true, bf16-mixed or 16-mixed, got {trainer.precision}"
            )

    def logits(self, x: Tensor) -> Tensor:
        """The network's outputs, (N, K)."""
        return autograd.mlp(self.network, x)

    def _target(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """The labels, (N,), as the loss takes them."""
        return one_hot(labels, self.n_classes).to(dtype) if LOSSES[self.loss].target == "values" else labels

    def error(self, logits: Tensor, labels: Tensor, reduction: Reduction) -> Tensor:
        """E of a batch, a scalar tensor, without the L2 penalty."""
        return autograd.loss(logits, self._target(labels, logits.dtype), self.loss, reduction)

    def mean_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Eₙ averaged over the batch."""
        return self.error(logits, labels, "mean")

    def training_step(self, batch: Batch | Tensor, batch_idx: int) -> Tensor | None:
        """The loss of a mini-batch, with its hand-written gradient behind it; or that of a block, which is learnt."""
        if batch_idx == 0:  # on_train_epoch_start is left out where a run goes on from the end of an epoch
            for name in TRAINING:
                self.metric(name).reset()
        if isinstance(batch, Tensor):
            return self.learn_block(batch)
        x, labels = batch
        with parametrize.cached():  # the penalty is taken of the weights that the network used
            logits = self.logits(x)
            weights = self._parameters_in_order()[::2]
        of_error, of_penalty = self._factors(len(x), batch_idx)
        error = self.error(logits, labels, self.reduction if len(x) else "sum")
        penalty = torch.zeros_like(error)
        if self.l2 > 0:
            for weight in weights:
                penalty = penalty + autograd.l2_penalty(weight, self.l2)
        loss = (error + penalty) * len(x)  # over the batch's samples
        if self.reduction == "sum":
            loss = error + penalty * of_penalty / of_error  # each batch of a step has its part of the one penalty
        self.measure("train", loss.detach(), logits.detach(), labels)
        return of_error * error + of_penalty * penalty

    def own_obstacle(self) -> str | None:
        """What there is no form in the engine of."""
        if not self.network.plain:
            return "--model: a layer with a hook, a parametrisation or pruning"
        if type(self.network).forward is not MLP.forward:
            return f"--model: {type(self.network).__name__}.forward"
        descent = self._descent()
        return descent if isinstance(descent, str) else None

    def _descent(self) -> Descent | str:
        return descent_of(self.trainer.optimizers[0], self._parameters_in_order())

    def _parameters_in_order(self) -> list[Tensor]:
        """W⁽¹⁾, b⁽¹⁾, …: where pruning was made permanent, ``parameters()`` has a layer's bias before its weight."""
        layers = [layer for layer in self.network if isinstance(layer, Linear)]
        return [parameter for layer in layers for parameter in (layer.weight, layer.bias)]

    def changed(self) -> list[Tensor]:
        """The parameters, and behind them what the optimizer keeps of the momentum."""
        return [*self._parameters_in_order(), *self._velocity()]

    def _velocity(self) -> list[Tensor]:
        """The optimizer's own buffers, which start at zero; none without momentum."""
        optimizer = self.trainer.optimizers[0]
        if not optimizer.param_groups[0]["momentum"]:
            return []
        for parameter in self._parameters_in_order():
            state = optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
        return [optimizer.state[parameter]["momentum_buffer"] for parameter in self._parameters_in_order()]

    def make_engine(self, x: Tensor, labels: Tensor, batch_size: int) -> MLPEngine:
        """The engine for this network and loss."""
        return MLPEngine(
            self._parameters_in_order(),
            self.network.activations,
            self.loss,
            x,
            self._target(labels, x.dtype),
            batch_size=batch_size,
            reduction=self.reduction,
            l2=self.l2,
        )

    def learn(self, engine: MLPEngine, order: Tensor, labels: Tensor, batch_size: int) -> Tensor:
        """Descend on mini-batches, and return the loss per sample, each as it was met."""
        descent = self._descent()
        if isinstance(descent, str):
            raise ArgumentError("optimizer", f"must stay what it is until an epoch ends, got {descent}")
        engine.state = self._velocity()
        outputs, penalties, _ = engine.run_(order, descent)
        errors = LOSSES[self.loss].errors(outputs, self._target(labels, outputs.dtype))
        losses = _sums(errors, batch_size)
        if self.l2 > 0:
            sizes = 1 if self.reduction == "sum" else _sums(torch.ones_like(errors), batch_size)
            losses += penalties * sizes
        predicted = outputs.max(1).indices  # argmax takes long where classes lie side by side
        self.measure("train", losses, predicted, labels)
        return losses.sum() / len(order)

    def _factors(self, n: int, batch_idx: int) -> tuple[float, float]:
        """The factors on this batch's error and on the penalty that undo the averaging by DDP and by accumulation."""
        trainer = self._trainer
        if trainer is None:
            return 1.0, 1.0
        batches = trainer.accumulate_grad_batches
        in_step = min(batches, trainer.num_training_batches - batch_idx // batches * batches)  # an epoch's last: fewer
        mean = batches / in_step
        if self.reduction == "sum":
            return float(trainer.world_size * batches), mean
        if trainer.world_size == 1:
            return mean, mean
        loader = trainer.train_dataloader
        if isinstance(loader, ResidentLoader):  # without asking the other processes
            total: Any = loader.samples_in(batch_idx)
        else:
            total = trainer.strategy.reduce(torch.tensor(float(n), device=self.device), reduce_op="sum")
        return float(n * trainer.world_size / total) * mean, mean

    def on_train_epoch_end(self) -> None:
        """Log ``train_loss`` and ``train_acc``, unless the run goes on from the end of an epoch and ends it again."""
        if self.metric("train_loss").update_called:
            self.log_epoch("train")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Gradient descent with momentum; the command's ``--optimizer`` and ``--lr_scheduler`` take its place."""
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def _sums(values: Tensor, size: int) -> Tensor:
    """The sums of every ``size`` values and of the tail, each the same to the last bit whatever stands beside it."""
    full = len(values) // size * size
    exact = values.double()  # so many more digits that the order in which they are added hardly matters
    return torch.cat((exact[:full].view(-1, size).sum(1), exact[full:].sum()[None]))[: -(-len(values) // size)].to(
        values.dtype
    )
