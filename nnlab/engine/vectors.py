"""A row of weights met by one input at once, in numba: P numbers in a few vector operations.

Weights lie with a feature's units side by side, as one row of numbers, so that an input meets all of them at once.
numba's own vectoriser does not find this, hence a few lines of LLVM, which cuts vectors to what the processor has. How
many numbers make a vector, and how many vectors a row, is known to the compiler as the lengths of two tuples.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnlab.engine.layout import Array, compiled

AHEAD = 2  # samples between one that is fetched from memory and the one that is used
LINE = 64  # bytes


class _Row:
    """A row of P numbers in LLVM, as vectors; the arguments are those of ``scores`` and ``subtract``."""

    def __init__(self, context: Any, builder: Any, signature: Any, given: Any) -> None:
        arrays = [
            context.make_array(t)(context, builder, a) for t, a in zip(signature.args[:4], given[:4], strict=True)
        ]
        self._side, self._weight, self._feature, self._value = (array.data for array in arrays)
        self.terms, self._builder = arrays[3].nitems, builder
        self.type = ir.VectorType(context.get_data_type(signature.args[1].dtype), signature.args[4].count)
        self.vectors = range(signature.args[5].count)
        self._size = context.get_abi_sizeof(self.type.element)
        self._kind = signature.args[3].dtype

    def side(self) -> list[Any]:
        """The addresses of P numbers, one for each unit."""
        return self._addresses(self._side)

    def row(self, j: Any) -> list[Any]:
        """The addresses of the weights of feature[j]."""
        feature = self._builder.zext(self._builder.load(self._builder.gep(self._feature, [j])), j.type)
        start = self._builder.mul(feature, ir.Constant(j.type, self.type.count * len(self.vectors)))
        return self._addresses(self._builder.gep(self._weight, [start]))

    def _addresses(self, start: Any) -> list[Any]:
        first, index = self._builder.bitcast(start, self.type.as_pointer()), ir.IntType(64)
        return [self._builder.gep(first, [index(k)]) for k in self.vectors]

    def x(self, j: Any) -> Any:
        """value[j], as often as a vector has numbers."""
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.type.count), None)
        undefined, x = ir.Constant(self.type, ir.Undefined), self._builder.load(self._builder.gep(self._value, [j]))
        if isinstance(self._kind, types.Integer):
            x = self._builder.uitofp(x, self.type.element)
        elif x.type != self.type.element:
            x = self._builder.fpext(x, self.type.element)
        one = self._builder.insert_element(undefined, x, ir.IntType(32)(0))
        return self._builder.shuffle_vector(one, undefined, zeros)

    def load(self, address: Any) -> Any:
        """The vector there."""
        return self._builder.load(address, align=self._size)

    def store(self, vector: Any, address: Any) -> None:
        """Put a vector there."""
        self._builder.store(vector, address, align=self._size)


def _scores(_: Any, out: Any, weight: Any, feature: Any, value: Any, lanes: Any, vectors: Any) -> Any:
    """Let out be Σⱼ weight[feature[j]] value[j], of P units."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        v = _Row(context, builder, signature, given)
        # two sums, one for the even and one for the odd j: each addition has to wait for the one before it
        sums = [[cgutils.alloca_once_value(builder, ir.Constant(v.type, None)) for _ in v.vectors] for _ in range(2)]

        def add(j: Any, totals: list[Any]) -> None:
            x = v.x(j)
            for address, total in zip(v.row(j), totals, strict=True):
                product = builder.fmul(x, v.load(address), flags=("contract",))
                builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)

        zero, one, two = (ir.Constant(v.terms.type, n) for n in range(3))
        even = builder.sub(v.terms, builder.and_(v.terms, one))
        with cgutils.for_range_slice(builder, zero, even, two, inc=True) as (j, _):
            add(j, sums[0])
            add(builder.add(j, one), sums[1])
        with cgutils.for_range_slice(builder, even, v.terms, one, inc=True) as (j, _):
            add(j, sums[0])
        for address, first, second in zip(v.side(), *sums, strict=True):
            v.store(builder.fadd(builder.load(first), builder.load(second)), address)
        return context.get_dummy_value()

    return types.void(out, weight, feature, value, lanes, vectors), generate


def _subtract(_: Any, change: Any, weight: Any, feature: Any, value: Any, lanes: Any, vectors: Any) -> Any:
    """weight[feature[j]] −= change value[j] for each j, of P units: product and difference are rounded each."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        v = _Row(context, builder, signature, given)
        changes = [v.load(address) for address in v.side()]
        with cgutils.for_range(builder, v.terms) as loop:
            x = v.x(loop.index)
            for address, part in zip(v.row(loop.index), changes, strict=True):
                v.store(builder.fsub(v.load(address), builder.fmul(part, x)), address)
        return context.get_dummy_value()

    return types.void(change, weight, feature, value, lanes, vectors), generate


def _prefetch(_: Any, array: Any, index: Any) -> Any:
    """Have the cache line of an array's entry fetched, without waiting for it."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        data, number = context.make_array(signature.args[0])(context, builder, given[0]).data, ir.IntType(32)
        address = builder.bitcast(builder.gep(data, [given[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [address, number(0), number(3), number(1)])  # to read, into every cache, data
        return context.get_dummy_value()

    return types.void(array, index), generate


scores, subtract, prefetch = intrinsic(_scores), intrinsic(_subtract), intrinsic(_prefetch)


@compiled
def fetch(first: int, terms: int, array: Array) -> None:
    """Have some numbers of an array fetched into the cache."""
    for j in range(0, terms, LINE // array.itemsize):
        prefetch(array, first + j)
