"""What the engine may ask of a CUDA device, and what it does where recordings, cards, threads and values go wrong.

Counted on the pretended device; kernels are estimates read off torch's CUDA sources.
"""

import gc
import logging
import math
import os
import subprocess
import sys
import threading
import warnings
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from nnlab.engine import Adam, Descent, Masks, MLPEngine, NotFiniteError, PerceptronEngine, mlp, sparse
from nnlab.engine import perceptron as perceptron_engine
from nnlab.networks import MLP, PerceptronBank
from nnlab.validation import ArgumentError

pytestmark = pytest.mark.cuda
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # then a step is Triton's kernels, where they have a form of it
BATCH, GROUP = 4, 3
N = 2 * GROUP * BATCH + BATCH + 2  # two whole groups, a shorter one, and in it a tail


@pytest.fixture(autouse=True)
def small_groups(pretended, monkeypatch):
    """Mini-batches are recorded in groups of 3, which takes less time than 64."""
    if INTERPRETED:
        warnings.filterwarnings("ignore", category=RuntimeWarning)  # NumPy, which interprets the kernels, warns of NaN
    assert 64 <= mlp.GROUP <= 128
    monkeypatch.setattr(mlp, "GROUP", GROUP)


class Recipe(NamedTuple):
    """A way to train, and the kernels that a step of it may launch."""

    kernels: int
    update: Descent | Adam = Descent(0.1)
    sizes: tuple[int, ...] = (20, 10, 5)
    options: dict[str, Any] = {}
    activation: str = "relu"
    loss: str = "softmax_cross_entropy"
    dropout: float = 0.0
    weighted: bool = False

    def engine(
        self, n: int, device: torch.device, batch: int = BATCH, zeros: float = 0.0, **more: Any
    ) -> tuple[MLPEngine, list[Tensor]]:
        g = torch.Generator().manual_seed(0)
        network = MLP(self.sizes, self.activation, generator=g)
        x = torch.rand(n, self.sizes[0], generator=g, device="cpu")
        x *= torch.rand(x.shape, generator=g, device="cpu") >= zeros
        labels = torch.randint(0, self.sizes[-1], (n,), generator=g, device="cpu")
        target = labels if self.loss == "softmax_cross_entropy" else torch.eye(self.sizes[-1], device="cpu")[labels]
        weight = {"sample_weight": torch.rand(n, generator=g, device="cpu")} if self.weighted else {}
        options = {**self.options, **weight, **more}
        if "sample_weight" in options:
            options["sample_weight"] = options["sample_weight"].to(device)
        parameters = [p.detach().to(device) for p in network.parameters()]
        given = parameters, network.activations, self.loss, x.to(device), target.to(device)
        return MLPEngine(*given, batch_size=batch, **options), parameters

    def masks(self, n: int, device: torch.device, seed: int = 0) -> Masks | None:
        if not self.dropout:
            return None
        g = torch.Generator().manual_seed(seed)
        kept = [
            (torch.rand(n, o, generator=g, device="cpu") >= self.dropout).to(device, torch.uint8)
            for o in self.sizes[1:-1]
        ]
        return Masks(kept, 1 / (1 - self.dropout))


RECIPES = {
    "plain": Recipe(8),
    "mlp_plain.yaml": Recipe(15, Descent(0.1, 0.9, 1e-4)),
    "mlp_chapter.yaml": Recipe(
        17, Descent(0.01), activation="sigmoid", loss="binary_cross_entropy", options={"l2": 0.01, "reduction": "sum"}
    ),
    "adam": Recipe(12, Adam(0.01)),
    "dropout": Recipe(12, dropout=0.5),
    "l2": Recipe(16, options={"l2": 0.01}),
    "weighted": Recipe(8, weighted=True),
    "bf16": Recipe(15, options={"dtype": torch.bfloat16}),
    "three layers": Recipe(12, sizes=(20, 10, 10, 5)),
}
each_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


def order_of(n: int, device: torch.device, seed: int = 0) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed), device="cpu").to(device)


def falling(update: Descent | Adam, call: int) -> Descent | Adam:
    return update._replace(lr=update.lr * 0.9**call)


def train(recipe: Recipe, device: torch.device, n: int = N, calls: int = 3, **more: Any) -> list[Tensor]:
    engine, parameters = recipe.engine(n, device, **more)
    for call in range(calls):
        engine.run_(order_of(n, device, call), falling(recipe.update, call), recipe.masks(n, device, call))
    return parameters


def assert_same_bits(found: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.cpu(), theirs.cpu())


def assert_close(found: list[Tensor], expected: list[Tensor], relative: float = 1e-5) -> None:
    ours, theirs = (torch.cat([p.cpu().flatten() for p in parameters]) for parameters in (found, expected))
    assert (ours - theirs).norm() <= relative * theirs.norm()


# ---- budgets --------------------------------------------------------------------------------------------------------


@each_recipe
def test_a_step_launches_no_more_kernels_than_its_recipe_says(pretended, recipe):
    engine, _ = recipe.engine(2 * GROUP * BATCH, CUDA)
    for call in range(2):
        engine.run_(
            order_of(2 * GROUP * BATCH, CUDA), falling(recipe.update, call), recipe.masks(2 * GROUP * BATCH, CUDA)
        )
    (recording,) = pretended.live_recordings()
    per_step = {name: count / GROUP for name, count in recording.operations.items()}
    kernels = 3 if INTERPRETED and len(recipe.sizes) == 3 else recipe.kernels
    assert recording.kernels == kernels * GROUP, per_step


@each_recipe
def test_every_group_is_replayed_under_a_falling_rate_and_a_call_waits_once(pretended, recipe):
    engine, _ = recipe.engine(N, CUDA)
    for call in range(6):
        order, masks = order_of(N, CUDA, call), recipe.masks(N, CUDA, call)
        with pretended.watch() as seen:
            engine.run_(order, falling(recipe.update, call), masks)
        recorded = len(seen.recordings)
        assert set(seen.recordings) <= {"thread_local"}
        assert seen.syncs.total() <= 1 + recorded, seen.syncs  # torch itself waits where a recording begins
        assert not seen.copies
        if call:
            assert seen.replays == 3
            assert recorded <= (call == 1)  # the whole group's was made in the first call, when it came the second time
    assert len(pretended.live_recordings()) == 2


def test_a_recording_does_not_grow_with_the_epoch_and_few_are_kept(pretended):
    recipe = RECIPES["plain"]
    engine, _ = recipe.engine(5 * GROUP * BATCH, CUDA)
    for n in (*range(1, 40), 5 * GROUP * BATCH, 3 * GROUP * BATCH - 1):
        for call in range(3):
            engine.run_(order_of(n, CUDA, call), recipe.update)
    recordings = pretended.live_recordings()
    assert len(recordings) <= 4
    assert max(recording.kernels for recording in recordings) <= recipe.kernels * GROUP


@pytest.mark.parametrize("recipe", ["plain", "adam"])
def test_samples_are_not_held_twice(recipe):
    recipe = RECIPES[recipe]
    gc.collect()
    n, before = 20 * GROUP * 16, torch.cuda.memory_allocated()
    engine, _ = recipe._replace(sizes=(200, 10, 5)).engine(n, CUDA, batch=16)
    engine.run_(order_of(n, CUDA), recipe.update, recipe.masks(n, CUDA))
    gc.collect()
    of_samples = n * 200 * 4
    assert torch.cuda.memory_allocated() - before < 1.5 * of_samples


# ---- the same as on the CPU, whatever goes wrong --------------------------------------------------------------------


@each_recipe
def test_replayed_calls_are_the_cpus(recipe):
    relative = 3e-2 if recipe.options.get("dtype") == torch.bfloat16 else 1e-5
    assert_close(train(recipe, CUDA), train(recipe, CPU), relative)


@each_recipe
def test_however_an_epoch_is_cut_the_bits_are_the_same_where_alignment_decides_how_a_product_rounds(pretended, recipe):
    recipe = recipe._replace(sizes=(7, 5, 3))
    n, batch, found = 60, 6, []
    order = order_of(n, CUDA)
    with pretended.rounding("align"):
        for cuts in ((60,), (6, 12, 42), (18, 30, 12), (6,) * 10):
            engine, parameters = recipe.engine(n, CUDA, batch)
            masks = recipe.masks(n, CUDA)
            at = 0
            for cut in cuts:
                part = slice(at, at + cut)
                engine.run_(order[part], recipe.update, masks and Masks([m[part] for m in masks.kept], masks.factor))
                at += cut
            found.append(parameters)
    for parameters in found[1:]:
        assert_same_bits(parameters, found[0])


@pytest.mark.parametrize("name", ["plain", "adam", "dropout", "bf16"])
@pytest.mark.parametrize("at", [0, 1, 7, 20])
def test_a_recording_that_fails_leaves_all_right_and_warns_once_of_the_cost(pretended, caplog, name, at):
    recipe, stream = RECIPES[name], torch.cuda.current_stream()
    expected = train(recipe, CUDA)
    with pretended.recording_fails_at(at), caplog.at_level(logging.INFO, "nnlab"):
        found = train(recipe, CUDA)
    assert torch.cuda.current_stream() is stream
    assert torch.cuda.current_device() == 0
    assert_same_bits(found, expected)
    (record,) = [record for record in caplog.records if "without a CUDA graph" in record.message]
    assert record.levelno == logging.WARNING
    assert "times as long" in record.message


def test_an_interrupt_while_recording_gives_the_stream_back(monkeypatch):
    recipe, stream = RECIPES["plain"], torch.cuda.current_stream()
    engine, _ = recipe.engine(N, CUDA)
    order, product = order_of(N, CUDA), torch.mm

    def interrupt(*args: Tensor, **options: Tensor) -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            raise KeyboardInterrupt
        return product(*args, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(torch, "mm", interrupt)
        engine.run_(order, recipe.update)
        engine.run_(order, recipe.update)
    assert torch.cuda.current_stream() is stream
    engine.run_(order, recipe.update)


@each_recipe
def test_a_second_card_learns_as_the_first(pretended, recipe):
    expected = train(recipe, CUDA, calls=5)
    with pretended.cards(2):
        found = train(recipe, torch.device("cuda", 1), calls=5)
        assert torch.cuda.current_device() == 0
        assert {p.device.index for p in found} == {1}
        assert_same_bits(found, expected)


@pytest.mark.parametrize("name", ["plain", "adam"])
def test_an_engine_outlives_another_and_its_workspaces(name):
    recipe = RECIPES[name]
    expected = train(recipe, CUDA, calls=6)
    first, _ = recipe.engine(N, CUDA)
    second, parameters = recipe.engine(N, CUDA)
    for call in range(3):
        first.run_(order_of(N, CUDA, call), falling(recipe.update, call))
    others = [torch.cuda.Stream() for _ in range(31)]  # of which torch has 32: the next is the first engine's
    for call in range(6):
        second.run_(order_of(N, CUDA, call), falling(recipe.update, call))
        if call == 2:
            del first, others
            gc.collect()
            torch._C._cuda_clearCublasWorkspaces()  # as Lightning does when a trainer has ended
            torch.cuda.empty_cache()
            train(recipe, CUDA)
    assert_same_bits(parameters, expected)


def test_engines_in_two_threads_learn_as_one_after_the_other():
    recipes = [RECIPES["plain"], RECIPES["mlp_plain.yaml"], RECIPES["adam"], RECIPES["l2"]]
    expected = [train(recipe, CUDA, calls=4) for recipe in recipes]
    found: dict[int, list[Tensor]] = {}
    threads = [
        threading.Thread(target=lambda k=k, recipe=recipe: found.update({k: train(recipe, CUDA, calls=4)}))
        for k, recipe in enumerate(recipes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, parameters in enumerate(expected):
        assert_same_bits(found[k], parameters)


@each_recipe
@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_the_default_device_changes_nothing(recipe, device):
    expected = train(recipe, device)
    torch.set_default_device("cuda" if device == CPU else "cpu")
    try:
        assert_same_bits(train(recipe, device), expected)
    finally:
        torch.set_default_device(None)


@pytest.mark.slow  # numba compiles
def test_the_default_device_changes_nothing_for_samples_with_many_zeros(monkeypatch):
    monkeypatch.setattr(sparse, "MIN_INPUTS", 0)
    monkeypatch.setattr(sparse, "MIN_UNITS", 1)
    for recipe in (RECIPES["mlp_plain.yaml"], RECIPES["three layers"]):
        found = []
        for default in (None, "cuda"):
            torch.set_default_device(default)
            try:
                engine, parameters = recipe.engine(N, CPU, zeros=0.9)
                for call in range(2):
                    engine.run_(order_of(N, CPU, call), recipe.update)
                engine.outputs()
            finally:
                torch.set_default_device(None)
            found.append(parameters)
        assert_same_bits(*found)


@pytest.mark.slow
def test_tritons_kernels_pass_the_same_tests():
    """Interpreted, in a process of its own; bfloat16 and threads are beyond Triton's interpreter."""
    which = (
        "(plain or adam) and (launches or falling_rate or cpus) or plain and (second_card or outlives) or perceptron"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "tests.pretended", __file__]
    done = subprocess.run(
        [*command, "-m", "not slow", "-k", which],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=290,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


# ---- the perceptron -------------------------------------------------------------------------------------------------


def perceptron(device: torch.device, n: int = 60, dtype: torch.dtype = torch.float64) -> tuple[PerceptronBank, Any]:
    g = torch.Generator().manual_seed(0)
    x, labels = torch.randint(0, 255, (n, 20), generator=g).to(device, dtype), torch.arange(n).to(device) % 3
    bank = PerceptronBank(20, 3, dtype=dtype, device=device)
    return bank, PerceptronEngine(bank, x, labels)


def test_the_perceptron_is_the_cpus_on_either_card_and_waits_once_a_call(pretended, caplog):
    perceptron_engine.warn_once.cache_clear()
    expected, engine = perceptron(CPU)
    for call in range(3):
        engine.run_(order_of(60, CPU, call), 1.0)
    for device in (CUDA, torch.device("cuda", 1)):
        with pretended.cards(2), caplog.at_level(logging.INFO, "nnlab"):
            bank, engine = perceptron(device)
            for call in range(3):
                order = order_of(60, device, call)
                with pretended.watch() as seen:
                    engine.run_(order, 1.0)
            assert torch.cuda.current_device() == 0
            assert_same_bits(list(bank.state_dict().values()), list(expected.state_dict().values()))
    if INTERPRETED:
        assert seen.syncs.total() == 1, seen.syncs
        assert seen.operations["learn"] == 1
        assert not caplog.records
    else:  # it learns on the CPU: the bank goes there and back, as do the order and the errors
        assert seen.syncs.total() <= 2 * len(bank.state_dict()) + 3, seen.syncs
        assert seen.operations.total() < 60  # no operation for each of the samples
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "the perceptron learns on the CPU" in record.message


def test_the_perceptron_has_no_second_copy_of_its_samples_but_a_narrower_one():
    g = torch.Generator().manual_seed(0)
    x, labels = torch.randint(0, 255, (3000, 200), generator=g).double().to(CUDA), torch.arange(3000).to(CUDA) % 3
    before = torch.cuda.memory_allocated()
    engine = PerceptronEngine(PerceptronBank(200, 3, dtype=torch.float64, device=CUDA), x, labels)
    engine.run_(torch.arange(10, device=CUDA), 1.0)
    gc.collect()
    more = torch.cuda.memory_allocated() - before
    assert more < x.nbytes / 4
    assert more >= x.numel() * INTERPRETED  # what Triton's kernel reads: a byte for each


# ---- wrong values ---------------------------------------------------------------------------------------------------


def weights_of_a_batch_that_are_all_0(device: torch.device) -> None:
    weight = torch.ones(12, device=device)
    weight[:BATCH] = 0
    engine, _ = RECIPES["plain"].engine(12, device, sample_weight=weight)
    engine.run_(torch.arange(12, device=device), Descent(0.1))


def negative_weights(device: torch.device) -> None:
    RECIPES["plain"].engine(12, device, sample_weight=torch.linspace(-1, 1, 12))


def network_of(device: torch.device) -> tuple[list[Tensor], tuple[str, ...], Tensor]:
    network = MLP([4, 3, 2], device=device)
    return [p.detach() for p in network.parameters()], network.activations, torch.rand(12, 4).to(device)


def a_target_of_7(device: torch.device) -> None:
    parameters, activations, x = network_of(device)
    MLPEngine(parameters, activations, "binary_cross_entropy", x, torch.full((12, 2), 7.0).to(device))


def a_label_out_of_range(device: torch.device) -> None:
    parameters, activations, x = network_of(device)
    MLPEngine(parameters, activations, "softmax_cross_entropy", x, torch.full((12,), 2).to(device))


def an_index_out_of_range(device: torch.device) -> None:
    engine, _ = RECIPES["plain"].engine(12, device)
    engine.run_(torch.arange(1, 13).to(device), Descent(0.1))


def a_negative_index(device: torch.device) -> None:
    engine, _ = RECIPES["adam"].engine(12, device)
    engine.run_(torch.arange(-1, 11).to(device), Adam(0.1))


@pytest.mark.parametrize(
    "fault",
    [
        weights_of_a_batch_that_are_all_0,
        negative_weights,
        a_target_of_7,
        a_label_out_of_range,
        an_index_out_of_range,
        a_negative_index,
    ],
)
def test_a_wrong_value_is_refused_as_on_the_cpu(fault):
    texts = []
    for device in (CPU, CUDA):
        with pytest.raises(ArgumentError) as caught:
            fault(device)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("recorded", [False, True], ids=["first call", "replayed"])
@each_recipe
def test_a_call_that_is_refused_or_diverges_changes_nothing(recipe, recorded):
    weight = torch.ones(N)
    weight[:BATCH] = 0
    engine, parameters = recipe.engine(N, CUDA, sample_weight=weight)
    good = torch.cat((torch.arange(2 * BATCH, N), torch.arange(BATCH, 2 * BATCH))).to(CUDA)
    masks = recipe.masks(len(good), CUDA)
    for _ in range(3 * recorded):
        engine.run_(good, recipe.update, masks)
    before = [t.clone() for t in (*parameters, *engine.state)]
    bad = good.clone()
    bad[5] = N
    faults: list[tuple[type[Exception], Tensor, Descent | Adam]] = [(ArgumentError, bad, recipe.update)]
    if recipe.options.get("reduction") != "sum":
        faults.append((ArgumentError, torch.arange(len(good), device=CUDA), recipe.update))
    if isinstance(recipe.update, Descent):
        faults.append((NotFiniteError, good, recipe.update._replace(lr=3e38)))
    for kind, order, update in faults:
        with pytest.raises(kind):
            engine.run_(order, update, masks)
        assert_same_bits([t for t in (*parameters, *engine.state) if recorded], before if recorded else [])
        assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=False))
    run = engine.run_(good, recipe.update, masks)
    assert all(math.isfinite(loss) for loss in run.losses.tolist())
