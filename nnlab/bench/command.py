"""The command line of ``nnlab bench``. It answers ``--help`` without importing torch."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from rich.console import Console

    from nnlab.bench.session import Session

OK, USER_ERROR, INTERRUPTED = 0, 2, 130  # exit statuses

TASKS = {
    "mlp_epoch": "an epoch of 784-100-10 in mini-batches of 100, against all; its peak memory",
    "mlp_wide": "an epoch of 784-1024-1024-10 in mini-batches of 512",
    "perceptron_epoch": "an epoch of the perceptron rule, ten classes",
    "lightning_epoch": "an epoch of LitMLP under Lightning's trainer, against the bare engine",
    "estimator_epoch": "an epoch of NeuralNetMLP.fit, against the bare engine and scikit-learn",
    "time_to_98": "until 98 % of the test images are right, the best recipe of each side",
    "import": "from nnlab import Perceptron",
    "scaling": "width, batch, samples and threads: seconds, peak memory and the exponent of growth",
}
LONG = ("time_to_98", "scaling")  # what --quick leaves out

DESCRIPTION = """\
Time nnlab and its peers side by side on MNIST: NumPy, scikit-learn, torch (eager and compiled), JAX, Lightning.
All learn the same samples in the same order, warmed up and by turns; results are compared before anything is timed,
and a peer that computes something else is reported instead.
"""

EPILOG = "\n".join(
    [
        "tasks:",
        *(f"  {name:<17} {text}" for name, text in TASKS.items()),
        "",
        "A ratio is the peer's median over ours: above 1, nnlab is faster. Close other programs before.",
        "JAX comes with pip install 'nnlab[bench]'; without it, its rows say so.",
        "",
        "examples:",
        "  nnlab bench --quick                                    within two minutes",
        "  nnlab bench --only mlp_epoch --only import             these alone",
        "  nnlab bench --json bench.json --markdown bench.md --plot bench.png",
    ]
)


class _UserError(Exception):
    """One line that says what to change."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UserError(message)


def main(arguments: Sequence[str]) -> int:
    """Run ``nnlab bench``.

    Args:
        arguments: the arguments after ``nnlab bench``.

    Returns:
        the exit status: 0; 2 after one line on standard error that says what to change; 130 after Ctrl-C, which
        prints what was measured by then.

    Raises:
        RuntimeError: a mistake of nnlab's own, after what was measured by then is printed.
    """
    try:
        return _run(_parser().parse_args(list(arguments)))
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except KeyboardInterrupt:  # before anything was measured
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or flushing at exit would complain
        return OK
    except (_UserError, ValueError, OSError) as error:
        if "--debug" in arguments:
            raise
        print(f"nnlab bench: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR


def _run(options: argparse.Namespace) -> int:
    tasks = _chosen(options)
    _check_files(options)

    import torch  # noqa: PLC0415 - from here on it is needed, and its import takes seconds
    from rich.console import Console  # noqa: PLC0415

    from nnlab.bench import report  # noqa: PLC0415
    from nnlab.bench.machine import describe, versions  # noqa: PLC0415
    from nnlab.bench.session import Session  # noqa: PLC0415
    from nnlab.data import DataError  # noqa: PLC0415
    from nnlab.validation import resolve_device  # noqa: PLC0415

    device = resolve_device(options.device)
    if device.type not in ("cpu", "cuda"):
        raise _UserError(f"--device must be cpu, cuda or auto, got {options.device}")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest")
    session = Session(device, options.quick)
    try:
        _ = session.images  # what is wrong with the data is said before anything is measured
    except DataError as error:
        raise _UserError(str(error)) from error
    stopped = _measure(session, tasks, Console(stderr=True))
    if stopped:
        session.rows = [row for row in session.rows if row.ratio]

    machine = describe(device)
    files: dict[str, Callable[[], object]] = {}
    text = report.as_json(session.rows, machine, options.quick, complete=not stopped)
    if options.json and options.json != "-":
        files[options.json] = lambda: Path(options.json).write_text(text + "\n", encoding="utf-8")
    if options.markdown:
        page = report.markdown(session.rows, machine, versions(), _command(options))
        files[options.markdown] = lambda: Path(options.markdown).write_text(page, encoding="utf-8")
    if options.plot:
        from nnlab.bench.plot import save  # noqa: PLC0415

        files[options.plot] = lambda: save(session.rows, options.plot)
    screen = Console(stderr=options.json == "-")
    screen.print(report.table(session.rows))
    screen.print(", ".join(f"{key}: {value}" for key, value in machine.items()), style="dim", highlight=False)
    if options.json == "-":
        print(text)
    for path, write in files.items():
        write()
        screen.print(f"written: {path}", highlight=False)
    if stopped and not isinstance(stopped, KeyboardInterrupt):
        raise RuntimeError("a mistake of nnlab's own; what was measured before it is kept") from stopped
    return INTERRUPTED if stopped else OK


def _measure(session: Session, tasks: Sequence[str], console: Console) -> BaseException | None:
    """Run the tasks under a progress display; what ended them before their time, Ctrl-C or a mistake of our own."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    from nnlab.bench.tasks import MEASURE  # noqa: PLC0415

    columns = (
        MofNCompleteColumn(),
        BarColumn(20),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar, _quiet():
        shown = bar.add_task("", total=len(tasks))
        try:
            for name in tasks:
                session.tell = lambda text, name=name: bar.update(shown, description=f"{name}: {text}")  # type: ignore[misc]
                session.tell("starting")
                MEASURE[name](session)
                bar.advance(shown)
        except (Exception, KeyboardInterrupt) as stop:
            return stop
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log of torch's compiler, which speaks of itself."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _chosen(options: argparse.Namespace) -> list[str]:
    """The tasks to run, in their own order."""
    named = [name for names in options.only for name in names.split(",")]
    for name in named:
        if name not in TASKS:
            raise _UserError(f"--only must name one of {', '.join(TASKS)}, got {name!r}")
    left_out = LONG if options.quick else ()
    return [name for name in TASKS if (name in named if named else name not in left_out)]


def _check_files(options: argparse.Namespace) -> None:
    """Refuse what could not be written in the end, before minutes of measuring."""
    for flag in ("json", "markdown", "plot"):
        path = getattr(options, flag)
        if path and path != "-" and (Path(path).is_dir() or not Path(path).parent.is_dir()):
            raise _UserError(f"--{flag} must be a file in a folder that is there, got {path}")
    if options.plot:
        from matplotlib.backend_bases import FigureCanvasBase  # noqa: PLC0415

        formats = FigureCanvasBase.get_supported_filetypes()
        if Path(options.plot).suffix.removeprefix(".") not in formats:
            raise _UserError(f"--plot must end in one of {', '.join(f'.{f}' for f in formats)}, got {options.plot}")


def _command(options: argparse.Namespace) -> str:
    """The command that was given, without the files it was to write."""
    words = ["nnlab bench"]
    words += ["--quick"] if options.quick else []
    words += [f"--only {name}" for name in options.only]
    words += [f"--device {options.device}"] if options.device != "cpu" else []
    return " ".join(words)


def _parser() -> _Parser:
    parser = _Parser(
        prog="nnlab bench",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help=f"within two minutes: without {' and '.join(LONG)}")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a task, --quick or not; may be given again"
    )
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write to FILE, or alone on the screen")
    parser.add_argument("--markdown", metavar="FILE", help="write the table and what it was measured on")
    parser.add_argument("--plot", metavar="FILE", help="draw the ratios: .png, .svg, .pdf")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (the default), cuda or auto")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser
