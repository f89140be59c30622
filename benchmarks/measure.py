"""How a task is measured: results are compared, contestants warmed up, and timed by turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.problems import PROBLEMS, SEED, Images, MLPProblem, Problem
from benchmarks.process import ContestantError, Make, RunnerProcess, others_seconds
from benchmarks.report import Row, device_name, versions

QUICK_REPEATS = 3
REST = 0.1  # seconds before each timing: the threads of the contestant before it spin on for a while
LOOK = 0.5  # seconds over which the load of other programs is measured before and after a task
CUBLAS = 64 << 20  # bytes of memory on a CUDA device: cuBLAS's workspaces for two streams, by an H100's default
QUIET = 0.3  # cores: above this load of other programs, a row is marked


@dataclass(frozen=True)
class Peer:
    """Something that nnlab is compared with.

    Attributes:
        name: its name in the rows.
        ways: ways to use it, and what makes each: the quickest is timed; in a quick run only the first is tried.
        trains: whether it trains what we train, so that parameters can be compared.
        quick: whether a quick run has it.
        quick_samples: how many samples a quick run times it on; all if None.
        process: keywords of its ``RunnerProcess``.
        cuda: whether it is for a CUDA device alone; elsewhere it has no row.
    """

    name: str
    ways: Mapping[str, Make]
    trains: bool = True
    quick: bool = True
    quick_samples: int | None = None
    process: Mapping[str, Any] = field(default_factory=dict)
    cuda: bool = False


@dataclass(frozen=True)
class Comparison:
    """Our side of some rows, and its peers.

    Attributes:
        ours: its name in the rows.
        make: what makes it.
        problem: a key of ``PROBLEMS``, what all train on.
        peers: what it is compared with.
        batches: mini-batches that all train on before the parameters are compared; an epoch if None.
        tolerance: the largest ‖peer − ours‖ / ‖ours − start‖ of a parameter that is allowed. The default is about a
            thousand times the rounding found in float32, and a tenth of what a learning rate wrong by 1 % gives.
        results: what is compared, in a word.
    """

    ours: str
    make: Make
    problem: str
    peers: Sequence[Peer]
    batches: int | None = 30
    tolerance: float = 1e-3
    results: str = "weights"


class Session:
    """What the tasks of a run share; ``show`` is given each row as it comes, ``progress`` what is going on.

    ``before`` is a name, and a folder with another nnlab: all that is ours is compared with that, too. ``alarms`` are
    sentences about what must not have happened.
    """

    def __init__(
        self,
        device: torch.device,
        quick: bool,
        show: Callable[[Row], object],
        progress: Callable[[str], object],
        before: tuple[str, Path] | None = None,
    ) -> None:
        self.device, self.quick, self.progress, self.before = device, quick, progress, before
        self.threads, self.images, self.rows = torch.get_num_threads(), Images(), list[Row]()
        self.alarms = list[str]()
        self._show, self._problems = show, dict[str, Problem]()

    def problem(self, name: str) -> Problem:
        """Return a problem, made once, so that its samples are in memory once."""
        if name not in self._problems:
            self._problems[name] = PROBLEMS[name](self.images, self.quick)
        return self._problems[name]

    def peers(self, comparison: Comparison) -> list[Peer]:
        """Return who is compared with ours in this run."""
        peers = [peer for peer in comparison.peers if peer.quick or not self.quick]
        peers = [peer for peer in peers if self.device.type == "cuda" or not peer.cuda]
        if self.before is not None:
            name, folder = self.before
            trains = any(peer.trains for peer in comparison.peers)
            peers.append(Peer(f"engine before: {name}", {"": comparison.make}, trains, process={"folder": folder}))
        return peers

    def row(self, task: str, ours: str, peer: str) -> Row:
        """Return a row with nothing measured."""
        return Row(task, ours, peer, device_name(self.device), self.threads, versions())

    def add(self, row: Row) -> None:
        """Keep a row, and show it."""
        self.rows.append(row)
        self._show(row)


@dataclass(eq=False)
class Timed:
    """A contestant that is timed, and the seconds of its epochs; those on fewer samples are scaled up to all."""

    runner: RunnerProcess
    problem: Problem
    samples: int | None = None
    seconds: list[float] = field(default_factory=list)
    failure: str = ""
    on_cuda: bool = False

    def time(self, repeat: int) -> None:
        """Time an epoch, in an order that depends on the repeat."""
        order = self.problem.order(2 + repeat)
        part = order if self.samples is None else order[: self.samples]
        if self.on_cuda:  # a rest would let the card's clocks fall: the epoch is trained once untimed
            self.runner.call("train", part)
        else:
            time.sleep(REST)
        seconds = float(self.runner.call("seconds", part))
        self.seconds.append(seconds if part is order else seconds * len(order) / len(part))


class Pair(NamedTuple):
    """A row to fill, and whose seconds it takes."""

    row: Row
    ours: Timed
    peer: Timed


class DifferentResultError(Exception):
    """A peer's results are not ours."""


def measure_epochs(
    session: Session, task: str, comparisons: Sequence[Comparison], repeats: int, *, allowance: int | None = None
) -> None:
    """Add a row for each peer; with ``allowance``, one more about the memory of our first contestant."""
    pairs: list[Pair] = []
    with ExitStack() as stack:
        try:
            for comparison in comparisons:
                pairs += prepare(session, stack, task, comparison, session.problem(comparison.problem))
            take_turns(session, task, pairs, min(repeats, QUICK_REPEATS) if session.quick else repeats)
        finally:
            for pair in pairs:
                if pair.peer.seconds or pair.peer.failure:
                    session.add(pair.row)
    if allowance is not None:
        measure_memory(session, task, comparisons[0], allowance)


def prepare(
    session: Session, stack: ExitStack, task: str, comparison: Comparison, problem: Problem, **options: Any
) -> list[Pair]:
    """Start all contestants, compare the peers' parameters with ours, and warm up those that agree.

    A peer that is not installed, fails, or computes something else gets a row that says so, and is not timed.
    """
    options = {"threads": session.threads} | options

    def start(make: Make, **own: Any) -> RunnerProcess:
        return stack.enter_context(closing(RunnerProcess(make, problem, session.device, **options | own)))

    first, order, steps = problem.order(SEED), problem.order(1), "one epoch"
    if comparison.batches is not None and isinstance(problem, MLPProblem):
        first = first[: comparison.batches * problem.batch_size]
        steps = f"{-(-len(first) // problem.batch_size)} steps"
    session.progress(f"{task}: {comparison.ours}, warm-up")
    ours = start(comparison.make)
    before = ours.call("parameters")
    if any(peer.trains for peer in comparison.peers):
        ours.call("train", first)
    expected = ours.call("parameters")
    on_cuda = session.device.type == "cuda"
    for _ in range(1 + on_cuda):  # on a CUDA device the first loads and compiles, the second is recorded
        ours.call("train", order)
    our_side, pairs = Timed(ours, problem, on_cuda=on_cuda), []

    def ready(peer: Peer, make: Make, part: Tensor) -> tuple[RunnerProcess, float | None]:
        """Start a peer, compare it with ours, and warm it up."""
        runner, apart = start(make, **peer.process), None
        if peer.trains:
            runner.call("train", first)
            apart = difference(runner.call("parameters"), expected, before)
            if apart > comparison.tolerance:
                raise DifferentResultError(f"its {comparison.results} differ from ours by {apart:.1e} of their change")
        for _ in range(1 + on_cuda):
            runner.call("train", part)
        return runner, apart

    for peer in session.peers(comparison):
        session.progress(f"{task}: {peer.name}, warm-up")
        row = session.row(task, comparison.ours, peer.name)
        row.compared = f"{comparison.results} after {steps}" if peer.trains else ""
        samples = peer.quick_samples if session.quick else None
        part = order[:samples] if samples else order
        best = float("inf")
        ways = list(peer.ways.items())[: 1 if session.quick else None]
        for way, make in ways:
            try:
                runner, apart = ready(peer, make, part)
                seconds = runner.call("seconds", part) if len(ways) > 1 else 0.0
            except (ContestantError, DifferentResultError) as error:
                row.note = row.note or reason(error)
            else:
                if seconds < best:
                    best, row.note, row.difference = seconds, way, apart
                    timed = Timed(runner, problem, samples, on_cuda=on_cuda)
        if best == float("inf"):
            session.add(row)
            continue
        if samples and samples < len(order):
            row.add_note(f"timed on {samples:,} of {len(order):,} samples")
        if session.quick and comparison.problem == "wide":
            row.add_note(f"both on the first {len(order):,} samples")
        pairs.append(Pair(row, our_side, timed))
    return pairs


def take_turns(session: Session, task: str, pairs: Sequence[Pair], repeats: int, *, busy: int = 0) -> None:
    """Time all contestants by turns, each once per repeat, so that other load on the machine hits all alike.

    Rows during which other programs kept more than ``QUIET`` cores busy are marked; ``busy`` cores were meant to be.
    An interrupt leaves the rows filled with the repeats that were completed.
    """
    timed = list(dict.fromkeys(contestant for pair in pairs for contestant in (pair.ours, pair.peer)))
    ours = {pair.ours for pair in pairs}
    try:
        for repeat in range(repeats):
            session.progress(f"{task}: {repeat + 1} of {repeats}")
            for contestant in (c for c in timed if not c.failure):
                try:
                    contestant.time(repeat)
                except ContestantError as error:
                    if contestant in ours:
                        raise
                    contestant.failure = reason(error)
    finally:
        for row, our_side, peer in pairs:
            if peer.failure:
                row.note = peer.failure
            else:
                row.set_seconds(our_side.seconds, peer.seconds)
    disturbed = [contestant.runner.call("disturbance") for contestant in timed if not contestant.failure]
    load = sum(others for others, _ in disturbed) / max(sum(seconds for _, seconds in disturbed), 1e-9)
    for pair in pairs:
        pair.row.load = max(load, 0.0)
        if load > QUIET + busy:
            pair.row.add_note(f"load {load:.1f}")


def difference(found: Sequence[Tensor], expected: Sequence[Tensor], start: Sequence[Tensor]) -> float:
    """Return ‖found − expected‖ / ‖expected − start‖, the largest of all parameters; inf where one is not finite.

    Raises:
        DifferentResultError: another number of parameters, or other shapes.
    """
    if [p.shape for p in found] != [p.shape for p in expected]:
        raise DifferentResultError("its parameters have other shapes")
    worst = 0.0
    for a, b, c in zip(found, expected, start, strict=True):
        apart, moved = float((a.double() - b.double()).norm()), float((b.double() - c.double()).norm())
        if apart != 0:
            worst = max(worst, apart / moved if moved > 0 and apart < float("inf") else float("inf"))
    return worst


def reason(error: Exception) -> str:
    """Return in one line why a peer was not timed."""
    return f"not timed: {'it computes something else: ' * isinstance(error, DifferentResultError)}{error}"


def measure_memory(session: Session, task: str, comparison: Comparison, allowance: int) -> None:
    """Add a row that compares the peak memory of our epochs with the samples, one permuted copy and an allowance."""
    session.progress(f"{task}: peak memory")
    problem = session.problem(comparison.problem)
    assert isinstance(problem, MLPProblem)
    row = session.row(task, comparison.ours, f"memory: the samples, one permuted copy and {allowance} MB")
    with closing(RunnerProcess(comparison.make, problem, session.device, session.threads, fresh=True)) as runner:
        for seed in (1, 2):
            runner.call("train", problem.order(seed))
        ours = float(runner.call("megabytes"))
    most = 2 * problem.x.nbytes / 1e6 + allowance + (CUBLAS / 1e6 if session.device.type == "cuda" else 0)
    row.figures = {"ours_megabytes": ours, "peer_megabytes": most}
    row.ratio = row.ratio_p20 = row.ratio_p80 = most / ours
    row.note = f"{ours:.0f} MB of {most:.0f} MB; ratio of megabytes"
    session.add(row)


def other_load(seconds: float) -> float:
    """Return how many cores other programs keep busy, measured while this one sleeps."""
    others, start = others_seconds(), time.perf_counter()
    time.sleep(seconds)
    return max(0.0, (others_seconds() - others) / (time.perf_counter() - start))
