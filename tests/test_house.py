"""The house stays as it was built: floors import downwards, and every file fits on a few pages."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "nnlab"
MODULES = sorted(PACKAGE.rglob("*.py"))


def test_a_module_imports_only_from_lower_floors(tmp_path):
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    ended = subprocess.run(
        [sys.executable, "-c", command, "--config", REPOSITORY / "pyproject.toml", "--cache-dir", tmp_path],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Contracts: 1 kept, 0 broken." in ended.stdout


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_is_short(module):
    most = 155 if module.parent.name == "ops" else 250
    assert len(module.read_text().splitlines()) <= most


def test_lightning_stays_on_its_floors():
    """It takes seconds to import."""
    for module in MODULES:
        if module.relative_to(PACKAGE).parts[0] != "training":
            text = module.read_text()
            assert "import lightning" not in text, module
            assert "from lightning" not in text, module


def test_nothing_unpickles():
    for path in [*MODULES, *(REPOSITORY / "scripts").glob("*.py")]:
        assert "weights_only=False" not in path.read_text(), path
