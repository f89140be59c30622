"""Kills ``nnlab fit`` with SIGKILL, looks at what it leaves, goes on, and compares with the run that was never killed.

``python -m tests.training.kills FOLDER 100`` kills 100 runs: a third at random moments, half of the others before a
rename, all renames of a run where there are so few, and the rest evenly spread over its writes, of which then a half
arrives, and its syncs. With ``all`` in place of a number it is one run for each of these.
"""

import builtins
import importlib
import io
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from nnlab.cli import main
from nnlab.training import read_checkpoint
from tests.training.runs import figures

FIT = ["fit", "--config=smoke", "--trainer.max_epochs=3", "--trainer.enable_progress_bar=false"]
LIMIT = 60  # seconds for a run


class Kill:
    """Counts what this process does to the files of a folder, and kills it before or within the n-th."""

    def __init__(self, folder: Path, n: int, log: Path | None = None) -> None:
        self.folder, self.n, self.seen, self.log = str(folder), n, 0, log
        opens = io.open
        os.replace, os.rename, os.fsync = map(self._before, (os.replace, os.rename, os.fsync))

        def open_(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            opened = opens(file, mode, *args, **options)
            inside = isinstance(file, (str, os.PathLike)) and os.path.abspath(file).startswith(self.folder)
            return Writes(opened, self) if inside and set(mode) & set("wax+") else opened

        io.open = builtins.open = open_

    def is_due(self, what: str) -> bool:
        self.seen += 1
        if self.log:
            with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a") as file:
                file.write(f"{what}\n")
        return self.seen == self.n

    def _before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            if self.is_due(call.__name__):
                die()
            return call(*args, **options)

        return counted


class Writes:
    """A file, of whose n-th write only a half arrives."""

    def __init__(self, file: Any, kill: Kill) -> None:
        self._file, self._kill = file, kill

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def write(self, data: Any) -> Any:
        if self._kill.is_due("write"):
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            die()
        return self._file.write(data)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fit(root: Path, *flags: str, n: int = 0, after: float = LIMIT, log: Path | None = None) -> int:
    """Run the command in a forked process, and return how it ended; ``n`` or a time says when it is killed."""
    root.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        status = 99
        try:
            out = os.open(root / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            Kill(root, n, log)
            main([*FIT, f"--trainer.default_root_dir={root / 'runs'}", *flags])
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        finally:
            os._exit(status)
    ends = time.monotonic() + after
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= ends:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGKILL
        time.sleep(0.001)


def torn(folder: Path, whole: Path) -> list[str]:
    """The files of a run that are neither missing nor whole, temporary ones left out."""
    bad = []
    for path in folder.rglob("*"):
        if path.is_dir() or path.name.startswith(".") or "tfevents" in path.name:  # an event log is appended to
            continue
        try:
            if path.suffix == ".ckpt":
                read_checkpoint(path)
            elif path.suffix == ".png":
                Image.open(path).load()
            elif path.suffix == ".csv":
                assert rows_of(folder) <= rows_of(whole)
            elif path.suffix == ".yaml":
                here, there = (yaml.safe_load(p.read_text()) for p in (path, whole / path.name))
                assert here.keys() == there.keys()
            else:
                raise AssertionError("no file of a run")
        except Exception as error:
            bad.append(f"{path}: {error!r}")
    return bad


def rows_of(folder: Path) -> set[frozenset[tuple[str, float]]]:
    if not (folder / "metrics.csv").exists():
        return set()
    text = (folder / "metrics.csv").read_text()
    lines = text.splitlines()
    assert text.endswith("\n")
    assert len({line.count(",") for line in lines}) == 1
    return {frozenset(row.items()) for row in figures(folder)}


def content(folder: Path) -> dict[str, Any]:
    """What a run ends with: all but the paths, and the figures, which are looked at as rows."""
    last, best = (read_checkpoint(folder / "checkpoints" / f"{name}.ckpt") for name in ("last", "best"))
    names = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "random", "loops")
    return {"last": {name: last[name] for name in names}, "best": {name: best[name] for name in names}}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def differs(a: Any, b: Any, name: str = "") -> list[str]:
    """The names of what differs."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [more for key in a for more in differs(a[key], b[key], f"{name}.{key}")]
    return [] if same(a, b) else [name]


def temporary(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob(".*.tmp")]


def one(root: Path, whole: Path, seconds: float, n: int) -> tuple[list[str], int]:
    """Kill a run, look, go on, compare: what is wrong, and how many temporary files the kill left."""
    after = LIMIT if n else random.uniform(0, seconds)
    status = fit(root, n=n, after=after)
    runs = sorted((root / "runs/LitMLP").glob("version_*"))
    wrong = [f"ended with {status}"] if status not in (0, -signal.SIGKILL) else []
    for folder in runs:
        wrong += [f"torn: {line}" for line in torn(folder, whole)]
    rows = set().union(*map(rows_of, runs)) if not wrong else set()
    left, last = len(temporary(root)), (runs[0] / "checkpoints/last.ckpt") if runs else None
    flags = [f"--ckpt_path={last}"] if last and last.exists() else []
    if fit(root, *flags):
        return [*wrong, f"the next run failed: {(root / 'output.txt').read_text()[-500:]}"], left
    again = sorted((root / "runs/LitMLP").glob("version_*"))[-1]
    if (again / "checkpoints/last.ckpt").exists():
        wrong += [f"differs: {name}" for name in differs(content(again), content(whole))]
    else:  # the run had ended
        wrong += [f"differs: {name}" for name in differs(content(runs[0]), content(whole))]
    rows |= rows_of(again)
    if rows != rows_of(whole):
        more, less = rows - rows_of(whole), rows_of(whole) - rows
        wrong.append(f"differs: metrics.csv has {sorted(map(sorted, more))} more, {sorted(map(sorted, less))} less")
    wrong += [f"left: {path}" for path in temporary(root)]
    return wrong, left


def spread(values: list[int], n: int) -> list[int]:
    """n of these values, or all where there are fewer, evenly spread."""
    n = min(n, len(values))
    return [values[k * len(values) // n] for k in range(n)]


def campaign(folder: Path, kills: str) -> int:
    """Kill runs, print what came of them, and return how many were wrong."""
    random.seed(1)
    warnings.simplefilter("ignore")
    assert fit(folder / "first") == 0  # compiles, and fills the caches
    began = time.monotonic()
    assert fit(folder / "whole", log=folder / "events.txt") == 0
    seconds = time.monotonic() - began
    events = (folder / "events.txt").read_text().split()
    n_random = len(events) // 3 if kills == "all" else int(kills) // 3
    n_events = len(events) if kills == "all" else int(kills) - n_random
    renames, others = [], []
    for n, kind in enumerate(events, 1):
        (renames if kind == "replace" else others).append(n)
    renames = spread(renames, n_events // 2)
    points = renames + spread(others, n_events - len(renames)) + [0] * n_random
    count: dict[str, int] = dict.fromkeys(("torn", "differs", "left", "ended", "the next run failed"), 0)
    bad = left = 0
    for k, n in enumerate(points):
        root = folder / f"{k}"
        wrong, n_left = one(root, folder / "whole/runs/LitMLP/version_0", seconds, n)
        left += n_left > 0
        bad += bool(wrong)
        for kind in count:
            count[kind] += any(line.startswith(kind) for line in wrong)
        for line in wrong:
            print(f"{k}, {f'{events[n - 1]} {n}' if n else 'random moment'}: {line}", flush=True)
        if not wrong:
            shutil.rmtree(root)
    kinds = {kind: events.count(kind) for kind in dict.fromkeys(events)}
    print(f"a run: {kinds}, {seconds:.1f} s")
    print(f"{len(points)} kills, {n_random} of them at random moments; {left} left temporary files")
    print(f"wrong: {bad}, of these {count}")
    return bad


if __name__ == "__main__":
    torch.set_num_threads(1)
    for module in ("nnlab.displays", "nnlab.training.command"):  # once, not in each process anew
        importlib.import_module(module)
    sys.exit(bool(campaign(Path(sys.argv[1]).resolve(), sys.argv[2])))
