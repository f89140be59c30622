"""The command ``nnlab check``."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from nnlab.config_files import LineParser
from nnlab.validation import ArgumentError, resolve_device
from nnlab.verify import suite
from nnlab.verify.grader import grade_file
from nnlab.verify.render import plain
from nnlab.verify.tolerances import CENTRAL, CENTRAL_REASON, REASONS, RELATIVE, TRAJECTORY

OK, FAILED, USER_ERROR = 0, 1, 2

EPILOG = """\
Without FILE, every hand-written gradient of nnlab is tested in five ways:
  by hand       values worked on paper, the chapter's own among them
  autograd      torch's gradient of an independent expression, with a random incoming gradient, and with exact
                zeros, ties and large values planted among the inputs
  differences   central differences of the function itself
  precision     its error against float64, at most twice that of torch's own float32
  trajectory    ten training steps, against those of the same network of torch.nn modules

A learner's FILE defines any of
  perceptron_update(w, x, d, eta) -> w                       w = [θ, w₁ …], x = [−1, x₁ …]
  forward(X, w_h, b_h, w_out, b_out) -> (z_h, a_h, z_out, a_out)
  backward(X, y_enc, cache, w_out) -> (grad_w_h, grad_b_h, grad_w_out, grad_b_out)
with cache = (z_h, a_h, z_out, a_out): sigmoid units, the logistic cost summed over the batch, no l2 in the gradients.

examples:
  nnlab check                      test nnlab's own gradients
  nnlab check lab4.py              grade a file; the report says what is wrong with a wrong gradient
  nnlab check lab4.py --json       the same for a grader

FILE needs a POSIX system (Linux, macOS, WSL).

exit status: 0 all right, 1 something is wrong, 2 an argument cannot be used
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; the exit status."""
    parser = LineParser(
        prog="nnlab check",
        description="Test every hand-written gradient, or grade a learner's file and say what is wrong with it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="a learner's Python file; nnlab's own gradients without"
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="OUT",
        help="write the results as JSON to OUT, or alone to standard output",
    )
    parser.add_argument("--device", default="all", help="cpu, cuda, or all that are there (the default)")
    parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="SECONDS", help="for each function of FILE (default 10)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs (default 0)")
    options = parser.parse_args(arguments)
    if options.file is None and (options.json or "").endswith(".py"):  # nnlab check --json lab4.py
        options.file, options.json = options.json, "-"
    try:
        if (options.json or "").endswith(".py"):
            raise ArgumentError("--json", f"must not write over a Python file, got {options.json}")
        with _one_thread():
            status, text, data = _file(options) if options.file else _package(options)
        if options.json is None or options.json != "-":
            print(text)
        if options.json == "-":
            print(json.dumps(data, indent=1, ensure_ascii=False))
        elif options.json:
            Path(options.json).write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except (ArgumentError, OSError) as error:
        print(f"nnlab check: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    return status


@contextmanager
def _one_thread() -> Iterator[None]:
    """What is computed here is tiny: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


Answer = tuple[int, str, dict[str, Any]]


def _file(options: argparse.Namespace) -> Answer:
    if os.name != "posix":  # the child process gets its pipes by number, and is killed with its whole process group
        raise ArgumentError(
            "FILE", f"must be checked on a POSIX system such as Linux, macOS or WSL, got {sys.platform}"
        )
    report = grade_file(Path(options.file), options.timeout)
    return OK if report.ok else FAILED, report.text(), report.to_dict()


def _package(options: argparse.Namespace) -> Answer:
    devices = _devices(options.device)
    stream = (result for device in devices for result in suite.results(device, options.seed))
    terminal = Console(stderr=True)
    total, hidden = suite.count() * len(devices), not terminal.is_terminal
    results = list(track(stream, "checking", total, console=terminal, transient=True, disable=hidden))
    failed = [r for r in results if not r.ok]
    data = {"ok": not failed, "torch": str(torch.__version__), "rows": [r._asdict() for r in results]}
    return FAILED if failed else OK, _text(results, failed, devices), data


def _devices(name: str) -> list[torch.device]:
    if name != "all":
        return [resolve_device(name)]
    return [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]


def _text(results: Sequence[suite.Result], failed: Sequence[suite.Result], devices: Sequence[torch.device]) -> str:
    columns = ("by hand", "autograd", "differences", "precision", "trajectory", "tolerance")
    table = Table("what", "dtype", "device", *columns, "", box=None)
    for r in results:
        errors = (r.by_hand, r.autograd, r.central, r.precision, r.trajectory)
        shown = ("" if e is None else f"{e:.1e}" for e in errors)
        table.add_row(r.name, r.dtype, r.device, *shown, f"{r.tolerance:.0e}", "pass" if r.ok else "FAIL")
    lines = [plain(table, 200), "", "Errors are relative (Frobenius), the largest of all inputs. Tolerances, and why:"]
    lines += [f"  {str(d)[6:]} {RELATIVE[d]:.0e}: {REASONS[d]}" for d in suite.DTYPES]
    lines.append(f"  differences {CENTRAL:.0e}: {CENTRAL_REASON}; float32 as above")
    lines.append("  precision 1: error against float64 over 2 × torch's own + 2 eps × the largest entry")
    trajectory = ", ".join(f"{TRAJECTORY[d]:.0e} in {str(d)[6:]}" for d in suite.DTYPES)
    lines.append(f"  trajectory {trajectory}: ten steps carry rounding along")
    lines.append("  by hand: half a unit of the last digit worked out, or rounding")
    lines += [f"FAIL {r.name} ({r.dtype}, {r.device}): {r.diagnosis}" for r in failed]
    where = " and ".join(str(d) for d in devices)
    lines.append(f"{len(results) - len(failed)} of {len(results)} checks passed on {where}")
    return "\n".join(lines)
