"""The step of three Triton kernels: interpreted, on a device, and compiled ahead of time for three kinds of card."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from nnlab.engine.triton_step import OUTPUTS, WORK, TritonStep  # noqa: E402
from tests.conftest import REQUIRE_CUDA  # noqa: E402
from tests.engine.interpreted_step import SHAPES, Recipe, compare  # noqa: E402

ROOT = Path(__file__).parents[2]
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHARED = {80: 163, 90: 227, 100: 227}  # KiB that a block may have, by compute capability


def interpreted(*marks: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *marks]
    done = subprocess.run(
        [*command, "tests/engine/interpreted_step.py"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "NNLAB_REQUIRE_CUDA": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout


def test_interpreted_it_is_the_plain_loop():
    interpreted("-m", "not slow")


@pytest.mark.slow
def test_interpreted_it_is_the_plain_loop_at_the_size_of_mnist():
    interpreted("-m", "slow")


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["plain", "momentum", "adam"])
@pytest.mark.parametrize("shape", [*SHAPES.values(), ((784, 100, 10), 250, 100)], ids=str)
def test_on_a_device_it_is_the_plain_loop(shape, kind):
    if not (REQUIRE_CUDA or triton.knobs.runtime.interpret):
        try:
            triton.runtime.driver.active.get_current_target()
        except (AssertionError, RuntimeError) as error:  # of a driver that is not there
            pytest.skip(f"Triton has no device: {error}")
    recipe = Recipe(kind, 0.01, 0.1, dropout=True)
    compare(*shape, "tanh", "identity", "softmax_cross_entropy", True, recipe, torch.device("cuda"))


class Driver:
    """A card that is not there, for Triton to compile for."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return 1000 + self.capability  # one that no kernel is kept for

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[int], list[tuple[str, Any]]]]:
    """Compiles for a compute capability what is launched, and launches nothing: the kernels and their names."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    seen: list[tuple[str, Any]] = []
    run = JITFunction.run

    def compile_only(kernel: Any, *arguments: Any, warmup: bool, **options: Any) -> Any:
        seen.append((kernel.fn.__name__, run(kernel, *arguments, warmup=True, **options)))
        return seen[-1][1]

    monkeypatch.setattr(JITFunction, "run", compile_only)

    def on(capability: int) -> list[tuple[str, Any]]:
        monkeypatch.setattr(triton.runtime.driver, "_active", Driver(capability))
        return seen

    return on


class Case(NamedTuple):
    """A network and what a step of it needs."""

    sizes: tuple[int, int, int] = (784, 100, 10)
    activations: tuple[str, str] = ("relu", "identity")
    loss: str = "softmax_cross_entropy"
    kind: str = "plain"
    l2: float = 0.0
    weighted: bool = False
    dropout: bool = False
    dtype: torch.dtype = torch.float32
    size: int = 100


CASES = {
    "an epoch of the benchmarks": Case(),
    "mlp_plain.yaml": Case((784, 512, 10), kind="momentum"),
    "mlp_chapter.yaml": Case(activations=("sigmoid", "identity"), loss="binary_cross_entropy", l2=0.01),
    "Adam, dropout": Case(kind="adam", dropout=True, weighted=True),
    "bfloat16": Case((784, 512, 10), kind="momentum", dtype=torch.bfloat16),
    "sizes that 16 does not divide": Case((33, 20, 3), ("tanh", "tanh"), "sum_of_squares", "adam", 0.1, size=37),
    "sizes of 1": Case((1, 1, 1), ("tanh", "tanh"), "sum_of_squares", "momentum", size=1),
    "20 outputs": Case((784, 100, 20), ("leaky_relu", "sigmoid"), kind="momentum", dropout=True),
    "60 outputs": Case((784, 512, 60), ("tanh", "tanh"), kind="momentum", l2=0.1, weighted=True),
    "100 outputs": Case((784, 100, 100), ("tanh", "tanh"), kind="momentum", l2=0.1, dropout=True),
    "128 outputs": Case((784, 512, 128), ("sigmoid", "sigmoid"), kind="adam", l2=0.1, weighted=True),
    "128 outputs, bfloat16": Case((784, 512, 128), ("sigmoid", "sigmoid"), weighted=True, dtype=torch.bfloat16),
}


class Steps:
    """The step of a case, on a buffer of samples."""

    def __init__(self, case: Case) -> None:
        n_inputs, n_units, n_outputs = case.sizes
        shapes = [(n_units, n_inputs), (n_units,), (n_outputs, n_units), (n_outputs,)]
        parameters = [torch.zeros(shape) for shape in shapes]
        copies = {"plain": 0, "momentum": 1, "adam": 2}[case.kind]
        state = [torch.zeros(shape) for shape in shapes * copies] + [torch.zeros(())] * (case.kind == "adam")
        self.kernels = TritonStep(
            parameters,
            case.activations,
            case.loss,
            batch_size=case.size,
            state=state,
            momentum=0.9 if case.kind == "momentum" else 0.0,
            l2=case.l2,
            adam=(0.9, 0.999, 1e-8) if case.kind == "adam" else None,
            dtype=case.dtype,
        )
        of_labels = case.loss == "softmax_cross_entropy"
        n = 2 * case.size
        self.x = torch.zeros(n, n_inputs, dtype=case.dtype)
        self.target = torch.zeros(n, dtype=torch.int64) if of_labels else torch.zeros(n, n_outputs, dtype=case.dtype)
        self.outputs = torch.zeros(n, n_outputs, dtype=case.dtype)
        self.scale = torch.zeros(n) if case.weighted else None
        self.mask = torch.zeros(n, n_units, dtype=torch.uint8) if case.dropout else None
        self.penalty = torch.zeros(2, self.kernels.tiles) if case.l2 else None
        self.lr = torch.zeros(())

    def launch(self, first: int, last: int) -> None:
        part = slice(first, last)
        self.kernels.step(
            self.x[: last - first],
            self.target[part],
            self.outputs[part],
            self.lr,
            scale=0.5 if self.scale is None else self.scale[part],
            mask=None if self.mask is None else self.mask[part],
            factor=2.0,
            penalty=None if self.penalty is None else self.penalty[int(first > 0)],
        )


def tool(name: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout


def assert_good(kernel: Any, capability: int, folder: Path) -> str:
    """Check that nothing is spilled, shared memory suffices, and products are the tensor cores'; says what it uses."""
    file = folder / "kernel.cubin"
    file.write_bytes(kernel.asm["cubin"])
    registers, stack = map(int, re.findall(r"REG:(\d+) STACK:(\d+)", tool("cuobjdump", "-res-usage", str(file)))[0])
    code = tool("nvdisasm", "-c", str(file))
    assert stack == 0
    assert not re.search(r"\b(LDL|STL)\b", code)
    assert kernel.metadata.shared <= SHARED[capability] * 1024
    assert re.search(r"\b(HMMA|HGMMA|UTC\w*MMA)\b", code)
    assert registers * 32 * kernel.metadata.num_warps <= 65_536
    return f"{registers} registers, {kernel.metadata.shared / 1024:.0f} KiB"


@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_compiled_nothing_is_spilled(name, capability, launched, tmp_path):
    seen = launched(capability)
    Steps(CASES[name]).launch(0, CASES[name].size)
    assert [kernel for kernel, _ in seen] == ["hidden", "middle", "descend"]
    print({kernel: assert_good(compiled, capability, tmp_path) for kernel, compiled in seen})


class Allocations(TorchDispatchMode):
    """What torch is asked for, but for views."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not function.is_view:
            self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def test_a_tail_compiles_nothing_anew_and_a_step_allocates_nothing(launched, tmp_path):
    seen = launched(90)
    steps = Steps(Case((33, 20, 3), kind="adam", l2=0.1, weighted=True, dropout=True, size=37))
    steps.launch(0, 37)
    with Allocations() as allocations:
        for first, last in ((37, 73), (37, 53), (37, 38)):
            steps.launch(first, last)
    assert allocations.seen == []
    assert [name for name, _ in seen] == ["hidden", "middle", "descend"] * 4
    assert len({id(kernel) for _, kernel in seen}) == 3
    for _, kernel in seen[:3]:
        assert_good(kernel, 90, tmp_path)


@pytest.mark.parametrize(("precision", "three"), [("highest", True), ("high", False)])
def test_products_are_in_tf32_only_where_torch_allows_it(precision, three, launched):
    seen = launched(90)
    torch.set_float32_matmul_precision(precision)
    Steps(Case((5, 1, 1), size=1)).launch(0, 1)
    for _, kernel in seen:
        assert ("tf32x3" in kernel.asm["ttir"]) == three


@pytest.mark.parametrize(
    ("sizes", "activations", "loss", "size", "dtype", "why"),
    [
        ((9, 8, 7, 6), "relu relu identity", "sum_of_squares", 5, torch.float32, "one hidden layer, the network has 2"),
        ((9, 6), "identity", "sum_of_squares", 5, torch.float32, "one hidden layer, the network has 0"),
        ((9, 8, 6), "gelu identity", "sum_of_squares", 5, torch.float32, "no form of gelu"),
        ((9, 8, OUTPUTS + 1), "relu identity", "sum_of_squares", 5, torch.float32, f"at most {OUTPUTS} outputs"),
        ((9, 8, 6), "relu identity", "sum_of_squares", 5, torch.float64, "float32 or bfloat16, not in float64"),
        ((784, WORK // 784, 6), "relu identity", "sum_of_squares", 2, torch.float32, "cuBLAS is faster"),
    ],
)
def test_what_the_kernels_are_not_for(sizes, activations, loss, size, dtype, why):
    said = TritonStep.obstacle(sizes, activations.split(), loss, batch_size=size, dtype=dtype)
    assert said is not None
    assert why in said
