"""A run that was killed leaves whole files, and goes on to the same weights and figures, bit for bit.

``NNLAB_POINTS`` and ``NNLAB_KILLS`` say how many kills there are; docs/reliability.md has the figures of more.
"""

import os
import subprocess
import sys

import pytest

from tests.training.chaos_job import JOBS, RESULT
from tests.training.runs import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

POINTS, KILLS = os.environ.get("NNLAB_POINTS", "6"), os.environ.get("NNLAB_KILLS", "12")


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("job", JOBS)
def test_ckpt_chaos_finds_the_same_weights_after_a_kill_at_each_file_event(job, tmp_path):
    options = ["--modes=before,torn,term", f"--max-points={POINTS}", f"--work={tmp_path / 'work'}"]
    options += [f"--result-file={{out}}/{RESULT}", "--ranks=2" if job == "ddp" else "--ranks=1"]
    command = [sys.executable, "-m", "tests.training.chaos_job", "{out}", job]
    ended = python("-m", "ckpt_chaos", "run", *options, "--", *command)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1] == f"PASS: {int(POINTS) + 1}"  # one is not killed


def test_a_kill_of_the_command_at_any_moment_loses_nothing(tmp_path):
    ended = python("-m", "tests.training.kills", tmp_path, KILLS)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{KILLS} kills" in ended.stdout
