"""How time and memory grow with width, batch, samples and threads: ``scaling``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nnlab.bench.memory import in_child
from nnlab.bench.rows import Row
from nnlab.bench.session import Session

BASE = {"width": 100, "batch": 100, "samples": 60_000}
SWEEPS: dict[str, Sequence[int]] = {
    "width": (64, 256, 1024, 4096),
    "batch": (16, 64, 256, 1024, 4096),
    "samples": (6_000, 20_000, 60_000),
}
AT_MOST = {"width": 6_000}  # samples in a sweep, where an epoch of all would take too long
PEER = "torch eager autograd"


def scaling(session: Session) -> None:
    """One hidden layer, each side of each point in a process of its own, by turns."""
    sweeps = {**SWEEPS, "threads": range(1, torch.get_num_threads() + 1)}
    for axis, values in sweeps.items():
        rows: list[Row] = []
        for value in values:
            point = {**BASE, "threads": torch.get_num_threads(), axis: value}
            point["samples"] = min(point["samples"], AT_MOST.get(axis, point["samples"]), len(session.x))
            row = session.row("scaling", "engine", f"{PEER}, {axis} {value:,}")
            row.threads = point["threads"]
            session.rows.append(row)
            session.tell(f"{axis} {value:,}")
            try:
                _measure(session, row, point)
            except RuntimeError as error:
                row.note = f"not measured: {error}"
            else:
                rows.append(row)
        _fit(rows, axis)


def _measure(session: Session, row: Row, point: Mapping[str, int]) -> None:
    what: dict[str, Any] = {
        "hidden": [point["width"]],
        "batch_size": point["batch"],
        "samples": point["samples"],
        "threads": point["threads"],
        "epochs": 4,
    }
    ours, peer = (in_child(session, side=side, **what) for side in ("ours", "eager"))
    row.time(ours["seconds"], peer["seconds"])
    row.figures = {**point, "ours_megabytes": ours["megabytes"], "peer_megabytes": peer["megabytes"]}
    row.note = f"{point['samples']:,} samples; {ours['megabytes']:.0f} MB, the peer {peer['megabytes']:.0f} MB"


def _fit(rows: Sequence[Row], axis: str) -> None:
    """The exponent p of seconds ∝ valueᵖ, by least squares of the logarithms, into each row of a sweep."""
    if len({row.figures[axis] for row in rows}) < 2:
        return
    at = np.log([row.figures[axis] for row in rows])
    for side in ("ours", "peer"):
        medians = np.log([getattr(row, f"{side}_seconds").median for row in rows])
        for row in rows:
            row.figures[f"{side}_exponent"] = float(np.polyfit(at, medians, 1)[0])
    of = rows[-1].figures
    rows[-1].note += f"; seconds grow as {axis}^{of['ours_exponent']:.2f}, the peer's ^{of['peer_exponent']:.2f}"
