"""An epoch of ten perceptrons by the learning rule: ``perceptron_epoch``."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import torch

from nnlab.bench.compare import SomethingElseError
from nnlab.bench.ours import PerceptronLearner
from nnlab.bench.peers.perceptrons import SampleLoop, ScikitLearnPerceptron, mistakes_of_scikit_learn
from nnlab.bench.problem import Learner, PerceptronProblem
from nnlab.bench.session import Peer, Session

LOGGED = 1000  # samples that scikit-learn is asked about one by one
QUICK = 6000  # samples of the loop


def perceptron_epoch(session: Session) -> None:
    """Ten classes, all samples in their own order; mistakes and weights are equal to the last one."""
    x = session.images.train_pixels.to(session.device, torch.float64)
    problem = PerceptronProblem(x, session.labels)
    order = torch.arange(len(x), device=x.device)
    of_loop = order[:QUICK] if session.quick else order

    log = PerceptronLearner(problem)
    log.train(order)
    found = log.mistakes != 0

    def log_of_loop(learner: Learner) -> None:
        mistakes: torch.Tensor = learner.mistakes  # type: ignore[attr-defined]
        if not torch.equal(mistakes != 0, found[: len(of_loop)]):
            raise SomethingElseError("it makes other mistakes")

    asked = cache(partial(mistakes_of_scikit_learn, problem, order[:LOGGED]))  # it takes seconds

    def log_of_scikit_learn(learner: Learner) -> None:
        if not torch.equal(asked(), found[:LOGGED].cpu()):
            raise SomethingElseError("it makes other mistakes")

    exact = "weights after the epoch, to the last bit, and mistakes"
    exact_and_some = f"{exact} of the first {LOGGED:,} samples"
    ours = session.ours("engine", partial(PerceptronLearner, problem), order, order)
    threads = torch.get_num_threads()
    ways = {f"n_jobs={n}": partial(ScikitLearnPerceptron, problem, n) for n in sorted({1, threads})}
    peers = [Peer("scikit-learn Perceptron", ways, check=log_of_scikit_learn)]
    pairs = session.admit("perceptron_epoch", ours, peers, order, order, 0.0, exact_and_some)
    if len(of_loop) < len(order):
        shorter = session.ours("engine", partial(PerceptronLearner, problem), of_loop, of_loop)
        ours = replace(shorter, contestant=ours.contestant)
    loop = Peer("per-sample torch loop", {"": partial(SampleLoop, problem)}, len(of_loop), check=log_of_loop)
    pairs += session.admit("perceptron_epoch", ours, [loop], of_loop, order, 0.0, exact)
    session.race(pairs, 9, lambda repeat: order)
