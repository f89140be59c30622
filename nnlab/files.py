"""Files that are written whole: whoever reads one, or a kill at any moment, finds the old file or the new."""

import fnmatch
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import IO

_HERE = "".join(c if c.isalnum() else "-" for c in socket.gethostname())


def write_whole(path: str | os.PathLike[str], content: str | bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file by way of a temporary one beside it, which is synced and renamed.

    The mode is the umask's. A temporary file of a process of this machine that is gone is removed.

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


def _sync(folder: Path) -> None:
    """Let the rename outlive a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_temporary(folder: Path, *, below: bool = True) -> None:
    """Remove what processes of this machine that were killed left in a folder, or below it: their temporary files."""
    for place, _, names in os.walk(folder):  # which goes on where another run removes its folder
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
