"""A pretended CUDA device, as a pytest plugin: ``pytest -p tests.pretended -m cuda`` on a machine without a GPU.

Everything is computed on the CPU. A storage "on the GPU" is marked, and a TorchDispatchMode that sees every operation

- refuses operands on two devices, a generator of another device, operations without a CUDA kernel, ``.numpy()``;
- counts operations, estimated kernels, and whatever makes the host wait for the device;
- lets ``torch.cuda.graph`` record: nothing is carried out meanwhile, what may not be recorded breaks the recording,
  operations on another device or stream are not recorded, and a replay uses the recorded addresses, or raises where
  that memory has been freed;
- raises where a stream uses memory that another one may still be writing;
- makes an index out of range a device-side assert, after which every operation fails (``revive`` ends that);
- rounds products otherwise where ``rounding`` asks for it, or the environment variable PRETEND_ROUNDING.

It does not see inside kernels, and it knows no times. Tests take the fixture ``pretended``, which is this module.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import threading
import traceback
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map

NAME = "a pretended GPU"
_state = threading.local()  # of each thread: its current device and streams, and whether its operations count
_lock = threading.RLock()


# ---- memory ---------------------------------------------------------------------------------------------------------
class _Memory(NamedTuple):
    """What is known of a storage on a device."""

    ref: StorageWeakRef
    index: int  # of the device
    wrote: list[Any]  # the stream that last wrote it, and when
    read: dict[Any, int]  # the streams that read it since, and when


_memory: dict[int, _Memory] = {}
_pinned: dict[int, StorageWeakRef] = {}


def _mark(t: Tensor, index: int) -> Tensor:
    storage = t.untyped_storage()
    known = _memory.get(storage._cdata)
    if known is None or known.ref.expired():
        if index >= _cards[0]:
            raise torch.AcceleratorError("CUDA error: invalid device ordinal")
        for recording in _recordings:
            if recording.mode == "global" and recording.thread is not threading.current_thread():
                recording.broken = "an allocation in another thread"
                raise torch.AcceleratorError(
                    "CUDA error: operation not permitted when stream is capturing (allocation)"
                )
        with _lock:
            _memory[storage._cdata] = _Memory(StorageWeakRef(storage), index, [None, 0], {})
            if len(_memory) % 4096 == 0:
                for key in [key for key, memory in _memory.items() if memory.ref.expired()]:
                    del _memory[key]
    return t


def _index_of(t: Tensor) -> int | None:
    """The index of the device where a tensor lies, None for the CPU."""
    try:
        memory = _memory.get(t.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # a layout without a storage
        return None
    return None if memory is None else memory.index


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage)


def memory_allocated(device: Any = None) -> int:
    """The bytes that live on a device."""
    index, living = _index(device), list(_memory.values())
    found = [torch.UntypedStorage._new_with_weak_ptr(m.ref.cdata) for m in living if m.index == index]
    return sum(storage.nbytes() for storage in found if storage is not None)


# ---- what is counted ------------------------------------------------------------------------------------------------
class Counts:
    """What a block of code asked of the devices."""

    def __init__(self) -> None:
        self.operations: collections.Counter[str] = collections.Counter()  # but views and allocations
        self.kernels = 0  # estimated, those that replays launch included
        self.syncs: collections.Counter[str] = collections.Counter()  # "what at file:line"
        self.copies: collections.Counter[str] = collections.Counter()  # "H2D", "D2H" and "D2D" between two cards
        self.copied: collections.Counter[str] = collections.Counter()  # bytes of each
        self.replays = 0
        self.recordings: list[str] = []  # the capture_error_mode of each


_watching: list[Counts] = []


@contextlib.contextmanager
def watch() -> Iterator[Counts]:
    """Count what a block of code asks of the devices, in any thread."""
    counts = Counts()
    _watching.append(counts)
    try:
        yield counts
    finally:
        _watching.remove(counts)


def _sync(what: str) -> None:
    """The host waits for the current device."""
    _alive()
    recording = _recording_here()
    if recording is not None:
        recording.broken = what
        raise torch.AcceleratorError(f"CUDA error: operation not permitted when stream is capturing: {what}")
    for stream in list(_streams):
        stream.host_saw = stream.now
    if _watching:
        frames = [f for f in traceback.extract_stack(limit=40) if "/tests/pretended" not in f.filename]
        ours = [f for f in frames if "/nnlab/" in f.filename and "site-packages" not in f.filename] or frames
        for counts in _watching:
            counts.syncs[f"{what} at {os.path.relpath(ours[-1].filename)}:{ours[-1].lineno}"] += 1


def _copy(kind: str, waits: bool, n_bytes: int) -> None:
    for counts in _watching:
        counts.copies[kind] += 1
        counts.copied[kind] += n_bytes
    if waits:
        _sync(f"{kind} copy")


# ---- devices and streams --------------------------------------------------------------------------------------------
_cards = [1]
_dead: list[str] = []


@contextlib.contextmanager
def cards(n: int) -> Iterator[None]:
    """Let there be n devices."""
    _cards.insert(0, n)
    try:
        yield
    finally:
        _cards.pop(0)


def revive() -> None:
    """Begin again after a device-side assert, as a new process would."""
    _dead.clear()


def _alive() -> None:
    if _dead:
        raise torch.AcceleratorError(f"CUDA error: device-side assert triggered (by {_dead[0]})")


def _current() -> int:
    return getattr(_state, "device", 0)


def _index(device: Any = None, **_: Any) -> int:
    if isinstance(device, int):
        return device
    index = None if device is None else torch.device(device).index
    return _current() if index is None else index


def _exchange(index: int) -> int:
    before = _current()
    if index is not None and index >= 0:
        _state.device = index
    return before


class Stream:
    """A queue of operations on one device: what another stream wrote may be read after waiting for it."""

    def __init__(self, device: Any = None, priority: int = 0, **_: Any) -> None:
        self.device = torch.device("cuda", _index(device))
        self.device_index, self.stream_id = self.device.index, next(_stream_names)
        self.now = self.host_saw = 0  # operations launched, and how many of them the host has waited for
        self.saw: dict[Stream, int] = {}
        _streams.add(self)

    def wait_stream(self, other: Stream) -> None:
        for stream, now in (*other.saw.items(), (other, other.now)):
            self.saw[stream] = max(now, self.saw.get(stream, 0))

    def synchronize(self) -> None:
        _sync("stream.synchronize")

    def uses(self, memory: _Memory, writes: bool) -> None:
        """Note the use of a storage, and raise where another stream may not be done with it."""
        others = [tuple(memory.wrote), *(memory.read.items() if writes else ())]
        for stream, when in others:
            if stream in (None, self) or max(self.saw.get(stream, 0), stream.host_saw) >= when:
                continue
            raise RuntimeError(f"pretended: stream {self.stream_id} uses memory that {stream.stream_id} may use")
        if writes:
            memory.wrote[:] = [self, self.now]
            memory.read.clear()
        else:
            memory.read[self] = self.now


_streams: weakref.WeakSet[Stream] = weakref.WeakSet()
_stream_names = itertools.count()
_default_streams: dict[int, Stream] = {}


def default_stream(device: Any = None) -> Stream:
    index = _index(device)
    if index not in _default_streams:
        _default_streams[index] = Stream(index)
    return _default_streams[index]


def current_stream(device: Any = None) -> Stream:
    return _state.__dict__.setdefault("streams", {}).get(_index(device)) or default_stream(device)


def set_stream(stream: Stream | None) -> None:
    if stream is not None:
        _state.__dict__.setdefault("streams", {})[stream.device_index] = stream
        _state.device = stream.device_index


# ---- recordings -----------------------------------------------------------------------------------------------------
class _Address:
    """A tensor of a recording by its memory, which is kept alive only where the recording itself allocated it."""

    def __init__(self, t: Tensor, own: bool) -> None:
        self.form = t.dtype, t.storage_offset(), t.size(), t.stride()
        self.own = t.untyped_storage() if own else None
        self.ref = StorageWeakRef(t.untyped_storage())

    def tensor(self) -> Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(self.ref.cdata)
        if storage is None:
            raise RuntimeError("pretended: a CUDA graph replays on memory that has been freed")
        dtype, *place = self.form
        return torch.empty(0, dtype=dtype, device="cpu").set_(storage, *place)


class _Workspace:
    """Memory that cuBLAS keeps for a stream; in the pool of the recording that it was allocated in."""


class _Pool(list[Any]):
    """What recordings allocated; kept alive by their graphs."""


_workspaces: dict[Stream, _Workspace] = {}
_pools: weakref.WeakValueDictionary[int, _Pool] = weakref.WeakValueDictionary()
_pool_names = itertools.count()


class _Recording:
    def __init__(self, stream: Stream, mode: str, pool: _Pool) -> None:
        self.stream, self.mode, self.pool, self.thread = stream, mode, pool, threading.current_thread()
        self.steps: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[torch.UntypedStorage, Tensor]] = {}  # to put back: nothing is carried out
        self.own: set[int] = set()
        self.operations: collections.Counter[str] = collections.Counter()
        self.kernels = 0
        self.broken: str | None = None
        self.workspaces: list[Any] = []

    def next_step(self, written: list[Tensor]) -> None:
        """Keep what an operation is about to write."""
        if _fault and len(self.steps) == _fault[0]:
            self.broken = "an injected fault"
            raise torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing: injected")
        for storage in (t.untyped_storage() for t in written):
            if storage._cdata not in self.before and storage._cdata not in self.own:
                self.before[storage._cdata] = storage, _bytes_of(storage).clone()

    def add(self, function: Any, args: Any, kwargs: Any, found: Any, kernels: int) -> None:
        def address(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if _index_of(value) is None:
                return value.clone()  # a number that the launch reads
            return _Address(value, value.untyped_storage()._cdata in self.own)

        self.steps.append((function, tree_map(address, args), tree_map(address, kwargs), tree_map(address, found)))
        self.operations[function._schema.name.partition("::")[2]] += 1
        self.kernels += kernels


_recordings: list[_Recording] = []
_graphs: weakref.WeakSet[CUDAGraph] = weakref.WeakSet()
_fault: list[int] = []


def live_recordings() -> list[_Recording]:
    """What the CUDA graphs hold that can be replayed; each knows its ``kernels`` and its ``operations``."""
    return [graph._recording for graph in _graphs if graph._recording is not None]


@contextlib.contextmanager
def recording_fails_at(operation: int) -> Iterator[None]:
    """Let a recording's operation of that number, from 0, be one that may not be recorded."""
    _fault[:] = [operation]
    try:
        yield
    finally:
        _fault.clear()


def _recording_here(index: int | None = None) -> _Recording | None:
    stream = current_stream(index)
    return next((recording for recording in _recordings if recording.stream is stream), None)


class CUDAGraph:
    """``torch.cuda.CUDAGraph``; ``torch.cuda.graph``, which drives it, is torch's own."""

    def __init__(self, keep_graph: bool = False) -> None:
        self._recording: _Recording | None = None
        self._pool = graph_pool_handle()
        _graphs.add(self)

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global", **_: Any) -> None:
        self._pool = pool or self._pool
        shared = _pools.setdefault(self._pool[1], _Pool())
        _recordings.append(_Recording(current_stream(), capture_error_mode, shared))
        for counts in _watching:
            counts.recordings.append(capture_error_mode)

    def capture_end(self) -> None:
        recording = _recording_here()
        assert recording is not None, "no recording on the current stream"
        _recordings.remove(recording)
        with _disable_current_modes(), torch.no_grad():
            for storage, before in recording.before.values():
                _bytes_of(storage).copy_(before)
        if recording.broken:
            raise torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture")
        if not recording.steps:
            warnings.warn("The CUDA Graph is empty. It was recorded on the wrong device or stream.", stacklevel=3)
        self._recording = recording

    def replay(self) -> None:
        _alive()
        recording, stream = self._recording, current_stream()
        assert recording is not None, "replay of a graph that holds no recording"
        if any(workspace() is None for workspace in recording.workspaces):
            raise RuntimeError("pretended: a CUDA graph replays on a workspace of cuBLAS that has been freed")
        stream.now += 1
        with _disable_current_modes(), torch.no_grad():
            for function, *given in recording.steps:
                args, kwargs, found = (
                    tree_map(lambda v: v.tensor() if isinstance(v, _Address) else v, g) for g in given
                )
                for value in _tensors(args, *kwargs.values(), found):
                    if memory := _memory.get(value.untyped_storage()._cdata):
                        stream.uses(memory, memory.ref.cdata in recording.before)
                again = _carry_out(function._schema.name.partition("::")[2], function, args, kwargs)
                for old, new in zip(_tensors(found), _tensors(again), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)
        for counts in _watching:
            counts.replays += 1
            counts.kernels += recording.kernels

    def reset(self) -> None:
        self._recording = None

    def pool(self) -> tuple[int, int]:
        return self._pool


def graph_pool_handle() -> tuple[int, int]:
    return 0, next(_pool_names)


# ---- rounding -------------------------------------------------------------------------------------------------------
_rounding = [os.environ.get("PRETEND_ROUNDING", "")]
_SUMMED = {"mm": 0, "mv": 0, "dot": 0, "addmm": 1, "addmv": 1, "_addmm_activation": 1}  # where the factors are


@contextlib.contextmanager
def rounding(how: str) -> Iterator[None]:
    """Sum products in another order: "always", or "align" where an operand does not lie on 256 bytes."""
    _rounding.append(how)
    try:
        yield
    finally:
        _rounding.pop()


def _compute(function: Any, args: Any, kwargs: Any) -> Any:
    """An operation's result, rounded as asked for."""
    how = _rounding[-1]
    name = function._schema.name.partition("::")[2].removesuffix("_") if how else ""
    if name in _SUMMED:
        factors = args[_SUMMED[name] : _SUMMED[name] + 2]
        if how == "always" or any(t.storage_offset() * t.element_size() % 256 for t in (*factors, args[0])):
            a, b = factors
            turned = torch.flip(a, (a.ndim - 1,)), torch.flip(b, (0,))
            args = (*args[: _SUMMED[name]], *turned, *args[_SUMMED[name] + 2 :])
    return function(*args, **kwargs)


def _tensors(*values: Any) -> list[Tensor]:
    """The tensors among an operation's arguments or results, and in their lists."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(*value)
    return found


# ---- operations -----------------------------------------------------------------------------------------------------
_FREE = {"_unsafe_view", "empty", "empty_like", "empty_strided", "is_pinned", "is_same_size", "lift", "lift_fresh"}
_FREE |= {"new_empty", "new_empty_strided", "record_stream", "resize_", "result_type", "set_", "sym_size"}
_WAIT = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "unique_dim", "_unique", "_unique2", "bincount"}
_WAIT |= {"unique_consecutive", "histc", "is_nonzero", "repeat_interleave", "segment_reduce", "_linalg_check_errors"}
_WAIT |= {"_linalg_eigh", "_linalg_svd"}
_ANYWHERE = {"copy_", "_to_copy", "set_", "lift_fresh", "is_same_size", "_foreach_copy_", "result_type"}
_NO_CPU_NUMBER = {"addmm", "addmm_", "mm", "mv", "addmv", "addmv_", "dot", "cat", "stack", "index_select", "gather"}
_NO_CPU_NUMBER |= {"scatter_", "scatter_add_", "index_add_", "_addmm_activation"}
_BY_INDEX = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"}
_ASSERT = _BY_INDEX | {"gather", "scatter", "scatter_", "scatter_add", "scatter_add_", "index_select", "index_add_"}
_ASSERT |= {"index_add", "take", "embedding", "nll_loss_forward", "nll_loss_backward", "nll_loss"}
_BLAS = {"mm", "mv", "dot", "addmm", "addmv", "bmm", "baddbmm", "_addmm_activation"}


def _kernels(name: str, args: Any, kwargs: Any) -> int:
    """The kernels that an operation launches on CUDA, read off ATen/native/cuda."""
    n = 1
    if name in ("addmm", "addmv"):  # the bias is copied first, unless cuBLASLt adds it, which wants rows in a row
        into = kwargs.get("out")
        n += name == "addmv" or args[0].ndim != 1 or (into is not None and not into.is_contiguous())
    elif name in ("_softmax", "_log_softmax", "softmax", "log_softmax"):
        n += not args[0].is_contiguous()
    elif name == "dot":  # and its own reduction
        n += 1 + ("out" in kwargs)
    elif name == "_foreach_norm":
        n += 1
    return n


class _Operation:
    """What is known of an operation without its arguments."""

    def __init__(self, function: Any) -> None:
        schema = function._schema
        self.name: str = schema.name.partition("::")[2]
        self.written = [(k, a.name) for k, a in enumerate(schema.arguments) if a.alias_info and a.alias_info.is_write]
        self.free = self.name in _FREE or any(r.alias_info and not r.alias_info.is_write for r in schema.returns)
        self.composite = torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd")
        self.draws = any(a.name == "generator" for a in schema.arguments)
        missing = not torch._C._dispatch_has_computed_kernel_for_dispatch_key(function.name(), "CUDA")
        self.missing = missing and torch.backends.cuda.is_built()

    def written_by(self, args: Any, kwargs: Any) -> list[Tensor]:
        """The tensors that it writes."""
        values = [kwargs.get(name, args[k] if k < len(args) else None) for k, name in self.written]
        return _tensors(*values)


_operations: dict[Any, _Operation] = {}


class _Device(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = _tensors(args, *kwargs.values())
        indices = [_index_of(t) for t in tensors]
        asked = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        pinned = kwargs.pop("pin_memory", False) or False
        here = next((i for i in indices if i is not None), None)
        if here is None and (asked is None or asked.type != "cuda"):
            found = func(*args, **kwargs)
            if pinned:
                _pinned[found.untyped_storage()._cdata] = StorageWeakRef(found.untyped_storage())
            return found
        _alive()
        known = _operations.get(func)
        if known is None:
            known = _operations[func] = _Operation(func)
        if known.composite:  # which comes undivided in inference mode
            with self:
                return func.decompose(*args, **kwargs)
        if known.missing:
            raise NotImplementedError(f"Could not run '{func.name()}' with arguments from the 'CUDA' backend.")
        if here is not None and known.name not in _ANYWHERE:
            _check_devices(known.name, tensors, indices, here)
        device = indices[0] if known.name == "copy_" else here
        if asked is not None and asked.type in ("cuda", "cpu"):
            kwargs["device"] = torch.device("cpu")
            if asked.type == "cuda":
                device = _index(asked)
            elif known.name not in ("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided", "_to_copy"):
                device = None  # C++ gives these the device that it takes the tensor to be on
        if known.name in ("_to_copy", "clone") and getattr(_state, "leaving", False):
            device = None
        if known.draws:
            kwargs = _with_generator(known.name, args, kwargs, device)
        return self._launch(func, known, args, kwargs, tensors, indices, device)

    @staticmethod
    def _launch(
        func: Any,
        known: Any,
        args: Any,
        kwargs: Any,
        tensors: list[Tensor],
        indices: list[int | None],
        device: int | None,
    ) -> Any:
        stream = current_stream(next((i for i in indices if i is not None), device))
        recording = next((r for r in _recordings if r.stream is stream), None)
        _waits(known.name, args, kwargs, tensors, indices)
        written = known.written_by(args, kwargs)
        if not known.free:
            stream.now += 1
            if recording is not None:
                recording.next_step(written)
            for t, index in zip(tensors, indices, strict=True):
                if index is not None and recording is None:
                    stream.uses(_memory[t.untyped_storage()._cdata], any(t is w for w in written))
        if known.name.removesuffix("_") in _BLAS:
            _use_workspace(stream, recording)
        found = _carry_out(known.name, func, args, kwargs)
        for t in _tensors(found) if device is not None else ():
            if recording is not None and _index_of(t) is None:
                recording.own.add(t.untyped_storage()._cdata)
            _mark(t, device)
            if recording is None and not known.free:
                stream.uses(_memory[t.untyped_storage()._cdata], True)
        if not known.free:
            kernels = _kernels(known.name, args, kwargs)
            for counts in _watching:
                counts.operations[known.name] += 1
                counts.kernels += 0 if recording else kernels
            if recording is not None:
                recording.add(func, args, kwargs, found, kernels)
        return found


def _carry_out(name: str, function: Any, args: Any, kwargs: Any) -> Any:
    try:
        return _compute(function, args, kwargs)
    except (IndexError, RuntimeError) as error:
        if name in _ASSERT and any(words in str(error) for words in ("out of range", "out of bounds", "Target")):
            _dead.append(name)
            raise torch.AcceleratorError("CUDA error: device-side assert triggered") from error
        raise


def _use_workspace(stream: Stream, recording: _Recording | None) -> None:
    workspace = _workspaces.get(stream)
    if workspace is None:
        workspace = _workspaces[stream] = _Workspace()
        if recording is not None:
            recording.pool.append(workspace)
    if recording is not None:
        recording.workspaces.append(weakref.ref(workspace))


def _check_devices(name: str, tensors: list[Tensor], indices: list[int | None], here: int) -> None:
    for t, index in zip(tensors, indices, strict=True):
        if index == here or _raw_device(t).type != "cpu":
            continue
        if index is None and t.ndim == 0 and name not in _NO_CPU_NUMBER:
            continue
        if index is None and name in _BY_INDEX and t is not tensors[0] and not t.is_floating_point():
            _copy("H2D", True, t.nbytes)
            continue
        other = "cpu" if index is None else f"cuda:{index}"
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cuda:{here} and {other}! "
            f"(when checking {name})"
        )


def _with_generator(name: str, args: Any, kwargs: Any, device: int | None) -> Any:
    given = next((g for g in (*args, *kwargs.values()) if isinstance(g, torch._C.Generator)), None)
    if device is None:
        return kwargs
    if given is None:
        return kwargs | {"generator": _generators[device]}
    if given.initial_seed() >> 40 != _SEED:
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({name})")
    return kwargs


def _waits(name: str, args: Any, kwargs: Any, tensors: list[Tensor], indices: list[int | None]) -> None:
    """Let the host wait where an operation makes it."""
    if name in _WAIT:
        _sync(name)
    elif name in ("index", "index_put_", "index_put"):
        masks = any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if masks and (name == "index" or args[2].numel() != 1):
            _sync(f"{name} by a mask")
    elif name == "copy_" and len(tensors) > 1 and indices[0] != indices[1]:
        kind = "H2D" if indices[1] is None else "D2H" if indices[0] is None else "D2D"
        non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        _copy(kind, kind != "D2D" and not (non_blocking and all(map(_is_pinned_or_there, tensors))), tensors[1].nbytes)


def _is_pinned_or_there(t: Tensor) -> bool:
    return _index_of(t) is not None or t.untyped_storage()._cdata in _pinned


# ---- what Python sees of a tensor -----------------------------------------------------------------------------------
_raw_device: Callable[[Tensor], torch.device] = torch._C.TensorBase.device.__get__  # type: ignore[attr-defined]


def _device(self: Tensor) -> torch.device:
    index = _index_of(self)
    return _raw_device(self) if index is None else torch.device("cuda", index)


def _to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    base, copy, form = torch._C.TensorBase, kwargs.pop("copy", False), None
    if args and isinstance(args[0], Tensor):
        kwargs["other"] = args[0]
        args = args[1:]
    if "other" in kwargs:
        target, dtype, non_blocking = kwargs["other"].device, kwargs["other"].dtype, kwargs.get("non_blocking", False)
    else:
        if len(args) >= 3 and isinstance(args[-1], bool):
            *args, copy = args  # type: ignore[assignment]
        target, dtype, non_blocking, form = torch._C._nn._parse_to(*args, **kwargs)
    own = _device(self)
    target, dtype = own if target is None else torch.device(target), dtype or self.dtype
    if target.type == "cuda":
        target = torch.device("cuda", _index(target))
    if target.type == "meta":
        return torch.empty_strided(self.size(), self.stride(), dtype=dtype, device="meta")
    extra = {} if form is None else {"memory_format": form}
    if target == own:
        return base.to(self, dtype=dtype, copy=copy, **extra)  # type: ignore[call-overload, no-any-return]
    _alive()
    kind = "H2D" if own.type == "cpu" else "D2H" if target.type == "cpu" else "D2D"
    _copy(kind, kind != "D2D" and not (non_blocking and _is_pinned_or_there(self) and kind == "H2D"), self.nbytes)
    _state.leaving = True
    try:
        new = base.to(self, dtype=dtype, copy=True, **extra)  # type: ignore[call-overload]
    finally:
        _state.leaving = False
    return new if target.type == "cpu" else _mark(new, target.index)


def _refuse_numpy(self: Tensor) -> None:
    if _index_of(self) is not None:
        raise TypeError(
            f"can't convert {_device(self)} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
            "memory first."
        )


def _numpy(self: Tensor, *, force: bool = False) -> Any:
    if force:
        return torch._C.TensorBase.numpy(_to(self.detach(), "cpu"))  # type: ignore[attr-defined]
    _refuse_numpy(self)
    return torch._C.TensorBase.numpy(self)  # type: ignore[attr-defined]


def _tolist(self: Tensor) -> Any:
    if _index_of(self) is not None:
        _sync("tolist")
    return torch._C.TensorBase.tolist(self)  # type: ignore[attr-defined]


def _pin_memory(self: Tensor, *_: Any) -> Tensor:
    if _index_of(self) is not None:
        raise RuntimeError("cannot pin 'torch.cuda.Tensor' only dense CPU tensors can be pinned")
    new = self.clone()
    _pinned[new.untyped_storage()._cdata] = StorageWeakRef(new.untyped_storage())
    return new


def _is_pinned(self: Tensor, *_: Any) -> bool:
    return self.untyped_storage()._cdata in _pinned


class _GeneratorKind(type(torch._C.Generator)):  # type: ignore[misc]
    def __instancecheck__(cls, thing: object) -> bool:
        return isinstance(thing, torch._C.Generator)


class Generator(torch._C.Generator, metaclass=_GeneratorKind):
    """``torch.Generator``; one on a device is known by the high bits of its seed, for C++ hands on no more of it."""

    device = torch.device("cpu")  # in place of C's read-only one

    def __new__(cls, device: Any = "cpu") -> Generator:
        return super().__new__(cls)

    def __init__(self, device: Any = "cpu") -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", _index(self.device))
            self.manual_seed(0)

    def manual_seed(self, seed: int) -> Generator:
        on_device = self.device.type == "cuda"
        super().manual_seed(_SEED << 40 | self.device.index << 32 | (seed + 7919) % 2**32 if on_device else seed)
        return self


_SEED = 0xC0DA
_generators: list[Generator] = []


# ---- instead of torch's own -----------------------------------------------------------------------------------------
def install() -> None:
    """Let torch find a CUDA device, for the rest of this process."""
    if _generators:
        return
    _generators.extend(Generator(f"cuda:{index}") for index in range(8))
    tensor = {
        "device": property(_device),
        "is_cuda": property(lambda self: _index_of(self) is not None),
        "is_cpu": property(lambda self: _device(self).type == "cpu"),
        "get_device": lambda self: -1 if _index_of(self) is None else _index_of(self),
        "to": _to,
        "cpu": lambda self, *_, **__: _to(self, "cpu"),
        "cuda": lambda self, device=None, *_, **__: _to(self, torch.device("cuda", _index(device))),
        "numpy": _numpy,
        "tolist": _tolist,
        "pin_memory": _pin_memory,
        "is_pinned": _is_pinned,
    }
    array = Tensor.__array__
    tensor["__array__"] = lambda self, *args, **kwargs: _refuse_numpy(self) or array(self, *args, **kwargs)
    tensor["new_tensor"] = lambda self, data, **kwargs: torch.tensor(
        data, **{"dtype": self.dtype, "device": self.device, **kwargs}
    )
    for name, value in tensor.items():
        setattr(Tensor, name, value)
    _replace_factories()
    _replace_storages()
    _replace_cuda()
    _replace_autocast()
    _replace_triton()
    torch._C._set_only_lift_cpu_tensors(True)
    _Device().__enter__()
    run = threading.Thread.run

    def run_with_device(self: threading.Thread) -> None:
        with _Device():  # a thread begins without modes
            run(self)

    threading.Thread.run = run_with_device  # type: ignore[method-assign]


def _replace_factories() -> None:
    raw_tensor, raw_as_tensor, raw_one_hot = torch.tensor, torch.as_tensor, torch.nn.functional.one_hot
    raw_gradcheck = torch.autograd.gradcheck

    def default() -> torch.device:
        return torch.empty(0).device

    def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any) -> Tensor:
        device = torch.device(device or (data.device if isinstance(data, Tensor) else default()))
        if isinstance(data, Tensor):
            made = _to(data.detach(), device, dtype or data.dtype, copy=True)
        else:
            made = raw_tensor(data, dtype=dtype, device="cpu" if device.type == "cuda" else device)
            if device.type == "cuda":
                _copy("H2D", True, made.nbytes)
                _mark(made, _index(device))
        return made.requires_grad_(requires_grad)

    def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
        if isinstance(data, Tensor):
            return _to(data, device or data.device, dtype or data.dtype)
        return _to(raw_as_tensor(data, dtype=dtype, device="cpu"), device or default())

    def one_hot(labels: Tensor, num_classes: int = -1) -> Tensor:  # which C++ makes where it takes the labels to be
        if _index_of(labels) is None:
            return raw_one_hot(labels, num_classes)
        if num_classes == -1:
            num_classes = int(labels.max()) + 1
        zeros = torch.zeros(*labels.shape, num_classes, dtype=torch.int64, device=labels.device)
        return zeros.scatter_(-1, labels[..., None], 1)

    torch.tensor, torch.as_tensor = tensor, as_tensor
    torch.nn.functional.one_hot = one_hot
    torch.autograd.gradcheck = lambda *a, **k: raw_gradcheck(*a, **(k | {"check_undefined_grad": False}))
    torch.Generator = Generator
    raw_seed = torch.manual_seed

    def manual_seed(seed: int) -> Any:
        for generator in _generators:
            generator.manual_seed(int(seed))
        return raw_seed(seed)

    torch.manual_seed = torch.random.manual_seed = manual_seed


def _replace_storages() -> None:
    """Copies of storages, and checkpoints, know where they were."""
    base = torch.storage._StorageBase
    raw_clone = base.clone

    def untyped(storage: Any) -> Any:
        return storage._untyped_storage if isinstance(storage, torch.TypedStorage) else storage

    def clone(self: Any) -> Any:
        new, memory = raw_clone(self), _memory.get(self._cdata)
        if memory is not None:
            _mark(torch.empty(0, dtype=torch.uint8, device="cpu").set_(new), memory.index)
        return new

    def tag(storage: Any) -> str | None:
        memory = _memory.get(untyped(storage)._cdata)
        return None if memory is None else f"cuda:{memory.index}"

    def load(storage: Any, location: str) -> Any:
        if not str(location).startswith("cuda"):
            return None
        with _disable_current_modes():
            _mark(_bytes_of(untyped(storage)), _index(location))
        return storage

    base.clone = clone
    torch.serialization.register_package(1, tag, load)


class _Properties:
    name, major, minor, total_memory, multi_processor_count = NAME, 9, 0, 80 << 30, 132
    warp_size, max_threads_per_multi_processor, regs_per_multiprocessor, L2_cache_size = 32, 2048, 65536, 50 << 20


def _replace_cuda() -> None:
    def seed_all(seed: int) -> None:
        for generator in _generators:
            generator.manual_seed(seed)

    def nothing(*_: Any, **__: Any) -> None:
        pass

    replaced = {
        **dict.fromkeys(("_lazy_init", "empty_cache", "ipc_collect", "reset_peak_memory_stats", "init"), nothing),
        **{name: globals()[name] for name in ("Stream", "CUDAGraph", "current_stream", "default_stream")},
        **{name: globals()[name] for name in ("set_stream", "graph_pool_handle", "memory_allocated")},
        **dict.fromkeys(("max_memory_allocated", "memory_reserved", "max_memory_reserved"), memory_allocated),
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_is_in_bad_fork": lambda: False,
        "device_count": lambda: _cards[0],
        "current_device": _current,
        "set_device": lambda device: _exchange(_index(device)) and None,
        "_exchange_device": _exchange,
        "_maybe_exchange_device": _exchange,
        "_get_device_index": lambda device, optional=False, allow_cpu=False: _index(device),
        "synchronize": lambda device=None: _sync("torch.cuda.synchronize"),
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": lambda device=None: _Properties,
        "get_arch_list": lambda: ["sm_90"],
        "is_bf16_supported": lambda including_emulation=True: True,
        "memory_stats": lambda device=None: {},
        "mem_get_info": lambda device=None: (80 << 30, 80 << 30),
        "is_current_stream_capturing": lambda: _recording_here() is not None,
        "manual_seed": _generators[_current()].manual_seed,
        "manual_seed_all": seed_all,
        "get_rng_state": lambda device="cuda": _generators[_index(device)].get_state(),
        "set_rng_state": lambda state, device="cuda": _generators[_index(device)].set_state(state),
        "get_rng_state_all": lambda: [_generators[i].get_state() for i in range(_cards[0])],
        "set_rng_state_all": lambda states: [g.set_state(s) for g, s in zip(_generators, states, strict=False)],
        "default_generators": tuple(_generators),
    }
    for name, value in replaced.items():
        setattr(torch.cuda, name, value)
    torch.cuda.graphs.CUDAGraph = CUDAGraph
    torch._C._cuda_clearCublasWorkspaces = _workspaces.clear
    torch._C._host_emptyCache = nothing
    for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
        setattr(torch.optim.Optimizer, name, nothing)


class _Kernel:
    """A kernel that Triton interprets, as an operation of which every tensor may be written."""

    free = False

    def __init__(self, executor: Any, launch: Callable[..., None]) -> None:
        self.executor, self.launch, self.name = executor, launch, executor.fn.__name__
        self._schema = types.SimpleNamespace(name=f"triton::{self.name}")

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.launch(self.executor, *args, **kwargs)

    def written_by(self, args: Any, kwargs: Any) -> list[Tensor]:
        return _tensors(args, *kwargs.values())


def _replace_triton() -> None:
    """With TRITON_INTERPRET=1, Triton's kernels run on the device; like Triton's own, on the current one alone."""
    try:
        from triton.runtime.interpreter import GridExecutor
    except ImportError:
        return
    launch = GridExecutor.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        tensors = _tensors(args, *kwargs.values())
        indices = [_index_of(t) for t in tensors]
        if not any(index is not None for index in indices):
            launch(self, *args, **kwargs)
            return
        _alive()
        if any(index != _current() for index in indices):
            _dead.append(f"{self.fn.__name__}, launched on cuda:{_current()} with memory of {set(indices)}")
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        kernel: Any = _Kernel(self, launch)
        with _disable_current_modes():
            _Device._launch(kernel, kernel, args, kwargs, tensors, indices, _current())

    GridExecutor.__call__ = call


def _replace_autocast() -> None:
    """What is asked of autocast on CUDA is asked of the CPU's."""
    kind = torch.amp.autocast_mode.autocast
    raw_init, raw_enabled, raw_dtype = kind.__init__, torch.is_autocast_enabled, torch.get_autocast_dtype

    def init(self: Any, device_type: str, dtype: Any = None, *args: Any, **kwargs: Any) -> None:
        on_cuda = device_type == "cuda"
        dtype = torch.float16 if on_cuda and dtype is None else dtype
        raw_init(self, "cpu" if on_cuda else device_type, dtype, *args, **kwargs)

    kind.__init__ = init
    torch.is_autocast_enabled = lambda kind=None: (
        raw_enabled() if kind is None else raw_enabled(kind.replace("cuda", "cpu"))
    )
    torch.get_autocast_dtype = lambda kind: raw_dtype(kind.replace("cuda", "cpu"))


# ---- the plugin -----------------------------------------------------------------------------------------------------
def pytest_configure(config: pytest.Config) -> None:
    install()


def pytest_runtest_setup(item: pytest.Item) -> None:
    _graphs.clear()  # those that the traceback of a failed test still holds
