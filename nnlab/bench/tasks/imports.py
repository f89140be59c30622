"""How long ``from nnlab import Perceptron`` takes: ``import``."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import Tensor

from nnlab.bench.session import Session
from nnlab.bench.stopwatch import Contestant

OURS, THEIRS = "from nnlab import Perceptron", "import torch, sklearn"


def seconds(statement: str) -> float:
    """The seconds that a statement takes in a fresh process."""
    code = f"from time import perf_counter as t; s = t(); {statement}; print(t() - s)"
    ended = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    return float(ended.stdout)


def import_time(session: Session) -> None:
    """Ours against torch and scikit-learn alone, each in fresh processes by turns."""
    cpu = torch.device("cpu")

    def importing(statement: str) -> Contestant:
        def once(order: Tensor) -> float:
            return seconds(statement)

        return Contestant(statement, once, cpu)

    ours, theirs = importing(OURS), importing(THEIRS)  # whose files are in the system's cache: this process read them
    row = session.row("import", OURS, THEIRS)
    session.rows.append(row)
    session.race([(row, ours, theirs)], 7, lambda repeat: torch.zeros(1))
