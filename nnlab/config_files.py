"""Reads --config before torch and Lightning are imported; checks that files exist and that YAML stays small."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import yaml

from nnlab.recipes import recipes

CONFIG = ("-c", "--config")
CHOICES = ("model", "optimizer", "lr_scheduler")  # settings that choose a class
TAKE_VALUES = (*CONFIG, "--ckpt_path", "--early_stopping", "--model.class_path", *(f"--{key}" for key in CHOICES))
LARGEST, MOST_NODES, DEEPEST = 100_000, 10_000, 30  # bytes of a file; aliases can make a small one endless
GROUPS = ("model", "data", "trainer", "checkpoint", "early_stopping")  # which must be mappings
OFF = ("null", "false", "off")


class UserError(Exception):
    """A mistake in a flag, a config file or a path; its message is one line that says what to change."""


class LineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line, and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def read_arguments(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The arguments, with the settings of each --config as YAML in place of its name.

    Returns:
        the arguments, and what they choose (the last one wins): the names of the classes in ``CHOICES``, and
        ``early_stopping``, None where it is off; its settings are then left out.

    Raises:
        UserError: a --config is no file and no recipe, or holds no settings, or --ckpt_path names no file.
    """
    found: list[str | dict[str, Any]] = []
    chosen: dict[str, Any] = {}
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        whole = argument
        if not equals and (flag in TAKE_VALUES or flag.startswith("--early_stopping.")):
            given = next(rest, None)
            if given is None:
                found.append(argument)
                break
            whole, value = f"{flag}={given}", given
        if flag in CONFIG and not value.startswith("-"):
            found.append(settings := _config(value))
            chosen |= choices(settings)
            continue
        with suppress(yaml.YAMLError):  # it need not be YAML
            read_yaml(value or argument, flag if value else "an argument")
        if flag == "--ckpt_path" and value not in ("last", "best", "null") and not Path(value).is_file():
            raise UserError(f"ckpt_path names no file: {value} (--ckpt_path)")
        if (key := flag.removesuffix(".class_path").strip("-")) in CHOICES:
            chosen[key] = None if value in OFF else value
        elif flag.startswith("--early_stopping"):
            chosen["early_stopping"] = None if flag == "--early_stopping" and value in OFF else flag
            if chosen["early_stopping"] is None:
                continue
        found.append(whole)
    return list(_without_early_stopping(found, chosen.get("early_stopping", 0) is None)), chosen


def _without_early_stopping(found: list[str | dict[str, Any]], off: bool) -> Iterator[str]:
    """The arguments as text, without ``early_stopping: null``, and without its settings where it is off."""
    for item in found:
        if isinstance(item, dict):  # as text: the parser would read the file in the locale's encoding
            left = {k: v for k, v in item.items() if k != "early_stopping" or not (off or v is None)}
            yield f"--config={yaml.safe_dump(left, sort_keys=False)}"
        elif not (off and item.startswith("--early_stopping")):
            yield item


def choices(settings: dict[str, Any]) -> dict[str, Any]:
    """The names of the classes that settings choose, and ``early_stopping`` where they have it."""
    chosen = {key: settings[key] for key in (*CHOICES, "early_stopping") if key in settings}
    for key in chosen.keys() & CHOICES:
        name = chosen[key].get("class_path") if isinstance(chosen[key], dict) else chosen[key]
        chosen[key] = name if isinstance(name, str) else None
    return {key: value for key, value in chosen.items() if value or key == "early_stopping"}


def _config(value: str) -> dict[str, Any]:
    """The settings of a --config: a file, a recipe, or YAML itself."""
    if value.startswith("{") or "\n" in value or ": " in value:
        return _settings(value, "the text")
    try:
        path, known = Path(value).expanduser(), recipes()
        if not path.exists() or path.is_dir():
            if value not in known:
                raise UserError(
                    f"--config: there is no file {value}, and no such recipe: the recipes are {', '.join(known)}"
                )
            path = known[value]
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise UserError(f"--config: {path} must have at most {LARGEST} bytes")
        return _settings(raw.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"--config: {path} is no text file") from error
    except (OSError, RuntimeError, ValueError) as error:  # the last two: no such user for ~, a NUL in a name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--config: {value[:80]} cannot be read ({reason})") from error


def _settings(text: str, path: str) -> dict[str, Any]:
    """The settings of a YAML text."""
    try:
        settings = read_yaml(text, "--config")
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f"line {where.line + 1}: " if where else ""
        raise UserError(f"--config: {path} must be YAML: {line}{getattr(error, 'problem', '') or error}") from error
    if not isinstance(settings, dict):
        came = "nothing" if settings is None else str(settings)[:60]
        raise UserError(f"--config must be a file with keys such as model:, got {came}")
    for group, value in settings.items():
        may_be: dict[str, tuple[type, ...]] = {"model": (dict, str), "early_stopping": (dict, type(None))}
        if not isinstance(group, str):
            raise UserError(f"--config: {path} must have words as keys, such as model:, got {group}")
        if group in GROUPS and not isinstance(value, may_be.get(group, (dict,))):
            came = "null" if value is None else value
            raise UserError(f"--config: {path} has no settings of {group}, but {came}: leave it out")
    if settings.get("seed_everything", 0) is None:
        raise UserError(f"--config: {path} must have a whole number as seed_everything, got null")
    return settings


def read_yaml(text: str, flag: str) -> Any:
    """Read a YAML document that stays small with its aliases expanded.

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
        raise UserError(f"{flag} must be at most {DEEPEST} levels deep") from error
    except ValueError as error:  # of _size, or a date or a number that cannot be
        raise UserError(f"{flag} {error}") from error


def _size(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """The number of nodes below a node, aliases expanded; 0 in ``known`` marks a node that is being counted."""
    if depth > DEEPEST:
        raise ValueError(f"must be at most {DEEPEST} levels deep")
    if id(node) in known:
        if known[id(node)] == 0:
            raise ValueError("must not contain itself, by an alias within its own anchor")
        return known[id(node)]
    known[id(node)] = 0
    parts = (
        [n for item in node.value for n in (item if isinstance(item, tuple) else (item,))]
        if isinstance(node, yaml.CollectionNode)
        else []
    )
    size = 1 + sum(_size(part, known, depth + 1) for part in parts)
    if size > MOST_NODES:
        raise ValueError(f"must have at most {MOST_NODES} values, aliases followed")
    known[id(node)] = size
    return size
