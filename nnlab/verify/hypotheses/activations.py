"""Mistakes with h': any activation inside the forward is found by its values, however it was written."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from nnlab.ops import ACTIVATIONS
from nnlab.verify.evidence import Evidence, Guess, Prediction
from nnlab.verify.trace import Call, Run, with_gradient

Factor = Callable[[Tensor, Tensor], Tensor]  # (u, z) -> what grad_output is multiplied by


def _value(h: str, u: Tensor) -> Tensor:
    return ACTIVATIONS[h].forward(u)


def _slope(h: str, u: Tensor, z: Tensor) -> Tensor:
    """h'(u)."""
    return _slope_of(h, u if ACTIVATIONS[h].saves == "u" else z)


def _slope_of(h: str, saved: Tensor) -> Tensor:
    """The formula of h' with any tensor in the place of what it takes, u or z."""
    return ACTIVATIONS[h].backward(torch.ones_like(saved), saved)


def _known() -> list[str]:
    return [h for h in ACTIVATIONS if h != "identity"]


class Place(NamedTuple):
    """Call number ``call`` returned z = h(u)."""

    call: int
    h: str
    u: Tensor
    z: Tensor


def places(run: Run) -> list[Place]:
    """Every call whose output is h of a tensor that was there before."""
    seen, found = list(run.leaves), []
    for k, call in enumerate(run.calls):
        z = call.output
        if z.requires_grad and z.numel() > 0 and not any(a is z for a in call.arguments):
            repeated = any(a.shape == z.shape and _equal(a, z) for a in call.arguments)
            named = call.name in _known() and len(call.arguments) > 0 and call.arguments[0].requires_grad
            if named:  # also where it changes nothing here: a relu of positive numbers
                found.append(Place(k, call.name, call.arguments[0], z))
            place = None if repeated or named else _source(k, z, seen)
            if place is not None:
                found.append(place)
        seen.append(z)
    return found


def _source(call: int, z: Tensor, seen: Sequence[Tensor]) -> Place | None:
    for u in seen:
        if u.shape == z.shape and u.requires_grad:
            for h in _known():
                if _equal(_value(h, u), z) and not _equal(u, z):
                    return Place(call, h, u, z)
    return None


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and bool(((one - other).abs() <= 1e-9 * (1 + other.abs())).all())


def guesses(evidence: Evidence) -> Iterator[Guess]:
    """Each wrong factor, at every place and at each."""
    run = next((r for r in evidence.runs if r is not None), None)
    if run is None:
        return
    found = places(run)
    sets = ([(found, "everywhere")] if len(found) > 1 else []) + [([place], _name(place, found)) for place in found]
    for chosen, where in sets:
        kinds = sorted({place.h for place in chosen})
        for fault, words, factors in _factors(kinds):
            yield Guess(fault, f"{words} {where}", _replaced(evidence, chosen, factors), f"{words} {where}")
        yield from _masked(evidence, chosen, where)
    yield from _other_layer(evidence, found)
    yield from _softmax(evidence, run)


def _name(place: Place, found: Sequence[Place]) -> str:
    return f"at the {place.h}" if len(found) == 1 else f"at the {place.h} of layer {found.index(place) + 1}"


def _factors(kinds: Sequence[str]) -> Iterator[tuple[str, str, dict[str, Factor]]]:
    """The wrong factors for each activation of the places; h' itself where the mistake leaves an activation right."""

    def for_all(factor: Callable[[str], Factor]) -> dict[str, Factor]:
        return {h: factor(h) for h in kinds}

    yield (
        "derivative-missing",
        "{grads} the right one without h'(u)",
        for_all(lambda h: lambda u, z: torch.ones_like(z)),
    )
    yield (
        "derivative-at-output",
        "{grads} the right one with h' taken at h(u)",
        for_all(lambda h: lambda u, z: _slope(h, z, _value(h, z))),
    )
    yield (
        "derivative-fed-u",
        "{grads} the right one with u put for z in h'",
        for_all(lambda h: lambda u, z: _slope_of(h, u)),
    )
    yield "derivative-twice", "{grads} the right one with h'²", for_all(lambda h: lambda u, z: _slope(h, u, z) ** 2)
    yield (
        "derivative-divided",
        "{grads} the right one with 1/h'",
        for_all(lambda h: lambda u, z: _slope(h, u, z) if h == "relu" else 1 / _slope(h, u, z)),
    )
    yield "value-for-derivative", "{grads} the right one with h(u) for h'(u)", for_all(lambda h: lambda u, z: z)
    for other in _known():
        if [other] != kinds:
            words = f"{{grads}} the right one with the derivative of {other}"
            yield "derivative-of-other", words, dict.fromkeys(kinds, partial(_of_output, other))
            yield "derivative-of-other", words, dict.fromkeys(kinds, partial(_of_input, other))
    if "tanh" in kinds:
        right = for_all(lambda h: lambda u, z: _slope(h, u, z))
        yield "square-missing", "{grads} the right one with 1 − z for 1 − z²", {**right, "tanh": lambda u, z: 1 - z}
    if "relu" in kinds:
        right = for_all(lambda h: lambda u, z: _slope(h, u, z))
        inverted: Factor = lambda u, z: (u <= 0).to(u.dtype)  # noqa: E731
        yield "mask-inverted", "{grads} the right one with the mask inverted", {**right, "relu": inverted}


def _of_output(h: str, u: Tensor, z: Tensor) -> Tensor:
    return _slope_of(h, z)


def _of_input(h: str, u: Tensor, z: Tensor) -> Tensor:
    return _slope(h, u, _value(h, u))


def _replaced(
    evidence: Evidence, chosen: Sequence[Place], factors: dict[str, Factor]
) -> Callable[[int], Prediction | None]:
    """The gradients with another factor at the chosen places."""

    def pull(place: Place) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return lambda g, u, z: g * factors[place.h](u, z)

    return _pulled(evidence, {place.call: (place, pull(place)) for place in chosen})


def _pulled(
    evidence: Evidence, pulls: dict[int, tuple[Place, Callable[[Tensor, Tensor, Tensor], Tensor]]]
) -> Callable[[int], Prediction | None]:
    def predict(k: int) -> Prediction | None:
        seen: list[Tensor] = []

        def intervene(number: int, call: Call) -> Tensor:
            seen.extend(call.arguments)
            if number not in pulls:
                seen.append(call.output)
                return call.output
            place, pull = pulls[number]
            source = _find(place, call.output, list(reversed(seen)))
            if source is None:
                seen.append(call.output)
                return call.output
            u, z = source.detach(), call.output.detach()
            output = with_gradient(z, (source, lambda g: pull(g, u, z)))
            seen.append(output)
            return output

        return evidence.replayed(k, intervene)

    return predict


def _find(place: Place, z: Tensor, candidates: Sequence[Tensor]) -> Tensor | None:
    for u in candidates:
        if u.shape == z.shape and u.requires_grad and _equal(_value(place.h, u), z):
            return u
    return None


def _masked(evidence: Evidence, chosen: Sequence[Place], where: str) -> Iterator[Guess]:
    relus = {p.call: (p, lambda g, u, z: g * (g > 0)) for p in chosen if p.h == "relu"}
    if relus:
        words = f"{{grads}} the right one with the mask taken of grad_output {where}"
        yield Guess("cotangent-masked", words, _pulled(evidence, relus), words)
        both = {p.call: (p, lambda g, u, z: g * (g > 0) * (z > 0)) for p in chosen if p.h == "relu"}
        yield Guess("cotangent-masked", words, _pulled(evidence, both), words + " too")


def _softmax(evidence: Evidence, run: Run) -> Iterator[Guess]:
    """A softmax whose outputs are taken to depend on their own input alone."""
    for number, call in enumerate(run.calls):
        if call.name in {"softmax", "_softmax"} and call.arguments[0].requires_grad:

            def intervene(at: int, call: Call, number: int = number) -> Tensor:
                if at != number:
                    return call.output
                z = call.output.detach()
                return with_gradient(z, (call.arguments[0], lambda g: g * z * (1 - z)))

            words = "{grads} the right one with z (1 − z) for the softmax's Jacobian"
            yield Guess("softmax-diagonal", words, partial(evidence.replayed, intervene=intervene), str(number))


def _other_layer(evidence: Evidence, found: Sequence[Place]) -> Iterator[Guess]:
    """The derivative of one layer taken at another tensor of the same shape."""
    first = evidence.runs[0]
    for here in found:
        for number, call in enumerate(first.calls if first else ()):
            if call.output.shape == here.z.shape and number != here.call and call.output.requires_grad:

                def predict(k: int, here: Place = here, number: int = number) -> Prediction | None:
                    run = evidence.runs[k]
                    if run is None:
                        return None
                    other = run.calls[number].output.detach()
                    return _pulled(evidence, {here.call: (here, lambda g, u, z: g * _slope_of(here.h, other))})(k)

                words = f"{{grads}} the right one with h' {_name(here, found)} taken at the result of {call.name}"
                yield Guess("derivative-other-layer", f"{words} (call {number + 1})", predict, f"{here.call} {number}")
