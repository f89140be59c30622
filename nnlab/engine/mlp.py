"""Epochs of the multi-layer perceptron, in place, over data that stay where the arithmetic is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnlab.engine.compact import CompactFirst, compact
from nnlab.engine.descent import Descent, descend_gradient, descend_product
from nnlab.engine.samples import Batch, Samples
from nnlab.engine.step import Layer, Line, Space, differentiate, propagate
from nnlab.ops import ACTIVATIONS, LOSSES, Reduction
from nnlab.validation import (
    ArgumentError,
    check_at_least,
    check_choice,
    check_labels,
    check_not_negative,
    check_sample_weight,
    check_tensors,
)

Update = Callable[[Sequence[Tensor]], object]
"""An optimizer's step: it is given ∂E/∂w in the order of the parameters, in buffers that the next step reuses."""

Masks = Callable[[int], Sequence[Tensor]]
"""Dropout: the masks (N, O) of the hidden layers for a mini-batch of N samples."""


class Run(NamedTuple):
    """What a run met, each sample before the step that it was part of.

    Attributes:
        outputs: the network's, in the order of the run, (n, K).
        penalty: λ/2 Σ w² of each step, times its samples where errors are averaged: with the summed errors of
            ``outputs`` it makes the loss whose gradients were applied. A scalar tensor.
    """

    outputs: Tensor
    penalty: Tensor


class MLPEngine:
    """Trains an MLP, one mini-batch after another, on samples that stay on its device.

    Nothing is recorded, and a step makes no tensor: of gradient descent without momentum, a weight's gradient, its L2
    penalty and its step are one GEMM on the weight. Momentum adds a pass over the weight; any other optimizer is given
    the gradients. The steps are those of ``nnlab.networks`` and ``nnlab.ops`` but for rounding, and each depends on its
    own mini-batch alone: however an epoch is cut into runs, the weights are the same to the last bit.

    >>> from nnlab.networks import MLP
    >>> network = MLP([2, 3, 2], "tanh", generator=torch.Generator().manual_seed(0))
    >>> x, labels = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1])
    >>> engine = MLPEngine(list(network.parameters()), network.activations, "softmax_cross_entropy", x, labels)
    >>> for epoch in range(100):
    ...     outputs = engine.run_(torch.randperm(2), Descent(lr=0.5)).outputs
    >>> network(x)[-1].argmax(1)
    tensor([0, 1])

    Args:
        parameters: W⁽¹⁾, b⁽¹⁾, …, (O, I), (O,), changed in place.
        activations: the name of each layer's activation, the output layer's included.
        loss: a key of ``nnlab.ops.LOSSES``.
        x: all samples, (N, I), not copied unless ``dtype`` or a compact form asks for it.
        target: class labels, (N,) int64, or values, (N, K), as the loss takes them.
        batch_size: samples per step; the tail of a run may be shorter.
        reduction: whether a mini-batch's error is the "sum" over its samples or their "mean".
        l2: λ of the penalty λ/2 Σ w² of the weights but not the biases.
        sample_weight: wₙ >= 0, (N,), by which a sample's error counts; a mean divides by their sum.
        dtype: of the arithmetic: torch.bfloat16 beside float32 parameters, which keep what a bfloat16 would lose. The
            parameters' own when None.

    Attributes:
        velocity: v of each parameter, empty before the first step with momentum; it may be set to tensors that are
            kept elsewhere.

    Raises:
        ValueError: shapes, dtypes or devices disagree, a label or a value out of range, an unknown name.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        activations: Sequence[str],
        loss: str,
        x: Tensor,
        target: Tensor,
        *,
        batch_size: int = 100,
        reduction: Reduction = "mean",
        l2: float = 0.0,
        sample_weight: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._parameters = [parameter.detach() for parameter in parameters]
        self._activations, self._loss, self._l2 = tuple(activations), loss, l2
        _check_network(self._parameters, self._activations, x)
        check_choice("loss", loss, LOSSES)
        check_choice("reduction", reduction, ("sum", "mean"))
        check_at_least("batch_size", batch_size, 1)
        check_not_negative("l2", l2)
        sizes = [len(weight) for weight in self._parameters[::2]]
        _check_target(target, x, LOSSES[loss].target, sizes[-1])
        if sample_weight is not None:
            check_tensors(x=(x, "N I"), sample_weight=(sample_weight, "N"))
            check_sample_weight(sample_weight)
        low = x.dtype if dtype is None else dtype
        self._used = self._parameters if low == x.dtype else [p.to(low) for p in self._parameters]
        self._layers = [Layer(w, b) for w, b in zip(self._used[::2], self._used[1::2], strict=True)]
        weight = None if sample_weight is None else sample_weight.to(low)
        self._mean = reduction == "mean"
        self._samples = Samples(x.to(low), target, sizes[-1], weight, batch_size, self._mean)
        self._first: CompactFirst | None = None
        self._looked = low != x.dtype or x.device.type != "cpu"  # for columns to leave out
        self._space = Space.of(sizes, min(batch_size, len(x)), self._used[0])
        self._gradients: list[Tensor] = []
        self._penalty = self._parameters[0].new_zeros(())
        self._update: Descent | Update | None = None
        self._lines: dict[tuple[int, int, int], Line] = {}
        self.velocity: list[Tensor] = []

    @torch.no_grad()
    def run_(self, order: Tensor, update: Descent | Update, masks: Masks | None = None) -> Run:
        """Train on the samples in an order, a mini-batch at a time.

        Args:
            order: their numbers, int64 on the engine's device, (n,); they may be some of them, or repeat.
            update: gradient descent, or any optimizer's step.
            masks: dropout, asked before each step.

        Raises:
            ValueError: ``order`` is not as above, or a setting of the descent out of range.
        """
        self._prepare(order, update, masks)
        outputs = self._used[0].new_empty(len(order), len(self._used[-1]))
        first = self._compact_first() if self._leaves_zeros(update) else None
        samples = self._samples if first is None else first.samples
        try:
            for part, into in zip(order.split(samples.chunk), outputs.split(samples.chunk), strict=True):
                batches = samples.gather_(part)
                needed = [0] * len(batches) if first is None else first.needed(part)
                for slot, (batch, columns) in enumerate(zip(batches, needed, strict=True)):
                    line = self._lines.get((slot, len(batch.x), columns)) or self._line(slot, batch, columns, update)
                    if masks is not None:
                        for buffer, mask in zip(self._space.masks, masks(len(batch.x)), strict=True):
                            buffer[: len(batch.x)].copy_(mask)
                    line.run()
                into.copy_(samples.outputs[: len(part)])
        finally:  # what was learnt before an interrupt is kept
            if first is not None:
                first.store_(self._parameters[0], self._parameters[1])
        return Run(outputs, self._penalty.clone())

    def _line(self, slot: int, batch: Batch, columns: int, update: Descent | Update) -> Line:
        """The step of a mini-batch at one place of the buffers; ``columns`` are those of the compact form, or 0."""
        n, line, l2 = len(batch.x), Line(), self._l2
        space = self._space if n == len(self._space.ones) else self._space.first(n)
        layers = self._layers
        if columns:
            batch, layers = batch._replace(x=batch.x[:, :columns]), [self._first.layer(columns), *layers[1:]]
        inputs = propagate(line, batch, layers, self._activations, self._loss, space)
        line.then(batch.outputs.copy_, space.z[-1])
        if l2:
            for weight in self._parameters[::2]:
                line.then(self._penalise, weight, 0.5 * l2 * (n if self._mean else 1))
        if isinstance(update, Descent) and self._used is self._parameters:
            for k, (layer, z) in enumerate(zip(layers, inputs, strict=True)):
                v_weight, v_bias = self.velocity[2 * k : 2 * k + 2] if update.momentum else (None, None)
                delta_t = space.delta[k].T
                descend_product(line, layer.weight, v_weight, delta_t, z, update, batch.scale, l2)
                if layer.bias is not None:
                    descend_product(line, layer.bias, v_bias, delta_t, space.ones, update, batch.scale, 0.0)
        else:
            self._by_gradients(line, inputs, space, batch.scale, update)
        self._lines[slot, n, columns] = line
        return line

    def _by_gradients(
        self, line: Line, inputs: list[Tensor], space: Space, scale: float, update: Descent | Update
    ) -> None:
        """Add a step that needs the gradients themselves."""
        differentiate(line, self._gradients, inputs, space, scale)
        for k, (parameter, gradient) in enumerate(zip(self._parameters, self._gradients, strict=True)):
            l2 = 0.0 if k % 2 else self._l2
            if isinstance(update, Descent):
                descend_gradient(line, parameter, self.velocity[k] if update.momentum else None, gradient, update, l2)
            elif l2:
                line.then(gradient.add_, parameter, alpha=l2)
        if not isinstance(update, Descent):
            line.then(update, self._gradients)
        if self._used is not self._parameters:
            for low, parameter in zip(self._used, self._parameters, strict=True):
                line.then(low.copy_, parameter)

    def _penalise(self, weight: Tensor, factor: float) -> None:
        w = weight.flatten()
        self._penalty.add_(torch.dot(w, w), alpha=factor)

    def _leaves_zeros(self, update: Descent | Update) -> bool:
        """Whether a weight whose gradient is 0 stays what it is."""
        return isinstance(update, Descent) and not (update.momentum or update.weight_decay or self._l2)

    def _compact_first(self) -> CompactFirst | None:
        """The first layer without the inputs that are always 0, holding today's parameters; None where none are."""
        if not self._looked:
            self._looked = True
            if found := compact(self._samples.x, self._samples.batch_size):
                self._first = CompactFirst(found, self._samples, len(self._parameters[0]))
        if self._first is not None:
            self._first.load_(self._parameters[0], self._parameters[1])
        return self._first

    def _prepare(self, order: Tensor, update: Descent | Update, masks: Masks | None) -> None:
        """Hold a run's arguments to what they must be, and have the buffers that it needs."""
        x = self._samples.x
        if order.dtype != torch.int64 or order.ndim != 1 or order.device != x.device:
            came = f"{str(order.dtype).removeprefix('torch.')} {tuple(order.shape)} on {order.device}"
            raise ArgumentError("order", f"must be int64 (n,) on {x.device}, got {came}")
        if len(order) and (order.min() < 0 or order.max() >= len(x)):
            raise ArgumentError("order", f"must hold numbers from 0 to {len(x) - 1}, the samples there are")
        descent = isinstance(update, Descent)
        if descent:
            update.check()
            if update.momentum and not self.velocity:
                self.velocity = [torch.zeros_like(p) for p in self._parameters]
        if not self._gradients and (not descent or self._used is not self._parameters):
            self._gradients = [torch.empty_like(p) for p in self._parameters]
        if update != self._update or bool(masks) != bool(self._space.masks):
            self._update, self._lines = update, {}
            self._space = self._space.with_masks(bool(masks))
        self._penalty.zero_()


def _check_network(parameters: Sequence[Tensor], activations: Sequence[str], x: Tensor) -> None:
    """Hold the layers to one another and to the inputs."""
    if len(parameters) != 2 * len(activations) or not activations:
        raise ArgumentError("parameters", f"must be two for each of {len(activations)} layers, got {len(parameters)}")
    below = x
    for k, name in enumerate(activations):
        weight, bias = parameters[2 * k], parameters[2 * k + 1]
        check_choice("activations", name, ACTIVATIONS)
        check_tensors(x=(x, "N I"), weight=(weight, "O I" if k == 0 else "O H"), bias=(bias, "O"))
        if weight.shape[1] != below.shape[1 if k == 0 else 0]:
            raise ArgumentError("parameters", f"must fit one another, layer {k + 1} has {tuple(weight.shape)}")
        below = weight


def _check_target(target: Tensor, x: Tensor, kind: str, n_outputs: int) -> None:
    """Hold the target to the samples and to the loss."""
    if kind == "labels":
        check_labels(target, x, n_outputs, everywhere=True)
    elif target.ndim != 2 or target.shape[1] != n_outputs:
        raise ArgumentError("target", f"must have shape (N, {n_outputs}), got {tuple(target.shape)}")
    else:
        check_tensors(x=(x, "N I"), target=(target, "N K"))
