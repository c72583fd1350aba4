"""Is this installation in order? What is missing, and what mends it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from innerloop.errors import InnerloopError
from innerloop.runs import machine, store
from innerloop.workloads.episodes.data.omniglot import ARCHIVES

OPTIONAL = {
    "PIL": "images",
    "matplotlib": "report",
    "flax": "flax",
    "equinox": "equinox",
    "gymnasium": "rl",
    "mujoco": "rl",
    "tensorboardX": "tensorboard",
}

PROBE = """
import jax, sys
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None)
jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((64, 64))).block_until_ready()
print(len(hits))
"""


def examine(say: Callable[[str], None]) -> int:
    """Say how things stand.

    Returns:
        0 if everything that is needed works, 2 otherwise.
    """
    environment = machine.description()
    for name, value in environment["versions"].items():
        say(f"{name:<12} {value or 'not installed'}")
    hardware = environment["machine"]
    say(f"{'processor':<12} {hardware['processor']}, {hardware['cores']} cores")
    say(f"{'devices':<12} {hardware['platform']}: {', '.join(hardware['devices'])}")
    for module, extra in OPTIONAL.items():
        state = "ok" if find_spec(module) else f"missing; pip install 'innerloop[{extra}]'"
        say(f"{module:<12} {state}")
    problems = 0
    for check in (_gradient, _compilation_cache, _cache_directory, _data):
        name, message, fine = check()
        problems += not fine
        say(f"{name:<12} {message}")
    say("all is well" if not problems else f"{problems} problem(s)")
    return 2 if problems else 0


def _gradient() -> tuple[str, str, bool]:
    """A meta-gradient against its closed form: (1 - α)(θ' - b) on a one-dimensional quadratic."""
    import jax
    import jax.numpy as jnp

    from innerloop import Meta, Task, meta_loss
    from innerloop.core import rules

    loss = lambda theta, batch, key: (0.5 * jnp.mean((theta - batch) ** 2), {})  # noqa: E731
    one = meta_loss(loss, rule=rules.sgd(0.5), steps=1)
    task = Task(jnp.array([1.0]), jnp.array([2.0]))
    actual = float(jax.grad(one, has_aux=True)(Meta(jnp.array(0.0), ()), task, jax.random.key(0))[0].params)
    return "meta-gradient", f"{actual} (closed form: -0.75)", abs(actual + 0.75) < 1e-6


def _compilation_cache() -> tuple[str, str, bool]:
    """Compile a program in two processes; the second must find it. On some processors JAX rejects every entry."""
    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": directory}
        command = [sys.executable, "-c", PROBE, directory]
        results = [
            subprocess.run(command, capture_output=True, text=True, env=environment, check=False) for _ in range(2)
        ]
    hits = results[1].stdout.strip()
    if results[1].returncode == 0 and hits not in ("", "0"):
        return "cache", "compiled programs are found again", True
    return (
        "cache",
        "compiled programs are not found again: each start compiles anew (see JAX issue 38445); harmless, slow",
        True,
    )


def _cache_directory() -> tuple[str, str, bool]:
    try:
        path = store.cache_dir()
    except InnerloopError as error:
        return "cache folder", str(error), False
    fine = os.access(path, os.W_OK)
    return "cache folder", f"{path}" + ("" if fine else " cannot be written; set INNERLOOP_CACHE to one that can"), fine


def _data() -> tuple[str, str, bool]:
    given = os.environ.get(store.VARIABLE)
    if given and not Path(given).is_dir():
        return "data", f"{store.VARIABLE} is {given}, which is not a directory", False
    try:
        found = store.find(None, "omniglot", ARCHIVES)
    except InnerloopError:  # the cache folder has its own line
        found = None
    return "data", f"Omniglot {f'in {found}' if found else 'will be downloaded when first needed'}", True
