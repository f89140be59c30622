"""YAML files and mappings as descriptions, and their lists as tensors; an error is one sentence that names the key."""

import difflib
import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from jsonargparse import get_loader
from torch import Tensor
from yaml import YAMLError

from nnlab.trace.description import EXAMPLES, VALUES, Matrix, Network, Perceptron
from nnlab.validation import ArgumentError

MAX_UNITS, MAX_NUMBERS = 16, 2000  # the largest layer, and the most numbers in a trace, that a person can read


def load(source: str | os.PathLike[str]) -> object:
    """What the YAML file of an example's name or of a path holds; 1e-3 is a number in it, as for ``nnlab fit``."""
    file = EXAMPLES[source] if isinstance(source, str) and source in EXAMPLES else Path(source)
    try:
        return get_loader("yaml")(file.read_text(encoding="utf-8"))
    except (YAMLError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: the file must be YAML in UTF-8: {' '.join(str(error).split())}") from error


def read(content: object) -> Network | Perceptron:
    """The perceptron that a mapping describes where it has a ``threshold``, else the network."""
    if not isinstance(content, Mapping):
        raise ArgumentError("the file", f"must hold keys such as inputs: and targets:, got {shown(content)}")
    kind: Any = Perceptron if "threshold" in content else Network
    hints = get_type_hints(kind)
    for key in content:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, 1)
            hint = f"did you mean {near[0]}?" if near else f"use {', '.join(hints)}"
            raise ArgumentError(str(key), f"is no key: {hint}")
    given = {key: value for key, value in content.items() if value is not None}
    for field in fields(kind):
        if field.default is MISSING and field.name not in given:
            raise ArgumentError(field.name, f"must be {_type(hints[field.name])[2]}, got nothing")
    described: Network | Perceptron = kind(**{key: _checked(key, value, hints[key]) for key, value in given.items()})
    return described


def _checked(key: str, value: object, hint: Any) -> Any:
    """The value, in whose lists NumPy has found the kind of things and the dimensions of its type."""
    kinds, dimensions, words = _type(hint)
    plain = _plain(value)
    if hint == list[Matrix] | None and isinstance(plain, list):
        return [_checked(f"{key}[{k}]", matrix, Matrix) for k, matrix in enumerate(plain)]
    try:
        array = np.array(plain)
    except ValueError:  # rows of several lengths
        array = np.array(None)
    if array.dtype.kind not in kinds or array.ndim not in dimensions or not array.size:
        raise ArgumentError(key, f"must be {words}, got {shown(value)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ArgumentError(key, f"must hold finite numbers, got {shown(value)}")
    return plain


def _plain(value: Any, depth: int = 3) -> Any:
    """A copy with lists in place of tensors, arrays and tuples, without what NumPy would take for a number."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item, depth - 1) for item in value] if depth else None  # no key takes deeper lists
    return None if isinstance(value, bool) else value


def _type(hint: Any) -> tuple[str, tuple[int, ...], str]:
    return next(row for kind, row in VALUES.items() if hint in (kind, kind | None))


def samples(key: str, value: Sequence[Any], width: int, n: int | None = None) -> Tensor:
    """One sample as a list of numbers, or a list of n samples: (N, width) in float64."""
    numbers = torch.tensor(value, dtype=torch.float64)
    rows = numbers if numbers.ndim == 2 else numbers[None]
    if rows.shape[1] != width:
        hint = "; several samples are a list of lists" if numbers.ndim == 1 else ""
        raise ArgumentError(key, f"must have {count(width, 'number')} for each sample, got {rows.shape[1]}{hint}")
    if n is not None and len(rows) != n:
        raise ArgumentError(key, f"must have one list for each of the {n} samples of inputs, got {len(rows)}")
    return rows


def check_small(key: str, sizes: Sequence[int], n_samples: int = 1) -> None:
    """Check that the tables of a trace can be read."""
    numbers = 3 * n_samples * sum(sizes) + sum((1 + i) * o for i, o in pairwise(sizes))
    if max(sizes) > MAX_UNITS or numbers > MAX_NUMBERS:
        limits = f"{MAX_UNITS} units in a layer and {MAX_NUMBERS} numbers in all"
        raise ArgumentError(key, f"must be of a small network, {limits} at most, got {max(sizes)} and {numbers}")


def check_finite(*computed: Tensor) -> None:
    """Check that no number has become infinite or NaN."""
    if not all(bool(numbers.isfinite().all()) for numbers in computed):
        raise ArgumentError("weights", "and inputs must be smaller: a number grows beyond what float64 can hold")


def shown(value: object) -> str:
    """A value in an error, cut where it is long."""
    text = "nothing" if value is None else reprlib.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def count(n: int, noun: str) -> str:
    """A number of things: 1 sample, 2 samples."""
    return f"{n} {noun}" + ("" if n == 1 else "s")
