"""The program. JAX is loaded only by the commands that compute, so that help answers at once."""

import itertools
import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from innerloop import __version__, workloads
from innerloop.cli import existing, parse, streams
from innerloop.errors import InnerloopError
from innerloop.runs import codec, engine, rundir
from innerloop.runs.workload import Workload
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

COMPARE = """usage: innerloop compare RECIPE --algorithms a,b,c [--seeds 0..2] [--time-limit 20m] [--field value]
       innerloop compare RUN RUN ...

  --algorithms   rows of `innerloop algorithms`; the others are compared with the first
  --seeds        0..2 or 0,3,5; 0 unless given
  --time-limit   training time of each run: as many meta-steps as fit into it
  --output       directory of the runs, of comparison.html and of comparison.json

An interrupted comparison goes on with the same command.
"""

DRY_RUN, PUBLISHED = "--dry-run", "--published"
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
                print(f"    published: {figure.method}, {figure.steps} steps: {figure.text}  ({figure.source})")


def _algorithms(arguments: list[str]) -> None:
    parse.no_more(arguments, "algorithms")
    from innerloop.core.algorithms import ALGORITHMS, PIECES

    for name, row in ALGORITHMS.items():
        print(f"{name}\n    {row.summary}\n    {row.reference}")
        for label, text in (("cost", row.cost), ("use", row.use)):
            print(textwrap.fill(f"{label}: {text}", 80, initial_indent="    ", subsequent_indent="        "))
    print("pieces of MAML++, joined with a plus as in maml+msl+lslr:")
    for name, (title, _) in PIECES.items():
        print(f"    {name:<6}{title}")


def _train(arguments: list[str]) -> int:
    name, rest = parse.positional(arguments, "train", "RECIPE|FILE", workloads.recipes())
    dry = DRY_RUN in rest
    workload, default = _default(name, rest)
    rest = [argument for argument in rest if argument not in (DRY_RUN, PUBLISHED)]
    origin, rest = existing.beginning(rest, workload)
    config = parse.fields(rest, default, f"innerloop train {name}")
    workload.check(config)
    if dry:
        engine.dry_run(workload, config)
        return 0
    return engine.train(workload, config, origin=origin)


def _default(name: str, arguments: list[str]) -> tuple[Workload[Any], Any]:
    """The kind of run and the configuration of a recipe, or of training on a file or folder of the user's."""
    is_recipe = name in workloads.recipes()
    if is_recipe or (not Path(name).suffix and not Path(name).exists() and "/" not in name):
        workload = workloads.with_recipe(name)
        return workload, _configured(workload, name, arguments)
    if PUBLISHED in arguments:
        raise InnerloopError(f"{PUBLISHED} is for recipes, and {name} is none; leave it out.")
    return TABULAR, TABULAR.configure(name, None)


def _configured(workload: Workload[Any], name: str, arguments: list[str]) -> Any:
    """The configuration of a recipe, for the algorithm and with the published settings if they are asked for."""
    config = workload.configure(name, parse.value_of(arguments, "--algorithm"))
    if PUBLISHED not in arguments:
        return config
    if not (settings := workload.recipes[name].published_settings(config.algorithm)):
        raise InnerloopError(
            f"{name} has no other settings of {config.algorithm} than the published ones; leave out {PUBLISHED}."
        )
    return codec.changed(config, settings)


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
    if asked.members < 1:
        raise InnerloopError(f"--members is {asked.members}; it must be at least 1.")
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
    name, run, rest = existing.named(arguments, "resume")
    config = parse.fields(rest, run.config, f"innerloop resume {name}")
    run.workload.check(config)
    if config.run_dir != run.config.run_dir:
        raise InnerloopError(f"--run-dir is {config.run_dir}, but resume goes on in {name}; leave it out.")
    return engine.train(run.workload, replace(config, run_dir=name))


def _evaluate(arguments: list[str]) -> None:
    name, run, rest = existing.named(arguments, "evaluate")
    config = parse.fields(rest, run.config, f"innerloop evaluate {name}")
    parse.only(("evaluation", "data_dir"), run.config, config, "evaluate takes --evaluation.* and --data-dir")
    run.workload.check(config)
    engine.evaluate(run, config, again=True)


def _report(arguments: list[str]) -> None:
    name, run, rest = existing.named(arguments, "report")
    config = parse.fields(rest, run.config, f"innerloop report {name}")
    parse.only(("data_dir",), run.config, config, "report takes --data-dir alone")
    engine.evaluate(run, config, again=False)


def _export(arguments: list[str]) -> None:
    name, rest = parse.positional(arguments, "export", "RUN --out FOLDER")
    chosen, rest = parse.options(rest, ("--out",), "export")
    name, run, rest = existing.named([name, *rest], "export")
    if rest or not chosen:
        raise InnerloopError(f"innerloop export {name} needs --out FOLDER{f', not {rest[0]!r}' if rest else ''}.")
    engine.export(run, Path(chosen["--out"]))


def _compare(arguments: list[str]) -> int:
    named = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    rest = arguments[len(named) :]
    if rest in parse.HELP:
        print(COMPARE, end="")
        sys.exit(0)
    if not named:
        raise InnerloopError("innerloop compare needs a RECIPE with --algorithms, or finished runs.")
    chosen, rest = parse.options(rest, ("--algorithms", "--seeds", "--time-limit", "--output"), "compare")
    if "--algorithms" not in chosen and named[0] not in workloads.recipes():
        return _compare_runs(named, rest, chosen)
    if len(named) > 1 or "--algorithms" not in chosen:
        raise InnerloopError(f"innerloop compare {named[0]} needs --algorithms, as in --algorithms maml,fomaml.")
    return _compare_algorithms(named[0], rest, chosen)


def _compare_runs(named: list[str], rest: list[str], chosen: dict[str, str]) -> int:
    if rest or set(chosen) - {"--output"}:
        raise InnerloopError(
            f"Finished runs are compared as they are, so {(rest or sorted(chosen))[0]} has no effect; with "
            "--algorithms a RECIPE is trained."
        )
    if len(named) < 2:
        raise InnerloopError(f"innerloop compare needs a second run beside {named[0]}, or --algorithms.")
    from innerloop.runs import compare

    runs = [rundir.existing(Path(name), workloads.registered()) for name in named]
    compare.compare_runs(runs, Path(chosen.get("--output", "comparison")))
    return 0


def _compare_algorithms(name: str, rest: list[str], chosen: dict[str, str]) -> int:
    algorithms = [algorithm for algorithm in chosen["--algorithms"].split(",") if algorithm]
    if not algorithms or len(set(algorithms)) < len(algorithms):
        raise InnerloopError(f"--algorithms is {chosen['--algorithms']!r}; give different names, as in maml,fomaml.")
    for argument in rest:
        if argument.split("=")[0] in ("--algorithm", "--seed", "--run-dir", "--run_dir"):
            varied = argument.split("=")[0]
            raise InnerloopError(f"{varied} is what compare varies; use --algorithms, --seeds or --output.")
    configs = []
    for algorithm in algorithms:
        workload, default = _default(name, [f"--algorithm={algorithm}"])
        config = parse.fields([*rest, f"--algorithm={algorithm}"], default, f"innerloop compare {name}")
        workload.check(config)
        if configs:  # the baselines are the same for all
            config = codec.changed(config, {"evaluation.baselines": False})
        configs.append(config)
    from innerloop.runs import compare

    limit = chosen.get("--time-limit")
    return compare.train_and_compare(
        workload,  # pyright: ignore[reportPossiblyUnboundVariable]
        configs,
        compare.seeds_in(chosen.get("--seeds", "0")),
        None if limit is None else compare.seconds_in(limit),
        Path(chosen.get("--output", f"runs/compare-{Path(name).stem}")),
    )


def _config(arguments: list[str]) -> None:
    name, rest = parse.positional(arguments, "config", "RECIPE|RUN", workloads.recipes())
    if Path(name, "config.json").exists():
        run = rundir.existing(Path(name), workloads.registered())
        workload, default = run.workload, run.config
        if PUBLISHED in rest:
            raise InnerloopError(f"{PUBLISHED} is for recipes; the run {name} keeps its settings, so leave it out.")
    else:
        workload = workloads.with_recipe(name)
        default = _configured(workload, name, rest)
    rest = [argument for argument in rest if argument != PUBLISHED]
    config = parse.fields(rest, default, f"innerloop config {name}")
    workload.check(config)
    print(json.dumps(codec.encoded(config), indent=2))


def _doctor(arguments: list[str]) -> int:
    parse.no_more(arguments, "doctor")
    from innerloop.cli import doctor

    return doctor.examine(print)
