"""Epochs in a process of their own, and the memory that they take there."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnlab.bench.problem import MLPProblem
from nnlab.bench.rows import Spread
from nnlab.bench.session import Session

ALLOWANCE = 50  # megabytes for everything but the samples and one permuted copy


def in_child(session: Session, **what: Any) -> Mapping[str, Any]:
    """Train in a fresh process; see ``nnlab.bench.child`` for what is wanted and what comes back.

    Raises:
        RuntimeError: the process failed; its last line is the message.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npz"
        np.savez(path, pixels=session.images.train_pixels.numpy(), labels=session.images.train_labels.numpy())
        wanted = json.dumps({"images": str(path), "device": str(session.device), **what})
        ended = subprocess.run(
            [sys.executable, "-m", "nnlab.bench.child", wanted],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"]
        raise RuntimeError(said[-1])
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


def mlp_epoch(session: Session, problem: MLPProblem) -> None:
    """Add the row of the peak memory of our epoch, above that after the imports."""
    session.tell("peak memory")
    row = session.row("mlp_epoch", "engine", f"memory: the samples, one permuted copy and {ALLOWANCE} MB")
    session.rows.append(row)
    n = problem.x.numel() * 4 / 1e6
    hidden, batch_size = list(problem.sizes[1:-1]), problem.batch_size
    try:
        took = in_child(session, side="ours", hidden=hidden, batch_size=batch_size, samples=len(problem.x), epochs=2)
    except RuntimeError as error:
        row.note = f"not measured: {error}"
        return
    row.figures = {"ours_megabytes": took["megabytes"], "peer_megabytes": 2 * n + ALLOWANCE}
    row.ratio = Spread.of([row.figures["peer_megabytes"] / row.figures["ours_megabytes"]])
    row.note = f"{row.figures['ours_megabytes']:.0f} MB of {row.figures['peer_megabytes']:.0f} MB; ratio of megabytes"
