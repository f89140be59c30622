"""Learning in blocks: one ``training_step`` of Lightning's is as many mini-batches as can be, by an engine."""

import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from torch import Tensor

from nnlab.data import ResidentLoader
from nnlab.training.callbacks import EpochBar, show_progress
from nnlab.training.classifier import Classifier
from nnlab.training.loops import block_length, count_, learnt_in_epoch
from nnlab.training.obstacles import obstacle

logger = logging.getLogger("nnlab")


class BlockLearner(Classifier):
    """A classifier that hands an engine many mini-batches per ``training_step``, where nothing needs to come between.

    Whether it can is looked at when training starts and before every epoch; where it cannot, the mini-batches come one
    by one, and one line of the log names what stands in the way. Everything counts mini-batches in both cases, and a
    checkpoint of one is gone on from by the other.

    In an epoch of blocks the batch that a ``training_step`` is given is the numbers of all samples that are left.
    """

    _engine: Any = None
    _made_for: tuple[Any, list[int]] = (None, [])  # the loader, and where the tensors that change lie
    _obstacle: str | None = None

    @abstractmethod
    def own_obstacle(self) -> str | None:
        """The option of this learner that stands in the way of blocks, if one does."""

    @abstractmethod
    def changed(self) -> Sequence[Tensor]:
        """All tensors that learning changes."""

    @abstractmethod
    def make_engine(self, x: Tensor, labels: Tensor, batch_size: int) -> Any:
        """What learns mini-batches of these samples."""

    @abstractmethod
    def learn(self, engine: Any, order: Tensor, labels: Tensor, batch_size: int) -> Tensor | None:
        """Learn samples by their numbers, (n,), of these labels, (n,), take their figures, and return their loss."""

    def on_train_start(self) -> None:
        """Look for obstacles: an epoch that goes on is not announced again."""
        self._obstacle = None
        self._let_go()
        self._choose()

    def on_train_epoch_start(self) -> None:
        """Look for obstacles once more: callbacks may have changed settings."""
        self._choose()

    def _choose(self) -> None:
        base = next(c for c in type(self).__mro__ if "learn" in vars(c))
        found = obstacle(self.trainer, self, base) or self.own_obstacle()
        if isinstance(loader := self.trainer.train_dataloader, ResidentLoader):
            loader.yield_indices(found is None)
        if found is not None and found != self._obstacle and self.trainer.is_global_zero:
            logger.info("mini-batches go one by one through Lightning (%s); in blocks they would be faster", found)
        self._obstacle = found

    def learn_block(self, left: Tensor) -> Tensor | None:
        """Learn as many mini-batches as Lightning lets be one step; an interrupt within leaves all as it was before.

        Args:
            left: the numbers of all samples that are left of the epoch.

        Returns:
            their loss, of which no gradient is left to be taken.
        """
        loader: Any = self.trainer.train_dataloader
        size = loader.batch_size
        work = 6.0 * sum(p.numel() for p in self.parameters()) * size  # a product forward, and two backward
        n = block_length(self.trainer, work, self.device.type)
        order = left[: n * size]
        with _all_or_nothing(self.changed()):
            loss = self.learn(self._engine_for(loader), order, loader.labels[order], size)
        loader.take(n)
        count_(self.trainer, n)
        return loss

    def _engine_for(self, loader: ResidentLoader) -> Any:
        """The engine, made once per fit: it holds on to the samples and to where the tensors that change lie."""
        places = [tensor.data_ptr() for tensor in self.changed()]
        if self._made_for[0] is not loader or self._made_for[1] != places:
            x = self.trainer.precision_plugin.convert_input(loader.images)
            self._engine = self.make_engine(x, loader.labels, loader.batch_size)
            self._made_for = loader, places
        return self._engine

    def _let_go(self) -> None:
        self._engine, self._made_for = None, (None, [])

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Take the gradient, unless a block has applied it already."""
        if loss.requires_grad or self._obstacle is not None:
            super().backward(loss, *args, **kwargs)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Correct the count of Lightning's own progress bars, which were told the number of a block's first batch."""
        if isinstance(batch, Tensor):
            bar: Any = self.trainer.progress_bar_callback
            if isinstance(bar, TQDMProgressBar) and not isinstance(bar, EpochBar):
                show_progress(bar, self.trainer, self)
            elif isinstance(bar, RichProgressBar):
                bar.on_train_batch_end(self.trainer, self, outputs, batch, learnt_in_epoch(self.trainer) - 1)

    def on_train_end(self) -> None:
        """Let go of the engine."""
        self._let_go()
        if isinstance(loader := self.trainer.train_dataloader, ResidentLoader):
            loader.yield_indices(False)

    def __getstate__(self) -> dict[str, Any]:
        """The module without its engine."""
        return super().__getstate__() | {"_engine": None, "_made_for": (None, [])}


@contextmanager
def _all_or_nothing(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Put tensors back as they were where what follows is broken off: counters and weights must tell the same."""
    with torch.no_grad():
        before = [t.clone() for t in tensors]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
        raise
