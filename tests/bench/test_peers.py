"""The shared baselines: each computes what ours computes, in float64 where it can."""

import math

import numpy as np
import pytest
import torch

from nnlab.bench.ours import Engine, PerceptronLearner
from nnlab.bench.peers.lightning_mlp import LightningMLP
from nnlab.bench.peers.numpy_mlp import NumPyMLP
from nnlab.bench.peers.perceptrons import SampleLoop, ScikitLearnPerceptron, mistakes_of_scikit_learn
from nnlab.bench.peers.sklearn_mlp import ScikitLearnMLP
from nnlab.bench.peers.torch_mlp import Autograd, Floor
from nnlab.bench.problem import MLPProblem
from nnlab.bench.tasks.estimator import Estimator, EvaluatedEngine
from nnlab.ops import perceptron_rule
from tests.bench.conftest import mlp_problem, perceptron_problem
from tests.tolerances import TRAJECTORY, assert_close

SOFTMAX = {
    "eager": Autograd,
    "loss compiled": lambda problem: Autograd(problem, "loss"),
    "step compiled": lambda problem: Autograd(problem, "step"),
    "scikit-learn": ScikitLearnMLP,
    "Lightning": LightningMLP,
    "estimator": Estimator,
    "evaluated engine": EvaluatedEngine,
}


def agree(learner, problem: MLPProblem, *, relative: float) -> None:
    """Two epochs in orders of their own end in our weights."""
    ours = Engine(problem)
    whole = isinstance(learner, Estimator)  # which sums: a tail makes a smaller step there
    for seed in (1, 2):
        order = problem.order(seed)[: 240 if whole else 250]
        ours.train(order)
        learner.train(order)
    start = list(problem.network().parameters())
    for found, expected, first in zip(learner.parameters(), ours.parameters(), start, strict=True):
        assert not torch.allclose(expected, first, atol=1e-3)  # it went somewhere
        assert_close(found, expected, relative)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", SOFTMAX)
def test_a_peer_of_softmax_and_relu(name):
    problem = mlp_problem(torch.float64)
    agree(SOFTMAX[name](problem), problem, relative=TRAJECTORY[torch.float64])


@pytest.mark.parametrize("gather", ["before", "in"])
def test_jax(gather):
    jax_mlp = pytest.importorskip("nnlab.bench.peers.jax_mlp", exc_type=ImportError)
    problem = mlp_problem(torch.float32)
    agree(jax_mlp.JAX(problem, gather), problem, relative=TRAJECTORY[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_chapters_numpy(dtype):
    problem = mlp_problem(dtype, "chapter")
    agree(NumPyMLP(problem), problem, relative=TRAJECTORY[dtype])


def test_the_chapters_numpy_does_not_overflow():
    problem = mlp_problem(torch.float32, "chapter")
    learner = NumPyMLP(problem)
    learner.b_h[:] = np.array([-300, 300, -90, 90, 0, 1, -1])
    learner.train(problem.order(1))
    assert all(p.isfinite().all() for p in learner.parameters())


@pytest.mark.parametrize("make", [ScikitLearnMLP, Autograd, Engine])
def test_float32_stays_float32(make):
    learner = make(mlp_problem(torch.float32))
    learner.train(torch.arange(40))
    assert {p.dtype for p in learner.parameters()} == {torch.float32}


def test_lightning_tells_the_seconds_of_an_epoch():
    problem = mlp_problem(torch.float32)
    assert 0 < LightningMLP(problem).epoch(problem.order(1)) < 10
    assert math.isnan(LightningMLP(problem).epoch(problem.order(1), epochs=1))


def test_the_estimator_tells_the_seconds_of_an_epoch():
    problem = mlp_problem(torch.float32)
    assert 0 < Estimator(problem).epoch(problem.order(1)) < 10


def test_the_evaluated_engine_measures_all_samples_with_the_last_weights():
    problem = mlp_problem(torch.float64)
    learner = EvaluatedEngine(problem)
    learner.train(problem.order(1))
    network = problem.network()
    network.load_state_dict(dict(zip(network.state_dict(), learner.parameters(), strict=True)))
    outputs = network(problem.x)[-1]
    logs = outputs.log_softmax(1)[torch.arange(250), problem.labels]
    assert learner.cost == pytest.approx(-logs.sum().item(), rel=1e-12)
    assert learner.accuracy == pytest.approx((outputs.argmax(1) == problem.labels).double().mean().item())


def test_the_floor_multiplies_every_sample():
    problem = mlp_problem(torch.float64)
    floor = Floor(problem)
    floor.train(problem.order(1))
    tail = problem.x[problem.order(1)[-10:]]  # the last mini-batch
    assert_close(floor._u[:10], tail @ problem.network().state_dict()["0.weight"].T)
    assert_close(floor._gradient, floor._delta[:10].T @ tail)
    assert floor.parameters() == []


# The perceptron


def test_net_inputs_are_never_0_and_start_where_they_say():
    problem = perceptron_problem()
    bank = problem.bank()
    assert (bank(problem.x) != 0).all()
    torch.testing.assert_close(bank.weight * 1024, (bank.weight * 1024).round(), rtol=0, atol=0)
    assert (bank.bias * 2048 % 2 == 1).all()


@pytest.mark.parametrize("order", [torch.arange(400), torch.randperm(400, generator=torch.Generator().manual_seed(3))])
def test_all_perceptrons_make_the_mistakes_of_the_rule(order):
    problem = perceptron_problem()
    bank = problem.bank()
    desired = bank.desired(problem.labels)
    error, weight, bias = perceptron_rule(problem.x[order], desired[order], bank.weight, bank.bias, 1.0)
    again = perceptron_rule(problem.x[order], desired[order], weight, bias, 1.0)
    assert 0 < error.count_nonzero() < error.numel()
    learners = [
        PerceptronLearner(problem),
        SampleLoop(problem),
        ScikitLearnPerceptron(problem),
        ScikitLearnPerceptron(problem, n_jobs=2),
    ]
    for learner in learners:
        learner.train(order)
        assert all(torch.equal(a, b) for a, b in zip(learner.parameters(), (weight, bias), strict=True))
        if hasattr(learner, "mistakes"):
            assert torch.equal(learner.mistakes, error)
        learner.train(order)
        assert all(torch.equal(a, b) for a, b in zip(learner.parameters(), again[1:], strict=True))
    assert torch.equal(mistakes_of_scikit_learn(problem, order), error != 0)
