"""Predictions for pictures, in Python and by ``nnlab predict PICTURE …``, without Lightning, which takes seconds."""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nnlab.config_files import LineParser, UserError
from nnlab.data import SPECS
from nnlab.data.pictures import PictureError, as_is, prepare, read_picture
from nnlab.files import claim_folder, write_whole
from nnlab.networks import PerceptronBank, mlp_forward
from nnlab.ops import ACTIVATIONS, LOSSES
from nnlab.training.checkpoints import NEWEST, check_weights, class_names, mean_of, newest_checkpoint, read_checkpoint
from nnlab.validation import ArgumentError

CELL, GAP, COLUMNS = 168, 12, 3  # of the sheet, in pixels: a picture's side, and between two; pairs in a row


class PicturePrediction(NamedTuple):
    """What a model says of one picture."""

    path: Path
    label: str  # the class
    probability: float | None  # None where the model's outputs are no probabilities
    runner_up: str
    runner_up_probability: float | None
    outputs: tuple[float, ...]  # of the network, one for each class
    given: Image.Image  # the picture in grey, which may be smaller than the file's
    seen: NDArray[np.uint8]  # what the network was given, (side, side), 0 to 255

    def __str__(self) -> str:
        """The line that the command prints."""
        first, second = (
            f"{p:.1%}".replace("%", " %") for p in (self.probability or 0, self.runner_up_probability or 0)
        )
        if self.probability is None:
            first, second = (f"output {u:.4g}" for u in sorted(self.outputs)[:-3:-1])
        return f"{self.path}: {self.label} ({first}), else {self.runner_up} ({second})"


def predict_pictures(
    paths: Iterable[str | os.PathLike[str]], ckpt_path: str | os.PathLike[str], as_is: bool = False
) -> list[PicturePrediction]:
    """Predict what the pictures in files show, each prepared as MNIST's images were.

    Args:
        paths: of the pictures: PNG, JPEG, GIF, BMP, TIFF or WebP.
        ckpt_path: the checkpoint of a model of square images.
        as_is: whether the whole pictures are only made grey and small.

    Raises:
        PictureError: a picture cannot be read, or does not show exactly one digit; the message names it.
        ArgumentError: the checkpoint cannot be used.
    """
    model = _Model(read_checkpoint(ckpt_path))
    return [model.predict(Path(path), as_is) for path in paths]


def probabilities(outputs: Tensor, loss: str | None) -> Tensor | None:
    """The probabilities of the classes, (N, K), of a network's outputs; None where its loss gives them no such meaning.

    They are the softmax of the outputs, or the sigmoid outputs divided by their sum.
    """
    row = LOSSES.get(loss or "")
    if row is None or row.output_name == "identity":
        return None
    y = row.output(outputs.double())
    return y / y.sum(1, keepdim=True).clamp(min=torch.finfo(y.dtype).tiny)


class _Model:
    """The network of a checkpoint, and how its data is scaled."""

    def __init__(self, checkpoint: Mapping[str, Any]) -> None:
        hyper, self._of_data = checkpoint["hyper_parameters"], checkpoint.get("datamodule_hyper_parameters", {})
        self.learner = checkpoint["learner"]
        if self.learner not in _NETWORKS:
            raise ArgumentError("ckpt_path", f"holds a {self.learner}; pictures are for {' and '.join(_NETWORKS)}")
        n_inputs, n_classes = hyper.get("in_features"), hyper.get("n_classes")
        if not (type(n_inputs) is int and type(n_classes) is int and 0 < n_inputs < 2**31 and 1 < n_classes < 2**31):
            raise ArgumentError("ckpt_path", "has no usable in_features and n_classes")
        self._side = math.isqrt(n_inputs)
        if self._side**2 != n_inputs:
            raise ArgumentError("ckpt_path", f"holds a model of {n_inputs} inputs, which are no square image")
        self.loss = hyper.get("loss") if self.learner == "LitMLP" else None
        if self.learner == "LitMLP" and (not isinstance(self.loss, str) or self.loss not in LOSSES):
            raise ArgumentError("ckpt_path", "has no usable loss")
        self._scaling = self._of_data.get("scaling", "unit")
        if self._scaling not in ("unit", "bipolar", "raw"):
            raise ArgumentError("ckpt_path", "has no usable scaling")
        self._network, self._dtype = _NETWORKS[self.learner](hyper, checkpoint["state_dict"])
        self._classes = class_names(self._of_data, n_classes)

    def predict(self, path: Path, whole: bool) -> PicturePrediction:
        """Read and predict a picture."""
        try:
            given = read_picture(path)
            # the 8 × 8 digits fill their images
            digit = self._side if self._of_data.get("name") == "digits" else None
            seen = as_is(given, self._side) if whole else prepare(given, self._side, digit)
        except PictureError as error:
            raise PictureError(f"{path} {error}") from error
        with torch.no_grad():
            outputs = self._network(self._scaled(torch.from_numpy(seen.copy()).flatten()[None]))
        of_classes = probabilities(outputs, self.loss)
        first, second = outputs[0].topk(2).indices.tolist()
        p, q = (None, None) if of_classes is None else (float(of_classes[0, k]) for k in (first, second))
        names = self._classes[first], self._classes[second]
        return PicturePrediction(path, names[0], p, names[1], q, tuple(outputs[0].tolist()), given, seen)

    def _scaled(self, pixels: Tensor) -> Tensor:
        """Pixels from 0 to 255 as the model takes them."""
        x = pixels.to(self._dtype)
        if self._scaling == "raw":
            spec = SPECS.get(str(self._of_data.get("name")))
            return x if spec is None else (x * (spec.max_pixel / 255)).round()
        return x / 255 if self._scaling == "unit" else x * (2 / 255) - 1


Network = tuple[Callable[[Tensor], Tensor], torch.dtype]


def _mlp(hyper: Mapping[str, Any], state: Mapping[str, Any]) -> Network:
    """The outputs of a LitMLP's network, by the mean weights where it has them."""
    hidden = hyper.get("hidden")
    sizes = [hyper["in_features"], *(hidden if isinstance(hidden, list) else [hidden]), hyper["n_classes"]]
    if not all(type(size) is int and 0 < size < 2**31 for size in sizes):
        raise ArgumentError("ckpt_path", "has no usable hidden")
    if not isinstance(hyper.get("activation"), str) or hyper["activation"] not in ACTIVATIONS:
        raise ArgumentError("ckpt_path", "has no usable activation")
    shapes: dict[str, tuple[int, ...]] = {}
    for k, (i, o) in enumerate(pairwise(sizes)):
        shapes |= {f"network.{2 * k}.weight": (o, i), f"network.{2 * k}.bias": (o,)}
    averaged = state.get("averaged")
    if isinstance(averaged, Tensor) and averaged.numel() == 1 and averaged > 0:
        shapes = {mean_of(name.removeprefix("network.")): shape for name, shape in shapes.items()}
    expected = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}  # meta takes no memory
    found = {name: state[name] for name in expected.keys() & state.keys()}
    check_weights(found, expected)
    activations = [*[hyper["activation"]] * (len(sizes) - 2), "identity"]
    parameters = [found[name] for name in expected]
    return lambda x: mlp_forward(x, parameters, activations)[-1].z, parameters[0].dtype


def _perceptrons(hyper: Mapping[str, Any], state: Mapping[str, Any]) -> Network:
    """The net inputs of a LitPerceptron's units."""
    bank = PerceptronBank(hyper["in_features"], hyper["n_classes"], device="meta")
    found = {name.removeprefix("bank."): value for name, value in state.items() if name.startswith("bank.")}
    check_weights(found, bank.state_dict())
    bank.load_state_dict(found, assign=True)
    return lambda x: bank(x, hyper.get("average") is not False), bank.weight.dtype


_NETWORKS = {"LitMLP": _mlp, "LitPerceptron": _perceptrons}


# ---- the command -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """Run ``nnlab predict PICTURE …``; return the exit status."""
    try:
        return _run(_options(arguments))
    except KeyboardInterrupt:
        return 130
    except (UserError, ArgumentError, OSError) as error:
        if "--debug" in arguments:
            raise
        _complain(f"{error} (--ckpt_path)" if isinstance(error, ArgumentError) else str(error))
        return 2


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = LineParser(prog="nnlab predict", add_help=False, allow_abbrev=False)
    parser.add_argument("pictures", nargs="+", metavar="PICTURE")
    parser.add_argument("--ckpt_path", default="best")
    parser.add_argument("--as-is", action="store_true")
    parser.add_argument("--out")
    parser.add_argument("--trainer.default_root_dir", dest="root", default="runs")
    parser.add_argument("--debug", action="store_true")
    options, others = parser.parse_known_intermixed_args(list(arguments))
    if others:
        parser.error(f"{others[0].partition('=')[0]} has no effect on pictures: leave it out")
    if options.out is not None and Path(options.out).suffix.lower() != ".png":
        parser.error(f"--out must end in .png, got {options.out}")
    return options


def _run(options: argparse.Namespace) -> int:
    """Predict each picture, print a line for each, and write the sheet."""
    path, root = options.ckpt_path, Path(options.root).expanduser()
    if path in NEWEST:
        path = newest_checkpoint(root, path, lambda file: _Model(read_checkpoint(file)))
        print(f"checkpoint: {path}")
    model = _Model(read_checkpoint(path))
    done = []
    for picture in options.pictures:
        try:
            done.append(model.predict(Path(picture), options.as_is))
            print(done[-1], flush=True)
        except PictureError as error:
            if options.debug:
                raise
            _complain(str(error))
    if done:
        if done[0].probability is None:
            print(f"these are outputs, not probabilities, which {model.loss or model.learner} does not give")
        out = Path(options.out) if options.out else claim_folder(root / model.learner) / "pictures.png"
        content = io.BytesIO()
        sheet(done).save(content, "PNG")
        write_whole(out, content.getvalue())
        print(f"what was given, and what the network saw: {out}")
    return 2 if len(done) < len(options.pictures) else 0


def _complain(problem: str) -> None:
    print(f"nnlab predict: error: {' '.join(problem.split())}", file=sys.stderr)


def sheet(predictions: Sequence[PicturePrediction]) -> Image.Image:
    """Every picture as it was given, and what the network saw to the right of it."""
    font = ImageFont.load_default(14)
    columns, step = min(COLUMNS, len(predictions)), (2 * CELL + 3 * GAP, CELL + 3 * GAP + 20)
    page = Image.new("L", (columns * step[0], -(-len(predictions) // columns) * step[1]), 255)
    pen = ImageDraw.Draw(page)
    for k, prediction in enumerate(predictions):
        left, top = k % columns * step[0] + GAP, k // columns * step[1] + GAP
        words = str(prediction._replace(path=Path(prediction.path.name[-20:]))).encode("ascii", "replace").decode()
        pen.text((left, top), words[:52], fill=0, font=font)
        given = prediction.given.copy()
        given.thumbnail((CELL, CELL))
        page.paste(given, (left, top + 24))
        seen = Image.fromarray(prediction.seen).resize((CELL, CELL), Image.Resampling.NEAREST)
        page.paste(seen, (left + CELL + GAP, top + 24))
    return page
