"""Two processes make the steps that one makes with the joined batch, and end with equal weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nnlab.training import read_checkpoint
from tests.tolerances import assert_close, assert_same
from tests.training.ddp import CASES, arguments
from tests.training.runs import REPOSITORY, figures, nnlab

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """All cases on two processes of one group, as starting processes is what takes the time."""
    root = tmp_path_factory.mktemp("two")
    ended = subprocess.run(
        [sys.executable, "-m", "tests.training.ddp", str(root)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return root, ended


@pytest.mark.parametrize("case", CASES)
def test_ranks_are_equal_and_within_1e_6_of_one_process_with_the_joined_batch(two, case, tmp_path, monkeypatch):
    root = two[0] / case
    zero, one = (torch.load(root / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    weights = {name: value for name, value in zero["state"].items() if name.startswith("network.")}
    assert len(weights) == 4
    assert_same({name: one["state"][name] for name in weights}, weights)

    monkeypatch.chdir(tmp_path)
    assert nnlab(*arguments(tmp_path, case, 64)).status == 0
    joined = torch.load(tmp_path / "rank0.pt", weights_only=True)
    assert zero["steps"] == one["steps"] == joined["steps"]
    for name, weight in weights.items():
        assert_close(weight, joined["state"][name], 1e-6)
    for row, expected in zip(*(figures(folder / "LitMLP/version_0") for folder in (root, tmp_path)), strict=True):
        assert row == pytest.approx(expected, rel=1e-5)


def test_the_perceptron_is_refused_in_one_line(two):
    _, ended = two
    assert "perceptron: status 2 rank 0" in ended.stdout
    refusals = [line for line in ended.stderr.splitlines() if "error" in line]
    assert refusals == [
        "nnlab fit: error: devices must be 1 for the perceptron, whose rule learns one sample after the other; "
        "there are 2 processes (--trainer.devices)"
    ]


def test_an_interrupt_of_one_process_at_step_8_ends_both_where_all_are_asked(two):
    root, ended = two
    assert ended.returncode == 130, ended.stderr
    path = root / "interrupted/LitMLP/version_0/interrupted.ckpt"
    assert f"interrupted; the model is in {path}" in ended.stdout
    assert read_checkpoint(path)["global_step"] == 20
