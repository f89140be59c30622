"""Few cases in which every pair of values of any two parameters occurs, in place of all combinations.

A failure that takes one value, or two together, is met by such a covering as by the full grid; of 1,152 combinations
it leaves about 30.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest


def pairwise(indirect: Sequence[str] = (), **parameters: Mapping[str, Any] | Iterable[Any]) -> pytest.MarkDecorator:
    """``pytest.mark.parametrize`` over a covering of all pairs, the same in every process.

    Args:
        indirect: the arguments that are fixtures of the same name, to be given their value.
        parameters: for each argument of the test its values, or a mapping from each value's label in the id.
    """
    labelled = [_labelled(values) for values in parameters.values()]
    rows = [
        pytest.param(*(values[k][1] for values, k in zip(labelled, row, strict=True)),
                     id="-".join(values[k][0] for values, k in zip(labelled, row, strict=True)))
        for row in covering([len(values) for values in labelled])
    ]  # fmt: skip
    return pytest.mark.parametrize(",".join(parameters), rows, indirect=list(indirect))


def _labelled(values: Mapping[str, Any] | Iterable[Any]) -> list[tuple[str, Any]]:
    if isinstance(values, Mapping):
        return list(values.items())
    return [(str(value).removeprefix("torch."), value) for value in values]


def covering(sizes: list[int]) -> list[tuple[int, ...]]:
    """Rows of indices, one below each size, in which every pair of indices of any two columns occurs.

    Each row takes the first pair that is still missing, and gives every other column the index that adds most pairs.
    """
    columns = range(len(sizes))
    missing = {
        (a, i, b, j): None  # in a fixed order
        for a, b in itertools.combinations(columns, 2)
        for i, j in itertools.product(range(sizes[a]), range(sizes[b]))
    }
    rows: list[tuple[int, ...]] = []
    while missing:
        a, i, b, j = next(iter(missing))
        row = {a: i, b: j}
        for c in sorted(set(columns) - {a, b}, key=lambda c: -sizes[c]):
            row[c] = max(range(sizes[c]), key=lambda k: sum(_pair(c, k, d, row[d]) in missing for d in row))
        for first, second in itertools.combinations(columns, 2):
            missing.pop((first, row[first], second, row[second]), None)
        rows.append(tuple(row[c] for c in columns))
    return rows


def _pair(a: int, i: int, b: int, j: int) -> tuple[int, int, int, int]:
    return (a, i, b, j) if a < b else (b, j, a, i)
