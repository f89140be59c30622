"""What an engine is given and gives back: updates and their forms in ``torch.optim``, dropout, outputs, errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nnlab.networks import MLP
from nnlab.ops import LOSSES
from nnlab.validation import ArgumentError, check_not_negative, check_positive


class Descent(NamedTuple):
    """v ← μ v + ∇E + λ w, w ← w − η v, as ``torch.optim.SGD`` does it; without momentum w ← w − η (∇E + λ w).

    ``weight_decay`` is λ, of every parameter, the biases included.

    Source: chapter 3, section 3.3.2; Polyak (1964) for the momentum.
    """

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def check(self) -> None:
        """Raise an ArgumentError for a setting out of range."""
        check_not_negative("lr", self.lr)
        check_not_negative("weight_decay", self.weight_decay)
        _check_below_one(momentum=self.momentum)

    def n_state(self, n: int) -> int:
        """How many tensors are remembered for n parameters: v of each, with momentum."""
        return n if self.momentum else 0

    def new_state(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """What is remembered before the first step."""
        return [torch.zeros_like(p) for p in parameters] if self.momentum else []

    def apply_(
        self, parameters: list[Tensor], gradients: list[Tensor], state: list[Tensor], lr: float | Tensor
    ) -> None:
        """A step by gradients, which change; η may be on the device. There, each line is one or two kernels."""
        if self.weight_decay:
            torch._foreach_add_(gradients, parameters, alpha=self.weight_decay)
        if self.momentum:
            torch._foreach_mul_(state, self.momentum)
            torch._foreach_add_(state, gradients)
        torch._foreach_sub_(parameters, torch._foreach_mul(state if self.momentum else gradients, lr))


class Adam(NamedTuple):
    """m ← β₁ m + (1 − β₁) ∇E, v ← β₂ v + (1 − β₂) (∇E)², w ← w − η m̂ / (√v̂ + ε), both corrected for starting at 0.

    Source: Kingma and Ba (2015), algorithm 1; ``torch.optim.Adam`` without its options.
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def check(self) -> None:
        """Raise an ArgumentError for a setting out of range."""
        check_not_negative("lr", self.lr)
        check_positive("epsilon", self.epsilon)
        _check_below_one(beta1=self.beta1, beta2=self.beta2)

    def n_state(self, n: int) -> int:
        """How many tensors are remembered for n parameters: all m, all v and the count of steps."""
        return 2 * n + 1

    def new_state(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """What is remembered before the first step."""
        count = torch.zeros((), dtype=torch.float32, device=parameters[0].device)
        return [*(torch.zeros_like(p) for _ in "mv" for p in parameters), count]

    def apply_(
        self, parameters: list[Tensor], gradients: list[Tensor], state: list[Tensor], lr: float | Tensor
    ) -> None:
        """A step by gradients; η may be on the device."""
        n = len(parameters)
        m, v, count = state[:n], state[n : 2 * n], state[2 * n]
        count.add_(1)
        torch._fused_adam_(
            *(parameters, gradients, m, v, [], [count] * n),
            lr=lr,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=0.0,
            eps=self.epsilon,
            amsgrad=False,
            maximize=False,
        )


Update = Descent | Adam


def _check_below_one(**settings: float) -> None:
    for name, value in settings.items():
        check_not_negative(name, value)
        if value >= 1:
            raise ArgumentError(name, f"must be less than 1, got {value!r}")


class Masks(NamedTuple):
    """Dropout of a call: which outputs of each hidden layer are kept, uint8 (n, O) of 0 and 1, and the factor on them.

    The factor is 1 / (1 − p), where p is the chance of an output to be left out.
    """

    kept: Sequence[Tensor]
    factor: float


class Run(NamedTuple):
    """What a call met: outputs, penalties and losses of each mini-batch before its step.

    Attributes:
        outputs: the network's, in the order of the call, (n, K).
        penalties: λ/2 Σ w² at each step, (steps,).
        losses: E of each mini-batch without the penalty, as the reduction says, (steps,).
    """

    outputs: Tensor
    penalties: Tensor
    losses: Tensor


class NotFiniteError(FloatingPointError):
    """Training met a NaN or an infinity; the parameters and the state are what they were before the call.

    Attributes:
        step: which mini-batch of the call, counted from 0; None where a replay of the call did not find it again.
        parameter: what is not finite after it, such as "weight of layer 1".
    """

    def __init__(self, step: int | None, parameter: str) -> None:
        self.step, self.parameter = step, parameter
        where = "of this call" if step is None else f"at mini-batch {step + 1} of this call"
        super().__init__(
            f"the {parameter} became NaN or infinite {where}: lower the learning rate, or scale the inputs"
        )

    def __reduce__(self) -> tuple[type[NotFiniteError], tuple[int | None, str]]:
        return NotFiniteError, (self.step, self.parameter)


class Support(NamedTuple):
    """Whether the engine takes something, and if not, why, in a sentence; true or false as a condition."""

    supported: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.supported


PRECISIONS = ("32-true", "64-true", "bf16-mixed")


def supports(
    network: nn.Module,
    loss: str,
    optimizer: Update | torch.optim.Optimizer | None = None,
    precision: str = "32-true",
    dropout: float = 0.0,
) -> Support:
    """Whether ``MLPEngine`` can train a network with a loss, an optimizer, Lightning's precision and dropout.

    >>> from nnlab.networks import MLP
    >>> network = MLP([784, 100, 10])
    >>> bool(supports(network, "softmax_cross_entropy", torch.optim.SGD(network.parameters(), lr=0.1)))
    True
    >>> supports(network, "softmax_cross_entropy", precision="16-mixed").reason
    'the engine computes in 32-true, 64-true or bf16-mixed, not in 16-mixed'
    """
    reason = next(_obstacles(network, loss, optimizer, precision, dropout), "")
    return Support(not reason, reason)


def _obstacles(network: nn.Module, loss: str, optimizer: Any, precision: str, dropout: float) -> Iterator[str]:
    """Each reason why the engine cannot take something, in a sentence."""
    if not isinstance(network, MLP) or type(network).forward is not MLP.forward:
        yield f"the engine trains nnlab.MLP, not {type(network).__name__}"
        return
    if not network.plain:
        yield "a layer has a hook, a parametrisation, pruning or a forward of its own"
    parameters = list(network.parameters())
    if not all(p.requires_grad for p in parameters):
        yield "a parameter is frozen"
    if not all(p.is_contiguous() for p in parameters):
        yield "a parameter is not contiguous"
    if parameters[0].device.type not in ("cpu", "cuda"):
        yield f"the engine computes on cpu and cuda, not on {parameters[0].device.type}"
    if loss not in LOSSES:
        yield f"the engine's losses are {', '.join(LOSSES)}, not {loss}"
    if precision not in PRECISIONS:
        yield f"the engine computes in {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, not in {precision}"
    if dropout and not 0 < dropout < 1:
        yield f"dropout must be from 0 to less than 1, got {dropout}"
    if dropout and len(parameters) == 2:
        yield "dropout needs a hidden layer"
    try:
        if isinstance(optimizer, torch.optim.Optimizer):
            optimizer = update_of(optimizer, parameters)
        if optimizer is not None:
            optimizer.check()
    except ArgumentError as error:
        yield str(error)


def update_of(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> Update:
    """The engine's form of an optimizer of torch's for these parameters, with its settings as of now.

    Raises:
        ArgumentError: the engine has no form of it, or of one of its settings.
    """
    kind, groups = type(optimizer), optimizer.param_groups
    if kind not in (torch.optim.SGD, torch.optim.Adam):
        raise ArgumentError("optimizer", f"must be torch.optim.SGD or Adam for the engine, got {kind.__name__}")
    if len(groups) != 1 or [*map(id, groups[0]["params"])] != [*map(id, parameters)]:
        raise ArgumentError("optimizer", "must have one group, of exactly the network's parameters, for the engine")
    group = groups[0]
    absent = ("nesterov", "dampening") if kind is torch.optim.SGD else ("amsgrad", "weight_decay")
    for name in (*absent, "maximize", "differentiable"):
        if group.get(name):
            raise ArgumentError(name, f"of {kind.__name__} must be off for the engine, got {group[name]}")
    if kind is torch.optim.SGD:
        return Descent(float(group["lr"]), group["momentum"], group["weight_decay"])
    beta1, beta2 = group["betas"]
    return Adam(float(group["lr"]), beta1, beta2, group["eps"])
