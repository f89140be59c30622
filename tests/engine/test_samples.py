"""Inputs made ready as mini-batches, with and without their zeros."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnlab.engine.samples import Dense

pytest.importorskip("numba")

from nnlab.engine.layout import without_zeros
from nnlab.engine.sparse import SparseFirst
from tests.loops import problem


@pytest.mark.parametrize(("n_features", "several"), [(7, False), (16, True)])
def test_mini_batches_that_do_not_end_on_a_cache_line_are_copied_one_by_one(n_features, several):
    inputs = Dense(torch.zeros(100, n_features))
    assert (inputs.at_once(6) > 1) == several


@pytest.mark.parametrize("density", [0.0, 0.3, 0.8, 1.0])
def test_samples_without_their_zeros_are_the_samples(density):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(9, 13)) * (generator.random((9, 13)) < density)
    found = without_zeros(x)
    for n, sample in enumerate(x):
        again, (at, value_at, terms) = np.zeros(13), (found.where[n], found.first[n], found.terms[n])
        again[found.feature[at : at + terms]] = found.value[value_at : value_at + terms]
        np.testing.assert_array_equal(again, sample)
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
