"""The coverings by which other tests choose their cases leave no pair out."""

import itertools

import pytest

from tests.pairwise import covering, pairwise


@pytest.mark.parametrize("sizes", [[3, 2], [2, 2, 2, 2], [7, 4, 3, 4, 2, 2, 2, 2, 2]], ids=str)
def test_every_pair_occurs_in_few_rows(sizes):
    rows = covering(sizes)
    for (a, m), (b, n) in itertools.combinations(enumerate(sizes), 2):
        assert {(row[a], row[b]) for row in rows} == set(itertools.product(range(m), range(n)))
    assert len(rows) <= 1.2 * max(m * n for m, n in itertools.combinations(sizes, 2)) + 2


def test_a_case_is_named_by_its_values():
    (mark,) = [pairwise(name=["relu"], weighted={"weighted": True})]
    (case,) = mark.args[1]
    assert (mark.args[0], case.values, case.id) == ("name,weighted", ("relu", True), "relu-weighted")
