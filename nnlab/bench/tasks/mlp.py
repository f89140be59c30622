"""Epochs of the multi-layer perceptron: ``mlp_epoch`` and ``mlp_wide``."""

from __future__ import annotations

from functools import partial

import torch

from nnlab.bench import memory
from nnlab.bench.ours import Engine
from nnlab.bench.peers.numpy_mlp import NumPyMLP
from nnlab.bench.peers.sklearn_mlp import ScikitLearnMLP
from nnlab.bench.peers.torch_mlp import Autograd, Floor
from nnlab.bench.problem import Learner, MLPProblem
from nnlab.bench.session import STEPS, Peer, Session


def _jax(problem: MLPProblem, gather: str) -> Learner:
    from nnlab.bench.peers.jax_mlp import JAX  # noqa: PLC0415 - an extra

    return JAX(problem, "in" if gather == "in" else "before")


def _lightning(problem: MLPProblem) -> Learner:
    from nnlab.bench.peers.lightning_mlp import LightningMLP  # noqa: PLC0415 - its import takes seconds

    return LightningMLP(problem)


def _tutorial(problem: MLPProblem) -> Learner:
    from nnlab.bench.peers.lightning_mlp import tutorial  # noqa: PLC0415 - as above

    return tutorial(problem)


def _eager(problem: MLPProblem) -> Peer:
    return Peer("torch eager autograd, fused SGD", {"": partial(Autograd, problem)})


def _compiled(problem: MLPProblem, quick: bool) -> Peer:
    ways = {"forward and loss compiled": partial(Autograd, problem, "loss")}
    if not quick:
        ways["the whole step compiled"] = partial(Autograd, problem, "step")
    return Peer("torch.compile", ways)


def _with_jax(problem: MLPProblem) -> Peer:
    ways = {f"samples gathered {gather} the scan": partial(_jax, problem, gather) for gather in ("before", "in")}
    return Peer("JAX jit + scan", ways)


def mlp_epoch(session: Session) -> None:
    """784-100-10, mini-batches of 100, against all; then the peak memory of our epoch."""
    problem = MLPProblem(session.x, session.labels, (session.x.shape[1], 100, 10), 100)
    chapter = MLPProblem(session.x, session.labels, problem.sizes, 100, kind="chapter")
    chapter64 = chapter.to(torch.float64)
    steps, order = problem.steps(STEPS), problem.order(1)
    slow = 6000 if session.quick else None
    peers = [
        _eager(problem),
        _compiled(problem, session.quick),
        Peer("scikit-learn MLPClassifier float32", {"": partial(ScikitLearnMLP, problem)}),
        _with_jax(problem),
        Peer("Lightning + DataLoader, as its tutorial", {"": partial(_tutorial, problem)}, slow),
        Peer("Lightning + DataLoader of tensors", {"": partial(_lightning, problem)}, slow),
        Peer("floor: the permutation copy and the two large GEMMs", {"": partial(Floor, problem)}, learns=False),
    ]
    ours = session.ours("engine", partial(Engine, problem), steps, order)
    pairs = session.admit("mlp_epoch", ours, peers, steps, order)
    ours = session.ours("engine, the chapter's mathematics, float32", partial(Engine, chapter), steps, order)
    numpys = [
        Peer("NumPy float64, the chapter's", {"": partial(NumPyMLP, chapter64)}),
        Peer("NumPy float32, the chapter's", {"": partial(NumPyMLP, chapter)}),
    ]
    pairs += session.admit("mlp_epoch", ours, numpys, steps, order)
    ours = session.ours("engine, the chapter's mathematics, float64", partial(Engine, chapter64), steps, order)
    in_float64 = session.row("mlp_epoch", ours.name, ours.name)  # of which the NumPy row tells
    pairs.append((in_float64, ours.contestant, ours.contestant))
    session.race(pairs, 13, lambda repeat: problem.order(2 + repeat))
    for row, _, peer in pairs:
        if peer.name == numpys[0].name and in_float64.ours_seconds:
            row.note = f"ours in float64 takes {in_float64.ours_seconds.median:.3f} s"
    memory.mlp_epoch(session, problem)


def mlp_wide(session: Session) -> None:
    """784-1024-1024-10, mini-batches of 512."""
    n = min(len(session.x), 12_288) if session.quick else len(session.x)
    problem = MLPProblem(session.x[:n], session.labels[:n], (session.x.shape[1], 1024, 1024, 10), 512)
    steps, order = problem.steps(STEPS), problem.order(1)
    peers = [_eager(problem), *([] if session.quick else [_compiled(problem, quick=True), _with_jax(problem)])]
    ours = session.ours("engine", partial(Engine, problem), steps, order)
    # a unit that rounding puts on the other side of ReLU's 0, one in millions, moves the weights by a thousandth
    pairs = session.admit("mlp_wide", ours, peers, steps, order, tolerance=0.02)
    if n < len(session.x):
        for row, _, _ in pairs:
            row.note = f"both on {n:,} of {len(session.x):,} samples"
    session.race(pairs, 5, lambda repeat: problem.order(2 + repeat))
