"""Runs that are there, as a command line names them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from innerloop import workloads
from innerloop.cli import parse
from innerloop.errors import InnerloopError
from innerloop.runs import rundir
from innerloop.runs.workload import Workload
from innerloop.workloads.tabular.workload import WORKLOAD as TABULAR


def named(arguments: list[str], command: str) -> tuple[str, rundir.Run, list[str]]:
    """The name of a run, the run, with its own data where `--data` says that they are now, and the other arguments.

    Raises:
        InnerloopError: if there is no such run, or it is not on a user's own tasks.
    """
    name, rest = parse.positional(arguments, command, "RUN")
    run = rundir.existing(Path(name), workloads.registered())
    chosen, rest = parse.options(rest, ("--data",), command)
    if "--data" in chosen and run.workload is not TABULAR:
        raise InnerloopError(f"--data is for runs on your own tasks, and {name} is none; leave it out.")
    if "--data" in chosen:
        run = replace(run, config=replace(run.config, data=chosen["--data"]))
    return name, run, rest


def beginning(arguments: list[str], workload: Workload[Any]) -> tuple[rundir.Run | None, list[str]]:
    """The run that `--from` names, if it does, and the other arguments.

    Raises:
        InnerloopError: if there is none, or it is of another kind.
    """
    chosen, rest = parse.options(arguments, ("--from",), "train")
    if not chosen:
        return None, rest
    run = rundir.existing(Path(chosen["--from"]), workloads.registered())
    if run.workload is not workload:
        raise InnerloopError(f"--from is {chosen['--from']}, a run of the kind {run.workload.name!r}; choose another.")
    return run, rest
