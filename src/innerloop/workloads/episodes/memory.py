"""What a run needs, said before it starts: the memory of its compiled meta-step, and whether the device has it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from innerloop.core import outer
from innerloop.core.adjoints import Annealed, FirstOrder, Mixed, Reverse, Truncated
from innerloop.core.outer import MetaState
from innerloop.errors import InnerloopError
from innerloop.runs.machine import device_memory
from innerloop.workloads.episodes.build import Experiment, assemble
from innerloop.workloads.episodes.config import PhantomTasks

USABLE = 0.9
"""The share of a device's memory that a run may fill."""
UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


class Memory(NamedTuple):
    """Bytes on each device.

    Attributes:
        held: the state, twice where it is not donated, and the data.
        temporary: what a meta-step needs beside that, at its peak.
    """

    held: int
    temporary: int

    @property
    def total(self) -> int:
        return self.held + self.temporary


def compiled_steps(experiment: Experiment, state: MetaState, tasks: Any) -> Any:
    """The compiled program of training: any number of meta-steps in one dispatch."""
    steps = outer.repeat(experiment.meta_step(), experiment.diagnostics)
    return jax.jit(steps, donate_argnums=0).lower(state, tasks, np.int32(1)).compile()


def memory_of(compiled: Any) -> Memory:
    """What a compiled program needs, by XLA's own account."""
    analysis = compiled.memory_analysis()
    held = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return Memory(held, analysis.temp_size_in_bytes)


def require_fit(needed: Memory, experiment: Experiment) -> None:
    """Refuse a meta-step that the device has no memory for.

    Raises:
        InnerloopError: naming both, and the flag that makes it fit.
    """
    available = int(USABLE * device_memory())
    if needed.total <= available:
        return
    chunk = fitting_chunk(needed, experiment, available)
    images = isinstance(experiment.config.tasks, PhantomTasks)
    sizes = "--tasks.resolution, --inner.batch" if images else "--tasks.shots, --tasks.queries"
    mend = f"give --layout.chunk {chunk}" if chunk else f"lower {sizes} or --network.widths"
    raise InnerloopError(
        f"A meta-step needs {readable(needed.total)}, but the device has {readable(available)} to give; {mend}."
    )


def fitting_chunk(needed: Memory, experiment: Experiment, available: int) -> int | None:
    """The largest smaller number of tasks at a time whose meta-step fits, taking memory to grow with it."""
    tasks = -(-experiment.config.outer.meta_batch // experiment.layout.shards)
    now = experiment.layout.chunk or tasks
    sizes = [number for number in range(1, now) if tasks % number == 0]  # no task is computed that does not count
    fitting = [size for size in sizes if needed.held + needed.temporary * size / now <= available]
    return max(fitting, default=None)


def with_chunk(experiment: Experiment, chunk: int) -> Experiment:
    """The same experiment with another number of tasks at a time."""
    config = experiment.config
    return assemble(replace(config, layout=replace(config.layout, chunk=chunk)), experiment.data)


def fitted(experiment: Experiment, state: MetaState, say: Callable[[str], None]) -> Experiment:
    """The experiment with as many tasks at a time as the device has memory for, where none was asked for."""
    tasks = experiment.layout.replicate(experiment.training_tasks())
    needed = memory_of(compiled_steps(experiment, experiment.layout.divide(state), tasks))
    available = int(USABLE * device_memory())
    chunk = fitting_chunk(needed, experiment, available) if needed.total > available else None
    if chunk is None:
        return experiment
    say(f"{readable(needed.total)} would be needed for all tasks at once; computing {chunk} at a time")
    return with_chunk(experiment, chunk)


def describe(experiment: Experiment, state: MetaState) -> str:
    """The memory plan of an experiment, in lines of 80 columns."""
    config, layout = experiment.config, experiment.layout

    def needed(other: Experiment) -> Memory:
        tasks = other.training_tasks()  # with one batch for each inner step, where each has its own
        return memory_of(compiled_steps(other, layout.divide(state), layout.replicate(tasks)))

    now = needed(experiment)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(state.meta))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.meta))
    rows = [
        (f"learned: {numbers:,} numbers", readable(size)),
        ("held: state and data", readable(now.held)),
        ("temporary: one meta-step", readable(now.temporary)),
    ]
    steps = config.inner.steps
    if steps:
        fewer = needed(_with_steps(experiment, steps - 1))
        rows.append(("  of it, for the last inner step", readable(now.temporary - fewer.temporary)))
    share = -(-config.outer.meta_batch // layout.shards)
    chunk = layout.chunk or share
    others = [item for item in (2 * chunk, chunk // 2) if 0 < item <= share]
    if others:
        other = needed(with_chunk(experiment, others[0]))
        slope = (other.temporary - now.temporary) / (others[0] - chunk)
        rows.append(("  for each further task at a time", readable(slope)))
    available = device_memory()
    fits = now.total <= USABLE * available
    rows.append((f"device: {jax.devices()[0].device_kind}", readable(available)))
    verdict = f"it fits, in {now.total / available:.2%} of the device's memory" if fits else _mend(now, experiment)
    return "\n".join([inner_loop(experiment), *(f"{name:<44}{value:>14}" for name, value in rows), verdict])


def inner_loop(experiment: Experiment) -> str:
    """How the inner loop is differentiated, and why it runs as it does."""
    adjoint, steps = experiment.algorithm.adjoint, experiment.config.inner.steps
    first = f"{type(adjoint).__name__}: {experiment.algorithm.summary}"
    exact = adjoint.adjoint if isinstance(adjoint, Truncated | Annealed) else adjoint
    if not steps or not isinstance(exact, Mixed | Reverse | FirstOrder):
        return first
    limit = exact.unroll
    some = f"{steps} inner {'step is' if steps == 1 else 'steps are'}"
    if steps <= limit:
        return f"{first}\n{some} unrolled: so few compile soon, and run faster than a scan"
    return f"{first}\n{some} scanned: compiled once for all, and their activations not kept"


def readable(size: int | float) -> str:
    """Bytes in the unit that suits them.

    Example:
        >>> readable(3 * 2**20), readable(-100)
        ('3.0 MiB', '-100 B')
    """
    unit, name = next(((unit, name) for unit, name in UNITS if abs(size) >= unit), (1, "B"))
    return f"{size / unit:,.1f} {name}" if unit > 1 else f"{size:,.0f} B"


def _mend(needed: Memory, experiment: Experiment) -> str:
    try:
        require_fit(needed, experiment)
    except InnerloopError as error:
        return f"it does not fit. {error}"
    return "it fits"


def _with_steps(experiment: Experiment, steps: int) -> Experiment:
    config = experiment.config
    return assemble(replace(config, inner=replace(config.inner, steps=steps)), experiment.data)
