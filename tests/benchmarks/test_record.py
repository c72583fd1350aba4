"""What is recorded of a run."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import record
from innerloop import workloads
from innerloop.cli.configuration import PUBLISHED, configured
from innerloop.runs import codec
from innerloop.runs.rundir import Run

NAMES = ("rl-navigation-2d", "rl-cheetah-velocity", "rl-ant-direction")


def changes(name, arguments=(), **settings):
    workload = workloads.with_recipe(name)
    config = codec.changed(configured(workload, name, list(arguments)), settings)
    return record.changes(Run(Path(), workload, replace(config, seed=3)))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_run_changes_of_its_recipe_are_the_flags_that_repeat_it(name):
    assert changes(name) == ""
    assert changes(name, (PUBLISHED,)) == PUBLISHED
    assert changes(name, **{"outer.bound": 0.02, "outer.iterations": 5, "log.every": 3}) == "--outer.bound 0.02"
