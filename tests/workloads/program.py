"""Running the program as a user does: in a process of its own, in a directory of its own."""

import os
import subprocess
import sys
from pathlib import Path

TINY = [
    *("--tasks.shots=3", "--tasks.queries=3", "--network.widths", "4", "--outer.iterations=40", "--outer.meta-batch=2"),
    *("--evaluation.tasks=4", "--evaluation.shots", "5", "--evaluation.queries=4", "--evaluation.steps=2"),
    *("--evaluation.baseline-iterations=3", "--log.every=5", "--log.checkpoint-seconds=0"),
    "--log.validate-every=0",
    *("--layout.shards=1", "--layout.adjoint=mixed"),  # nothing is left to measure
]
"""Settings under which the `demo` recipe takes a second."""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "innerloop", *arguments]


def innerloop(directory: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run to the end and return what it said."""
    return subprocess.run(
        command(*arguments),
        cwd=directory,
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
