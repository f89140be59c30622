"""Mistakes inside a network: with a layer's weights, its input, its bias."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnlab.ops import ACTIVATIONS
from nnlab.verify.evidence import Evidence, Guess, Prediction, only
from nnlab.verify.hypotheses.cotangents import samples
from nnlab.verify.trace import MATMULS, Call, Run, with_gradient


class Product(NamedTuple):
    """Call number ``call`` returned ``left @ right`` (+ a bias); ``right`` is W, or its transpose for ``linear``."""

    call: int
    left: Tensor
    right: Tensor


def product_of(number: int, call: Call) -> Product | None:
    """The matrix product that a call is, if it is one."""
    if call.name not in MATMULS:
        return None
    left, right = call.arguments[1:3] if call.name == "addmm" else call.arguments[:2]
    right = right.T if call.name == "linear" else right
    return Product(number, left, right) if left.ndim == right.ndim == 2 else None


def guesses(evidence: Evidence) -> Iterator[Guess]:
    """Weights transposed or skipped, another layer's input, bias sums, single samples."""
    first = next((r for r in evidence.runs if r is not None), None)
    if first is None or any(r is None or len(r.calls) != len(first.calls) for r in evidence.runs):
        return
    products = [p for n, call in enumerate(first.calls) if (p := product_of(n, call))]
    for number, product in enumerate(products):
        layer = f"layer {number + 1}" if len(products) > 1 else "the layer"
        yield from _through_weights(evidence, {product.call}, product, layer)
        yield from _weight(evidence, product, layer)
    if len(products) > 1:
        square = {p.call for p in products if p.right.shape[0] == p.right.shape[1]}
        if len(square) > 1:
            chosen = next(p for p in products if p.call in square)
            yield from _through_weights(evidence, square, chosen, "every layer")
    yield from _updated_first(evidence)
    yield from _bias(evidence, first)
    yield from _samples(evidence, first)


def _run(evidence: Evidence, k: int) -> Run:
    run = evidence.runs[k]
    assert run is not None  # guesses() has seen to it
    return run


def _through_weights(evidence: Evidence, calls: set[int], example: Product, layer: str) -> Iterator[Guess]:
    """δ pulled back by something other than the weights."""

    def guess(fault: str, words: str, pull: Callable[[Tensor, Tensor], Tensor]) -> Guess:
        def intervene(number: int, call: Call) -> Tensor:
            product = product_of(number, call) if number in calls else None
            if product is None or not product.left.requires_grad:
                return call.output
            right = product.right.detach()
            kept = call.output - product.left @ right  # all other paths, the weights' own among them
            kept = kept + product.left.detach() @ right
            moved = with_gradient(
                torch.zeros_like(call.output), (product.left, lambda g: pull(g, right).reshape(product.left.shape))
            )
            return kept + moved

        return Guess(fault, f"{words} in {layer}", lambda k: evidence.replayed(k, intervene), f"{words} {layer}")

    if example.right.shape[0] == example.right.shape[1]:
        words = "{grads} the right one with W transposed on the way back"
        yield guess("weight-not-transposed", words, lambda g, right: g @ right)
        words = "{grads} the right one with δ passed by the weights"
        yield guess("weight-skipped", words, lambda g, right: g)


def _weight(evidence: Evidence, product: Product, layer: str) -> Iterator[Guess]:
    """The gradient of this layer's weights, δᵀ times something other than the layer's input."""
    n, run = len(evidence.wanted), _run(evidence, 0)
    if product.call not in evidence.deltas[0]:
        return
    delta = evidence.deltas[0][product.call]
    usual = delta.T @ product.left.detach()
    for i in sorted(evidence.wrong):
        data = evidence.generic[0].right[i] - evidence.penalties[0][i]
        turned = evidence.close(data, usual.T, i)
        if not (turned or evidence.close(data, usual, i)):
            continue

        def gradient(k: int, other: Tensor, i: int = i, turned: bool = turned, keep: slice = slice(None)) -> Tensor:
            found = evidence.deltas[k][product.call][keep].T @ other[keep]
            return (found.T if turned else found) + evidence.penalties[k][i]

        for number, call in enumerate(run.calls):
            if call.output.shape == product.left.shape and not torch.equal(call.output, product.left):
                others = (h for name, h in ACTIVATIONS.items() if name != "identity")
                before = any(torch.equal(h.forward(call.output), product.left) for h in others)
                fault = "preactivation" if before else "other-layer-input"

                def predict(k: int, i: int = i, number: int = number, gradient: Any = gradient) -> Prediction:
                    return only(i, n, gradient(k, _run(evidence, k).calls[number].output.detach()))

                what = "the net input u below" if before else f"the result of {call.name} (call {number + 1})"
                words = f"{evidence.names[i]} is δ times {what}, in {layer}"
                yield Guess(fault, words, predict)
        for j, leaf in enumerate(run.leaves):
            if leaf.shape == product.left.shape and not torch.equal(leaf, product.left):

                def with_leaf(k: int, i: int = i, j: int = j, gradient: Any = gradient) -> Prediction:
                    return only(i, n, gradient(k, _run(evidence, k).leaves[j].detach()))

                words = f"{evidence.names[i]} is δ times {evidence.arguments[j]}, in {layer}"
                yield Guess("other-layer-input", words, with_leaf)
        for fault, _, keep in samples(len(delta)):

            def some(k: int, i: int = i, keep: slice = keep, gradient: Any = gradient) -> Prediction:
                left = product_of(product.call, _run(evidence, k).calls[product.call])
                return only(i, n, gradient(k, left.left.detach(), keep=keep) if left else None)

            yield Guess(fault, f"{evidence.names[i]} is that of samples {keep.start} to {keep.stop - 1}", some)


def _updated_first(evidence: Evidence) -> Iterator[Guess]:
    """δ pulled back through W − η ∂E/∂W, with one η for all: found by fitting the first wrong gradient."""

    def predicted(k: int, lr: float) -> Prediction | None:
        def intervene(number: int, call: Call) -> Tensor:
            product = product_of(number, call)
            if product is None or not (product.left.requires_grad and call.output.requires_grad):
                return call.output
            left, right = product.left.detach(), product.right.detach()
            kept = call.output - product.left @ right + left @ right

            def pull(g: Tensor) -> Tensor:
                return g @ (right - lr * (left.T @ g)).T

            return kept + with_gradient(torch.zeros_like(call.output), (product.left, pull))

        return evidence.replayed(k, intervene)

    i, lr = min(evidence.wrong), 1e-3
    claimed, right = evidence.generic[0].claimed[i], evidence.generic[0].right[i]
    if claimed.shape != right.shape:
        return
    for _ in range(12):
        found = predicted(0, lr)
        if found is None or found[i] is None:
            return
        moved = found[i] - right  # type: ignore[operator]
        length = float((moved * moved).sum())
        fit = float((moved * (claimed - right)).sum()) / length if length > 0 else 0.0
        if not 0 < fit * lr < 1e3:
            return
        lr *= fit
    words = f"{{grads}} the right one through W − {lr:.4g} ∂E/∂W in place of W"
    yield Guess("weights-updated-first", words, lambda k: predicted(k, lr), "updated")


def _bias(evidence: Evidence, run: Run) -> Iterator[Guess]:
    """A gradient that should be δ summed over the samples, and is δ summed in another way."""
    n, right = len(evidence.wanted), evidence.generic[0].right
    ways: list[tuple[str, str, Callable[[Tensor], Tensor]]] = [
        ("bias-wrong-axis", "δ summed over the outputs", lambda d: d.sum(1)),
        ("bias-wrong-axis", "δ averaged over the outputs", lambda d: d.mean(1)),
        (
            "bias-wrong-axis",
            "δ summed over the outputs, cut to the length of the bias",
            lambda d: d.sum(1)[: d.shape[1]],
        ),
        ("summed-too-much", "all of δ in one sum", lambda d: d.sum().expand(d.shape[1])),
        ("first-sample", "δ of the first sample alone", lambda d: d[0]),
        ("first-sample", "δ of the last sample alone", lambda d: d[-1]),
        ("sample-dropped", "δ without the last sample", lambda d: d[:-1].sum(0)),
        ("sample-dropped", "δ without the first sample", lambda d: d[1:].sum(0)),
        ("not-summed", "δ itself", lambda d: d),
    ]
    for i in sorted(evidence.wrong):
        calls = [c for c, d in evidence.deltas[0].items() if d.ndim == 2 and evidence.close(right[i], d.sum(0), i)]
        for fault, words, way in ways if calls else ():

            def predict(k: int, i: int = i, way: Any = way, call: int = (calls or [0])[0]) -> Prediction:
                return only(i, n, way(evidence.deltas[k][call]))

            yield Guess(fault, f"{evidence.names[i]} is {words}", predict)


def _samples(evidence: Evidence, run: Run) -> Iterator[Guess]:
    """Only some samples of the last matrix before the output count."""
    if run.output.ndim:
        return  # their rows of grad_output have been left out already
    batch = evidence.batch
    rows = [
        k for k, c in enumerate(run.calls) if c.output.ndim == 2 and len(c.output) == batch and c.output.requires_grad
    ]
    if not rows or not batch or batch < 2:
        return
    for fault, words, keep in samples(batch):

        def intervene(number: int, call: Call, keep: slice = keep) -> Tensor:
            if number != rows[-1]:
                return call.output

            def pull(g: Tensor) -> Tensor:
                cut = torch.zeros_like(g)
                cut[keep] = g[keep]
                return cut

            return with_gradient(call.output, (call.output, pull))

        yield Guess(fault, words, partial(evidence.replayed, intervene=intervene), words)
