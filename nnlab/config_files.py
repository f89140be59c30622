"""Settings before torch and Lightning are imported: files and recipes that are there, and YAML that is no trap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from nnlab.recipes import recipes

CONFIG = ("-c", "--config")
MOST_NODES, DEEPEST = 10_000, 30  # of a file: aliases can make a small one endless
GROUPS = ("model", "data", "trainer", "checkpoint")  # that must be mappings, where a file has them
OFF = ("null", "false", "off")


class UserError(Exception):
    """A mistake in a flag, a config file or a path; its message is one line that says what to change."""


def read_arguments(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments, with the file of the recipe wherever --config names one and no file has that name.

    Returns:
        them, and whether early stopping is switched off, by a flag or in a file.

    Raises:
        UserError: --config names neither, a file is no YAML of settings, or --ckpt_path names no file.
    """
    found: list[str] = []
    off, value_of = False, ""
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if value_of:
            flag, value, value_of = value_of, argument, ""
        elif not equals and argument in (*CONFIG, "--ckpt_path", "--early_stopping"):
            value_of = argument
            continue
        else:
            value = value if equals else argument
        if flag in CONFIG:
            text, without = _config(value)
            found += ["--config", text]
            off = off or without
        elif flag == "--early_stopping" and value in OFF:
            off = True
        elif flag == "--ckpt_path":
            if value not in ("last", "best", "null") and not Path(value).is_file():
                raise UserError(f"ckpt_path names no file: {value} (--ckpt_path)")
            found.append(f"--ckpt_path={value}")
        else:
            found.append(argument if value == argument or equals else f"{flag}={value}")
    return [*found, *([value_of] if value_of else [])], off


def _config(value: str) -> tuple[str, bool]:
    """What the parser takes of a --config, and whether it switches early stopping off."""
    if value.startswith("-"):
        return value, False  # a flag where a name should be
    if value.startswith("{") or "\n" in value or ": " in value:  # YAML itself
        return _settings(value, "the text")
    path, known = Path(value).expanduser(), recipes()
    if not path.exists() or path.is_dir():
        if value not in known:
            raise UserError(
                f"--config: there is no file {value}, and no such recipe: the recipes are {', '.join(known)}"
            )
        path = known[value]
    try:
        return _settings(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"--config: {path} is no text file") from error
    except OSError as error:
        raise UserError(f"--config: {path} cannot be read ({error.strerror})") from error


def _settings(text: str, path: str) -> tuple[str, bool]:
    """The settings of a YAML text, as text, and whether it switches early stopping off."""
    try:
        settings = read_yaml(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f"line {where.line + 1}: " if where else ""
        raise UserError(f"--config: {path} must be YAML: {line}{getattr(error, 'problem', '') or error}") from error
    if not isinstance(settings, dict):
        came = "nothing" if settings is None else str(settings)[:60]
        raise UserError(f"--config must be a file with keys such as model:, got {came}")
    for group in GROUPS:
        if group in settings and not isinstance(settings[group], (dict, str) if group == "model" else dict):
            raise UserError(f"--config: {path} has no settings of {group}, but {settings[group]!r}: leave it out")
    if settings.get("seed_everything", 0) is None:
        raise UserError(f"--config: {path} must have a whole number as seed_everything, got null")
    off = settings.get("early_stopping", 0) is None
    if off:
        del settings["early_stopping"]
    return yaml.safe_dump(
        settings, sort_keys=False
    ), off  # as text: the parser would read a file in the locale's encoding


def read_yaml(text: str) -> Any:
    """A YAML document that stays small when its aliases are followed.

    Raises:
        yaml.YAMLError: it is none.
        UserError: it is too deep, too large, or contains itself.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            _size(root, {}, 0)
        return yaml.safe_load(text)
    except RecursionError as error:
        raise UserError(f"--config: the file must be at most {DEEPEST} levels deep") from error
    except ValueError as error:  # a number of too many digits
        raise UserError(f"--config: {error}") from error


def _size(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """How many nodes a node has, each alias counted as what it stands for; in ``known`` 0 is not counted yet."""
    if depth > DEEPEST:
        raise UserError(f"--config: the file must be at most {DEEPEST} levels deep")
    if id(node) in known:
        if known[id(node)] == 0:
            raise UserError("--config: the file must not contain itself, by an alias within its own anchor")
        return known[id(node)]
    known[id(node)] = 0
    parts = (
        [n for item in node.value for n in (item if isinstance(item, tuple) else (item,))]
        if isinstance(node, yaml.CollectionNode)
        else []
    )
    size = 1 + sum(_size(part, known, depth + 1) for part in parts)
    if size > MOST_NODES:
        raise UserError(f"--config: the file must have at most {MOST_NODES} values, aliases followed")
    known[id(node)] = size
    return size
