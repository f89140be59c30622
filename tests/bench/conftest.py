"""Small problems, and a small MNIST where the command looks for it."""

from functools import partial
from pathlib import Path

import pytest
import torch

from nnlab.bench.problem import MLPProblem, PerceptronProblem
from nnlab.bench.session import Session
from tests.training.runs import small_data_set


def mlp_problem(dtype: torch.dtype, kind: str = "softmax") -> MLPProblem:
    """Mini-batches of 20 of 250 samples: the last is a tail."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(250, 12, generator=generator, dtype=dtype)
    labels = torch.randint(0, 5, (250,), generator=generator)
    return MLPProblem(x, labels, (12, 7, 5), 20, lr=0.5, kind=kind)


def perceptron_problem() -> PerceptronProblem:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (400, 30), generator=generator) * (torch.rand(400, 30, generator=generator) < 0.3)
    labels = torch.randint(0, 10, (400,), generator=generator)
    return PerceptronProblem(x.double(), labels)


@pytest.fixture
def mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A small MNIST, and an empty working directory."""
    small_data_set(monkeypatch, "mnist", tmp_path / "data", n_train=400, n_test=50)
    monkeypatch.setenv("NNLAB_DATA", str(tmp_path / "data"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.compile traces runs without the C++ compiler's minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """All contestants in this process."""
    monkeypatch.setattr(Session, "apart", lambda session, make: make)
