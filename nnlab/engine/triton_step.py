"""A training step of a network of one hidden layer on a CUDA device, as three Triton kernels.

A step of such a network is so little work that what counts is how many kernels it is: three, where torch's operations
are eight. The first computes the hidden layer, the second the outputs and every δ, the third changes each parameter in
the pass that makes its gradient. Nothing is allocated, no address changes and the learning rate is read on the device,
so that a CUDA graph of these launches stays valid.

The order of every sum is fixed: a run repeated gives the same bits. Products of float32 are three of TF32 each, which
is float32's accuracy, unless ``torch.set_float32_matmul_precision`` allows TF32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from nnlab.ops import ACTIVATIONS, LOSSES, Activation

Form = tuple[float, ...]
"""An activation as numbers: (r,) for z = u where u > 0, else r u; (a, b, c) for z = a + b σ(c u)."""

OUTPUTS = 128  # at most, for a program has all outputs of its samples in registers
WORK = 2**27  # products in the first layer, N I O: an estimate of where cuBLAS's faster products outweigh its launches
LARGEST = 2**31  # numbers in an array: offsets are int32

PROGRAMS = 132  # that an H100 runs side by side, one on each multiprocessor
DESCEND = {"rows": 16, "units": 16, "inputs": 64, "num_warps": 4}
ALIGNED = 16  # numbers; rows of the buffers begin at multiples, so that loads are of 16 bytes


@triton.jit
def _activate(u, form: tl.constexpr):
    """z = h(u); NaN stays NaN."""
    if len(form) == 1:
        z = tl.where(u <= 0, 0.0 if form[0] == 0 else form[0] * u, u)
    else:
        z = form[0] + form[1] / (1 + tl.exp(-form[2] * u))
    return z


@triton.jit
def _times_slope(grad_z, z, form: tl.constexpr):
    """δ = ∂E/∂z · h'(u), by z."""
    if len(form) == 1:
        delta = tl.where(z <= 0, 0.0 if form[0] == 0 else form[0] * grad_z, grad_z)
    else:
        s = z - form[0]
        delta = grad_z * (form[2] / form[1]) * s * (form[1] - s)
    return delta


@triton.jit
def _load(start, row, row_size, column, n_rows, n_columns):
    """A tile of a matrix whose rows are ``row_size`` numbers apart, 0 outside."""
    inside = (row < n_rows)[:, None] & (column < n_columns)[None, :]
    return tl.load(start + row[:, None] * row_size + column[None, :], mask=inside, other=0.0)


@triton.jit
def _product(
    x, m, x_row, w, k, n, n_inputs, n_outputs, precision: tl.constexpr, rows: tl.constexpr, outs: tl.constexpr,
    depth: tl.constexpr, parts: tl.constexpr,
):  # fmt: skip
    """A tile of x wᵀ, of samples m and outputs k.

    A sum is taken in ``parts`` sums, each by warps of its own: a tensor core adds to a sum one product after another,
    294 for 784 inputs, and would wait for each; eight sums of at most 42 products are added up side by side.
    """
    u = tl.zeros((parts, rows, outs), tl.float32)
    for start in range(0, n_inputs, parts * depth):
        i = start + (tl.arange(0, parts) * depth)[:, None] + tl.arange(0, depth)[None, :]
        inside = (i < n_inputs)[:, None, :]
        at_x, at_w = (m * x_row)[None, :, None] + i[:, None, :], (k * n_inputs)[None, :, None] + i[:, None, :]
        a = tl.load(x + at_x, mask=inside & (m < n)[None, :, None], other=0.0)
        c = tl.load(w + at_w, mask=inside & (k < n_outputs)[None, :, None], other=0.0).to(a.dtype)
        u = tl.dot(a, tl.permute(c, (0, 2, 1)), u, input_precision=precision)
    return tl.sum(u, axis=0)


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["mask"])
def hidden(
    x, w, b, mask, count, z, n, x_row, z_row, n_inputs, n_units, factor, form: tl.constexpr,
    precision: tl.constexpr, rows: tl.constexpr, units: tl.constexpr, depth: tl.constexpr, parts: tl.constexpr,
):  # fmt: skip
    """z = h(x Wᵀ + b), times the mask and its factor where there is one; x (n, I), W (O, I), mask and z (n, O)."""
    m = tl.program_id(0) * rows + tl.arange(0, rows)
    h = tl.program_id(1) * units + tl.arange(0, units)
    u = _product(x, m, x_row, w, h, n, n_inputs, n_units, precision, rows, units, depth, parts)
    y = _activate(u + tl.load(b + h, mask=h < n_units, other=0.0)[None, :], form)
    if mask is not None:
        y *= _load(mask, m, n_units, h, n, n_units).to(tl.float32) * factor
    inside = (m < n)[:, None] & (h < n_units)[None, :]
    tl.store(z + m[:, None] * z_row + h[None, :], y, mask=inside)
    if count is not None:  # noqa: SIM102 - of Adam's steps, for the third kernel; the compiler knows if it is there
        if tl.program_id(0) + tl.program_id(1) == 0:
            tl.store(count, tl.load(count) + 1)


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["mask", "target", "scale", "outputs"])
def middle(
    z, w, b, mask, target, scale, outputs, delta_out, delta, n, z_row, out_row, n_units, n_outputs, target_row,
    outputs_row, one_scale, factor, hidden_form: tl.constexpr, output_form: tl.constexpr, loss_form: tl.constexpr,
    precision: tl.constexpr, rows: tl.constexpr, units: tl.constexpr, outs: tl.constexpr,
    depth: tl.constexpr, parts: tl.constexpr,
):  # fmt: skip
    """The outputs y = h(z Wᵀ + b), (n, K), and both layers' δ, of one block of samples and one of hidden units.

    The loss's own outputs are a softmax of y where ``loss_form`` is None. Every program of a block of samples computes
    their outputs, and the first keeps them.
    """
    m, k = tl.program_id(0) * rows + tl.arange(0, rows), tl.arange(0, outs)
    h = tl.program_id(1) * units + tl.arange(0, units)
    u = _product(z, m, z_row, w, k, n, n_units, n_outputs, precision, rows, outs, depth, parts)
    y = _activate(u + tl.load(b + k, mask=k < n_outputs, other=0.0)[None, :], output_form)

    inside = (m < n)[:, None] & (k < n_outputs)[None, :]
    if target.dtype.element_ty.is_int():
        t = (tl.load(target + m, mask=m < n, other=-1)[:, None] == k[None, :]).to(tl.float32)
    else:
        t = tl.load(target + m[:, None] * target_row + k[None, :], mask=inside, other=0.0).to(tl.float32)
    if loss_form is None:
        of_all = tl.where((k < n_outputs)[None, :], y, float("-inf"))
        e = tl.exp(of_all - tl.max(of_all, axis=1)[:, None])
        p = e / tl.sum(e, axis=1)[:, None]
    else:
        p = _activate(y, loss_form)
    d = (p - t) * one_scale
    if scale is not None:
        d *= tl.load(scale + m, mask=m < n, other=0.0).to(tl.float32)[:, None]
    d = tl.where(inside, _times_slope(d, y, output_form), 0.0)
    if tl.program_id(1) == 0:
        tl.store(outputs + m[:, None] * outputs_row + k[None, :], y, mask=inside)
        tl.store(delta_out + m[:, None] * out_row + k[None, :], d, mask=inside)

    z_own, w_own = _load(z, m, z_row, h, n, n_units), _load(w, k, n_units, h, n_outputs, n_units)
    below = tl.dot(d.to(z_own.dtype), w_own.to(z_own.dtype), input_precision=precision)
    before = z_own.to(tl.float32)
    if mask is not None:  # of a dropped unit, z is not known and δ is 0
        below *= _load(mask, m, n_units, h, n, n_units).to(tl.float32) * factor
        before /= factor
    below = _times_slope(below, before, hidden_form)
    tl.store(delta + m[:, None] * z_row + h[None, :], below, mask=(m < n)[:, None] & (h < n_units)[None, :])


@triton.jit
def _change(parameter, moments, at, gradient, inside, lr, t, momentum, decay, adam: tl.constexpr):
    """One descent of the parameters at these offsets, and what they were before."""
    p = tl.load(parameter + at, mask=inside, other=0.0)
    step = gradient + decay * p
    if adam is not None:
        m = tl.load(moments[0] + at, mask=inside, other=0.0)
        v = tl.load(moments[1] + at, mask=inside, other=0.0)
        m += (1 - adam[0]) * (step - m)
        v += (1 - adam[1]) * (step * step - v)
        tl.store(moments[0] + at, m, mask=inside)
        tl.store(moments[1] + at, v, mask=inside)
        unbiased_m, unbiased_v = 1 - tl.exp2(t * adam[3]), 1 - tl.exp2(t * adam[4])  # 1 − βᵗ, in float64
        step = m / unbiased_m.to(tl.float32) / (tl.sqrt(v / unbiased_v.to(tl.float32)) + adam[2])
    elif moments is not None:
        step += momentum * tl.load(moments[0] + at, mask=inside, other=0.0)
        tl.store(moments[0] + at, step, mask=inside)
    tl.store(parameter + at, p - lr * step, mask=inside)
    return p


@triton.jit
def _descend(
    layer, program, n, lr, t, momentum, weight_decay, l2, adam: tl.constexpr, precision: tl.constexpr,
    rows: tl.constexpr, units: tl.constexpr, inputs: tl.constexpr,
):  # fmt: skip
    """Change a tile of a layer's weight, and its biases in the programs of the first column; Σ w² of it before."""
    x, x_row, delta, delta_row, weight, bias, of_weight, of_bias, n_inputs, n_units = layer
    across = tl.cdiv(n_inputs, inputs)
    h = program // across * units + tl.arange(0, units)
    i = program % across * inputs + tl.arange(0, inputs)
    gradient, total = tl.zeros((units, inputs), tl.float32), tl.zeros((units,), tl.float32)
    for start in range(0, n, rows):
        m = start + tl.arange(0, rows)
        d = _load(delta, m, delta_row, h, n, n_units)
        gradient = tl.dot(tl.trans(d), _load(x, m, x_row, i, n, n_inputs), gradient, input_precision=precision)
        total += tl.sum(d.to(tl.float32), axis=0)
    inside = (h < n_units)[:, None] & (i < n_inputs)[None, :]
    at = h[:, None] * n_inputs + i[None, :]
    w = _change(weight, of_weight, at, gradient, inside, lr, t, momentum, weight_decay + l2, adam)
    if program % across == 0:
        _change(bias, of_bias, h, total, h < n_units, lr, t, momentum, weight_decay, adam)
    return tl.sum(tl.sum(w * w, axis=1), axis=0)


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["penalty"])
def descend(
    hidden_layer, output_layer, count, lr, penalty, n, first, momentum, weight_decay, l2, adam: tl.constexpr,
    precision: tl.constexpr, rows: tl.constexpr, units: tl.constexpr, inputs: tl.constexpr,
):  # fmt: skip
    """Change the parameters of both layers, the output layer's by the programs from ``first`` on.

    A layer is x (n, I) and δ (n, O), each with the distance of its rows, weight (O, I), bias (O,), the moments of both,
    I and O. ``penalty`` takes Σ w² of each program's tile.
    """
    program, rate = tl.program_id(0), tl.load(lr)
    t = 0.0 if count is None else tl.load(count).to(tl.float64)
    if program < first:
        squares = _descend(
            hidden_layer, program, n, rate, t, momentum, weight_decay, l2, adam, precision, rows, units, inputs
        )
    else:
        squares = _descend(
            output_layer, program - first, n, rate, t, momentum, weight_decay, l2, adam, precision, rows, units, inputs
        )
    if penalty is not None:
        tl.store(penalty + program, squares)


def form(activation: Activation) -> Form | None:
    """An activation's form, None where the kernels do not know it."""
    return activation.logistic if activation.ramp is None else (activation.ramp,)


class TritonStep:
    """The step of a network of one hidden layer, on buffers that are made once.

    Args:
        parameters: W⁽¹⁾ (H, I), b⁽¹⁾, W⁽²⁾ (K, H), b⁽²⁾, float32 and contiguous, changed in place.
        activations: of the hidden layer and of the output layer.
        loss: a key of ``nnlab.ops.LOSSES``.
        batch_size: samples of a step, at most.
        state: what the update remembers, changed in place: nothing, the velocity of each parameter, or Adam's first
            moments, its second moments, and the count of steps, which is 0-dimensional.
        momentum: μ of the velocity.
        weight_decay: λ of every parameter.
        l2: λ of the penalty λ/2 Σ w² of the weights.
        adam: β₁, β₂ and ε; the state is then Adam's.
        dtype: of samples, values, outputs and buffers: float32, or bfloat16, where sums are in float32.

    Attributes:
        tiles: how many numbers a step's Σ w² comes in.
    """

    @staticmethod
    def obstacle(
        sizes: Sequence[int], activations: Sequence[str], loss: str, *, batch_size: int, dtype: torch.dtype
    ) -> str | None:
        """Why a network's step cannot be these kernels, in a sentence; None where it can."""
        if len(sizes) != 3:
            return f"the kernels are for one hidden layer, the network has {len(sizes) - 2}"
        n_inputs, n_units, n_outputs = sizes
        unknown = [name for name in activations if form(ACTIVATIONS[name]) is None]
        unknown += [loss] * (not LOSSES[loss].is_difference)
        why = None
        if unknown:
            why = f"the kernels have no form of {unknown[0]}"
        elif dtype not in (torch.float32, torch.bfloat16):
            why = f"the kernels compute in float32 or bfloat16, not in {str(dtype).removeprefix('torch.')}"
        elif n_outputs > OUTPUTS:
            why = f"the kernels are for at most {OUTPUTS} outputs, the network has {n_outputs}"
        elif batch_size * n_inputs * n_units > WORK:
            why = f"beyond {WORK} products in the first layer cuBLAS is faster, and a mini-batch has {batch_size} x "
            why += f"{n_inputs} x {n_units}"
        elif max(batch_size, n_units) * n_inputs >= LARGEST:
            why = f"the kernels are for arrays of fewer than {LARGEST} numbers"
        return why

    def __init__(
        self,
        parameters: Sequence[Tensor],
        activations: Sequence[str],
        loss: str,
        *,
        batch_size: int,
        state: Sequence[Tensor] = (),
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        l2: float = 0.0,
        adam: tuple[float, float, float] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._parameters = list(parameters)
        weight, weight_out = parameters[0], parameters[2]
        (n_units, n_inputs), n_outputs = weight.shape, len(weight_out)
        self._sizes = n_inputs, n_units, n_outputs
        output = LOSSES[loss].output_name
        of_loss = None if output == "softmax" else form(ACTIVATIONS[output])
        self._forms = (*(form(ACTIVATIONS[name]) for name in activations), of_loss)
        self._precision = "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"

        self._row, self._out_row = (triton.cdiv(size, ALIGNED) * ALIGNED for size in (n_units, n_outputs))
        self._z, self._delta = (weight.new_empty(batch_size, self._row, dtype=dtype) for _ in range(2))
        self._delta_out = weight.new_empty(batch_size, self._out_row, dtype=dtype)
        fills = triton.cdiv(batch_size, 16) * triton.cdiv(n_units, 16) > PROGRAMS
        self._hidden = {"rows": 16, "units": 32 if fills else 16, "depth": 16, "parts": 8, "num_warps": 8}
        outs = max(16, triton.next_power_of_2(n_outputs))
        self._middle = {
            "rows": 16,
            "outs": outs,
            "units": max(32, 2048 // outs),
            "depth": 8 if outs > 64 and dtype == torch.float32 else 16,
            "parts": 8 if outs <= 32 else 4,
            "num_warps": 8,
        }
        across = [triton.cdiv(size, DESCEND["inputs"]) for size in (n_inputs, n_units)]
        down = [triton.cdiv(size, DESCEND["units"]) for size in (n_units, n_outputs)]
        self._first = across[0] * down[0]
        self.tiles = self._first + across[1] * down[1]

        self._settings = float(momentum), float(weight_decay), float(l2)
        self._adam: tuple[float, ...] | None = None
        self._count: Tensor | None = None
        self._moments: list[tuple[Tensor, ...] | None] = [None] * 4
        if adam is not None:
            self._adam = (*adam, *(math.log2(max(beta, 1e-300)) for beta in adam[:2]))
            *moments, self._count = state
            self._moments = list(zip(moments[:4], moments[4:], strict=True))
        elif state:
            self._moments = [(velocity,) for velocity in state]

    def step(
        self,
        x: Tensor,
        target: Tensor,
        outputs: Tensor,
        lr: Tensor,
        *,
        scale: float | Tensor = 1.0,
        mask: Tensor | None = None,
        factor: float = 1.0,
        penalty: Tensor | None = None,
    ) -> None:
        """Launch the step of a mini-batch; the host waits for nothing.

        Args:
            x: (n, I) with n up to the batch size. A kernel is compiled for rows that begin at multiples of 16 bytes,
                and anew for others.
            target: class labels, (n,) int64, or values, (n, K).
            outputs: takes those of the network before the step, (n, K); a sample's are side by side, as in ``target``.
            lr: η, one float32.
            scale: of each sample's error, (n,), or of all.
            mask: 1 where a hidden unit is kept and 0 where it is dropped, (n, H) uint8.
            factor: 1 / (1 − p), of the units that are kept.
            penalty: takes Σ w² of the weights before the step, in ``tiles`` numbers, (tiles,) float32.
        """
        weight, bias, weight_out, bias_out = self._parameters
        n, (n_inputs, n_units, n_outputs) = len(x), self._sizes
        hidden_form, output_form, loss_form = self._forms
        scales, one_scale = (scale, 1.0) if isinstance(scale, Tensor) else (None, float(scale))
        x_row, z, row, precision = x.stride(0), self._z, self._row, self._precision
        with torch.cuda.device(x.device) if x.is_cuda else nullcontext():  # Triton launches on the current one
            hidden[triton.cdiv(n, self._hidden["rows"]), triton.cdiv(n_units, self._hidden["units"])](
                x, weight, bias, mask, self._count, z, n, x_row, row, n_inputs, n_units, float(factor), hidden_form,
                precision, **self._hidden,
            )  # fmt: skip
            middle[triton.cdiv(n, self._middle["rows"]), triton.cdiv(n_units, self._middle["units"])](
                z, weight_out, bias_out, mask, target, scales, outputs, self._delta_out, self._delta, n, row,
                self._out_row, n_units, n_outputs, target.stride(0), outputs.stride(0), one_scale, float(factor),
                hidden_form, output_form, loss_form, precision, **self._middle,
            )  # fmt: skip
            of_hidden = x, x_row, self._delta, row, weight, bias, *self._moments[:2], n_inputs, n_units
            of_output = (
                *(z, row, self._delta_out, self._out_row, weight_out, bias_out),
                *(*self._moments[2:], n_units, n_outputs),
            )
            descend[(self.tiles,)](
                of_hidden, of_output, self._count, lr, penalty, n, self._first, *self._settings, self._adam, precision,
                **DESCEND,
            )  # fmt: skip
