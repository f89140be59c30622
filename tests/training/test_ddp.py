"""Two processes make the steps that one makes with the joined batch, end with equal weights, and fail together."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nnlab.training import read_checkpoint
from tests.tolerances import assert_close, assert_same
from tests.training.ddp import CASES, TWO, arguments
from tests.training.runs import REPOSITORY, figures, nnlab

pytestmark = pytest.mark.slow


def module(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A module with its arguments, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """All cases on two processes of one group, as starting processes is what takes the time."""
    root = tmp_path_factory.mktemp("two")
    return root, module("tests.training.ddp", str(root))


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


def test_all_cases_end_well(two):
    assert (two[1].returncode, two[1].stderr) == (0, "")


def test_two_processes_go_on_from_within_an_epoch_as_if_they_had_not_stopped(tmp_path):
    """With dropout, and a tail of 19 and 18 samples: the random states of the processes differ."""
    of = [f"--trainer.callbacks=tests.training.ddp.{name}" for name in ("KeepEachRank", "SaveAtStep25")]
    settings = ["--config=smoke", "--trainer.accelerator=cpu", "--model.dropout=0.3", "--data.val_size=120", *TWO]
    settings += ["--trainer.max_epochs=3", f"--trainer.default_root_dir={tmp_path}", of[0]]
    assert module("nnlab", "fit", *settings, of[1].replace("callbacks=", "callbacks+=")).returncode == 0
    whole = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert module("nnlab", "fit", *settings, f"--ckpt_path={tmp_path}/middle.ckpt").returncode == 0
    for rank in (0, 1):
        resumed = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert resumed["steps"] == whole[rank]["steps"] == 63
        assert_same(resumed["state"], whole[rank]["state"])
    rows = [figures(tmp_path / f"LitMLP/version_{k}") for k in (0, 1)]
    assert rows[1] == rows[0][-len(rows[1]) :]


NOT_FINITE = (
    "the weight of layer 1 became NaN or infinite in epoch 1, mini-batch 8: lower the learning rate, or scale the "
    "inputs (--optimizer.lr)"
)
KEPT = "The model is kept."


@pytest.mark.parametrize(
    ("way", "rank", "status", "line"),
    [
        ("raises", 1, 1, "rank 1: RuntimeError: boom"),
        ("user error", 1, 2, "rank 1: lr must be another (--optimizer.lr)"),
        ("sys.exit", 1, 3, "rank 1: ended with exit status 3"),
        ("os._exit", 1, 5, "rank 1: ended with exit status 5"),
        ("SIGKILL", 1, 137, "rank 1: ended by signal 9, Killed"),
        ("SIGKILL", 0, 137, "rank 0: ended by signal 9, Killed"),
        ("kills the parent", 1, -9, "the process that started the ranks is gone"),
        ("NaN", 1, 1, NOT_FINITE),
        ("hangs", 1, 1, "still running 20 s after SIGINT"),
        ("SIGTERM", 0, 143, KEPT),
        ("SIGTERM", 1, 143, KEPT),
        ("SIGINT", 1, 130, KEPT),
    ],
)
def test_where_one_rank_fails_all_end_within_30_s_and_one_line_says_which(tmp_path, way, rank, status, line):
    callback = {"class_path": "tests.training.ddp.Fail", "init_args": {"way": way, "rank": rank}}
    ended = module(
        "nnlab",
        "fit",
        *("--config=configs/smoke.yaml", "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}", *TWO),
        *("--early_stopping=null", "--trainer.max_epochs=10000", f"--trainer.callbacks=[{json.dumps(callback)}]"),
    )
    # no process is left, as the command's pipes are closed
    assert time.time() - (tmp_path / "failed").stat().st_mtime < 30
    assert (ended.returncode, ended.stderr) == (status, "" if line is KEPT else f"nnlab fit: error: {line}\n")
    if line is KEPT:
        path = tmp_path / "LitMLP/version_0/interrupted.ckpt"
        words = "interrupted" if status == 130 else "ended by SIGTERM"
        again = f"nnlab fit --config {path.with_name('config.yaml')} --ckpt_path {path}"
        assert ended.stdout.splitlines()[-1] == f"{words}; the model is in {path}. To go on: {again}"
        assert read_checkpoint(path)["global_step"] == 20


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("--config=perceptron", "--data.name=digits", *TWO),
            "devices must be 1 for the perceptron, whose rule learns one sample after the other; there are 2 processes "
            "(--trainer.devices)",
        ),
        (
            ("--config=smoke", "--trainer.strategy=ddp_spawn", "--trainer.devices=2"),
            "strategy must be 'ddp', whose ranks are watched, got 'ddp_spawn' (--trainer.strategy)",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(tmp_path, arguments, line):
    ended = module("nnlab", "fit", "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}", *arguments)
    assert (ended.returncode, ended.stderr) == (2, f"nnlab fit: error: {line}\n")
    assert list(tmp_path.rglob("*")) == []
