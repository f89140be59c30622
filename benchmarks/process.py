"""Contestants, each in a process of its own, where no other contestant's threads and memory are in the way."""

from __future__ import annotations

import logging
import os
import pickle
import pkgutil
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.problems import Problem

PRELOAD = ["benchmarks.ours", "benchmarks.peers.sklearn_models", "benchmarks.peers.torch_models", "numba"]
STATUS, STAT = Path("/proc/self/status"), Path("/proc/stat")


class Contestant(NamedTuple):
    """One way to train on a problem, ours or a peer's; each call continues from the last.

    Attributes:
        train: trains on the samples at these indices, int64 on the problem's device, in this order.
        parameters: returns W⁽¹⁾, b⁽¹⁾, … as they are now, (O, I), (O,); none where there are none to compare.
        seconds: its own measurement of an epoch, for one whose set-up must not be counted.
    """

    train: Callable[[Tensor], object]
    parameters: Callable[[], list[Tensor]] = list
    seconds: Callable[[Tensor], float] | None = None


class Make(NamedTuple):
    """What makes a contestant from a problem: "module:function", imported in its process alone, and keywords."""

    name: str
    options: Mapping[str, Any] = {}


class ContestantError(Exception):
    """A contestant failed; the text is one line."""


class Runner:
    """Makes a contestant, and trains, times and measures it, in this process."""

    def __init__(self, make: Make, problem: Problem, device: torch.device, threads: int) -> None:
        torch.set_num_threads(threads)
        made = pkgutil.resolve_name(make.name)
        self._device, self._before = device, _megabytes(device, "VmRSS")
        self._contestant: Contestant = made(problem.to(device), **make.options)
        self._timed = self._disturbed = 0.0

    def train(self, order: Tensor) -> None:
        """Train an epoch."""
        self._contestant.train(order.to(self._device))

    def seconds(self, order: Tensor) -> float:
        """Train an epoch, and return how long it took."""
        order = order.to(self._device)
        synchronise(self._device)
        others, start = others_seconds(), time.perf_counter()
        if self._contestant.seconds is not None:
            seconds = self._contestant.seconds(order)
        else:
            self._contestant.train(order)
            synchronise(self._device)
            seconds = time.perf_counter() - start
        self._timed += time.perf_counter() - start
        self._disturbed += others_seconds() - others
        return seconds

    def disturbance(self) -> tuple[float, float]:
        """Return for how long other programs computed during ``seconds`` since the last call, and how long it took."""
        found = self._disturbed, self._timed
        self._disturbed = self._timed = 0.0
        return found

    def parameters(self) -> list[Tensor]:
        """Return copies of the parameters, on the CPU."""
        return [p.detach().cpu().clone() for p in self._contestant.parameters()]

    def megabytes(self) -> float:
        """Return the peak of the memory, beyond what the process held after its imports."""
        return _megabytes(self._device, "VmHWM") - self._before


class RunnerProcess:
    """A ``Runner`` in a process of its own.

    The process is forked from one that has imported the common libraries and computed nothing; a ``fresh`` one starts
    from nothing, so that its memory can be measured. The problem's tensors are shared with it, not copied. With
    ``folder`` it is fresh, and imports what it can from there: another nnlab.

    Raises:
        ContestantError: the contestant failed, or its process ended.
    """

    def __init__(
        self,
        make: Make,
        problem: Problem,
        device: torch.device,
        threads: int,
        *,
        fresh: bool = False,
        folder: Path | None = None,
    ) -> None:
        fresh = fresh or folder is not None
        context: Any = torch.multiprocessing.get_context("spawn" if fresh else "forkserver")
        if not fresh:
            context.set_forkserver_preload(PRELOAD)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, problem, device, threads), daemon=True)
        sys.path[:0] = path = [str(folder)] if folder else []  # a fresh process takes over sys.path
        try:
            self._process.start()
        finally:
            del sys.path[: len(path)]
        theirs.close()
        self._receive()

    def call(self, method: str, *arguments: Tensor) -> Any:
        """Call a method of the ``Runner``."""
        _send(self._connection, (method, arguments))
        return self._receive()

    def _receive(self) -> Any:
        try:
            done, answer = pickle.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionError):
            done, answer = False, ("its process ended", "")
        if not done:
            error = ContestantError(answer[0])
            error.add_note(answer[1])
            raise error
        return answer

    def close(self) -> None:
        """End the process: at once if it waits, within two seconds if it computes."""
        self._connection.close()
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _send(connection: Connection, value: Any) -> None:
    connection.send_bytes(pickle.dumps(value))  # tensors by value, where ``send`` would share their memory


def _serve(connection: Connection, make: Make, problem: Problem, device: torch.device, threads: int) -> None:
    """Answer calls until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that measures answers it
    logging.getLogger("torch").setLevel(logging.ERROR)  # torch.compile reports its autotuning
    try:
        runner = Runner(make, problem, device, threads)
        _send(connection, (True, None))
        while True:
            method, arguments = pickle.loads(connection.recv_bytes())
            _send(connection, (True, getattr(runner, method)(*arguments)))
    except (EOFError, ConnectionError):
        return
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        text = f"{type(error).__name__}: {said}" if said else type(error).__name__
        if isinstance(error, ImportError):
            text = f"{error.name} is not installed; pip install 'nnlab[bench]'"
        _send(connection, (False, (text, traceback.format_exc())))


def others_seconds() -> float:
    """Return for how many seconds our cores have computed for other programs; 0 on a system that does not tell.

    What this process and those that it has waited for used is taken off. The figure has steps of 0.01 s a core.
    """
    if not STAT.exists():
        return 0.0
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    lines = (line.split() for line in STAT.read_text().splitlines())
    ticks = sum(
        sum(map(int, (*line[1:4], *line[6:9]))) for line in lines if line and line[0] in cores
    )  # no idle, iowait
    return ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _megabytes(device: torch.device, line: str) -> float:
    """Return memory that a CUDA device held at most, or that this process holds (VmRSS) or held at most (VmHWM).

    Not by ``getrusage`` where /proc exists: its peak starts at that of the process which started this one.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if STATUS.exists():
        found = dict(text.split(":", 1) for text in STATUS.read_text().splitlines())
        return int(found[line].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
