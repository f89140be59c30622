"""The documentation names what exists: a renamed function turns this red."""

import importlib
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
EQUATIONS, ARCHITECTURE = (
    (REPOSITORY / "docs" / name).read_text(encoding="utf-8") for name in ("equations.md", "architecture.md")
)
NAMES = sorted(set(re.findall(r"`(nnlab\.[\w.]+)`", EQUATIONS + ARCHITECTURE)))
FILES = sorted(set(re.findall(r"`((?:tests|docs|scripts|configs)/[\w./-]+)`", ARCHITECTURE)))


def resolve(name: str) -> object:
    """The object of a dotted name: the longest importable module, then attributes."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            continue
        for part in parts[n:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_in_the_docs_resolves(name):
    assert resolve(name) is not None


@pytest.mark.parametrize("name", ["nnlab.ops.linear_sideways", "nnlab.nowhere.linear_forward", "nnlab.ops.step.w"])
def test_a_name_that_does_not_exist_would_be_found(name):
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        resolve(name)


@pytest.mark.parametrize("name", FILES)
def test_every_file_in_the_architecture_exists(name):
    assert (REPOSITORY / name).exists()


@pytest.mark.parametrize("number", [f"3.{n}" for n in range(1, 20)])
def test_every_numbered_equation_has_its_row(number):
    (row,) = re.findall(rf"^\| {re.escape(number)} \|.*$", EQUATIONS, flags=re.MULTILINE)
    assert row.count("$") >= 2  # a formula
    assert re.search(r"`nnlab\.[\w.]+`", row)  # a function


def test_every_operation_of_the_chapter_is_in_the_equations():
    from nnlab import ops

    functions = {name for name in ops.__all__ if callable(getattr(ops, name)) and name.islower()}
    assert not {name for name in functions if f"`nnlab.ops.{name}`" not in EQUATIONS}


def test_the_changelog_lists_the_public_names():
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    listed = dict(
        re.findall(r"^- `(nnlab[\w.]*)`: (`.*`)$", changelog.partition("### Public names")[2], flags=re.MULTILINE)
    )
    packages = {f"nnlab.{path.parent.name}" for path in (REPOSITORY / "nnlab").glob("*/__init__.py")}
    assert set(listed) == {"nnlab", "nnlab.networks", "nnlab.autograd", *packages}
    for module, names in listed.items():
        assert set(re.findall(r"`(\w+)`", names)) == {*importlib.import_module(module).__all__} - {"__version__"}
