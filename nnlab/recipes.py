"""The recipes: configurations of ``nnlab fit`` and its sister commands that are found by name."""

from pathlib import Path


def recipes() -> dict[str, Path]:
    """The files of the recipes by name: a wheel has them inside the package, a checkout beside it.

    >>> sorted(recipes())
    ['fashion_mnist', 'mlp', 'mlp_chapter', 'mlp_plain', 'mlp_record', 'perceptron', 'smoke']
    """
    package = Path(__file__).parent
    inside, beside = package / "configs", package.parent / "configs"
    return {path.stem: path for path in sorted((inside if inside.is_dir() else beside).glob("*.yaml"))}
