"""Mistakes of the sum over paths: a use of an input, or a result on the way, that is not counted."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nnlab.verify.evidence import Evidence, Guess, Prediction
from nnlab.verify.trace import Call, Run


def guesses(evidence: Evidence) -> Iterator[Guess]:
    """A use of an input, or the result of a call, that is taken for a constant."""
    run = evidence.runs[0] if evidence.runs else None
    if run is not None:
        yield from _uses(evidence, run)
        yield from _results(evidence, run)


def _uses(evidence: Evidence, run: Run) -> Iterator[Guess]:
    for i, (leaf, name) in enumerate(zip(run.leaves, evidence.arguments, strict=True)):
        uses = [k for k, call in enumerate(run.calls) if any(a is leaf for a in call.arguments)]
        for use in uses if len(uses) > 1 else ():
            for alone in (False, True):

                def predict(k: int, i: int = i, use: int = use, alone: bool = alone) -> Prediction | None:
                    again = evidence.runs[k]
                    if again is None:
                        return None
                    mine = again.leaves[i]

                    def prepare(number: int, argument: Any) -> Any:
                        ours = isinstance(argument, Tensor) and argument.requires_grad and argument.is_leaf
                        if ours and argument.shape == mine.shape and torch.equal(argument, mine):
                            return argument.detach() if (number == use) != alone else argument
                        return argument

                    return evidence.replayed(k, prepare=prepare)

                what = (
                    f"only its use in {run.calls[use].name}" if alone else f"all but its use in {run.calls[use].name}"
                )
                words = f"grad_{name} counts {what} (use {uses.index(use) + 1} of {len(uses)})"
                yield Guess("not-accumulated", words, predict, words)


def _results(evidence: Evidence, run: Run) -> Iterator[Guess]:
    for number, call in enumerate(run.calls):
        if call.output.requires_grad and call.output is not run.output:

            def cut(at: int, call: Call, number: int = number) -> Tensor:
                return call.output.detach() if at == number else call.output

            words = f"{{grads}} the right one if the result of {call.name} (call {number + 1}) is taken for a constant"
            yield Guess("detached", words, partial(evidence.replayed, intervene=cut), words)
