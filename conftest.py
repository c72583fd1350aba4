"""Set up before anything imports JAX: two CPU devices, and the annotated shapes checked at every call."""

from collections.abc import Iterator

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 2)
install_import_hook("innerloop", "beartype.beartype")


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for the time of one test."""
    with jax.enable_x64(True):
        yield
