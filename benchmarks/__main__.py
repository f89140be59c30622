"""The command ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks import report, speedrun
from benchmarks.command import Parser, Stopped, UserError, answer, check_files, replace_file
from benchmarks.measure import LOOK, QUIET, Session, other_load
from benchmarks.process import STAT
from benchmarks.report import Results, Row
from benchmarks.tasks import TASKS
from nnlab.validation import ArgumentError, resolve_device

DESCRIPTION = """\
Time nnlab and its peers side by side on MNIST: NumPy, scikit-learn, torch (eager and compiled), JAX, Lightning.
All train on the same samples in the same order, each in a process of its own, warmed up and by turns. Results are
compared before anything is timed; a peer that computes something else is reported instead.
"""

EPILOG = "\n".join(
    [
        "tasks:",
        *(f"  {name:<17} {task.words}" for name, task in TASKS.items()),
        "",
        f"Only where --task names them: {', '.join(name for name, task in TASKS.items() if task.runs == 'named')}.",
        "A ratio is the peer's median over ours: above 1, nnlab is faster. Close other programs before; their load,",
        f"in cores, is shown after each task, and rows that were measured above {QUIET} are marked.",
        "JAX comes with pip install 'nnlab[bench]'; without it, its rows say so.",
        "Ctrl-C keeps the rows that were measured, in the files too.",
        "",
        "python -m benchmarks speedrun --help: the time in which a network reaches 97 to 99.4 %.",
        "",
        "examples:",
        "  python -m benchmarks --quick                           about two minutes",
        "  python -m benchmarks --task mlp_epoch import           these alone",
        "  python -m benchmarks --task sizes --before ../old      and the nnlab of that folder, by turns with this one",
        "  python -m benchmarks --json cpu.json --markdown cpu.md --plot cpu.png",
        "  python -m benchmarks --from benchmarks/cpu.json --readme README.md",
    ]
)


def main(arguments: Sequence[str]) -> int:
    """Run the command; the rows come on standard output, or standard error when the JSON takes that.

    Returns:
        0; 1 if the compiled kernels have become slow; 2 after one line on standard error that says what to change; 130
        after Ctrl-C and 143 after SIGTERM, when the rows that were measured have been written to the files asked for.
    """
    if arguments[:1] == ["speedrun"]:
        return speedrun.main(arguments[1:])
    return answer("python -m benchmarks", arguments, lambda: _run(_parser().parse_args(arguments)))


def _run(options: argparse.Namespace) -> int:
    _check(options)
    out = sys.stderr if options.json == "-" else sys.stdout
    if options.read:
        _write(options, Results.read(options.read))
        return 0
    try:
        device = resolve_device(options.device)
    except ArgumentError as error:
        raise UserError(f"--{error}") from error
    torch.set_float32_matmul_precision("highest")

    machine = report.machine(device)
    shown: list[Row] = []

    def progress(text: str) -> None:
        if sys.stderr.isatty():  # a plain line: a spinner's thread would take time from what is measured
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    def show(row: Row) -> None:
        progress("")
        print(report.lines(row, shown[-1] if shown else None), file=out, flush=True)
        shown.append(row)

    print(report.HEADER, file=out, flush=True)
    complete, status, before = False, 0, None
    stack = ExitStack()
    if options.before:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        (folder / "nnlab").symlink_to(Path(options.before, "nnlab").resolve())  # and not its benchmarks
        before = Path(options.before).resolve().name, folder
    session = Session(device, options.quick, show, progress, before)
    runs = ("all",) if options.quick else ("all", "whole")
    try:
        for name in options.task or [name for name, task in TASKS.items() if task.runs in runs]:
            task, load = TASKS[name], _load(options.wait_for_quiet)
            machine.setdefault("load before", load)
            task.measure(session, name, task.comparisons, task.repeats)
            progress("")
            machine["load after"] = _load()
            print(f"  load of other programs: {load} before, {machine['load after']} after", file=out, flush=True)
        complete = True
    except Stopped as stop:
        status = stop.status
        progress("")
        print(f"interrupted; {len(session.rows)} rows are kept", file=sys.stderr)
    finally:  # also after an error of nnlab's own
        progress("")
        stack.close()
        if session.rows:
            _write(options, Results(machine, options.quick, complete, session.rows))
    for alarm in session.alarms:
        print(f"python -m benchmarks: {alarm}", file=sys.stderr)
    return status or int(bool(session.alarms))


def _load(wait: bool = False) -> str:
    """Return how many cores other programs keep busy; first wait until they are few, if asked to."""
    while (load := other_load(LOOK)) > QUIET and wait:
        print(f"waiting for a load of {QUIET}: other programs keep {load:.2f} cores busy", file=sys.stderr, flush=True)
        other_load(20 * LOOK)
    return f"{load:.2f}" if STAT.exists() else "unknown"


def _write(options: argparse.Namespace, results: Results) -> None:
    """Write the files that were asked for; the README only from a complete run."""
    if options.json == "-":
        print(results.to_json(), end="")
    elif options.json:
        replace_file(options.json, results.to_json())
    if options.markdown:
        replace_file(options.markdown, report.markdown(results))
    if options.plot:
        report.plot(results, options.plot)
    if options.readme and results.complete:
        replace_file(options.readme, report.update_readme(Path(options.readme).read_text(encoding="utf-8"), results))


def _check(options: argparse.Namespace) -> None:
    """Refuse what would have no effect, and what could not be written in the end, before minutes of measuring."""
    if options.read:
        given = {"--task": options.task, "--quick": options.quick, "--device": options.device != "cpu"}
        given |= {"--before": options.before, "--wait-for-quiet": options.wait_for_quiet}
        for flag in (flag for flag, value in given.items() if value):
            raise UserError(f"{flag} has no effect with --from, which measures nothing")
        if not any((options.json, options.markdown, options.plot, options.readme)):
            raise UserError("--from must come with --json, --markdown, --plot or --readme")
    elif options.readme and (options.task or options.quick):
        raise UserError("--readme needs the rows of all tasks: leave out --task and --quick, or add --from FILE")
    if options.before and not Path(options.before, "nnlab", "__init__.py").is_file():
        raise UserError(f"--before must be a folder that contains nnlab/, got {options.before}")
    if options.wait_for_quiet and not STAT.exists():
        raise UserError("--wait-for-quiet needs /proc/stat, which this system does not have")
    check_files(options)
    if options.readme:
        report.check_markers(Path(options.readme).read_text(encoding="utf-8"))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m benchmarks",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    left_out = " and ".join(name for name, task in TASKS.items() if task.runs == "whole")
    parser.add_argument("--quick", action="store_true", help=f"measure less, and leave out {left_out}")
    parser.add_argument(
        "--task", nargs="+", action="extend", choices=TASKS, metavar="NAME", help="the tasks to run (see below)"
    )
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (the default), cuda or auto")
    parser.add_argument("--before", metavar="PATH", help="compare with the nnlab of this other checkout, too")
    parser.add_argument("--wait-for-quiet", action="store_true", help="start each task when other programs are idle")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write to FILE, or to standard output")
    parser.add_argument("--markdown", metavar="FILE", help="write all rows and what they were measured on")
    parser.add_argument("--plot", metavar="FILE", help="draw the ratios: .png, .svg or .pdf")
    parser.add_argument("--readme", metavar="FILE", help=f"rewrite the table between {' and '.join(report.MARKERS)}")
    parser.add_argument("--from", dest="read", metavar="FILE", help="take the rows from a --json file; measure nothing")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
