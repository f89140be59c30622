"""A process of its own, with TRITON_INTERPRET=1, that compares the Triton kernel with the rule on the CPU.

It prints how many runs were compared, and how many samples were left to the sequential rule.
"""

import torch
from torch import Tensor

from nnlab.engine import perceptron, perceptron_triton
from nnlab.engine.perceptron_triton import Lookahead
from tests.engine.test_perceptron import assert_learns_as_the_rule, draw_problem, ties

redone: list[Tensor] = []
error_of = perceptron_triton.sample_error


def counting(x: Tensor, *rest: object) -> Tensor:
    redone.append(x)
    return error_of(x, *rest)


def main() -> None:
    perceptron.compiled_loop = lambda device: Lookahead
    perceptron_triton.sample_error = counting
    runs, cpu = 0, torch.device("cpu")
    for ahead, features in ((1, 4), (8, 16), (32, 256)):
        perceptron_triton.AHEAD, perceptron_triton.FEATURES = ahead, features
        for seed, (kind, n_units) in enumerate((("whole", 1), ("tenths", 3), ("any", 4))):
            dtype, before = (torch.float32, torch.float64)[(ahead + seed) % 2], len(redone)
            problem = draw_problem(3 * ahead + seed, kind, n_units, dtype, cpu, bool(seed % 2))
            assert_learns_as_the_rule(*problem)
            runs += len(problem[3])
            assert len(redone) == before or kind != "whole"
    before = len(redone)
    for (bank, x, _), _ in zip(ties(torch.float32), range(1), strict=False):
        assert_learns_as_the_rule(bank, x, torch.arange(30) % 3, [torch.arange(15)], 0.1)
    assert len(redone) > before
    bank, x, labels, orders, _ = draw_problem(8, "any", 3, torch.float32, cpu, False)
    bank.weight.mul_(1e38)  # sums of these may overflow in one order and not in another
    assert_learns_as_the_rule(bank, x, labels, [orders[0][:10]], 1e36)
    print(runs, len(redone))


if __name__ == "__main__":
    main()
