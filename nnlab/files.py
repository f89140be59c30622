"""Writing files whole: a reader, or a kill at any moment, finds the old file or the new one."""

import fnmatch
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import IO

_HERE = "".join(c if c.isalnum() else "-" for c in socket.gethostname())


def write_whole(path: str | os.PathLike[str], content: str | bytes | Callable[[IO[bytes]], object]) -> None:
    """Write to a temporary file beside the target, sync it, and rename it.

    The mode follows the umask. Temporary files of this machine's processes that have ended are removed.

    Args:
        path: its folder is made where it is missing.
        content: text, written as UTF-8; bytes; or a function that writes them to an open file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_temporary(target.parent, below=False)
    temporary = target.with_name(f".{target.name}.{_HERE}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def claim_folder(parent: Path) -> Path:
    """Make a folder that no other run has: the first version_N that is free. mkdir fails where it exists."""
    parent.mkdir(parents=True, exist_ok=True)
    remove_temporary(parent)
    taken = [int(n) for p in parent.glob("version_*") if (n := p.name.removeprefix("version_")).isdecimal()]
    number = max(taken, default=-1) + 1
    while True:
        folder = parent / f"version_{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _sync(folder: Path) -> None:
    """Sync the folder, so that the rename survives a power cut; POSIX only."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_temporary(folder: Path, *, below: bool = True) -> None:
    """Remove the temporary files that killed processes of this machine left in a folder, or below it."""
    for place, _, names in os.walk(folder):  # os.walk tolerates that another run removes its folder
        for name in fnmatch.filter(names, f".*.{_HERE}.*.tmp"):
            pid = name.split(".")[-2]
            if pid.isdecimal() and int(pid) != os.getpid() and not _runs(int(pid)):
                Path(place, name).unlink(missing_ok=True)
        if not below:
            break


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True
