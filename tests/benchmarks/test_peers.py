"""Every peer computes what ours computes, in float64 where it can."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from benchmarks import ours, problems, sweeps
from benchmarks.measure import Comparison, Peer
from benchmarks.peers import lightning_mlp, numpy_mlp, sklearn_models, torch_models, torchvision_images
from benchmarks.problems import AccuracyProblem, Problem
from benchmarks.process import Contestant, Make
from nnlab.ops import perceptron_rule
from tests.benchmarks.conftest import mlp_problem, perceptron_problem
from tests.tolerances import TRAJECTORY, assert_close

SOFTMAX = {
    "eager": torch_models.autograd,
    "loss compiled": partial(torch_models.autograd, compiled="loss"),
    "step compiled": partial(torch_models.autograd, compiled="step"),
    "scikit-learn": sklearn_models.mlp,
    "Lightning": lightning_mlp.lightning,
    "estimator": ours.estimator,
    "evaluated engine": partial(ours.engine, evaluate=True),
}


def assert_trains_as_ours(make, problem, n=250):
    """Two epochs in orders of their own end in our weights, in our dtype."""
    expected, found = ours.engine(problem), make(problem)
    start = [p.clone() for p in expected.parameters()]
    for seed in (1, 2):
        order = problem.order(seed)[:n].to(problem.x.device)
        expected.train(order)
        found.train(order)
    for theirs, our, first in zip(found.parameters(), expected.parameters(), start, strict=True):
        assert not torch.allclose(our, first, atol=1e-3)
        assert_close(theirs.detach(), our, TRAJECTORY[our.dtype])


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_and_relu(name):
    # the estimator sums E over a mini-batch: a tail makes a smaller step there
    assert_trains_as_ours(SOFTMAX[name], mlp_problem(torch.float64), 240 if name == "estimator" else 250)


@pytest.mark.cuda
def test_a_step_captured_as_a_cuda_graph():
    assert_trains_as_ours(torch_models.graphed, mlp_problem(torch.float32).to(torch.device("cuda")))


def test_momentum():
    assert_trains_as_ours(torch_models.autograd, replace(mlp_problem(torch.float64), momentum=0.9))


@pytest.mark.parametrize("gather", ["before", "in"])
def test_jax(gather):
    jax_mlp = pytest.importorskip("benchmarks.peers.jax_mlp", exc_type=ImportError)
    assert_trains_as_ours(partial(jax_mlp.jax_mlp, gather=gather), mlp_problem(torch.float32))


def test_torchvisions_distortions_are_timed_on_some_of_the_images(monkeypatch):
    images = torch.full((40, 784), 255, dtype=torch.uint8)
    contestant = torchvision_images.transforms(Problem(images, torch.zeros(40)), samples=10)
    clock = iter((5.0, 8.0))
    monkeypatch.setattr(torchvision_images.time, "perf_counter", lambda: next(clock))
    assert contestant.seconds(torch.arange(40)) == 12.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_chapters_numpy(dtype):
    assert_trains_as_ours(numpy_mlp.numpy_mlp, mlp_problem(dtype, "chapter"))


def test_the_chapters_numpy_in_another_precision_starts_from_the_same_weights():
    ours_32, in_64 = (
        make(mlp_problem(torch.float32, "chapter"))
        for make in (ours.engine, partial(numpy_mlp.numpy_mlp, dtype="float64"))
    )
    assert all(torch.equal(a.double(), b) for a, b in zip(ours_32.parameters(), in_64.parameters(), strict=True))


def test_the_chapters_numpy_does_not_overflow():
    problem = mlp_problem(torch.float32, "chapter")
    found = numpy_mlp.numpy_mlp(problem)
    problem.x.mul_(1e4)
    found.train(problem.order(1))
    assert all(p.isfinite().all() for p in found.parameters())


def test_the_floor_multiplies_every_sample():
    problem = mlp_problem(torch.float64)
    floor = torch_models.floor(problem)
    floor.train(problem.order(1))
    tail = problem.x[problem.order(1)[-10:]]  # the last mini-batch
    u, gradient = floor.parameters()
    assert_close(u[:10], tail @ problem.network().state_dict()["0.weight"].T)
    assert_close(gradient, torch.full((7, 10), 1e-3, dtype=torch.float64) @ tail)


def test_perceptrons_end_in_the_weights_of_the_rule():
    problem = perceptron_problem()
    bank, desired = problem.bank(), problem.bank().desired(problem.labels)
    weight, bias = bank.weight, bank.bias
    assert (bank(problem.x) != 0).all()
    assert (bias * 2048 % 2 == 1).all()
    makes = [ours.perceptron, torch_models.sample_loop]
    makes += [partial(sklearn_models.perceptron, n_jobs=n) for n in (1, -1)]
    contestants = [make(problem) for make in makes]
    for _ in range(2):
        error, weight, bias = perceptron_rule(problem.x, desired, weight, bias, 1.0)
        assert error.any()
        for contestant in contestants:
            contestant.train(problem.order(1))
            found = contestant.parameters()
            assert torch.equal(found[0], weight)
            assert torch.equal(found[1], bias)


@pytest.mark.parametrize("make", [ours.engine_to_goal, sklearn_models.mlp_to_goal])
def test_a_goal_is_reached_or_takes_inf(make):
    x = torch.rand(250, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(250) % 10
    order = torch.tensor([3])
    problem = AccuracyProblem(*[x, labels] * 3, goal=0.0, epochs=1)
    assert torch.equal(problem.order(5), order)
    assert 0 < make(problem).seconds(order) < 60
    impossible = AccuracyProblem(*[x, labels] * 3, goal=1.5, epochs=2)
    assert make(impossible).seconds(order) == float("inf")


def test_what_is_averaged_is_what_is_tested():
    """Of one piece the average is the trained network, which has learnt to separate these classes."""
    x = torch.eye(10).repeat(40, 1)
    labels = torch.arange(400) % 10
    problem = AccuracyProblem(*[x, labels] * 3, goal=1.0, epochs=30)
    assert ours.engine_to_goal(problem).seconds(torch.tensor([1])) < float("inf")


def test_evaluation_is_not_counted(monkeypatch):
    clock = iter(np.cumsum([1.0, 2.0, 4.0, 8.0]))  # epochs take 2 and 8, what is between 4
    monkeypatch.setattr(ours.time, "perf_counter", lambda: next(clock))
    accuracies, x = iter([0.5, 0.99, 0.97]), torch.zeros(1, 1)
    contestant = ours.until_goal(
        AccuracyProblem(*[x] * 6), lambda seed: (lambda: None, lambda x, labels: next(accuracies))
    )
    assert contestant.seconds(torch.tensor([1])) == 10
    assert contestant.parameters()[0].tolist() == [0.97]  # of the test images


@pytest.mark.usefixtures("here")
def test_a_goal_that_the_test_images_miss_does_not_count(monkeypatch, session):
    def contestant(problem, *, test):
        return Contestant(lambda order: None, lambda: [torch.tensor([test])], lambda order: 1.0)

    x = torch.zeros(1, 1)
    monkeypatch.setitem(problems.PROBLEMS, "goal", lambda images, quick: AccuracyProblem(*[x] * 6))
    monkeypatch.setattr(ours, "contestant", contestant, raising=False)
    makes = [Make("benchmarks.ours:contestant", {"test": test}) for test in (0.981, 0.979)]
    comparison = Comparison("ours", makes[0], "goal", [Peer("peer", {"": make}, trains=False) for make in makes])
    rows = session()
    sweeps.measure_goal(rows, "task", [comparison], 2)
    assert [row.note for row in rows.rows] == [
        "test accuracy 98.10% and 98.10%",
        "test accuracy 98.10% and 97.90%; below the goal: does not count",
    ]


def test_a_statement_is_timed_in_a_fresh_process():
    contestant = ours.statement(Problem(torch.zeros(1, 1), torch.zeros(1)), text="import time; time.sleep(0.05)")
    assert contestant.seconds(torch.arange(1)) >= 0.05
