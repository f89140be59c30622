"""Small data that every estimator's tests use."""

import numpy as np
import pytest
from sklearn.datasets import load_iris


@pytest.fixture
def iris() -> tuple[np.ndarray, np.ndarray]:
    """The chapter's data: rows 0–99, sepal and petal length, labels −1 and +1."""
    data = load_iris()
    return data.data[:100][:, [0, 2]], np.where(data.target[:100] == 0, -1, 1)


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Three overlapping classes in four dimensions, 90 samples in random order."""
    rng = np.random.RandomState(0)
    y = rng.permutation(np.repeat([0, 1, 2], 30))
    return rng.normal(size=(90, 4)) + 1.5 * np.eye(4)[y], y
