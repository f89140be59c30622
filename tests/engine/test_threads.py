"""The compiled loops' threads, each case in a process of its own, for a process starts them but once."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("numba")
pytestmark = pytest.mark.slow

SETUP = """
import multiprocessing, threading
import torch
from nnlab import Perceptron
from nnlab.engine.threads import as_torch, safe

x = (torch.rand(60, 40) * (torch.rand(60, 40) < 0.2)).numpy()

def fit(_=None):
    return Perceptron(n_iter=2).fit(x, x[:, 0] > 0).n_iter_
"""


def _printed(code: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SETUP + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


def test_torch_keeps_the_number_of_threads_that_it_was_given():
    code = """
        torch.set_num_threads(1)
        fit()
        print(torch.get_num_threads())
        with as_torch() as threads:
            print(threads)
    """
    assert _printed(code) == ["1", "1"]


def test_two_threads_of_python_may_learn_at_the_same_time_without_a_pool_that_bears_it():
    code = """
        many = [threading.Thread(target=fit) for _ in range(4)]
        for each in many:
            each.start()
        for each in many:
            each.join()
        print(safe(), fit())
    """
    assert _printed(code, NUMBA_THREADING_LAYER="workqueue") == ["False", "2"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_learns_without_the_threads_that_it_lacks():
    code = """
        fit()
        with multiprocessing.get_context("fork").Pool(1) as pool:
            print(safe(), pool.apply(safe), pool.apply(fit))
    """
    assert _printed(code)[1:] == ["False", "2"]
