"""A process of its own, with TRITON_INTERPRET=1, that compares the Triton kernel with the rule on the CPU.

It prints how many runs were compared.
"""

import contextlib

import torch

from nnlab.engine import perceptron
from nnlab.engine.perceptron_triton import TritonKernel
from nnlab.networks import PerceptronBank
from tests.engine.test_perceptron import a_bank, by_the_rule, differing, draw_problem, ties


def run(
    bank: PerceptronBank, x: torch.Tensor, labels: torch.Tensor, order: torch.Tensor, lr: float, whole: bool
) -> None:
    """Errors and state are the rule's to the last bit; where numbers are not whole, but for decisions in the bound."""
    before = a_bank(bank.weight, bank.bias, bank.bipolar)
    before.load_state_dict(bank.state_dict())
    error = TritonKernel(bank, x, labels).learn_(order, lr)
    if whole:
        expected, state = by_the_rule(before, x[order], labels[order], lr)
        assert torch.equal(error, expected)
    else:
        _, outside, state = differing(before, x[order], labels[order], lr, error)
        assert outside == 0
    for name, value in bank.state_dict().items():
        assert torch.equal(value, state[name]), name


def main() -> None:
    torch.cuda.device = lambda device: contextlib.nullcontext()  # the tensors are on the CPU
    runs, cpu = 0, torch.device("cpu")
    for seed, (kind, n_units) in enumerate((("whole", 1), ("whole", 3), ("tenths", 3), ("any", 2)) * 2):
        dtype = (torch.float32, torch.float64)[seed // 4 % 2]
        bank, x, labels, orders, lr = draw_problem(3 * seed + 1, kind, n_units, dtype, cpu, bool(seed % 2))
        for order in orders:
            run(bank, x, labels, order[:20], lr, kind == "whole")
            runs += 1
    x = torch.tensor([[255.0], [0.0], [256.0]], dtype=torch.float64)  # one feature, and bytes that are none
    run(PerceptronBank(1, 2, dtype=torch.float64), x[:2], torch.tensor([0, 1]), torch.tensor([0, 1, 1, 0]), 1.0, True)
    run(PerceptronBank(1, 2, dtype=torch.float64), x, torch.tensor([0, 1, 0]), torch.tensor([2, 1, 0, 2]), 1.0, True)
    for (bank, x, labels), _ in zip(ties(torch.float64, cpu), range(2), strict=False):
        run(bank, x, labels, torch.arange(15), 0.1, False)
    assert perceptron.narrow(torch.tensor([[256.0]])).dtype == torch.float32
    print(runs + 4)


if __name__ == "__main__":
    main()
