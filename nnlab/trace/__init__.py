"""``nnlab trace``: every number of a small network's forward and backward pass, and how it came about."""

from nnlab.trace.command import main

__all__ = ["main"]
