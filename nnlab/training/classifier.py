"""The base class of the modules: training by the engine or one mini-batch at a time, and the metrics."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from nnlab.data import Chunk, Copies, ResidentLoader
from nnlab.engine import NotFiniteError
from nnlab.training.checkpoints import check_callbacks, check_content, check_like, check_weights, read_checkpoint, sign
from nnlab.training.chunks import obstacle
from nnlab.training.resume import Continuity, has_ended, loader_states, of_all_ranks, own_of, position_of_done
from nnlab.validation import ArgumentError, check_choice

Engine = Literal["auto", "on", "off"]
LOADERS = "use MNISTDataModule, or ResidentLoader with chunk"
LOOKS_EVERY = 50  # steps on a CUDA device, where a check for NaN waits for the device


class MeanLoss(Metric):
    """The loss per sample over all batches and processes; a NaN in it is reported, not left out."""

    total: Tensor
    n: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("n", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, losses: Tensor, n: int) -> None:
        """Add the summed loss of a mini-batch of n samples, or the losses, (m,), of several that have n samples in all.

        The losses are added one after the other: the sum does not depend on how many come in one call.
        """
        if losses.ndim == 0:
            self.total += losses
        else:
            terms = torch.cat((self.total[None], losses.to(self.total.dtype))).cpu().numpy()
            with np.errstate(all="ignore"):  # NaN and infinity are reported
                self.total.fill_(float(np.add.accumulate(terms)[-1]))
        self.n += n

    def compute(self) -> Tensor:
        """The mean."""
        return self.total / self.n


class Classifier(L.LightningModule, ABC):
    """A Lightning module that classifies, and reports its loss per sample and its accuracy.

    With ``engine="auto"`` training is by ``nnlab.engine`` wherever the settings allow it, and a line says if they do
    not; "on" refuses such settings. With the engine, Lightning's batch is a chunk of mini-batches, which hooks and
    ``global_step`` count: ``MNISTDataModule`` and ``ResidentLoader`` say how many. The optimizer's own step after a
    chunk finds no gradients and changes nothing.

    A subclass computes logits and the loss of a batch, and trains on a mini-batch and on a chunk.
    """

    architecture: ClassVar[tuple[str, ...]]
    """The hyper-parameters that say what the weights mean: a checkpoint fits a module that agrees in all of them."""

    figures: ClassVar[tuple[str, ...]]
    """The metrics that are logged in training and can be monitored; the first needs no validation."""

    training_figures: ClassVar[tuple[str, ...]]
    """The metrics of the training samples."""

    base: ClassVar[type]
    """The class whose training steps the engine takes."""

    def __init__(self, in_features: int, n_classes: int, engine: Engine) -> None:
        super().__init__()
        check_choice("engine", engine, ("auto", "on", "off"))
        self.in_features, self.engine = in_features, engine
        self.metrics = nn.ModuleDict()
        for stage in ("train", "val", "test"):
            self.metrics[f"{stage}_loss"] = MeanLoss()
            self.metrics[f"{stage}_acc"] = MulticlassAccuracy(n_classes, average="micro", validate_args=False)
        self._engine: Any = None
        self._made_for: tuple[Any, list[Any]] = (None, [])  # the loader, and where the tensors that change lie
        self._images: Tensor | None = None  # the engine's
        self._said: str | None = None
        self._continuity = Continuity()
        self._step_hooks: list[Any] = []
        self.last_loss: Tensor | None = None  # of a mini-batch
        self.last_outputs: Tensor | None = None  # of the latest batch that was predicted, (N, K)

    # ---- what a subclass computes ------------------------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def sizes_fit(hyper_parameters: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
        """Whether weights have the sizes that hyper-parameters say; called before a model is built."""

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """The scores of x, (N, I), whose largest is the prediction, with the gradient by hand: (N, K)."""

    @abstractmethod
    def mean_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss per sample of logits, (N, K), given labels, (N,)."""

    @abstractmethod
    def mini_batch(self, x: Tensor, labels: Tensor, batch_idx: int) -> Tensor | None:
        """Update the metrics with a mini-batch; return the loss to minimise, or train here and return None."""

    @abstractmethod
    def engine_obstacle(self) -> str | None:
        """The setting of the model or its optimizer that the engine does not support, or None."""

    @abstractmethod
    def state_after(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """The tensors that a step of the optimizer changes, by name."""

    @abstractmethod
    def changed(self) -> list[Tensor]:
        """The tensors that the engine changes."""

    def engine_settings(self) -> list[Any]:
        """The settings that an engine is built for; a change builds another engine."""
        return []

    @abstractmethod
    def make_engine(self, x: Tensor, labels: Tensor, batch_size: int) -> Any:
        """The engine for these samples."""

    def with_inputs(self, engine: Any, x: Tensor, loader: ResidentLoader) -> Any:
        """The engine for other inputs of the same samples."""
        return self.make_engine(x, loader.labels, loader.batch_size)

    @abstractmethod
    def chunk(self, engine: Any, order: Tensor, labels: Tensor, batch_size: int, first: int) -> Tensor:
        """Train on the samples at these indices, (n,), update the metrics, and return the loss.

        The first of their mini-batches is the epoch's ``first``, counted from 0.
        """

    def adapt_(self, state: dict[str, Any], *, trains: bool) -> None:
        """Change the state of a checkpoint to that of this model, whose settings may be others."""

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Refuse a trainer that the model cannot be trained with."""

    def take_found_rate(self) -> None:
        """Copy ``lr`` to the optimizers and schedulers, where a learning-rate finder has changed it."""
        found = getattr(self, "lr", None)
        if found is None or found == self.hparams.get("lr"):
            return
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] = found
        for config in self.trainer.lr_scheduler_configs:
            if hasattr(config.scheduler, "base_lrs"):
                config.scheduler.base_lrs = [found] * len(config.scheduler.base_lrs)

    # ---- batches -----------------------------------------------------------------------------------------------------

    def samples(self, x: Any) -> Tensor:
        """Samples or images, (N, …), as the model takes them, (N, I).

        Raises:
            ArgumentError: they are no such tensor; the message says what to do.
        """
        if not isinstance(x, Tensor):
            raise ArgumentError("batch", f"must be tensors (x, labels), got x of type {type(x).__name__}")
        flat: Tensor = x.flatten(1) if x.ndim > 2 else x
        if flat.ndim != 2 or flat.shape[1] != self.in_features:
            came = f"samples of shape {tuple(flat.shape)[1:]}" if flat.ndim == 2 else f"x of shape {tuple(flat.shape)}"
            raise ArgumentError("in_features", f"is {self.in_features}, but the batch has {came}")
        if not flat.is_floating_point():
            kind = str(flat.dtype).removeprefix("torch.")
            raise ArgumentError("batch", f"must have floating-point samples, got {kind}: divide pixels by 255, say")
        own, autocast = next(self.parameters()).dtype, torch.is_autocast_enabled(flat.device.type)
        if flat.dtype != own and not autocast:
            raise ArgumentError(
                "batch", f"has samples of {flat.dtype}, the model is of {own}: give it samples.to({own})"
            )
        return flat

    def _pair(self, batch: Any) -> tuple[Tensor, Tensor]:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[1], Tensor):
            raise ArgumentError("batch", f"must be tensors (x, labels), got {type(batch).__name__}")
        x, labels = batch
        if labels.is_floating_point() or labels.is_complex():
            raise ArgumentError("batch", f"must have whole numbers as labels, got {labels.dtype}")
        return x, labels.long()

    def _scores(self, x: Any, outputs: Callable[[Tensor], Tensor]) -> Tensor:
        """The outputs for samples, (N, K); for images with copies, the mean of theirs."""
        if isinstance(x, Copies):
            return torch.stack([outputs(self.samples(images)) for images in x.images]).mean(0)
        return outputs(self.samples(x))

    def attached(self) -> L.Trainer | None:
        """The trainer, where there is one."""
        try:
            trainer = self.trainer
        except RuntimeError:  # Lightning's answer where there is none
            return None
        return trainer if self.fabric is None else None  # Fabric replaces the trainer by its own

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Train on a chunk by the engine, or give the loss of a mini-batch with its gradient by hand behind it."""
        if batch_idx == 0:  # on_train_epoch_start is left out where a run goes on from the end of an epoch
            for name in self.training_figures:
                self.metric(name).reset()
        if isinstance(batch, Chunk):
            loss: Tensor | None = self._by_engine(batch.indices, batch_idx)
        elif self.engine == "on":
            raise ArgumentError("engine", f"is on, so batches must be chunks, got {type(batch).__name__}: {LOADERS}")
        else:
            x, labels = self._pair(batch)
            loss = self.mini_batch(self.samples(x), labels, batch_idx)
        trainer = self.attached()
        if trainer is not None:
            ends = trainer.is_last_batch or trainer.max_steps != -1 or trainer.val_check_interval != 1.0
            if ends:  # or may end: not with every mini-batch, as a call takes 0.5 ms
                self._log(self.training_figures)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the metrics where a callback ends the epoch."""
        if self.trainer.should_stop and not self.trainer.is_last_batch:
            self._log(self.training_figures)

    # ---- the engine --------------------------------------------------------------------------------------------------

    def use_engine(self) -> bool:
        """Whether an epoch is to be chunks for the engine; if not, a line says why.

        Raises:
            ArgumentError: ``engine`` is "on", and something does not let it.
        """
        self._continuity.take_over(self.trainer)  # a new setting may let the engine train, or not
        why = self._obstacle()
        if why and self.engine == "on":
            raise ArgumentError("engine", f"must be auto or off: {why}")
        if self.engine == "auto" and self._continuity.within_mini_batches:
            why = "the run goes on within an epoch of mini-batches"
        said = f"engine off, mini-batches go one by one: {why}" if why else "engine on"
        if said != self._said and self.engine != "off":
            rank_zero_info(said)
        self._said = said
        return why is None

    def _obstacle(self) -> str | None:
        if self.engine == "off":
            return "--model.engine=off"
        return obstacle(self.trainer, self, self.base) or self.engine_obstacle()

    def _by_engine(self, order: Tensor, batch_idx: int) -> Tensor:
        loader = self.trainer.train_dataloader
        why = self._obstacle()
        if why and self._said == "engine on":
            raise ArgumentError("engine", f"must be off, since something changed after the start of training: {why}")
        if why or not isinstance(loader, ResidentLoader):
            raise ArgumentError("chunk", f"of the loader must be None: {why or LOADERS}")
        places = [*(tensor.data_ptr() for tensor in self.changed()), *self.engine_settings()]
        if self._made_for[0] is not loader or self._made_for[1] != places:
            self._engine = self.make_engine(self._inputs(loader.images), loader.labels, loader.batch_size)
            self._made_for, self._images = (loader, places), loader.images
        elif loader.images is not self._images:  # of another epoch
            self._engine = self.with_inputs(self._engine, self._inputs(loader.images), loader)
            self._images = loader.images
        first = batch_idx * (loader.chunk or 1)
        try:
            loss = self.chunk(self._engine, order, loader.labels[order], loader.batch_size, first)
        except NotFiniteError as error:
            raise self._not_finite(error.parameter, None if error.step is None else first + error.step) from error
        except FloatingPointError as error:
            where = f"{str(error).removesuffix(' of this call')} of a chunk in epoch {self.current_epoch + 1}"
            raise FloatingPointError(f"{where}: lower the learning rate, or scale the inputs") from error
        return loss.detach().requires_grad_()  # Lightning takes its gradient, which goes nowhere

    def _inputs(self, images: Tensor) -> Tensor:
        """Images as the engine takes them; bytes stay what they are."""
        x: Tensor = self.trainer.precision_plugin.convert_input(images.flatten(1))
        return self.samples(x) if x.is_floating_point() else x

    def on_fit_start(self) -> None:
        """Record this run's settings for its checkpoints."""
        self.take_found_rate()
        self._continuity.begin(self.trainer)

    def on_train_start(self) -> None:
        """Resume from a checkpoint; without the engine, check after each step that all values are finite."""
        self._continuity.start(self.trainer)
        loader = self.trainer.train_dataloader
        if not (isinstance(loader, ResidentLoader) and loader.chunk):
            after = self._check_finite
            self._step_hooks = [optimizer.register_step_post_hook(after) for optimizer in self.trainer.optimizers]

    def on_train_epoch_start(self) -> None:
        """Go on where a checkpoint was written."""
        self._continuity.epoch_starts(self)

    def on_train_epoch_end(self) -> None:
        """Go on where a checkpoint was written."""
        self._continuity.epoch_ended(self.trainer)

    def on_train_end(self) -> None:
        """Release the engine, which holds the samples."""
        while self._step_hooks:
            self._step_hooks.pop().remove()
        self._engine, self._made_for, self._images, self._said = None, (None, []), None, None

    def __getstate__(self) -> dict[str, Any]:
        """The module without its engine."""
        return super().__getstate__() | {"_engine": None, "_made_for": (None, []), "_images": None, "_step_hooks": []}

    # ---- NaN and infinity --------------------------------------------------------------------------------------------

    def _not_finite(self, what: str, mini_batch: int | None) -> FloatingPointError:
        where = f"epoch {self.current_epoch + 1}"
        where += "" if mini_batch is None else f", mini-batch {mini_batch + 1}"
        return FloatingPointError(
            f"the {what} became NaN or infinite in {where}: lower the learning rate, or scale the inputs"
        )

    def _check_finite(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Check after a step that the loss and what the step changed are finite.

        Raises:
            FloatingPointError: naming what is not.
        """
        batch = self.trainer.fit_loop.batch_idx
        if self.device.type == "cuda" and (batch + 1) % LOOKS_EVERY and not self.trainer.is_last_batch:
            return
        loss = {} if self.last_loss is None else {"loss": self.last_loss}
        found = {name: t.detach() for name, t in (self.state_after(optimizer) | loss).items() if t.is_floating_point()}
        sums = torch.stack([t.sum(dtype=torch.float64).to(self.device) for t in found.values()])
        if not sums.isfinite().all():  # an infinite sum alone is no error: look at each tensor
            for name, tensor in found.items():
                if not tensor.isfinite().all():
                    raise self._not_finite(name, batch)

    # ---- figures -----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check the trainer before training."""
        if stage == "fit":
            self.check_trainer(self.trainer)

    def metric(self, name: str) -> Metric:
        """The metric that is logged as ``name``."""
        return cast(Metric, self.metrics[name])

    def _evaluate(self, batch: Any, stage: str) -> None:
        x, labels = self._pair(batch)
        logits = self._scores(x, self.logits)
        if len(labels):  # this process's share of a short tail may be empty
            self.measure(stage, self.mean_loss(logits, labels) * len(labels), logits, labels)

    def measure(self, stage: str, loss: Tensor, predicted: Tensor, labels: Tensor) -> None:
        """Update the metrics of a stage with a mini-batch, or several.

        Args:
            stage: "train", "val" or "test".
            loss: the summed loss of a mini-batch, a scalar, or of each of several, (m,).
            predicted: logits, (N, K), or the labels that they predict, (N,).
            labels: (N,).
        """
        self.metric(f"{stage}_loss").update(loss, len(labels))
        if len(labels):
            self.metric(f"{stage}_acc").update(predicted, labels)

    def _log(self, names: Sequence[str]) -> None:
        """Log metrics over the samples of all processes; Lightning resets them."""
        if not self.trainer.barebones:  # there Lightning warns about every metric
            for name in names:
                self.log(name, self.metric(name), on_step=False, on_epoch=True, prog_bar=True)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Measure a batch of the validation set."""
        self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Log ``val_loss`` and ``val_acc``."""
        self._log(("val_loss", "val_acc"))
        trains = self.trainer.state.fn == "fit" and not self.trainer.sanity_checking
        if trains and not self.metric("val_loss").compute().isfinite():
            raise self._not_finite("val_loss", None)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Measure a batch of the test set."""
        self._evaluate(batch, "test")

    def on_test_epoch_end(self) -> None:
        """Log ``test_loss`` and ``test_acc``."""
        self._log(("test_loss", "test_acc"))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The predicted class labels of a batch, x, (x,) or (x, labels): (N,) int64."""
        self.last_outputs = self._scores(batch[0] if isinstance(batch, (tuple, list)) else batch, self)
        return self.last_outputs.argmax(1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the model's name, the metrics of the epoch and the digest."""
        checkpoint["learner"] = type(self).__name__
        trainer = self.attached()
        if trainer is not None and "loops" in checkpoint:
            figures = {name: self.metric(name).metric_state for name in self.training_figures}
            checkpoint["figures"] = of_all_ranks(trainer, figures)
            updated = [name for name in self.training_figures if self.metric(name).update_called]
            known = {name: float(self.metric(name).compute()) for name in updated}
            self._continuity.save(checkpoint, trainer, known)
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            for state in loader_states(checkpoint):
                if isinstance(state, dict) and "n_samples" in state:
                    state["position"] = position_of_done(state, progress)
        sign(checkpoint)
        self._continuity.note(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check a checkpoint before anything of it is used, and restore the metrics of the epoch.

        Raises:
            ArgumentError: it is damaged, or does not fit.
        """
        trainer = self.attached()
        if trainer is not None:  # else load_from_checkpoint has checked it, and has put its keywords in
            check_content(checkpoint)
        if checkpoint["learner"] != type(self).__name__:
            raise ArgumentError("ckpt_path", f"holds a {checkpoint['learner']}, not a {type(self).__name__}")
        self.adapt_(checkpoint["state_dict"], trains=trainer is not None and trainer.state.fn == "fit")
        for name in ("state_dict", *({"current_model_state"} & checkpoint.keys())):  # the second is of EMA
            check_weights(checkpoint[name], self.state_dict())
        if trainer is None:
            return
        if trainer.state.fn != "fit":
            check_callbacks(checkpoint, trainer)
        if trainer.precision == "64-true":  # Lightning would load into float32, and widen what is left
            self.double()
        if trainer.state.fn != "fit" or trainer.ckpt_path is None:  # None: a learning-rate finder restores its own
            return
        self._continuity.load(checkpoint, trainer)
        if trainer.max_steps == -1:  # else Lightning ends the epoch again, which needs the same batch size
            _whole_epoch(checkpoint)
        figures = own_of(trainer, checkpoint.get("figures"))
        fresh = {name: self.metric(name).metric_state for name in self.training_figures}
        check_like("figures of its epoch", figures, fresh)
        for name, state in fresh.items():
            for key, value in state.items():
                setattr(self.metric(name), key, figures[name][key].to(value))

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """The model of a checkpoint, which is checked before anything of it is used.

        Raises:
            ArgumentError: it is no checkpoint of this model, or a damaged one.
        """
        checkpoint = read_checkpoint(checkpoint_path)
        if hasattr(checkpoint_path, "seek"):
            checkpoint_path.seek(0)
        if checkpoint["learner"] != cls.__name__:
            raise ArgumentError("ckpt_path", f"holds a {checkpoint['learner']!r}, not a {cls.__name__}")
        if not cls.sizes_fit({**checkpoint["hyper_parameters"], **kwargs}, checkpoint["state_dict"]):
            raise ArgumentError("ckpt_path", "has weights of other sizes than its hyper-parameters say")
        return super().load_from_checkpoint(checkpoint_path, *args, **{"weights_only": True} | kwargs)


def _whole_epoch(checkpoint: dict[str, Any]) -> None:
    """Mark an epoch as processed where all its batches were trained on, so that Lightning begins the next one.

    Lightning would count the batches again, and their size may have changed.
    """
    loop = checkpoint["loops"]["fit_loop"]
    if has_ended(loop["epoch_loop.batch_progress"]):
        if loop["epoch_progress"]["current"]["processed"] < loop["epoch_progress"]["current"]["started"]:
            loop["epoch_loop.state_dict"]["_batches_that_stepped"] += 1  # as Lightning, where it ends an epoch again
        for counts in (loop["epoch_progress"]["total"], loop["epoch_progress"]["current"]):
            counts["processed"] = counts["started"]
