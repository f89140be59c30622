"""The Triton kernel without a device: what it computes, through Triton's interpreter, and that it compiles."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nnlab.engine.perceptron_triton import MOST_FEATURES, OPTIONS, learn, shape_of

ROOT = Path(__file__).parents[2]
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
DTYPES = [("u8", "fp32"), ("fp32", "fp32"), ("u8", "fp64"), ("fp32", "fp64"), ("fp64", "fp64")]  # of x, and of the bank
FEATURES = [1, 783, 784, MOST_FEATURES - 1, MOST_FEATURES]  # a power of 2, and rows that are aligned and that are not


def cases() -> list[object]:
    """Every specialisation that a launch makes; the default run compiles the two of MNIST."""
    grid = [(arch, *dtypes, n) for arch in (80, 90, 100) for dtypes in DTYPES for n in FEATURES]
    fast = [(90, "u8", "fp64", 784), (100, "u8", "fp32", 784)]
    return [pytest.param(*case, marks=[] if case in fast else pytest.mark.slow) for case in grid]


@pytest.mark.parametrize(("arch", "of_x", "of_bank", "n_features"), cases())
def test_it_compiles_without_spills_and_fuses_no_product_with_a_difference(
    tmp_path, monkeypatch, arch, of_x, of_bank, n_features
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    bank = f"*{of_bank}"
    kinds = {"x": f"*{of_x}", "unit": "*i64", "n_samples": "*i64", "ahead": "constexpr", "features": "constexpr"}
    kinds |= dict.fromkeys(["weight", "bias", "weight_lag", "bias_lag", "lr", "errors"], bank)
    kinds |= dict.fromkeys(["n", "n_features", "n_units", "gap"], "i32")
    kinds = {name: kinds[name] for name in learn.arg_names}
    sizes = shape_of(n_features)
    num_warps = sizes.pop("num_warps")
    if n_features == 1:  # Triton compiles a 1 in
        kinds["n_features"], sizes["n_features"] = "constexpr", 1
    aligned = [k.startswith("*") or (name == "n_features" and n_features % 16 == 0) for name, k in kinds.items()]
    attributes = {(k,): [["tt.divisibility", 16]] for k, yes in enumerate(aligned) if yes}
    source = ASTSource(learn, kinds, constexprs=sizes, attrs=attributes)
    code = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": num_warps, **OPTIONS}).asm
    (tmp_path / "cubin").write_bytes(code["cubin"])
    command = [CUOBJDUMP, "-res-usage", tmp_path / "cubin"]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
    assert stack == 0  # nothing is spilled
    assert registers * 32 * num_warps <= 65536  # what a program may have
    assert re.search(r"mul\S*\.f64", code["ptx"])
    assert "fma" not in code["ptx"]


def test_numbers_that_change_from_call_to_call_compile_no_kernel_of_their_own():
    special = [
        parameter.name for parameter in learn.params if not (parameter.do_not_specialize or parameter.is_constexpr)
    ]
    assert not {"n", "n_units", "gap"} & set(special)


@pytest.mark.slow
def test_interpreted_it_equals_the_rule(tmp_path):
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "tests.engine.interpreted"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "20\n"
