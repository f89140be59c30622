"""The command's parser: errors of one line, and help that explains the chosen model's options as well."""

import inspect
import pydoc
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser

from nnlab.recipes import recipes
from nnlab.training.classifier import Classifier
from nnlab.training.datamodule import MNISTDataModule
from nnlab.training.mlp import LitMLP
from nnlab.training.perceptron import LitPerceptron

LEARNERS: dict[str, type[Classifier]] = {learner.__name__: learner for learner in (LitMLP, LitPerceptron)}
CONFIG = ("-c", "--config")
FROM_DATA = {"in_features", "n_classes"}  # what a model takes from the data


class UserError(Exception):
    """A mistake in a flag, a config file or a path; its message is one line that says what to change."""


def learner_named(name: str) -> type[Classifier]:
    """The learner of a short name or an import path.

    Raises:
        UserError: there is none.
    """
    found = LEARNERS.get(name.removeprefix("nnlab.training.")) or pydoc.locate(name)
    if not (isinstance(found, type) and issubclass(found, Classifier)):
        raise UserError(
            f"--model must be one of {', '.join(LEARNERS)}, or the import path of one like them, got {name}"
        )
    return found


def chosen_learner(arguments: Sequence[str]) -> type[Classifier]:
    """The learner that the arguments choose, by --model or in a --config file, before they are parsed."""
    name = "LitMLP"
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        value = value if equals else next(iter(arguments[i + 1 :]), "")
        if flag in ("--model", "--model.class_path"):
            name = value
        elif flag in CONFIG and Path(value).is_file():
            name = _learner_in(Path(value)) or name
    return learner_named(name)


def with_recipes(arguments: Sequence[str]) -> list[str]:
    """The arguments, with the file of the recipe wherever --config names one and there is no file of that name.

    Raises:
        UserError: --config names neither.
    """
    found = list(arguments)
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in CONFIG and equals:
            found[i] = f"{flag}={_config(value)}"
        elif i > 0 and arguments[i - 1] in CONFIG:
            found[i] = _config(argument)
    return found


def _config(value: str) -> str:
    if value.startswith("-") or not isinstance(_yaml(value), str):
        return value  # not a name: the parser takes YAML text as well
    path, known = Path(value), recipes()
    if path.exists() and not path.is_dir():
        return value
    if value not in known:
        raise UserError(f"--config: there is no file {value}, and no such recipe: the recipes are {', '.join(known)}")
    return str(known[value])


def _yaml(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None  # the parser itself will say what is wrong


def _learner_in(config: Path) -> str | None:
    try:
        model = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]
    except UnicodeDecodeError as error:
        raise UserError(f"--config: {config} is no text file") from error
    except (yaml.YAMLError, KeyError, TypeError):
        return None  # the parser itself will say what is wrong with the file
    name = model.get("class_path") if isinstance(model, dict) else model
    return name if isinstance(name, str) else None


def flag_of(argument: str, learner: type[Classifier]) -> str:
    """The flag that sets an argument of the model, the data module, the trainer or the optimizer."""
    if argument in FROM_DATA:
        return "--data.name"
    if argument == "state_dict":  # of the loader, which goes on with the same batches only
        return "--ckpt_path"
    for group, owner in (("model", learner), ("data", MNISTDataModule), ("trainer", L.Trainer)):
        if argument in inspect.signature(owner.__init__).parameters:
            return f"--{group}.{argument}"
    return f"--optimizer.{argument}" if argument == "lr" else f"--{argument}"


def plain(message: str) -> str:
    r"""A message of jsonargparse as one line, without what it says of Python's types.

    >>> plain('Parser key "data.batch_size":\n  Expected a <class \'int\'>. Got value: abc')
    '--data.batch_size: Expected int. Got value: abc'
    """
    text = re.sub(r'Parser key "([\w.]+)"', r"--\1", " ".join(message.split()))
    if text.startswith("Unexpected config:"):
        text = f"--config must be a file with keys such as model:, got {text.partition(': ')[2] or 'nothing'}"
    text = re.sub("^Problems parsing config: ", "--config: the file must be YAML: ", text)
    union = re.fullmatch(
        r"(.*?)(?:- Expected a path .*?- )?Does not validate .*? Errors: - (.*) Given value type: (.*)", text
    )
    if union:
        flag, errors, given = union.groups()
        reasons = [e for e in errors.split(" - ") if "NoneType" not in e and "does not correspond to" not in e]
        value = given.partition("Given value: ")[2]
        text = flag + "; ".join(reasons) + ("" if "(" in value else f". Got value: {value}")
    text = re.sub(r"(--[\w.]+): --", r"\1.", text)  # --model: --hidden: … is about --model.hidden
    return re.sub(r"a <class '(\w+)'>", r"\1", re.sub(r"a typing\.Literal\[(.*?)\]", r"one of \1", text))


class Parser(LightningArgumentParser):
    """A parser whose errors are one line, and whose help explains the chosen learner's options as well."""

    learner: type[Classifier] = LitMLP

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise the parser's message, in one line.

        Raises:
            UserError: always.
        """
        raise UserError(plain(message)) from ex

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """The usual help, and below it the options of the chosen learner."""
        text: str = super().format_help(*args, **kwargs)
        if not any(action.dest == "model" for action in self._actions):
            return text
        options = ArgumentParser(prog="", add_help=False, usage="")
        options.add_class_arguments(self.learner, "model", skip=FROM_DATA)
        groups = options.format_help().partition("\n\n")[2]
        return f"{text}\nThe model is {self.learner.__name__}; --config or --model chooses another.\n\n{groups}"
