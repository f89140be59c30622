"""The command ``nnlab export``. It answers ``--help`` without importing torch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nnlab.config_files import LineParser, UserError

OK, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130  # exit statuses

DESCRIPTION = """\
Write the network of a checkpoint to a file that other programs load, and a model card, OUT.md, beside it.
"""

EPILOG = """\
examples:
  nnlab export model.onnx                              the best checkpoint of the newest run, for onnxruntime
  nnlab export --ckpt_path FILE --softmax model.onnx   a checkpoint of your choice; probabilities in place of logits
  nnlab export --ckpt_path last model.pt2              for torch.export.load, which needs no nnlab
  nnlab export model.safetensors                       the weights alone; what they mean is metadata

The file takes pixels as they lie in a picture, uint8 (N, 28, 28) from 0 to 255 (0 to 16 in digits), any number N of
them: the scaling is inside. A .safetensors holds weights alone: scaling and output are in its metadata and its card.
The file is loaded again and compared with the network on 1,000 images before it is kept: on those of the run's data
set if they are there, else on random ones.

exit status: 0 the file is written, 1 it computes something else than the network and is not kept, 2 the arguments are
wrong, or a package of the extra export is missing
"""


def main(arguments: Sequence[str]) -> int:
    """Run ``nnlab export``; return the exit status."""
    arguments = list(arguments)
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:  # --help, or a mistake
        return int(stop.code or 0)
    try:
        return _run(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (OSError, ValueError, UserError) as error:
        if options.debug:
            raise
        _complain(f"{error}{_flag_of(error)}")
        return USER_ERROR


def _parser() -> LineParser:
    parser = LineParser(
        prog="nnlab export",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("out", metavar="OUT", help="the file, which ends in .onnx, .pt2 or .safetensors")
    parser.add_argument(
        "--ckpt_path", metavar="FILE", default="best", help="a checkpoint; best (the default) or last of the newest run"
    )
    parser.add_argument(
        "--softmax", action="store_true", help="probabilities in place of logits, by the loss's softmax or sigmoid"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "float64"),
        default="auto",
        help="what the file computes in (default: auto, the network's own, or float32 where onnxruntime has to)",
    )
    parser.add_argument("--data.root", dest="root", metavar="DIR", help="the folder of the data sets")
    parser.add_argument(
        "--trainer.default_root_dir", dest="runs", metavar="DIR", default="runs", help="the folder of the runs"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _run(options: argparse.Namespace) -> int:
    from nnlab.versions import torchvision_problem  # noqa: PLC0415 - torch, which takes seconds, comes with it

    if problem := torchvision_problem():
        raise UserError(problem)
    from nnlab.training.checkpoints import NEWEST, newest_checkpoint, read_checkpoint  # noqa: PLC0415 - torch, too
    from nnlab.training.export import DifferenceError, export_model  # noqa: PLC0415
    from nnlab.training.messages import quiet  # noqa: PLC0415

    quiet()
    path = options.ckpt_path
    if path in NEWEST:
        path = newest_checkpoint(Path(options.runs).expanduser(), path, read_checkpoint)
        print(f"checkpoint: {os.path.relpath(path) if path.is_relative_to(Path.cwd()) else path}")
    try:
        export = export_model(path, options.out, softmax=options.softmax, dtype=options.dtype, root=options.root)
    except DifferenceError as error:
        _complain(str(error))
        return FAILED
    about = export.about
    print(f"{about['model']}: {about['input']} -> {about['output']}, {about['dtype']}")
    print(f"compared on {export.samples}: largest difference {export.difference:.2g}, allowed {export.allowed:.2g}")
    print(f"written: {export.path} and {export.card}")
    return OK


def _flag_of(error: Exception) -> str:
    """The flag to change, of an error that names an argument."""
    argument = getattr(error, "argument", None)
    return f" (--{argument})" if argument in ("ckpt_path", "softmax", "dtype") else ""


def _complain(problem: str) -> None:
    print(f"nnlab export: error: {' '.join(problem.split())}", file=sys.stderr)
