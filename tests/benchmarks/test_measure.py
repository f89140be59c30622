"""Processes, comparison, turns and figures."""

import multiprocessing
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks import measure, problems, process
from benchmarks.measure import Comparison, Pair, Peer, Timed, difference, measure_epochs, other_load, take_turns
from benchmarks.ours import engine
from benchmarks.process import ContestantError, Make, RunnerProcess
from benchmarks.report import Row
from benchmarks.sweeps import fit_exponents
from tests.benchmarks.conftest import mlp_problem, perceptron_problem, row
from tests.training.runs import REPOSITORY

CPU = torch.device("cpu")
AUTOGRAD = Make("benchmarks.peers.torch_models:autograd")
ENGINE = Make("benchmarks.ours:engine")


def odd(name: str) -> Make:
    return Make(f"tests.benchmarks.contestants:{name}")


@pytest.mark.parametrize("fresh", [False, True])
def test_a_process_trains_as_this_one_and_ends_when_closed(fresh):
    problem = mlp_problem(torch.float64)
    here, apart = engine(problem), RunnerProcess(ENGINE, problem, CPU, 1, fresh=fresh)
    before = apart.call("parameters")
    for seed in (1, 2):
        here.train(problem.order(seed))
    apart.call("train", problem.order(1))
    assert 0 < apart.call("seconds", problem.order(2)) < 60
    torch.testing.assert_close(apart.call("parameters"), here.parameters(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(before, [p.detach() for p in problem.network().parameters()])  # a copy
    assert apart.call("megabytes") < 500
    apart.close()
    assert multiprocessing.active_children() == []


def test_a_process_ignores_ctrl_c_and_its_errors_are_raised_here():
    problem = mlp_problem(torch.float32)
    apart = RunnerProcess(odd("own_process"), problem, CPU, 1)
    assert apart.call("seconds", torch.arange(2)) != os.getpid()
    apart.call("train", torch.arange(2))  # sends itself SIGINT
    with pytest.raises(ContestantError, match="its process ended"):
        apart.call("train", torch.arange(1))
    apart.close()
    with pytest.raises(ContestantError, match="jax is not installed; pip install 'nnlab\\[bench\\]'"):
        RunnerProcess(odd("missing"), problem, CPU, 1)
    with pytest.raises(ContestantError, match=r"(?m)^RuntimeError: no such thing$"):
        RunnerProcess(odd("broken"), problem, CPU, 1)


def test_a_process_can_have_another_nnlab(tmp_path):
    (tmp_path / "nnlab").symlink_to(REPOSITORY / "nnlab")
    before = sys.path.copy()
    apart = RunnerProcess(odd("which_nnlab"), mlp_problem(torch.float32), CPU, 1, folder=tmp_path)
    (found,) = apart.call("parameters")
    apart.close()
    assert bytes(found.tolist()).decode() == str(tmp_path / "nnlab" / "__init__.py")
    assert sys.path == before


def measured(monkeypatch, session, comparison: Comparison, problem=None, repeats=2) -> list[Row]:
    monkeypatch.setitem(problems.PROBLEMS, comparison.problem, lambda images, quick: problem)
    measure_epochs(session, "task", [comparison], repeats)
    return session.rows


@pytest.mark.usefixtures("here")
def test_a_peer_that_computes_something_else_is_reported_and_not_timed(monkeypatch, session):
    names = ("wrong", "another_shape", "broken", "fails_when_timed")
    peers = [Peer("right", {"": AUTOGRAD}), *(Peer(name, {"": odd(name)}) for name in names)]
    comparison = Comparison("engine", ENGINE, "small", peers, batches=5)
    rows = {r.peer: r for r in measured(monkeypatch, session(), comparison, mlp_problem(torch.float64))}
    right = rows.pop("right")
    assert (right.repeats, right.note, right.compared) == (2, "", "weights after 5 steps")
    assert right.difference < 1e-11
    assert right.ratio > 0
    assert rows["wrong"].note.startswith("not timed: it computes something else: its weights differ from ours by ")
    assert rows["another_shape"].note == "not timed: it computes something else: its parameters have other shapes"
    assert rows["broken"].note.startswith("not timed: RuntimeError: no such thing")
    assert rows["fails_when_timed"].note.startswith("not timed: ZeroDivisionError")
    for refused in rows.values():
        assert (refused.ours_seconds, refused.peer_seconds, refused.ratio, refused.repeats) == (None, None, None, 0)


@pytest.mark.usefixtures("here")
def test_weights_that_must_be_equal_bit_for_bit(monkeypatch, session):
    ours = Make("benchmarks.ours:perceptron")
    peers = [Peer("same", {"": ours}), Peer("last bit", {"": odd("last_bit")})]
    comparison = Comparison("engine", ours, "small", peers, batches=None, tolerance=0.0)
    rows = {r.peer: r for r in measured(monkeypatch, session(), comparison, perceptron_problem())}
    same = rows["same"]
    assert (same.difference, same.compared, same.repeats) == (0, "weights after one epoch", 2)
    assert "computes something else" in rows["last bit"].note


@pytest.mark.usefixtures("here")
def test_of_several_ways_the_quickest_is_timed(monkeypatch, session):
    ways = {"slow": odd("slow"), "broken": odd("broken"), "quick": AUTOGRAD}
    comparison = Comparison("engine", ENGINE, "small", [Peer("peer", ways)])
    (found,) = measured(monkeypatch, session(), comparison, mlp_problem(torch.float64))
    assert (found.note, found.repeats) == ("quick", 2)
    (quick,) = measured(monkeypatch, session(quick=True), comparison, mlp_problem(torch.float64))
    assert quick.note == "slow"  # only the first is tried


@pytest.mark.usefixtures("here")
def test_a_quick_run_leaves_out_peers_and_samples(monkeypatch, session):
    peers = [Peer("a", {"": odd("slow")}, quick_samples=50), Peer("b", {"": AUTOGRAD}, quick=False)]
    comparison = Comparison("engine", ENGINE, "small", peers)
    (found,) = measured(monkeypatch, session(quick=True), comparison, mlp_problem(torch.float64), repeats=9)
    assert (found.repeats, found.note) == (measure.QUICK_REPEATS, "timed on 50 of 250 samples")
    assert found.peer_seconds == 1000 * 5  # scaled up to all samples


def test_a_peer_for_cuda_has_no_row_elsewhere():
    comparison = Comparison(
        "engine", ENGINE, "small", [Peer("a", {"": AUTOGRAD}), Peer("b", {"": AUTOGRAD}, cuda=True)]
    )
    for device, names in (("cpu", "a"), ("cuda", "ab")):
        session = measure.Session(torch.device(device), False, lambda row: None, lambda text: None)
        assert [peer.name for peer in session.peers(comparison)] == list(names)


def test_on_cuda_an_epoch_is_trained_untimed_in_place_of_a_rest(monkeypatch):
    calls: list[str] = []
    monkeypatch.setattr(measure.time, "sleep", lambda seconds: calls.append("rest"))
    for on_cuda in (False, True):
        runner = SimpleNamespace(call=lambda method, order: calls.append(method) or 1.0)
        Timed(runner, mlp_problem(torch.float32), on_cuda=on_cuda).time(0)
    assert calls == ["rest", "seconds", "train", "seconds"]


def timed(log: list[str], orders: list[int], name: str, samples: int | None = None, disturbed=(0.0, 1.0)) -> Timed:
    def call(method, order=None):
        if method == "disturbance":
            return disturbed
        log.append(f"{name} {len(order)}")
        orders.append(order[0].item())
        if len(log) == 7:
            raise KeyboardInterrupt
        return 1.0

    return Timed(SimpleNamespace(call=call), mlp_problem(torch.float32), samples)


def test_contestants_take_turns_and_an_interrupt_keeps_complete_repeats(monkeypatch, session):
    monkeypatch.setattr(measure, "REST", 0)
    log, orders = [], []
    ours, a, b = timed(log, orders, "ours"), timed(log, orders, "a"), timed(log, orders, "b", samples=50)
    pairs = [Pair(row(), ours, a), Pair(row(), ours, b)]
    with pytest.raises(KeyboardInterrupt):
        take_turns(session(), "task", pairs, 5)
    assert log == ["ours 250", "a 250", "b 50", "ours 250", "a 250", "b 50", "ours 250"]
    assert orders[:3] == [orders[0]] * 3  # the same for all,
    assert len({*orders}) == 3  # and another for each repeat
    assert [(pair.row.repeats, pair.row.ratio) for pair in pairs] == [(2, 1.0), (2, 5.0)]


@pytest.mark.parametrize(("busy", "note"), [(0, "load 0.6"), (1, "")])
def test_rows_that_other_programs_disturbed_are_marked(busy, note, monkeypatch, session):
    monkeypatch.setattr(measure, "REST", 0)
    ours, peer = (timed([], [], name, disturbed=seconds) for name, seconds in (("a", (0.2, 1.0)), ("b", (1.0, 1.0))))
    pair = Pair(row(), ours, peer)
    take_turns(session(), "task", [pair], 2, busy=busy)
    assert (pair.row.note, pair.row.load, pair.row.ratio) == (note, pytest.approx(0.6), 1.0)


def test_the_load_is_what_others_use_of_our_cores(monkeypatch, tmp_path):
    """Idle and waiting time, other cores, and what this process used do not count; stolen time does."""
    stat, ticks = tmp_path / "stat", os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(process, "STAT", stat)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3})
    used = [0.0, 0.0]
    monkeypatch.setattr(os, "times", lambda: (used[0], 0.0, 0.0, 0.0, 9.0))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: used[1])

    def pass_time(seconds):
        used[:] = [0.5, 2.0]
        stat.write_text(
            f"cpu 99 99 99\ncpu0 {ticks} 0 0 7 7 0 0 {ticks}\ncpu1 999 0 0 0 0 0 0 0\ncpu3 0 0 {ticks} 7 7 0 0 0\n"
        )

    stat.write_text("cpu 0 0 0\ncpu0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0\ncpu3 0 0 0 0 0 0 0 0\n")
    monkeypatch.setattr(measure.time, "sleep", pass_time)
    assert other_load(2.0) == pytest.approx((3 - 0.5) / 2)


def test_a_ratio_is_of_medians_and_its_spread_the_widest():
    found = row()
    found.set_seconds([1.0, 2.0, 4.0, 9.0], [3.0, 8.0, 8.0])  # the peer was interrupted
    assert (found.ours_seconds, found.peer_seconds, found.repeats) == (2.0, 8.0, 3)
    assert (found.ratio, found.ratio_p20, found.ratio_p80) == (4.0, pytest.approx(5 / 3.2), pytest.approx(8 / 1.4))


def test_repeats_that_miss_their_goal_are_left_out_and_noted():
    found = row()
    found.set_seconds([1.0, float("inf"), 3.0], [2.0, 5.0, 6.0])
    assert (found.ratio, found.note) == (2.0, "both reached the goal in 2 of 3 repeats")
    nobody = row()
    nobody.set_seconds([float("inf")], [1.0])
    assert (nobody.ratio, nobody.note) == (None, "both reached the goal in 0 of 1 repeats")


def test_the_difference_is_relative_to_the_change():
    start, ours = [torch.zeros(2), torch.zeros(1)], [torch.tensor([3.0, 4.0]), torch.tensor([0.1])]
    assert difference(ours, ours, start) == 0
    assert difference([ours[0], torch.tensor([0.2])], ours, start) == pytest.approx(1)  # no bias hides
    assert difference([torch.tensor([float("nan"), 0]), ours[1]], ours, start) == float("inf")
    assert difference([ours[0], torch.tensor([1.0])], start, start) == float("inf")  # ours did not move


def test_exponents_of_growth():
    rows = [replace(row(), ours_seconds=n**1.5, peer_seconds=n**2.0, ratio=1.0, figures={"n": n}) for n in (64, 256)]
    fit_exponents(rows, "n")
    assert rows[0].figures["ours_exponent"] == pytest.approx(1.5)
    assert rows[1].note == "seconds grow as n^1.50, the peer's ^2.00"
