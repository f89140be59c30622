"""An epoch of the multi-layer perceptron, in place, on samples that stay where the arithmetic is done.

It reads in the order of a call: ``run_``, the loop over mini-batches (``_pass_``), a mini-batch (``_step_``), then what
these need: samples, buffers, state, checks. The step is the mathematics of ``nnlab.networks`` in buffers that are made
once; nothing is recorded for autograd.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nnlab.engine.checks import (
    all_zero,
    check_masks,
    check_network,
    check_state,
    check_target,
    check_update,
    check_weight,
    checked_inputs,
    checked_order,
    form,
    out_of_range,
    warn_once,
)
from nnlab.engine.recording import Recordings
from nnlab.engine.sparse import CompiledSteps, NotCompiledError, SparseInputs, SparseLayer, check_compiled, pays
from nnlab.engine.updates import Adam, Descent, Masks, NotFiniteError, Run, Update
from nnlab.ops import ACTIVATIONS, LOSSES, Activation, Reduction
from nnlab.validation import ArgumentError, check_at_least, check_choice, check_not_negative

if TYPE_CHECKING:
    from nnlab.engine.triton_step import TritonStep

logger = logging.getLogger("nnlab")

# Mini-batches gathered, and on a CUDA device recorded, at once: 1.12 times as fast as one by one for batches of 100
# (784-100-10, one CPU thread), twice as fast for batches of 1.
GROUP = 64
GROUP_BYTES = 2 << 20  # of gathered samples at most on a CPU: they stay in the cache until they are used
AT_ONCE = 1024  # samples of a forward pass alone: what lies between two layers stays in the cache

ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")  # not in every build of torch
ONEDNN_FROM = 512  # inputs and units; with 256 both take as long, and with 100 oneDNN 1.4 times as long


class _Batch(NamedTuple):
    """A mini-batch of n samples: views of the buffers, (n, …). Those from ``z`` on are shared by all mini-batches."""

    place: int  # in its group
    x: Tensor
    target: Tensor  # values, or a row of 0 and 1 for a label; times −scale where δ is scale (y − t)
    scale: Tensor  # of each sample's error, (n, 1)
    masks: list[Tensor]  # of the hidden layers; empty without dropout
    outputs: Tensor
    squares: Tensor  # Σ w² in parts, from Triton's kernels, or the norm of each weight
    z: list[Tensor]  # of the hidden layers
    delta: list[Tensor]  # of all layers
    u: list[Tensor]  # of all layers; of 0 samples where the activation saves z
    masked: list[Tensor]  # z after dropout, of the hidden layers
    ones: Tensor  # (n,)


class _Tensors(NamedTuple):
    """What a call computes with; where the first layer skips zeros, its weight and all of that shape are packed."""

    parameters: list[Tensor]  # what an update changes
    used: list[Tensor]  # in products: the parameters, or copies of another dtype, or with biases as weights
    gradients: list[Tensor]
    state: list[Tensor]
    layer: SparseLayer | None  # the first, where it skips zeros


class MLPEngine:
    """Trains an MLP, one mini-batch after another, on samples that stay on its device.

    The steps are those of ``nnlab.networks`` and ``nnlab.ops`` but for rounding. Each depends on its own mini-batch
    alone: however an epoch is cut into calls, the weights are the same to the last bit. On a CPU a first layer whose
    inputs are mostly zero skips them (with numba, the extra ``fast``), and its sums do not depend on the number of
    threads. On a CUDA device groups of mini-batches are recorded once and replayed, whatever the learning rate, and a
    call waits for the device once, at its end; products are in TF32 only where
    ``torch.set_float32_matmul_precision`` asked for it when the engine was made.

    >>> from nnlab.networks import MLP
    >>> network = MLP([2, 3, 2], "tanh", generator=torch.Generator().manual_seed(0))
    >>> x, labels = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1])
    >>> engine = MLPEngine(list(network.parameters()), network.activations, "softmax_cross_entropy", x, labels)
    >>> for epoch in range(100):
    ...     run = engine.run_(torch.randperm(2), Descent(lr=0.5))
    >>> network(x).argmax(1)
    tensor([0, 1])

    Args:
        parameters: W⁽¹⁾, b⁽¹⁾, …, (O, I), (O,), changed in place.
        activations: the name of each layer's activation, the output layer's included.
        loss: a key of ``nnlab.ops.LOSSES``.
        x: all samples, (N, I), not copied: of the parameters' dtype; or uint8, which stands for x / 255; or a matrix of
            scipy in CSR form, float32 or float64, taken in the parameters' dtype, of which no more than a group of
            mini-batches is ever made dense.
        target: class labels, (N,) int64, or values, (N, K), as the loss takes them.
        batch_size: samples per step; the tail of a call may be shorter.
        reduction: whether a mini-batch's error is the "sum" over its samples or their "mean".
        l2: λ of the penalty λ/2 Σ w² of the weights but not the biases.
        sample_weight: wₙ >= 0, (N,), by which a sample's error counts; a mean divides by their sum.
        dtype: of the arithmetic, as torch.bfloat16 beside float32 parameters; the parameters' own when None.

    Attributes:
        state: what the update remembers, empty before the first step: v of each parameter for momentum; for Adam all m,
            all v and the count of steps. Tensors kept elsewhere may be set.

    Raises:
        ValueError: shapes, dtypes or devices disagree, a label or a value out of range, an unknown name.
    """

    @torch.inference_mode(mode=False)
    def __init__(
        self,
        parameters: Sequence[Tensor],
        activations: Sequence[str],
        loss: str,
        x: Any,
        target: Tensor,
        *,
        batch_size: int = 100,
        reduction: Reduction = "mean",
        l2: float = 0.0,
        sample_weight: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._parameters = [parameter.detach() for parameter in parameters]
        check_network(self._parameters, activations)
        check_choice("loss", loss, LOSSES)
        check_choice("reduction", reduction, ("sum", "mean"))
        check_at_least("batch_size", batch_size, 1)
        check_not_negative("l2", l2)
        if dtype is not None and not dtype.is_floating_point:
            raise ArgumentError("dtype", f"must be a floating-point dtype, got {dtype}")
        like = self._parameters[0]
        self._device, self._on_cpu, self._dtype = like.device, like.device.type == "cpu", dtype or like.dtype
        self._names, self._rows = tuple(activations), [ACTIVATIONS[name] for name in activations]
        self._loss_name, self._loss = loss, LOSSES[loss]
        self._sizes = [len(bias) for bias in self._parameters[1::2]]
        self._mean, self._l2 = reduction == "mean", float(l2)

        self._x = checked_inputs(x, like, self._dtype)
        self._n_samples = self._x.shape[0]
        self._batch_size = min(batch_size, max(1, self._n_samples))  # a call has no more samples
        check_target(target, self._n_samples, self._sizes[-1], self._loss, like)
        if sample_weight is not None:
            check_weight(sample_weight, self._n_samples, like)
        self._target, self._weight = target.detach(), sample_weight
        classes = torch.eye(self._sizes[-1], device=self._device)
        values = self._target if target.ndim == 2 else classes  # of each sample, or of each class
        self._values = values.to(self._dtype)

        self.state: list[Tensor] = []
        suits = ONEDNN and self._on_cpu and self._dtype == torch.float32
        self._onednn = [suits and min(weight.shape) >= ONEDNN_FROM for weight in self._parameters[::2]]  # of each layer
        self._used = self._parameters if self._dtype == like.dtype else [p.to(self._dtype) for p in self._parameters]
        self._with_bias: list[Tensor] = []  # biases as weights
        self._gradients: list[Tensor] = []
        self._lr = like.new_zeros(())  # η, where a recording reads it
        self._recordings = Recordings(self._device)
        self._kernels: TritonStep | None = None
        self._bound: tuple[Update, list[int]] | None = None  # the update, and where its state lies
        self._masked, self._factor, self._extended = False, 1.0, False  # dropout; biases as weights
        self._folded = False  # whether a product takes the step, too
        self._made_for: tuple[bool, ...] | None = None  # the buffers: dense inputs, dropout, biases as weights
        self._batches: dict[int, list[_Batch]] = {}
        self._looked = False  # whether the inputs are sparse
        self._sparse: SparseInputs | None = None
        self._steps: CompiledSteps | None = None
        self._layer: SparseLayer | None = None

    @property
    def skips_zeros(self) -> bool:
        """Whether the first layer reads its inputs without their zeros, as of the last call."""
        return self._sparse is not None

    # ---- a call ------------------------------------------------------------------------------------------------------

    @torch.inference_mode(mode=False)  # a buffer that is made within it could not be used outside
    @torch.no_grad()
    def run_(self, order: Tensor, update: Update, masks: Masks | None = None) -> Run:
        """Train on the samples at these indices, a mini-batch at a time.

        A call that raises, or is interrupted, leaves parameters and state as they were before it.

        Args:
            order: int64 on the engine's device, (n,) with n <= N, repeats allowed.
            update: gradient descent, or Adam.
            masks: dropout.

        Raises:
            ArgumentError: an argument is not as described.
            NotFiniteError: a parameter, a loss or the state became NaN or infinite.
        """
        check_update(update, self._parameters[0].dtype)
        order, bad_order = checked_order(order, self._n_samples, self._device)
        check_masks(masks, len(order), self._sizes, self._device)
        if not len(order):
            return Run(self._by_class(1, 0)[0], self._lr.new_empty(0), self._lr.new_empty(0))
        scale, bad_weight = self._scales(order)
        self._prepare(update, masks)
        start = [tensor.clone() for tensor in self._changed(update)]
        try:
            outputs, squares = self._pass_(order, scale, update, masks)
            losses = self._losses(outputs, order, scale)
            found = torch.stack([bad_order, bad_weight, self._looks_finite(update, losses).logical_not()])
            if found.any():  # on a CUDA device the one time that the host waits
                if found[0]:
                    raise out_of_range(self._n_samples)
                if found[1]:
                    raise all_zero()
                if not all(tensor.isfinite().all() for tensor in (*self._changed(update), losses)):
                    raise self._first_not_finite(start, order, scale, update, masks)
        except BaseException:
            torch._foreach_copy_(self._changed(update), start)
            raise
        return Run(outputs, squares * (self._l2 / 2), losses)

    def _pass_(self, order: Tensor, scale: Tensor, update: Update, masks: Masks | None) -> tuple[Tensor, Tensor]:
        """Train; the outputs, (n, K), and Σ w² of all weights, (steps,), before each step."""
        n, size = len(order), self._batch_size
        if isinstance(update, Descent) and masks is None and (steps := self._compiled_steps()) is not None:
            lr, momentum, decay = update
            state = self.state if momentum else ()
            found, squares = steps.run_(
                self._parameters, state, order, scale, lr=lr, momentum=momentum, decay=decay, l2=self._l2
            )
            return found.t(), squares.to(scale.dtype)
        outputs, squares = self._by_class(1, n)[0], self._lr.new_zeros(-(-n // size))
        self._lr.fill_(update.lr)
        if self._folded and not self._on_cpu and self._kernels is None:
            scale = scale * -update.lr  # every δ is linear in it: no recorded operation needs to know η
        with self._tensors(update) as tensors:
            self._make_buffers(tensors.layer)
            for start in range(0, n, self._group * size):
                part = slice(start, min(n, start + self._group * size))
                batches = self._gather_(order[part], scale[part], masks, part, tensors.layer)
                key = len(batches), len(batches[-1].target), self._kind(update), self._factor
                self._recordings.run(key, partial(self._steps_, batches, update, tensors))
                _spread_(outputs[part], self._outputs, size, back=True)
                if self._l2:
                    parts, done = self._squares[: len(batches)], slice(start // size, start // size + len(batches))
                    # one after the other: the order of a sum along rows may depend on how many rows there are
                    squares[done] = parts.sum(1) if self._kernels else sum(norms.square() for norms in parts.unbind(1))
        return outputs, squares

    def _steps_(self, batches: Sequence[_Batch], update: Update, tensors: _Tensors) -> None:
        """One mini-batch after another: what a recording holds on a CUDA device."""
        for batch in batches:
            if self._kernels is None:
                self._step_(batch, update, tensors)
            else:
                self._kernels.step(
                    *(batch.x, batch.target, batch.outputs, self._lr),
                    scale=batch.scale[:, 0],
                    mask=batch.masks[0] if batch.masks else None,
                    factor=self._factor,
                    penalty=batch.squares if self._l2 else None,
                )

    # ---- a step ------------------------------------------------------------------------------------------------------

    def _step_(self, batch: _Batch, update: Update, tensors: _Tensors) -> None:
        """One mini-batch: forward, δ from the output layer down, each layer's step once its δ has been used."""
        if self._l2:
            torch.stack(torch._foreach_norm(tensors.parameters[::2]), out=batch.squares)
        inputs, z = self._forward_(batch, tensors)

        delta = batch.delta[-1]
        if self._loss.is_difference:  # s (y − t), the first factor of eq. 3.11; the target is −s t
            torch.addcmul(batch.target, self._loss.output(batch.outputs), batch.scale, out=delta)
        else:
            target = batch.target.argmax(1) if self._loss.target == "labels" else batch.target
            gradient = self._loss.backward(batch.outputs.new_ones(()), batch.outputs, target)
            torch.mul(gradient, batch.scale, out=delta)
        folds = self._folded
        for k in reversed(range(len(self._rows))):
            if k < len(batch.masks):
                delta.mul_(batch.masks[k])
            row, of_layer = self._rows[k], self._without_constant(k, delta)
            _activation_backward_(row, of_layer, batch.u[k] if row.saves == "u" else self._without_constant(k, z[k]))
            if k > 0:
                # eq. 3.17: Σ_l δ_l w_lj
                delta = _linear(delta, tensors.used[2 * k], None, batch.delta[k - 1], self._onednn[k])
            if folds:
                self._descend_(k, batch, of_layer, inputs[k], update, tensors)
            else:
                self._differentiate_(k, batch, of_layer, inputs[k], tensors)
        if not folds:
            lr = update.lr if self._on_cpu or self._by_host(update) else self._lr
            if self._l2:
                torch._foreach_add_(tensors.gradients[::2], tensors.parameters[::2], alpha=self._l2)
            update.apply_(tensors.parameters, tensors.gradients, tensors.state, lr)
            self._refresh_()

    def _forward_(self, batch: _Batch, tensors: _Tensors) -> tuple[list[Tensor], list[Tensor]]:
        """What each layer is given, and its z before dropout; the outputs into their place."""
        below, inputs, z = batch.x, [], [*batch.z, batch.outputs]
        for k, row in enumerate(self._rows):
            weight, bias = tensors.used[2 * k : 2 * k + 2]
            inputs.append(below)
            if row.ramp == 0 and not self._on_cpu:  # ReLU is a form that cuBLAS's product itself may have: one kernel
                torch._addmm_activation(bias, below, weight.t(), out=z[k])
            else:
                if k == 0 and tensors.layer is not None:
                    tensors.layer.net_inputs_(batch.place, weight, bias, z[k])
                else:
                    z[k] = _linear(below, weight.t(), bias, z[k], self._onednn[k])  # u, eq. 3.1
                _activate_(row, self._without_constant(k, z[k]), batch.u[k])  # eq. 3.2
            below = z[k]
            if k < len(batch.masks):
                below = torch.mul(z[k], batch.masks[k], out=batch.masked[k])
        if below is not batch.outputs:  # a product may be a new tensor
            batch.outputs.copy_(below)
        return inputs, z

    def _descend_(self, k: int, batch: _Batch, delta: Tensor, below: Tensor, update: Any, tensors: _Tensors) -> None:
        """Layer k's step of gradient descent: w ← w − η (δᵀ z + λ w), or that of momentum."""
        (lr, momentum, decay), turned, layer = update, delta.t(), None if k else tensors.layer
        if self._extended:
            tensors.used[2 * k][: self._sizes[k]].addmm_(turned, below)  # δ carries −η
            return
        (w, b), of_weight = tensors.parameters[2 * k : 2 * k + 2], decay + self._l2
        v, v_of_bias = tensors.state[2 * k : 2 * k + 2] if momentum else (None, None)
        if layer is not None:
            layer.descend_(batch.place, w, v, delta, scale=1.0, lr=lr, momentum=momentum, decay=of_weight)
        elif v is not None:
            _step_by_(w, v.addmm_(turned, below, beta=momentum), lr, of_weight)
        elif self._on_cpu:
            w.addmm_(turned, below, beta=1 - lr * of_weight, alpha=-lr)
        else:
            w.addmm_(turned, below)  # δ carries −η
        if v_of_bias is not None:
            _step_by_(b, v_of_bias.addmv_(turned, batch.ones, beta=momentum), lr, decay)
        elif self._on_cpu:
            b.addmv_(turned, batch.ones, beta=1 - lr * decay, alpha=-lr)
        else:
            b.addmv_(turned, batch.ones)

    def _differentiate_(self, k: int, batch: _Batch, delta: Tensor, below: Tensor, tensors: _Tensors) -> None:
        """Layer k's gradients, into buffers: δᵀ z (eq. 3.9) and Σₙ δₙ."""
        weight, bias = tensors.gradients[2 * k : 2 * k + 2]
        if k == 0 and tensors.layer is not None:
            tensors.layer.gradient_(batch.place, tensors.parameters[0], delta, 1.0, 0.0, weight)
        elif weight.dtype == delta.dtype:
            torch.mm(delta.t(), below, out=weight)
        else:
            torch.mm(delta.t(), below, out=self._low[k])
            weight.copy_(self._low[k])
        torch.sum(delta, 0, dtype=bias.dtype, out=bias)

    def _without_constant(self, k: int, tensor: Tensor) -> Tensor:
        """What belongs to layer k's own units, where biases are weights of a constant one."""
        return tensor[:, : self._sizes[k]] if self._extended else tensor

    def _folds(self, update: Update) -> bool:
        """Whether a weight's gradient, decay and step are one product on the weight, or on its velocity.

        1.14 times as fast as a gradient of its own, on two CPU cores at 100 hidden units. On a CUDA device the factors
        of a product would have to be recorded: only a plain step, whose δ carries η, is.
        """
        plain = isinstance(update, Descent) and (
            self._on_cpu or not (update.momentum or update.weight_decay or self._l2)
        )
        return plain and self._used is self._parameters

    def _refresh_(self) -> None:
        """Copy the parameters into those of the arithmetic, where these have a dtype of their own."""
        if self._used is not self._parameters:
            torch._foreach_copy_(self._used, self._parameters)

    # ---- samples -----------------------------------------------------------------------------------------------------

    def set_inputs_(self, x: Any) -> None:
        """Take other inputs for the same samples, such as an epoch's distorted images; nothing else is made anew.

        Raises:
            ArgumentError: their form, shape or dtype is not that of the inputs before.
        """
        new = checked_inputs(x, self._parameters[0], self._dtype)
        if form(new) != form(self._x):
            raise ArgumentError("x", f"must stay {form(self._x)}, got {form(new)}")
        self._x = new
        if self._sparse is not None:
            known = self._sparse, self._layer, self._steps
            self._sparse, self._looked = None, False  # where this is interrupted, the inputs are looked at again
            self._layer = self._steps = None
            with self._or_dense():
                known[0].replace_(new)
                self._sparse, self._layer, self._steps = known
            self._looked = True

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def outputs(self) -> Tensor:
        """The network's outputs for all samples in their own order, as the parameters are now, (N, K)."""
        outputs = self._by_class(1, self._n_samples)[0]
        if (steps := self._compiled_steps()) is not None:
            steps.outputs_(self._parameters, outputs.t())
            return outputs
        with self._tensors(None) as (_, used, _, _, layer):
            if layer is not None:
                parts = layer.all_net_inputs(used[0], used[1])
            else:
                cuts = (slice(start, start + AT_ONCE) for start in range(0, self._n_samples, AT_ONCE))
                parts = (torch.addmm(used[1], self._dense(cut), used[0].t()) for cut in cuts)
            start = 0
            for z in parts:
                for k, row in enumerate(self._rows):
                    if k > 0:
                        out = z.new_empty(len(z), self._sizes[k])
                        z = _linear(z, used[2 * k].t(), used[2 * k + 1], out, self._onednn[k])  # noqa: PLW2901
                    _activate_(row, z)
                outputs[start : start + len(z)].copy_(z)
                start += len(z)
        return outputs

    def _dense(self, at: slice | Tensor) -> Tensor:
        """Some samples' inputs, (n, I), in the arithmetic's dtype."""
        if not isinstance(self._x, Tensor):
            index = at if isinstance(at, slice) else at.numpy()
            return torch.from_numpy(self._x[index].toarray()).to(self._dtype)
        rows = self._x[at]
        return rows.to(self._dtype).div_(255) if rows.dtype == torch.uint8 else rows

    def _gather_(
        self, order: Tensor, scale: Tensor, masks: Masks | None, part: slice, layer: SparseLayer | None
    ) -> list[_Batch]:
        """The mini-batches of these samples, in the group's buffers."""
        n, size = len(order), self._batch_size
        if n not in self._batches:
            whole = self._group * size
            self._batches = {k: kept for k, kept in self._batches.items() if k == whole} | {n: self._views(n)}
        batches = self._batches[n]
        steps = len(batches)
        _spread_(order, self._index, size)
        _spread_(scale[:, None], self._scale, size)
        index = self._index[:steps].flatten()
        if layer is not None:
            layer.gather_(order)
        elif isinstance(self._x, Tensor) and self._x.dtype == self._dtype and not self._extended:
            torch.index_select(self._x, 0, index, out=self._inputs[:steps].flatten(0, 1))
        else:
            self._inputs[:steps, :, : self._x.shape[1]].flatten(0, 1).copy_(self._dense(index))
        rows = index if self._target.ndim == 2 else self._target[index]
        torch.index_select(self._values, 0, rows, out=self._targets[:steps].flatten(0, 1))
        if self._kernels is None and self._loss.is_difference:
            self._targets[:steps].mul_(self._scale[:steps]).neg_()
        if masks is not None:
            for kept, buffer in zip(masks.kept, self._masks, strict=True):
                _spread_(kept[part], buffer, size)
                if self._kernels is None:  # which take the factor by itself
                    buffer[:steps].mul_(masks.factor)
        return batches

    # ---- buffers -----------------------------------------------------------------------------------------------------

    def _make_buffers(self, layer: SparseLayer | None) -> None:
        """Buffers for a group of mini-batches, each of which begins on a boundary of the memory.

        Where the operands of a product lie can decide how it rounds: cuBLAS looks at up to 256 bytes, a CPU at its
        cache lines. So that a mini-batch gives the same bits at each place of a group, each has rows to spare.
        """
        made_for = layer is None, self._masked, self._extended
        if self._made_for == made_for:
            return
        self._made_for, self._batches = None, {}
        self._recordings.forget()
        like, size, extra = self._used[0], self._batch_size, int(self._extended)
        width = self._x.shape[1] + extra if layer is None else 0
        boundary, n_out, hidden = 64 if self._on_cpu else 256, self._sizes[-1], [o + extra for o in self._sizes[:-1]]
        ends = [columns * like.element_size() for columns in (width, *hidden, n_out)]
        padded = next(r for r in range(size, size + boundary + 1) if all(r * end % boundary == 0 for end in ends))
        most = GROUP
        if layer is not None:
            most = layer.chunk // size
        elif self._on_cpu:
            most = GROUP_BYTES // (padded * ends[0] or 1)
        self._group = g = max(1, min(GROUP, most, -(-self._n_samples // size)))
        self._index = torch.zeros(g, padded, dtype=torch.int64, device=self._device)
        self._inputs = like.new_ones(g, padded, width)
        self._targets, self._scale = like.new_empty(g, padded, n_out), like.new_empty(g, padded, 1)
        self._outputs = self._by_class(g, padded)
        kind = self._dtype if self._kernels is None else torch.uint8
        self._masks = [like.new_empty(g, padded, o, dtype=kind) for o in hidden] if self._masked else []
        self._squares = self._lr.new_zeros(g, len(self._sizes) if self._kernels is None else self._kernels.tiles)
        self._z, self._masked_z = ([like.new_empty(size, o) for o in hidden] for _ in range(2))
        self._delta = [*(like.new_empty(size, o) for o in hidden), self._by_class(1, size)[0]]
        saved = [size if row.saves == "u" else 0 for row in self._rows]
        self._u = [like.new_empty(n, o) for n, o in zip(saved, self._sizes, strict=True)]
        self._ones = like.new_ones(size)
        self._made_for = made_for

    def _views(self, n: int) -> list[_Batch]:
        """The mini-batches of n samples; made once, for new views take up to 1.15 times as long (batches of 1)."""
        batches = []
        for k, start in enumerate(range(0, n, self._batch_size)):
            rows = slice(0, min(self._batch_size, n - start))
            masks = [mask[k, rows] for mask in self._masks]
            z, delta, u, masked = (
                [t[rows] for t in tensors] for tensors in (self._z, self._delta, self._u, self._masked_z)
            )
            given = self._inputs[k, rows], self._targets[k, rows], self._scale[k, rows], masks
            batches.append(
                _Batch(k, *given, self._outputs[k, rows], self._squares[k], z, delta, u, masked, self._ones[rows])
            )
        return batches

    def _by_class(self, groups: int, n: int) -> Tensor:
        """Memory for outputs, (groups, n, K).

        On a CPU the outputs of a class lie side by side, so that a softmax is a few long vectors, not n short ones:
        1 in place of 27 µs for a mini-batch. On a CUDA device they lie as its products want them.
        """
        like, n_out = self._used[0], self._sizes[-1]
        return like.new_empty(groups, n_out, n).transpose(1, 2) if self._on_cpu else like.new_empty(groups, n, n_out)

    # ---- parameters and state ----------------------------------------------------------------------------------------

    def _prepare(self, update: Update, masks: Masks | None) -> None:
        """Make the state and the gradients that an update needs, and on a CUDA device its kernels."""
        self._folded = self._folds(update)
        if not self.state:
            self.state = update.new_state(self._parameters)
        check_state(self.state, update, self._parameters)
        bound = self._kind(update), [t.data_ptr() for t in self.state]
        if bound != self._bound:
            self._bound = self._made_for = None
            self._recordings.forget()
            self._kernels = self._new_kernels(update)
            self._bound = bound
        if not self._folded and not self._gradients:
            self._low = [] if self._used is self._parameters else [torch.empty_like(w) for w in self._used[::2]]
            self._gradients = [torch.empty_like(p) for p in self._parameters]
        self._masked, self._factor = masks is not None, 1.0 if masks is None else masks.factor
        self._extended = not self._on_cpu and self._kernels is None and self._folded and masks is None

    def _by_host(self, update: Update) -> bool:
        """Whether the host gives η to a kernel, which takes it on the device as float32 only."""
        return isinstance(update, Adam) and self._lr.dtype != torch.float32

    def _kind(self, update: Update) -> Update:
        """What a recording depends on of an update: not η, where it is on the device."""
        return update if self._by_host(update) else update._replace(lr=0.0)

    def _changed(self, update: Update) -> list[Tensor]:
        """All that an update changes."""
        return [*self._parameters, *self.state[: update.n_state(len(self._parameters))]]

    def _new_kernels(self, update: Update) -> TritonStep | None:
        """The step as three kernels, on a CUDA device, where Triton has a form of the network and can compile."""
        if self._on_cpu or self._lr.dtype != torch.float32:
            return None
        sizes, size = [self._x.shape[1], *self._sizes], self._batch_size
        options: dict[str, Any] = {"l2": self._l2, "batch_size": size, "dtype": self._dtype}
        if isinstance(update, Adam):
            options["adam"] = update[1:]
        else:
            options |= {"momentum": update.momentum, "weight_decay": update.weight_decay}
        try:
            from nnlab.engine.triton_step import TritonStep  # noqa: PLC0415 - not every torch for CUDA brings Triton

            given = self._names, self._loss_name
            if TritonStep.obstacle(sizes, *given, batch_size=size, dtype=self._dtype):
                return None
            n = len(self._parameters)
            copies = [tensor.clone() for tensor in self._changed(update)]
            trial, like = TritonStep(copies[:n], *given, state=copies[n:], **options), self._used[0]
            trial.step(
                *(like.new_zeros(size, sizes[0]), like.new_zeros(size, sizes[2]), self._by_class(1, size)[0], self._lr),
                scale=like.new_zeros(size),
            )
            return TritonStep(self._parameters, *given, state=self._changed(update)[n:], **options)
        except Exception as problem:  # whatever a compiler raises that is not there, or does not work here
            reason = str(problem).partition("\n")[0] or type(problem).__name__
            warn_once(
                f"steps are torch's operations, not Triton's; by estimate they take 2 to 3 times as long: {reason}"
            )
            return None

    @contextmanager
    def _tensors(self, update: Update | None) -> Iterator[_Tensors]:
        """What a call computes with; copies are written back at the end."""
        own, layer = self._parameters, self._sparse_layer()
        if layer is not None:
            n, state = len(own), [] if update is None else self.state[: update.n_state(len(own))]
            with layer.packed(own[0], *state[: 2 * n : n]) as (weight, *packed):
                state[: 2 * n : n] = packed
                gradients = [torch.empty_like(weight), *self._gradients[1:]] if self._gradients else []
                yield _Tensors([weight, *own[1:]], [weight, *own[1:]], gradients, state, layer)
        elif self._extended and update is not None:
            with self._biases_as_weights() as used:
                yield _Tensors(own, used, [], [], None)
        else:
            self._refresh_()
            yield _Tensors(own, self._used, self._gradients, self.state, None)

    @contextmanager
    def _biases_as_weights(self) -> Iterator[list[Tensor]]:
        """On a CUDA device, for a plain step: 8 kernels in place of 10 for one hidden layer.

        As the chapter has it, a bias is the weight of an input that is always 1. So each weight has the bias as one
        more column, and each hidden layer one more unit, of which the net input is 1 whatever the sample.
        """
        own, sizes = self._parameters, self._sizes
        if not self._with_bias:
            made = []
            for k, size in enumerate(sizes):
                constant = 1 if k < len(sizes) - 1 else 0
                weight = own[2 * k].new_zeros(size + constant, own[2 * k].shape[1] + 1)
                weight[size:, -1] = 1
                made += [weight, weight.new_zeros(len(weight))]
            self._with_bias = made
        views = [view for w, o in zip(self._with_bias[::2], sizes, strict=True) for view in (w[:o, :-1], w[:o, -1])]
        torch._foreach_copy_(views, own)
        try:
            yield self._with_bias
        finally:
            torch._foreach_copy_(own, views)

    # ---- inputs without their zeros ----------------------------------------------------------------------------------

    def _sparse_inputs(self) -> SparseInputs | None:
        """The samples without their zeros; None where they have few, or numba cannot be used."""
        if not self._looked:
            if self._used is self._parameters and pays(self._x, self._sizes[0]):
                with self._or_dense():
                    self._sparse = SparseInputs(self._x, dtype=self._dtype)
            self._looked = True
        if self._sparse is not None:
            with self._or_dense():
                check_compiled()  # a process that was forked does not have the threads
        return self._sparse

    def _compiled_steps(self) -> CompiledSteps | None:
        """Whole steps compiled, where the samples are sparse and the network is of their kind."""
        inputs, sizes = self._sparse_inputs(), [self._x.shape[1], *self._sizes]
        if inputs is None or not CompiledSteps.supports(sizes, self._names, self._loss_name):
            return None
        if self._steps is None:
            given = self._names, self._loss_name, self._target.contiguous(), self._batch_size
            with self._or_dense():
                self._steps = CompiledSteps(inputs, sizes[1], sizes[2], *given)
        return self._steps

    def _sparse_layer(self) -> SparseLayer | None:
        """The first layer without its inputs' zeros; None where they are dense."""
        inputs = self._sparse_inputs()
        if inputs is not None and self._layer is None:
            with self._or_dense():
                self._layer = SparseLayer(inputs, self._sizes[0], self._batch_size)
        return self._layer

    @contextmanager
    def _or_dense(self) -> Iterator[None]:
        """Go on with dense products where the sparse ones cannot be compiled, and say so."""
        try:
            yield
        except NotCompiledError as problem:
            self._sparse = self._steps = self._layer = None
            logger.info("the first layer multiplies by zeros too, which takes two to four times as long: %s", problem)

    # ---- what a call reports -----------------------------------------------------------------------------------------

    def _scales(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """What each sample's error is multiplied by, (n,), and whether the weights of a mini-batch are all 0."""
        weight = self._parameters[0].new_ones(len(order)) if self._weight is None else self._weight[order]
        if not self._mean:
            return weight, torch.zeros((), dtype=torch.bool, device=self._device)
        per_step = self._per_step(weight)
        sums = per_step.sum(1, keepdim=True)
        bad = (sums <= 0).any()
        if self._on_cpu and bad:
            raise all_zero()
        return (per_step / sums).flatten()[: len(order)], bad

    def _per_step(self, values: Tensor) -> Tensor:
        """A value of each sample, (n,), as (steps, batch size), zeros behind the last."""
        size = self._batch_size
        return functional.pad(values, (0, -len(values) % size)).view(-1, size)

    def _losses(self, outputs: Tensor, order: Tensor, scale: Tensor) -> Tensor:
        """E of each mini-batch, (steps,), in the parameters' dtype."""
        errors = self._loss.errors(outputs.to(scale.dtype), self._target[order]) * scale
        # in float64, so that the order in which terms are added, which the cut of calls may change, hardly matters
        return self._per_step(errors.double()).sum(1).to(scale.dtype)

    def _looks_finite(self, update: Update, losses: Tensor) -> Tensor:
        """Whether the sums of parameters, state and losses are finite: one pass over each.

        A sum may overflow where no number does, so that False is to be looked into. The largest magnitudes, by
        ``_foreach_norm``, would say more, but take 6 times as long on a CPU (784-256-10: 290 in place of 50 µs).
        """
        return torch.stack([t.sum(dtype=torch.float64) for t in (*self._changed(update), losses)]).isfinite().all()

    def _first_not_finite(
        self, start: Sequence[Tensor], order: Tensor, scale: Tensor, update: Update, masks: Masks | None
    ) -> NotFiniteError:
        """Replay a call from its start, a mini-batch at a time, and say where the first NaN or infinity came from."""
        torch._foreach_copy_(self._changed(update), list(start))
        size, layers = self._batch_size, range(1, len(self._sizes) + 1)
        whose = [f"{what} of layer {k}" for k in layers for what in ("weight", "bias")]
        names = [f"{which}{name}" for which in ("", "first state of the ", "second state of the ") for name in whose]
        for step, at in enumerate(range(0, len(order), size)):
            part = slice(at, at + size)
            cut = masks and Masks([kept[part] for kept in masks.kept], masks.factor)
            outputs, _ = self._pass_(order[part], scale[part], update, cut)
            for name, tensor in zip(names, self._changed(update), strict=False):
                if not tensor.isfinite().all():
                    return NotFiniteError(step, name)
            if not self._losses(outputs, order[part], scale[part]).isfinite().all():
                return NotFiniteError(step, "loss")
        return NotFiniteError(None, "loss or a parameter")


# ---- the tables' forms in place; where a row has none, the result of the pure function is copied ---------------------


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, onednn: bool) -> Tensor:
    """x W + b, in ``out`` or in a new tensor; the weight is (J, K).

    oneDNN's product is 1.06 to 1.5 times as fast as ``torch.addmm``'s, at 512 to 2048 units and 32 to 1024 samples.
    """
    if onednn and x.is_contiguous():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight.t(), bias, "none", [], "")
        return product
    return torch.mm(x, weight, out=out) if bias is None else torch.addmm(bias, x, weight, out=out)


def _step_by_(parameter: Tensor, v: Tensor, lr: float, decay: float) -> None:
    """v ← v + λ w, w ← w − η v."""
    if decay:
        v.add_(parameter, alpha=decay)
    parameter.add_(v, alpha=-lr)


def _activate_(row: Activation, u: Tensor, kept: Tensor | None = None) -> None:
    """u becomes z = h(u); where the backward needs u, a copy is kept."""
    if kept is not None and row.saves == "u":
        kept.copy_(u)
    if row.forward_ is not None:
        row.forward_(u)
    else:
        u.copy_(row.forward(u))


def _activation_backward_(row: Activation, grad_z: Tensor, saved: Tensor) -> None:
    """∂E/∂z becomes δ = ∂E/∂z h'(u)."""
    if row.backward_ is not None:
        row.backward_(grad_z, saved)
    else:
        grad_z.copy_(row.backward(grad_z, saved))


def _spread_(values: Tensor, buffer: Tensor, size: int, back: bool = False) -> None:
    """Copy (n, …) into mini-batches (groups, rows, …) of ``size`` rows and a tail, or back."""
    whole, rest = divmod(len(values), size)
    pairs = [(values[: whole * size].view(whole, size, *values.shape[1:]), buffer[:whole, :size])] if whole else []
    if rest:
        pairs.append((values[whole * size :], buffer[whole, :rest]))
    for outside, inside in pairs:
        (outside if back else inside).copy_(inside if back else outside)
