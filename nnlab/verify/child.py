"""The process that runs a learner's file: it is started by ``nnlab.verify.sandbox``, and judges nothing.

It answers requests to call one of the file's functions with arrays. Whatever the file does to this process, the
judge sits in another one, which takes nothing from here but numbers. Only NumPy and the standard library are imported,
so that it starts at once.
"""

import faulthandler
import json
import linecache
import os
import struct
import sys
import traceback
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

FUNCTIONS = ("perceptron_update", "forward", "backward")
HEADER = struct.Struct(">IQ")  # lengths of the JSON header and of the arrays' bytes
MEMORY = 4 << 30  # bytes that the file may use


class Ended(BaseException):
    """The file asked to end the process."""


def send(stream: BinaryIO, message: dict[str, Any], arrays: Sequence[np.ndarray[Any, Any]] = ()) -> None:
    """Write one message: a JSON header, and the bytes of arrays."""
    message["arrays"] = [[a.dtype.str, a.shape] for a in arrays]
    header, body = json.dumps(message).encode(), b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)
    stream.write(HEADER.pack(len(header), len(body)) + header + body)
    stream.flush()


def unpack(header: bytes, body: bytes) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
    """A message and its arrays; only numbers are made of the bytes.

    Raises:
        ValueError: the bytes are no such message.
    """
    message, arrays, start = json.loads(header), [], 0
    for dtype, shape in message["arrays"]:
        kind = np.dtype(dtype)
        if kind.kind not in "fiub":
            raise ValueError(f"an array of {kind}")
        size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
        arrays.append(np.frombuffer(body[start : start + size], kind).reshape(shape).copy())
        start += size
    return message, arrays


def _describe(error: BaseException, path: str) -> dict[str, Any]:
    """The error in a line, with the last line of the file that was running."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return {
            "error": f"{type(error).__name__}: {error.msg}",
            "line": error.lineno,
            "code": (error.text or "").strip(),
        }
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    line = frames[-1].lineno if frames else None
    if isinstance(error, Ended | SystemExit):
        text = f"the file ends the program ({'os._exit' if isinstance(error, Ended) else 'sys.exit'})"
    else:
        text = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}".rstrip(": ")
    return {"error": text, "line": line, "code": linecache.getline(path, line).strip() if line else ""}


def _array(value: Any) -> np.ndarray[Any, Any]:
    if hasattr(value, "detach"):  # a torch tensor
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"the result holds {type(value).__name__}, not numbers")
    return array


def _limit() -> None:
    try:
        import resource  # noqa: PLC0415 - POSIX alone has it
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))


def _end(status: int = 0) -> None:
    raise Ended(status)


def _serve(path: str, requests: BinaryIO, answers: BinaryIO) -> None:
    module = types.ModuleType(Path(path).stem)
    module.__file__ = path
    sys.modules[module.__name__] = module
    try:
        exec(compile(Path(path).read_bytes(), path, "exec"), module.__dict__)
    except BaseException as error:
        send(answers, _describe(error, path))
        return
    send(answers, {"functions": [name for name in FUNCTIONS if callable(module.__dict__.get(name))]})
    while prefix := requests.read(HEADER.size):
        n_header, n_body = HEADER.unpack(prefix)
        message, arrays = unpack(requests.read(n_header), requests.read(n_body))
        given: list[Any] = list(arrays)
        if "cache" in message:  # these arrays are one argument, a tuple
            at, n = message["cache"]
            given[at : at + n] = [tuple(given[at : at + n])]
        scalars = message.get("scalars", {})
        for at, value in sorted((int(k), v) for k, v in scalars.items()):
            given.insert(at, value)
        try:
            with np.errstate(all="ignore"):
                value = module.__dict__[message["call"]](*given)
            lone = not isinstance(value, tuple | list)
            results = [] if value is None else [_array(value)] if lone else [_array(v) for v in value]
            send(answers, {"none": value is None, "lone": lone}, results)
        except BaseException as error:
            send(answers, _describe(error, path))


def main(arguments: Sequence[str]) -> None:
    """Run the file and answer: path, and the descriptors of requests, answers and the trace."""
    path, requests, answers, trace = arguments[0], *(int(a) for a in arguments[1:])
    faulthandler.enable(file=trace, all_threads=False)  # names the line on a crash, or when the judge aborts
    _limit()
    os._exit = _end  # type: ignore[assignment]
    sys.path.insert(0, str(Path(path).parent))
    sys.argv = [path]
    with open(requests, "rb") as inward, open(answers, "wb") as outward:
        _serve(path, inward, outward)


if __name__ == "__main__":
    main(sys.argv[1:])
