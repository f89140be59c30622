"""The judge's side of a learner's process: it is given arrays and a time limit, and only numbers come back."""

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from nnlab.verify import child

_LARGEST = 256 << 20  # bytes of an answer


class LearnerError(Exception):
    """What a learner's file did wrong, with the line of the file where it is known."""

    def __init__(self, words: str, line: int | None = None, code: str = "") -> None:
        at = f"line {line}{f' (`{code}`)' if code else ''}: " if line else ""
        super().__init__(at + words)
        self.words, self.line, self.code = words, line, code


class Sandbox:
    """A process that has loaded a learner's file, killed with all its children at the latest on ``close``."""

    def __init__(self, path: Path, timeout: float) -> None:
        self.path, self.timeout = path.resolve(), timeout
        self.printed = ""
        self._doing = "being loaded"
        self.start_clock()
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self._trace: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        inherited = (requests, answers, self._trace.fileno())
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-u", child.__file__, str(self.path), *map(str, inherited)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=inherited,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
        os.close(requests)
        os.close(answers)
        self._drain = threading.Thread(target=self._keep_printed, daemon=True)
        self._drain.start()
        try:
            message, _ = self._receive()
        except LearnerError:
            self.close()
            raise
        self.functions: tuple[str, ...] = tuple(name for name in message["functions"] if name in child.FUNCTIONS)

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start_clock(self) -> None:
        """From now on the process has its ``timeout`` seconds, in one call or in many."""
        self._end = time.monotonic() + self.timeout

    @property
    def alive(self) -> bool:
        """Whether the process can be asked."""
        return self._process.poll() is None

    def call(self, name: str, *arguments: Any) -> list[np.ndarray[Any, Any]]:
        """Call a function of the file with arrays, tuples of arrays and numbers; a lone result is a list of one.

        Raises:
            LearnerError: it raised, took too long, ended the process, or returned something else than numbers.
        """
        arrays: list[np.ndarray[Any, Any]] = []
        message: dict[str, Any] = {"call": name, "scalars": {}}
        for at, value in enumerate(arguments):
            if isinstance(value, tuple):
                message["cache"] = [len(arrays), len(value)]
                arrays += value
            elif isinstance(value, np.ndarray):
                arrays.append(value)
            else:
                message["scalars"][at] = value
        self._doing = f"in {name}"
        try:
            with open(self._requests, "wb", closefd=False) as stream:
                child.send(stream, message, arrays)
        except OSError:
            raise self._ended() from None
        answer, results = self._receive()
        if answer.get("none"):
            raise LearnerError(f"{name} returned None: it must end in `return …`")
        return results

    def close(self) -> None:
        """Kill the process and whatever it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._drain.join(1)
        for descriptor in (self._requests, self._answers):
            with suppress(OSError):
                os.close(descriptor)
        if self._process.stdout and not self._drain.is_alive():
            self._process.stdout.close()
        self._trace.close()

    def _keep_printed(self) -> None:
        """Read all that the file prints, and keep its beginning."""
        stream = self._process.stdout
        while stream and (text := stream.read1(1 << 16)):  # type: ignore[attr-defined]
            self.printed = (self.printed + text.decode(errors="replace"))[:500]

    def _receive(self) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
        n_header, n_body = child.HEADER.unpack(self._read(child.HEADER.size))
        if n_header + n_body > _LARGEST:
            raise LearnerError(f"the answer {self._doing} is larger than {_LARGEST >> 20} MiB")
        try:
            message, arrays = child.unpack(self._read(n_header), self._read(n_body))
        except (ValueError, KeyError, TypeError) as error:
            raise LearnerError(f"the process gave no proper answer {self._doing}") from error
        if "error" in message:
            raise LearnerError(str(message["error"]), message["line"], message["code"])
        return message, arrays

    def _read(self, n: int) -> bytes:
        found = b""
        while len(found) < n:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, self._end - time.monotonic()))
            if not ready:
                raise self._too_slow()
            more = os.read(self._answers, n - len(found))
            if not more:
                raise self._ended()
            found += more
        return found

    def _too_slow(self) -> LearnerError:
        """Have the process say where it is, and die."""
        if self.alive:
            self._process.send_signal(signal.SIGABRT)
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
        words = f"still {self._doing} after {self.timeout:g} seconds: an endless loop? (--timeout allows more)"
        return LearnerError(words, *self._line())

    def _ended(self) -> LearnerError:
        try:
            status = self._process.wait(2)
        except subprocess.TimeoutExpired:  # it closed its answers and lives on
            return LearnerError(f"the process gave no proper answer {self._doing}")
        if status < 0:
            name = signal.Signals(-status).name if -status in {int(s) for s in signal.Signals} else str(-status)
            return LearnerError(f"the process crashed ({name}) while {self._doing}", *self._line())
        return LearnerError(f"the process ended (status {status}) while {self._doing}", *self._line())

    def _line(self) -> tuple[int | None, str]:
        """The deepest line of the file in the trace, and its text."""
        self._trace.seek(0)
        trace = self._trace.read().decode(errors="replace")
        match = re.search(rf'File "{re.escape(str(self.path))}", line (\d+)', trace)
        if match is None:
            return None, ""
        number, lines = int(match[1]), self.path.read_text(errors="replace").splitlines()
        return number, lines[number - 1].strip() if number <= len(lines) else ""
