"""The process that trains alone: ``python -m nnlab.bench.child '{"side": "ours", …}'``.

It is told ``images`` (an .npz file of ``pixels`` and ``labels``), ``side`` ("ours" or "eager"), ``hidden``,
``batch_size``, ``samples``, ``epochs``, ``device`` and, if it is not to use all, ``threads``. It prints ``seconds``, of
each epoch but the first, and ``megabytes``, the peak memory above that after the imports.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnlab.bench.ours import Engine
from nnlab.bench.peers.torch_mlp import Autograd
from nnlab.bench.problem import Learner, MLPProblem, scale
from nnlab.bench.stopwatch import synchronise

STATUS = Path("/proc/self/status")


def train(wanted: dict[str, Any]) -> dict[str, Any]:
    """Train as told."""
    device = torch.device(wanted["device"])
    if "threads" in wanted:
        torch.set_num_threads(wanted["threads"])
    before = _megabytes(device, "VmRSS")
    problem = _problem(wanted, device)
    learner: Learner = Engine(problem) if wanted["side"] == "ours" else Autograd(problem)
    seconds = []
    for epoch in range(wanted["epochs"]):
        order = problem.order(epoch)
        synchronise(device)
        start = time.perf_counter()
        learner.train(order)
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds[1:], "megabytes": _megabytes(device, "VmHWM") - before}


def _problem(wanted: dict[str, Any], device: torch.device) -> MLPProblem:
    with np.load(wanted["images"]) as images:
        n = wanted["samples"]
        x = scale(torch.from_numpy(images["pixels"])[:n], device)
        labels = torch.from_numpy(images["labels"])[:n].to(device)
    return MLPProblem(x, labels, (x.shape[1], *wanted["hidden"], 10), wanted["batch_size"])


def _megabytes(device: torch.device, line: str) -> float:
    """Memory of the device: of the CPU's what this process holds (VmRSS) or held at most (VmHWM).

    The kernel's own peak, ``getrusage``, starts at that of the process which started this one.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if STATUS.exists():
        found = dict(text.split(":", 1) for text in STATUS.read_text().splitlines())
        return int(found[line].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    print(json.dumps(train(json.loads(sys.argv[1]))))
