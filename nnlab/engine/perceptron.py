"""Epochs of the perceptron's learning rule, over data that stay where the arithmetic is done."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from nnlab.engine.arguments import check_order
from nnlab.engine.perceptron_block import learn_blocked_
from nnlab.networks import PerceptronBank
from nnlab.validation import check_labels, check_positive, check_tensors

logger = logging.getLogger("nnlab")

Learn = Callable[[Tensor, float], Tensor]

CHUNK = 4096  # samples gathered at once
SLOWER = "the perceptron's rule runs on tensor operations, which takes longer"


class Loop(Protocol):
    """Samples and the bank that learns them, as a compiled loop has them."""

    def run_(self, order: Tensor, lr: float) -> Tensor:
        """``PerceptronEngine.run_`` of at least one sample."""


class PerceptronEngine:
    """Trains a bank of perceptrons on samples that stay on its device, one after the other as the rule says.

    However it is computed, the mistakes are those of ``nnlab.ops.perceptron_rule``, sample by sample, and the weights
    are its weights to the last bit. On a CPU the loop over the samples is compiled by numba (the extra ``fast``), on a
    CUDA device by Triton; without them, or in half precision, it is ``nnlab.engine.perceptron_rule_blocked``.

    >>> bank = PerceptronBank(2, 1)
    >>> x, labels = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]), torch.tensor([0, 0, 0, 1])   # logical and
    >>> engine = PerceptronEngine(bank, x, labels)
    >>> [int(engine.run_(torch.arange(4), lr=0.5).count_nonzero()) for epoch in range(7)]   # updates per epoch
    [2, 3, 3, 2, 1, 0, 0]

    Args:
        bank: the units, changed in place; each run goes on from what the bank holds then.
        x: (N, I), of the bank's dtype and on its device, not to be changed afterwards.
        labels: class labels, (N,) int64.

    Raises:
        ValueError: shapes, dtypes or devices disagree, or a label out of range.
    """

    def __init__(self, bank: PerceptronBank, x: Tensor, labels: Tensor) -> None:
        check_tensors(weight=(bank.weight, "K I"), bias=(bank.bias, "K"), x=(x, "N I"))
        check_labels(labels, x, max(2, len(bank.weight)), "labels", everywhere=True)
        self._bank, self._x, self._labels = bank, x, labels
        self._learn: Learn | None = None

    def run_(self, order: Tensor, lr: float) -> Tensor:
        """Learn x[order], sample after sample, in place.

        An interrupted run leaves the bank as one of its samples left it, the average included.

        Args:
            order: sample numbers, (n,) int64, on x's device; any part of an epoch, and any number of times.
            lr: η > 0.

        Returns:
            the error y − d of each unit as each sample was met, (n, K).

        Raises:
            ValueError: η is not greater than 0, ``order`` is not as described, or the bank has changed its dtype or
                device.
        """
        check_positive("lr", lr)
        check_tensors(x=(self._x, "N I"), weight=(self._bank.weight, "K I"))
        check_order(order, self._x)
        if not len(order):
            return self._x.new_empty(0, len(self._bank.weight))
        if self._learn is None:
            return self._begin(order, float(lr))
        return self._learn(order, float(lr))

    def _begin(self, order: Tensor, lr: float) -> Tensor:
        """The first run, which finds out what learns on this device."""
        loop = compiled_loop(self._x.device.type) if self._x.dtype in (torch.float32, torch.float64) else None
        if loop is not None:
            before = int(self._bank.n_samples)
            try:
                learn = loop(self._bank, self._x, self._labels).run_
                error = learn(order, lr)
            except Exception as problem:  # whatever a compiler raises that is there but does not work here
                if int(self._bank.n_samples) != before:
                    raise
                logger.info("%s: %s", SLOWER, str(problem).partition("\n")[0] or type(problem).__name__)
            else:
                self._learn = learn
                return error
        self._learn = self._learn_blocked
        return self._learn(order, lr)

    def _learn_blocked(self, order: Tensor, lr: float) -> Tensor:
        """The same in tensor operations."""
        return torch.cat(
            [learn_blocked_(self._bank, self._x[part], self._labels[part], lr) for part in torch.split(order, CHUNK)]
        )


@functools.cache  # it has to be said once
def compiled_loop(device: str) -> Callable[[PerceptronBank, Tensor, Tensor], Loop] | None:
    """The compiled loop for a kind of device, None where what compiles it is not installed."""
    try:
        if device == "cpu":
            from nnlab.engine.lockstep import Lockstep  # noqa: PLC0415 - numba takes long to import

            return Lockstep
        if device == "cuda":
            from nnlab.engine.perceptron_triton import Lookahead  # noqa: PLC0415 - nor is triton imported without need

            return Lookahead
        reason = f"there is no compiled loop for {device}"
    except ImportError as error:
        reason = str(error)
    logger.info("%s: %s", SLOWER, reason)
    return None
