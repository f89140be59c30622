"""The command line of ``nnlab trace``. It answers ``--help`` without importing torch."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

OK, USER_ERROR = 0, 2  # exit statuses

EXAMPLES: dict[str, dict[str, Any]] = {
    # section 3.3, "a very simple network"
    "chapter": {
        "weights": [[[0.1, 0.2], [0.3, 0.4]], [[0.2], [1], [-3]], [[1], [2]]],
        "activations": ["tanh", "tanh", "tanh"],
        "inputs": [2],
        "targets": [1],
    },
    # section 3.2
    "perceptron": {"weights": [0.3, 0.3, 0.3], "threshold": 0.4},
    # the same unit unlearns "two of three" for "all three"
    "rule": {"weights": [0.3, 0.3, 0.3], "threshold": 0.4, "targets": [0, 0, 0, 0, 0, 0, 0, 1], "eta": 0.2},
}

DESCRIPTION = """\
Show every number of a small network's forward and backward pass: each potential u, output z and y, sensitivity
delta and gradient dE/dw, with the chapter's equation for it and how it came about.
"""

EPILOG = """\
examples:
  nnlab trace --example chapter        section 3.3: x = 2 through three tanh layers, and back
  nnlab trace --example perceptron     section 3.2: weights 0.3, threshold 0.4, all eight inputs
  nnlab trace --example rule           the same unit learns "all three", one pass of the learning rule
  nnlab trace my.yaml --digits 6       a network of your own
  nnlab trace my.yaml --json           the same for a program, every number in full precision

a network's file:
  sizes: [2, 3, 1]           inputs, then the units of each layer; may be left out where weights are given
  activations: tanh          identity, sigmoid, tanh or relu: one name for the hidden layers, the last then being
                             linear, or a list with a name for each layer
  seed: 0                    random weights, or weights: a matrix for each layer, its rows the bias and the inputs,
                             its columns the units, such as [[0.1, 0.2], [0.3, 0.4]] for one input and two units
  inputs: [[0, 1], [1, 1]]   a list for each sample; for one sample its numbers alone will do
  targets: [[1], [0]]        likewise; with softmax_cross_entropy a class label, 0, 1 …, for each sample
  loss: sum_of_squares       or binary_cross_entropy (the output layer is then sigmoid) or softmax_cross_entropy

a perceptron's file has a threshold:
  weights: [0.3, 0.3, 0.3]
  threshold: 0.4
  output: step               or bipolar_step
  inputs: [[1, 0, 1]]        left out: every combination of 0 and 1
  targets: [1]               desired outputs; left out, nothing is learnt
  eta: 0.1                   the learning rate
"""


class _UserError(Exception):
    """One line that says what to change."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UserError(message)


def main(arguments: Sequence[str]) -> int:
    """Run ``nnlab trace``.

    Args:
        arguments: the arguments after ``nnlab trace``.

    Returns:
        The exit status: 0, or 2 after one line on standard error that says what to change.

    >>> main(["--example", "perceptron", "--json"])  # doctest: +ELLIPSIS
    {
      "kind": "perceptron",
      ...
    0
    """
    arguments = list(arguments)
    try:
        _run(arguments)
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or flushing at exit would complain
        return OK
    except (_UserError, ValueError, OSError) as error:
        if "--debug" in arguments:
            raise
        print(f"nnlab trace: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    return OK


def _run(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    if (options.file is None) == (options.example is None):
        raise _UserError("name a YAML file or an example, one of the two, such as nnlab trace --example chapter")
    if not 1 <= options.digits <= 17:
        raise _UserError(f"--digits must be from 1 to 17, got {options.digits}")

    from rich.console import Console  # noqa: PLC0415 - from here on torch is needed, and its import takes seconds

    from nnlab.trace.description import Network, read_description  # noqa: PLC0415
    from nnlab.trace.network import NetworkTrace, trace_network  # noqa: PLC0415
    from nnlab.trace.notation import Writer  # noqa: PLC0415
    from nnlab.trace.tables import show  # noqa: PLC0415
    from nnlab.trace.unit import PerceptronTrace, trace_perceptron  # noqa: PLC0415

    write = Writer(options.digits)
    try:
        content = EXAMPLES[options.example] if options.example else _read_yaml(options.file)
        description = read_description(content)
        if isinstance(description, Network):
            trace: NetworkTrace | PerceptronTrace = trace_network(description, write)
        else:
            trace = trace_perceptron(description, write)
    except ValueError as error:
        raise _UserError(f"{options.file}: {error}") from error
    text = "" if options.json is None else json.dumps(trace.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
    if options.json == "-":
        print(text)
        return
    show(trace, write, Console())
    if options.json:
        Path(options.json).write_text(text + "\n", encoding="utf-8")
        print(f"\nwritten: {options.json}")


def _read_yaml(path: str) -> object:
    import yaml  # noqa: PLC0415 - the examples do without

    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"is not YAML{where}: {getattr(error, 'problem', None) or 'it cannot be read'}") from error
    except UnicodeDecodeError as error:
        raise ValueError("is not a text file in UTF-8") from error


def _parser() -> _Parser:
    parser = _Parser(
        prog="nnlab trace",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", nargs="?", metavar="FILE.yaml", help="the network or perceptron, described below")
    parser.add_argument("--example", choices=EXAMPLES, help="one of the chapter's own")
    parser.add_argument("--digits", type=int, default=4, metavar="N", help="significant digits on the screen (4)")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write full precision to FILE, or alone on the screen"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser
