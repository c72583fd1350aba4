"""`innerloop compare`."""

import itertools
import sys
from pathlib import Path

from innerloop import workloads
from innerloop.cli import configuration, parse
from innerloop.errors import InnerloopError
from innerloop.runs import codec, rundir

COMPARE = """usage: innerloop compare RECIPE --algorithms a,b,c [--seeds 0..2] [--time-limit 20m] [--field value]
       innerloop compare RECIPE --algorithms a,b,c --launch local:4|slurm [--field value]
       innerloop compare RUN RUN ...

  --algorithms   rows of `innerloop algorithms`; the others are compared with the first
  --seeds        0..2 or 0,3,5; 0 unless given
  --time-limit   training time of each run: as many meta-steps as fit into it
  --launch       where the runs compute: local:N for N at once on this machine, slurm, or
                 slurm with what sbatch is told, as in slurm:partition=gpu,time=240
  --output       directory of the runs, of comparison.html and of comparison.json

An interrupted comparison goes on with the same command.
"""


def compare(arguments: list[str]) -> int:
    named = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    rest = arguments[len(named) :]
    if rest in parse.HELP:
        print(COMPARE, end="")
        sys.exit(0)
    if not named:
        raise InnerloopError("innerloop compare needs a RECIPE with --algorithms, or finished runs.")
    chosen, rest = parse.options(rest, ("--algorithms", "--seeds", "--time-limit", "--output", "--launch"), "compare")
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
        workload, default = configuration.default(name, [f"--algorithm={algorithm}"])
        config = parse.fields([*rest, f"--algorithm={algorithm}"], default, f"innerloop compare {name}")
        workload.check(config)
        if configs:  # the baselines are the same for all
            config = codec.changed(config, {"evaluation.baselines": False})
        configs.append(config)
    from innerloop.runs import compare, launch

    limit, output = chosen.get("--time-limit"), Path(chosen.get("--output", f"runs/compare-{Path(name).stem}"))
    seeds = compare.seeds_in(chosen.get("--seeds", "0"))
    if "--launch" in chosen:
        if limit is not None:
            raise InnerloopError(
                "--time-limit has no effect with --launch, where runs share a machine or have different ones; give a "
                "number of iterations."
            )
        by = launch.launcher(chosen["--launch"], output)
        return compare.launch_and_compare(workload, configs, seeds, output, by)  # pyright: ignore
    return compare.train_and_compare(
        workload,  # pyright: ignore[reportPossiblyUnboundVariable]
        configs,
        seeds,
        None if limit is None else compare.seconds_in(limit),
        output,
    )
