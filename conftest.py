"""Set up before anything imports JAX: two CPU devices, and the annotated shapes checked at every call."""

import atexit
import contextlib
import ctypes
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 2)
if "PYTEST_XDIST_WORKER" not in os.environ:  # one cache for all workers and the programs that they start
    os.environ["INNERLOOP_CACHE"] = tempfile.mkdtemp(prefix="innerloop-cache-")
    atexit.register(shutil.rmtree, os.environ["INNERLOOP_CACHE"], ignore_errors=True)
install_import_hook("innerloop", "beartype.beartype")

# The same examples in each run, and no deadline, which a compilation would miss.
hypothesis.settings.register_profile(
    "innerloop", derandomize=True, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("innerloop")


@pytest.fixture(autouse=True, scope="module")
def quick_compilation() -> Iterator[None]:
    """Half the time of compilation, as tests compile for long and run for moments; not where marked `optimised`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # for programs that tests start
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
        jax.config.update("jax_disable_most_optimizations", False)
    yield
    if marked:
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for the time of one test."""
    with jax.enable_x64(True):
        yield
