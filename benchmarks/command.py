"""What the commands of this folder share: errors of one line, signals, and files that are written whole."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from nnlab.data import DataError


class UserError(Exception):
    """One line that says what to change."""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.status = 128 + signum


class Parser(argparse.ArgumentParser):
    """Its errors are a ``UserError``."""

    def error(self, message: str) -> NoReturn:
        """Raise the message."""
        raise UserError(message)


def answer(name: str, arguments: Sequence[str], run: Callable[[], int]) -> int:
    """Return the status of a command: what ``run`` gives, 2 after an error of one line, 130 or 143 after a signal."""
    try:
        with _signals():
            return run()
    except Stopped as stop:  # before or after the measuring
        return stop.status
    except (UserError, DataError, ValueError, OSError) as error:
        if "--debug" in arguments:
            raise
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


@contextmanager
def _signals() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM raise, and ignore those that follow while processes end and files are written."""

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise Stopped(signum)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def replace_file(path: str, text: str) -> None:
    """Write a file whole: a kill at any moment leaves the old or the new one."""
    part = Path(f"{path}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def check_files(options: argparse.Namespace) -> None:
    """Refuse files that could not be written in the end, before minutes of measuring."""
    for flag in ("json", "markdown", "plot"):
        path = getattr(options, flag)
        if path and path != "-" and (Path(path).is_dir() or not Path(path).parent.is_dir()):
            raise UserError(f"--{flag} must be a file in a folder that exists, got {path}")
    if options.plot and Path(options.plot).suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot must end in .png, .svg or .pdf, got {options.plot}")
