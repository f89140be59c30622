"""Inputs made ready as mini-batches, with and without their zeros."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnlab.engine.samples import Dense

pytest.importorskip("numba")

from nnlab.engine.layout import Limits, rows_of, without_zeros
from nnlab.engine.lockstep import Groups
from nnlab.engine.sparse import SparseFirst
from nnlab.networks import PerceptronBank
from tests.loops import problem


@pytest.mark.parametrize(("n_features", "several"), [(7, False), (16, True)])
def test_mini_batches_that_do_not_end_on_a_cache_line_are_copied_one_by_one(n_features, several):
    inputs = Dense(torch.zeros(100, n_features))
    assert (inputs.at_once(6) > 1) == several


@pytest.mark.parametrize("density", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("rows", [rows_of, without_zeros], ids=lambda f: f.__name__)
def test_samples_without_their_zeros_are_the_samples(rows, density):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(9, 13)) * (generator.random((9, 13)) < density)
    found = rows(x)
    for n, sample in enumerate(x):
        again, (at, value_at, terms) = np.zeros(13), (found.where[n], found.first[n], found.terms[n])
        again[found.feature[at : at + terms]] = found.value[value_at : value_at + terms]
        np.testing.assert_array_equal(again, sample)
    if rows is without_zeros or density < 0.5:
        assert found.terms.sum() == np.count_nonzero(x)


@pytest.mark.parametrize(("units", "threads", "width"), [(100, 1, 64), (100, 2, 64), (100, 4, 32), (33, 8, 16)])
def test_every_thread_has_units_as_many_side_by_side_as_can_be(monkeypatch, units, threads, width):
    given = problem([40, units, 3], ["relu", "identity"], "softmax_cross_entropy", torch.float32, "cpu", density=0.1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    weight = next(given.network.parameters()).detach()
    first = SparseFirst(_Samples(), given.x, weight)
    assert first.weight.shape == (-(-units // width), 40, width)


class _Samples:
    """Samples whose targets do not matter."""

    def with_inputs(self, inputs: object) -> object:
        return inputs


@pytest.mark.parametrize(
    ("n_units", "most", "sizes"), [(10, 2, [5, 5]), (10, 1, [10]), (9, 2, [5, 4]), (3, 2, [3]), (33, 2, [17, 16])]
)
def test_lanes_to_spare_hold_units_that_are_always_right(n_units, most, sizes):
    bank = PerceptronBank(6, n_units)
    groups = Groups(bank, most, Limits(2e-16, 2e-308, 4e307, 1e-150, 1e150))
    width = len(groups.lanes)
    for size, weight, bias in zip(sizes, groups.units.weight, groups.units.bias, strict=True):
        assert not weight.reshape(-1, 6, width).any()
        np.testing.assert_array_equal(bias, [0] * size + [-1] * (len(bias) - size))
