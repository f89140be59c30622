"""The scripts that walk the chapter from data to figures and numbers, and README's picture, on little data."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import Perceptron
from sklearn.model_selection import train_test_split

SCRIPTS = Path(__file__).parents[1] / "scripts"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_pictures(folder: Path, names: set[str]) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(files) == {f"{name}.png" for name in names}
    assert all(content.startswith(b"\x89PNG") and len(content) > 5000 for content in files.values())


def test_iris(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("iris").main(["--out", str(tmp_path / "figures")]) == 0
    out = capsys.readouterr().out
    assert "updates in each epoch: [1, 3, 3, 2, 1, 0, 0, 0, 0, 0]" in out
    assert "[-0.38375655 -0.70611756  1.83471828]" in out
    assert "Misclassified samples: 0" in out
    X, y = load_iris(return_X_y=True)
    X_train, _, y_train, _ = train_test_split(X[:100, [0, 2]], y[:100], test_size=0.2, random_state=1)
    theirs = Perceptron(random_state=42).fit(X_train, y_train)  # its numbers change with its version
    assert f"threshold: {theirs.intercept_}" in out
    assert f"w1: {theirs.coef_[0, 0]}" in out
    assert f"w2: {theirs.coef_[0, 1]}" in out
    kinds = "samples perceptron-updates perceptron-regions scikit-learn-regions adaline-cost adaline-regions"
    assert_pictures(tmp_path / "figures", {f"iris-{kind}" for kind in kinds.split()})


def test_mnist_from_scratch_on_the_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", "digits", "--epochs", "20", "--out", str(tmp_path)]
    accuracy = script("mnist_from_scratch").main(arguments)
    out = capsys.readouterr().out
    assert "digits: 1,318 training, 119 validation and 360 test images" in out
    assert f"test accuracy:       {accuracy:.2%}" in out
    assert accuracy > 0.7
    assert_pictures(tmp_path, {f"digits-{kind}" for kind in ("sigmoid", "curves", "wrong", "weights")})


def test_the_readmes_picture(tmp_path: Path) -> None:
    assert script("readme_picture").main(["--epochs", "2", "--out", str(tmp_path / "docs" / "picture.png")]) > 0.7
    assert_pictures(tmp_path / "docs", {"picture"})


def test_wrong_data_is_answered_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(b"not images")
    monkeypatch.setenv("NNLAB_DATA", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        script("mnist_from_scratch").main(["--out", str(tmp_path / "figures")])
    assert stopped.value.code == 2
    assert "-ubyte" in capsys.readouterr().err
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("name", ["iris", "mnist_from_scratch"])
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        script(name).main(["--help"])
    assert stopped.value.code == 0
    assert "--epochs" in capsys.readouterr().out
