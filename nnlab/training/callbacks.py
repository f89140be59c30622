"""The writer of checkpoints; callbacks that keep the model and the checkpoints, print lines and draw the curve."""

import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import Tensor
from tqdm import tqdm

from nnlab.files import write_whole
from nnlab.training.checkpoints import DIGEST, read_checkpoint
from nnlab.training.learning_curve import draw_learning_curve
from nnlab.validation import ArgumentError

ASK = 20  # steps between two checks whether any process is interrupted: each check is an all-reduce
TWICE = 1.0  # seconds within which a repeated signal counts once: schedulers send it to the process and its group


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes each checkpoint whole: a kill at any moment leaves the old file or the new."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint`` to ``path``."""
        write_whole(path, lambda file: torch.save(checkpoint, file))


class KeepOnInterrupt(L.Callback):
    """Ctrl-C or SIGTERM ends training after the step or chunk at hand, and saves the model; a second ends it at once.

    Of several processes, all end at their next step whose number is a multiple of 20, or at the end of the epoch.

    Args:
        dirpath: the folder for ``interrupted.ckpt``; the run's folder when None.

    Attributes:
        signal: the signal that ended training, if one did.
        ckpt_path: the checkpoint that was kept then.
    """

    def __init__(self, dirpath: str | Path | None = None) -> None:
        self.dirpath = dirpath
        self.ckpt_path: Path | None = None
        self.signal: int | None = None
        self._received: int | None = None  # by this process
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._received is None:
            self._received, self._since = signum, now
        elif signum != self._received or now - self._since > TWICE:
            raise KeyboardInterrupt

    def _interrupted(self, trainer: L.Trainer) -> bool:
        """Whether any process has received a signal; an all-reduce tells all of them which."""
        received = torch.tensor(self._received or 0, device=trainer.strategy.root_device)
        self.signal = int(trainer.strategy.reduce(received, reduce_op="max")) or None
        return self.signal is not None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the signal handlers, after Lightning has saved the previous ones."""
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._on_signal)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after a whole step if any process has received a signal: training can resume there bit for bit."""
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if trainer.is_last_batch:
            return  # the epoch has its validation first: on_train_epoch_end
        due = self._received is not None if trainer.world_size == 1 else trainer.global_step % ASK == 0
        if stepped and due and self._interrupted(trainer):
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop if a signal came in the last step of an epoch, or in its validation."""
        if self._interrupted(trainer):
            raise KeyboardInterrupt

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save the model if an interrupt ended training."""
        if isinstance(exception, KeyboardInterrupt) and self._previous:
            all_save = trainer.world_size == 1 or self.signal is not None
            self.signal = self.signal or self._received or signal.SIGINT
            # log_dir sends the folder to all processes: each must ask for it, and once
            if all_save and (folder := trainer.log_dir):
                path = Path(self.dirpath or folder) / "interrupted.ckpt"
                trainer.save_checkpoint(path, False)  # the whole state, to go on from
                self.ckpt_path = path
        self._restore()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the previous handlers."""
        self._restore()

    def _restore(self) -> None:
        for signum, previous in self._previous.items():
            signal.signal(signum, previous)
        self._previous = {}


class BestAndLast(ModelCheckpoint):
    """A ModelCheckpoint that keeps the best, and ``last.ckpt``, from which training resumes bit for bit.

    ``last.ckpt`` is written after every epoch and its validation, whether it was the best or not, and where
    ``--trainer.max_steps`` or ``--trainer.max_time`` ends training within an epoch. A run that resumes from a
    checkpoint copies the best one from beside it, if it is the one that the checkpoint recorded.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._recorded: dict[str, Any] = {}  # of the run that this one resumes
        self._digest: tuple[int, str] = (0, "")  # of the best checkpoint, and when it was written

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Copy the best checkpoint of the run that this one resumes."""
        super().on_train_start(trainer, pl_module)
        score, best = self._recorded.get("score"), self._recorded.get("digest")
        if not isinstance(score, Tensor) or not trainer.ckpt_path or self.dirpath is None or self.monitor is None:
            return
        resumed = Path(trainer.ckpt_path)
        beside = sorted(
            path for folder in (resumed.parent, resumed.parent / "checkpoints") for path in folder.glob("*.ckpt")
        )
        itself = resumed if resumed.stem.partition("-v")[0] == (self.filename or "best") else None
        kept = next((path for path in beside if _digest_of(path) == best), itself)
        if kept is None:
            rank_zero_info(
                f"the best checkpoint is not beside {trainer.ckpt_path}: only its {self.monitor} is known, {score:.4g}"
            )
            return
        own = Path(self.dirpath) / kept.name
        if trainer.is_global_zero and kept.resolve() != own.resolve():
            with kept.open("rb") as file:
                write_whole(own, lambda target: shutil.copyfileobj(file, target))
        self.best_model_path = self.kth_best_model_path = str(own)
        self.best_model_score, self.kth_value = score, score
        self.best_k_models = {str(own): score}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the last state where training ends within an epoch."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        ends = trainer.should_stop or trainer.global_step == trainer.max_steps
        if trainer.is_last_batch:
            ends = trainer.max_steps != -1 and not trainer.enable_validation
        if ends:
            self._keep_last(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the last state where Lightning would resume here, not at the end of an epoch.

        That is with ``max_steps``, and where early stopping ends the run within an epoch.
        """
        super().on_validation_end(trainer, pl_module)
        ends = trainer.max_steps != -1 if trainer.is_last_batch else trainer.should_stop
        if trainer.state.fn == "fit" and ends:
            self._keep_last(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the last state, with what validation found."""
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.is_last_batch and trainer.max_steps == -1:
            self._keep_last(trainer)

    def _keep_last(self, trainer: L.Trainer) -> None:
        if self.dirpath and not getattr(trainer, "fast_dev_run", False):
            self.last_model_path = str(Path(self.dirpath) / "last.ckpt")
            trainer.save_checkpoint(self.last_model_path, self.save_weights_only)

    def state_dict(self) -> dict[str, Any]:
        """The state, and the digest of the best checkpoint."""
        state: dict[str, Any] = super().state_dict()
        best = Path(self.best_model_path)
        if self.best_model_path and best.is_file():
            written = best.stat().st_mtime_ns
            if self._digest[0] != written:  # reading it takes longer than reading its time
                self._digest = written, read_checkpoint(best)[DIGEST]["sha256"]
        return state | {"best_digest": self._digest[1]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best score and the digest of its checkpoint, but no path."""
        self._recorded = {"score": state_dict.get("best_model_score"), "digest": state_dict.get("best_digest")}


def _digest_of(path: Path) -> str | None:
    try:
        return str(read_checkpoint(path)[DIGEST]["sha256"])
    except ArgumentError:
        return None


class EpochBar(TQDMProgressBar):
    """One bar for an epoch, refreshed ten times a second at most; ``EpochLines`` has the figures."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Name the epoch, counted from 1."""
        super().on_train_epoch_start(trainer, *_)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}")

    def init_validation_tqdm(self) -> Any:
        """No bar for validation, which takes a moment."""
        return tqdm(disable=True)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """No figures: the bar fits 80 columns."""
        return {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count what was learnt."""
        now = time.monotonic()
        if now - self._shown >= 0.1 or trainer.is_last_batch:
            self._shown = now
            self.train_progress_bar.n = batch_idx + 1
            self.train_progress_bar.refresh()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """End the bar, so that what is said next has a line of its own."""
        with suppress(TypeError):  # which Lightning raises where no bar has begun
            self.train_progress_bar.close()


WORDS = {
    "train_loss": "loss",
    "train_acc": "acc",
    "train_errors": "updates",
    "val_loss": "val loss",
    "val_acc": "val acc",
}


class EpochLines(L.Callback):
    """Prints a line for each epoch: metrics, time, and whether it is the best."""

    def __init__(self) -> None:
        self._began, self._told, self._validated = 0.0, False, False
        self._best_before: Tensor | None = None

    def _tell(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._told = True
        words, optimizer = getattr(pl_module, "words", None), trainer.optimizers[0]
        size = sum(p.numel() for p in pl_module.parameters())
        how = f"{type(optimizer).__name__} at {optimizer.param_groups[0]['lr']:g}"
        trainer.print(f"{words or type(pl_module).__name__}, {size:,} parameters, {how}")
        if (falls := getattr(pl_module, "schedule", "constant")) != "constant":
            stops = "may end it before (--early_stopping=null)" if trainer.early_stopping_callbacks else "is off"
            trainer.print(f"learning rate {falls} to 0 over {trainer.max_epochs} epochs; early stopping {stops}")
        if words := getattr(trainer.datamodule, "words", None):  # type: ignore[attr-defined]
            trainer.print(words)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say that a new monitor or mode starts without the old one's record."""
        states = {key.partition("{")[0]: key for key in checkpoint["callbacks"]}
        for callback in (_kept(trainer), *trainer.early_stopping_callbacks):
            old = states.get(callback.state_key.partition("{")[0]) if callback else None
            if callback is not None and old is not None and callback.state_key not in checkpoint["callbacks"]:
                group = "checkpoint" if isinstance(callback, ModelCheckpoint) else "early_stopping"
                trainer.print(
                    f"{callback.monitor} has no record yet: the checkpoint had another --{group}.monitor or mode"
                )

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock; before the first epoch, say what is trained on what."""
        if not self._told:
            self._tell(trainer, pl_module)
        self._began, self._validated = time.monotonic(), False
        kept = _kept(trainer)
        self._best_before = kept.best_model_score if kept else None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that there are metrics of validation."""
        self._validated = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line."""
        if not self._began:
            return  # the run goes on from the end of this epoch
        found = trainer.callback_metrics
        figures = [
            f"{words} {float(found[name]):,.0f}" if name == "train_errors" else f"{words} {_short(found[name])}"
            for name, words in WORDS.items()
            if name in found and (self._validated or not name.startswith("val"))  # else it is of an epoch before
        ]
        whole = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        seconds, self._began = time.monotonic() - self._began, 0.0
        best = ", best" if self._is_best(trainer) else ""
        trainer.print(f"epoch {trainer.current_epoch + 1}{whole}: {', '.join(figures)}, {seconds:.1f} s{best}")

    def _is_best(self, trainer: L.Trainer) -> bool:
        """Whether this epoch has replaced the best checkpoint, or will, by its training metrics."""
        kept, before = _kept(trainer), self._best_before
        if kept is None or kept.monitor is None:
            return False
        now = trainer.callback_metrics.get(kept.monitor)
        if kept.best_model_score is not before or now is None or kept.monitor.startswith("val"):
            return kept.best_model_score is not before
        return bool(before is None or (now < before if kept.mode == "min" else now > before))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that early stopping ended the run, and why."""
        often = trainer.val_check_batch != trainer.num_training_batches or trainer.check_val_every_n_epoch != 1
        for stop in trainer.early_stopping_callbacks:
            if stop is None or stop.stopping_reason == EarlyStoppingReason.NOT_STOPPED:
                continue
            unit = "validations" if often and stop.monitor.startswith("val") else "epochs"
            why = f"for {stop.wait_count} {unit}, {stop.monitor} was no better than {_short(stop.best_score)}"
            if stop.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
                why += " (--early_stopping.patience)"
            else:
                why = str(stop.stopping_reason_message).removesuffix(" Signaling Trainer to stop.")
            trainer.print(f"early stopping after epoch {stop.stopped_epoch + 1}: {why}")


def _short(figure: Any) -> str:
    return f"{float(figure):,.0f}" if abs(float(figure)) >= 1000 else f"{float(figure):.4f}"


def _kept(trainer: L.Trainer) -> BestAndLast | None:
    return next((kept for kept in trainer.checkpoint_callbacks if isinstance(kept, BestAndLast)), None)


class LearningCurve(L.Callback):
    """Draws the CSV log of a training run to ``learning_curve.png`` beside it, also when the run is interrupted."""

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the run."""
        self._draw(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Draw what there is of an interrupted run."""
        if isinstance(exception, KeyboardInterrupt):
            self._draw(trainer)

    @rank_zero_only
    def _draw(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.save()
                log = Path(logger.log_dir) / "metrics.csv"
                if log.is_file():
                    draw_learning_curve(log, log.with_name("learning_curve.png"))
