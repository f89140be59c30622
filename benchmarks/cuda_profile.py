"""What a step of the engine is on a CUDA device: its kernels, counted and timed by torch's profiler.

    python -m benchmarks.cuda_profile

Ends with status 1 where a step is more kernels than its budget, and 2 where there is no CUDA device.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from nnlab.engine import Adam, Descent, Masks, MLPEngine
from nnlab.networks import MLP
from nnlab.ops import LOSSES

BATCH, STEPS = 100, 128


class Recipe(NamedTuple):
    """A network of one hidden layer, how it is trained, and how many kernels a step of it may be."""

    hidden: int = 100
    activation: str = "relu"
    loss: str = "softmax_cross_entropy"
    update: Descent | Adam = Descent(0.1)
    dropout: float = 0.0
    options: Mapping[str, Any] = {}
    budget: int = 3


RECIPES = {
    "an epoch of the benchmarks": Recipe(),
    "mlp_plain.yaml": Recipe(512, update=Descent(0.1, 0.9, 1e-4)),
    "mlp_chapter.yaml": Recipe(
        activation="sigmoid",
        loss="binary_cross_entropy",
        update=Descent(0.0005),
        options={"l2": 0.01, "reduction": "sum"},
    ),
    "Adam": Recipe(update=Adam()),
    "dropout": Recipe(dropout=0.5),
    "bfloat16": Recipe(512, update=Descent(0.1, 0.9, 1e-4), options={"dtype": torch.bfloat16}),
}


class Training:
    """A recipe on made-up samples."""

    def __init__(self, recipe: Recipe, device: torch.device, steps: int = STEPS) -> None:
        generator, n = torch.Generator().manual_seed(0), steps * BATCH
        network = MLP([784, recipe.hidden, 10], recipe.activation, generator=generator).to(device)
        labels = torch.randint(0, 10, (n,), generator=generator)
        of_labels = LOSSES[recipe.loss].target == "labels"
        self._order = torch.arange(n, device=device)
        self._update = recipe.update
        self._masks = None
        if recipe.dropout:
            kept = (torch.rand(n, recipe.hidden, generator=generator) >= recipe.dropout).to(device, torch.uint8)
            self._masks = Masks([kept], 1 / (1 - recipe.dropout))
        self.parameters = [p.detach() for p in network.parameters()]
        self._engine = MLPEngine(
            self.parameters,
            network.activations,
            recipe.loss,
            torch.rand(n, 784, generator=generator).to(device),
            labels.to(device) if of_labels else torch.eye(10)[labels].to(device),
            batch_size=BATCH,
            **recipe.options,
        )

    def epoch(self) -> None:
        """One call of the engine."""
        self._engine.run_(self._order, self._update, self._masks)


def profile(training: Training) -> tuple[Counter[str], float, float]:
    """How often each kernel ran in an epoch, and the microseconds of all of them and of the epoch by the clock."""
    for _ in range(3):  # compiled, recorded, replayed
        training.epoch()
    torch.cuda.synchronize()
    start = time.perf_counter()
    training.epoch()
    torch.cuda.synchronize()
    clock = (time.perf_counter() - start) * 1e6
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        training.epoch()
        torch.cuda.synchronize()
    kernels = [event for event in found.events() or [] if event.device_type.name == "CUDA"]
    return Counter(event.name for event in kernels), sum(event.device_time for event in kernels), clock


def main() -> int:
    """Print the kernels and the time of a step of each recipe."""
    if not torch.cuda.is_available():
        print("python -m benchmarks.cuda_profile: there is no CUDA device here", file=sys.stderr)
        return 2
    over = False
    print(f"{torch.cuda.get_device_name()}; per step, {STEPS} steps of {BATCH} samples and what a call adds to them")
    for name, recipe in RECIPES.items():
        kernels, busy, clock = profile(Training(recipe, torch.device("cuda")))
        count = kernels.total() / STEPS
        verdict = "" if int(count) <= recipe.budget else "  OVER THE BUDGET"
        over = over or bool(verdict)
        print(f"\n{name}: {count:.2f} kernels (budget {recipe.budget}){verdict}; ", end="")
        print(f"{busy / STEPS:.1f} µs in kernels, {clock / STEPS:.1f} µs by the clock")
        for kernel, times in kernels.most_common(12):
            print(f"    {times / STEPS:6.2f}  {kernel[:100]}")
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
