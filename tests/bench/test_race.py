"""Stopwatch, figures, and who is admitted."""

import time
from functools import partial

import pytest
import torch

from nnlab.bench.compare import SomethingElseError, difference, words
from nnlab.bench.ours import Engine
from nnlab.bench.peers.torch_mlp import Autograd
from nnlab.bench.rows import Row, Spread
from nnlab.bench.session import Peer, Session
from nnlab.bench.stopwatch import Contestant, race
from nnlab.bench.tasks.accuracy import Attempts, Split
from tests.bench.conftest import mlp_problem

pytestmark = pytest.mark.usefixtures("here")

CPU = torch.device("cpu")


def row() -> Row:
    return Row("task", "ours", "peer", "cpu", 1, {})


def own_clock(seconds: float, log: list[str], name: str, part: int | None = None) -> Contestant:
    def epoch(order: torch.Tensor) -> float:
        log.append(f"{name} {len(order)}")
        return seconds

    return Contestant(name, epoch, CPU, part)


def test_median_and_percentiles():
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == (3.0, pytest.approx(1.8), pytest.approx(4.2))
    assert Spread.of([7.0]) == (7.0, 7.0, 7.0)


def test_a_ratio_is_of_medians_and_its_spread_the_widest():
    timed = row().time([1.0, 2.0, 4.0], [3.0, 8.0, 8.0])
    assert timed.ratio == (4.0, pytest.approx(5 / 3.2), pytest.approx(8 / 1.4))
    assert timed.repeats == 3
    flat = timed.as_json()
    assert (flat["ours_seconds"], flat["peer_seconds"], flat["ratio"]) == (2.0, 8.0, 4.0)
    assert (flat["ours_seconds_p20"], flat["peer_seconds_p80"]) == (pytest.approx(1.4), 8.0)


def test_contestants_take_turns_and_one_in_two_rows_runs_once():
    log: list[str] = []
    ours, a, b = own_clock(1, log, "ours"), own_clock(2, log, "a"), own_clock(3, log, "b", part=5)
    rows = [row(), row()]
    race([(rows[0], ours, a), (rows[1], ours, b)], 2, lambda repeat: torch.arange(20 + repeat), lambda text: None)
    assert log == ["ours 20", "a 20", "b 5", "ours 21", "a 21", "b 5"]
    assert rows[0].ratio == (2, 2, 2)
    assert b.seconds == [3 * 20 / 5, 3 * 21 / 5]  # scaled up to all samples


def test_the_clock_is_the_walls():
    contestant = Contestant("sleeper", lambda order: time.sleep(0.02), CPU)
    assert 0.02 <= contestant.lap(torch.arange(3)) < 5


def test_an_interrupt_keeps_the_repeats_that_were_completed():
    log: list[str] = []
    ours, peer = own_clock(1, log, "ours"), own_clock(2, log, "peer")

    def order(repeat: int) -> torch.Tensor:
        if repeat == 2:
            raise KeyboardInterrupt
        return torch.arange(3)

    filled = row()
    with pytest.raises(KeyboardInterrupt):
        race([(filled, ours, peer)], 5, order, lambda text: None)
    assert (filled.repeats, filled.ratio) == (2, (2, 2, 2))


# What is compared


def test_the_difference_is_relative_to_the_way():
    start, ours = [torch.zeros(2), torch.zeros(1)], [torch.tensor([3.0, 4.0]), torch.tensor([0.1])]
    assert difference(ours, ours, start) == 0
    assert difference([ours[0], torch.tensor([0.2])], ours, start) == pytest.approx(1)  # no bias hides
    assert difference([torch.tensor([float("nan"), 0]), ours[1]], ours, start) == float("inf")
    assert difference([ours[0], torch.tensor([1.0])], start, start) == float("inf")  # where ours did not move
    with pytest.raises(SomethingElseError, match="shapes"):
        difference(ours[:1], ours, start)


class Wrong(Autograd):
    """A learning rate that is one per cent too large."""

    def __init__(self, problem):
        super().__init__(problem)
        self._optimizer.param_groups[0]["lr"] *= 1.01


class Broken(Autograd):
    def train(self, order):
        raise RuntimeError("no such thing\nat all")


def missing(problem):
    raise ModuleNotFoundError("No module named 'jax'", name="jax")


def unlike(learner):
    raise SomethingElseError("it makes other mistakes")


def admitted(problem, *peers: Peer) -> tuple[Session, list]:
    session = Session(CPU, quick=True)
    steps, order = problem.steps(5), problem.order(1)
    ours = session.ours("engine", partial(Engine, problem), steps, order)
    return session, session.admit("task", ours, peers, steps, order)


def test_a_peer_that_computes_something_else_is_reported_and_not_timed():
    problem = mlp_problem(torch.float64)
    session, pairs = admitted(
        problem,
        Peer("right", {"": partial(Autograd, problem)}),
        Peer("wrong", {"": partial(Wrong, problem)}),
        Peer("broken", {"": partial(Broken, problem)}),
        Peer("missing", {"": partial(missing, problem)}),
        Peer("unlike", {"": partial(Autograd, problem)}, check=unlike),
    )
    session.race(pairs, 2, problem.order)
    right, wrong, broken, absent, other = session.rows
    assert (right.peer, right.repeats, right.note, right.compared) == ("right", 2, "", "weights after 30 steps")
    assert right.difference < 1e-11
    assert right.ratio.median > 0
    assert wrong.note.startswith("not timed: it computes something else: its weights differ from ours by ")
    assert broken.note == "not timed: RuntimeError: no such thing"
    assert absent.note == "not installed: jax; pip install 'nnlab[bench]'"
    assert other.note == "not timed: it computes something else: it makes other mistakes"
    for rejected in (wrong, broken, absent, other):
        assert (rejected.ours_seconds, rejected.peer_seconds, rejected.ratio, rejected.repeats) == (None, None, None, 0)


def test_of_several_ways_the_quickest_is_timed_and_those_that_fail_are_not():
    problem = mlp_problem(torch.float64)

    class Slow(Autograd):
        def train(self, order):
            super().train(order)
            time.sleep(0.2)

    ways = {"broken": partial(Broken, problem), "slow": partial(Slow, problem), "quick": partial(Autograd, problem)}
    session, pairs = admitted(problem, Peer("peer", ways, part=100))
    assert [row.note for row in session.rows] == ["quick; timed on 100 of 250 samples"]
    assert len(pairs) == 1


def test_what_cannot_be_said_in_a_line_is_cut():
    assert words(RuntimeError("")) == "not timed: RuntimeError"


def test_time_to_98_does_not_count_evaluation():
    def run(split, seed):
        time.sleep(0.1)

        def accuracy():
            time.sleep(0.5)
            return 1.0

        yield accuracy

    x = torch.zeros(1, 1)
    assert 0.1 <= Attempts(run, Split(x, x, x, x)).seconds(0, 1) < 0.5
