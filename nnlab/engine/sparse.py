"""Networks on samples of which most inputs are 0, such as images: nothing is multiplied by 0.

``SparseInputs`` holds the samples, ``SparseLayer`` does the first layer's products on them for a network of any depth,
and ``CompiledSteps`` does whole steps of a network with one hidden layer and few outputs. The loops are in
``sparse_kernels``.

Of the 784 pixels of an MNIST image 150 are lit on average. A 0 adds nothing to a net input and nothing to a gradient,
so leaving it out of both products changes no result.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nnlab.ops import ACTIVATIONS, LOSSES
from nnlab.validation import ArgumentError

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

    from nnlab.compiled import Array

MIN_INPUTS = 1 << 20  # of fewer, the compiler takes longer than it saves
# An epoch against dense products, one thread: 16 units 2.0x as fast compiled, 1.03x where torch does the later layers.
MIN_UNITS = 16
# Of inputs that are not 0. An epoch against dense products, one thread, 100 and 512 units: density 0.4 2.2x as fast
# compiled, 1.5x and 1.8x where torch does the later layers; 0.6 1.6x and 1.2x; 0.8 1.3x and 1.0x; 1 1.1x and 0.95x. On
# two threads, at 0.7, 1.1x to 1.4x compiled; one thread, 100 units and more than 256 distinct values 0.9x.
MAX_DENSITY = 0.75

# The compiled step against torch for the output layer, one thread, 100 and 512 units: K = 32 1.5x and 1.2x as fast,
# 64 1.4x and 1.1x, 128 1.3x and 1.06x, 256 0.97x and 0.8x; each thread computes all outputs.
MAX_OUTPUTS = 64
CHUNK_BATCHES = 16  # mini-batches whose entries are sorted at once, one a thread
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 3.2  # seconds; see _Threads
FIRST_BATCHES = 4
SHARES = 16  # of the values, searched for distinct ones side by side
OUTPUTS_AT_ONCE = 256  # samples, where nothing is learnt
CHUNK_SAMPLES = 4096  # at most, but at least one mini-batch


class NotCompiledError(RuntimeError):
    """Numba is missing, cannot compile here, or has no threads that are safe to use; dense products need none."""


def pays(x: Tensor | csr_array, n_units: int) -> bool:
    """Whether the sparse form is faster: many inputs on a CPU, at most 0.75 of them not 0, and units enough.

    Args:
        x: all samples' inputs, (N, I); uint8 codes count as 0 where they are 0.
        n_units: of the first layer.
    """
    if not isinstance(x, Tensor):
        return n_units >= MIN_UNITS
    right = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64, torch.uint8)
    if not right or x.numel() < MIN_INPUTS or n_units < MIN_UNITS:
        return False
    return int(x.count_nonzero()) <= MAX_DENSITY * x.numel()


def check_compiled() -> Any:
    """The compiled loops.

    Raises:
        NotCompiled: they cannot be had here.
    """
    try:
        from nnlab.compiled import threads_are_safe  # noqa: PLC0415
        from nnlab.engine import sparse_kernels  # noqa: PLC0415 - numba is an extra, and takes long to import
    except ImportError as problem:
        raise NotCompiledError(f"numba cannot be imported: {problem}") from problem
    if not threads_are_safe():
        raise NotCompiledError("numba has no threads that are safe to use here")
    return sparse_kernels


@contextmanager
def _compiling() -> Iterator[None]:
    """Whatever a compiler raises that does not work here, as the one exception that callers expect."""
    try:
        yield
    except (ArgumentError, NotCompiledError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as problem:
        reason = str(problem).partition("\n")[0] or type(problem).__name__
        raise NotCompiledError(reason) from problem


def _aligned(*shape: int, dtype: torch.dtype) -> Array:
    """Zeros that begin on a cache line, which NumPy's need not."""
    zeros: Array = torch.zeros(*shape, dtype=dtype, device="cpu").numpy()
    return zeros


class SparseInputs:
    """All samples without their zeros, as pairs of features; see ``sparse_kernels``.

    Args:
        x: (N, I): a float tensor, a uint8 tensor of codes, or a SciPy CSR matrix of floats, which is never made dense.
        levels: the value of each code of a uint8 tensor, (256,), that of code 0 being 0; k / 255 when None.
        dtype: of the arithmetic with codes, float32 when None; of other inputs their own.

    Attributes:
        shape: (N, I).
        dtype: of the values.
        coded: whether the values are codes of a table, which at most 256 distinct ones allow.

    Raises:
        ArgumentError: x is none of these, or ``levels`` does not go with it.
        NotCompiledError: see there.
    """

    def __init__(
        self, x: Tensor | csr_array, *, levels: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self._k = check_compiled()
        self._bytes = isinstance(x, Tensor) and x.dtype == torch.uint8
        if not self._bytes and levels is not None:
            raise ArgumentError("levels", "must be None unless x is uint8")
        self.shape: tuple[int, int] = (int(x.shape[0]), int(x.shape[1]))
        if self._bytes:
            self.dtype = torch.float32 if dtype is None else dtype
            levels = torch.arange(256, dtype=self.dtype, device="cpu") / 255 if levels is None else levels
            if levels.shape != (256,) or levels[0] != 0:
                raise ArgumentError("levels", f"must be 256 values, the first of them 0, got {tuple(levels.shape)}")
            self._levels = levels.to(self.dtype).clone().numpy()
        else:
            self.dtype = x.dtype if isinstance(x, Tensor) else torch.from_numpy(np.empty(0, x.dtype)).dtype
            if self.dtype not in (torch.float32, torch.float64):
                raise ArgumentError(
                    "x", f"must be float32, float64 or uint8, got {str(self.dtype).removeprefix('torch.')}"
                )
        self.n_pairs = -(-self.shape[1] // 2)
        self.first = np.zeros(self.shape[0] + 1, np.int64)
        self._pair = np.empty(0, np.uint16 if self.n_pairs <= 1 << 16 else np.uint32)
        self._codes = np.empty(0, np.uint16)
        self._values: Array = np.empty((0, 2), self._float)
        self.replace_(x)

    @property
    def _float(self) -> Any:
        return torch.empty(0, dtype=self.dtype, device="cpu").numpy().dtype

    def replace_(self, x: Tensor | csr_array) -> None:
        """Take other samples of the same kind and shape into the same memory, which grows where it must."""
        with _compiling():
            if isinstance(x, Tensor):
                self._replace_dense(x)
            else:
                self._replace_csr(x)

    def _replace_dense(self, x: Tensor) -> None:
        self._check(x)
        rows = x.contiguous().numpy()
        if self._bytes:
            codes = rows if rows.shape[1] % 2 == 0 else np.pad(rows, ((0, 0), (0, 1)))
            codes = codes.view(np.uint16)
            self._count(self._k.count_codes, codes)
            self._k.encode_codes(codes, self.first, self._pair, self._coded())
            self.table = self._levels
            return
        self._count(self._k.count_values, rows)
        coding = _Coding(self._k, rows)
        if coding.table is None:
            self._k.encode_values(rows, self.first, self._pair, self._plain())
            return
        entries, block = self._coded(), _aligned(CHUNK_SAMPLES, self.n_pairs * 2, dtype=torch.uint8)
        for begin in range(0, len(rows), CHUNK_SAMPLES):
            part = rows[begin : begin + CHUNK_SAMPLES]
            coding.codes_of_(part, block[: len(part)])
            first = self.first[begin : begin + len(part) + 1]
            self._k.encode_codes(block[: len(part)].view(np.uint16), first, self._pair, entries)
        self.table = coding.table

    def _replace_csr(self, x: csr_array) -> None:
        if tuple(x.shape) != self.shape or x.dtype != self._float:
            raise ArgumentError("x", f"must be {self.dtype} {self.shape}, got {x.dtype} {tuple(x.shape)}")
        if not x.has_canonical_format:
            x = x.copy()
            x.sum_duplicates()  # which sorts too
        indptr, indices, data = (np.require(part, requirements=["C", "W"]) for part in (x.indptr, x.indices, x.data))
        self._count(self._k.count_csr, indptr, indices, data)
        coding = _Coding(self._k, data[None])
        if coding.table is None:
            entries = self._plain()
            entries[:] = 0
            self._k.encode_csr(indptr, indices, data, self.first, self._pair, entries)
            return
        entries = self._coded()
        entries[:] = 0
        codes = np.empty((1, len(data)), np.uint8)
        coding.codes_of_(data[None], codes)
        self._k.encode_csr(indptr, indices, codes[0], self.first, self._pair, entries.view(np.uint8).reshape(-1, 2))
        self.table = coding.table

    def _check(self, x: Tensor) -> None:
        wanted = torch.uint8 if self._bytes else self.dtype
        if x.dtype != wanted or tuple(x.shape) != self.shape or x.device.type != "cpu":
            came = f"{x.dtype} {tuple(x.shape)} on {x.device}"
            raise ArgumentError("x", f"must be {wanted} {self.shape} on cpu, got {came}")

    def _count(self, count: Any, *given: Array) -> None:
        """Set where each sample's entries begin, and have room for them."""
        count(*given, self.first[1:])
        np.cumsum(self.first, out=self.first)
        if len(self._pair) < self.first[-1]:
            self._pair = np.empty(self.first[-1], self._pair.dtype)

    def _coded(self) -> Array:
        if len(self._codes) < self.first[-1]:
            self._codes = np.empty(self.first[-1], np.uint16)
        self.coded = True
        return self._codes

    def _plain(self) -> Array:
        if len(self._values) < self.first[-1]:
            self._values = np.empty((self.first[-1], 2), self._float)
        self.coded, self.table = False, np.empty(0, self._float)
        return self._values

    @property
    def entries(self) -> tuple[Array, Array]:
        """The pair index of each entry, and its codes, (entries,) uint16, or values, (entries, 2)."""
        return self._pair, self._codes if self.coded else self._values


class _Coding:
    """The distinct values of an array as codes from 0, that of 0, to 255; ``table`` is None if there are more."""

    def __init__(self, kernels: Any, x: Array) -> None:
        self._k, self.table = kernels, None
        bits = self._bits(x).ravel()
        keys, codes = np.zeros((SHARES, kernels.SLOTS), bits.dtype), np.zeros((SHARES, kernels.SLOTS), np.int64)
        n_values = np.zeros(SHARES, np.int64)
        kernels.find_values(bits, keys, codes, n_values)
        distinct = np.unique(keys[codes > 0])  # as bits: NaNs of different bits are different values
        if n_values.max() > 255 or len(distinct) > 255:
            return
        keys, codes = np.zeros_like(keys[:1]), np.zeros_like(codes[:1])
        kernels.find_values(distinct, keys, codes, n_values[:1])
        self._keys, self._codes = keys[0], codes[0]
        self.table = np.zeros(256, x.dtype)
        self.table[1 : 1 + len(distinct)] = distinct.view(x.dtype)

    @staticmethod
    def _bits(x: Array) -> Array:
        return x.view(np.uint32 if x.itemsize == 4 else np.uint64)

    def codes_of_(self, x: Array, codes: Array) -> None:
        """Write the codes of x, (n, I), into ``codes``, (n, at least I)."""
        self._k.look_up(self._bits(x), self._keys, self._codes, codes)


class _Sorted:
    """The entries of the mini-batches of a chunk, sorted by pair.

    Args:
        inputs: all samples.
    """

    def __init__(self, inputs: SparseInputs) -> None:
        self._k, self.inputs = inputs._k, inputs
        self.where: Array = np.empty(0, np.uint32)
        self.values: Array = np.empty(0)
        self._start: Array = np.empty(0, np.uint64)

    def chunk(self, batch_size: int) -> int:
        """How many samples are sorted at once: a multiple of the batch size."""
        return batch_size * max(1, min(CHUNK_BATCHES, CHUNK_SAMPLES // batch_size))

    def gather_(self, order: Array, batch_size: int) -> Array:
        """Sort the samples at these indices; returns where pairs begin, (batches, blocks, pairs + 1)."""
        inputs, block = self.inputs, self._k.BLOCK
        blocks = -(-min(batch_size, len(order)) // block)
        starts = np.arange(0, len(order), batch_size)
        edge = np.minimum(
            starts[:, None] + np.arange(blocks) * block, np.minimum(starts + batch_size, len(order))[:, None]
        )
        cut = np.append(edge.ravel(), len(order))
        counts = inputs.first[order + 1] - inputs.first[order]
        begin = np.zeros(len(order) + 1, np.uint64)
        np.cumsum(counts, out=begin[1:], dtype=np.uint64)
        pair, entries = inputs.entries
        total = int(begin[-1])
        if len(self.where) < total:
            self.where = torch.empty(total + total // 8, dtype=torch.uint32, device="cpu").numpy()
        if inputs.coded:
            self.values = inputs.table
        elif self.values.ndim == 1 or len(self.values) < len(self.where):
            self.values = torch.empty(len(self.where), 2, dtype=inputs.dtype, device="cpu").numpy()
        size = (len(starts), blocks, inputs.n_pairs + 1)
        n = size[0] * size[1] * size[2]
        if len(self._start) < n:
            self._start = torch.empty(n, dtype=torch.uint64, device="cpu").numpy()
        start = self._start[:n].reshape(size)
        self._k.sort_blocks(
            inputs.first,
            pair,
            entries,
            order,
            cut,
            start.reshape(-1, size[2]),
            begin[cut[:-1]],
            self.where,
            self.values,
        )
        return start


class SparseLayer:
    """The first layer on sparse inputs, for networks of any depth, with any optimizer.

    Weights, and whatever has their shape, are packed as (parts, pairs × 2, 64) while a run lasts. The results do not
    depend on the number of threads.

    Args:
        inputs: all samples.
        n_units: of the layer.
        batch_size: samples of a mini-batch but for the last of a run.

    Attributes:
        chunk: samples that can be gathered at once, a multiple of the batch size.

    Raises:
        NotCompiledError: see there.
    """

    def __init__(self, inputs: SparseInputs, n_units: int, batch_size: int) -> None:
        self.inputs, self.n_units, self.batch_size = inputs, n_units, batch_size
        self._k, self._sorted = inputs._k, _Sorted(inputs)
        self.chunk = self._sorted.chunk(batch_size)
        parts, n = -(-n_units // self._k.P), min(max(batch_size, OUTPUTS_AT_ONCE), max(1, inputs.shape[0]))
        self._space = _aligned(parts, n, self._k.P, dtype=inputs.dtype)
        self._none = np.empty((parts, 0, self._k.P), self._space.dtype)
        self._threads, self._most = _Threads(), 1
        self._last: tuple[int, float, int] | None = None  # of the last chunk: threads, when it began, samples
        with _compiling():  # here, where a failure can still be met
            self._start = self._sorted.gather_(np.empty(0, np.int64), batch_size)
            like = torch.empty(0, dtype=inputs.dtype, device="cpu")
            with self.packed(like.new_zeros(n_units, inputs.shape[1])) as (weight,):
                u = like.new_zeros(0, n_units)
                self._net_inputs(np.zeros((1, inputs.n_pairs + 1), np.uint64), weight, like.new_zeros(n_units), u)
                self._descend(np.zeros((1, inputs.n_pairs + 1), np.uint64), weight, None, u, 1.0, 1.0, 0.0, 0.0)

    @contextmanager
    def packed(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Packed copies of tensors (O, I), which are written back at the end, an interrupt's included.

        Within, numba has as many threads as torch.
        """
        from nnlab.compiled import threads_as_torch  # noqa: PLC0415 - needs numba

        packed = tuple(_packed(tensor, self._k.P, 2) for tensor in tensors)
        try:
            with threads_as_torch() as self._most:
                self._last = None
                yield packed
        finally:
            for copy, tensor in zip(packed, tensors, strict=True):
                _unpack_(copy, tensor)

    def gather_(self, order: Tensor) -> int:
        """Make the mini-batches of these samples ready, (n,) int64 with n <= chunk; returns how many they are.

        With each chunk the number of threads is chosen anew, see ``_Threads``.
        """
        from numba import set_num_threads  # noqa: PLC0415 - an extra

        now = time.perf_counter()
        if self._last is not None:
            threads, started, n = self._last
            self._threads.note(threads, (now - started) / n)
        threads = self._threads.choose(self._most)
        set_num_threads(threads)
        self._last = (threads, now, len(order)) if len(order) else None
        self._start = self._sorted.gather_(order.numpy(), self.batch_size)
        return len(self._start)

    def net_inputs_(self, b: int, weight: Tensor, bias: Tensor, u: Tensor) -> None:
        """u = x Wᵀ + b of mini-batch b; the weight is packed, u (n, O)."""
        self._net_inputs(self._start[b], weight, bias, u)

    def descend_(
        self, b: int, weight: Tensor, velocity: Tensor | None, delta: Tensor, *, scale: float, lr: float,
        momentum: float = 0.0, decay: float = 0.0,
    ) -> None:  # fmt: skip
        """With g = s δᵀ x + λ w of mini-batch b: v ← μ v + g and w ← w − η v, or w ← w − η g where μ is 0.

        Args:
            b: of the mini-batches gathered.
            weight: packed.
            velocity: v, packed; None where μ is 0.
            delta: δ, (n, O).
            scale: s, which every δ is multiplied by.
            lr: η.
            momentum: μ.
            decay: λ.
        """
        self._descend(self._start[b], weight, velocity, delta, scale, lr, momentum, decay)

    def gradient_(self, b: int, weight: Tensor, delta: Tensor, scale: float, decay: float, out: Tensor) -> None:
        """Write s δᵀ x + λ w of mini-batch b into ``out``; it and the weight are packed, δ is (n, O)."""
        if decay:
            torch.mul(weight, decay, out=out)
        else:
            out.zero_()
        self._descend(self._start[b], out, None, delta, -scale, 1.0, 0.0, 0.0)

    def all_net_inputs(self, weight: Tensor, bias: Tensor) -> Iterator[Tensor]:
        """u = x Wᵀ + b of all samples in their own order, 256 at a time, in a buffer that the next ones reuse."""
        n_samples = self.inputs.shape[0]
        buffer = bias.new_empty(min(OUTPUTS_AT_ONCE, n_samples), self.n_units)
        chunk = OUTPUTS_AT_ONCE * CHUNK_BATCHES
        for begin in range(0, n_samples, chunk):
            order = np.arange(begin, min(begin + chunk, n_samples))
            for b, start in enumerate(self._sorted.gather_(order, OUTPUTS_AT_ONCE)):
                u = buffer[: min(OUTPUTS_AT_ONCE, len(order) - b * OUTPUTS_AT_ONCE)]
                self._net_inputs(start, weight, bias, u)
                yield u

    def _net_inputs(self, start: Array, weight: Tensor, bias: Tensor, u: Tensor) -> None:
        of = self._sorted
        self._k.net_inputs(weight.numpy(), bias.numpy(), start, of.where, of.values, self._space, u.numpy())

    def _descend(
        self, start: Array, weight: Tensor, velocity: Tensor | None, delta: Tensor, scale: float, lr: float,
        momentum: float, decay: float,
    ) -> None:  # fmt: skip
        of, step, w = self._sorted, _step(lr, momentum, decay, self._space.dtype), weight.numpy()
        v = self._none if velocity is None else velocity.numpy()
        s = self._space.dtype.type(scale if momentum else -lr * scale)
        self._k.descend(w, v, step, s, start, of.where, of.values, self._space, delta.numpy())


def _packed(tensor: Tensor, width: int, multiple: int = 1) -> Tensor:
    """(O, I) as (parts, I, width), I rounded up to a multiple: of 2 for pairs of features; what is added is 0."""
    n_units, n_inputs = tensor.shape
    padded = tensor.new_zeros(-(-n_units // width) * width, -(-n_inputs // multiple) * multiple)
    padded[:n_units, :n_inputs] = tensor
    return padded.view(-1, width, padded.shape[1]).transpose(1, 2).contiguous()


def _unpack_(packed: Tensor, tensor: Tensor) -> None:
    """The reverse, into a tensor (O, I)."""
    tensor.copy_(packed.transpose(1, 2).flatten(0, 1)[: tensor.shape[0], : tensor.shape[1]])


def _step(lr: float, momentum: float, decay: float, dtype: Any) -> Array:
    """A step's settings as the loops take them: μ, λ, η and 1 − η λ."""
    return np.array([momentum, decay, lr, 1 - lr * decay], dtype)


class CompiledSteps:
    """Whole steps of gradient descent, compiled, for a network with one hidden layer and few outputs.

    Forward, the loss's δ, backward and the steps of all parameters with momentum and decay are one compiled loop. Each
    mini-batch takes two parallel regions; the results do not depend on the number of threads.

    Args:
        inputs: all samples.
        n_units: of the hidden layer.
        n_outputs: K, at most 64.
        activations: the names of both layers' activations, as ``supports`` takes them.
        loss: a key of ``nnlab.ops.LOSSES``.
        target: class labels, (N,) int64, or values, (N, K).
        batch_size: samples of a mini-batch but for the last of a run.

    Raises:
        NotCompiledError: see there.
    """

    def __init__(
        self, inputs: SparseInputs, n_units: int, n_outputs: int, activations: Sequence[str], loss: str,
        target: Tensor, batch_size: int,
    ) -> None:  # fmt: skip
        self.inputs, self.batch_size = inputs, batch_size
        self._k, self._sorted = inputs._k, _Sorted(inputs)
        dtype, width = inputs.dtype, self._k.P
        self._sizes = n_units, n_outputs
        output = LOSSES[loss].output_name  # of the loss: y of the logits
        self._forms = np.array([_form(name) for name in (*activations, output)], inputs._float)
        labels = target.ndim == 1
        self._labels = target.numpy() if labels else np.empty(0, np.int64)
        self._targets = np.empty((0, 0), inputs._float) if labels else target.to(dtype).contiguous().numpy()
        parts, n = -(-n_units // width), min(max(batch_size, OUTPUTS_AT_ONCE), max(1, inputs.shape[0]))
        line = -(-n // 16) * 16
        self._space = (
            _aligned(parts, n, width, dtype=dtype),  # z
            _aligned(parts, n, width, dtype=dtype),  # δ
            _aligned(parts, n_outputs, line, dtype=dtype),  # each part's share of the output layer's net inputs
            _aligned(parts, n_outputs + 2, line, dtype=dtype),  # the outputs, once for each thread
            _aligned(parts, n_outputs + 2, line, dtype=dtype),  # δ₂, likewise
            _aligned(parts, width, dtype=dtype),  # Σ w² of each unit
        )
        self._threads: dict[tuple[bool, int, bool], _Threads] = {}  # of each kind of run
        with _compiling():  # here, where a failure can still be met
            like = torch.empty(0, dtype=dtype, device="cpu")
            shapes = (n_units, inputs.shape[1]), (n_units,), (n_outputs, n_units), (n_outputs,)
            parameters = [like.new_zeros(shape) for shape in shapes]
            self.outputs_(parameters, like.new_empty(n_outputs, 0), torch.empty(0, dtype=torch.int64, device="cpu"))

    @staticmethod
    def supports(sizes: Sequence[int], activations: Sequence[str], loss: str) -> bool:
        """Whether a network of these sizes, from the inputs to the outputs, can have its steps compiled."""
        rows = [ACTIVATIONS[name] for name in activations]
        known = all(row.ramp is not None or row.logistic is not None for row in rows)
        return len(sizes) == 3 and sizes[2] <= MAX_OUTPUTS and known and LOSSES[loss].is_difference

    def run_(
        self, parameters: Sequence[Tensor], velocity: Sequence[Tensor], order: Tensor, scale: Tensor, *, lr: float,
        momentum: float = 0.0, decay: float = 0.0, l2: float = 0.0,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Train on the samples in an order, a mini-batch at a time.

        Args:
            parameters: W⁽¹⁾, b⁽¹⁾, W⁽²⁾, b⁽²⁾, changed in place, also where an interrupt ends the run.
            velocity: v of each, likewise; empty where μ is 0.
            order: sample indices, (n,) int64.
            scale: what the error of each of these samples is multiplied by, (n,): 1 / N for a mean.
            lr: η.
            momentum: μ.
            decay: λ of all parameters.
            l2: added to the λ of the weights.

        Returns:
            the outputs before each step, (K, n), and Σ w² of the weights before each step, (steps,), 0 where l2 is 0.
        """
        dtype = self._space[0].dtype
        steps = _step(lr, momentum, decay + l2, dtype), _step(lr, momentum, decay, dtype)
        rate = dtype.type(1 if momentum else -lr)
        outputs = parameters[0].new_empty(self._sizes[1], len(order))
        penalties = torch.zeros(-(-len(order) // self.batch_size), dtype=torch.float64, device="cpu")
        settings = (*steps, rate, l2 > 0)
        with self._packed(parameters, velocity if momentum else ()) as packed:
            self._run(True, packed, settings, order, scale.numpy(), self.batch_size, outputs, penalties)
        return outputs, penalties

    def outputs_(self, parameters: Sequence[Tensor], outputs: Tensor, order: Tensor | None = None) -> None:
        """Write the network's outputs into ``outputs``, (K, n): of all samples, or of those in ``order``."""
        dtype = self._space[0].dtype
        order = torch.arange(self.inputs.shape[0], device="cpu") if order is None else order
        settings = (_step(0, 0, 0, dtype), _step(0, 0, 0, dtype), dtype.type(0), False)
        with self._packed(parameters, (), keep=False) as packed:
            none = torch.empty(0, dtype=torch.float64, device="cpu")
            scale = np.empty(0, dtype)
            self._run(False, packed, settings, order, scale, OUTPUTS_AT_ONCE, outputs, none)

    @contextmanager
    def _packed(
        self, parameters: Sequence[Tensor], velocity: Sequence[Tensor], keep: bool = True
    ) -> Iterator[list[Array]]:
        """W⁽¹⁾, v of it, b⁽¹⁾, … as the loops take them; parameters and v are written back at the end.

        A part has its units of W⁽¹⁾ (parts, I, P), of b⁽¹⁾ (parts, P) and of W⁽²⁾ (parts, K, P); b⁽²⁾ stays (K,).
        """
        width, groups = self._k.P, [parameters, velocity] if velocity else [parameters]
        packed = [
            [_packed(w1, width, 2), _packed(b1[:, None], width)[:, 0], _packed(w2.t(), width), b2.clone()]
            for w1, b1, w2, b2 in groups
        ]
        v = packed[1] if velocity else [t[:, :0] if t.ndim > 1 else t[:0] for t in packed[0]]
        try:
            yield [part.numpy() for pair in zip(packed[0], v, strict=True) for part in pair]
        finally:
            if keep:
                for (w1, b1, w2, b2), copies in zip(groups, packed, strict=True):
                    _unpack_(copies[0], w1)
                    _unpack_(copies[1][:, None], b1[:, None])
                    _unpack_(copies[2], w2.t())
                    b2.copy_(copies[3])

    def _run(
        self, training: bool, packed: list[Array], settings: Any, order: Tensor, scale: Array, batch_size: int,
        outputs: Tensor, penalties: Tensor,
    ) -> None:  # fmt: skip
        """The steps of all mini-batches, or the outputs alone, a chunk at a time."""
        from numba import set_num_threads  # noqa: PLC0415 - an extra

        from nnlab.compiled import threads_as_torch  # noqa: PLC0415 - needs numba

        chunk, indices = self._sorted.chunk(batch_size), order.numpy()
        kept, squares = outputs.numpy(), penalties.numpy()
        pace = self._threads.setdefault((training, batch_size, bool(settings[0][0])), _Threads())
        begin = 0
        with threads_as_torch() as most:
            while True:  # once without samples too: the constructor compiles that way
                threads = pace.choose(most)
                part = slice(begin, begin + (chunk if threads == 1 else min(chunk, pace.batches * batch_size)))
                set_num_threads(threads)
                start = self._sorted.gather_(indices[part], batch_size)
                # Of the steps alone: a short chunk takes as long to prepare as a long one.
                started = time.perf_counter()
                self._k.run_steps(
                    *(training, min(threads, len(self._space[0])), self._sizes[0], self._forms, batch_size, begin),
                    *(indices[part], self._labels, self._targets, scale[part]),
                    *(start, self._sorted.where, self._sorted.values, *packed, *settings, *self._space),
                    *(kept, squares),
                )
                if part.stop <= len(indices):
                    pace.note(threads, (time.perf_counter() - started) / (part.stop - begin))
                begin = part.stop
                if begin >= len(indices):
                    break


def _form(name: str) -> tuple[float, float, float, float]:
    """An activation as the loops take it; see ``sparse_kernels``."""
    from nnlab.engine.sparse_kernels import LOGISTIC, RAMP, SOFTMAX  # noqa: PLC0415 - needs numba

    if name not in ACTIVATIONS:  # a loss's own output over all classes
        return SOFTMAX, 0, 0, 0
    row = ACTIVATIONS[name]
    return (RAMP, row.ramp or 0, 0, 0) if row.logistic is None else (LOGISTIC, *row.logistic)


class _Threads:
    """Chooses the number of threads for each chunk: several, or one while another process has one of the cores.

    Threads wait for one another twice in a mini-batch. Where one of them has lost its core, each wait takes some
    milliseconds, and several threads take much longer than one. So the time that a sample takes is compared with that
    on one thread, which the second chunk tells. After a chunk that was slower, one thread goes on alone for 0.2 s, and
    twice as long each time up to 3.2 s; then four mini-batches try several threads, and if they are faster, 8, ….
    The results do not depend on it. Measured on two cores beside one busy process, 20,000 images, 784-100-10, median
    seconds of 40 epochs: one thread 0.073, two threads with this 0.063, at most 0.19. Without it, two threads took
    20 times as long as one on busier cores.
    """

    def __init__(self) -> None:
        self._alone = self._until = 0.0  # seconds a sample takes on one thread, averaged; when several are tried again
        self._pause = FIRST_PAUSE
        self._several_ran = False
        self.batches = FIRST_BATCHES  # of the next chunk, at most

    def choose(self, most: int) -> int:
        """The number of threads for the next chunk."""
        if most > 1 and time.perf_counter() >= self._until and (self._alone or not self._several_ran):
            return most
        return 1

    def note(self, threads: int, seconds: float) -> None:
        """Learn how long a sample of the last chunk took."""
        if threads == 1:
            self._alone = self._alone + (seconds - self._alone) / 4 if self._alone else seconds
            return
        self._several_ran = True
        if self._alone and seconds > self._alone:
            self._until, self._pause = time.perf_counter() + self._pause, min(2 * self._pause, LONGEST_PAUSE)
            self.batches = FIRST_BATCHES
        else:
            self._pause = max(self._pause / 2, FIRST_PAUSE)
            self.batches = min(2 * self.batches, CHUNK_BATCHES)
