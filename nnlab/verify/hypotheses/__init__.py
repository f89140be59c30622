"""What may have gone wrong: each module yields guesses, which ``nnlab.verify.diagnosis`` holds against the evidence."""

from collections.abc import Iterator

from nnlab.verify.evidence import Evidence, Guess
from nnlab.verify.hypotheses import activations, cotangents, layers, layouts, losses, paths, scales


def families(evidence: Evidence) -> Iterator[Iterator[Guess]]:
    """Every guess, in families of like mistakes, the cheapest to test first."""
    for module in (scales, layouts, cotangents, activations, losses, layers, paths):
        yield module.guesses(evidence)
