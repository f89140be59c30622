"""What the engine's loops need of numba: the compiler, accumulators on the stack, prefetching, and threads."""

from __future__ import annotations

import functools
import multiprocessing
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

Array = np.ndarray[Any, Any]

CACHE_LINE = 64  # bytes
OPTIONS = {"nogil": True, "error_model": "numpy", "boundscheck": False, "no_cfunc_wrapper": True}


def compiled(function: Any, parallel: bool = False, fastmath: Any = False) -> Any:
    """The function compiled, and kept for the next process where there is a folder that can be written.

    Indices are not checked, and a division by 0 gives what NumPy gives.
    """
    options = OPTIONS | {"parallel": parallel, "fastmath": fastmath}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no such folder
        return njit(**options)(function)


def inner(function: Any, fastmath: Any = False, inline: str = "never") -> Any:
    """The function for compiled ones to call, which take its machine code in.

    It gets none of its own, no entry in the cache, and no wrapper, so Python must not call it: that ends the process.
    That saves about a tenth of the time to compile. With inline="always" its source is taken in, which saves one more
    optimization of all that it calls.
    """
    return njit(no_cpython_wrapper=True, fastmath=fastmath, inline=inline, **OPTIONS)(function)


def _on_stack(_: Any, n: Any, like: Any) -> Any:
    """A pointer to n uninitialised numbers of an array's dtype in the function's frame; n is a constant.

    ``a = carray(on_stack(64, w), 64)``: LLVM keeps such an array in registers across a loop, which it does not do with
    one from ``np.empty``: 1.9 times as fast forward, 3.3 backward, and as fast as hand-written vectors. The constant
    must be at least 64: LLVM unrolls shorter loops before it can vectorise them, which is 4 to 6 times slower.
    """
    if not isinstance(n, types.IntegerLiteral):
        return None
    count = n.literal_value

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        with builder.goto_entry_block():
            kind = context.get_data_type(like.dtype)
            array = builder.alloca(kind, size=ir.Constant(ir.IntType(32), count))
            array.align = CACHE_LINE
        return array

    return types.CPointer(like.dtype)(n, like), generate


def _prefetch(_: Any, array: Any, index: Any) -> Any:
    """Fetch the cache line of an array's entry, without waiting for it."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        data, number = context.make_array(signature.args[0])(context, builder, given[0]).data, ir.IntType(32)
        address = builder.bitcast(builder.gep(data, [given[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [address, number(0), number(3), number(1)])  # to read, into every cache, data
        return context.get_dummy_value()

    return types.void(array, index), generate


def _fma(_: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once where the processor has an instruction for it.

    It is written out where it is wanted. Where LLVM may choose, it chooses otherwise when it compiles than when it
    takes compiled code from a file, and the weights of a run differ from those of its repetition.
    """

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        a, b, c = given
        return builder.fma(a, b, c) if HAS_FMA else builder.fadd(builder.fmul(a, b), c)

    return a(a, a, a), generate


HAS_FMA = get_host_cpu_features().get("fma", platform.machine() in ("arm64", "aarch64"))
on_stack, prefetch, fma = intrinsic(_on_stack), intrinsic(_prefetch), intrinsic(_fma)


@inner
def fetch(array: Array, start: int, n: int) -> None:
    """Fetch n entries of an array into the cache, without waiting for them."""
    for j in range(start, start + n, CACHE_LINE // array.itemsize):
        prefetch(array, j)


def threads_are_safe() -> bool:
    """Whether numba's threads may be used at all.

    Its last resort, workqueue, ends the process if two of Python's threads ask for them, and OpenMP ends one that was
    forked from the process that started them.
    """
    return _started_in() == os.getpid() and numba.threading_layer() != "workqueue"


@functools.cache
def _started_in() -> int:
    """Start numba's threads; the process that did, 0 where that is not known.

    OpenMP then has a default of one thread for each core, and torch goes by that default: what it was is set again.
    """
    try:
        numba.threading_layer()
    except ValueError:  # they are not started yet
        pass
    else:
        if multiprocessing.parent_process():  # which may have started them before it forked
            return 0
    threads = torch.get_num_threads()
    numba.get_num_threads()
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return os.getpid()


@contextmanager
def threads_as_torch() -> Iterator[int]:
    """Let numba use as many threads as torch does, one where that is not safe; yields how many these are.

    Where numba's are OpenMP's they are the same threads, which do not compete for cores.
    """
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS) if threads_are_safe() else 1
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        yield threads
    finally:
        numba.set_num_threads(before)
