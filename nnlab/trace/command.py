"""The command line of ``nnlab trace``. It answers ``--help`` without importing torch."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from inspect import cleandoc
from pathlib import Path

from nnlab.config_files import LineParser
from nnlab.trace.description import EXAMPLES, Network, Perceptron

OK, USER_ERROR = 0, 2  # exit statuses

DESCRIPTION = """\
Show every number of a small network's forward and backward pass: each potential u, output z and y, sensitivity
delta and gradient dE/dw, with the chapter's equation for it and where it comes from.
"""

EPILOG = f"""\
examples:
  nnlab trace --example chapter        section 3.3: x = 2 through three tanh layers, and back
  nnlab trace --example perceptron     section 3.2: weights 0.3, threshold 0.4, all eight inputs
  nnlab trace --example rule           the same unit learns "all three", one pass of the learning rule
  nnlab trace my.yaml --digits 6       a network of your own
  nnlab trace my.yaml --json           the same for a program, every number in full precision

{cleandoc(Network.__doc__ or "")}

{cleandoc(Perceptron.__doc__ or "")}
"""


def main(arguments: Sequence[str]) -> int:
    """Run ``nnlab trace``; the exit status is 0, or 2 after one line on standard error that says what to change.

    >>> main(["--example", "perceptron", "--json"])  # doctest: +ELLIPSIS
    {
      "kind": "perceptron",
      ...
    0
    """
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
        if (options.file is None) == (options.example is None):
            parser.error("name a YAML file or an example, one of the two, such as nnlab trace --example chapter")
        try:
            _run(options)
        except (ValueError, OSError) as error:
            if options.debug or isinstance(error, BrokenPipeError):
                raise
            flag = " (--digits)" if getattr(error, "argument", "") == "digits" else ""
            parser.error(f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else f"{error}{flag}")
    except SystemExit as stop:  # after --help, too
        return int(stop.code or 0)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or flushing at exit would complain
    return OK


def _run(options: argparse.Namespace) -> None:
    # from here on torch is needed, and its import takes seconds
    from rich.console import Console  # noqa: PLC0415

    from nnlab.trace import trace  # noqa: PLC0415

    found = trace(options.example or Path(options.file), digits=options.digits)
    text = "" if options.json is None else json.dumps(found.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    if options.json == "-":
        print(text)
        return
    Console().print(found)
    if options.json:
        Path(options.json).write_text(text + "\n", encoding="utf-8")
        print(f"\nwritten: {options.json}")


def _parser() -> LineParser:
    parser = LineParser(
        prog="nnlab trace",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", nargs="?", metavar="FILE.yaml", help="the network or perceptron, described below")
    parser.add_argument("--example", choices=EXAMPLES, metavar="NAME", help=f"one of {', '.join(EXAMPLES)}")
    parser.add_argument("--digits", type=int, default=4, metavar="N", help="significant digits on the screen (4)")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write full precision to FILE, or alone on the screen"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser
