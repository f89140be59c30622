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
from nnlab.engine import Descent, MLPEngine, mlp, sparse
from nnlab.compiled import threads_are_safe as safe, threads_as_torch as as_torch

x = (torch.rand(60, 40) * (torch.rand(60, 40) < 0.2)).numpy()

sparse.MIN_INPUTS = 1
network = [torch.rand(32, 40), torch.zeros(32), torch.rand(2, 32), torch.zeros(2)]
engine = MLPEngine(network, ["relu", "identity"], "softmax_cross_entropy", torch.from_numpy(x), torch.arange(60) % 2)

def fit(_=None):
    return Perceptron(n_iter=2).fit(x, x[:, 0] > 0).n_iter_

def train(_=None):
    run = engine.run_(torch.arange(60), Descent(0.1))
    return bool(run.outputs.isfinite().all() and engine.outputs().isfinite().all()), engine.skips_zeros
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


@pytest.mark.parametrize("first", ["fit()", "train()"])
def test_torch_keeps_the_number_of_threads_that_it_was_given(first):
    code = f"""
        torch.set_num_threads(1)
        {first}
        print(torch.get_num_threads())
        with as_torch() as threads:
            print(threads)
    """
    assert _printed(code, NUMBA_NUM_THREADS="2") == ["1", "1"]


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
        torch.set_num_threads(1)
        print(fit(), *train())
        with multiprocessing.get_context("fork").Pool(1) as pool:
            print(pool.apply(safe), pool.apply(fit), *pool.apply(train))
    """
    assert _printed(code) == ["2", "True", "True", "False", "2", "True", "False"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_does_not_rely_on_threads_that_another_library_started():
    code = """
        import numba
        numba.get_num_threads()
        with multiprocessing.get_context("fork").Pool(1) as pool:
            print(pool.apply(safe), safe())
    """
    assert _printed(code) == ["False", "True"]


def test_what_is_compiled_and_what_is_loaded_give_the_same_bits(tmp_path):
    code = """
        import hashlib
        from nnlab.networks import MLP

        def weights(*sizes):
            generator = torch.Generator().manual_seed(0)
            inputs = torch.rand(600, 200, generator=generator) * (torch.rand(600, 200, generator=generator) < 0.3)
            network = MLP([200, *sizes, 10], "tanh", generator=generator)
            parameters = [p.detach() for p in network.parameters()]
            labels = torch.arange(600) % 10
            made = MLPEngine(parameters, network.activations, "softmax_cross_entropy", inputs, labels, l2=0.01)
            for momentum in (0.0, 0.9):
                made.run_(torch.randperm(600, generator=generator), Descent(0.1, momentum))
            assert made.skips_zeros
            return hashlib.sha256(b"".join(p.numpy().tobytes() for p in parameters)).hexdigest()

        print(weights(100), weights(70, 30))
    """
    compiled, loaded = (_printed(code, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert compiled == loaded
