"""Contestants in processes of their own."""

import gc
import os
import signal
import time
from functools import partial

import pytest
import torch

from nnlab.bench.apart import Apart
from nnlab.bench.ours import Engine, PerceptronLearner
from nnlab.bench.peers.torch_mlp import Autograd
from nnlab.bench.session import Peer, Session
from tests.bench.conftest import mlp_problem, perceptron_problem

pytestmark = pytest.mark.slow


class OwnClock(Engine):
    def epoch(self, order):
        return 7.0


class Slow(Engine):
    def train(self, order):
        time.sleep(0.2)


class Stubborn(Engine):
    """It fails, or its process does."""

    def train(self, order):
        if len(order) == 1:
            raise ArithmeticError("one is not enough")
        os._exit(3)

    def process(self):
        return os.getpid(), torch.get_num_threads()


def missing(problem):
    raise ModuleNotFoundError("No module named 'jax'", name="jax")


def test_what_it_learns_is_what_it_learns_here():
    problem = mlp_problem(torch.float64)
    apart, here = Apart(partial(Engine, problem)), Engine(problem)
    for seed in (1, 2):
        apart.train(problem.order(seed))
        here.train(problem.order(seed))
    torch.testing.assert_close(apart.parameters(), here.parameters(), rtol=1e-12, atol=1e-12)
    assert 0 < apart.epoch(problem.order(3)) < 5
    here.train(problem.order(3))
    torch.testing.assert_close(apart.parameters(), here.parameters(), rtol=1e-12, atol=1e-12)


def test_a_perceptrons_mistakes_are_told():
    problem = perceptron_problem()
    apart, here = Apart(partial(PerceptronLearner, problem)), PerceptronLearner(problem)
    for learner in (apart, here):
        learner.train(torch.arange(400))
    assert torch.equal(apart.mistakes, here.mistakes)


def test_a_clock_of_its_own_counts():
    problem = mlp_problem(torch.float32)
    assert Apart(partial(OwnClock, problem)).epoch(problem.order(1)) == 7


def test_the_clock_over_there_runs_while_it_learns():
    problem = mlp_problem(torch.float32)
    assert 0.2 <= Apart(partial(Slow, problem)).epoch(problem.order(1)) < 5


def test_what_is_told_is_a_copy():
    problem = mlp_problem(torch.float64)
    apart = Apart(partial(Engine, problem))
    told = apart.parameters()
    apart.train(problem.order(1))
    torch.testing.assert_close(told, [p.detach() for p in problem.network().parameters()])


def test_errors_are_raised_here():
    problem = mlp_problem(torch.float32)
    with pytest.raises(ModuleNotFoundError) as caught:
        Apart(partial(missing, problem))
    assert caught.value.name == "jax"
    with pytest.raises(ArithmeticError, match="one is not enough"):
        Apart(partial(Stubborn, problem)).train(torch.arange(1))
    with pytest.raises(RuntimeError, match="its process ended"):
        Apart(partial(Stubborn, problem)).train(torch.arange(2))


def test_its_process_has_as_many_threads_ignores_ctrl_c_and_ends_with_it():
    apart = Apart(partial(Stubborn, mlp_problem(torch.float32)))
    number, threads = apart.ask("process")
    assert number != os.getpid()
    assert threads == torch.get_num_threads()
    os.kill(number, signal.SIGINT)
    assert apart.ask("process")[0] == number
    process = apart._process
    del apart
    gc.collect()
    process.join(10)
    assert process.exitcode == 0


def test_peers_are_admitted_and_timed_apart():
    problem = mlp_problem(torch.float64)
    session = Session(torch.device("cpu"), quick=True)
    steps, order = problem.steps(5), problem.order(1)
    peers = [Peer("right", {"": partial(Autograd, problem)}), Peer("missing", {"": partial(missing, problem)})]
    ours = session.ours("engine", partial(Engine, problem), steps, order)
    pairs = session.admit("task", ours, peers, steps, order)
    before = time.perf_counter()
    session.race(pairs, 2, problem.order)
    right, absent = session.rows
    assert right.difference < 1e-11
    assert right.repeats == 2
    assert 0 < right.peer_seconds.median < time.perf_counter() - before
    assert absent.note == "not installed: jax; pip install 'nnlab[bench]'"
