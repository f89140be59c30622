"""Mutation run over nnlab's mathematics or its engine: ``python -m tests.mutation --seed 0 --count 300``.

Each mutant is one change in one place of ``nnlab.ops``, ``nnlab.networks`` or ``nnlab.autograd``, or with ``--engine``
of ``nnlab.engine``; the fast tests of these run on it in a process of its own, those of the engine on the pretended
CUDA device too, and the mutants that no test saw are printed. The draw depends on the seed and the code alone.
"""

import argparse
import ast
import copy
import importlib
import importlib.machinery
import importlib.util
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sklearn.datasets  # noqa: F401 - so that it is loaded once, as torch is
import torch

ROOT = Path(__file__).parents[1]
FILES = [*sorted((ROOT / "nnlab/ops").glob("[!_]*.py")), ROOT / "nnlab/networks.py", ROOT / "nnlab/autograd.py"]
OTHERS = ("linear", "activations", "losses", "perceptron", "conventions")
TESTS = [[f"tests/ops/test_{name}.py" for name in OTHERS]]
TESTS += [["tests/test_networks.py"], ["tests/test_autograd.py"], ["tests/ops/test_gradients.py"]]
ENGINE = ("updates", "checks", "recording", "mlp", "sparse", "sparse_kernels", "perceptron", "perceptron_loop")
COMPILED = ("sparse_kernels", "perceptron_loop")  # by numba, whose cache does not see a change of what is called
OPERATORS: dict[type, list[type]] = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div, ast.Add], ast.Div: [ast.Mult], ast.Pow: [ast.Mult],
    ast.Mod: [ast.FloorDiv], ast.FloorDiv: [ast.Mult], ast.And: [ast.Or], ast.Or: [ast.And],
    ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Lt: [ast.LtE], ast.LtE: [ast.Lt, ast.Eq], ast.Gt: [ast.GtE],
    ast.GtE: [ast.Gt, ast.Eq], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is], ast.In: [ast.NotIn], ast.NotIn: [ast.In],
}  # fmt: skip
WORKERS, SECONDS = 2, 300  # processes at a time, and the time that each may take
SHAPES = ["Scalar", "N", "O", "K", "NI", "NO", "NK", "OI", "KI", "AnyShape"]


def replacements(node: ast.AST, names: list[str]) -> Iterator[tuple[str, ast.AST]]:  # noqa: PLR0912 - a table
    """What may stand in the place of an expression or a statement."""

    def changed(**fields: Any) -> ast.AST:
        return ast.copy_location(type(node)(**{**dict(ast.iter_fields(copy.deepcopy(node))), **fields}), node)

    match node:
        case ast.BinOp(left, op, right):
            yield from (("operator", changed(op=other())) for other in OPERATORS.get(type(op), []))
            yield from (("term dropped", side) for side in (left, right))
            if isinstance(op, ast.Sub | ast.Div | ast.MatMult):
                yield "operands swapped", changed(left=right, right=left)
        case ast.BoolOp(op, values):
            yield "and/or", changed(op=OPERATORS[type(op)][0]())
            yield from (("condition dropped", value) for value in values)
        case ast.Compare(_, [op], _):
            yield from (("comparison", changed(ops=[other()])) for other in OPERATORS[type(op)])
        case ast.UnaryOp(_, operand):
            yield "unary operator dropped", operand
        case ast.Constant(bool() as value):
            yield "constant", ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield from (("constant", ast.Constant(other)) for other in (value + 1, 2 * value or -1))
        case ast.IfExp(test, body, orelse):
            yield "condition negated", changed(test=ast.UnaryOp(ast.Not(), test))
            yield from (("branch", branch) for branch in (body, orelse))
        case ast.If(test) | ast.While(test):
            yield "condition negated", changed(test=ast.UnaryOp(ast.Not(), test))
            yield "statement removed", ast.Pass()
        case ast.Call(_, [first, *rest]) if not isinstance(first, ast.Starred):
            yield "call dropped", first
            if rest and not isinstance(rest[0], ast.Starred):
                yield "arguments swapped", changed(args=[rest[0], first, *rest[1:]])
                yield "argument dropped", changed(args=[first, *rest[1:]])
        case ast.Call(ast.Attribute(value), []) | ast.Attribute(value, "T"):
            yield "call dropped", value
        case ast.Tuple([first, second, *rest], ast.Load()):
            yield "entries swapped", changed(elts=[second, first, *rest])
        case ast.Name(name, ast.Load()) if name in names:
            yield from (("name", ast.Name(other, ast.Load())) for other in names if other != name)
        case ast.Expr(ast.Call()) | ast.Raise() | ast.AugAssign():
            yield "statement removed", ast.Pass()
        case ast.Return(value) if value is not None:
            yield "nothing returned", changed(value=ast.Constant(None))


Site = tuple[str, int, ast.AST, ast.AST, tuple[str, int | None], ast.AST | None]


def sites(tree: ast.AST, names: list[str]) -> Iterator[Site]:
    """Every possible change: what, line, the old node, its parent with field and index, and the new node if any."""
    if isinstance(tree, ast.FunctionDef | ast.Lambda):
        arguments = tree.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs) if a.arg != "self"]
    if isinstance(tree, ast.FunctionDef):
        decorators = [ast.unparse(decorator) for decorator in tree.decorator_list]
        for k, name in enumerate(decorators):
            if name in ("op", "torch.no_grad()"):
                yield "decorator dropped", tree.lineno, tree.decorator_list[k], tree, ("decorator_list", k), None
        for argument in tree.args.args if "op" in decorators else ():
            old = argument.annotation
            for shape in SHAPES if isinstance(old, ast.Name) and old.id in SHAPES else ():
                if shape != ast.unparse(old):
                    yield "shape", tree.lineno, old, argument, ("annotation", None), ast.Name(shape, ast.Load())
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list", "bases", "keywords") and not isinstance(tree, ast.Call):
            continue
        for k, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(node, ast.AST) and not isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom):
                news = (each for each in replacements(node, names) if ast.dump(each[1]) != ast.dump(node))
                yield from ((what, getattr(node, "lineno", 0), node, tree, (field, k), new) for what, new in news)
                yield from sites(node, names)


class Mutant:
    """The k-th change of a file."""

    def __init__(self, file: Path, k: int) -> None:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        what, line, old, parent, (field, index), new = list(sites(tree, []))[k]
        before, after = ("–" if node is None else ast.unparse(node).splitlines()[0] for node in (old, new))
        if index is None:
            setattr(parent, field, new)
        else:
            getattr(parent, field)[index : index + 1] = [] if new is None else [new]
        self.file, self.source = file, ast.unparse(ast.fix_missing_locations(tree))
        where = file.relative_to(ROOT).as_posix()
        self.words = f"{where}:{line}: {what}: {before}  →  {after}"
        self.module = where.removesuffix(".py").replace("/", ".")

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """As a finder of modules: the mutant in the place of its file."""
        if name != self.module:
            return None
        loader = importlib.machinery.SourceFileLoader(name, str(self.file))
        loader.get_code = lambda name: compile(self.source, str(self.file), "exec")
        return importlib.util.spec_from_file_location(name, self.file, loader=loader)


def run(mutant: Mutant) -> int:
    """Fork a process in which the tests meet the mutant; its id. Its exit status is 0 if they all pass."""
    if pid := os.fork():
        return pid
    signal.alarm(SECONDS)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.meta_path.insert(0, mutant)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", "--no-header"]
    options += ["-m", "not slow and not cuda"]
    if "/engine/" in str(mutant.file):
        os._exit(engine_tests(mutant.file.stem, options))
    try:
        oracles = importlib.import_module("tests.ops.oracles")
        for operation in oracles.OPERATIONS.values():
            oracles.check_autograd(operation, torch.float64, torch.device("cpu"))
    except BaseException:
        os._exit(1)
    for tests in TESTS if "/ops/" in str(mutant.file) else TESTS[1:3]:  # the quickest to kill first
        if pytest.main([*options, *tests]):
            os._exit(1)
    os._exit(0)


def engine_tests(name: str, options: list[str]) -> int:
    """Run the tests of an engine's module; 0 if they all pass."""
    if name in COMPILED:
        os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp()
    kind = name.partition("_")[0]
    kinds = {"perceptron": ["perceptron"], "sparse": ["sparse", "mlp"], "updates": ["updates", "mlp"]}
    tests = [f"tests/engine/test_{name}.py" for name in kinds.get(kind, ["mlp"])]
    if pytest.main([*options, *tests]):
        return 1
    on_cuda = [*tests, "tests/engine/test_budget.py"] if name not in COMPILED and kind != "sparse" else []
    cuda = [*options[:-1], "not slow and cuda", "-p", "tests.pretended"]
    return int(bool(on_cuda) and bool(pytest.main([*cuda, *on_cuda])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--engine", action="store_true", help="mutate nnlab.engine")
    parser.add_argument("--only", type=int, nargs="*", metavar="NUMBER", help="mutants of the draw, from 0")
    options = parser.parse_args()
    os.chdir(ROOT)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # plugins take longer to load than a mutant to kill
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.func.hessian(lambda x: torch.vmap(lambda x: x.tanh())(x).sum())(torch.ones(2))  # what torch loads once
    files = [ROOT / f"nnlab/engine/{name}.py" for name in ENGINE] if options.engine else FILES
    counts = [(file, len(list(sites(ast.parse(file.read_text(encoding="utf-8")), [])))) for file in files]
    possible = [(file, k) for file, n in counts for k in range(n)]
    drawn = random.Random(options.seed).sample(possible, min(options.count, len(possible)))
    print(f"{len(drawn)} of {len(possible)} mutants", flush=True)
    todo = list(enumerate(drawn)) if options.only is None else [(k, drawn[k]) for k in options.only]
    running: dict[int, tuple[int, Mutant]] = {}
    found: Counter[str] = Counter()
    start = time.monotonic()
    while todo or running:
        while todo and len(running) < WORKERS:
            number, place = todo.pop(0)
            mutant = Mutant(*place)
            running[run(mutant)] = number, mutant
        pid, status = os.wait()
        number, mutant = running.pop(pid)
        if number % 20 == 0:
            print(f"{sum(found.values())} done in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        found["survived" if status == 0 else "timed out" if os.WIFSIGNALED(status) else "killed"] += 1
        if status == 0:
            print(f"survived {number} {mutant.words}", flush=True)
    print(f"{dict(found)} in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
