"""The package as a whole: its layers, its dependencies, and what ``import nnlab`` gives."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import nnlab
from nnlab.versions import torchvision_problem
from tests.training.runs import nnlab as command

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "nnlab"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Layers


def test_a_module_imports_only_from_lower_layers(tmp_path):
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "--config", REPOSITORY / "pyproject.toml", "--cache-dir", tmp_path],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Contracts: 1 kept, 0 broken." in ended.stdout


def test_lightning_is_imported_by_training_alone():
    """It takes seconds to import."""
    importing = {module.relative_to(PACKAGE).parts[0] for module in MODULES if "lightning" in imported(module)}
    assert importing == {"training"}


def test_nothing_unpickles():
    for path in [*MODULES, *(REPOSITORY / "scripts").glob("*.py")]:
        assert "weights_only=False" not in path.read_text(encoding="utf-8"), path


# Dependencies


def imported(module: Path) -> set[str]:
    """The packages that a module imports, at its top or later."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def requirements(*extras: str) -> dict[str, Requirement]:
    """What nnlab and its extras require, by name."""
    lines = [*PROJECT["dependencies"], *(line for name in extras for line in PROJECT["optional-dependencies"][name])]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


def pinned() -> dict[str, Version]:
    """The versions of constraints.txt, by name."""
    pins = {}
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            pins[canonicalize_name(requirement.name)] = Version(specifier.version)
    return pins


def test_what_is_imported_is_required_and_what_is_required_is_imported():
    distributions = packages_distributions()
    found = {
        canonicalize_name(distribution)
        for name in set().union(*map(imported, MODULES)) - {"nnlab"} - sys.stdlib_module_names
        for distribution in distributions.get(name, [name])[:1]  # pyarrow may not be installed
    }
    assert requirements().keys() <= found
    assert found - requirements("fast", "export", "data").keys() <= {
        "llvmlite",
        "scipy",
        "triton",
    }  # numba's, scikit-learn's, torch's


def test_the_pinned_versions_are_allowed_and_an_upper_bound_is_the_next_minor_release():
    pins, bounded = pinned(), set()
    for name, requirement in requirements("fast", "export", "data", "bench", "dev").items():
        assert requirement.specifier.contains(pins[name]), requirement
        for specifier in requirement.specifier:
            if specifier.operator == "<":
                bounded.add(name)
                assert specifier.version == f"{pins[name].major}.{pins[name].minor + 1}", requirement
    assert bounded == {"lightning", "jsonargparse", "scikit-learn", "ckpt-chaos"}


# What import nnlab gives; that it imports nothing heavy is a test of tests/test_cli.py


@pytest.mark.parametrize("name", dir(nnlab))
def test_a_name_is_there_when_it_is_first_asked_for(name, monkeypatch):
    there = getattr(nnlab, name)
    if isinstance(there, ModuleType):
        monkeypatch.delattr(nnlab, name)  # as before its import
        assert getattr(nnlab, name) is sys.modules[f"nnlab.{name}"]


def test_every_package_is_a_submodule_of_nnlab_for_people_and_type_checkers():
    (block,) = (
        node
        for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    typed = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == {name for name in dir(nnlab) if name not in ("__version__", "show_versions")}
    assert typed >= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(nnlab.__all__) <= set(dir(nnlab))


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'nnlab' has no attribute 'Trainer'"):
        _ = nnlab.Trainer


# Versions


def test_show_versions_names_what_a_report_needs(capsys):
    nnlab.show_versions()
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert f"nnlab: {nnlab.__version__}" in lines
    assert f"torch: {version('torch')}" in lines
    assert any(line.startswith(f"CUDA: {torch.version.cuda or 'torch was built without it'}") for line in lines)
    assert "torchvision: can be imported" in lines


@pytest.fixture
def _other_torchvision(tmp_path, monkeypatch):
    """As PyPI's torchvision is beside a torch of another index."""
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("_other_torchvision")
def test_a_torchvision_that_does_not_match_torch_is_said_in_one_line():
    problem = torchvision_problem()
    assert "does not match torch" in problem
    assert "(operator torchvision::nms does not exist): install both from the same index" in problem
    assert command("fit", "--config", "smoke") == (2, "", f"nnlab fit: error: {problem}\n")
