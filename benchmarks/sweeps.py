"""Tasks of many points: sizes, densities, threads, beside another program; and the alarm of the compiled kernels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np

from benchmarks.measure import QUICK_REPEATS, Comparison, Pair, Session, Timed, prepare, take_turns
from benchmarks.problems import AccuracyProblem, MLPProblem, blobs
from benchmarks.report import Row


def measure_point(
    session: Session,
    task: str,
    comparison: Comparison,
    where: str,
    changes: Mapping[str, Any],
    repeats: int,
    *,
    samples: int | None = None,
    threads: int | None = None,
    megabytes: bool = False,
) -> list[Row]:
    """Time all contestants on the comparison's problem with some fields changed, and return their rows, not yet added.

    ``where`` is added to our name, and ``samples`` is how many of the first are used, all if None.
    """
    whole = session.problem(comparison.problem)
    assert isinstance(whole, MLPProblem)
    problem = replace(whole, **{"x": whole.x[:samples], "labels": whole.labels[:samples], **changes})
    named = replace(comparison, ours=f"{comparison.ours}, {where}")
    threads = threads or session.threads
    rows = []
    with ExitStack() as stack:
        pairs = prepare(session, stack, task, named, problem, threads=threads, fresh=megabytes)
        take_turns(session, f"{task}, {where}", pairs, repeats_of(session, repeats))
        for row, *sides in pairs:
            row.threads = threads
            row.figures = {"samples": len(problem.x), "batch": problem.batch_size, "width": problem.sizes[1]}
            row.figures |= {"threads": threads}
            if megabytes:
                a, b = (float(side.runner.call("megabytes")) for side in sides)
                row.figures |= {"ours_megabytes": a, "peer_megabytes": b}
                row.add_note(f"{len(problem.x):,} samples; {a:.0f} MB, the peer {b:.0f} MB")
            rows.append(row)
    return rows


def repeats_of(session: Session, repeats: int) -> int:
    """Return how often this run times what a whole one times so often."""
    return min(repeats, QUICK_REPEATS) if session.quick else repeats


# How seconds and memory grow

BASE = {"width": 100, "batch": 100, "samples": 60_000}
SWEEPS: dict[str, Sequence[int]] = {
    "width": (64, 256, 1024, 4096),
    "batch": (16, 64, 256, 1024, 4096),
    "samples": (6_000, 20_000, 60_000),
}
WIDTH_SAMPLES = 6_000  # in the sweep of widths, where an epoch of all would take too long


def measure_growth(session: Session, task: str, comparisons: Sequence[Comparison], repeats: int) -> None:
    """Add a row for each width, batch size, number of samples and of threads, for a network of one hidden layer."""
    (comparison,) = comparisons
    for axis, values in (SWEEPS | {"threads": range(1, session.threads + 1)}).items():
        before: dict[str, list[Row]] = {}
        for value in values:
            point = BASE | {"threads": session.threads} | ({"samples": WIDTH_SAMPLES} if axis == "width" else {})
            point |= {axis: value}
            rows = measure_point(
                session,
                task,
                comparison,
                f"{axis} {value:,}",
                {"sizes": (784, point["width"], 10), "batch_size": point["batch"]},
                repeats,
                samples=point["samples"],
                threads=point["threads"],
                megabytes=True,
            )
            for row in rows:
                same = before.setdefault(row.peer, [])
                same.append(row)
                if value == values[-1]:
                    fit_exponents(same, axis)
                session.add(row)


def fit_exponents(rows: Sequence[Row], axis: str) -> None:
    """Add to each row the exponent p of seconds ∝ valueᵖ, by least squares of the logarithms."""
    timed = [row for row in rows if row.ratio is not None]
    if len(timed) < 2:
        return
    at = np.log([row.figures[axis] for row in timed])
    for side in ("ours", "peer"):
        exponent = float(np.polyfit(at, np.log([getattr(row, f"{side}_seconds") for row in timed]), 1)[0])
        for row in timed:
            row.figures[f"{side}_exponent"] = exponent
    last = timed[-1].figures
    timed[-1].add_note(f"seconds grow as {axis}^{last['ours_exponent']:.2f}, the peer's ^{last['peer_exponent']:.2f}")


# Widths, threads and momentum; densities; distortions


def measure_sizes(session: Session, task: str, comparisons: Sequence[Comparison], repeats: int) -> None:
    """Add rows for hidden widths, each with one thread and with all, without momentum and with it."""
    (comparison,) = comparisons
    threads = sorted({1, session.threads})
    for width, n, momentum in product((100, 512) if session.quick else (100, 256, 512, 1024), threads, (0.0, 0.9)):
        where = f"784-{width}-10, {n} thread{'s' * (n > 1)}{', momentum' * (momentum > 0)}"
        changes = {"sizes": (784, width, 10), "momentum": momentum}
        for row in measure_point(session, task, comparison, where, changes, repeats, threads=n):
            row.figures |= {"momentum": momentum}
            session.add(row)


DENSITY_SAMPLES = 20_000


def measure_densities(session: Session, task: str, comparisons: Sequence[Comparison], repeats: int) -> None:
    """Add rows for made-up images, of which some or all pixels are not zero."""
    (comparison,) = comparisons
    for density in (0.1, 0.7) if session.quick else (0.05, 0.1, 0.2, 0.4, 0.7, 1.0):
        n = min(DENSITY_SAMPLES, len(session.problem(comparison.problem).x))
        changes = {"x": blobs(n, density)}
        for row in measure_point(session, task, comparison, f"density {density:g}", changes, repeats, samples=n):
            row.figures |= {"density": density}
            session.add(row)


def measure_distortions(session: Session, task: str, comparisons: Sequence[Comparison], repeats: int) -> None:
    """Add rows for one thread and for all, with the images a second of both sides."""
    (comparison,) = comparisons
    problem = session.problem(comparison.problem)
    for threads in sorted({1, session.threads}):
        where = f"{threads} thread{'s' * (threads > 1)}"
        with ExitStack() as stack:
            named = replace(comparison, ours=f"{comparison.ours}, {where}")
            pairs = prepare(session, stack, task, named, problem, threads=threads)
            take_turns(session, f"{task}, {where}", pairs, repeats_of(session, repeats))
        for row, _, _ in pairs:
            row.threads, row.figures = threads, {"threads": threads}
            if row.ours_seconds and row.peer_seconds:
                ours, peer = (len(problem.x) / seconds for seconds in (row.ours_seconds, row.peer_seconds))
                row.figures |= {"ours_images_per_second": ours, "peer_images_per_second": peer}
                row.add_note(f"{ours:,.0f} images a second, the peer {peer:,.0f}")
            session.add(row)


# Wide networks

WIDTHS, BATCHES = (512, 1024, 2048, 4096), (32, 128, 512, 1024)
CELL_FLOP = 1.5e11  # of an epoch at each point: about a second


def flop_per_sample(sizes: Sequence[int]) -> tuple[int, int]:
    """Return what the dense products of a step are for a sample: the first layer's, and all.

    A layer of I inputs and O units has two products of 2 I O where it is the first, and three elsewhere.
    """
    first, *others = (2 * a * b for a, b in pairwise(sizes))
    return 2 * first, 2 * first + 3 * sum(others)


def measure_wide(session: Session, task: str, comparisons: Sequence[Comparison], repeats: int) -> None:
    """Add rows for one and two wide hidden layers, with the ceiling: the time of the dense products alone.

    It is the quicker of the peers "floor"; without the zeros, the first layer takes less by their share. The target is
    1.2 × JAX where the first layer is a third of the work, 1.0 elsewhere.
    """
    (comparison,) = comparisons
    whole = session.problem(comparison.problem)
    density = float((whole.x != 0).double().mean())
    widths, batches = ((1024,), (128,)) if session.quick else (WIDTHS, BATCHES)
    for depth, width, batch in product((1, 2), widths, batches):
        sizes = (784, *[width] * depth, 10)
        first, flop = flop_per_sample(sizes)
        share = first / flop
        n = min(len(whole.x), max(4, round(CELL_FLOP / flop / batch)) * batch)
        where = f"{'-'.join(map(str, sizes))}, batch {batch:,}"
        rows = measure_point(
            session, task, comparison, where, {"sizes": sizes, "batch_size": batch}, repeats, samples=n
        )
        floors = [row for row in rows if row.peer.startswith("floor") and row.peer_seconds]
        ceiling = min((row.peer_seconds or 0.0 for row in floors), default=None)
        for row in rows:
            row.figures |= {"layers": depth, "flop_per_sample": flop, "first_layer_share": share, "density": density}
            if ceiling:
                row.figures |= {"ceiling": ceiling, "ceiling_without_zeros": ceiling * (1 - share * (1 - density))}
            if row in floors and row.peer_seconds:
                row.figures |= {"gflops": n * flop / row.peer_seconds / 1e9}
                row.add_note(f"{row.figures['gflops']:.0f} GFLOP/s")
                if row.peer_seconds == ceiling:
                    row.add_note(
                        f"the ceiling: {flop / 1e6:.1f} MFLOP a sample, {share:.0%} of it the first layer's; "
                        f"{row.figures['ceiling_without_zeros']:#.3g} s without its zeros"
                    )
            if row.peer.startswith("JAX") and row.ratio:
                row.figures["target"] = target = 1.2 if share >= 1 / 3 else 1.0
                row.add_note(f"target {target}" + " (missed)" * (row.ratio < target))
            session.add(row)


# Until a goal


def measure_goal(session: Session, task: str, comparisons: Sequence[Comparison], repeats: int) -> None:
    """Add rows for the time to a goal on validation images, which count if the mean test accuracy reaches it too."""
    (comparison,) = comparisons
    problem = session.problem(comparison.problem)
    assert isinstance(problem, AccuracyProblem)
    with ExitStack() as stack:
        pairs = prepare(session, stack, task, comparison, problem)
        take_turns(session, task, pairs, repeats_of(session, repeats))
        for row, *sides in pairs:
            means = [float(side.runner.call("parameters")[0].mean()) for side in sides if not side.failure]
            if row.repeats:
                row.add_note(f"test accuracy {' and '.join(f'{mean:.2%}' for mean in means)}")
                row.add_note("below the goal: does not count" * (min(means) < problem.goal))
            session.add(row)


# Beside another program

BUSY_SAMPLES = 12_000


def measure_busy(session: Session, task: str, comparisons: Sequence[Comparison], repeats: int) -> None:
    """Add rows for an epoch while nothing else runs, and for one beside a process that keeps a core busy."""
    (comparison,) = comparisons
    whole = session.problem(comparison.problem)
    problem = replace(whole, x=whole.x[:BUSY_SAMPLES], labels=whole.labels[:BUSY_SAMPLES])
    with ExitStack() as stack:
        alone = prepare(session, stack, task, comparison, problem)
        take_turns(session, f"{task}, alone", alone, repeats_of(session, repeats))
        timed = {side: Timed(side.runner, problem) for pair in alone for side in (pair.ours, pair.peer)}
        beside = [
            Pair(session.row(task, f"{row.ours}, beside a busy process", row.peer), timed[ours], timed[peer])
            for row, ours, peer in alone
        ]
        with busy_process():
            take_turns(session, f"{task}, beside a busy process", beside, repeats_of(session, repeats), busy=1)
    for before, after in zip(alone, beside, strict=True):
        before.row.figures = {"busy": 0}
        after.row.figures = {"busy": 1}
        if before.row.ratio and after.row.ratio:
            ours = (after.row.ours_seconds or 0) / (before.row.ours_seconds or 1)
            peer = (after.row.peer_seconds or 0) / (before.row.peer_seconds or 1)
            after.row.add_note(f"{ours:.1f} times the time alone, the peer {peer:.1f} times")
    for pair in (*alone, *beside):
        session.add(pair.row)


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep a core busy by a process in a session of its own, which may get as much of the processor as all of ours."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    try:
        yield
    finally:
        process.kill()
        process.wait()


# The alarm of the compiled kernels

LIMIT = 0.6
RECORDED = {(100, 0.0): 2.35, (512, 0.0): 2.71, (512, 0.9): 2.79}
"""By width and momentum: the floor's time over ours, one thread each. 2026-11-26, Zen 4, numba 0.68.1, torch 2.14.1."""


def measure_kernels(session: Session, task: str, comparisons: Sequence[Comparison], repeats: int) -> None:
    """Add rows that raise the alarm where the compiled first layer is about twice as slow as it was.

    That it is fast rests on LLVM's optimiser, which comes with numba. The peer is the same first layer as torch's dense
    products, which do not depend on it. The first layer is nine tenths of a step at 512 units: if it takes twice as
    long, 0.53 of the recorded ratio is left, so the limit is 0.6.
    """
    (comparison,) = comparisons
    for (width, momentum), recorded in RECORDED.items():
        where = f"784-{width}-10, 1 thread{', momentum' * (momentum > 0)}"
        changes = {"sizes": (784, width, 10), "momentum": momentum}
        for row in measure_point(session, task, comparison, where, changes, repeats, samples=20_000, threads=1):
            if row.peer.startswith("floor"):
                row.figures |= {"recorded_ratio": recorded}
                row.add_note(f"recorded {recorded}")
                if row.ratio and row.ratio < LIMIT * recorded:
                    session.alarms.append(
                        f"the compiled kernels have become slow: {where}, dense products take {row.ratio:.2f} times as "
                        f"long as the epoch; {recorded} were recorded"
                    )
            session.add(row)
