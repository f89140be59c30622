"""An epoch of the multi-layer perceptron, in place, on samples that stay where the arithmetic is done.

Read it top to bottom: what updates the parameters, what an engine is given, the loop over mini-batches, one step.
The step is the mathematics of ``nnlab.networks``; nothing is recorded for autograd, and no step allocates memory.
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

from nnlab.engine.recording import Recordings
from nnlab.engine.sparse import CompiledSteps, NotCompiledError, SparseInputs, SparseLayer, check_compiled, pays
from nnlab.engine.updates import Adam, Descent, Update
from nnlab.ops import ACTIVATIONS, LOSSES, Activation, Loss, Reduction
from nnlab.validation import (
    ArgumentError,
    check_at_least,
    check_choice,
    check_labels,
    check_not_negative,
    check_positive,
    check_sample_weight,
    check_tensors,
)

if TYPE_CHECKING:
    from nnlab.engine.triton_step import TritonStep

logger = logging.getLogger("nnlab")

GROUP_BYTES = 2 << 20  # of gathered samples on a CPU: they stay in the cache until they are used
GROUP = 64  # mini-batches gathered at once at most, and recorded at once on a CUDA device
AT_ONCE = 1024  # samples of a forward pass alone: what lies between two layers stays in the cache


ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")  # not in every build of torch
ONEDNN_FROM = 1 << 22  # products, N I O; of fewer, a buffer of our own is as fast


class Masks(NamedTuple):
    """Dropout of a call: which outputs of each hidden layer are kept, uint8 (n, O) of 0 and 1, and the factor on them.

    The factor is 1 / (1 − p), where p is the chance of an output to be left out.
    """

    kept: Sequence[Tensor]
    factor: float


class Run(NamedTuple):
    """What a call met, each sample and each weight before the step that it was part of.

    Attributes:
        outputs: the network's, in the order of the call, (n, K).
        penalties: λ/2 Σ w² at each step, (steps,).
        losses: E of each mini-batch without the penalty, as the reduction says, (steps,).
    """

    outputs: Tensor
    penalties: Tensor
    losses: Tensor


class NotFiniteError(FloatingPointError):
    """Training met a NaN or an infinity; the parameters and the state are what they were before the call.

    Attributes:
        step: which mini-batch of the call, counted from 0; None where a second look did not find it again.
        parameter: what is not finite after it, such as "weight of layer 1".
    """

    def __init__(self, step: int | None, parameter: str) -> None:
        self.step, self.parameter = step, parameter
        where = "of this call" if step is None else f"at mini-batch {step + 1} of this call"
        super().__init__(
            f"the {parameter} became NaN or infinite {where}: lower the learning rate, or scale the inputs"
        )

    def __reduce__(self) -> tuple[type[NotFiniteError], tuple[int | None, str]]:
        return NotFiniteError, (self.step, self.parameter)


class _Slot(NamedTuple):
    """One mini-batch of n samples in the buffers of a group.

    Attributes:
        place: which of the group it is.
        x: (n, I).
        target: values, or a row of 0 and 1 for a label, (n, K); times −scale where δ is scale (y − t).
        scale: what each sample's error is multiplied by, (n, 1).
        masks: of each hidden layer, (n, O), their factor included; empty without dropout.
        outputs: the network's, (n, K).
        squares: Σ w², in parts.
    """

    place: int
    x: Tensor
    target: Tensor
    scale: Tensor
    masks: list[Tensor]
    outputs: Tensor
    squares: Tensor


class _First(NamedTuple):
    """The first layer on samples without zeros: its weight, what the update remembers of it, its gradient, packed."""

    layer: SparseLayer
    weight: Tensor
    state: Sequence[Tensor]
    gradient: Tensor


class _Work(NamedTuple):
    """Buffers that every mini-batch uses anew, (n, O) each."""

    z: list[Tensor]  # of the hidden layers
    delta: list[Tensor]  # of all layers
    u: list[Tensor]  # net inputs, where the activation saves u; else of 0 samples
    masked: list[Tensor]  # z after dropout, of the hidden layers
    ones: Tensor  # (n,)

    def first(self, n: int) -> _Work:
        """The same for fewer samples."""
        z, delta, u, masked = ([t[:n] for t in tensors] for tensors in self[:4])
        return _Work(z, delta, u, masked, self.ones[:n])


class MLPEngine:
    """Trains an MLP, one mini-batch after another, on samples that stay on its device.

    The steps are those of ``nnlab.networks`` and ``nnlab.ops`` but for rounding. Each depends on its own mini-batch
    alone: however an epoch is cut into calls, the weights are the same to the last bit. On a CPU a first layer whose
    inputs are mostly zero skips them (with numba, the extra ``fast``), and its sums do not depend on the number of
    threads. On a CUDA device groups of mini-batches are recorded once and replayed, whatever the learning rate, and a
    call waits for the device once, at its end; products are in TF32 only where
    ``torch.set_float32_matmul_precision`` asked for it when the engine was made.

    >>>     >>> network = MLP([2, 3, 2], "tanh", generator=torch.Generator().manual_seed(0))
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
            scipy in CSR form, of which no more than a group of mini-batches is ever made dense.
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
        _check_network(self._parameters, activations)
        check_choice("loss", loss, LOSSES)
        check_choice("reduction", reduction, ("sum", "mean"))
        check_at_least("batch_size", batch_size, 1)
        check_not_negative("l2", l2)
        self._names, self._rows = tuple(activations), [ACTIVATIONS[name] for name in activations]
        self._loss_name, self._loss = loss, LOSSES[loss]
        self._sizes = [len(bias) for bias in self._parameters[1::2]]
        self._batch_size, self._mean, self._l2 = batch_size, reduction == "mean", float(l2)
        like = self._parameters[0]
        self._device, self._on_cpu, self._dtype = like.device, like.device.type == "cpu", dtype or like.dtype
        self._used = self._parameters if self._dtype == like.dtype else [p.to(self._dtype) for p in self._parameters]

        self._x = self._checked_inputs(x)
        self._n_samples = self._x.shape[0]
        _check_target(target, self._n_samples, self._sizes[-1], self._loss, like)
        self._target = target
        classes = torch.eye(self._sizes[-1], device=self._device)
        self._values = (target if target.ndim == 2 else classes).to(self._dtype)  # of each sample, or of each class
        if sample_weight is not None:
            if sample_weight.shape != (self._n_samples,):
                raise ArgumentError(
                    "sample_weight", f"must have shape ({self._n_samples},), got {tuple(sample_weight.shape)}"
                )
            check_tensors(weight=(like, "O I"), sample_weight=(sample_weight, "N"))
            check_sample_weight(sample_weight.cpu())
        self._weight = sample_weight

        self.state: list[Tensor] = []
        self._recordings = Recordings(self._device)
        self._bound: tuple[Update, list[int]] | None = None  # the update, and where its state lies
        self._kernels: TritonStep | None = None
        self._lr = like.new_zeros(())  # η, where a recording reads it
        self._gradients: list[Tensor] = []
        self._slots: dict[int, list[_Slot]] = {}
        self._masked, self._factor = False, 1.0  # dropout
        self._made_for: tuple[bool, ...] | None = None  # with dense inputs, with dropout, with biases as weights
        self._extended, self._with_bias = False, list[Tensor]()  # biases as weights
        self._looked = False  # whether the inputs are sparse
        self._sparse: SparseInputs | None = None
        self._steps: CompiledSteps | None = None
        self._layer: SparseLayer | None = None

    @property
    def skips_zeros(self) -> bool:
        """Whether the first layer reads its inputs without their zeros, as of the last call."""
        return self._sparse is not None

    # ---- a call ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def run_(self, order: Tensor, update: Update, masks: Masks | None = None) -> Run:
        """Train on the samples at these indices, a mini-batch at a time.

        An interrupted call keeps the steps that it made.

        Args:
            order: int64 on the engine's device, (n,) with n <= N, repeats allowed.
            update: gradient descent, or Adam.
            masks: dropout.

        Raises:
            ArgumentError: an argument is not as described; nothing has changed.
            NotFiniteError: a parameter, a loss or the state became NaN or infinite; all is as before the call.
        """
        update.check()
        order, bad_order = self._checked_order(order)
        if not len(order):
            return Run(self._new_outputs(0), self._lr.new_empty(0), self._lr.new_empty(0))
        scale, bad_weight = self._scales(order)
        self._check_masks(masks, len(order))
        self._prepare(update, masks)
        start = [tensor.clone() for tensor in self._changed(update)]
        outputs, squares = self._pass_(order, scale, update, masks)

        losses = self._per_step(self._loss.errors(self._wide(outputs), self._target[order]) * scale).sum(1)
        run = Run(outputs, squares * (self._l2 / 2), losses)
        found = torch.stack([bad_order, bad_weight, self._is_finite(update, losses).logical_not()])
        if not found.any():  # on a CUDA device the one time that the host waits
            return run
        problem: Exception
        if found[0]:
            problem = _out_of_range(self._n_samples)
        elif found[1]:
            problem = _all_zero()
        else:
            problem = self._first_not_finite(start, order, scale, update, masks)
        self._restore_(start, update)
        raise problem

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
        outputs, squares = self._new_outputs(n), self._lr.new_zeros(-(-n // size))
        self._lr.fill_(update.lr)
        if self._folds(update) and not self._on_cpu and self._kernels is None:
            scale = scale * -update.lr  # every δ is linear in it: no recorded operation needs to know η
        self._refresh_()
        with self._first_layer(update) as first, self._biases_as_weights():
            self._make_buffers(first)
            for start in range(0, n, self._group * size):
                part = slice(start, min(n, start + self._group * size))
                slots = self._gather_(order[part], scale[part], masks, part, first)
                key = len(slots), len(slots[-1].target), self._kind(update), self._factor
                self._recordings.run(key, partial(self._steps_, slots, update, first))
                _spread_(outputs[part], self._outputs, size, back=True)
                torch.sum(self._squares[: len(slots)], 1, out=squares[start // size : start // size + len(slots)])
        return outputs, squares

    def _steps_(self, slots: Sequence[_Slot], update: Update, first: _First | None) -> None:
        """One mini-batch after another: what a recording holds on a CUDA device."""
        for slot in slots:
            if self._kernels is None:
                self._step_(slot, update, first)
            else:
                self._kernels.step(
                    *(slot.x, slot.target, slot.outputs, self._lr),
                    scale=slot.scale[:, 0],
                    mask=slot.masks[0] if slot.masks else None,
                    factor=self._factor,
                    penalty=slot.squares if self._l2 else None,
                )

    def _step_(self, slot: _Slot, update: Update, first: _First | None) -> None:
        """One mini-batch: forward, δ from the output layer down, each layer's step once its δ has been used."""
        n = len(slot.target)
        work = self._work if n == len(self._work.ones) else self._work.first(n)
        if self._l2:
            torch.stack(torch._foreach_norm(self._parameters_of(first)[::2]), out=slot.squares).square_()
        inputs, z = self._forward_(slot, work, first)
        delta = work.delta[-1]
        if self._loss.is_difference:  # s (y − t), the first factor of eq. 3.11; the target is −s t
            torch.addcmul(slot.target, self._loss.output(slot.outputs), slot.scale, out=delta)
        else:
            target = slot.target.argmax(1) if self._loss.target == "labels" else slot.target
            gradient = self._loss.backward(slot.outputs.new_ones(()), slot.outputs, target)
            torch.mul(gradient, slot.scale, out=delta)

        folds = self._folds(update)
        for k in range(len(self._sizes) - 1, -1, -1):
            if slot.masks and k < len(self._sizes) - 1:
                delta.mul_(slot.masks[k])
            row, of_layer = self._rows[k], delta[:, : self._sizes[k]]  # without a constant unit
            _activation_backward_(row, of_layer, work.u[k] if row.saves == "u" else z[k][:, : self._sizes[k]])
            if k > 0:
                delta = _linear(delta, self._used[2 * k].t(), None, work.delta[k - 1])  # eq. 3.17: Σ_l δ_l w_lj
            if folds:
                self._descend_(k, slot, of_layer, inputs[k], work.ones, update, first)
            else:
                self._differentiate_(k, slot, of_layer, inputs[k], first)
        if not folds:
            self._apply_(update, first)

    def _forward_(self, slot: _Slot, work: _Work, first: _First | None) -> tuple[list[Tensor], list[Tensor]]:
        """What each layer is given, and its z before dropout; the outputs into their place."""
        below, inputs, z = slot.x, [], [*work.z, slot.outputs]
        for k, row in enumerate(self._rows):
            weight, bias = self._used[2 * k : 2 * k + 2]
            inputs.append(below)
            if row.ramp == 0 and not self._on_cpu:  # ReLU is a form that cuBLAS's product itself may have: one kernel
                torch._addmm_activation(bias, below, weight.t(), out=z[k])
            else:
                if k == 0 and first is not None:
                    first.layer.net_inputs_(slot.place, first.weight, bias, z[k])
                else:
                    z[k] = _linear(below, weight, bias, z[k])  # u, eq. 3.1
                _activate_(row, z[k][:, : self._sizes[k]], work.u[k])  # eq. 3.2
            below = z[k]
            if slot.masks and k < len(slot.masks):
                below = torch.mul(z[k], slot.masks[k], out=work.masked[k])
        return inputs, z

    # ---- updates -----------------------------------------------------------------------------------------------------

    def _folds(self, update: Update) -> bool:
        """Whether a weight's gradient, decay and step are one product on the weight, or on its velocity.

        1.14 times as fast as a gradient of its own, on two CPU cores at 100 hidden units. On a CUDA device the factors
        of a product would have to be recorded: only a plain step, whose δ carries η, is.
        """
        plain = isinstance(update, Descent) and (
            self._on_cpu or not (update.momentum or update.weight_decay or self._l2)
        )
        return plain and self._dtype == self._lr.dtype

    def _descend_(
        self, k: int, slot: _Slot, delta: Tensor, below: Tensor, ones: Tensor, update: Any, first: _First | None
    ) -> None:
        """Layer k's step of gradient descent: w ← w − η (δᵀ z + λ w), or that of momentum."""
        lr, momentum, decay = update
        if self._extended:
            self._used[2 * k][: self._sizes[k]].addmm_(delta.t(), below)  # δ carries −η
            return
        for parameter, z, decayed in ((2 * k, below, decay + self._l2), (2 * k + 1, ones, decay)):
            w = self._parameters[parameter]
            if parameter == 0 and first is not None:
                v = first.state[0] if momentum else None
                settings = {"scale": 1.0, "lr": lr, "momentum": momentum, "decay": decayed}
                first.layer.descend_(slot.place, first.weight, v, delta, **settings)
                continue
            moved = self.state[parameter] if momentum else w
            add = moved.addmv_ if z.ndim == 1 else moved.addmm_
            if momentum:
                add(delta.t(), z, beta=momentum)
                if decayed:
                    moved.add_(w, alpha=decayed)
                w.add_(moved, alpha=-lr)
            elif self._on_cpu:
                add(delta.t(), z, beta=1 - lr * decayed, alpha=-lr)
            else:
                add(delta.t(), z)  # δ carries −η

    def _differentiate_(self, k: int, slot: _Slot, delta: Tensor, below: Tensor, first: _First | None) -> None:
        """Layer k's gradients, into buffers: δᵀ z (eq. 3.9) and Σₙ δₙ."""
        weight, bias = self._gradients[2 * k : 2 * k + 2]
        if k == 0 and first is not None:
            first.layer.gradient_(slot.place, first.weight, delta, 1.0, 0.0, first.gradient)
        elif weight.dtype == delta.dtype:
            torch.mm(delta.t(), below, out=weight)
        else:
            torch.mm(delta.t(), below, out=self._low[k])
            weight.copy_(self._low[k])
        torch.sum(delta, 0, dtype=bias.dtype, out=bias)

    def _apply_(self, update: Update, first: _First | None) -> None:
        """The step by gradients that are in their buffers; on a CUDA device each line is one or two kernels."""
        parameters, gradients, state = self._parameters_of(first), self._gradients_of(first), self._state_of(first)
        lr = update.lr if self._on_cpu else self._lr
        if self._l2:
            torch._foreach_add_(gradients[::2], parameters[::2], alpha=self._l2)
        if isinstance(update, Adam):
            n = len(parameters)
            m, v, count = state[:n], state[n : 2 * n], state[2 * n]
            count.add_(1)
            torch._fused_adam_(
                *(parameters, gradients, m, v, [], [count] * n),
                lr=lr if self._lr.dtype == torch.float32 else update.lr,  # its kernel takes η on the device as float32
                beta1=update.beta1,
                beta2=update.beta2,
                weight_decay=0.0,
                eps=update.epsilon,
                amsgrad=False,
                maximize=False,
            )
        else:
            if update.weight_decay:
                torch._foreach_add_(gradients, parameters, alpha=update.weight_decay)
            if update.momentum:
                torch._foreach_mul_(state, update.momentum)
                torch._foreach_add_(state, gradients)
            torch._foreach_sub_(parameters, torch._foreach_mul(state if update.momentum else gradients, lr))
        self._refresh_()

    @contextmanager
    def _biases_as_weights(self) -> Iterator[None]:
        """On a CUDA device, for a plain step: 8 kernels in place of 10 for one hidden layer.

        As the chapter has it, a bias is the weight of an input that is always 1. So each weight has the bias as one
        more column, and each hidden layer one more unit, of which the net input is 1 whatever the sample.
        """
        if not self._extended:
            yield
            return
        own, sizes = self._parameters, self._sizes
        if not self._with_bias:
            for k, size in enumerate(sizes):
                constant = 1 if k < len(sizes) - 1 else 0
                weight = own[2 * k].new_zeros(size + constant, own[2 * k].shape[1] + 1)
                weight[size:, -1] = 1
                self._with_bias += [weight, weight.new_zeros(len(weight))]
        views = [view for w, o in zip(self._with_bias[::2], sizes, strict=True) for view in (w[:o, :-1], w[:o, -1])]
        torch._foreach_copy_(views, own)
        self._used = self._with_bias
        try:
            yield
        finally:
            self._used = own
            torch._foreach_copy_(own, views)

    def _kind(self, update: Update) -> Update:
        """What a recording depends on of an update: not η, but for Adam in float64."""
        by_host = isinstance(update, Adam) and self._lr.dtype != torch.float32
        return update if by_host else update._replace(lr=0.0)

    # ---- samples -----------------------------------------------------------------------------------------------------

    def set_inputs_(self, x: Any) -> None:
        """Take other inputs for the same samples, such as an epoch's distorted images; nothing else is made anew.

        Raises:
            ArgumentError: their form, shape or dtype is not that of the inputs before.
        """
        new = self._checked_inputs(x)
        if type(new) is not type(self._x) or new.shape != self._x.shape or new.dtype != self._x.dtype:
            raise ArgumentError(
                "x", f"must stay {self._x.dtype} {tuple(self._x.shape)}, got {new.dtype} {tuple(new.shape)}"
            )
        if self._sparse is not None:
            self._sparse.replace_(new)
        self._x = new

    @torch.no_grad()
    def outputs(self) -> Tensor:
        """The network's outputs for all samples in their own order, as the parameters are now, (N, K)."""
        outputs = self._new_outputs(self._n_samples)
        if (steps := self._compiled_steps()) is not None:
            steps.outputs_(self._parameters, outputs.t())
            return outputs
        self._refresh_()
        weights, biases = self._used[::2], self._used[1::2]
        with self._first_layer(None) as first:
            start = 0
            for u in self._first_net_inputs(first):
                part = outputs[start : start + len(u)]
                start += len(u)
                z = u
                for k, row in enumerate(self._rows):
                    z = _linear(z, weights[k], biases[k], z.new_empty(len(z), len(biases[k]))) if k else z
                    _activate_(row, z)
                part.copy_(z)
        return outputs

    def _first_net_inputs(self, first: _First | None) -> Iterator[Tensor]:
        """The first layer's net inputs of all samples, part by part, in buffers that may be overwritten."""
        bias = self._used[1]
        if first is not None:
            yield from first.layer.all_net_inputs(first.weight, bias)
            return
        for start in range(0, self._n_samples, AT_ONCE):
            yield torch.addmm(bias, self._dense(slice(start, start + AT_ONCE)), self._used[0].t())

    def _checked_inputs(self, x: Any) -> Any:
        """The inputs as they are kept: of the arithmetic's dtype, uint8, or sparse."""
        weight = self._parameters[0]
        if not isinstance(x, Tensor):
            if not (hasattr(x, "tocsr") and getattr(x, "format", None) == "csr"):
                raise ArgumentError("x", f"must be a torch.Tensor or a CSR matrix of scipy, got {type(x).__name__}")
            if not self._on_cpu:
                raise ArgumentError("x", f"must be a torch.Tensor where the parameters are on {self._device}, got CSR")
            if x.shape[1] != weight.shape[1]:
                raise ArgumentError("x", f"must have shape (N, I) with I = {weight.shape[1]}, got {x.shape}")
            return x
        if x.dtype == torch.uint8:
            if x.ndim != 2 or x.shape[1] != weight.shape[1] or x.device != self._device:
                raise ArgumentError(
                    "x", f"must be (N, {weight.shape[1]}) on {self._device}, got {tuple(x.shape)} on {x.device}"
                )
            return x
        check_tensors(x=(x, "N I"), weight=(weight, "O I"))
        return x.to(self._dtype)

    def _dense(self, at: slice | Tensor) -> Tensor:
        """Some samples' inputs, (n, I), in the arithmetic's dtype."""
        if not isinstance(self._x, Tensor):
            index = at if isinstance(at, slice) else at.numpy()
            return torch.from_numpy(self._x[index].toarray()).to(self._dtype)
        rows = self._x[at]
        return rows.to(self._dtype).div_(255) if rows.dtype == torch.uint8 else rows

    def _gather_(
        self, order: Tensor, scale: Tensor, masks: Masks | None, part: slice, first: _First | None
    ) -> list[_Slot]:
        """The mini-batches of these samples, in the group's buffers."""
        n, size = len(order), self._batch_size
        if n not in self._slots:
            whole = self._group * size
            self._slots = {k: slots for k, slots in self._slots.items() if k == whole} | {n: self._slots_of(n)}
        slots = self._slots[n]
        _spread_(order, self._index, size)
        _spread_(scale[:, None], self._scale, size)
        index = self._index[: len(slots)].flatten()
        if first is not None:
            first.layer.gather_(order)
        elif isinstance(self._x, Tensor) and self._x.dtype == self._dtype and not self._extended:
            torch.index_select(self._x, 0, index, out=self._inputs[: len(slots)].flatten(0, 1))
        else:
            self._inputs[: len(slots), :, : self._x.shape[1]].flatten(0, 1).copy_(self._dense(index))
        rows = index if self._target.ndim == 2 else self._target[index]
        torch.index_select(self._values, 0, rows, out=self._targets[: len(slots)].flatten(0, 1))
        if self._kernels is None and self._loss.is_difference:
            self._targets[: len(slots)].mul_(self._scale[: len(slots)]).neg_()
        if masks is not None:
            for kept, buffer in zip(masks.kept, self._masks, strict=True):
                _spread_(kept[part], buffer, size)
                if self._kernels is None:  # which take the factor by itself
                    buffer[: len(slots)].mul_(masks.factor)
        return slots

    def _slots_of(self, n: int) -> list[_Slot]:
        """Views of the buffers for n samples."""
        slots = []
        for k, start in enumerate(range(0, n, self._batch_size)):
            rows = slice(0, min(self._batch_size, n - start))
            x = self._inputs[k, rows]
            masks = [mask[k, rows] for mask in self._masks]
            slots.append(
                _Slot(
                    k, x, self._targets[k, rows], self._scale[k, rows], masks, self._outputs[k, rows], self._squares[k]
                )
            )
        return slots

    def _make_buffers(self, first: _First | None) -> None:
        """Buffers for a group of mini-batches, each of which begins on a boundary of the memory.

        Where the operands of a product lie can decide how it rounds: cuBLAS looks at up to 256 bytes, a CPU at its
        cache lines. So that a mini-batch gives the same bits at each place of a group, each has rows to spare.
        """
        made_for = first is None, self._masked, self._extended
        if self._made_for == made_for:
            return
        self._made_for, self._slots = made_for, {}
        self._recordings.forget()
        like, size, width = self._used[0], self._batch_size, self._x.shape[1] + self._extended if first is None else 0
        boundary, n_out = 64 if self._on_cpu else 256, self._sizes[-1]
        hidden = [o + self._extended for o in self._sizes[:-1]]
        ends = [columns * like.element_size() for columns in (width, *hidden, n_out)]
        padded = next(r for r in range(size, size + boundary + 1) if all(r * end % boundary == 0 for end in ends))
        most = GROUP
        if first is not None:
            most = first.layer.chunk // size
        elif self._on_cpu:
            most = max(1, GROUP_BYTES // (padded * ends[0] or 1))
        self._group = max(1, min(GROUP, most, -(-self._n_samples // size)))
        g = self._group
        self._index = torch.zeros(g, padded, dtype=torch.int64, device=self._device)
        self._inputs = like.new_ones(g, padded, width)
        self._targets, self._scale = like.new_empty(g, padded, n_out), like.new_empty(g, padded, 1)
        self._outputs = self._by_class(g, padded)
        kind = self._dtype if self._kernels is None else torch.uint8
        self._masks = [like.new_empty(g, padded, o, dtype=kind) for o in hidden] if self._masked else []
        self._squares = self._lr.new_zeros(g, len(self._sizes) if self._kernels is None else self._kernels.tiles)
        self._work = _Work(
            [like.new_empty(size, o) for o in hidden],
            [*(like.new_empty(size, o) for o in hidden), self._by_class(1, size)[0]],
            [
                like.new_empty(size if row.saves == "u" else 0, o)
                for row, o in zip(self._rows, self._sizes, strict=True)
            ],
            [like.new_empty(size, o) for o in hidden] if self._masked else [],
            like.new_ones(size),
        )

    def _by_class(self, groups: int, n: int) -> Tensor:
        """Memory for outputs, (groups, n, K).

        On a CPU the outputs of a class lie side by side, so that a softmax is a few long vectors, not n short ones:
        1 in place of 27 µs for a mini-batch. On a CUDA device they lie as its products want them.
        """
        like, n_out = self._used[0], self._sizes[-1]
        return like.new_empty(groups, n_out, n).transpose(1, 2) if self._on_cpu else like.new_empty(groups, n, n_out)

    def _new_outputs(self, n: int) -> Tensor:
        return self._by_class(1, n)[0]

    # ---- parameters and state ----------------------------------------------------------------------------------------

    def _prepare(self, update: Update, masks: Masks | None) -> None:
        """Make the state and the buffers that an update needs."""
        parameters, n = self._parameters, len(self._parameters)
        if not self.state:
            if isinstance(update, Adam):
                self.state = [torch.zeros_like(p) for _ in "mv" for p in parameters]
                self.state.append(torch.zeros((), device=self._device))
            elif update.momentum:
                self.state = [torch.zeros_like(p) for p in parameters]
        expected = 2 * n + 1 if isinstance(update, Adam) else n if update.momentum else len(self.state)
        if len(self.state) != expected:
            raise ArgumentError("state", f"must be {expected} tensors for {update}, got {len(self.state)}")
        if not self._folds(update) and not self._gradients:
            self._gradients = [torch.empty_like(p) for p in parameters]
            if self._used is not self._parameters:
                self._low = [torch.empty_like(w) for w in self._used[::2]]
        self._masked, self._factor = masks is not None, 1.0 if masks is None else masks.factor
        bound = self._kind(update), [t.data_ptr() for t in self.state]
        if bound != self._bound:
            self._bound, self._made_for = bound, None
            self._recordings.forget()
            self._kernels = self._new_kernels(update)
        self._extended = not self._on_cpu and self._kernels is None and self._folds(update) and masks is None

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
        state = self.state if isinstance(update, Adam) or update.momentum else []
        try:
            from nnlab.engine.triton_step import TritonStep  # noqa: PLC0415 - not every torch for CUDA brings Triton

            if TritonStep.obstacle(sizes, self._names, self._loss_name, batch_size=size, dtype=self._dtype):
                return None
            given = self._names, self._loss_name
            trial = TritonStep(
                [p.clone() for p in self._parameters], *given, state=[t.clone() for t in state], **options
            )
            like = self._used[0]
            trial.step(
                *(like.new_zeros(size, sizes[0]), like.new_zeros(size, sizes[2]), self._by_class(1, size)[0], self._lr),
                scale=like.new_zeros(size),
            )
            return TritonStep(self._parameters, *given, state=state, **options)
        except Exception as problem:  # whatever a compiler raises that is not there, or does not work here
            reason = str(problem).partition("\n")[0] or type(problem).__name__
            logger.warning(
                "steps are torch's operations, not three Triton kernels, and take 2 to 3 times as long: %s", reason
            )
            return None

    def _changed(self, update: Update) -> list[Tensor]:
        """All that an update changes."""
        return [*self._parameters, *(self.state if isinstance(update, Adam) or update.momentum else ())]

    def _sparse_inputs(self) -> SparseInputs | None:
        """The samples without their zeros; None where they have few, or numba cannot be used."""
        if not self._looked:
            self._looked = True
            if self._used is self._parameters and pays(self._x, self._sizes[0]):
                with self._or_dense():
                    self._sparse = SparseInputs(self._x, dtype=self._dtype)
        if self._sparse is not None:
            with self._or_dense():
                check_compiled()  # a process that was forked does not have the threads
        return self._sparse

    @contextmanager
    def _or_dense(self) -> Iterator[None]:
        """Go on with dense products where the sparse ones cannot be compiled, and say so."""
        try:
            yield
        except NotCompiledError as problem:
            self._sparse = self._steps = self._layer = None
            logger.info("the first layer multiplies by zeros too, which takes two to four times as long: %s", problem)

    def _compiled_steps(self) -> CompiledSteps | None:
        """Whole steps compiled, where the samples are sparse and the network is of their kind."""
        inputs, sizes = self._sparse_inputs(), [self._x.shape[1], *self._sizes]
        if inputs is None or not CompiledSteps.supports(sizes, self._names, self._loss_name):
            return None
        if self._steps is None:
            given = self._names, self._loss_name, self._target, self._batch_size
            with self._or_dense():
                self._steps = CompiledSteps(inputs, sizes[1], sizes[2], *given)
        return self._steps

    @contextmanager
    def _first_layer(self, update: Update | None) -> Iterator[_First | None]:
        """The first layer without zeros, its weight and state packed for it; None where its inputs are dense."""
        inputs = self._sparse_inputs()
        if inputs is not None and self._layer is None:
            with self._or_dense():
                self._layer = SparseLayer(inputs, self._sizes[0], self._batch_size)
        if self._layer is None:
            yield None
            return
        n = len(self._parameters)
        state = [t for k, t in enumerate(self.state) if k % n == 0 and k < 2 * n] if update is not None else []
        with self._layer.packed(self._parameters[0], *state) as (weight, *packed):
            gradient = weight[:0] if update is None or self._folds(update) else torch.empty_like(weight)
            yield _First(self._layer, weight, packed, gradient)

    def _parameters_of(self, first: _First | None) -> list[Tensor]:
        return self._parameters if first is None else [first.weight, *self._parameters[1:]]

    def _gradients_of(self, first: _First | None) -> list[Tensor]:
        return self._gradients if first is None else [first.gradient, *self._gradients[1:]]

    def _state_of(self, first: _First | None) -> list[Tensor]:
        n = len(self._parameters)
        packed = [] if first is None else first.state
        return [packed[k // n] if k % n == 0 and k // n < len(packed) else t for k, t in enumerate(self.state)]

    def _refresh_(self) -> None:
        """Copy the parameters into those of the arithmetic, where these have a dtype of their own."""
        if self._used is not self._parameters:
            torch._foreach_copy_(self._used, self._parameters)

    def _restore_(self, start: Sequence[Tensor], update: Update) -> None:
        torch._foreach_copy_(self._changed(update), list(start))

    # ---- checks ------------------------------------------------------------------------------------------------------

    def _checked_order(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """The indices, and whether one is out of range: on a CUDA device that is found out when the call ends."""
        if order.dtype != torch.int64 or order.ndim != 1 or order.device != self._device:
            came = f"{str(order.dtype).removeprefix('torch.')} {tuple(order.shape)} on {order.device}"
            raise ArgumentError("order", f"must be int64 (n,) on {self._device}, got {came}")
        if len(order) > self._n_samples:
            raise ArgumentError("order", f"must hold at most {self._n_samples} indices, got {len(order)}")
        bad = ((order < 0) | (order >= self._n_samples)).any()
        if self._on_cpu and bad:
            raise _out_of_range(self._n_samples)
        return (order if self._on_cpu or not len(order) else order.clamp(0, self._n_samples - 1)), bad

    def _scales(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """What each sample's error is multiplied by, (n,), and whether the weights of a mini-batch are all 0."""
        weight = self._parameters[0].new_ones(len(order)) if self._weight is None else self._weight[order]
        if not self._mean:
            return weight, torch.zeros((), dtype=torch.bool, device=self._device)
        per_step = self._per_step(weight)
        sums = per_step.sum(1, keepdim=True)
        bad = (sums <= 0).any()
        if self._on_cpu and bad:
            raise _all_zero()
        return (per_step / sums).flatten()[: len(order)], bad

    def _per_step(self, values: Tensor) -> Tensor:
        """Numbers of samples, (n,), as (steps, batch size), zeros behind the last."""
        size = self._batch_size
        return functional.pad(values, (0, -len(values) % size)).view(-1, size)

    def _check_masks(self, masks: Masks | None, n: int) -> None:
        if masks is None:
            return
        check_positive("factor", masks.factor)
        expected = [(n, o) for o in self._sizes[:-1]]
        if [tuple(kept.shape) for kept in masks.kept] != expected:
            raise ArgumentError("masks", f"must be of shapes {expected}, got {[tuple(k.shape) for k in masks.kept]}")
        for kept in masks.kept:
            if kept.dtype != torch.uint8 or kept.device != self._device:
                raise ArgumentError("masks", f"must be uint8 on {self._device}, got {kept.dtype} on {kept.device}")

    def _is_finite(self, update: Update, losses: Tensor) -> Tensor:
        """Whether parameters, state and losses are all finite: one pass over each."""
        norms = torch._foreach_norm([*self._changed(update), losses], float("inf"))
        return torch.stack([norm.double() for norm in norms]).isfinite().all()

    def _first_not_finite(
        self, start: Sequence[Tensor], order: Tensor, scale: Tensor, update: Update, masks: Masks | None
    ) -> NotFiniteError:
        """Replay a call from its start, a mini-batch at a time, and say where the first NaN or infinity came from."""
        self._restore_(start, update)
        size = self._batch_size
        for step, at in enumerate(range(0, len(order), size)):
            part = slice(at, at + size)
            cut = masks and Masks([kept[part] for kept in masks.kept], masks.factor)
            outputs, _ = self._pass_(order[part], scale[part], update, cut)
            for name, tensor in zip(self._names_of_changed(), self._changed(update), strict=False):
                if not tensor.isfinite().all():
                    return NotFiniteError(step, name)
            if not self._loss.errors(self._wide(outputs), self._target[order[part]]).isfinite().all():
                return NotFiniteError(step, "loss")
        return NotFiniteError(None, "loss or a parameter")

    def _names_of_changed(self) -> Iterator[str]:
        for what in ("", "first state of the ", "second state of the "):
            for k in range(len(self._sizes)):
                yield f"{what}weight of layer {k + 1}"
                yield f"{what}bias of layer {k + 1}"

    def _wide(self, outputs: Tensor) -> Tensor:
        """Outputs in the parameters' dtype."""
        return outputs.to(self._parameters[0].dtype)


# ---- the tables' forms in place; where a row has none, the result of the pure function is copied ---------------------


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """x Wᵀ + b, in ``out`` or in a new tensor.

    oneDNN's product is 1.06 to 1.5 times as fast as ``torch.addmm``'s, at 512 to 2048 units and 32 to 1024 samples.
    """
    suits = ONEDNN and x.dtype == torch.float32 and x.device.type == "cpu" and x.is_contiguous()
    if suits and x.numel() * len(weight) >= ONEDNN_FROM:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)


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


# ---- checks ----------------------------------------------------------------------------------------------------------


def _check_network(parameters: Sequence[Tensor], activations: Sequence[str]) -> None:
    """Check that the layers fit one another: their count, shapes, dtypes, devices, layouts and activations."""
    if len(parameters) != 2 * len(activations) or not activations:
        raise ArgumentError("parameters", f"must be two for each of {len(activations)} layers, got {len(parameters)}")
    for k, name in enumerate(activations):
        weight, bias = parameters[2 * k : 2 * k + 2]
        check_choice("activations", name, ACTIVATIONS)
        check_tensors(
            first=(parameters[0], "H I" if k else "O I"), weight=(weight, "O J" if k else "O I"), bias=(bias, "O")
        )
        if k and weight.shape[1] != len(parameters[2 * k - 1]):
            raise ArgumentError("parameters", f"must fit one another, layer {k + 1} has {tuple(weight.shape)}")
        if not (weight.is_contiguous() and bias.is_contiguous()):
            raise ArgumentError("parameters", f"must be contiguous in memory, those of layer {k + 1} are not")


def _check_target(target: Tensor, n: int, n_outputs: int, loss: Loss, like: Tensor) -> None:
    """Check labels, (N,) int64, or values, (N, K), as the loss takes them."""
    if loss.target == "labels":
        check_labels(target, like.new_empty(0).expand(n, 0), n_outputs, everywhere=True)
    elif target.shape != (n, n_outputs):
        raise ArgumentError("target", f"must have shape ({n}, {n_outputs}), got {tuple(target.shape)}")
    else:
        check_tensors(weight=(like, "O I"), target=(target, "N K"))
        if loss.bounds is not None:
            loss.bounds("target", target.cpu(), {})


def _out_of_range(n: int) -> ArgumentError:
    return ArgumentError("order", f"must hold indices from 0 to {n - 1}, the samples there are")


def _all_zero() -> ArgumentError:
    return ArgumentError("sample_weight", "must not be zero for every sample of a mini-batch")
