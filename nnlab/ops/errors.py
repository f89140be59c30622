"""The errors Eₙ of single samples, (N,), which a loss adds up; their gradients stand beside the losses."""

from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid


def squares(logits: Tensor, target: Tensor) -> Tensor:
    """Eₙ = ½ Σₖ (yₖ − tₖ)², from y and t, each (N, K)."""
    return 0.5 * (logits - target).square().sum(1)


def logistic(logits: Tensor, target: Tensor) -> Tensor:
    """Eₙ = −Σₖ [tₖ log σ(uₖ) + (1 − tₖ) log(1 − σ(uₖ))], from u and t, each (N, K)."""
    return -(target * logsigmoid(logits) + (1 - target) * logsigmoid(-logits)).sum(1)  # 1 − σ(u) = σ(−u)


def softmax(logits: Tensor, target: Tensor) -> Tensor:
    """Eₙ = log Σₖ e^{uₖ} − u_t, from u, (N, K), and labels t, (N,)."""
    # with a class's logits side by side it takes a few long vectors, not as many short ones as there are samples
    return -log_softmax(logits.T, 0).gather(0, target[None]).squeeze(0)
