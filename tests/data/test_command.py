"""``nnlab data``: it downloads what is missing, verifies everything and says where it lies."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nnlab.cli import main
from nnlab.data import SPECS
from tests.data.conftest import FILES, content_of, from_mirror, serve

pytestmark = pytest.mark.usefixtures("offline")

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, list[str], list[str]]]
NO_NETWORK = "For a machine without a network: copy "


@pytest.fixture
def run(capsys) -> Run:
    """Run ``nnlab data``; return its exit status and the lines of standard output and standard error."""

    def run(*arguments: object) -> tuple[int, list[str], list[str]]:
        with pytest.raises(SystemExit) as end:
            main(["data", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(end.value.code or 0), out.splitlines(), err.splitlines()

    return run


def listing(folder: Path, n_bytes: list[int], how: str) -> list[str]:
    return [f"  {folder / name}  {n:,} bytes  {how}" for name, n in zip(FILES, n_bytes, strict=True)]


SIZES = [16 + 13 * 784, 8 + 13, 16 + 7 * 784, 8 + 7]


def test_help_answers_without_torch_and_names_every_data_set(run):
    light = "import sys; from nnlab.data_command import main; main(['--help']); sys.exit('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (ended.returncode, ended.stderr) == (0, "")
    status, out, _ = run("--help")
    assert status == 0
    assert out == ended.stdout.splitlines()
    (named,) = re.findall(r"NAME is (.*?), which", " ".join(out))
    assert re.findall(r"\w*mnist|digits", named) == list(SPECS)


def test_files_that_are_there_are_listed_with_what_to_do_without_a_network(small, run):
    folder = small("mnist")
    root = folder.parent.parent
    for arguments in (("--root", root), ("mnist", "mnist", "--check", "--root", root)):
        status, out, err = run(*arguments)
        assert (status, err) == (0, [])
        assert out[0] == "mnist: 4 of 4 files verified"
        assert out[1:5] == listing(folder, SIZES, "verified by its SHA-256")
        assert out[5].startswith(f"{NO_NETWORK}{root} to it, set NNLAB_DATA to where it lies there, ")
        assert len(out) == 6
    assert out[5].endswith("nnlab data mnist --check")


def test_nnlab_data_is_the_root_unless_one_is_given(small, run, monkeypatch, tmp_path):
    folder = small("kmnist")
    monkeypatch.setenv("NNLAB_DATA", str(folder.parent.parent))
    assert run("kmnist", "--check")[1][1:5] == listing(folder, SIZES, "verified by format, shape and labels")
    status, _, err = run("kmnist", "--check", "--root", tmp_path / "elsewhere")
    assert status == 1
    assert f"{tmp_path / 'elsewhere/KMNIST/raw' / FILES[0]}: found no such file" in err[0]


def test_missing_files_are_downloaded(small, run, monkeypatch, tmp_path):
    right = content_of(small("fashion_mnist"))
    asked = serve(monkeypatch, from_mirror(right))
    root = tmp_path / "new" / "folder"
    status, out, err = run("fashion_mnist", "digits", "--root", root)
    assert (status, err, len(asked)) == (0, [], 4)
    folder = root / "FashionMNIST" / "raw"
    assert content_of(folder) == right
    assert out[0] == f"fashion_mnist: getting {', '.join(FILES)} from torchvision into {folder}"
    assert out[3:7] == listing(folder, SIZES, "verified by its SHA-256")
    assert out[7] == "digits: part of scikit-learn, no files needed"
    assert out[8].startswith(f"{NO_NETWORK}{root} to it")


def test_check_downloads_nothing(small, run, monkeypatch):
    folder = small("mnist")
    asked = serve(monkeypatch, from_mirror(content_of(folder)))
    (folder / FILES[1]).unlink()
    status, out, err = run("--check", "--root", folder.parent.parent)
    assert (status, asked) == (1, [])
    assert out[0] == "mnist: 3 of 4 files verified"
    assert len(out) == 4
    assert err == [
        f"nnlab data: error: {folder / FILES[1]}: found no such file, expected it or {FILES[1]}.gz beside it"
    ]


@pytest.mark.parametrize("check", [[], ["--check"]], ids=["", "check"])
def test_a_wrong_file_fails_and_nothing_is_downloaded(small, run, monkeypatch, check):
    folder = small("mnist")
    asked = serve(monkeypatch, from_mirror(content_of(folder)))
    (folder / FILES[2]).write_bytes(b"wrong")
    (folder / FILES[3]).unlink()
    status, out, err = run("mnist", *check, "--root", folder.parent.parent)
    assert (status, asked) == (1, [])
    assert out[0] == "mnist: 2 of 4 files verified"
    assert [line.partition(": found ")[0] for line in err] == [
        f"nnlab data: error: {folder / name}" for name in (FILES[3], FILES[2])
    ]
    assert (folder / FILES[2]).read_bytes() == b"wrong"


def test_files_that_no_source_has_are_a_users_error_in_one_line(small, run, tmp_path):
    folder = small("mnist")
    status, out, err = run("kmnist", "mnist", "--root", tmp_path / "new")
    assert status == 2
    assert [line.split(":")[0] for line in out] == ["kmnist", "mnist", "mnist"]  # which sources are asked
    assert len(err) == 2
    assert all(line.startswith("nnlab data: error: ") and line.endswith("as they are or as .gz") for line in err)
    status, out, _ = run("kmnist", "mnist", "--root", folder.parent.parent)
    assert status == 2  # and the other data set is verified all the same
    assert "mnist: 4 of 4 files verified" in out
    assert not any(line.startswith(NO_NETWORK) for line in out)


def test_a_root_that_cannot_be_written_is_a_users_error(small, run, tmp_path):
    small("mnist")
    (tmp_path / "file").write_bytes(b"")
    status, _, (line,) = run("--root", tmp_path / "file")
    assert status == 2
    assert re.match(r"nnlab data: error: .*file/MNIST/raw: cannot be written \(", line)


def test_files_outside_the_root_are_listed_with_their_folder(small, run, tmp_path):
    folder = small("mnist")
    (tmp_path / "download" / FILES[0]).mkdir(parents=True)
    for name, content in content_of(folder).items():
        (tmp_path / "download" / (f"{name}/{name}" if name == FILES[0] else name)).write_bytes(content)
    status, out, _ = run("--check", "--root", tmp_path / "download" / "below" / "here")
    assert status == 0
    assert out[1].startswith(f"  {tmp_path / 'download' / FILES[0] / FILES[0]}  ")
    assert out[5].startswith(f"{NO_NETWORK}{tmp_path / 'download'} to it")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar"], "NAME must be one of 'mnist', 'fashion_mnist', 'kmnist', 'digits', got 'cifar'"),
        (["mnist", "--chek"], "unrecognized arguments: --chek"),
        (["--root"], "argument --root: expected one argument"),
    ],
)
def test_wrong_arguments_are_a_users_error_in_one_line(run, arguments, message):
    assert run(*arguments) == (2, [], [f"nnlab data: error: {message}"])


def test_debug_shows_the_traceback_of_a_wrong_name():
    with pytest.raises(ValueError, match="NAME must be one of"):
        main(["data", "cifar", "--debug"])


def test_ctrl_c_has_a_status_of_its_own(small, run, monkeypatch, tmp_path):
    small("kmnist")

    def download(url: str, path: Path) -> None:
        raise KeyboardInterrupt

    serve(monkeypatch, download)
    assert run("kmnist", "--root", tmp_path / "new")[0] == 130
    assert not (tmp_path / "new").exists()


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with pytest.raises(SystemExit) as end:
            main(["data", "digits"])
    assert end.value.code == 0
