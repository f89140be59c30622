"""``nnlab bench``: nnlab and its peers side by side, in one run, on the same samples and the same mathematics."""

from nnlab.bench.command import main

__all__ = ["main"]
