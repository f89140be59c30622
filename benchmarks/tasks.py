"""The table of tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from benchmarks import sweeps
from benchmarks.measure import Comparison, Peer, Session, measure_epochs
from benchmarks.process import Make


@dataclass(frozen=True)
class Task:
    """What is compared, how often it is timed, which runs have it, and how it is measured.

    ``runs`` that have it are "all"; "whole" ones, that are not quick; or those that it is "named" in with ``--task``.
    """

    words: str
    comparisons: Sequence[Comparison]
    repeats: int
    runs: Literal["all", "whole", "named"] = "all"
    measure: Callable[[Session, str, Sequence[Comparison], int], None] = measure_epochs


def peer(name: str, make: str, **options: Any) -> Peer:
    """Return a peer that is used in one way."""
    return Peer(name, {"": Make(f"benchmarks.peers.{make}", options)})


ENGINE = Make("benchmarks.ours:engine")
EVALUATED = Make("benchmarks.ours:engine", {"evaluate": True})
IMPORT, LIBRARIES = "from nnlab import Perceptron", "import torch, sklearn"
TUTORIAL = peer("Lightning + DataLoader, as its tutorial", "lightning_mlp:lightning", files=True)
TENSORS = peer("Lightning + DataLoader of tensors", "lightning_mlp:lightning")
FLOOR = replace(peer("floor: the permutation copy and the two large GEMMs", "torch_models:floor"), trains=False)
PRODUCTS = [
    replace(peer(f"floor: the dense products by {name}", "torch_models:products", linear=linear), trains=False)
    for name, linear in {"torch.mm": False, "oneDNN's linear": True}.items()
]
EAGER = peer("torch eager autograd, fused SGD", "torch_models:autograd")
GRAPHED = replace(peer("torch autograd, its step a CUDA graph", "torch_models:graphed"), cuda=True)
COMPILED = Peer(
    "torch.compile",
    {
        "forward and loss compiled": Make("benchmarks.peers.torch_models:autograd", {"compiled": "loss"}),
        "the whole step compiled": Make("benchmarks.peers.torch_models:autograd", {"compiled": "step"}),
    },
)
JAX = Peer(
    "JAX jit + scan",
    {
        f"samples gathered {gather} the scan": Make("benchmarks.peers.jax_mlp:jax_mlp", {"gather": gather})
        for gather in ("in", "before")
    },
)
PERCEPTRON = Peer(
    "scikit-learn Perceptron",
    {f"n_jobs={n}": Make("benchmarks.peers.sklearn_models:perceptron", {"n_jobs": n}) for n in (-1, 1)},
)
SKLEARN_GOAL = peer(
    "scikit-learn MLPClassifier: 784-256-10, batch 200, learning rate 0.14, Nesterov momentum 0.9",
    "sklearn_models:mlp_to_goal",
)
LIBRARIES_PEER = Peer(LIBRARIES, {"": Make("benchmarks.ours:statement", {"text": LIBRARIES})}, trains=False)

SOFTMAX = Comparison(
    "engine",
    ENGINE,
    "softmax",
    [
        EAGER,
        GRAPHED,
        COMPILED,
        peer("scikit-learn MLPClassifier float32", "sklearn_models:mlp"),
        JAX,
        replace(TUTORIAL, quick_samples=6000),
        replace(TENSORS, quick_samples=6000),
        FLOOR,
    ],
)
CHAPTER = Comparison(
    "engine, the chapter's mathematics, float32",
    ENGINE,
    "chapter, float32",
    [
        peer("NumPy float64, the chapter's", "numpy_mlp:numpy_mlp", dtype="float64"),
        peer("NumPy float32, the chapter's", "numpy_mlp:numpy_mlp"),
    ],
)
CHAPTER_FLOAT64 = Comparison(
    "engine, the chapter's mathematics, float64",
    ENGINE,
    "chapter, float64",
    [peer("NumPy float64, ours in float64 too", "numpy_mlp:numpy_mlp")],
)
# a unit that rounding puts on the other side of ReLU's 0, one in millions, moves the weights by 1e-3
WIDE = Comparison(
    "engine",
    ENGINE,
    "wide",
    [EAGER, GRAPHED, replace(COMPILED, quick=False), replace(JAX, quick=False)],
    tolerance=0.02,
)
RULE = Comparison(
    "engine",
    Make("benchmarks.ours:perceptron"),
    "perceptrons",
    [PERCEPTRON, peer("per-sample torch loop", "torch_models:sample_loop")],
    batches=None,
    tolerance=0.0,
)
LIGHTNING = Comparison(
    "LitMLP under Lightning's Trainer",
    Make("benchmarks.ours_lightning:lightning"),
    "softmax",
    [Peer("bare engine", {"": ENGINE})],
    batches=None,
)
ESTIMATOR = Comparison(
    "NeuralNetMLP.fit and its evaluation",
    Make("benchmarks.ours:estimator"),
    "softmax",
    [
        Peer("bare engine and the same evaluation", {"": EVALUATED}),
        peer("scikit-learn MLPClassifier float32, no evaluation", "sklearn_models:mlp"),
    ],
)
GOAL = Comparison(
    "engine: 784-256-10, batch 40, learning rate 0.6, weights averaged within the epoch",
    Make("benchmarks.ours:engine_to_goal"),
    "accuracy",
    [replace(SKLEARN_GOAL, trains=False)],
)
GROWTH = Comparison("engine", ENGINE, "softmax", [replace(EAGER, name="torch eager autograd")], tolerance=0.02)
KERNELS = Comparison("engine", ENGINE, "softmax", [FLOOR])
SIZES = Comparison("engine", ENGINE, "softmax", [EAGER], tolerance=0.02)
# Of 130,000 ReLU units in a step, one may stand so close to 0 that rounding decides on which side, and soon many do.
GRID = Comparison("engine", ENGINE, "softmax", [JAX, EAGER, *PRODUCTS], batches=3)
BUSY = Comparison("engine", ENGINE, "softmax", [EAGER, Peer("engine, 1 thread", {"": ENGINE}, process={"threads": 1})])
# A pixel that is one level off in ten thousand, by rounding, gives 1e-4, and one that is 60 levels off does, too.
DISTORTIONS = Comparison(
    "Distortion",
    Make("benchmarks.ours:distortion"),
    "bytes",
    [
        Peer("torch: the same by grid_sample", {"": Make("benchmarks.ours:distortion", {"compiled": False})}),
        replace(
            peer("torchvision: ElasticTransform, RandomAffine", "torchvision_images:transforms", samples=100),
            trains=False,
        ),
    ],
    batches=None,
    tolerance=1e-4,
    results="images",
)
IMPORTS = Comparison(IMPORT, Make("benchmarks.ours:statement", {"text": IMPORT}), "no samples", [LIBRARIES_PEER])

TASKS = {
    "mlp_epoch": Task(
        "an epoch of 784-100-10 in mini-batches of 100, against all; its peak memory",
        [SOFTMAX, CHAPTER, CHAPTER_FLOAT64],
        13,
        measure=partial(measure_epochs, allowance=50),
    ),
    "mlp_wide": Task("an epoch of 784-1024-1024-10 in mini-batches of 512", [WIDE], 5),
    "perceptron_epoch": Task("an epoch of the perceptron rule, ten classes", [RULE], 9),
    "lightning_epoch": Task("an epoch of LitMLP under Lightning's Trainer, against the bare engine", [LIGHTNING], 11),
    "estimator_epoch": Task("an epoch of NeuralNetMLP.fit, against the bare engine and scikit-learn", [ESTIMATOR], 11),
    "time_to_98": Task(
        "until 98 % of the validation images are right, the best recipe of each side",
        [GOAL],
        5,
        "whole",
        sweeps.measure_goal,
    ),
    "import": Task(f"{IMPORT}, against its libraries alone", [IMPORTS], 7),
    "scaling": Task(
        "width, batch, samples and threads: seconds, peak memory and the exponent of growth",
        [GROWTH],
        3,
        "whole",
        sweeps.measure_growth,
    ),
    "kernels": Task(
        "whether the compiled first layer is as fast as it was; status 1 if not",
        [KERNELS],
        7,
        measure=sweeps.measure_kernels,
    ),
    "sizes": Task(
        "an epoch with 100 to 1024 hidden units, one thread and all, plain and momentum",
        [SIZES],
        7,
        "named",
        sweeps.measure_sizes,
    ),
    "density": Task(
        "an epoch of made-up images, 5 to 100 % of their pixels not zero", [SIZES], 7, "named", sweeps.measure_densities
    ),
    "wide": Task(
        "784-W-10 and 784-W-W-10, W from 512 to 4096, batches of 32 to 1024, and the ceiling of each",
        [GRID],
        5,
        "named",
        sweeps.measure_wide,
    ),
    "distortion": Task(
        "images distorted, by one thread and by all; torchvision's time is that of 100, scaled up",
        [DISTORTIONS],
        7,
        "named",
        sweeps.measure_distortions,
    ),
    "busy": Task("an epoch beside a process that keeps a core busy", [BUSY], 5, "named", sweeps.measure_busy),
}
