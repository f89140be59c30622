"""Epochs of the multi-layer perceptron, in place, over data that stay where the arithmetic is done."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nnlab.engine.arguments import Masks, Update, check_network, check_order, check_target
from nnlab.engine.descent import Descent, apply_gradients, descend_product
from nnlab.engine.forward import AT_ONCE, forward_
from nnlab.engine.graph import Recorder
from nnlab.engine.samples import Batch, Dense, Samples
from nnlab.engine.sparsity import sparse_first
from nnlab.engine.step import Layer, Line, Space, differentiate, penalise, propagate
from nnlab.ops import LOSSES, Reduction
from nnlab.validation import check_at_least, check_choice, check_not_negative, check_sample_weight, check_tensors

if TYPE_CHECKING:
    from nnlab.engine.sparse import SparseFirst


class Run(NamedTuple):
    """What a run met, each sample and each weight before the step that it was part of.

    Attributes:
        outputs: the network's, in the order of the run, (n, K), those of a class side by side in memory.
        penalties: λ/2 Σ w² at each step, (steps,).
    """

    outputs: Tensor
    penalties: Tensor


class MLPEngine:
    """Trains an MLP, one mini-batch after another, on samples that stay on its device.

    Nothing is recorded, and a step makes no tensor: of gradient descent without momentum, a weight's gradient, its L2
    penalty and its step are one GEMM on the weight. Momentum adds a pass over the weight; any other optimizer is given
    the gradients. The steps are those of ``nnlab.networks`` and ``nnlab.ops`` but for rounding, and each depends on its
    own mini-batch alone: however an epoch is cut into runs, the weights are the same to the last bit. On a CUDA device
    a run asked for again is one CUDA graph, and no step waits for the device; products are in TF32 only where
    ``torch.set_float32_matmul_precision`` asks for it.

    >>> from nnlab.networks import MLP
    >>> network = MLP([2, 3, 2], "tanh", generator=torch.Generator().manual_seed(0))
    >>> x, labels = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1])
    >>> engine = MLPEngine(list(network.parameters()), network.activations, "softmax_cross_entropy", x, labels)
    >>> for epoch in range(100):
    ...     outputs = engine.run_(torch.randperm(2), Descent(lr=0.5)).outputs
    >>> network(x).argmax(1)
    tensor([0, 1])

    Args:
        parameters: W⁽¹⁾, b⁽¹⁾, …, (O, I), (O,), changed in place.
        activations: the name of each layer's activation, the output layer's included.
        loss: a key of ``nnlab.ops.LOSSES``.
        x: all samples, (N, I), not copied unless ``dtype`` or a sparse form asks for it.
        target: class labels, (N,) int64, or values, (N, K), as the loss takes them.
        batch_size: samples per step; the tail of a run may be shorter.
        reduction: whether a mini-batch's error is the "sum" over its samples or their "mean".
        l2: λ of the penalty λ/2 Σ w² of the weights but not the biases.
        sample_weight: wₙ >= 0, (N,), by which a sample's error counts; a mean divides by their sum.
        dtype: of the arithmetic, as torch.bfloat16 beside float32 parameters; the parameters' own when None.

    Attributes:
        velocity: v of each parameter, empty before the first step with momentum; tensors kept elsewhere may be set.

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
        check_network(self._parameters, self._activations, x)
        check_choice("loss", loss, LOSSES)
        check_choice("reduction", reduction, ("sum", "mean"))
        check_at_least("batch_size", batch_size, 1)
        check_not_negative("l2", l2)
        sizes = [len(weight) for weight in self._parameters[::2]]
        check_target(target, x, loss, sizes[-1])
        if sample_weight is not None:
            check_tensors(x=(x, "N I"), sample_weight=(sample_weight, "N"))
            check_sample_weight(sample_weight)
        low = x.dtype if dtype is None else dtype
        self._used = self._parameters if low == x.dtype else [p.to(low) for p in self._parameters]
        weight = None if sample_weight is None else sample_weight.to(low)
        self._x = x.to(low)
        given = target, sizes[-1], weight, batch_size, reduction == "mean", self._used[0]
        self._samples = Samples(Dense(self._x), *given)
        self._first: SparseFirst | None = None
        self._looked = low != x.dtype
        self._space = Space.of(sizes, self._activations, min(batch_size, len(x)), self._used[0])
        self._gradients: list[Tensor] = []
        self._bound: tuple[object, ...] = ()
        self._lines: dict[tuple[int, int], Line] = {}
        self._recorder = Recorder(x.device)
        self.velocity: list[Tensor] = []

    @torch.no_grad()
    def run_(self, order: Tensor, update: Descent | Update, masks: Masks | None = None) -> Run:
        """Train on the samples in an order, a mini-batch at a time.

        Args:
            order: their numbers, int64 on the engine's device, (n,) with n <= N; one may come more than once.
            update: gradient descent, or any optimizer's step.
            masks: dropout, asked before each step.

        Raises:
            ValueError: ``order`` is not as above, or a setting of the descent out of range.
        """
        check_order(order, self._x, most=len(self._x))
        self._prepare(update, masks is not None)
        first = self._sparse_first() if isinstance(update, Descent) else None
        samples = self._samples if first is None else first.samples
        by_class, penalties = [samples.outputs[:0].T], [samples.penalties[:0]]
        with nullcontext() if first is None else first.holding(self._parameters, self.velocity):
            for part in torch.split(order, samples.chunk) if len(order) else ():
                batches = samples.gather_(part)
                lines = [self._line(k, batch, update) for k, batch in enumerate(batches)]
                if masks is None and isinstance(update, Descent):
                    self._recorder.run((len(part), update), lines)
                else:
                    self._run_with_host(lines, batches, masks)
                by_class.append(samples.outputs[: len(part)].T.clone())
                penalties.append(samples.penalties[: len(batches)].clone())
        return Run(torch.cat(by_class, 1).T, torch.cat(penalties) * (self._l2 / 2))

    @torch.no_grad()
    def outputs(self) -> Tensor:
        """The network's outputs for all samples in their own order, as the parameters are now, (N, K)."""
        self._refresh()
        x, first = self._x, self._usable_first()
        outputs, layers = x.new_empty(len(x), len(self._used[-1])), self._layers(False, sparse=first is not None)
        with nullcontext() if first is None else first.holding(self._parameters, ()):
            parts = torch.split(x, AT_ONCE) if first is None else first.parts(AT_ONCE)
            forward_(parts, layers, self._activations, outputs)
        return outputs

    def _run_with_host(self, lines: Sequence[Line], batches: Sequence[Batch], masks: Masks | None) -> None:
        """Run what needs the host at each step."""
        self._recorder.refuse("the host draws dropout's masks" if masks else "the optimizer is not gradient descent")
        for line, batch in zip(lines, batches, strict=True):
            if masks is not None:
                for buffer, mask in zip(self._space.masks, masks(len(batch.x)), strict=True):
                    buffer[: len(mask)].copy_(mask)
            line.run()

    def _line(self, slot: int, batch: Batch, update: Descent | Update) -> Line:
        """The step of a mini-batch at one place of the buffers."""
        n = len(batch.x)
        if (slot, n) in self._lines:
            return self._lines[slot, n]
        line = self._lines[slot, n] = Line()
        space = self._space if n == len(self._space.ones) else self._space.first(n)
        momentum = isinstance(update, Descent) and update.momentum > 0
        layers = self._layers(momentum, sparse=not isinstance(batch.x, Tensor))
        inputs = propagate(line, batch, layers, self._activations, self._loss, space)
        if self._l2:
            full = self._used is self._parameters
            penalise(line, [layer.weight for layer in layers] if full else self._parameters[::2], batch.penalty)
        if isinstance(update, Descent) and self._used is self._parameters:
            for layer, z, delta in zip(layers, inputs, space.delta, strict=True):
                v_weight, v_bias = layer.velocity
                descend_product(line, layer.weight, v_weight, delta, z, update, batch.scale, self._l2)
                descend_product(line, layer.bias, v_bias, delta, space.ones, update, batch.scale, 0.0)
        else:
            dense = [z for z in inputs if isinstance(z, Tensor)]  # all: sparse inputs are for gradient descent
            self._by_gradients(line, dense, space, batch.scale, update)
        return line

    def _layers(self, momentum: bool, sparse: bool) -> list[Layer]:
        """The layers as a step uses them."""
        velocity: Sequence[Tensor | None] = self.velocity if momentum else [None] * len(self._used)
        layers = [
            Layer(weight, bias, (v_weight, v_bias))
            for weight, bias, v_weight, v_bias in zip(
                self._used[::2], self._used[1::2], velocity[::2], velocity[1::2], strict=True
            )
        ]
        if sparse and self._first is not None:
            packed = self._first.velocity if momentum else None
            layers[0] = Layer(self._first.weight, layers[0].bias, (packed, layers[0].velocity[1]))
        return layers

    def _by_gradients(
        self, line: Line, inputs: Sequence[Tensor], space: Space, scale: float, update: Descent | Update
    ) -> None:
        """Add a step that needs the gradients themselves."""
        differentiate(line, self._gradients, inputs, space, scale)
        apply_gradients(line, self._parameters, self._gradients, self.velocity, update, self._l2)
        line.then(self._refresh)

    def _refresh(self) -> None:
        """Let what is computed with be the parameters as they are now, in its own dtype."""
        if self._used is not self._parameters:
            for low, parameter in zip(self._used, self._parameters, strict=True):
                low.copy_(parameter)

    def _sparse_first(self) -> SparseFirst | None:
        """The first layer of sparse inputs; None where they are not sparse."""
        if not self._looked:
            self._looked = True
            self._first = sparse_first(self._samples, self._x, self._parameters[0])
        return self._usable_first()

    def _usable_first(self) -> SparseFirst | None:
        """What is known of it; a forked process does not have the threads that it needs."""
        if self._first is not None and not self._first.usable():
            self._first, self._lines = None, {}
        return self._first

    def _prepare(self, update: Descent | Update, with_masks: bool) -> None:
        """Have the buffers that a run needs, and forget the lines that were bound to others."""
        self._refresh()
        if isinstance(update, Descent):
            update.check()
            if update.momentum and not self.velocity:
                self.velocity = [torch.zeros_like(p) for p in self._parameters]
        if not self._gradients and (not isinstance(update, Descent) or self._used is not self._parameters):
            self._gradients = [torch.empty_like(p) for p in self._parameters]
        bound = (update, with_masks, *map(id, self.velocity))
        if bound != self._bound:
            self._bound, self._lines = bound, {}
            self._recorder.forget()
            self._space = self._space.with_masks(with_masks)
