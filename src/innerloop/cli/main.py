"""The program. JAX is loaded only by the commands that compute, so that help answers at once."""

import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from innerloop import __version__, workloads
from innerloop.cli import compare, configuration, existing, parse, streams, together
from innerloop.cli.configuration import PUBLISHED
from innerloop.errors import InnerloopError
from innerloop.runs import codec, engine, rundir
from innerloop.runs.results import counted
from innerloop.runs.workload import Fitting
from innerloop.text import nearest
from innerloop.workloads.tabular.config import Adaptation, Serving
from innerloop.workloads.tabular.workload import WORKLOAD as TABULAR

USAGE = f"""innerloop {__version__}: gradient-based meta-learning in JAX

  innerloop recipes                        what can be trained, with figures
  innerloop algorithms                     the family: what --algorithm takes
  innerloop train RECIPE [--field value]   train, evaluate, report, or continue
  innerloop train RECIPE --dry-run         say how it would run, and stop
  innerloop train RECIPE --published       with the published settings, where the
                                           recipe has others that work better
  innerloop train RECIPE --from RUN        go on from another run's newest
                                           checkpoint, with other settings
  innerloop resume RUN                     continue a run directory; --data FILE
                                           where its own data have moved
  innerloop evaluate RUN [--field value]   evaluate again
  innerloop report RUN                     write the report again
  innerloop export RUN --out FOLDER        what it learned, to be used elsewhere
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
    streams.set_up()
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
        "export": _export,
        "compare": compare.compare,
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
            raise InnerloopError(f"There is no command {command!r}; {nearest(command, commands)}")
        status = commands[command](rest) or 0
        sys.stdout.flush()  # here, not when Python ends, where a reader that went away is an error
        return status
    except InnerloopError as error:
        streams.complain(f"innerloop: {error}")
        return 2
    except KeyboardInterrupt:
        streams.complain("\ninnerloop: stopped")
        return 130
    except MemoryError:
        streams.complain(f"innerloop: {NO_MEMORY}")
        return 2
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Out of memory" not in str(error):
            raise
        streams.complain(f"innerloop: {NO_MEMORY}")
        return 2
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        streams.discard(sys.stdout)
        return 0
    except OSError as error:  # a path that is too long, forbidden, or on a device that fails
        streams.discard(sys.stdout)
        what = error.filename or "What is written here"
        streams.complain(f"innerloop: {what}: {error.strerror or error}; choose another path.")
        return 2


def _recipes(arguments: list[str]) -> None:
    parse.no_more(arguments, "recipes")
    for workload in workloads.registered().values():
        for name, recipe in workload.recipes.items():
            print(f"{name}\n    {recipe.summary}")
            for figure in recipe.published:
                steps = counted(figure.steps, "step")
                print(f"    published: {figure.method}, {steps}: {figure.text}  ({figure.source})")
            if recipe.deviations:
                print(_paragraph(f"other than published: {recipe.deviations}"))


def _algorithms(arguments: list[str]) -> None:
    parse.no_more(arguments, "algorithms")
    from innerloop.core.algorithms import ALGORITHMS, PIECES

    for name, row in ALGORITHMS.items():
        print(f"{name}\n    {row.summary}\n    {row.reference}")
        for label, text in (("cost", row.cost), ("use", row.use)):
            print(_paragraph(f"{label}: {text}"))
    print("pieces of MAML++, joined with a plus as in maml+msl+lslr:")
    for name, (title, _) in PIECES.items():
        print(f"    {name:<6}{title}")


def _paragraph(text: str) -> str:
    """In lines of 80 columns, below a name."""
    return textwrap.fill(text, 80, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False)


def _train(arguments: list[str]) -> int:
    asked, rest = together.asked(arguments, "train")
    if asked and not together.is_watched():
        status, first = together.watch(["train", *arguments], asked)
        return status or (_train(rest) if first else 0)  # what is left to do needs no others
    name, rest = parse.positional(rest, "train", "RECIPE|FILE", workloads.recipes())
    dry = DRY_RUN in rest
    workload, default = configuration.default(name, rest)
    rest = [argument for argument in rest if argument not in (DRY_RUN, PUBLISHED)]
    origin, rest = existing.beginning(rest, workload)
    config = parse.fields(rest, default, f"innerloop train {name}")
    workload.check(config)
    if dry:
        engine.dry_run(workload, config)
        return 0
    with together.joined(asked) if asked else nullcontext():
        return engine.train(workload, config, origin=origin)


def _data(arguments: list[str]) -> int:
    action, rest = parse.positional(arguments, "data", "check FILE")
    if action != "check":
        raise InnerloopError(f"innerloop data has the one action check, not {action!r}.")
    name, rest = parse.positional(rest, "data check", "FILE")
    config = parse.fields(rest, TABULAR.configure(name, None), f"innerloop data check {name}")
    TABULAR.check(config)
    from innerloop.workloads.tabular import audit

    return audit.examine(config, print)


def _adapt(arguments: list[str]) -> None:
    if arguments in parse.HELP:
        parse.fields(arguments, Adaptation(), "innerloop adapt RUN")
    name, rest = parse.positional(arguments, "adapt", "RUN")
    asked = parse.fields(rest, Adaptation(), f"innerloop adapt {name}")
    for field, text in ADAPT_NEEDS.items():
        if not vars(asked)[field]:
            raise InnerloopError(f"--{field} is needed: {text}.")
    from innerloop.cli import predict

    predict.adapt(Path(name), asked)


def _serve(arguments: list[str]) -> None:
    if arguments in parse.HELP:
        parse.fields(arguments, Serving(), "innerloop serve RUN")
    name, rest = parse.positional(arguments, "serve", "RUN")
    asked = parse.fields(rest, Serving(), f"innerloop serve {name}")
    if not 0 <= asked.port < 2**16:
        raise InnerloopError(f"--port is {asked.port}; it must be between 0 and 65535.")
    from innerloop.cli import predict

    predict.serve(Path(name), asked.port)


def _resume(arguments: list[str]) -> int:
    asked, rest = together.asked(arguments, "resume")
    if asked and not together.is_watched():
        status, first = together.watch(["resume", *arguments], asked)
        return status or (_resume(rest) if first else 0)
    name, run, rest = existing.named(rest, "resume")
    config = parse.fields(rest, run.config, f"innerloop resume {name}")
    run.workload.check(config)
    if config.run_dir != run.config.run_dir:
        raise InnerloopError(f"--run-dir is {config.run_dir}, but resume goes on in {name}; leave it out.")
    with together.joined(asked) if asked else nullcontext():
        return engine.train(run.workload, replace(config, run_dir=name))


def _evaluate(arguments: list[str]) -> int:
    name, run, rest = existing.named(arguments, "evaluate")
    config = parse.fields(rest, run.config, f"innerloop evaluate {name}")
    parse.only(("evaluation", "data_dir"), run.config, config, "evaluate takes --evaluation.* and --data-dir")
    run.workload.check(config)
    return engine.evaluate(run, config, again=True)


def _report(arguments: list[str]) -> int:
    name, run, rest = existing.named(arguments, "report")
    config = parse.fields(rest, run.config, f"innerloop report {name}")
    parse.only(("data_dir",), run.config, config, "report takes --data-dir alone")
    return engine.evaluate(run, config, again=False)


def _export(arguments: list[str]) -> None:
    name, rest = parse.positional(arguments, "export", "RUN --out FOLDER")
    chosen, rest = parse.options(rest, ("--out",), "export")
    name, run, rest = existing.named([name, *rest], "export")
    if rest or not chosen:
        raise InnerloopError(f"innerloop export {name} needs --out FOLDER{f', not {rest[0]!r}' if rest else ''}.")
    engine.export(run, Path(chosen["--out"]))


def _config(arguments: list[str]) -> None:
    name, rest = parse.positional(arguments, "config", "RECIPE|RUN", workloads.recipes())
    if Path(name, "config.json").exists():
        run = rundir.existing(Path(name), workloads.registered())
        workload, default = run.workload, run.config
        if PUBLISHED in rest:
            raise InnerloopError(f"{PUBLISHED} is for recipes; the run {name} keeps its settings, so leave it out.")
    else:
        workload = workloads.with_recipe(name)
        default = configuration.configured(workload, name, rest)
    rest = [argument for argument in rest if argument != PUBLISHED]
    config = parse.fields(rest, default, f"innerloop config {name}")
    workload.check(config)
    if isinstance(workload, Fitting):
        workload.require_fitting(config)
    print(json.dumps(codec.encoded(config), indent=2))


def _doctor(arguments: list[str]) -> int:
    parse.no_more(arguments, "doctor")
    from innerloop.cli import doctor

    return doctor.examine(print)
