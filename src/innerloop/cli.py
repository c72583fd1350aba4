"""The program. JAX is loaded only by the commands that compute, so that help answers at once."""

import contextlib
import io
import itertools
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, TypeVar

import tyro

from innerloop import __version__
from innerloop.errors import InnerloopError
from innerloop.experiment import recipes
from innerloop.experiment.config import Config, flag, leaves
from innerloop.experiment.kinds import AnyConfig, check, session_of, to_json
from innerloop.experiment.own.config import Adaptation, OwnConfig, Serving

USAGE = f"""innerloop {__version__}: gradient-based meta-learning in JAX

  innerloop recipes                        what can be trained, with figures
  innerloop algorithms                     the family: what --algorithm takes
  innerloop train RECIPE [--field value]   train, evaluate, report, or continue
  innerloop train RECIPE --dry-run         say how it would run, and stop
  innerloop train RECIPE --published       with the published settings, where the recipe has others that work better
  innerloop resume RUN                     continue a run directory
  innerloop evaluate RUN [--field value]   evaluate again
  innerloop report RUN                     write the report again
  innerloop compare RECIPE --algorithms a,b   train algorithms, compare them
  innerloop compare RUN RUN ...            compare runs on the same test tasks
  innerloop config RECIPE|RUN [--field v]  show a configuration, and stop
  innerloop doctor                         check this installation

  innerloop train FILE --task-column T --target Y
                                           learn from your own tasks: a Parquet
                                           file, a CSV file, a folder of images
  innerloop data check FILE --task-column T --target Y
                                           look at them first; exit status 1 if
                                           something is wrong
  innerloop adapt RUN --support A --query B --out C
                                           adapt to a new task, and predict
  innerloop serve RUN                      the same over HTTP on this machine

innerloop train RECIPE --help lists the fields. RUN is a run directory, such as
runs/demo-seed0.
"""

COMPARE = """usage: innerloop compare RECIPE --algorithms a,b,c [--seeds 0..2] [--time-limit 20m] [--field value]
       innerloop compare RUN RUN ...

  --algorithms   rows of `innerloop algorithms`; the others are compared with the first
  --seeds        0..2 or 0,3,5; 0 unless given
  --time-limit   training time of each run: as many meta-steps as fit into it
  --output       directory of the runs, of comparison.html and of comparison.json

An interrupted comparison goes on with the same command.
"""

PLAINLY = {
    "Error parsing ": "",
    "invalid literal for int() with base 10:": "a whole number is needed, not",
    "could not convert string to float:": "a number is needed, not",
}
"""What the parser says in Python's words, in ours."""


Parsed = TypeVar("Parsed")
DRY_RUN = "--dry-run"
PUBLISHED = "--published"
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
        "algorithms": _algorithms,
        "train": _train,
        "resume": _resume,
        "evaluate": _evaluate,
        "report": _report,
        "compare": _compare,
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
        status = commands[command](rest) or 0
        sys.stdout.flush()  # here, not when Python ends, where a reader that went away is an error
        return status
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


def _algorithms(arguments: list[str]) -> None:
    _no_more(arguments, "algorithms")
    from innerloop.algorithms import ALGORITHMS, PIECES

    for name, row in ALGORITHMS.items():
        print(f"{name}\n    {row.summary}\n    {row.reference}")
        for label, text in (("cost", row.cost), ("use", row.use)):
            print(textwrap.fill(f"{label}: {text}", 80, initial_indent="    ", subsequent_indent="        "))
    print("pieces of MAML++, joined with a plus as in maml+msl+lslr:")
    for name, (title, _) in PIECES.items():
        print(f"    {name:<6}{title}")


def _train(arguments: list[str]) -> int:
    name, rest = _positional(arguments, "train", "RECIPE|FILE")
    dry = DRY_RUN in rest
    default = _default(name, rest)
    rest = [each for each in rest if each not in (DRY_RUN, PUBLISHED)]
    config = _parse(rest, default, f"innerloop train {name}")
    check(config)
    if dry:
        session_of(config).dry_run(config)
        return 0
    return session_of(config).run_to_the_end(config)


def _algorithm_of(arguments: list[str]) -> str | None:
    """The algorithm that the arguments ask for, whose settings the recipe then has."""
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        if argument.startswith("--algorithm="):
            return argument.removeprefix("--algorithm=")
        if argument == "--algorithm":
            return following
    return None


def _default(name: str, arguments: list[str]) -> AnyConfig:
    """The configuration of a recipe, or of training on a file or folder of the user's."""
    if name in recipes.RECIPES or (not Path(name).suffix and not Path(name).exists() and "/" not in name):
        return recipes.config(name, _algorithm_of(arguments), published=PUBLISHED in arguments)
    if PUBLISHED in arguments:
        raise InnerloopError(f"{PUBLISHED} takes the published settings of a recipe; {name} is none, so leave it out.")
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


def _compare(arguments: list[str]) -> int:
    named = list(itertools.takewhile(lambda each: not each.startswith("-"), arguments))
    rest = arguments[len(named) :]
    if not named or rest in (["-h"], ["--help"]):
        if rest in (["-h"], ["--help"]):
            print(COMPARE, end="")
            sys.exit(0)
        raise InnerloopError("innerloop compare needs a RECIPE with --algorithms, or finished runs.")
    chosen, rest = _options(rest, ("--algorithms", "--seeds", "--time-limit", "--output"))
    if "--algorithms" not in chosen and named[0] not in recipes.RECIPES:
        if rest or set(chosen) - {"--output"}:
            raise InnerloopError(
                f"Finished runs are compared as they are, so {(rest or sorted(chosen))[0]} has no effect; with "
                "--algorithms a RECIPE is trained."
            )
        if len(named) < 2:
            raise InnerloopError(f"innerloop compare needs a second run beside {named[0]}, or --algorithms.")
        from innerloop.experiment import compare

        compare.compare_runs([Path(each) for each in named], Path(chosen.get("--output", "comparison")))
        return 0
    name = named[0]
    recipes.recipe(name)
    if len(named) > 1 or "--algorithms" not in chosen:
        raise InnerloopError(f"innerloop compare {name} needs --algorithms, as in --algorithms maml,fomaml.")
    algorithms = [each for each in chosen["--algorithms"].split(",") if each]
    if not algorithms or len(set(algorithms)) < len(algorithms):
        raise InnerloopError(f"--algorithms is {chosen['--algorithms']!r}; give different names, as in maml,fomaml.")
    for each in rest:
        if each.split("=")[0] in ("--algorithm", "--seed", "--run-dir", "--run_dir"):
            raise InnerloopError(f"{each.split('=')[0]} is what compare varies; use --algorithms, --seeds or --output.")
    configs = []
    for algorithm in algorithms:
        config = _parse(rest, recipes.config(name, algorithm), f"innerloop compare {name}")
        check(config)
        if not isinstance(config, Config):
            raise InnerloopError(f"{name} is a recipe of meta-reinforcement learning; compare takes supervised ones.")
        if configs:  # the baselines are the same for all
            config = replace(config, evaluation=replace(config.evaluation, baselines=False))
        configs.append(config)
    from innerloop.experiment import compare

    limit = chosen.get("--time-limit")
    return compare.train_and_compare(
        configs,
        compare.seeds_in(chosen.get("--seeds", "0")),
        None if limit is None else compare.seconds_in(limit),
        Path(chosen.get("--output", f"runs/compare-{name}")),
    )


def _options(arguments: list[str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
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
            raise InnerloopError(f"{name} needs a value; see innerloop compare --help.")
        found[name] = value
    return found, rest


def _only(allowed: Sequence[str], stored: AnyConfig, config: AnyConfig, rule: str) -> None:
    """Refuse changes to what a finished run was made with."""
    before = dict(leaves(stored))
    for field, value in leaves(config):
        if value != before[field] and field.split(".")[0] not in allowed:
            raise InnerloopError(f"--{flag(field)} belongs to the run as it was made; {rule}.")


def _config(arguments: list[str]) -> None:
    name, rest = _positional(arguments, "config", "RECIPE|RUN")
    stored = Path(name, "config.json").exists()
    published = PUBLISHED in rest
    if stored and published:
        raise InnerloopError(f"{name} is a run, with the settings that it was made with; leave out {PUBLISHED}.")
    default = _stored_config(Path(name)) if stored else recipes.config(name, _algorithm_of(rest), published=published)
    rest = [each for each in rest if each != PUBLISHED]
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
