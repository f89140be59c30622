"""The Triton kernel without a device: what it computes, through Triton's interpreter, and that it compiles."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]

COMPILE = """
import re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from nnlab.engine.perceptron_triton import AHEAD, FEATURES, UNKNOWN, learn

kinds = ["*fp32", "*i64", "*i64", "*fp64", "*fp64", *["*fp32"] * 4, "*fp64", "*fp32", "*i64", "*i32", "*fp64", "*fp32"]
kinds += ["i32", "i32", "i32", "i64", "i32", *["constexpr"] * 3]
source = ASTSource(
    learn, dict(zip(learn.arg_names, kinds, strict=True)),
    constexprs=dict(ahead=AHEAD, features=FEATURES, unknown=UNKNOWN),
)
options = dict(num_warps=8, enable_fp_fusion=False)
code = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options).asm["ptx"]
assert re.search(r"mul\\S*\\.f32", code)
print("fused:", len(re.findall(r"fma", code)))
"""


def run(tmp_path: Path, *arguments: str, **variables: str) -> str:
    """The standard output of a Python process that must succeed."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)} | variables
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_interpreted_it_equals_the_rule(tmp_path):
    runs, redone = map(int, run(tmp_path, "-m", "tests.engine.interpreted", TRITON_INTERPRET="1").split())
    assert runs == 18
    assert redone > 0


@pytest.mark.slow
def test_it_compiles_and_fuses_no_product_with_a_difference(tmp_path):
    assert run(tmp_path, "-c", COMPILE).strip() == "fused: 0"
