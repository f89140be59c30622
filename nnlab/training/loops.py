"""All that nnlab knows of the inside of Lightning's loops, so that one ``training_step`` can be many mini-batches.

Lightning takes a training step for one mini-batch and looks at its counters after it: is the epoch over, is a
checkpoint or validation due? Its counters go on counting mini-batches here. So a block must end where Lightning has to
look, and after it every counter is moved by what Lightning does not know of.
"""

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

# floating-point operations, half a second or so, after which Ctrl-C, the clock and the bar have their turn; CUDA's by
# arithmetic for 20 TFLOP/s, not by measurement
WORK = {"cpu": 40e9, "cuda": 10e12}
STEP = {"cpu": 5e6, "cuda": 500e6}  # what a step costs besides, at the same speed


def block_length(trainer: L.Trainer, work: float, device: str) -> int:
    """How many mini-batches may be learnt before Lightning has to look.

    Args:
        trainer: within a training step.
        work: the floating-point operations of a mini-batch.
        device: "cpu" or "cuda".

    Returns:
        1 or more; the counters, the settings and ``work`` decide, never the time that anything took.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    learnt, learnt_in_all = progress.current.ready - 1, progress.total.ready - 1  # it counts this step already
    steps = trainer.global_step
    ends = [trainer.num_training_batches - learnt]  # of the epoch, also where limit_train_batches ends it
    ends.append(max(1, WORK[device] // (work + STEP[device])))
    if trainer.max_steps != -1:
        ends.append(trainer.max_steps - steps)
    if trainer.min_steps and steps < trainer.min_steps:  # where early stopping may have been waiting
        ends.append(trainer.min_steps - steps)
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback._every_n_train_steps > 0:
            ends.append(callback._every_n_train_steps - steps % callback._every_n_train_steps)
    every = trainer.val_check_batch  # None where validation goes by the clock
    if every is not None and every != float("inf"):
        seen = learnt_in_all if trainer.check_val_every_n_epoch is None else learnt
        ends.append(every - seen % every)
    return int(min(ends))


def count_(trainer: L.Trainer, n: int) -> None:
    """Tell Lightning, within a training step, that the step was n mini-batches.

    Args:
        trainer: which counts one of them itself, and one step if it optimizes automatically.
        n: 1 or more.
    """
    loop, more = trainer.fit_loop, n - 1
    epoch, fetcher = loop.epoch_loop, loop._data_fetcher
    assert fetcher is not None
    assert fetcher.length is not None
    fetcher.fetched += more  # what tells the last mini-batch of an epoch from the others
    fetcher.done = fetcher.fetched >= fetcher.length
    epoch.batch_progress.increment_by(more, is_last_batch=fetcher.done)
    epoch._batches_that_stepped += more  # the loggers' step
    if trainer.lightning_module.automatic_optimization:
        optimizer = epoch.automatic_optimization.optim_progress.optimizer
        optimizer.step.increment_by(more)  # of which global_step is read
        optimizer.zero_grad.increment_by(more)
    else:
        epoch.manual_optimization.optim_step_progress.increment_by(n)


def learnt_in_epoch(trainer: L.Trainer) -> int:
    """The mini-batches learnt in this epoch, at the end of a step; a callback's ``batch_idx`` is a block's first."""
    return trainer.fit_loop.batch_idx + 1
