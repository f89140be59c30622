"""Networks: their parameters and the order of the operations (eqs. 3.4, 3.11, 3.17, 3.18), and banks of perceptrons."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from nnlab.ops import (
    ACTIVATIONS,
    StepFunction,
    bipolar_step,
    linear_backward,
    linear_backward_parameters,
    linear_forward,
    perceptron_predict,
    perceptron_rule,
    step,
)
from nnlab.validation import ArgumentError, check_at_least, check_choice, check_labels, check_positive, check_tensors

__all__ = ["MLP", "Activation", "Gradients", "Linear", "Pass", "PerceptronBank", "mlp_backward", "mlp_forward"]

LinearFunction = Callable[[Tensor, Tensor, Tensor], Tensor]  # x, weight, bias -> u
ActivationFunction = Callable[[Tensor, str], Tensor]  # u, name -> z


class Pass(NamedTuple):
    """What the gradients of one layer need from the forward pass."""

    x: Tensor  # its input o⁽ᵏ⁻¹⁾, (N, I)
    weight: Tensor  # (O, I)
    u: Tensor  # (N, O)
    z: Tensor  # its output o⁽ᵏ⁾, (N, O)


class Gradients(NamedTuple):
    """The result of backpropagation."""

    x: Tensor | None  # ∂E/∂x, (N, I), where it was asked for
    parameters: tuple[Tensor, ...]  # ∂E/∂W⁽¹⁾, ∂E/∂b⁽¹⁾, …, ∂E/∂W⁽ᵐ⁾, ∂E/∂b⁽ᵐ⁾
    deltas: tuple[Tensor, ...]  # δ⁽¹⁾, …, δ⁽ᵐ⁾, (N, O) each (eq. 3.7)


def activate(u: Tensor, name: str) -> Tensor:
    """z = h(u), h the activation of that name."""
    return ACTIVATIONS[name].forward(u)


def mlp_forward(x: Tensor, parameters: Sequence[Tensor], activations: Sequence[str]) -> list[Pass]:
    """Forward propagation o⁽ᵏ⁾ = h⁽ᵏ⁾(W⁽ᵏ⁾ o⁽ᵏ⁻¹⁾ + b⁽ᵏ⁾), k = 1 … m (eq. 3.4); the last pass has the output y.

    The parameters are W⁽¹⁾, b⁽¹⁾, …, W⁽ᵐ⁾, b⁽ᵐ⁾, and there is a name of ``nnlab.ops.ACTIVATIONS`` for each layer.
    """
    passes: list[Pass] = []
    for weight, bias, name in zip(parameters[::2], parameters[1::2], activations, strict=True):
        u = linear_forward(x, weight, bias)  # eq. 3.1
        passes.append(Pass(x, weight, u, activate(u, name)))  # eq. 3.2
        x = passes[-1].z
    return passes


def mlp_backward(
    grad_y: Tensor, passes: Sequence[Pass], activations: Sequence[str], with_input: bool = False
) -> Gradients:
    """Backpropagation: from ∂E/∂y, (N, K), each layer's δ = ∂E/∂u, and from its δ the gradients of its parameters.

    ``with_input`` asks for ∂E/∂x too, which is one more matrix product.
    """
    if len(passes) != len(activations):
        raise ArgumentError("passes", f"must be one for each of {len(activations)} layers, got {len(passes)}")
    parameters: list[Tensor] = []
    deltas: list[Tensor] = []
    grad_z = grad_y  # at the output layer the first factor of eq. 3.11, as (y − t)
    for k in reversed(range(len(passes))):
        x, weight, u, z = passes[k]
        activation = ACTIVATIONS[activations[k]]
        delta = activation.backward(grad_z, u if activation.saves == "u" else z)  # eqs. 3.11 and 3.17: times h'(u)
        if k > 0 or with_input:
            grad_z, *gradients = linear_backward(delta, x, weight)  # eq. 3.17: Σ_l δ_l w_lj; eq. 3.18: δ_j o_i
        else:
            gradients = [*linear_backward_parameters(delta, x)]
        deltas.insert(0, delta)
        parameters[:0] = gradients
    return Gradients(grad_z if with_input else None, tuple(parameters), tuple(deltas))


# torch has no public way to ask a module for its hooks, nor for those of all modules
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _hooked(module: nn.Module) -> bool:
    """Whether a module, or one within it, has a hook of its own or one of all modules."""
    everywhere = any(getattr(nn.modules.module, f"_global{hooks}") for hooks in _HOOKS)
    return everywhere or any(getattr(each, hooks) for each in module.modules() for hooks in _HOOKS)


class Linear(nn.Module):
    """A layer's weight, (O, I), and bias, (O,): u = x Wᵀ + b."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor, function: LinearFunction = linear_forward) -> Tensor:
        """u, (N, O), of x, (N, I); ``function`` computes it, and the weight and the bias are read once."""
        return function(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """The sizes, for ``print``."""
        return "{1}, {0}".format(*self.weight.shape)


class Activation(nn.Module):
    """An activation by its name in ``nnlab.ops.ACTIVATIONS``: z = h(u)."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, u: Tensor, function: ActivationFunction = activate) -> Tensor:
        """z, (N, O), of u; ``function`` computes it."""
        return function(u, self.name)

    def extra_repr(self) -> str:
        """The name, for ``print``."""
        return self.name


class MLP(nn.Module):
    """A multi-layer perceptron of any depth: linear layers and activations by turns, as in ``torch.nn.Sequential``.

    ``network(x)`` is an ordinary module that autograd differentiates. ``propagate`` and ``backward`` compute the
    hand-written gradient, and ``nnlab.autograd.mlp(network, x)`` makes autograd use it. Parameters are named as in the
    ``Sequential`` of ``to_sequential``: a ``state_dict`` of one loads into the other.

    >>> network = MLP([2, 3, 1], "tanh", generator=torch.Generator().manual_seed(0))
    >>> network
    MLP(
      (0): Linear(2, 3)
      (1): Activation(tanh)
      (2): Linear(3, 1)
      (3): Activation(identity)
    )
    >>> passes = network.propagate(torch.ones(5, 2))
    >>> gradients = network.backward(torch.ones(5, 1), passes)
    >>> [tuple(g.shape) for g in gradients.parameters], [tuple(delta.shape) for delta in gradients.deltas]
    ([(3, 2), (3,), (1, 3), (1,)], [(5, 3), (5, 1)])

    Args:
        sizes: the numbers of inputs, of units of each hidden layer, and of outputs, such as [784, 100, 10].
        activation: one name for the hidden layers, the output layer then giving logits (identity), or a name for each
            layer, the output layer included.
        generator: source of the random weights; torch's default generator when None.
        init_std: standard deviation of the normal weights (the chapter's class has 0.1); when None, that of the
            activation's row. Biases start at 0.
        dtype: of the parameters; torch's default dtype when None.
        device: of the parameters. The weights are drawn on the generator's device, so that a CPU generator gives the
            same weights everywhere.

    Raises:
        ArgumentError: fewer than two sizes, a size below 1, an unknown activation, or not one for each layer.
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
        self.sizes, self.activations = tuple(sizes), tuple(names)
        draw_on = generator.device if generator is not None else "cpu"
        for k, (n_in, n_out, name) in enumerate(zip(sizes[:-1], sizes[1:], names, strict=True)):
            std = init_std or ACTIVATIONS[name].initial_std(n_in, n_out)
            weight = torch.empty(n_out, n_in, dtype=dtype, device=draw_on).normal_(0, std, generator=generator)
            bias = torch.zeros(n_out, dtype=dtype, device=device)  # where no device is named, torch's default
            self.add_module(str(2 * k), Linear(weight.to(bias.device), bias))
            self.add_module(str(2 * k + 1), Activation(name))

    def __len__(self) -> int:
        return 2 * len(self.activations)

    def __getitem__(self, index: int) -> nn.Module:
        """Layer ``index`` // 2: its linear part where the index is even, its activation where it is odd."""
        return list(self.children())[index]

    def __iter__(self) -> Iterator[nn.Module]:
        return self.children()

    def forward(
        self, x: Tensor, linear: LinearFunction = linear_forward, activation: ActivationFunction = activate
    ) -> Tensor:
        """The outputs y, (N, K), of x, (N, I) (eq. 3.4); every layer is called once, as the module that it is."""
        for k, layer in enumerate(self):
            x = layer(x, activation if k % 2 else linear)
        return x

    @torch.no_grad()
    def propagate(self, x: Tensor) -> list[Pass]:
        """Forward propagation with what ``backward`` needs of each layer, from the first to the last.

        Raises:
            ArgumentError: x does not fit, or a hook changes a layer's input or output, which ``backward`` could not
                know; autograd and ``nnlab.autograd.mlp`` do.
        """
        passes: list[Pass] = []

        def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            passes.append(Pass(x, weight, linear_forward(x, weight, bias), x))
            return passes[-1].u

        def activation(u: Tensor, name: str) -> Tensor:
            self._check_unchanged(u is passes[-1].u)
            passes[-1] = passes[-1]._replace(z=activate(u, name))
            return passes[-1].z

        given: Tensor = x
        output = self(x, linear, activation)
        for layer in passes:
            self._check_unchanged(layer.x is given)
            given = layer.z
        self._check_unchanged(output is given)
        return passes

    @staticmethod
    def _check_unchanged(same: bool) -> None:
        if not same:
            raise ArgumentError(
                "network", "must have no hook that changes a layer's input or output, got one that does"
            )

    @torch.no_grad()
    def backward(self, grad_y: Tensor, passes: Sequence[Pass], with_input: bool = False) -> Gradients:
        """``mlp_backward`` from ∂E/∂y, (N, K): the gradients of the weights and biases as ``propagate`` read them."""
        return mlp_backward(grad_y, passes, self.activations, with_input)

    @property
    def plain(self) -> bool:
        """Whether every layer is as it was made, without a hook, a parametrisation, pruning or a forward of its own.

        Only then do ``parameters()`` and ``activations`` say all that there is to know of the network.
        """
        made = all(type(layer) is (Activation if k % 2 else Linear) for k, layer in enumerate(self))
        own = any("forward" in vars(module) for module in self.modules())
        return made and not own and not _hooked(self)

    def to_sequential(self) -> nn.Sequential:
        """The same network in torch's own modules, holding a copy of the parameters.

        Raises:
            ArgumentError: the network is not ``plain``, so that a copy would compute something else.
        """
        if not self.plain:
            raise ArgumentError(
                "network", "must have no hook, parametrisation, pruning or forward of its own to be copied, got one"
            )
        twin = nn.Sequential()
        for n_in, n_out, name in zip(self.sizes[:-1], self.sizes[1:], self.activations, strict=True):
            twin.append(nn.Linear(n_in, n_out, device="meta")).append(ACTIVATIONS[name].module())
        twin.load_state_dict({key: value.clone() for key, value in self.state_dict().items()}, assign=True)
        return twin

    @classmethod
    def from_sequential(cls, model: nn.Sequential) -> Self:
        """The network that computes the same as a ``Sequential``, with a copy of its parameters.

        A linear layer that no activation follows gets the identity.

        Raises:
            ArgumentError: a module is neither a linear layer with a bias nor an activation of the table, layers do not
                fit one another, dtypes or devices differ, or a module has a hook or pruning.
        """
        if not isinstance(model, nn.Sequential):
            raise ArgumentError("model", f"must be a torch.nn.Sequential, got {type(model).__name__}")
        if _hooked(model):
            raise ArgumentError("model", "must have no hook and no pruning to be copied, got one")
        linears: list[nn.Linear] = []
        names: list[str] = []
        for index, module in enumerate(model):
            own = getattr(module.forward, "__func__", None) is not nn.Linear.forward
            if isinstance(module, nn.Linear) and module.bias is not None and not own:
                names += ["identity"] * (len(linears) - len(names))
                linears.append(module)
            elif len(names) < len(linears) and (name := _activation_name(module)) is not None:
                names.append(name)
            else:
                known = ", ".join(repr(row.module()) for row in ACTIVATIONS.values())
                raise ArgumentError(
                    f"model[{index}]",
                    f"must be a Linear with a bias, or an activation after one ({known}), got {module}",
                )
        if not linears:
            raise ArgumentError("model", "must have at least one Linear layer, got none")
        names += ["identity"] * (len(linears) - len(names))
        sizes = [linears[0].in_features, *(layer.out_features for layer in linears)]
        for below, above in pairwise(linears):
            if below.out_features != above.in_features:
                raise ArgumentError("model", f"must have layers that fit one another, got {below} and {above}")
        values = [p.detach().clone() for layer in linears for p in (layer.weight, layer.bias)]
        if len(kinds := dict.fromkeys((p.dtype, p.device) for p in values)) > 1:
            found = " and ".join(f"{dtype} on {device}" for dtype, device in kinds)
            raise ArgumentError("model", f"must have parameters of one dtype on one device, got {found}")
        network = cls(sizes, names, dtype=values[0].dtype, device=values[0].device)
        network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
        return network


def _activation_name(module: nn.Module) -> str | None:
    """The name of the activation that a module of torch's computes."""

    def settings(module: nn.Module) -> tuple[object, ...]:
        given = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        return type(module), {key: value for key, value in given.items() if key not in ("training", "inplace")}

    return next((name for name, row in ACTIVATIONS.items() if settings(row.module()) == settings(module)), None)


class PerceptronBank(nn.Module):
    """K perceptrons with the same inputs, each of which learns one class against the others; or one, for two classes.

    Besides its weights the bank keeps the sums from which their average over all samples so far follows: with Δₛ the
    change made at sample s, the mean of w after samples 0 … T−1 is w − (Σₛ s Δₛ) / T. The average changes far less from
    sample to sample than the last weight does (Freund and Schapire, 1999).

    >>> bank = PerceptronBank(2, 1)
    >>> error = bank.learn_(torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([1, 0]), lr=0.5)
    >>> bank.weight, bank.averaged()[0]
    (Parameter containing:
    tensor([[-1.5000, -0.5000]]), tensor([[-0.7500, -0.2500]]))

    Args:
        n_features: I.
        n_units: K; 1 for two classes.
        bipolar: whether the desired outputs are −1 and +1 in place of 0 and 1.
        dtype: of the weights; on whole numbers, float64 makes every sum exact.
        device: of the weights, which start at zero.

    Raises:
        ArgumentError: n_features or n_units is below 1.
    """

    weight_lag: Tensor
    bias_lag: Tensor
    n_samples: Tensor

    def __init__(
        self,
        n_features: int,
        n_units: int,
        *,
        bipolar: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_at_least("n_features", n_features, 1)
        check_at_least("n_units", n_units, 1)
        self.bipolar = bipolar
        weight = torch.zeros(n_units, n_features, dtype=dtype, device=device)
        bias = torch.zeros(n_units, dtype=dtype, device=device)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.register_buffer("weight_lag", weight.clone())
        self.register_buffer("bias_lag", bias.clone())
        self.register_buffer("n_samples", torch.zeros((), dtype=torch.int64, device=device))

    @property
    def g(self) -> StepFunction:
        """The units' step function."""
        return bipolar_step if self.bipolar else step

    def desired(self, labels: Tensor) -> Tensor:
        """Desired outputs d, (N, K), of class labels, (N,) int64: the label's unit high, all others low."""
        n_units = len(self.weight)
        units = labels[:, None] == torch.arange(n_units, device=labels.device) if n_units > 1 else labels[:, None] == 1
        high = units.to(self.weight.dtype)
        return 2 * high - 1 if self.bipolar else high

    def learn_(self, x: Tensor, labels: Tensor, lr: float) -> Tensor:
        """Learn samples x, (N, I), with labels, (N,) int64, in their order, by ``perceptron_rule``, in place.

        ``nnlab.engine.PerceptronEngine`` does the same faster.

        Returns:
            the error y − d of each unit at each sample, (N, K).

        Raises:
            ArgumentError: shapes, dtypes or devices disagree, a label is out of range, or η is not greater than 0.
        """
        check_tensors(x=(x, "N I"), weight=(self.weight, "K I"))
        check_labels(labels, x, max(2, len(self.weight)), "labels", everywhere=True)
        error, weight, bias = perceptron_rule(x, self.desired(labels), self.weight, self.bias, lr, self.g)
        self.store_(error, weight, bias, x, lr)
        return error

    @torch.no_grad()
    def store_(self, error: Tensor, weight: Tensor, bias: Tensor, x: Tensor, lr: float) -> None:
        """Store what the rule returned for samples x, (N, I), and add the changes to the sums for the average."""
        weight_lag, bias_lag = self.weight_lag.clone(), self.bias_lag.clone()
        for n in error.any(1).nonzero().flatten().tolist():
            change = error[n] * lr * (n + self.n_samples)
            weight_lag -= change[:, None] * x[n]
            bias_lag -= change
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        self.weight_lag.copy_(weight_lag)
        self.bias_lag.copy_(bias_lag)
        self.n_samples += len(x)

    def averaged(self) -> tuple[Tensor, Tensor]:
        """The mean over all samples so far of the weight, (K, I), and of the bias, (K,), as each sample left them."""
        n = self.n_samples.clamp(min=1)
        return self.weight - self.weight_lag / n, self.bias - self.bias_lag / n

    def forward(self, x: Tensor, average: bool = False) -> Tensor:
        """Net inputs u, (N, K), of x, (N, I), with the last or the averaged weights."""
        return linear_forward(x, *(self.averaged() if average else (self.weight, self.bias)))

    def predict(self, x: Tensor, average: bool = False) -> Tensor:
        """Class labels, (N,) int64: the unit with the largest net input, or for one unit whether u >= 0."""
        return perceptron_predict(self(x, average))
