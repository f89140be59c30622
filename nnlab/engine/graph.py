"""Runs on a CUDA device as one CUDA graph: thousands of small kernels for the price of one launch."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable

import torch

from nnlab.engine.step import Line

log = logging.getLogger(__name__)


class Recorder:
    """Carries lines out; on a CUDA device those of a run that is asked for again are recorded and then replayed.

    The first time warms the libraries up, which a recording needs, and spares the recording where a run comes only
    once, as under a learning rate that changes with every epoch.

    Args:
        device: where the lines compute.
    """

    def __init__(self, device: torch.device) -> None:
        self._records = device.type == "cuda"
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph | None] = {}

    def run(self, key: Hashable, lines: Iterable[Line]) -> None:
        """Carry the lines out; those of one key are the same lines until ``forget``."""
        if not self._records or key not in self._graphs:
            self._graphs[key] = None
            for line in lines:
                line.run()
            return
        graph = self._graphs[key]
        if graph is None:
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):  # which carries nothing out yet
                    for line in lines:
                        line.run()
            except RuntimeError as error:
                self.refuse(str(error).partition("\n")[0])
                self.run(key, lines)
                return
            self._graphs[key] = graph
        graph.replay()

    def refuse(self, reason: str) -> None:
        """Record no more, and say once why."""
        if self._records:
            log.info("steps are launched one by one, without a CUDA graph: %s", reason)
        self._records = False

    def forget(self) -> None:
        """Drop the recordings: the lines have changed."""
        self._graphs = {}
