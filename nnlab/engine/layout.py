"""How the compiled rule has its numbers: samples without their zeros, and units side by side."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]


class Rows(NamedTuple):
    """Samples: number n is value[first[n] + j] at feature[where[n] + j], j < terms[n].

    Attributes:
        first: (N,) int64.
        where: (N,) int64, all 0 where every sample has every feature.
        terms: (N,) int64.
        feature: uint16 or uint32.
        value: uint8, float32 or x's dtype, the least that holds them all: what is read sets the pace.
        length: ‖[1, x]‖, (N,) float64.
        wanted: the unit that a sample is to excite, (N,) int64; −1 for none.
    """

    first: Array
    where: Array
    terms: Array
    feature: Array
    value: Array
    length: Array
    wanted: Array


class Units(NamedTuple):
    """The state of the units, P at a time, side by side.

    Attributes:
        weight: (parts, I, P).
        bias: one number for each unit, (parts P,).
        weight_lag: Σₛ s Δₛ of the weights.
        bias_lag: of the biases.
        norm: at least ‖[w, −θ]‖, float64.
    """

    weight: Array
    bias: Array
    weight_lag: Array
    bias_lag: Array
    norm: Array


class Limits(NamedTuple):
    """What x's dtype can hold: ε, the least normal number, the sum and the norms within which rounding is as said."""

    eps: float
    tiny: float
    most: float
    shortest: float
    longest: float


def compiled(function: Any) -> Any:
    """The function compiled, and kept for the next process where there is a folder that can be written."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found none
        return njit(nogil=True)(function)


def without_zeros(x: Array, wanted: Array) -> Rows:
    """Samples, (N, I), and their units, (N,), without their zeros where these are half of all numbers or more."""
    n, n_features = x.shape
    terms, length = np.empty(n, np.int64), np.empty(n)
    measure(x, terms, length)
    kind = np.uint16 if n_features <= 1 << 16 else np.uint32
    if 2 * terms.sum() > x.size:
        first, where, feature = np.arange(n) * n_features, np.zeros(n, np.int64), np.arange(n_features, dtype=kind)
        return Rows(first, where, np.full(n, n_features), feature, x.ravel(), length, wanted)
    first = np.cumsum(terms) - terms
    feature, value = np.empty(terms.sum() + 1, kind), np.zeros(terms.sum() + 1, x.dtype)
    gather(x, first, feature, value)
    return Rows(first, first, terms, feature, _narrow(value), length, wanted)


def _narrow(value: Array) -> Array:
    """The same numbers in the least type that holds them."""
    for kind in (np.uint8, np.float32):
        with np.errstate(invalid="ignore", over="ignore"):
            narrow = value.astype(kind)
        if np.array_equal(narrow, value):
            return narrow
    return value


@compiled
def measure(x: Array, terms: Array, length: Array) -> None:
    """How many features of each sample are not 0, (N,), and ‖[1, x]‖, (N,)."""
    for n in range(x.shape[0]):
        nonzero, square = 0, 1.0
        for i in range(x.shape[1]):
            nonzero += x[n, i] != 0
            square += np.float64(x[n, i]) * np.float64(x[n, i])
        terms[n], length[n] = nonzero, math.sqrt(square)


@compiled
def gather(x: Array, first: Array, feature: Array, value: Array) -> None:
    """Put what is not 0 of sample n from first[n] on; the buffers have one entry to spare."""
    for n in range(x.shape[0]):
        j = first[n]
        for i in range(x.shape[1]):
            value[j] = x[n, i]
            feature[j] = i
            j += x[n, i] != 0
