"""The perceptron's rule sample after sample, all units in lockstep, compiled by numba.

A score's sum rounds in another order than the sequential rule's, so it is taken only where both orders must agree on
its sign. Otherwise the loop stops, the sequential rule judges that one sample, and the loop goes on. A change rounds as
the rule's does, product and difference apart.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from nnlab.engine.layout import Array, Known, Limits, Rows, Units, compiled, compiled_in_parallel
from nnlab.engine.vectors import AHEAD, fetch, scores, subtract

ROW = (1,)  # a vector makes a row


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
def judge(
    rows: Rows, n: int, wanted: int, u: Array, scale: float, gap: float, units: Units, limits: Limits, error: Array
) -> bool:
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
        if (judged == 1) != (k == wanted):
            error[k] = judged * gap
    return True


@compiled
def learn(
    rows: Rows,
    known: Known,
    order: Array,
    how: Any,
    group: int,
    units: Units,
    lanes: Any,
    limits: Limits,
    errors: Array,
    state: Array,
) -> None:
    """Let a group of units learn the samples order[state[0]:], up to the first that has a score of uncertain sign.

    Args:
        rows: the samples.
        known: what else is known of them.
        order: their numbers, (n,).
        how: η and g(1) − g(−1), in x's dtype, and the samples learnt before order[0].
        group: number of its first unit.
        units: the group, which is changed.
        lanes: P numbers.
        limits: of x's dtype.
        errors: of the group, (n, K), where they are written; 0 from state[0] on.
        state: how many of ``order`` are learnt; 1 where the errors of the next have been given, else 0.
    """
    lr, gap, before = how
    u, step, late = np.zeros_like(units.bias), np.zeros_like(units.bias), np.zeros_like(units.bias)
    given, state[1] = state[1] != 0, 0
    for position in range(state[0], len(order)):
        if position + AHEAD < len(order):
            n = order[position + AHEAD]
            fetch(rows.first[n], rows.terms[n], rows.value)
            fetch(rows.where[n], rows.terms[n], rows.feature)
        n = order[position]
        feature = rows.feature[rows.where[n] : rows.where[n] + rows.terms[n]]
        value = rows.value[rows.first[n] : rows.first[n] + rows.terms[n]]
        wanted, length = known.wanted[n] - group, known.length[n]
        wanted = wanted if wanted < errors.shape[1] else -1
        error, slack = errors[position], 2.02 * gamma(rows.terms[n] + 2, limits.eps)
        if not given:
            for part in range(len(units.weight)):
                scores(u[part * len(lanes) :], units.weight[part], feature, value, lanes, ROW)
            right = True
            for k in range(len(u)):
                u[k] += units.bias[k]
                right &= (u[k] if k == wanted else -u[k]) > slack * length * units.norm[k]
            if right:
                continue
            if not judge(rows, n, wanted, u, slack * length, gap, units, limits, error):
                state[0] = position
                return
        else:
            given = False  # u is 0: nothing is known of the scores
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
            subtract(step[part * len(lanes) :], units.weight[part], feature, value, lanes, ROW)
            subtract(late[part * len(lanes) :], units.weight_lag[part], feature, value, lanes, ROW)
    state[0] = len(order)


@compiled_in_parallel
def learn_in_groups(
    rows: Rows,
    known: Known,
    order: Array,
    how: Any,
    groups: Units,
    lanes: Any,
    limits: Limits,
    errors: Array,
    state: Array,
) -> None:
    """Let groups of units learn at the same time, for none needs to know of the others.

    Args:
        rows: see ``learn``, as of all that is not said here.
        known: likewise.
        order: likewise.
        how: likewise.
        groups: all units, those of a group behind a further, first index, and as many in each but the last.
        lanes: likewise.
        limits: likewise.
        errors: of all units, (n, K).
        state: of each group.
    """
    size = -(-errors.shape[1] // len(state))
    for g in prange(len(state)):
        units = Units(groups.weight[g], groups.bias[g], groups.weight_lag[g], groups.bias_lag[g], groups.norm[g])
        own = errors[:, g * size : (g + 1) * size]
        learn(rows, known, order, how, g * size, units, lanes, limits, own, state[g])
