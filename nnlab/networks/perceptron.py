"""A bank of perceptrons, one per class, and their average over training."""

import torch
from torch import Tensor, nn

from nnlab.ops import (
    StepFunction,
    bipolar_step,
    perceptron_net_input,
    perceptron_predict,
    perceptron_rule_blocked,
    step,
)
from nnlab.ops.perceptron_sample import change_
from nnlab.validation import check_at_least, check_labels, check_tensors


class PerceptronBank(nn.Module):
    """K perceptrons that share their inputs and learn one against all the others, or one that tells two classes apart.

    Besides its weights the bank keeps the sums from which their average over all samples met so far follows: with Δₛ
    the change made at sample s, the mean of w after samples 0 … T−1 is w − (Σₛ s Δₛ) / T. The average gives each
    weight a vote for every sample it survived (Freund and Schapire, 1999), and is far steadier than the last weight.

    >>> bank = PerceptronBank(2, 1)
    >>> error = bank.learn_(torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([1, 0]), lr=0.5)
    >>> bank.weight, bank.averaged()[0]
    (Parameter containing:
    tensor([[-1.5000, -0.5000]]), tensor([[-0.7500, -0.2500]]))

    Args:
        n_features: I.
        n_units: K; 1 for two classes.
        bipolar: desired outputs −1 and +1 in place of 0 and 1.
        dtype: of the weights; on whole numbers, float64 makes every sum exact.
        device: of the weights, which start at zero.

    Raises:
        ValueError: n_features or n_units below 1.
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
        """Desired outputs d, (N, K), for class labels, (N,) int64: the label's unit high, all others low."""
        n_units = len(self.weight)
        units = labels[:, None] == torch.arange(n_units, device=labels.device) if n_units > 1 else labels[:, None] == 1
        high = units.to(self.weight.dtype)
        return 2 * high - 1 if self.bipolar else high

    def learn_(self, x: Tensor, labels: Tensor, lr: float) -> Tensor:
        """Learn the samples in the given order by the perceptron rule, in place.

        Args:
            x: (N, I).
            labels: class labels, (N,) int64.
            lr: η > 0.

        Returns:
            the error y − d of each unit as each sample was met, (N, K).

        Raises:
            ValueError: shapes, dtypes or devices disagree, a label out of range, or η is not greater than 0.
        """
        check_tensors(x=(x, "N I"), weight=(self.weight, "K I"))
        check_labels(labels, x, max(2, len(self.weight)), "labels", everywhere=True)
        error, weight, bias = perceptron_rule_blocked(x, self.desired(labels), self.weight, self.bias, lr, self.g)
        weight_lag, bias_lag = self.weight_lag.clone(), self.bias_lag.clone()
        for n in error.any(1).nonzero().flatten().tolist():
            change_(weight_lag, bias_lag, error[n] * lr * (n + self.n_samples), x[n])
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        self.weight_lag.copy_(weight_lag)
        self.bias_lag.copy_(bias_lag)
        self.n_samples += len(x)
        return error

    def averaged(self) -> tuple[Tensor, Tensor]:
        """The mean over all samples met of the weight, (K, I), and of the bias, (K,), as each sample left them."""
        n = self.n_samples.clamp(min=1)
        return self.weight - self.weight_lag / n, self.bias - self.bias_lag / n

    def forward(self, x: Tensor, average: bool = False) -> Tensor:
        """Net inputs u, (N, K), of x, (N, I), with the last or the averaged weights."""
        return perceptron_net_input(x, *(self.averaged() if average else (self.weight, self.bias)))

    def predict(self, x: Tensor, average: bool = False) -> Tensor:
        """Class labels, (N,) int64: the unit with the largest net input, or for one unit whether u >= 0."""
        return perceptron_predict(self(x, average))
