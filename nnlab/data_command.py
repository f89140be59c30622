"""The command ``nnlab data``. It answers ``--help`` without importing torch."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nnlab.config_files import LineParser

OK, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130  # exit statuses

DESCRIPTION = """\
Download the files of data sets that are missing, verify all of them, and say where they lie.
"""

EPILOG = """\
examples:
  nnlab data                                     MNIST, into the folder data or the one that NNLAB_DATA names
  nnlab data mnist fashion_mnist --root D:/data  two data sets, into a folder of your choice
  nnlab data --check                             verify what is there, without a network

NAME is mnist (the default), fashion_mnist, kmnist or digits, which needs no files. Files are also found under other
usual names (train-images.idx3-ubyte, .gz) and one or two folders above or below the root. A file that is wrong is
never replaced.

exit status: 0 all files are verified, 1 a file is wrong, or missing with --check, 2 the arguments are wrong or a file
cannot be downloaded
"""


def main(arguments: Sequence[str]) -> int:
    """Run ``nnlab data``; return the exit status.

    >>> main(["digits", "--check"])
    digits: part of scikit-learn, no files needed
    0
    """
    arguments = list(arguments)
    try:
        return _run(_parser().parse_args(arguments))
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or flushing at exit would fail
        return OK
    except ValueError as error:
        if "--debug" in arguments:
            raise
        _complain(error)
        return USER_ERROR


def _parser() -> LineParser:
    parser = LineParser(
        prog="nnlab data",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="data sets (default: mnist)")
    parser.add_argument("--root", metavar="DIR", help="the folder of the data sets (default: $NNLAB_DATA, else data)")
    parser.add_argument("--check", action="store_true", help="download nothing; a missing file is a failure")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _run(options: argparse.Namespace) -> int:
    from nnlab.data import SPECS, default_root  # noqa: PLC0415 - torch, which takes seconds, comes with it
    from nnlab.validation import check_choice  # noqa: PLC0415

    names = list(dict.fromkeys(options.names or ["mnist"]))
    for name in names:
        check_choice("NAME", name, SPECS)
    root = (Path(options.root) if options.root else default_root()).expanduser().absolute()
    log = logging.getLogger("nnlab")
    handler, level = logging.StreamHandler(sys.stdout), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        results = [_data_set(name, root, check=options.check) for name in names]
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    folders = sorted({_folder_to_copy(paths, root) for _, paths in results if paths})
    status = max(status for status, _ in results)
    if status == OK and folders:
        verb = "it lies" if len(folders) == 1 else "each lies"
        print(
            f"For a machine without a network: copy {' and '.join(map(str, folders))} to it, set NNLAB_DATA to where "
            f"{verb} there, and verify with nnlab data {' '.join(names)} --check"
        )
    return status


def _data_set(name: str, root: Path, *, check: bool) -> tuple[int, list[Path]]:
    """Download what is missing, verify and print all files; return the exit status and where the files lie."""
    from nnlab.data import SPECS, DataError, ensure  # noqa: PLC0415

    if not SPECS[name].files:
        print(f"{name}: part of scikit-learn, no files needed")
        return OK, []
    paths, missing, wrong = _verify(name, root)
    if missing and not wrong and not check:
        try:
            ensure(name, root)
        except DataError as error:
            _complain(error)
            return USER_ERROR, []
        paths, missing, wrong = _verify(name, root)
    print(f"{name}: {len(paths)} of {len(SPECS[name].files)} files verified")
    how = "verified by its SHA-256" if SPECS[name].sha256 else "verified by format, shape and labels"
    for path in paths:
        print(f"  {path}  {path.stat().st_size:,} bytes  {how}")
    for problem in missing + wrong:
        _complain(problem)
    return FAILED if missing or wrong else OK, paths


def _verify(name: str, root: Path) -> tuple[list[Path], list[Exception], list[Exception]]:
    """Where the verified files of a data set lie, and an error for each that is missing and each that is wrong."""
    from nnlab.data import SPECS, DataError  # noqa: PLC0415
    from nnlab.data.mnist import find_files, missing_file  # noqa: PLC0415

    paths: list[Path] = []
    missing: list[Exception] = []
    wrong: list[Exception] = []
    for file in SPECS[name].files:
        try:
            ((_, found),) = find_files(name, root, [file])
        except DataError as error:
            wrong.append(error)
        else:
            if found is None:
                missing.append(missing_file(name, root, file))
            else:
                paths.append(found.path)
    return paths, missing, wrong


def _folder_to_copy(paths: Sequence[Path], root: Path) -> Path:
    """The root where it contains all files, else the folder that does."""
    if all(path.is_relative_to(root) for path in paths):
        return root
    return Path(os.path.commonpath([path.parent for path in paths]))


def _complain(error: Exception) -> None:
    print(f"nnlab data: error: {' '.join(str(error).split())}", file=sys.stderr)
