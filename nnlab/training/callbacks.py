"""Callbacks: an interrupt that keeps the model, and the picture of the learning curve."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

from nnlab.training.learning_curve import draw_learning_curve


class KeepOnInterrupt(L.Callback):
    """Ctrl-C ends training after the step at hand and saves the model; a second Ctrl-C ends it at once.

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

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signal over."""
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._on_signal)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Act on a signal at a point where the model is whole."""
        if self._asked:
            raise KeyboardInterrupt

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Act on a signal during validation, too."""
        if self._asked:
            raise KeyboardInterrupt

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save the model, if it was an interrupt that ended training."""
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit" and trainer.log_dir:
            path = Path(self.dirpath or trainer.log_dir) / "interrupted.ckpt"
            trainer.save_checkpoint(path, weights_only=False)  # the whole state, to go on from
            self.ckpt_path = path
        self._restore()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signal back."""
        self._restore()

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None


class EpochBar(TQDMProgressBar):
    """One bar for an epoch, refreshed every 20 steps, with the latest figures beside it."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=20)

    def init_validation_tqdm(self) -> Any:
        """No bar for validation, which takes a moment."""
        return tqdm(disable=True)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The figures, without the version number of the logger."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


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
