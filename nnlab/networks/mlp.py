"""The multi-layer perceptron: its parameters, forward propagation (eq. 3.4) and backpropagation (eqs. 3.11 to 3.18)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnlab.ops import (
    ACTIVATIONS,
    linear_backward_input,
    linear_backward_parameters,
    linear_forward,
)
from nnlab.validation import ArgumentError, check_at_least, check_choice, check_positive

_MODULES = {"identity": nn.Identity, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


class Gradients(NamedTuple):
    """What backpropagation found: ∂E/∂x, (N, I), where it was asked for, and ∂E/∂w in the order of the parameters."""

    x: Tensor | None
    parameters: tuple[Tensor, ...]


def mlp_forward(
    x: Tensor, parameters: Sequence[Tensor], activations: Sequence[str], masks: Sequence[Tensor] = ()
) -> tuple[Tensor, ...]:
    """Forward propagation through m layers, o⁽ᵏ⁾ = h⁽ᵏ⁾(W⁽ᵏ⁾ o⁽ᵏ⁻¹⁾ + b⁽ᵏ⁾).

    Args:
        x: the inputs o⁽⁰⁾, (N, I).
        parameters: W⁽¹⁾, b⁽¹⁾, …, W⁽ᵐ⁾, b⁽ᵐ⁾ of shapes (O, I), (O,) per layer.
        activations: the name of h⁽ᵏ⁾ for each layer.
        masks: dropout, for each hidden layer a tensor (N, O) by which its output is multiplied on its way to the next
            layer; none when empty.

    Returns:
        the cache (o⁽⁰⁾, …, o⁽ᵐ⁾): the input, the output of each layer before its mask, last the network's output y.

    Raises:
        ValueError: shapes, dtypes or devices disagree.

    Source: chapter 3, eqs. 3.1 to 3.4.
    """
    outputs = [x]
    for k, (weight, bias, name) in enumerate(zip(parameters[::2], parameters[1::2], activations, strict=True)):
        u = linear_forward(_masked(outputs[-1], masks, k), weight, bias)  # eq. 3.1
        outputs.append(ACTIVATIONS[name].forward(u))  # eq. 3.2
    return tuple(outputs)


def mlp_backward(
    grad_output: Tensor,
    cache: Sequence[Tensor],
    parameters: Sequence[Tensor],
    activations: Sequence[str],
    with_input: bool = False,
    masks: Sequence[Tensor] = (),
) -> Gradients:
    """Backpropagation: the sensitivities δ⁽ᵏ⁾ from the output layer down, and each layer's gradients from its δ.

    Args:
        grad_output: ∂E/∂y, (N, K).
        cache: what ``mlp_forward`` returned.
        parameters: as in the forward.
        activations: as in the forward.
        with_input: also compute ∂E/∂x, one more GEMM.
        masks: as in the forward.

    Returns:
        ∂E/∂x or None, and ∂E/∂W⁽¹⁾, ∂E/∂b⁽¹⁾, …, ∂E/∂W⁽ᵐ⁾, ∂E/∂b⁽ᵐ⁾.

    Raises:
        ValueError: shapes, dtypes or devices disagree.

    Source: chapter 3, eqs. 3.11, 3.17 and 3.18.
    """
    gradients: list[Tensor] = []
    grad_z = grad_output  # the output layer's first factor, (y − t) in eq. 3.11
    for k in range(len(activations) - 1, -1, -1):
        delta = ACTIVATIONS[activations[k]].backward(grad_z, cache[k + 1])  # eqs. 3.11 and 3.17: times h'(u)
        gradients[:0] = linear_backward_parameters(delta, _masked(cache[k], masks, k))  # eq. 3.18: δ_j o_i
        if k > 0 or with_input:
            grad_z = _masked(linear_backward_input(delta, parameters[2 * k]), masks, k)  # eq. 3.17: Σ_l δ_l w_lj
    return Gradients(grad_z if with_input else None, tuple(gradients))


def _masked(z: Tensor, masks: Sequence[Tensor], k: int) -> Tensor:
    """What enters layer k, or the gradient with respect to it before the mask; the data o⁽⁰⁾ have none."""
    return z * masks[k - 1] if masks and k > 0 else z


class MLP(nn.Module):
    """A multi-layer perceptron of any depth with gradients written by hand.

    Its parameters are named as those of the ``torch.nn.Sequential`` of ``to_sequential``, so a ``state_dict`` loads
    into either from the other. ``forward`` and ``backward`` record nothing for autograd; ``nnlab.autograd.mlp`` is the
    network for code that expects it.

    >>> network = MLP([2, 3, 1], "tanh", generator=torch.Generator().manual_seed(0))
    >>> cache = network.forward(torch.ones(5, 2))
    >>> [tuple(o.shape) for o in cache]
    [(5, 2), (5, 3), (5, 1)]
    >>> [tuple(g.shape) for g in network.backward(torch.ones(5, 1), cache).parameters]
    [(3, 2), (3,), (1, 3), (1,)]

    Args:
        sizes: numbers of inputs, of units of each hidden layer, and of outputs: [784, 100, 10].
        activation: one name for the hidden layers, the output layer then being linear (it gives logits), or a name for
            each layer, the output layer included.
        generator: the source of the random weights; torch's default generator when None.
        init_std: standard deviation of normal weights (the chapter's class has 0.1). When None: √(2 / I) for ReLU
            layers (He et al., 2015), √(2 / (I + O)) for others (Glorot and Bengio, 2010). Biases start at 0.
        dtype: of the parameters; torch's default dtype when None.
        device: of the parameters; the weights are drawn on the generator's device, so a CPU generator gives the same
            weights everywhere.

    Raises:
        ValueError: fewer than two sizes, a size below 1, an unknown activation, or not one per layer.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str | Sequence[str] = "relu",
        *,
        generator: torch.Generator | None = None,
        init_std: float | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if len(sizes) < 2:
            raise ArgumentError("sizes", f"must name at least the inputs and the outputs, got {list(sizes)}")
        for size in sizes:
            check_at_least("sizes", size, 1)
        n_layers = len(sizes) - 1
        names = [activation] * (n_layers - 1) + ["identity"] if isinstance(activation, str) else list(activation)
        if len(names) != n_layers:
            raise ArgumentError("activation", f"must name one activation for each of {n_layers} layers, got {names}")
        for name in [activation] if isinstance(activation, str) else names:
            check_choice("activation", name, ACTIVATIONS)
        if init_std is not None:
            check_positive("init_std", init_std)
        self.sizes = tuple(sizes)
        self.activations = tuple(names)
        for k, name in enumerate(names):
            n_in, n_out = sizes[k], sizes[k + 1]
            std = init_std or (2 / n_in if name == "relu" else 2 / (n_in + n_out)) ** 0.5
            draw_on = generator.device if generator is not None else "cpu"
            weight = torch.empty(n_out, n_in, dtype=dtype, device=draw_on).normal_(0, std, generator=generator)
            layer = nn.Module()
            layer.weight = nn.Parameter(weight.to(device))
            layer.bias = nn.Parameter(torch.zeros(n_out, dtype=dtype, device=device))
            self.add_module(str(2 * k), layer)  # the odd numbers are the Sequential twin's activations

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """``mlp_forward`` with this network's parameters: x, (N, I), to the cache (x, …, y)."""
        return mlp_forward(x, tuple(self.parameters()), self.activations)

    @torch.no_grad()
    def backward(self, grad_output: Tensor, cache: Sequence[Tensor], with_input: bool = False) -> Gradients:
        """``mlp_backward`` with this network's parameters: ∂E/∂y, (N, K), and the cache to ``Gradients``."""
        return mlp_backward(grad_output, cache, tuple(self.parameters()), self.activations, with_input)

    def extra_repr(self) -> str:
        """Sizes and activations, for ``print``."""
        return f"{list(self.sizes)}, {list(self.activations)}"

    def to_sequential(self) -> nn.Sequential:
        """The same network as plain torch modules, linear and activation by turns, holding a copy of the parameters."""
        twin = nn.Sequential()
        for n_in, n_out, name in zip(self.sizes[:-1], self.sizes[1:], self.activations, strict=True):
            twin.append(nn.Linear(n_in, n_out, device="meta")).append(_MODULES[name]())
        twin.load_state_dict({key: value.clone() for key, value in self.state_dict().items()}, assign=True)
        return twin
