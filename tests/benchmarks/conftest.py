"""Small problems, contestants in this process, and a small MNIST where the command looks for it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import measure, process
from benchmarks.measure import Session
from benchmarks.problems import MLPProblem, PerceptronProblem
from benchmarks.process import ContestantError, Runner
from benchmarks.report import Row
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


class Here(Runner):
    """A RunnerProcess without the process."""

    def __init__(self, make, problem, device, threads, *, fresh=False, folder=None):
        try:
            super().__init__(make, problem, device, threads)
        except Exception as error:
            raise ContestantError(f"{type(error).__name__}: {error}") from error

    def call(self, method, *arguments):
        try:
            return getattr(self, method)(*arguments)
        except Exception as error:
            raise ContestantError(f"{type(error).__name__}: {error}") from error

    def megabytes(self):
        return 300.0

    def close(self):
        pass


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "RunnerProcess", Here)
    monkeypatch.setattr(measure, "REST", 0)
    monkeypatch.setattr(command, "LOOK", 0)
    monkeypatch.setattr(process, "STAT", Path("no such file"))  # no row is marked because the machine is busy


@pytest.fixture
def session() -> Callable[[], Session]:
    def make(quick: bool = False) -> Session:
        return Session(torch.device("cpu"), quick, lambda row: None, lambda text: None)

    return make


@pytest.fixture
def mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small_data_set(monkeypatch, "mnist", tmp_path / "data", n_train=400, n_test=50)
    monkeypatch.setenv("NNLAB_DATA", str(tmp_path / "data"))


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.compile traces runs without the C++ compiler's minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


def row() -> Row:
    return Row("task", "ours", "peer", "cpu", 1, {})
