"""From the name of a recipe, a file or a folder to its configuration."""

from pathlib import Path
from typing import Any

from innerloop import workloads
from innerloop.cli import parse
from innerloop.errors import InnerloopError
from innerloop.runs import codec
from innerloop.runs.workload import Workload
from innerloop.workloads.tabular.workload import WORKLOAD as TABULAR

PUBLISHED = "--published"


def default(name: str, arguments: list[str]) -> tuple[Workload[Any], Any]:
    """The kind of run and the configuration of a recipe, or of training on a file or folder of the user's."""
    is_recipe = name in workloads.recipes()
    if is_recipe or (not Path(name).suffix and not Path(name).exists() and "/" not in name):
        workload = workloads.with_recipe(name)
        return workload, configured(workload, name, arguments)
    if PUBLISHED in arguments:
        raise InnerloopError(f"{PUBLISHED} is for recipes, and {name} is none; leave it out.")
    return TABULAR, TABULAR.configure(name, None)


def configured(workload: Workload[Any], name: str, arguments: list[str]) -> Any:
    """The configuration of a recipe, for the algorithm and with the published settings if they are asked for."""
    config = workload.configure(name, parse.value_of(arguments, "--algorithm"))
    if PUBLISHED not in arguments:
        return config
    if not (settings := workload.recipes[name].published_settings(config.algorithm)):
        raise InnerloopError(
            f"{name} has no other settings of {config.algorithm} than the published ones; leave out {PUBLISHED}."
        )
    return codec.changed(config, settings)
