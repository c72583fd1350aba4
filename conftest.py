"""Set up before anything imports JAX: two CPU devices, and the annotated shapes checked at every call."""

import atexit
import contextlib
import ctypes
import gc
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jax
import pytest
from jax._src import compiler  # JAX has options of the compiler for one function, and none for all
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 2)
jax.devices()  # XLA reads XLA_FLAGS here and never again: those set below are for programs that tests start
COMPILED = Path(__file__).parent / ".pytest_cache" / "xla"
"""Compiled programs, from one test run to the next: most of a first run's time is XLA's."""
LARGEST = 4 * 2**30
if "PYTEST_XDIST_WORKER" not in os.environ:  # one cache for all workers and the programs that they start
    if COMPILED.is_dir() and sum(entry.stat().st_size for entry in COMPILED.iterdir()) > LARGEST:
        shutil.rmtree(COMPILED)
    COMPILED.mkdir(parents=True, exist_ok=True)
    cache = tempfile.mkdtemp(prefix="innerloop-cache-")
    (Path(cache) / "xla").symlink_to(COMPILED)
    os.environ["INNERLOOP_CACHE"] = cache
    os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"  # for programs that tests start
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
install_import_hook("innerloop", "beartype.beartype")
jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # else the key of a program has the folder in it
programs = importlib.import_module("innerloop.programs")  # after the hook
programs.keep_in(programs.folder())

QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
"""How XLA compiles in the least processor time: its older emitters take half of it, and run a few percent longer."""
FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICK.items())
compile_options = compiler.get_compile_options


def quick_options(*args: Any, env_options_overrides: dict[str, Any] | None = None, **others: Any) -> Any:
    """The options with which JAX compiles, and `QUICK` where it leaves out most optimisations."""
    added = QUICK if jax.config.read("jax_disable_most_optimizations") else {}
    return compile_options(*args, env_options_overrides={**added, **(env_options_overrides or {})}, **others)


compiler.get_compile_options = quick_options

# The same examples in each run, and no deadline, which a compilation would miss.
hypothesis.settings.register_profile(
    "innerloop", derandomize=True, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("innerloop")


@pytest.fixture(autouse=True, scope="module")
def quick_compilation() -> Iterator[None]:
    """A quarter of the time of compilation, as tests compile for long and run for moments; not where `optimised`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # for programs that tests start
        patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # compiled programs are kept until then, and no other module calls the same ones
    _give_back()


def _give_back() -> None:
    """Hand freed memory to the system: glibc keeps what compilation took, which grows to gigabytes in a worker."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such call
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture(autouse=True)
def optimised_compilation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is marked `optimised` is compiled as a user's programs are."""
    marked = request.node.get_closest_marker("optimised") is not None
    if marked:
        monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
        monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "").removesuffix(FLAGS))
        jax.config.update("jax_disable_most_optimizations", False)
    yield
    if marked:
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for the time of one test."""
    with jax.enable_x64(True):
        yield
