"""Contestants in processes of their own, where no one else's threads and memory are in their way."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.multiprocessing as processes
from torch import Tensor

from nnlab.bench.problem import Learner
from nnlab.bench.stopwatch import synchronise

PRELOADED = ["nnlab.bench.ours", "nnlab.bench.peers.sklearn_mlp", "nnlab.bench.peers.torch_mlp", "numba"]


class Apart:
    """A learner in a process of its own, which ends with it.

    The process is forked from one that has imported what most need and computed nothing, where the system can do so.
    Tensors that go into the making of the learner are shared, not copied.

    Args:
        make: what makes the learner, anything that can be pickled.

    Raises:
        Exception: whatever ``make`` raised.
        RuntimeError: the process ended.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        way = "forkserver" if "forkserver" in processes.get_all_start_methods() else "spawn"
        context: Any = processes.get_context(way)
        if way == "forkserver":
            context.set_forkserver_preload(PRELOADED)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, torch.get_num_threads()), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def ask(self, method: str, *given: Any) -> Any:
        """Have a method called, or an attribute told, and wait for the answer; tensors in lists or alone are copied."""
        self._connection.send((method, [_packed(g) for g in given]))
        return self._answer()

    def _answer(self) -> Any:
        try:
            fine, answer = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise RuntimeError("its process ended") from error
        if not fine:
            raise answer
        return _unpacked(answer)

    def train(self, order: Tensor) -> None:
        """Learn these samples."""
        self.ask("train", order)

    def epoch(self, order: Tensor) -> float:
        """Learn these samples; the seconds, by the clock over there."""
        seconds: float = self.ask("epoch", order)
        return seconds

    def parameters(self) -> list[Tensor]:
        """W⁽¹⁾, b⁽¹⁾, … as they are now."""
        parameters: list[Tensor] = self.ask("parameters")
        return parameters

    @property
    def mistakes(self) -> Tensor:
        """A perceptron's, of the samples learnt last."""
        mistakes: Tensor = self.ask("mistakes")
        return mistakes


def _serve(connection: Connection, make: Callable[[], Any], threads: int) -> None:
    """Do what is asked until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other process's affair
    logging.getLogger("torch").setLevel(logging.ERROR)  # its compiler speaks of itself
    torch.set_num_threads(threads)
    try:
        learner = make()
        connection.send((True, None))
        while True:
            method, given = connection.recv()
            found = _timed(learner) if method == "epoch" else getattr(learner, method)
            answer = found(*map(_unpacked, given)) if callable(found) else found
            connection.send((True, _packed(answer)))
    except (EOFError, ConnectionError):
        return
    except Exception as error:  # it is raised over there
        connection.send((False, error))


def _timed(learner: Learner) -> Callable[[Tensor], float]:
    own: Callable[[Tensor], float] | None = getattr(learner, "epoch", None)

    def epoch(order: Tensor) -> float:
        synchronise(order.device)
        start = time.perf_counter()
        learner.train(order)
        synchronise(order.device)
        return time.perf_counter() - start

    return own or epoch


def _packed(value: Any) -> Any:
    """Tensors as arrays, which are copied as they are sent."""
    if isinstance(value, list):
        return [_packed(v) for v in value]
    return value.detach().numpy() if isinstance(value, Tensor) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(v) for v in value]
    return torch.from_numpy(value) if hasattr(value, "__array_interface__") and value.ndim else value
