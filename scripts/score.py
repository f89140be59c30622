"""Train recipes with several seeds, test each once, and append the figures to a log: python scripts/score.py mlp.

Recipes take turns, so that the machine's other load is shared. The log is benchmarks/accuracy.csv.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory

from nnlab.config_files import LineParser
from nnlab.recipes import recipes
from nnlab.versions import __version__

LOG = Path(__file__).parents[1] / "benchmarks/accuracy.csv"
COLUMNS = (
    "time",
    "version",
    "recipe",
    "seed",
    "val_acc",
    "test_acc",
    "seconds",
    "threads",
    "load_before",
    "load_after",
)


def append(row: dict[str, object], log: Path) -> None:
    """Add a line to the log, which gets its header first."""
    new = not log.exists()
    with log.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({"time": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "version": version()} | row)


def version() -> str:
    """The commit, with a + where files differ from it; the version of an nnlab that is no checkout."""
    line = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(line, check=False, cwd=LOG.parent, capture_output=True, text=True)
    return f"{__version__} {done.stdout.strip()}".strip()


def load() -> str:
    """The processes that ran or waited for a core in the last minute, on average."""
    return f"{os.getloadavg()[0]:.2f}"


def command(*arguments: str) -> str:
    """What an nnlab command printed.

    Raises:
        SystemExit: it failed; with its status.
    """
    done = subprocess.run([sys.executable, "-m", "nnlab", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, end="", file=sys.stderr)
        raise SystemExit(done.returncode)
    return done.stdout


def train(arguments: list[str]) -> tuple[float, str]:
    """Run nnlab fit; the seconds from the first epoch's start to the last one's end, and the best checkpoint."""
    line = [sys.executable, "-u", "-m", "nnlab", "fit", *arguments]
    began = ended = 0.0
    checkpoint = ""
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        for text in process.stdout or ():
            if " in mini-batches of " in text:  # printed before the first epoch
                began = time.perf_counter()
            elif text.startswith("epoch "):
                ended = time.perf_counter()
                print(f"\r\033[K{text.rstrip()}", end="", file=sys.stderr, flush=True)
            elif found := re.match(r"nnlab test .*--ckpt_path (\S+)", text):
                checkpoint = found[1]
    print("\r\033[K", end="", file=sys.stderr)
    if process.returncode or not checkpoint:
        raise SystemExit(process.returncode or 1)
    return ended - began, checkpoint


def score(recipe: str, seed: int, given: list[str], averaged: list[str]) -> list[dict[str, object]]:
    """Train a recipe and test the best checkpoint, in a folder that is removed afterwards.

    With ``averaged``, options of the test such as --data.copies, test it with them as well.
    """
    with TemporaryDirectory() as folder:
        before = load()
        settings = ["--config", recipe, f"--seed_everything={seed}", f"--trainer.default_root_dir={folder}", *given]
        seconds, checkpoint = train(settings)
        validated = re.search(r"val_acc\D+([\d.]+)", command("validate", "--ckpt_path", checkpoint, *given))
        rows: list[dict[str, object]] = []
        for more in ([], averaged) if averaged else ([],):
            tested = re.search(r"test accuracy: ([\d.]+)", command("test", "--ckpt_path", checkpoint, *given, *more))
            if not (validated and tested):
                raise SystemExit("nnlab printed no accuracy")
            rows.append(
                {
                    "recipe": " ".join([recipe, *given, *(["tested with", *more] if more else [])]),
                    "seed": seed,
                    "val_acc": f"{float(validated[1]):.4f}",
                    "test_acc": f"{float(tested[1]):.4f}",
                    "seconds": f"{seconds:.1f}",
                    "threads": os.environ.get("OMP_NUM_THREADS") or os.cpu_count(),
                    "load_before": before,
                    "load_after": load(),
                }
            )
        return rows


def main(argv: list[str] | None = None) -> None:
    parser = LineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", choices=sorted(recipes()), metavar="recipe", help="as nnlab fit --config")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="of weights, orders, distortions")
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION", help="for nnlab, as --set=--data.copies=8"
    )
    parser.add_argument(
        "--test", action="append", default=[], metavar="OPTION", help="test with it, too: --test=--data.copies=8"
    )
    parser.add_argument("--log", type=Path, default=LOG, help="the file to append to")
    options = parser.parse_args(argv)
    rows: dict[str, list[dict[str, object]]] = {}
    for seed in options.seeds:
        for recipe in options.recipes:
            for row in score(recipe, seed, options.set, options.test):
                append(row, options.log)
                rows.setdefault(str(row["recipe"]), []).append(row)
                print(*(f"{key} {value}" for key, value in row.items()), sep=", ", flush=True)
    for recipe, found in rows.items():
        words = []
        for key in ("val_acc", "test_acc", "seconds"):
            values = [float(str(row[key])) for row in found]
            words.append(f"{key} {mean(values):.4g} ± {stdev(values) if len(values) > 1 else 0:.2g}")
        print(f"{recipe}, {len(found)} seeds: {', '.join(words)}")


if __name__ == "__main__":
    main()
