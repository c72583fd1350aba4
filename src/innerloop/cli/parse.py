"""From the words of a command line to a configuration, or to one sentence on what is wrong with them."""

import contextlib
import io
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, TypeVar

import tyro

from innerloop.errors import InnerloopError
from innerloop.runs.codec import flag, leaves
from innerloop.text import nearest

Parsed = TypeVar("Parsed")
HELP = (["-h"], ["--help"])
GIVEN = ("recipe", "data")
"""Fields that the first argument of a command gives."""
PLAINLY = {
    "Error parsing ": "",
    "invalid literal for int() with base 10:": "a whole number is needed, not",
    "could not convert string to float:": "a number is needed, not",
}
"""What the parser says in Python's words, in ours."""


def positional(arguments: list[str], command: str, what: str, choices: Iterable[str] = ()) -> tuple[str, list[str]]:
    """The first argument and the rest.

    Raises:
        InnerloopError: if there is none.
        SystemExit: for `--help`.
    """
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    among = f"; recipes are: {', '.join(choices)}" if choices else ""
    if arguments in HELP:
        print(f"usage: innerloop {command} {what} [--field value]{among}")
        sys.exit(0)
    raise InnerloopError(f"innerloop {command} needs a {what} as its first argument{among}.")


def no_more(arguments: list[str], command: str) -> None:
    """Refuse arguments where a command takes none.

    Raises:
        InnerloopError: naming the first one.
        SystemExit: for `--help`.
    """
    if arguments in HELP:
        print(f"usage: innerloop {command}")
        sys.exit(0)
    if arguments:
        raise InnerloopError(f"innerloop {command} takes no arguments, but got {arguments[0]!r}.")


def options(arguments: list[str], names: Sequence[str], command: str) -> tuple[dict[str, str], list[str]]:
    """The options of these names, and the other arguments.

    Raises:
        InnerloopError: if one has no value.
    """
    found, rest, items = {}, [], iter(arguments)
    for argument in items:
        name, equals, value = argument.partition("=")
        if name not in names:
            rest.append(argument)
            continue
        value = value if equals else next(items, "")
        if not value or value.startswith("--"):
            raise InnerloopError(f"{name} needs a value; see innerloop {command} --help.")
        found[name] = value
    return found, rest


def value_of(arguments: list[str], name: str) -> str | None:
    """The value of an option among others, or `None` without it."""
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        if argument.startswith(f"{name}="):
            return argument.removeprefix(f"{name}=")
        if argument == name:
            return following
    return None


def fields(arguments: list[str], default: Parsed, program: str) -> Parsed:
    """The default with the fields that the command line sets.

    Raises:
        InnerloopError: for an unknown field (with the nearest name) or a value of the wrong kind.
        SystemExit: for `--help`.
    """
    known = {f"--{flag(name)}": value for name, value in leaves(default) if name not in GIVEN}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, _, value = argument.replace("_", "-").partition("=")
        value = value or following
        if isinstance(known.get(name), bool) and value.lower() in ("true", "false", "yes", "no", "0", "1"):
            right = name if value.lower() in ("true", "yes", "1") else _negated(name)
            raise InnerloopError(f"{name} takes no value; write {right}.")
        if name.startswith("--") and name not in (*known, "--help") and not _is_negation(name, known):
            if name.startswith("--no-") and f"--{name.removeprefix('--no-')}" in known:
                negated = _negated(f"--{name.removeprefix('--no-')}")
                raise InnerloopError(f"There is no field {name}; write {negated}.")
            raise InnerloopError(f"There is no field {name}; {nearest(name, known)}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                type(default), args=arguments, default=default, prog=program, config=(tyro.conf.AvoidSubcommands,)
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        _one_sentence(said.getvalue())


def only(allowed: Sequence[str], stored: Any, config: Any, rule: str) -> None:
    """Refuse changes to what a finished run was made with.

    Raises:
        InnerloopError: naming the setting, and the rule.
    """
    before = dict(leaves(stored))
    for name, value in leaves(config):
        if value != before[name] and name.split(".")[0] not in allowed:
            raise InnerloopError(f"--{flag(name)} belongs to the run as it was made; {rule}.")


def _negated(name: str) -> str:
    """The `no-` form of a switch, as in `--evaluation.no-baselines`."""
    *path, last = name.removeprefix("--").split(".")
    return f"--{'.'.join([*path, f'no-{last}'])}"


def _is_negation(name: str, known: Sequence[str] | dict[str, Any]) -> bool:
    *path, last = name.removeprefix("--").split(".")
    return last.startswith("no-") and f"--{'.'.join([*path, last.removeprefix('no-')])}" in known


def _one_sentence(box: str) -> NoReturn:
    """Say in one sentence what tyro draws as a box: its first paragraph that is more than a title."""
    lines = [line.strip(" │") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    paragraphs = " ".join(line if line.strip("─-") else "\n" for line in lines).split("\n")
    said = next((text.strip() for text in paragraphs if any(mark in text for mark in ":'.")), "")
    for technical, plain in PLAINLY.items():
        said = said.replace(technical, plain)
    raise InnerloopError(said or "The command line could not be read; see --help.")
