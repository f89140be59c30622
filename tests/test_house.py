"""The layers: a module imports only from layers below it, and nothing that is slow or unsafe where it need not be."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "nnlab"
MODULES = sorted(PACKAGE.rglob("*.py"))


def test_a_module_imports_only_from_lower_layers(tmp_path):
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


def test_lightning_is_imported_by_training_alone():
    """It takes seconds to import."""
    allowed = ("training", "bench")
    for module in MODULES:
        if module.relative_to(PACKAGE).parts[0] not in allowed:
            text = module.read_text()
            assert "import lightning" not in text, module
            assert "from lightning" not in text, module


def test_nothing_unpickles():
    for path in [*MODULES, *(REPOSITORY / "scripts").glob("*.py")]:
        assert "weights_only=False" not in path.read_text(), path
