"""Mistakes with the gradients of weights, biases and inputs, each in one layer or in all of them."""

from collections.abc import Callable

from torch import Tensor

from nnlab.verify.backprop import Backward, Layer
from nnlab.verify.mutants.draw import Draw, Make, chosen, with_steps
from nnlab.verify.subjects import Subject


def _layered(step: str, change: Callable[[Tensor, Layer], Tensor | None], usual: Callable[..., Tensor]) -> Make:
    """Another ``weight``, ``bias`` or ``down`` step in one layer or all of them."""

    def make(subject: Subject, draw: Draw) -> Backward | None:
        layers = chosen(subject, draw) if subject.layers else set()

        def changed(delta: Tensor, layer: Layer) -> Tensor:
            other = change(delta, layer) if layer.number in layers else None
            return usual(delta, layer) if other is None else other

        return with_steps(subject, **{step: changed}) if layers else None

    return make


def _weight(change: Callable[[Tensor, Layer], Tensor | None]) -> Make:
    return _layered("weight", change, lambda d, layer: d.T @ layer.o)


def _bias(change: Callable[[Tensor, Layer], Tensor | None]) -> Make:
    return _layered("bias", change, lambda d, layer: d.sum(0))


def _down(change: Callable[[Tensor, Layer], Tensor | None]) -> Make:
    return _layered("down", change, lambda d, layer: d @ layer.weight)


def _square(delta: Tensor, layer: Layer) -> bool:
    return layer.weight.shape[0] == layer.weight.shape[1]


def _neighbour(delta: Tensor, layer: Layer) -> Tensor | None:
    for k in (layer.number - 1, layer.number + 1):
        if 0 <= k < len(layer.all_inputs) and layer.all_inputs[k].shape == layer.o.shape:
            return delta.T @ layer.all_inputs[k]
    return None


LAYER_MUTANTS: dict[str, Make] = {
    "bias-averaged": _bias(lambda d, layer: d.mean(0)),
    "first-sample": _weight(lambda d, layer: d[:1].T @ layer.o[:1]),
    "sample-dropped": _weight(lambda d, layer: d[:-1].T @ layer.o[:-1]),
    "transposed": lambda s, draw: None if s.l2 else _weight(lambda d, layer: layer.o.T @ d)(s, draw),
    "weight-not-transposed": _down(lambda d, layer: d @ layer.weight.T if _square(d, layer) else None),
    "weight-skipped": _down(lambda d, layer: d if _square(d, layer) else None),
    "other-layer-input": _weight(_neighbour),
    "preactivation": _weight(lambda d, layer: d.T @ layer.all_u[layer.number - 1] if layer.number else None),
    "bias-wrong-axis": _bias(lambda d, layer: d.sum(1)),
    "not-summed": _bias(lambda d, layer: d),
    "summed-too-much": _bias(lambda d, layer: d.sum()),
    "keepdims": _bias(lambda d, layer: d.sum(0, keepdim=True)),
    "reversed": _weight(lambda d, layer: (d.T @ layer.o).flip(0)),
}
"""How to make each of them."""
