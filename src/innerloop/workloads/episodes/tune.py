"""How a meta-step is best computed on this machine: measured once, and remembered."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from innerloop import __version__
from innerloop.core import algorithms
from innerloop.core.adjoints import Annealed, Implicit, Mixed, Truncated
from innerloop.errors import InnerloopError
from innerloop.runs import codec, distributed, sealed, store
from innerloop.runs.fields import Layout
from innerloop.runs.machine import cores, device_memory
from innerloop.workloads.episodes import memory, training
from innerloop.workloads.episodes.build import Experiment, assemble
from innerloop.workloads.episodes.config import Config

UNROLLED = {"mlp": 10, "convnet": 5, "resnet12": 1, "field": 1}
"""The largest number of inner steps that are unrolled, lest compiling takes long."""
PROBED_TASKS = 4
"""Tasks for each device in the measurement of an image network on a CPU, where time is in proportion to them."""
SECONDS = 0.2
"""How long one way is measured, beside compiling."""
PARTS = 10
"""Places in training at which a meta-step is timed, since some algorithms change over it."""
WORTHWHILE = 0.9
"""Another way than the first must take less than this share of its time: bits should not hang on noise."""


class Candidate(NamedTuple):
    """A way to compute a meta-step, and the seconds that one takes; infinite where the device has no memory for it."""

    layout: Layout
    seconds: float


def best(ways: Sequence[Candidate]) -> Layout:
    """The fastest way, or the first one if none is clearly faster."""
    fastest = min(ways, key=lambda way: way.seconds)
    return fastest.layout if fastest.seconds < WORTHWHILE * ways[0].seconds else ways[0].layout


def measured(experiment: Experiment, say: Callable[[str], None]) -> list[Candidate]:
    """The candidates with their times, from the cache if this was measured before; a single one is not measured."""
    config = experiment.config
    layouts = candidates(config)
    if len(layouts) == 1 or distributed.count() > 1:  # each process would find its own times
        return [Candidate(layouts[0], 0.0)]
    place = store.cache_dir() / "layouts" / f"{_fingerprint(config, layouts)}.json"
    try:
        kept = sealed.read(place)["ways"]
        ways = [Candidate(Layout(**layout), float(seconds)) for layout, seconds in kept]
        if [way.layout for way in ways] == layouts:
            return ways
    except (InnerloopError, KeyError, ValueError, TypeError):
        pass
    say(f"measuring {len(layouts)} ways to compute a meta-step (kept for the next time)")
    ways = [Candidate(layout, seconds_of(probe(experiment, layout))) for layout in layouts]
    with suppress(OSError, InnerloopError):  # then it is measured again the next time
        place.parent.mkdir(exist_ok=True, mode=0o700)
        sealed.write(place, {"ways": [(asdict(way.layout), way.seconds) for way in ways]})
    return ways


def candidates(config: Config) -> list[Layout]:
    """The ways to compute a meta-step that come into question here, the most likely one first.

    Image networks on a CPU take one task at a time on each core, whose activations stay in the cache; fields do so
    everywhere, since every pixel is an example. Everything else takes all tasks at once. What the configured layout
    fixes stays fixed.
    """
    network, meta_batch, steps = config.network.kind, config.outer.meta_batch, config.inner.steps
    field, cpu = network == "field", jax.default_backend() == "cpu"
    images = network not in ("mlp", "field")
    several = distributed.count() > 1
    devices = jax.device_count() if several else min(cores() if cpu else jax.device_count(), meta_batch)
    held = max(config.layout.parameters, 1)
    devices = devices if several else max(devices // held, 1) * held
    how = algorithms.algorithm(config.algorithm).adjoint
    exact = isinstance(how, Mixed | Truncated | Annealed)
    first = Layout(
        shards=devices if images or field or not cpu or several else held,
        chunk=1 if field or (images and cpu) else 0,
        adjoint="mixed" if exact else "auto",
        loop="auto" if isinstance(how, Implicit) else "unrolled" if steps <= UNROLLED[network] else "scanned",
        convolution="patches" if images else "auto",
    )
    if images:
        others = [replace(first, convolution="lax"), *([replace(first, chunk=0)] if cpu else [])]
    elif field:
        others = []
    else:
        both = [first, replace(first, shards=devices)]
        others = both[1:] + ([replace(item, adjoint="reverse") for item in both] if exact and steps else [])
    if config.layout.levels:
        first, others = replace(first, loop="scanned"), [replace(item, loop="scanned") for item in others]
        others = [item for item in others if item.adjoint != "reverse"]
    fixed = {name: value for name, value in asdict(config.layout).items() if value not in (0, "auto")}
    ways = list(dict.fromkeys(replace(item, **fixed) for item in (first, *others)))
    return [
        candidate for candidate in ways if candidate.chunk * candidate.shards < meta_batch + candidate.shards
    ] or ways[:1]


def probe(experiment: Experiment, layout: Layout) -> Experiment:
    """What is measured in place of the experiment.

    Inner steps of an image network take long to compile, and how its tasks are best laid out does not hang on them;
    nor, on a CPU, on the number of tasks beyond a few.
    """
    config = replace(experiment.config, layout=layout)
    if config.network.kind != "mlp":
        config = replace(config, inner=replace(config.inner, steps=min(config.inner.steps, 1)))
        if jax.default_backend() == "cpu" and layout.chunk <= PROBED_TASKS:
            few = min(config.outer.meta_batch, PROBED_TASKS * layout.shards)
            config = replace(config, outer=replace(config.outer, meta_batch=few))
    return assemble(config, experiment.data)


def seconds_of(experiment: Experiment) -> float:
    """The time of one meta-step; infinite if the device has no memory for it."""
    layout = experiment.layout
    tasks = layout.replicate(experiment.training_tasks())
    state = layout.divide(training.initial_state(experiment))
    steps = memory.compiled_steps(experiment, state, tasks)
    if memory.memory_of(steps).total > memory.USABLE * device_memory():
        return float("inf")

    _, state = clock(steps, state, tasks, 1)
    once, state = clock(steps, state, tasks, 1)
    seconds = [once]
    for _ in range(3 if once < SECONDS else 0):
        again, state = clock(steps, state, tasks, max(int(SECONDS / 3 / once), 1))
        seconds.append(again)
    return min(seconds)


def mean_seconds(experiment: Experiment) -> float:
    """The time of a meta-step, averaged over training."""
    layout, total = experiment.layout, experiment.config.outer.iterations
    tasks = layout.replicate(experiment.training_tasks())
    state = layout.divide(training.initial_state(experiment))
    steps = memory.compiled_steps(experiment, state, tasks)
    seconds = []
    for part in range(PARTS):
        moment = np.int32(total * (part + 0.5) / PARTS)
        state = layout.divide(jax.device_get(training.initial_state(experiment))._replace(step=moment))
        once, state = clock(steps, state, tasks, 1)
        count = max(int(SECONDS / PARTS / once), 1)
        seconds.append(clock(steps, state, tasks, count)[0])
    return float(np.mean(seconds))


def clock(steps: Any, state: Any, tasks: Any, count: int) -> tuple[float, Any]:
    """The seconds of one of `count` meta-steps of the compiled program, and the state after them."""
    start = time.perf_counter()
    state, _ = jax.block_until_ready(steps(state, tasks, np.int32(count)))
    return (time.perf_counter() - start) / count, state


def describe(ways: Sequence[Candidate]) -> str:
    """The ways with their times as lines of 80 columns, the chosen one marked."""
    if len(ways) == 1:
        return f"computed: {in_words(ways[0].layout)} (as asked for)"
    chosen = best(ways)
    lines = ["measured here, for a meta-step (of an image network: one inner step, few tasks):"]
    for layout, seconds in ways:
        mark = "*" if layout == chosen else " "
        lines.append(f"{mark} {in_words(layout):<62}{1e3 * seconds:>10,.2f} ms")
    return "\n".join(lines)


def in_words(layout: Layout) -> str:
    """A layout in a phrase."""
    parts = [
        f"{layout.shards} {'device' if layout.shards == 1 else 'devices'}",
        f"{layout.chunk} {'task' if layout.chunk == 1 else 'tasks'} at a time" if layout.chunk else "all tasks at once",
        *([f"parameters on {layout.parameters}"] if layout.parameters > 1 else []),
        *(word for word in (layout.adjoint, layout.loop, layout.convolution) if word != "auto"),
        *([f"{layout.levels} {'level' if layout.levels == 1 else 'levels'} of segments"] if layout.levels else []),
    ]
    return ", ".join(parts)


def _fingerprint(config: Config, layouts: list[Layout]) -> str:
    """What a measurement depends on, in a word."""
    concerned = ("tasks", "network", "inner", "outer", "algorithm", "variant")
    settings = {name: value for name, value in codec.leaves(config) if name.split(".")[0] in concerned}
    machine = [__version__, jax.__version__, jax.devices()[0].device_kind, jax.device_count(), cores()]
    text = json.dumps([machine, settings, [asdict(layout) for layout in layouts]], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]
