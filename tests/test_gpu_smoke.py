"""The script for a machine with a card: that it can be read, says that there is none, and stops where it should."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_smoke.sh"
PYTHON = """#!/bin/sh
# stands for Python: a card is there, and what is run fails as asked
case "$*" in
    *is_available*) exit 0 ;;
    *get_device_properties*) echo "a card" ;;
    *"$FAILS"*) echo "$SAYS"; exit 1 ;;
    *) echo "ran: $*" ;;
esac
"""


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command, environment = ["bash", str(SCRIPT), *arguments], os.environ | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_without_a_card_it_says_so_and_runs_nothing(tmp_path):
    done = run(str(tmp_path / "logs"), CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no CUDA device here" in done.stderr
    assert not (tmp_path / "logs").exists()


def test_it_is_told_apart_from_a_flag():
    done = run("--help")
    assert done.returncode == 1
    assert "usage: scripts/gpu_smoke.sh [FOLDER]" in done.stderr


@pytest.mark.parametrize(
    ("fails", "says", "status", "last"),
    [
        ("nothing fails", "", 0, "benchmarks"),
        ("-m nnlab check", "a gradient is wrong", 1, "benchmarks"),
        ("-m pytest", "CUDA error: an illegal memory access was encountered", 3, "tests"),
    ],
)
def test_a_failure_is_in_the_summary_and_one_that_lasts_ends_the_run(fails, says, status, last, tmp_path):
    python = tmp_path / "python"
    python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)
    logs = tmp_path / "logs"
    path = f"{tmp_path}:/usr/bin:/bin"  # neither nvidia-smi nor compute-sanitizer of the machine
    done = run(str(logs), PYTHON=str(python), FAILS=fails, SAYS=says, PATH=path)
    assert done.returncode == status, done.stdout + done.stderr
    summary = (logs / "summary.txt").read_text(encoding="utf-8")
    assert summary.startswith("a card\n")
    assert f" {last} (" in summary.split("stopped")[0].splitlines()[-1 if status == 3 else -2]
    assert ("FAILED" in summary) == (status > 0)
    assert ("stopped: illegal memory access in tests" in summary) == (status == 3)
    for line in summary.splitlines():
        if line.startswith(("passed", "FAILED")):
            assert (logs / f"{line.split()[1]}.log").exists()
