"""The multi-layer perceptron under Lightning, by the engine or by Lightning's optimization through the bridge."""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import lightning as L
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import one_hot
from torch.nn.utils import parametrize

from nnlab import autograd
from nnlab.data import ResidentLoader
from nnlab.engine import Adam, Masks, MLPEngine, NotFiniteError, Update, supports, update_of
from nnlab.networks import MLP, Activation, Linear
from nnlab.ops import ACTIVATIONS, LOSSES, Reduction
from nnlab.training.checkpoints import mean_of
from nnlab.training.classifier import Classifier, Engine
from nnlab.validation import ArgumentError, check_at_least, check_choice, check_not_negative, check_positive

if TYPE_CHECKING:
    ActivationName: TypeAlias = str
    LossName: TypeAlias = str
else:  # the command lists the names of the tables
    ActivationName, LossName = Literal[tuple(ACTIVATIONS)], Literal[tuple(LOSSES)]

Schedule = Literal["constant", "linear", "cosine"]
FALLS: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}
"""The factor on the learning rate, given the fraction of training that is done."""

HOLDS = 100  # mini-batches between two changes of the rate: each is a call of the engine's, and costs 2 ms


class LitMLP(Classifier):
    """A multi-layer perceptron trained by hand-written backpropagation.

    It works with any torch optimizer and scheduler, gradient clipping, accumulation, bf16-mixed precision and DDP. With
    ``reduction="sum"``, the processes' and the accumulated batches make one step as the joined batch would on one
    process. So do the processes' with ``"mean"``; of accumulated batches it takes the mean of their means.

    ``train_loss`` is the value whose gradient is applied, per sample; ``val_loss`` and ``test_loss`` leave out the L2
    penalty.

    Args:
        hidden: The number of units of each hidden layer, from the input to the output; a number for one layer.
        activation: Activation function of the hidden layers; the output layer is linear and gives logits.
        loss: Error function. binary_cross_entropy is the chapter's logistic cost of sigmoid outputs;
            sum_of_squares is eq. 3.5 on linear outputs; softmax_cross_entropy is the usual one for classes.
        reduction: Whether the error of a mini-batch is the sum over its samples, as in the chapter, or their mean. With
            sum, the learning rate must be smaller by a factor of about the batch size.
        l2: The λ of the penalty λ/2 Σ w² on the weights (biases are not penalised), added once per mini-batch.
        engine: Who trains. auto takes nnlab's engine, several times as fast, where the settings allow it, and a line
            says where they do not; on refuses such settings; off leaves the mini-batches to Lightning, one by one. With
            the engine, one of Lightning's batches and steps is a chunk of mini-batches (--data.chunk).
        dropout: The chance of a hidden unit to be left out of a step. The others grow by 1 / (1 − dropout).
        lr: Learning rate of the optimizer that is used without --optimizer, SGD with a momentum of 0.9; 0.1 where it is
            null. It is what Lightning's learning-rate finder sets.
        schedule: How the learning rate falls from its value to 0 at --trainer.max_epochs, by the samples seen: linear,
            or cosine, as half a cosine wave. It changes every 100 mini-batches, with the engine and without.
        average_epochs: How many epochs at the end of --trainer.max_epochs have their weights averaged. Training goes on
            with its own weights; validation, tests and predictions use the mean of those after each epoch.
        init_std: Standard deviation of the normal initial weights. By default it follows the layer's size: He for relu,
            Glorot for the others. The chapter has 0.1.
        in_features: The number of inputs; the command takes it from the data.
        n_classes: The number of classes; the command takes it from the data.
    """

    averaged: Tensor
    architecture = ("in_features", "hidden", "n_classes", "activation", "loss")
    figures = ("train_loss", "train_acc", "val_loss", "val_acc")
    training_figures = ("train_loss", "train_acc")

    def __init__(
        self,
        hidden: list[int] | int = [100],  # noqa: B006 - read only; a list is what YAML and the command line give
        activation: ActivationName = "relu",
        loss: LossName = "softmax_cross_entropy",
        reduction: Reduction = "mean",
        l2: float = 0.0,
        engine: Engine = "auto",
        dropout: float = 0.0,
        lr: float | None = None,
        schedule: Schedule = "constant",
        average_epochs: int = 0,
        init_std: float | None = None,
        in_features: int = 784,
        n_classes: int = 10,
    ) -> None:
        super().__init__(in_features, n_classes, engine)
        hidden = [hidden] if isinstance(hidden, int) else hidden
        check_choice("loss", loss, LOSSES)
        check_choice("reduction", reduction, ("sum", "mean"))
        check_not_negative("l2", l2)
        check_not_negative("dropout", dropout)
        if dropout >= 1:
            raise ArgumentError("dropout", f"must be less than 1, got {dropout}")
        check_choice("schedule", schedule, FALLS)
        check_at_least("average_epochs", average_epochs, 0)
        if lr is not None:
            check_positive("lr", lr)
        self.save_hyperparameters()
        self.hparams["hidden"] = hidden
        for units in hidden:
            check_at_least("hidden", units, 1)
        sizes = [in_features, *hidden, n_classes]
        # torch's default generator is what seed_everything seeds
        self.network = MLP(sizes, activation, generator=torch.default_generator, init_std=init_std)
        self.n_classes, self.loss, self.reduction, self.l2 = n_classes, loss, reduction, l2
        self.dropout, self.lr, self.schedule, self.average_epochs = dropout, lr, schedule, average_epochs
        if average_epochs:  # buffers, as an optimizer takes all parameters
            for name, parameter in self.network.named_parameters():
                self.register_buffer(mean_of(name), parameter.detach().clone())
            self.register_buffer("averaged", torch.zeros((), dtype=torch.int64))
        self._fell = False  # the learning rate of the run that this one resumes
        self._count = torch.zeros(())  # Adam's steps, where the engine counts them

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Refuse weights of fewer than 32 bits, which lose small steps and sums over an epoch."""
        if trainer.precision not in ("32-true", "64-true", "bf16-mixed", "16-mixed"):
            raise ArgumentError(
                "precision", f"must be 32-true, 64-true, bf16-mixed or 16-mixed, got {trainer.precision}"
            )
        if self.schedule != "constant" and (trainer.max_epochs or -1) < 1:
            raise ArgumentError("schedule", f"{self.schedule} falls to the end of training: set max_epochs")
        if self.average_epochs and (trainer.max_epochs or -1) < self.average_epochs:
            problem = f"must be at most max_epochs, which is {trainer.max_epochs}, got {self.average_epochs}"
            raise ArgumentError("average_epochs", problem)
        for callback in trainer.callbacks if self.average_epochs else ():  # type: ignore[attr-defined]
            if isinstance(callback, (WeightAveraging, StochasticWeightAveraging)):
                raise ArgumentError("average_epochs", f"must be 0 beside {type(callback).__name__}")

    def on_fit_start(self) -> None:
        """Check the schedule, and record this run's settings for its checkpoints."""
        super().on_fit_start()
        for config in self.trainer.lr_scheduler_configs if self.schedule != "constant" else ():
            name = type(config.scheduler).__name__
            raise ArgumentError("schedule", f"must be constant beside a scheduler, {name}, got {self.schedule}")

    def on_train_start(self) -> None:
        """Resume; where the run before had a schedule that this one has not, set the rate that it fell from."""
        super().on_train_start()
        fell, self._fell = self._fell, False
        for optimizer in self.trainer.optimizers if fell and self.schedule == "constant" else ():
            for group in optimizer.param_groups:
                group["lr"] = group.get("initial_lr", group["lr"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check a checkpoint; note whether its learning rate was falling."""
        super().on_load_checkpoint(checkpoint)
        self._fell = checkpoint["hyper_parameters"].get("schedule", "constant") != "constant"

    def adapt_(self, state: dict[str, Any], *, trains: bool) -> None:
        """Outside training, take the mean weights for the network's, whether this model averages or not.

        Raises:
            ArgumentError: one of the two averages, and training goes on.
        """
        averages, own = "averaged" in state, self.average_epochs > 0
        if trains and averages != own:
            must = "must not be 0" if averages else "must be 0"
            raise ArgumentError("average_epochs", f"{must}, as in the checkpoint, got {self.average_epochs}")
        names = [name for name, _ in self.network.named_parameters()]
        if not trains and averages and state["averaged"]:
            state.update({f"network.{name}": state[mean_of(name)] for name in names if mean_of(name) in state})
        if averages and not own:
            for name in ("averaged", *map(mean_of, names)):
                state.pop(name, None)
        elif own and not averages:
            state["averaged"] = torch.zeros_like(self.averaged)
            state.update({mean_of(name): state.get(f"network.{name}") for name in names})

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the metrics where a callback ends the epoch; after one of the last epochs, average the weights."""
        super().on_train_batch_end(outputs, batch, batch_idx)
        if not (self.average_epochs and self.trainer.is_last_batch):
            return
        before = self.trainer.current_epoch - ((self.trainer.max_epochs or 0) - self.average_epochs)
        if int(self.averaged) != before:  # none yet, or the run goes on to another max_epochs
            self.averaged.zero_()
        if before >= 0:
            self.averaged += 1
            for name, parameter in self.network.named_parameters():
                self.get_buffer(mean_of(name)).lerp_(parameter.detach(), 1 / int(self.averaged))

    def on_train_end(self) -> None:
        """Release the engine; the network gets the mean weights."""
        super().on_train_end()
        if self.average_epochs and self.averaged:
            for name, parameter in self.network.named_parameters():
                parameter.detach().copy_(self.get_buffer(mean_of(name)))
        elif self.average_epochs:
            rank_zero_info(f"no weights were averaged: training ended before its last {self.average_epochs} epochs")

    def set_rate(self, mini_batch: int) -> None:
        """Set the optimizers' learning rate for a mini-batch of the epoch; a learning-rate finder sets its own."""
        if self.schedule == "constant" or (trainer := self.attached()) is None or trainer.lr_scheduler_configs:
            return
        loader, of_epoch = trainer.train_dataloader, trainer.num_training_batches
        if isinstance(loader, ResidentLoader) and loader.chunk:
            of_epoch = -(-len(loader.images) // loader.batch_size)
        done = (trainer.current_epoch + mini_batch // HOLDS * HOLDS / of_epoch) / (trainer.max_epochs or 1)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * FALLS[self.schedule](done)

    @staticmethod
    def sizes_fit(hyper_parameters: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
        """Whether the layers' weights have the sizes of ``in_features``, ``hidden`` and ``n_classes``."""
        hidden = hyper_parameters.get("hidden")
        sizes = [hyper_parameters.get("in_features"), *(hidden if isinstance(hidden, list) else [hidden])]
        sizes.append(hyper_parameters.get("n_classes"))
        weights = [state.get(f"network.{2 * k}.weight") for k in range(len(sizes) - 1)]
        shapes = [tuple(w.shape) if isinstance(w, Tensor) else None for w in weights]
        return shapes == [(o, i) for i, o in pairwise(sizes)]

    @property
    def words(self) -> str:
        """What the model is, in a few words."""
        sizes = "-".join(str(size) for size in (self.in_features, *self.hparams["hidden"], self.n_classes))
        return f"{sizes} {self.hparams['activation']}, {self.loss}"

    def forward(self, x: Tensor) -> Tensor:
        """The outputs, (N, K), of samples or images, (N, …); differentiated by torch, as in any module."""
        outputs: Tensor = self.network(self.samples(x))
        return outputs

    def logits(self, x: Tensor) -> Tensor:
        """The network's outputs, (N, K), with the gradient by hand; outside training, with the mean weights."""
        if self.average_epochs and self.averaged and not self.training:
            means = {name: self.get_buffer(mean_of(name)) for name, _ in self.network.named_parameters()}
            outputs: Tensor = functional_call(self.network, means, (x,))
            return outputs
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

    def mini_batch(self, x: Tensor, labels: Tensor, batch_idx: int) -> Tensor:
        """The loss of a mini-batch, with its hand-written gradient behind it."""
        self.set_rate(batch_idx)
        with parametrize.cached():  # the penalty uses the weights that the network used
            masks = [self._factor * mask for mask in self._masks(len(x))]
            logits = autograd.mlp(self.network, x, masks) if masks else self.logits(x)
            weights = self._parameters_in_order()[::2]
        of_error, of_penalty = self._factors(len(x), batch_idx)
        error = self.error(logits, labels, self.reduction if len(x) else "sum")
        penalty = torch.zeros_like(error)
        if self.l2 > 0:
            for weight in weights:
                penalty = penalty + autograd.l2_penalty(weight, self.l2)
        loss = (error + penalty) * len(x)  # over the batch's samples
        if self.reduction == "sum":
            loss = error + penalty * of_penalty / of_error  # the batches of a step share one penalty
        self.measure("train", loss.detach(), logits.detach(), labels)
        self.last_loss = loss
        return of_error * error + of_penalty * penalty

    def state_after(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """The parameters and the optimizer's state of each, by name."""
        names = {
            p: f"{name.split('.')[-1]} of layer {int(name.split('.')[0]) // 2 + 1}"
            for name, p in self.network.named_parameters()
        }
        kept = ((p, key, value) for p in names for key, value in optimizer.state.get(p, {}).items())
        return {name: p for p, name in names.items()} | {
            f"{key.replace('_', ' ')} of the {names[p]}": value for p, key, value in kept if isinstance(value, Tensor)
        }

    @property
    def _factor(self) -> float:
        """The scale of the units that dropout keeps."""
        return 1 / (1 - self.dropout)

    def _masks(self, n: int) -> list[Tensor]:
        """Which outputs of each hidden layer dropout keeps in a mini-batch, 0 or 1, (n, O); empty without dropout."""
        sizes = [len(bias) for bias in self._parameters_in_order()[1:-2:2]] if self.dropout else []
        return [(torch.rand(n, size, device=self.device) >= self.dropout).to(torch.uint8) for size in sizes]

    def engine_obstacle(self) -> str | None:
        """The part of the network, the optimizer or the precision that the engine does not support, or None."""
        trainer = self.trainer
        if len(trainer.optimizers) != 1:
            return f"there must be one optimizer, not {len(trainer.optimizers)}"
        (optimizer,) = trainer.optimizers
        if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
            return "--optimizer has hooks on its step"
        if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in self.network.parameters()):
            return "a parameter has hooks on its gradient"
        if reason := supports(self.network, self.loss, optimizer, trainer.precision, self.dropout).reason:
            return reason
        try:
            update_of(optimizer, self._parameters_in_order())
        except ArgumentError as error:
            return str(error)
        return None

    def _parameters_in_order(self) -> list[Tensor]:
        """W⁽¹⁾, b⁽¹⁾, …: where pruning was made permanent, ``parameters()`` has a layer's bias before its weight."""
        layers = [layer for layer in self.network if isinstance(layer, Linear)]
        return [parameter for layer in layers for parameter in (layer.weight, layer.bias)]

    def _update(self) -> tuple[Update, list[Tensor]]:
        """The update rule for the engine, and the optimizer's state, which starts at zero."""
        optimizer, parameters = self.trainer.optimizers[0], self._parameters_in_order()
        update = update_of(optimizer, parameters)
        keys: list[str] = []
        if isinstance(update, Adam):
            keys = ["exp_avg", "exp_avg_sq"]
        elif update.momentum:
            keys = ["momentum_buffer"]
        state = [optimizer.state[parameter] for parameter in parameters]
        for parameter, own in zip(parameters, state, strict=True):
            if isinstance(update, Adam):
                own.setdefault("step", torch.zeros(()))
            for key in keys:
                if own.get(key) is None:
                    own[key] = torch.zeros_like(parameter, requires_grad=False)
        tensors = [own[key] for key in keys for own in state]
        if isinstance(update, Adam):
            self._count = self._count.to(self.device)  # always the same tensor, as a CUDA graph may have recorded it
            tensors.append(self._count.copy_(state[0]["step"]))
        return update, tensors

    def changed(self) -> list[Tensor]:
        """The parameters, then the optimizer's state of each."""
        update, state = self._update()
        return [*self._parameters_in_order(), *(state[:-1] if isinstance(update, Adam) else state)]

    def _activations(self) -> list[str]:
        return [layer.name for layer in self.network if isinstance(layer, Activation)]

    def engine_settings(self) -> list[Any]:
        """The settings that an engine is built for."""
        return [self.loss, self.reduction, self.l2, *self._activations()]

    def make_engine(self, x: Tensor, labels: Tensor, batch_size: int) -> MLPEngine:
        """The engine for this network and loss."""
        return MLPEngine(
            self._parameters_in_order(),
            self._activations(),
            self.loss,
            x,
            self._target(labels, x.dtype),
            batch_size=batch_size,
            reduction=self.reduction,
            l2=self.l2,
            dtype=torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None,
        )

    def with_inputs(self, engine: MLPEngine, x: Tensor, loader: ResidentLoader) -> MLPEngine:
        """The engine, which takes other inputs without being made anew."""
        engine.set_inputs_(x)
        return engine

    def chunk(self, engine: MLPEngine, order: Tensor, labels: Tensor, batch_size: int, first: int) -> Tensor:
        """Train on mini-batches, and return the loss per sample, each mini-batch's before its step."""
        total, done, n = torch.zeros(()), 0, len(order)
        while done < n:
            mini_batch = first + done // batch_size
            self.set_rate(mini_batch)
            end = n
            if self.schedule != "constant":
                end = min(n, done + (HOLDS - mini_batch % HOLDS) * batch_size)
            try:
                total += self._part(engine, order[done:end], labels[done:end], batch_size)
            except NotFiniteError as error:
                step = None if error.step is None else error.step + done // batch_size
                raise NotFiniteError(step, error.parameter) from error
            done = end
        return total / n

    def _part(self, engine: MLPEngine, order: Tensor, labels: Tensor, batch_size: int) -> Tensor:
        """Train on mini-batches at one rate, and return their loss, summed over the samples."""
        update, engine.state = self._update()
        masks = None
        if self.dropout:  # drawn as for mini-batches one by one
            drawn = [self._masks(len(part)) for part in torch.split(order, batch_size)]
            masks = Masks([torch.cat(layer) for layer in zip(*drawn, strict=True)], self._factor)
        run = engine.run_(order, update, masks)
        if isinstance(update, Adam):
            for own in self.trainer.optimizers[0].state.values():
                own["step"].copy_(engine.state[-1])
        losses = run.losses + run.penalties if self.l2 else run.losses
        if self.reduction == "mean":
            losses = losses * batch_size
            losses[-1] *= ((len(order) - 1) % batch_size + 1) / batch_size  # the tail
        predicted = run.outputs.max(1).indices  # argmax takes long where classes lie side by side
        self.measure("train", losses, predicted, labels)
        return losses.sum()

    def _factors(self, n: int, batch_idx: int) -> tuple[float, float]:
        """The factors on this batch's error and on the penalty that undo the averaging by DDP and by accumulation."""
        trainer = self.attached()
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

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Gradient descent with momentum; the command's ``--optimizer`` and ``--lr_scheduler`` take its place."""
        return torch.optim.SGD(self.parameters(), lr=self.lr or 0.1, momentum=0.9)


LitMLP.base = LitMLP
