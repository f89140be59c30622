"""CUDA graphs: the thousands of small kernels of many mini-batches for the price of one launch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable

import torch

logger = logging.getLogger("nnlab")

MOST = 4  # recordings kept: a whole group of mini-batches, and the shorter groups that end a call
SLOWER = "steps are launched one by one, without a CUDA graph, which by estimate takes 2 to 4 times as long"

_one_at_a_time = threading.Lock()


class Recordings:
    """Runs functions that launch kernels; on a CUDA device the second run is recorded, and later ones replay it.

    The first run is carried out as it is: it loads the libraries, which a recording cannot. What the function reads and
    writes must stay where it is: a rate or a count that changes is a tensor on the device.

    A recording has a stream of its own on the engine's own device, and ``thread_local`` errors: a second card, and
    other threads, are left alone.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._records = device.type == "cuda"
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph | None] = {}
        self._stream: torch.cuda.Stream | None = None

    def run(self, key: Hashable, function: Callable[[], object]) -> None:
        """Run a function; a key stands for the function and the buffers that it uses."""
        if not self._records:
            function()
            return
        with torch.cuda.device(self._device):
            known = key in self._graphs
            graph = self._graphs.pop(key, None)
            if known and graph is None:
                graph = self._record(function)
            self._graphs[key] = graph  # the latest at the end
            while len(self._graphs) > MOST:
                self._graphs.pop(next(iter(self._graphs)))
            if graph is None:
                function()
            else:
                graph.replay()

    def forget(self) -> None:
        """Drop the recordings: buffers have changed."""
        self._graphs.clear()

    def _record(self, function: Callable[[], object]) -> torch.cuda.CUDAGraph | None:
        """A recording of what the function launches, none of which is carried out; None where that fails."""
        before, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        pool = next((other.pool() for other in self._graphs.values() if other is not None), None)
        with _one_at_a_time:
            # a workspace of cuBLAS that another recording allocated may be freed with it: each has its own
            torch._C._cuda_clearCublasWorkspaces()
            try:
                with torch.cuda.graph(graph, pool, self._stream, capture_error_mode="thread_local"):
                    function()
            except BaseException as error:
                torch.cuda.set_stream(before)  # torch has left its recording's stream in place
                if not isinstance(error, RuntimeError):
                    raise
                logger.warning("%s: %s", SLOWER, str(error).partition("\n")[0])
                self._records = False
                return None
            finally:
                torch._C._cuda_clearCublasWorkspaces()
        return graph
