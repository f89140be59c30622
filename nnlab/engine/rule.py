"""The perceptron's rule sample after sample, all units in lockstep, compiled by numba.

Weights lie with a feature's units side by side, as one row of numbers, so that an input meets all of them in one vector
operation. numba's own vectoriser does not find this, hence a few lines of LLVM, which cuts a vector of any width P to
what the processor has; P is known to the compiler as the length of a tuple.

A score's sum rounds in another order than the sequential rule's, so it is taken only where both orders must agree on
its sign. Otherwise the loop stops, the sequential rule judges that one sample, and the loop goes on. A change rounds as
the rule's does, product and difference apart.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnlab.engine.layout import Array, Limits, Rows, Units, compiled

AHEAD = 2  # samples between one that is fetched from memory and the one that is learnt
LINE = 64  # bytes


class _Vectors:
    """P numbers at once in LLVM; the arguments are those of ``scores`` and ``subtract``."""

    def __init__(self, context: Any, builder: Any, signature: Any, given: Any) -> None:
        arrays = [
            context.make_array(t)(context, builder, a) for t, a in zip(signature.args[:4], given[:4], strict=True)
        ]
        self._side, self._weight, self._feature, self._value = (array.data for array in arrays)
        self.terms, self._builder = arrays[3].nitems, builder
        self.type = ir.VectorType(context.get_data_type(signature.args[1].dtype), signature.args[4].count)
        self._size = context.get_abi_sizeof(self.type.element)
        self._kind = signature.args[3].dtype

    def side(self) -> Any:
        """The address of P numbers, one for each unit."""
        return self._builder.bitcast(self._side, self.type.as_pointer())

    def row(self, j: Any) -> Any:
        """The address of the weights of feature[j]."""
        feature = self._builder.zext(self._builder.load(self._builder.gep(self._feature, [j])), j.type)
        start = self._builder.mul(feature, ir.Constant(j.type, self.type.count))
        return self._builder.bitcast(self._builder.gep(self._weight, [start]), self.type.as_pointer())

    def x(self, j: Any) -> Any:
        """value[j], P times."""
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.type.count), None)
        undefined, x = ir.Constant(self.type, ir.Undefined), self._builder.load(self._builder.gep(self._value, [j]))
        if isinstance(self._kind, types.Integer):
            x = self._builder.uitofp(x, self.type.element)
        elif x.type != self.type.element:
            x = self._builder.fpext(x, self.type.element)
        one = self._builder.insert_element(undefined, x, ir.IntType(32)(0))
        return self._builder.shuffle_vector(one, undefined, zeros)

    def load(self, address: Any) -> Any:
        """The P numbers there."""
        return self._builder.load(address, align=self._size)

    def store(self, vector: Any, address: Any) -> None:
        """Put P numbers there."""
        self._builder.store(vector, address, align=self._size)


def _scores(_: Any, out: Any, weight: Any, feature: Any, value: Any, lanes: Any) -> Any:
    """Let out be Σⱼ weight[feature[j]] value[j], of P units."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        v = _Vectors(context, builder, signature, given)
        # two sums, one for the even and one for the odd j: each addition has to wait for the one before it
        sums = [cgutils.alloca_once_value(builder, ir.Constant(v.type, None)) for _ in range(2)]

        def add(j: Any, total: Any) -> None:
            product = builder.fmul(v.x(j), v.load(v.row(j)), flags=("contract",))
            builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)

        zero, one, two = (ir.Constant(v.terms.type, n) for n in range(3))
        even = builder.sub(v.terms, builder.and_(v.terms, one))
        with cgutils.for_range_slice(builder, zero, even, two, inc=True) as (j, _):
            add(j, sums[0])
            add(builder.add(j, one), sums[1])
        with cgutils.for_range_slice(builder, even, v.terms, one, inc=True) as (j, _):
            add(j, sums[0])
        v.store(builder.fadd(*map(builder.load, sums)), v.side())
        return context.get_dummy_value()

    return types.void(out, weight, feature, value, lanes), generate


def _subtract(_: Any, change: Any, weight: Any, feature: Any, value: Any, lanes: Any) -> Any:
    """weight[feature[j]] −= change value[j] for each j, of P units: product and difference are rounded each."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        v = _Vectors(context, builder, signature, given)
        changes = v.load(v.side())
        with cgutils.for_range(builder, v.terms) as loop:
            row = v.row(loop.index)
            v.store(builder.fsub(v.load(row), builder.fmul(changes, v.x(loop.index))), row)
        return context.get_dummy_value()

    return types.void(change, weight, feature, value, lanes), generate


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
def gamma(n: int, eps: float) -> float:
    """γₙ = n u / (1 − n u), u = ε/2: a sum of n products in any order is off by at most γₙ Σ|products|."""
    part = n * eps / 2
    return part / (1 - part) if part < 1 else np.inf


@compiled
def sign(feature: Array, value: Array, weight: Array, bias: float, limits: Limits) -> int:
    """The sign of a score that every order of its sum has: 1 (u >= 0), −1, or 0 where orders may differ."""
    total, size, whole = np.float64(bias), abs(np.float64(bias)), bias == np.floor(bias)
    for j in range(len(value)):
        x, w = np.float64(value[j]), np.float64(weight[feature[j]])
        total += w * x
        size += abs(w * x)
        whole &= w == np.floor(w) and x == np.floor(x)
    n = len(value) + 2
    clear = abs(total) > 1.01 * (gamma(n, limits.eps) + gamma(n, 2.0**-52)) * size + n * limits.tiny
    exact = whole and size <= 1 / limits.eps  # whole numbers are not rounded
    if size < limits.most and (clear or exact):
        return 1 if total >= 0 else -1
    return 0


@compiled
def lengthen(norm: float, step: float, length: float, reach: float, slack: float, limits: Limits) -> float:
    """A bound on ‖[w, −θ] − s [1, x]‖ from one on ‖[w, −θ]‖, with 2 |u| at least ``reach`` but for rounding."""
    square = norm * norm + step * (step * length * length - reach)
    longer = math.sqrt(square * (1 + slack + 8 * limits.eps))
    return max(longer, limits.shortest) if longer < limits.longest else np.inf


@compiled
def fetch(rows: Rows, n: int) -> None:
    """Have a sample fetched into the cache."""
    for j in range(0, rows.terms[n], LINE // rows.value.itemsize):
        prefetch(rows.value, rows.first[n] + j)
    for j in range(0, rows.terms[n], LINE // rows.feature.itemsize):
        prefetch(rows.feature, rows.where[n] + j)


@compiled
def judge(rows: Rows, n: int, u: Array, scale: float, gap: float, units: Units, limits: Limits, error: Array) -> bool:
    """Find the errors of the units, (K,), from their scores, each of which is clear beyond ``scale`` times its norm.

    Returns:
        whether all are certain; the scores whose sign was not clear are 0 afterwards, and the errors where not all are.
    """
    width = units.weight.shape[2]
    feature = rows.feature[rows.where[n] : rows.where[n] + rows.terms[n]]
    value = rows.value[rows.first[n] : rows.first[n] + rows.terms[n]]
    for k in range(len(error)):
        judged = 1 if u[k] > 0 else -1
        if not abs(u[k]) > scale * units.norm[k]:
            judged = sign(feature, value, units.weight[k // width, :, k % width], units.bias[k], limits)
            u[k] = 0
        if judged == 0:
            error[:] = 0
            return False
        if (judged == 1) != (k == rows.wanted[n]):
            error[k] = judged * gap
    return True


@compiled
def learn(
    rows: Rows, order: Array, how: Any, units: Units, lanes: Any, limits: Limits, errors: Array, state: Array
) -> bool:
    """Learn the samples order[state[0]:], up to the first that has a score of uncertain sign.

    Args:
        rows: the samples.
        order: their numbers, (n,).
        how: η and g(1) − g(−1), in x's dtype, and the samples learnt before order[0].
        units: what is changed.
        lanes: P numbers.
        limits: of x's dtype.
        errors: (n, K), where they are written; 0 from state[0] on.
        state: how many of ``order`` are learnt; 1 where the errors of the next have been given, else 0.

    Returns:
        whether there was such a sample.
    """
    lr, gap, before = how
    u, step, late = np.zeros_like(units.bias), np.zeros_like(units.bias), np.zeros_like(units.bias)
    for position in range(state[0], len(order)):
        if position + AHEAD < len(order):
            fetch(rows, order[position + AHEAD])
        n = order[position]
        feature = rows.feature[rows.where[n] : rows.where[n] + rows.terms[n]]
        value = rows.value[rows.first[n] : rows.first[n] + rows.terms[n]]
        error, length, slack = errors[position], rows.length[n], 2.02 * gamma(rows.terms[n] + 2, limits.eps)
        if state[1] == 0:
            for part in range(len(units.weight)):
                scores(u[part * len(lanes) :], units.weight[part], feature, value, lanes)
            right = True
            for k in range(len(u)):
                u[k] += units.bias[k]
                right &= (u[k] if k == rows.wanted[n] else -u[k]) > slack * length * units.norm[k]
            if right:
                state[0] = position + 1
                continue
            if not judge(rows, n, u, slack * length, gap, units, limits, error):
                return True
        else:
            state[1], u[:] = 0, 0
        for k in range(len(error)):
            step[k] = lr * error[k]
            late[k] = units.bias.dtype.type(before + position) * step[k]
            units.bias[k] -= step[k]
            units.bias_lag[k] -= late[k]
            if step[k] != 0:
                size = abs(step[k])
                units.norm[k] = lengthen(
                    units.norm[k], size, length, abs(u[k]), 0.0 if u[k] != 0 else 2 * slack, limits
                )
        for part in range(len(units.weight)):
            subtract(step[part * len(lanes) :], units.weight[part], feature, value, lanes)
            subtract(late[part * len(lanes) :], units.weight_lag[part], feature, value, lanes)
        state[0] = position + 1
    return False
