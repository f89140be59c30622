"""Epochs of the perceptron's learning rule on samples that stay on their device."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from nnlab.engine.checks import out_of_range, warn_once
from nnlab.networks import PerceptronBank
from nnlab.validation import ArgumentError, check_labels, check_positive, check_tensors


class PerceptronEngine:
    """Trains a bank of perceptrons sample after sample, as ``nnlab.ops.perceptron_rule`` does.

    On a CPU, mistakes, weights and averages equal the rule's to the last bit, whatever the number of threads: a loop
    compiled by numba (the extra ``fast``) learns, and without numba the rule itself. On a CUDA device a Triton kernel
    learns, and the CPU's loop where Triton cannot compile; on whole numbers the results equal the rule's to the last
    bit, on others a mistake may differ only where |u| is at most ``rounding_bound``.

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
        ArgumentError: shapes, dtypes or devices disagree, a label is out of range, or a value of x is not finite.
    """

    def __init__(self, bank: PerceptronBank, x: Tensor, labels: Tensor) -> None:
        check_tensors(weight=(bank.weight, "K I"), bias=(bank.bias, "K"), x=(x, "N I"))
        check_labels(labels, x, max(2, len(bank.weight)), "labels", everywhere=True)
        if not bool(torch.isfinite(x).all()):
            n = int(torch.isfinite(x).all(1).logical_not().nonzero()[0])
            raise ArgumentError("x", f"must hold finite values, sample {n} does not")
        self._bank, self._x, self._labels = bank, x, labels
        self._learner: Learner | None = None

    def run_(self, order: Tensor, lr: float) -> Tensor:
        """Learn x[order], sample after sample, in place.

        An interrupted run leaves the bank as one of its samples left it. On a CUDA device the host waits once, at the
        end of the run.

        Args:
            order: sample indices, (n,) int64, on x's device; any part of an epoch, repeats allowed.
            lr: η > 0; it may differ from run to run.

        Returns:
            the error y − d of each unit as each sample was met, (n, K).

        Raises:
            ArgumentError: η is not greater than 0, ``order`` is not as described, or the bank has changed its dtype or
                device.
            FloatingPointError: a weight, bias or sum for the average became infinite or NaN. The bank is then as it was
                before the run.
        """
        check_positive("lr", lr)
        check_tensors(x=(self._x, "N I"), weight=(self._bank.weight, "K I"))
        self._check_order(order)
        if not len(order):
            return self._x.new_empty(0, len(self._bank.weight))
        if self._learner is None:
            self._learner = learner_for(self._bank, self._x, self._labels)
        inside, start = order.clamp(0, len(self._x) - 1), self._copy()
        errors = self._learn_(self._learner, inside, float(lr))
        right = [(inside == order).all(), *(tensor.isfinite().all() for tensor in self._tensors()[:4])]
        is_inside, *are_finite = torch.stack(right).tolist()  # here the host waits
        if is_inside and all(are_finite):
            return errors
        try:
            if not is_inside:
                raise out_of_range(len(self._x))
            raise FloatingPointError(self._first_not_finite(self._learner, inside, float(lr), start))
        finally:
            self._restore_(start)

    def _check_order(self, order: Tensor) -> None:
        if order.dtype != torch.int64 or order.ndim != 1 or order.device != self._x.device:
            came = f"{str(order.dtype).removeprefix('torch.')} {tuple(order.shape)} on {order.device}"
            raise ArgumentError("order", f"must be int64 (n,) on {self._x.device}, got {came}")
        if len(order) and not len(self._x):
            raise ArgumentError("order", "must be empty, there are no samples")

    def _learn_(self, learner: Learner, order: Tensor, lr: float) -> Tensor:
        """Learn in chunks; after an exception the bank is as the last whole chunk left it."""
        errors, state = [], self._copy()
        try:
            for part in torch.split(order, learner.chunk):
                errors.append(learner.learn_(part, lr))
                state = self._copy()
        except BaseException:
            self._restore_(state)
            raise
        return errors[0] if len(errors) == 1 else torch.cat(errors)

    def _first_not_finite(self, learner: Learner, order: Tensor, lr: float, start: list[Tensor]) -> str:
        """Say by bisection which sample made which unit infinite or NaN."""
        before, after = -1, len(order)  # samples after which the bank is finite, and is not
        while after - before > 1:
            middle = (before + after) // 2
            self._restore_(start)
            self._learn_(learner, order[:middle], lr)
            before, after = (middle, after) if self._finite().all() else (before, middle)
        self._restore_(start)
        self._learn_(learner, order[:after], lr)
        unit = int(self._finite().logical_not().nonzero()[0])
        if not after:
            return f"the weights of unit {unit} were not finite before this call"
        return f"the weights of unit {unit} are not finite after sample {after - 1} of this call"

    def _finite(self) -> Tensor:
        """Whether weights, bias and the sums for the average of each unit are finite, (K,)."""
        weight, bias, weight_lag, bias_lag, _ = self._tensors()
        return torch.stack([bias, bias_lag], 1).isfinite().all(1) & torch.cat([weight, weight_lag], 1).isfinite().all(1)

    def _tensors(self) -> list[Tensor]:
        bank = self._bank
        return [bank.weight.detach(), bank.bias.detach(), bank.weight_lag, bank.bias_lag, bank.n_samples]

    def _copy(self) -> list[Tensor]:
        return [tensor.clone() for tensor in self._tensors()]

    def _restore_(self, state: list[Tensor]) -> None:
        for tensor, value in zip(self._tensors(), state, strict=True):
            tensor.copy_(value)


def rounding_bound(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The net inputs |u|, (N, K), up to which the order of a sum in float64 can decide its sign.

    A sum of m terms, in any order and each product rounded, is off by at most γ Σ |terms|, γ = m ε / (2 − m ε) (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1); two sums differ by at most twice that. Here m = I + 1,
    ε is that of float64, and Σ |terms| = |θ| + Σ |wᵢ xᵢ|.
    """
    part = (x.shape[1] + 1) * torch.finfo(torch.float64).eps
    size = bias.double().abs() + x.double().abs() @ weight.double().abs().T
    return 2.01 * part / (2 - part) * size  # the bound itself is computed in float64


# ---- what learns on a device -----------------------------------------------------------------------------------------


class Learner(Protocol):
    """Samples, and the bank that learns them."""

    @property
    def chunk(self) -> int:
        """Samples that are learnt in one call, which is not interrupted in between."""

    def learn_(self, order: Tensor, lr: float) -> Tensor:
        """Learn x[order] in place; returns the errors, (n, K)."""


class PlainRule:
    """The rule itself, where nothing faster can learn."""

    chunk = 1024

    def __init__(self, bank: PerceptronBank, x: Tensor, labels: Tensor) -> None:
        self._bank, self._x, self._labels = bank, x, labels

    def learn_(self, order: Tensor, lr: float) -> Tensor:
        """Learn x[order] in place; returns the errors, (n, K)."""
        return self._bank.learn_(self._x[order], self._labels[order], lr)


class OnCPU:
    """A copy of samples and bank on the CPU, where the loop learns; the bank is given what was learnt."""

    def __init__(self, bank: PerceptronBank, x: Tensor, labels: Tensor) -> None:
        n_units, n_features = bank.weight.shape
        self._bank = bank
        self._copy = PerceptronBank(n_features, n_units, bipolar=bank.bipolar, dtype=x.dtype, device="cpu")
        self._learner = learner_for(self._copy, x.cpu(), labels.cpu())
        self.chunk = self._learner.chunk

    def learn_(self, order: Tensor, lr: float) -> Tensor:
        """Learn x[order] in place; returns the errors, (n, K)."""
        here, there = self._copy.state_dict().values(), self._bank.state_dict().values()
        for tensor, value in zip(here, there, strict=True):
            tensor.copy_(value)
        errors = self._learner.learn_(order.cpu(), lr)
        for tensor, value in zip(there, here, strict=True):
            tensor.copy_(value)
        return errors.to(order.device)


def learner_for(bank: PerceptronBank, x: Tensor, labels: Tensor) -> Learner:
    """The fastest that works here. A warning says where something is missing, what it costs, and how to install it."""
    if x.dtype not in (torch.float32, torch.float64):
        warn_once(f"{PLAIN}: {str(x.dtype).removeprefix('torch.')} is not compiled, float32 and float64 are")
        return PlainRule(bank, x, labels)
    if x.device.type == "cuda":
        try:
            from nnlab.engine.perceptron_triton import TritonKernel  # noqa: PLC0415 - where there is no device, nor Triton

            return TritonKernel(bank, x, labels)
        except Exception as problem:  # no Triton, no C compiler, or whatever else a compiler raises
            warn_once(f"{ON_CPU}: {str(problem).partition(chr(10))[0] or type(problem).__name__}")
            return OnCPU(bank, x, labels)
    try:
        from nnlab.engine.perceptron_loop import CompiledLoop  # noqa: PLC0415 - numba takes 0.3 s to import

        return CompiledLoop(bank, x, labels)
    except ImportError as problem:
        warn_once(f"{PLAIN}, pip install 'nnlab[fast]' for the compiled loop: {problem}")
        return PlainRule(bank, x, labels)


def narrow(x: Tensor) -> Tensor:
    """The same values in the smallest of uint8, float32 and their own dtype that holds them."""
    for dtype in (torch.uint8, torch.float32):
        if torch.equal((narrower := x.detach().to(dtype)).to(x.dtype), x):
            return narrower
    return x.detach()


PLAIN = "the perceptron learns sample by sample in torch, about 140 times slower than compiled"
ON_CPU = (
    "the perceptron learns on the CPU: its CUDA kernel needs Triton (pip install triton), a C compiler (such as gcc) "
    "and at most 2048 features"
)
