"""The command's parser: errors of one line, and help that explains the chosen model's options as well."""

import difflib
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from enum import Enum
from typing import Any, ClassVar, Literal, get_args, get_origin

import lightning as L
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import callbacks, loggers, plugins, profilers, strategies
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from torch.optim import lr_scheduler

from nnlab.config_files import UserError
from nnlab.data import Distortion
from nnlab.training.classifier import Classifier
from nnlab.training.datamodule import MNISTDataModule
from nnlab.training.mlp import LitMLP
from nnlab.training.perceptron import LitPerceptron

yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))  # as Timer's

LEARNERS: dict[str, type[Classifier]] = {learner.__name__: learner for learner in (LitMLP, LitPerceptron)}
FROM_DATA = {"in_features", "n_classes"}  # the command takes these from the data


def learner_named(name: str) -> type[Classifier]:
    """The learner of a short name or an import path.

    Raises:
        UserError: there is none.
    """
    if learner := LEARNERS.get(name.removeprefix("nnlab.training.")):
        return learner
    module, _, kind = name.rpartition(".")
    choice = f"--model must be one of {', '.join(LEARNERS)}, or the import path of one like them"
    try:
        found = getattr(importlib.import_module(module), kind) if module else None
    except Exception as error:  # whatever a module of the user's raises
        raise UserError(f"{name} cannot be imported ({type(error).__name__}: {error}): {choice}") from error
    if not (isinstance(found, type) and issubclass(found, Classifier)):
        raise UserError(f"{choice}, got {name}")
    return found


# ---- what was meant --------------------------------------------------------------------------------------------------

ALIASES = {
    "epochs": "trainer.max_epochs",
    "out": "trainer.default_root_dir",
    "output": "trainer.default_root_dir",
    "gpus": "trainer.accelerator",
}


def _class_meant(name: str) -> str:
    modules = (torch.optim, lr_scheduler, callbacks, loggers, plugins, profilers, strategies)
    known = {kind.lower(): kind for module in modules for kind in dir(module)}
    near = difflib.get_close_matches(name.rpartition(".")[2].lower(), known, 1, 0.7)
    return f"; did you mean {known[near[0]]}?" if near else ""


def plain(message: str) -> str:
    r"""A message of jsonargparse as one line, without the names of Python's types.

    >>> plain('Parser key "data.batch_size":\n  Expected a <class \'int\'>. Got value: abc')
    '--data.batch_size: Expected int. Got value: abc'
    """
    text = re.sub(r'Parser key "([\w.]+)"', r"--\1", " ".join(message.split()))
    if text.startswith("Unexpected config:"):
        text = f"--config must be a file with keys such as model:, got {text.partition(': ')[2] or 'nothing'}"
    text = re.sub("^Problems parsing config: ", "--config: the file must be YAML: ", text)
    text = re.sub(r"^(--[\w.]+): Unable to load config '(.*?)' - .*", r"\1 must be a mapping. Got value: \2", text)
    if union := re.fullmatch(r"(.*?)(?:- Expected a path .*?- )?Does not validate .*? Errors: - (.*)", text):
        flag, errors = union.groups()
        errors, _, given = errors.partition(" Given value type: ")
        text = flag + _reasons(errors)
        value = given.partition("Given value: ")[2]
        text += "" if "(" in value or "Got value" in text or "Problem with" in errors else f". Got value: {value[:60]}"
    text = re.sub(r"(--[\w.]+): --", r"\1.", text)  # --model: --hidden: … is about --model.hidden
    text = re.sub(r"(--[\w.]+): the following arguments are required: (\w+)", r"\1 needs \1.\2", text)
    text = re.sub(r"( - Expected a <class 'NoneType'>)? (Given value type|Subclass types expect one of): .*", "", text)
    return re.sub(r"a <class '(?:\w+\.)*(\w+)'>", r"\1", re.sub(r"a typing\.Literal\[(.*?)\]", r"one of \1", text))


OF_A_CLASS = (  # how jsonargparse's errors about one class begin, the most telling first
    *("the following arguments", "--", "Importing ", "Expected a dot import path", "Import path"),
    "Not a valid subclass",
)


def _reasons(errors: str) -> str:
    """Why none of a setting's types fits: the error about a class, if there is one, else all."""
    if problem := re.search(r"Problem with given class_path '(?:\w+\.)*(\w+)': (.*?)(?= - |$)", errors):
        return f"{problem[1]}: {problem[2]}"
    distinct = dict.fromkeys(re.sub(" Subclass types expect one of:.*", "", error) for error in errors.split(" - "))
    found = [error for error in distinct if not re.match(r"Expected a <class 'NoneType'>|a (class path|dict) ", error)]
    for start in OF_A_CLASS:
        if of_class := [error for error in found if error.startswith(start)]:
            return of_class[0]
    if not all(error.startswith("Expected ") for error in found):
        return "; ".join(found)
    kinds = [re.sub(r"\. Got value: .*", "", error).removeprefix("Expected ") for error in found]
    return f"Expected {' or '.join(dict.fromkeys(kinds))}"


class Parser(LightningArgumentParser):
    """A parser whose errors are one line, and whose help explains the chosen learner's options as well."""

    learner: type[Classifier] = LitMLP
    chosen: ClassVar[dict[str, Any]] = {}  # classes by name
    data_flag: ClassVar[str] = "--data.name"  # or --data.path, whichever says what the data is

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise the parser's message, in one line.

        Raises:
            UserError: always.
        """
        text = re.sub(r"ambiguous option: (\S+) could match.*", r"unrecognized arguments: \1", plain(message))
        if unknown := re.search(r"[Uu]nrecognized arguments: (\S+)", text):
            text += self._meant(unknown[1])
        elif unknown := re.search(r"--(\w+): Option '(\w+)' is not accepted", text):
            text += self._meant(f"--{unknown[1]}.{unknown[2]}")
        elif text.startswith("--data.distort:"):
            option, limits = re.search(r"Option '(\w+)'", message), ", ".join(inspect.signature(Distortion).parameters)
            got = option[1] if option else text.rpartition(" ")[2]
            text = f"--data.distort must be on, off, or limits such as --data.distort.rotation=10: {limits}; got {got}"
        elif unknown := re.search(r"Expected a dot import path string: ([\w.]+?)(?=\.? |$)", text):
            text = f"{text[: unknown.start()]}there is no class {unknown[1]}{_class_meant(unknown[1])}"
        raise UserError(text) from ex

    def _options(self) -> dict[str, list[str]]:
        """All flags, by their last part."""
        owners: dict[str, Any] = {
            "model": self.learner,
            "data": MNISTDataModule,
            "trainer": L.Trainer,
            "optimizer": getattr(torch.optim, str(self.chosen.get("optimizer")), torch.optim.SGD),
            "lr_scheduler": getattr(lr_scheduler, str(self.chosen.get("lr_scheduler")), lr_scheduler.LRScheduler),
            "checkpoint": ModelCheckpoint,
            "early_stopping": EarlyStopping,
        }
        found: dict[str, list[str]] = {}
        for group, owner in owners.items():
            for name in inspect.signature(owner).parameters:
                if name not in FROM_DATA and name not in ("params", "optimizer"):
                    found.setdefault(name, []).append(f"--{group}.{name}")
        return found

    def _meant(self, flag: str) -> str:
        """The flag that an unknown one resembles, as the end of a message; "" where none does."""
        if flag.endswith((".yaml", ".yml")):
            return f"; did you mean --config {flag}?"
        name = flag.lstrip("-").partition("=")[0]
        group, _, last = name.rpartition(".")
        if last in ALIASES:
            return f"; did you mean --{ALIASES[last]}?"
        options = self._options()
        near = difflib.get_close_matches(last, options, 1, 0.75)
        if not near:
            return ""
        if near[0] == "lr":  # of the optimizer, where the model has no rule of its own
            return f"; did you mean --{'model' if self.learner is LitPerceptron else 'optimizer'}.lr?"
        flags = sorted(options[near[0]], key=lambda option: not option.startswith(f"--{group}."))
        return f"; did you mean {flags[0]}?"

    @classmethod
    def flag_of(cls, argument: str) -> str:
        """The flag that sets an argument of the model, the data module, the trainer or the chosen optimizer."""
        if argument in FROM_DATA | {"classes"}:
            return cls.data_flag
        if argument in inspect.signature(Distortion).parameters:
            return f"--data.distort.{argument}"
        if argument == "state_dict":  # of the loader, which resumes with the same batches only
            return "--ckpt_path"
        if argument == "lr":
            return f"--{'optimizer' if cls.chosen.get('optimizer') else 'model'}.lr"
        for group, owner in (("model", cls.learner), ("data", MNISTDataModule), ("trainer", L.Trainer)):
            if argument in inspect.signature(owner.__init__).parameters:
                return f"--{group}.{argument}"
        return f"--{argument}"

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """The usual help, and below it the options of the chosen learner."""
        text: str = super().format_help(*args, **kwargs)
        if not any(action.dest == "model" for action in self._actions):
            return text
        options = ArgumentParser(prog="", add_help=False, usage="")
        options.add_class_arguments(self.learner, "model", skip=FROM_DATA)
        groups = options.format_help().partition("\n\n")[2]
        return f"{text}\nThe model is {self.learner.__name__}; --config or --model chooses another.\n\n{groups}"


# ---- the short help --------------------------------------------------------------------------------------------------

TRAINING = {
    "--optimizer": "a class of torch.optim, such as SGD or AdamW; its settings: --optimizer.lr and so on",
    "--lr_scheduler": "a class of torch.optim.lr_scheduler, with --optimizer",
    "--early_stopping.patience": "epochs without a better val_loss that end the run; 5, and null for --early_stopping "
    "switches it off",
    "--ckpt_path": "a checkpoint to go on from, or to measure: a file, or last or best, of the newest run; without "
    "--config it brings its settings along",
    "--config": "a YAML file or a recipe; later ones and flags win",
    "--print_config": "print all settings, as a --config file",
    "--seed_everything": "of the initial weights and the order of the samples; 1",
    "--trainer.max_epochs": "epochs, if early stopping does not end the run before; 10",
    "--trainer.precision": "32-true, 64-true or bf16-mixed",
    "--trainer.accelerator": "cpu, cuda, or auto, which takes a GPU where there is one",
    "--trainer.devices": "processes, each with a part of every mini-batch; 1",
    "--trainer.default_root_dir": "where runs are written; runs",
}


PICTURES = """\
usage: nnlab predict PICTURE ... [--ckpt_path FILE] [--as-is] [--out FILE.png]

Say what digit each picture shows. It is prepared as MNIST's images were.
  --ckpt_path FILE          the model: a checkpoint, best or last; best
  --as-is                   only make the picture grey and small
  --out FILE.png            where to draw what was given and what the network
                            saw; pictures.png in a new folder below
                            --trainer.default_root_dir

Without a picture: write the predictions for the test images to a file.
"""


def short_help(command: str, learner: type[Classifier]) -> str:
    """The common options, the model's first, in lines of 80 columns."""
    lines = [f"usage: nnlab {command} [--config FILE_OR_RECIPE ...] [--OPTION VALUE ...]", ""]
    if command == "predict":
        lines = [PICTURES, *lines]
    lines += [f"the model, {learner.__name__}:", *_described(learner, "model"), ""]
    lines += ["the data:", *_described(MNISTDataModule, "data"), "", "training:"]
    for flag, words in TRAINING.items():
        lines += _two_columns(flag, words)
    return "\n".join([*lines, "", f"nnlab {command} --help all shows every option, Lightning's included."])


def _described(owner: type, group: str) -> Iterator[str]:
    """The options of a class: flag, first sentence of the docstring's entry, choices and default."""
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |^\w+:|\Z)", inspect.getdoc(owner) or "", re.M | re.S)
    words = {name: " ".join(text.split()) for name, text in entries}
    for name, parameter in inspect.signature(owner).parameters.items():
        if name in FROM_DATA:
            continue
        first = re.split(r"(?<=[.;])\s", words.get(name, ""))[0].rstrip(".;")
        kind = parameter.annotation
        kinds = [kind] if get_origin(kind) is Literal else [k for k in get_args(kind) if k is not type(None)]
        if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
            first += f": {', '.join(map(str, get_args(kinds[0])))}"
        if parameter.default is not None:
            first += f"; {parameter.default}"
        yield from _two_columns(f"--{group}.{name}", first)


def _two_columns(flag: str, words: str) -> list[str]:
    indent = " " * 28
    text = textwrap.wrap(words, 52) or [""]
    head = f"  {flag}"
    if len(head) > 26:
        return [head, *(indent + line for line in text)]
    return [head.ljust(28) + text[0], *(indent + line for line in text[1:])]
