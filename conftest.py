"""Set up before anything imports JAX: two CPU devices, and the annotated shapes checked at every call."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 2)
if "PYTEST_XDIST_WORKER" not in os.environ:  # one cache for all workers and the programs that they start
    os.environ["INNERLOOP_CACHE"] = tempfile.mkdtemp(prefix="innerloop-cache-")
    atexit.register(shutil.rmtree, os.environ["INNERLOOP_CACHE"], ignore_errors=True)
install_import_hook("innerloop", "beartype.beartype")


@pytest.fixture(autouse=True, scope="module")
def quick_compilation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Half the time of compilation, as tests compile for long and run for moments; not for the golden bits."""
    quick = request.path.name != "test_golden.py"
    with pytest.MonkeyPatch.context() as patch:
        if quick:
            patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # for programs that tests start
        jax.config.update("jax_disable_most_optimizations", quick)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def optimised_pooling(request: pytest.FixtureRequest) -> Iterator[None]:
    """Networks that pool are compiled as a user's are: the quick way computes a maximum over a window twice, rounded
    differently, so that no element equals it and its second derivative is 0 / 0.
    """
    pools = any(name in request.node.name for name in ("max-pool", "resnet12"))
    if pools:
        jax.config.update("jax_disable_most_optimizations", False)
    yield
    if pools:
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for the time of one test."""
    with jax.enable_x64(True):
        yield
