"""Callbacks: an interrupt that keeps the model, and the picture of the learning curve."""

import signal
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

from nnlab.training.learning_curve import draw_learning_curve
from nnlab.training.loops import learnt_in_epoch

ASK = 20  # steps between the questions to all processes whether one is interrupted: each is an all-reduce


class KeepOnInterrupt(L.Callback):
    """Ctrl-C ends training after the step, or block of steps, at hand and saves the model; a second ends it at once.

    Of several processes, all end at their next step whose number is a multiple of 20, or at the end of the epoch.

    Args:
        dirpath: the folder for ``interrupted.ckpt``; the run's folder when None.
    """

    def __init__(self, dirpath: str | Path | None = None) -> None:
        self.dirpath = dirpath
        self.ckpt_path: Path | None = None
        self._asked = False
        self._previous: Any = None

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signal over, now that Lightning has noted whose it was."""
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._on_signal)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Act on a signal to any process where a step has ended: from there training can go on bit for bit."""
        # a block is a step as well, and comes with no accumulation
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if trainer.world_size == 1:
            asked = stepped and self._asked
        else:
            due = stepped and (trainer.global_step % ASK == 0 or trainer.is_last_batch)
            asked = due and trainer.strategy.reduce_boolean_decision(self._asked, all=False)
        if asked:
            raise KeyboardInterrupt

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save the model, if it was an interrupt that ended training."""
        if isinstance(exception, KeyboardInterrupt) and self._previous is not None and trainer.log_dir:
            path = Path(self.dirpath or trainer.log_dir) / "interrupted.ckpt"
            trainer.save_checkpoint(path)  # the whole state, to go on from
            self.ckpt_path = path
        self._restore()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the previous handler of SIGINT."""
        self._restore()

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None


class BestAndLast(ModelCheckpoint):
    """ModelCheckpoint, which keeps the best, and besides it ``last.ckpt``, from which training goes on bit for bit.

    ``last.ckpt`` is written after every epoch, whether it was the best or not, and where ``--trainer.max_steps`` or
    ``--trainer.max_time`` ends training within an epoch: before Lightning counts that epoch as a whole one.
    """

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the last state of an epoch."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.is_last_batch or trainer.should_stop or trainer.global_step == trainer.max_steps:
            self._keep_last(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep it together with what validation found."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and trainer.is_last_batch:
            self._keep_last(trainer)

    def _keep_last(self, trainer: L.Trainer) -> None:
        if self.dirpath and not getattr(trainer, "fast_dev_run", False):
            self.last_model_path = str(Path(self.dirpath) / "last.ckpt")
            trainer.save_checkpoint(self.last_model_path, self.save_weights_only)


class EpochBar(TQDMProgressBar):
    """One bar for an epoch, refreshed every 20 steps or after a block of more, with the latest figures beside it."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=20)

    def init_validation_tqdm(self) -> Any:
        """No bar for validation, which takes a moment."""
        return tqdm(disable=True)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The figures, without the version number of the logger."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count what was learnt."""
        learnt, bar = learnt_in_epoch(trainer), self.train_progress_bar
        if learnt - bar.n >= self.refresh_rate or learnt == bar.total:
            show_progress(self, trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """End the bar, so that what is said next has a line of its own."""
        with suppress(TypeError):  # which Lightning raises where no bar has begun
            self.train_progress_bar.close()


def show_progress(bar: TQDMProgressBar, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    """Show how many mini-batches of the epoch were learnt, and the latest figures."""
    if bar.is_enabled:
        bar.train_progress_bar.n = learnt_in_epoch(trainer)
        bar.train_progress_bar.set_postfix(bar.get_metrics(trainer, pl_module))


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
