"""The command ``nnlab``. It answers ``--help`` without importing torch or Lightning."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from nnlab.config_files import LineParser, UserError, read_arguments
from nnlab.recipes import recipes
from nnlab.versions import __version__, torchvision_problem

TRAINING = {
    "fit": "train a model, and keep the best and the last checkpoint",
    "validate": "measure a checkpoint on the validation images",
    "test": "measure a checkpoint on the 10,000 test images",
    "predict": "say what pictures show, or write the predictions for the test images to a file",
}
OTHERS = {  # the module that has it, and what it does
    "export": (
        "nnlab.export_command",
        "write a checkpoint's network to a .onnx, .pt2 or .safetensors, checked against it",
    ),
    "data": ("nnlab.data_command", "download the data sets' files, verify them, and say where they lie"),
    "trace": ("nnlab.trace", "show where every number of a small network comes from, forward and backward"),
    "check": ("nnlab.verify.command", "test every hand-written gradient, or say what is wrong with a learner's"),
}

EPILOG = """\
examples:
  nnlab fit --config smoke        try the installation, in seconds and without a network
  nnlab fit --config mlp          train the multi-layer perceptron on MNIST
  nnlab test --config mlp         test the newest checkpoint of that model
  nnlab predict seven.png         say what digit a picture shows, by the best model of the newest run
  nnlab fit --config mlp --help   the options that matter; --help all shows every one
  nnlab export model.onnx         take the best checkpoint of the newest run to another program
  nnlab data mnist                download MNIST, verify it and say where it lies
  nnlab trace --example chapter   the chapter's worked example, number by number
  nnlab check lab4.py             what is right and what is wrong in a learner's file

A --config is a YAML file, or one of nnlab's own recipes: {recipes}.
Settings of training come from its --config files and flags, the later of two winning.
A wrong one is answered by a line that says what to change, and exit status 2; --debug shows the traceback.
"""


class _Output:
    """A stream that goes on without a reader: ``nnlab fit | head`` trains to its end."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        self._whatever(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush, or drop what is left."""
        self._whatever(self._stream.flush)

    def _whatever(self, action: Callable[[], object]) -> None:
        try:
            action()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def _train(command: str, arguments: Sequence[str]) -> None:
    """Run a command of training, after what needs neither torch nor Lightning has been looked at."""
    try:
        arguments, chosen = read_arguments(arguments)
        if problem := torchvision_problem():
            raise UserError(problem)
    except UserError as error:
        if "--debug" in arguments:
            raise
        print(f"nnlab {command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    try:
        from nnlab.training.command import run  # noqa: PLC0415 - Lightning and torch take seconds

        run(arguments, chosen)
    except KeyboardInterrupt:  # before or after training, which keeps the model itself
        sys.exit(130)


def _names_pictures(arguments: Sequence[str]) -> bool:
    """Whether an argument is neither a flag nor a flag's value."""
    if not {"-h", "--help"}.isdisjoint(arguments):
        return False
    is_value = False
    for argument in arguments:
        if not argument.startswith("-") and not is_value:
            return True
        is_value = argument.startswith("-") and "=" not in argument and argument not in ("--as-is", "--debug")
    return "--as-is" in arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: the arguments after the command's name; those of the process when None.

    Raises:
        SystemExit: with status 2 for a user's error, 1 for a failed check, 130 after Ctrl-C.
    """
    if argv is None:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed
                setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process
            if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # δ, − and → where the encoding lacks them, as Windows's cp1252
                setattr(sys, name, _Output(stream))
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--debug"]:
        arguments = [*arguments[1:], "--debug"]
    command = arguments[0] if arguments else ""
    if command == "predict" and _names_pictures(arguments[1:]):
        from nnlab.training.pictures import main as pictures  # noqa: PLC0415

        sys.exit(pictures(arguments[1:]))
    # each is imported when it is called: Lightning and torch take seconds
    if command in TRAINING:
        _train(command, arguments)
        return
    if command in OTHERS:
        sys.exit(import_module(OTHERS[command][0]).main(arguments[1:]))
    parser = LineParser(
        prog="nnlab",
        description="The perceptron and the multi-layer perceptron with hand-written, tested gradients.",
        epilog=EPILOG.format(recipes=", ".join(recipes())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, text in {**TRAINING, **{name: text for name, (_, text) in OTHERS.items()}}.items():
        commands.add_parser(name, help=text, add_help=False)
    options = parser.parse_args(arguments)
    if options.version:
        print(f"nnlab {__version__}")
        return
    parser.print_help()
