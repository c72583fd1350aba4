"""The program. JAX is loaded only by the commands that compute, so that help answers at once."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, TypeVar

import tyro

from innerloop import __version__
from innerloop.errors import InnerloopError
from innerloop.experiment import recipes
from innerloop.experiment.config import flag, leaves
from innerloop.experiment.kinds import AnyConfig, check, session_of, to_json
from innerloop.experiment.own.config import Adaptation, OwnConfig, Serving

USAGE = f"""innerloop {__version__}: gradient-based meta-learning in JAX

  innerloop recipes                        what can be trained, with its published figures
  innerloop train RECIPE [--field value]   train, evaluate, report; on an existing run: continue it
  innerloop train RECIPE --dry-run         say how it would run and what memory it needs, and stop
  innerloop resume RUN                     continue a run directory
  innerloop evaluate RUN [--field value]   evaluate again, for example --evaluation.steps 20
  innerloop report RUN                     write the report again
  innerloop config RECIPE|RUN [--field v]  show a configuration, and stop
  innerloop doctor                         check this installation

  innerloop train FILE --task-column T --target Y        learn from your own tasks: Parquet, CSV, or a folder of images
  innerloop data check FILE --task-column T --target Y   look at them first; exit status 1 if something is wrong
  innerloop adapt RUN --support A --query B --out C      adapt to a new task, predict, write a CSV file
  innerloop serve RUN                      the same over HTTP on this machine

innerloop train RECIPE --help lists the fields. RUN is a run directory, such as runs/demo-seed0.
"""

PLAINLY = {
    "Error parsing ": "",
    "invalid literal for int() with base 10:": "a whole number is needed, not",
    "could not convert string to float:": "a number is needed, not",
}
"""What the parser says in Python's words, in ours."""


Parsed = TypeVar("Parsed")
DRY_RUN = "--dry-run"
ADAPT_NEEDS = {
    "support": "a table of labelled rows of the new task",
    "query": "a table of the rows to predict",
}
NO_MEMORY = (
    "There is not enough memory; lower --layout.chunk (tasks computed at once), --evaluation.queries, "
    "--evaluation.shots or --network.widths."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program, and exit with 0, or 2 for a mistake of the caller, or 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no arrows shows question marks
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run the program and return its exit status."""
    commands: dict[str, Callable[[list[str]], int | None]] = {
        "recipes": _recipes,
        "train": _train,
        "resume": _resume,
        "evaluate": _evaluate,
        "report": _report,
        "config": _config,
        "doctor": _doctor,
        "data": _data,
        "adapt": _adapt,
        "serve": _serve,
    }
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    command, rest = arguments[0], arguments[1:]
    try:
        if command not in commands:
            raise InnerloopError(f"There is no command {command!r}; {recipes.nearest(command, commands)}")
        return commands[command](rest) or 0
    except InnerloopError as error:
        print(f"innerloop: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninnerloop: stopped", file=sys.stderr)
        return 130
    except MemoryError:
        print(f"innerloop: {NO_MEMORY}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Out of memory" not in str(error):
            raise
        print(f"innerloop: {NO_MEMORY}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a path that is too long, forbidden, or on a device that fails
        print(
            f"innerloop: {error.filename or 'a file'}: {error.strerror or error}; choose another path.", file=sys.stderr
        )
        return 2


def _recipes(arguments: list[str]) -> None:
    _no_more(arguments, "recipes")
    for name, recipe in recipes.RECIPES.items():
        print(f"{name}\n    {recipe.summary}")
        for each in recipe.published:
            print(f"    published: {each.method}, {each.steps} steps: {each.text}  ({each.source})")


def _train(arguments: list[str]) -> int:
    name, rest = _positional(arguments, "train", "RECIPE|FILE")
    dry = DRY_RUN in rest
    rest = [each for each in rest if each != DRY_RUN]
    config = _parse(rest, _default(name), f"innerloop train {name}")
    check(config)
    if dry:
        session_of(config).dry_run(config)
        return 0
    return session_of(config).run_to_the_end(config)


def _default(name: str) -> AnyConfig:
    """The configuration of a recipe, or of training on a file or folder of the user's."""
    if name in recipes.RECIPES or (not Path(name).suffix and not Path(name).exists() and "/" not in name):
        return recipes.config(name)
    return OwnConfig(data=name)


def _data(arguments: list[str]) -> int:
    action, rest = _positional(arguments, "data", "check FILE")
    if action != "check":
        raise InnerloopError(f"innerloop data has the one action check, not {action!r}.")
    name, rest = _positional(rest, "data check", "FILE")
    config = _parse(rest, OwnConfig(data=name), f"innerloop data check {name}")
    check(config)
    from innerloop.experiment.own import audit

    return audit.examine(config, print)


def _adapt(arguments: list[str]) -> None:
    name, rest = _positional(arguments, "adapt", "RUN")
    asked = _parse(rest, Adaptation(), f"innerloop adapt {name}")
    for field in ("support", "query"):
        if not getattr(asked, field):
            raise InnerloopError(f"--{field} is needed: {ADAPT_NEEDS[field]}.")
    if asked.members < 1:
        raise InnerloopError(f"--members is {asked.members}; it must be at least 1.")
    from innerloop.experiment.own import session

    session.adapt(Path(name), Path(asked.support), Path(asked.query), Path(asked.out), asked.target, asked.members)


def _serve(arguments: list[str]) -> None:
    name, rest = _positional(arguments, "serve", "RUN")
    asked = _parse(rest, Serving(), f"innerloop serve {name}")
    if not 0 <= asked.port < 2**16:
        raise InnerloopError(f"--port is {asked.port}; it must be between 0 and 65535.")
    from innerloop import serve

    serve.serve(Path(name), asked.port, lambda line: print(line, flush=True))


def _resume(arguments: list[str]) -> int:
    name, rest = _positional(arguments, "resume", "RUN")
    stored = _stored_config(Path(name))
    config = _parse(rest, stored, f"innerloop resume {name}")
    check(config)
    if config.run_dir != stored.run_dir:
        raise InnerloopError(f"--run-dir is {config.run_dir}, but resume goes on in {name}; leave it out.")
    return session_of(config).run_to_the_end(replace(config, run_dir=name))


def _evaluate(arguments: list[str]) -> None:
    name, rest = _positional(arguments, "evaluate", "RUN")
    stored = _stored_config(Path(name))
    config = _parse(rest, stored, f"innerloop evaluate {name}")
    _only(("evaluation", "data_dir"), stored, config, "evaluate takes --evaluation.* and --data-dir")
    check(config)
    session_of(config).score_and_report(Path(name), config, again=True)


def _report(arguments: list[str]) -> None:
    name, rest = _positional(arguments, "report", "RUN")
    stored = _stored_config(Path(name))
    config = _parse(rest, stored, f"innerloop report {name}")
    _only(("data_dir",), stored, config, "report takes --data-dir alone")
    session_of(config).score_and_report(Path(name), config, again=False)


def _only(allowed: Sequence[str], stored: AnyConfig, config: AnyConfig, rule: str) -> None:
    """Refuse changes to what a finished run was made with."""
    before = dict(leaves(stored))
    for field, value in leaves(config):
        if value != before[field] and field.split(".")[0] not in allowed:
            raise InnerloopError(f"--{flag(field)} belongs to the run as it was made; {rule}.")


def _config(arguments: list[str]) -> None:
    name, rest = _positional(arguments, "config", "RECIPE|RUN")
    default = _stored_config(Path(name)) if Path(name, "config.json").exists() else recipes.config(name)
    config = _parse(rest, default, f"innerloop config {name}")
    check(config)
    print(to_json(config))


def _doctor(arguments: list[str]) -> int:
    _no_more(arguments, "doctor")
    from innerloop.experiment import doctor

    return doctor.examine(print)


def _stored_config(path: Path) -> AnyConfig:
    from innerloop.experiment.run import existing

    return existing(path).config


def _positional(arguments: list[str], command: str, what: str) -> tuple[str, list[str]]:
    """The first argument and the rest."""
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    choices = f"; recipes are: {', '.join(recipes.RECIPES)}" if "RECIPE" in what else ""
    if arguments in (["-h"], ["--help"]):
        print(f"usage: innerloop {command} {what} [--field value]{choices}")
        sys.exit(0)
    raise InnerloopError(f"innerloop {command} needs a {what} as its first argument{choices}.")


def _no_more(arguments: list[str], command: str) -> None:
    if arguments in (["-h"], ["--help"]):
        print(f"usage: innerloop {command}")
        sys.exit(0)
    if arguments:
        raise InnerloopError(f"innerloop {command} takes no arguments, but got {arguments[0]!r}.")


def _parse(arguments: list[str], default: Parsed, program: str) -> Parsed:
    """The default with the fields that the command line sets.

    Raises:
        InnerloopError: for an unknown field (with the nearest name) or a value of the wrong kind.
    """
    known = [f"--{flag(name)}" for name, _ in leaves(default) if name not in ("recipe", "data")]
    for argument in arguments:
        name = argument.split("=", 1)[0].replace("_", "-")
        if name.startswith("--") and name not in [*known, "--help"] and not _is_negation(name, known):
            raise InnerloopError(f"There is no field {name}; {recipes.nearest(name, known)}")
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


def _is_negation(name: str, known: Sequence[str]) -> bool:
    """Whether a flag is the `no-` form of a switch, as in `--evaluation.no-baselines`."""
    *path, last = name.removeprefix("--").split(".")
    return last.startswith("no-") and f"--{'.'.join([*path, last.removeprefix('no-')])}" in known


def _one_sentence(box: str) -> NoReturn:
    """Say in one sentence what tyro draws as a box: its first paragraph that is more than a title."""
    lines = [line.strip(" │") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    paragraphs = " ".join(line if line.strip("─-") else "\n" for line in lines).split("\n")
    said = next((each.strip() for each in paragraphs if any(mark in each for mark in ":'.")), "")
    for technical, plain in PLAINLY.items():
        said = said.replace(technical, plain)
    raise InnerloopError(said or "The command line could not be read; see --help.")
