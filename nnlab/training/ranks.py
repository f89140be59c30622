"""The ranks of a run on several devices: a parent starts them, watches them, and prints in one line why they ended.

Lightning would start ranks 1, 2, … from rank 0, which cannot act while it waits in a collective. Ranks that torchrun or
SLURM starts have no such parent: each prints its own error, under torchrun only the first rank that fails.
"""

import json
import math
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta

import lightning as L
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented, but not marked as exported

SOCKET = "NNLAB_RANKS_SOCKET"  # the environment variable that gives a rank the number of its socket to the parent
MESSAGE = rb"\[[^\n]+\]\n"  # of a rank, between the single bytes that stand for the signals it received
SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = [128 + number for number in SIGNALS]  # exit statuses of a rank that has reported its signal
AFTER_SIGNAL, AFTER_FAILURE = 20, 8  # seconds for all ranks to end in
Process = subprocess.Popen[bytes]
_parent: list[socket.socket] = []  # of a rank, once it follows it
Failures = dict[int, tuple[int, str]]  # rank: exit status, error


def follow_parent(command: str) -> None:
    """End this rank as soon as its parent is gone."""

    def wait(parent: socket.socket) -> None:
        select.select([parent], [], [])  # the parent sends nothing: this returns when it is gone
        if os.environ["LOCAL_RANK"] == "0":
            print(f"nnlab {command}: error: the process that started the ranks is gone", file=sys.stderr, flush=True)
        os._exit(1)

    if SOCKET in os.environ:
        parent = socket.socket(fileno=int(os.environ.pop(SOCKET)))  # no process that a rank starts has it
        parent.setblocking(False)
        signal.set_wakeup_fd(
            parent.fileno()
        )  # sends a signal's number to the parent, even while the rank waits in a collective
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        threading.Thread(target=wait, args=[parent], daemon=True).start()
        _parent.append(parent)


def tell(status: int, error: str) -> bool:
    """Tell the parent why this rank ends; False where it has no parent and is the first to fail."""
    if _parent:
        message = json.dumps([int(os.environ["LOCAL_RANK"]), status, error[:1000]])  # short: written whole
        _parent[0].sendall(f"{message}\n".encode())
        return True
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun's, which outlives its ranks
        with suppress(RuntimeError):
            address, attempt = os.environ["MASTER_ADDR"], os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = TCPStore(address, int(os.environ["MASTER_PORT"]), timeout=timedelta(seconds=5))
            return int(store.add(f"nnlab failures {attempt}", 1)) > 1
    return False


def needs_parent(trainer: L.Trainer) -> bool:
    """Whether Lightning would start other ranks from this process."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if not isinstance(environment, LightningEnvironment) or environment.creates_processes_externally:
        return False
    return trainer.world_size > 1 and os.name == "posix"


def run_ranks(trainer: L.Trainer, command: str) -> int:
    """Start this machine's ranks, each with the command line of this process, and wait for all.

    Returns:
        the exit status, that of the rank that failed first; a line on standard error names it.
    """
    environment = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
    here, there = socket.socketpair()
    shared = os.environ | {
        "MASTER_ADDR": environment.main_address,
        "MASTER_PORT": str(environment.main_port),
        "NODE_RANK": str(environment.node_rank()),
        "WORLD_SIZE": str(trainer.world_size),
        SOCKET: str(there.fileno()),
    }
    received: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _: received.append(number))
    ranks: list[Process] = []
    try:
        for rank in range(trainer.num_devices):
            line, settings = [sys.executable, *sys.orig_argv[1:]], shared | {"LOCAL_RANK": str(rank)}
            # each in its own session: Ctrl-C reaches the parent alone, which passes it on once
            ranks.append(subprocess.Popen(line, env=settings, pass_fds=[there.fileno()], start_new_session=True))
        failures = _watch(ranks, here, received)
    finally:
        _send(ranks, signal.SIGKILL)
    if not failures:
        return max(process.returncode for process in ranks)
    rank, (status, error) = next(iter(failures.items()))
    everywhere = len(failures) == trainer.world_size and all(other == error for _, other in failures.values())
    rank += environment.node_rank() * trainer.num_devices
    print(f"nnlab {command}: error: {'' if everywhere else f'rank {rank}: '}{error}", file=sys.stderr)
    return status


def _watch(ranks: list[Process], here: socket.socket, received: list[int]) -> Failures:
    """Pass signals on until all ranks have ended, kill those that take too long, and return the failures in order."""
    failures: Failures = {}
    deadline, heard, late = math.inf, b"", ""
    while True:
        codes = [process.poll() for process in ranks]
        with suppress(BlockingIOError):  # after the poll, as a rank tells before it ends
            heard += here.recv(1 << 16, socket.MSG_DONTWAIT)
        told = {rank: (status, error) for rank, status, error in map(json.loads, re.findall(MESSAGE, heard))}
        silent = {rank: _silent(code) for rank, code in enumerate(codes) if code and code not in INTERRUPTED}
        for rank, why in {**silent, **told}.items():  # silent ranks first: others fail because they are missing
            failures.setdefault(rank, why)
        if None not in codes:
            return failures
        signals = [*received, *(number for number in SIGNALS if number in heard)]
        if deadline == math.inf and (signals or failures or any(codes)):
            cause = signal.Signals(signals[0]).name if signals else "another rank ended"
            seconds = AFTER_SIGNAL if signals else AFTER_FAILURE
            deadline, late = time.monotonic() + seconds, f"still running {seconds} s after {cause}"
        while received:
            _send(ranks, received.pop(0))
        if time.monotonic() > deadline:
            for rank in (rank for rank, code in enumerate(codes) if code is None):
                failures.setdefault(rank, (1, late))
            _send(ranks, signal.SIGKILL)
        time.sleep(0.05)


def _silent(code: int) -> tuple[int, str]:
    """The exit status and the reason for a rank that ended without a message."""
    if code > 0:
        return code, f"ended with exit status {code}"
    return 128 - code, f"ended by signal {-code}, {signal.strsignal(-code)}"


def _send(ranks: list[Process], number: int) -> None:
    for process in ranks:
        process.send_signal(number)  # nothing where it has ended
