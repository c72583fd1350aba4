"""Streams of bytes from the help topics that come with Python."""

import hashlib
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from innerloop.errors import InnerloopError
from innerloop.types import PerStep, PRNGKey, Task
from innerloop.workloads.streams.transformer import Chunk

BYTES = 256
HELD_OUT = 5
"""Every so-manyth topic, in alphabetical order, is for testing."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Text:
    """Streams from random places of a text.

    Attributes:
        text: bytes, `[bytes]`.
        length: bytes of a stream.
        chunk: bytes of an inner step, a divisor of the length.
    """

    text: Any  # an array; but JAX also builds this tree with other leaves
    length: int = field(metadata={"static": True})
    chunk: int = field(metadata={"static": True})

    def sample(self, key: PRNGKey, num_tasks: int) -> Task:
        """Streams; every byte but the first is a target."""
        steps = self.length // self.chunk
        starts = jax.random.randint(key, (num_tasks,), 0, self.text.shape[0] - self.length)
        drawn = self.text[starts[:, None] + jnp.arange(self.length + 1)].astype(jnp.int32)
        ones = jnp.ones((num_tasks, self.length))
        stream = Chunk(drawn[:, :-1], drawn[:, 1:], ones, ones / self.chunk)
        return Task(PerStep(jax.tree.map(lambda leaf: leaf.reshape(num_tasks, steps, self.chunk), stream)), None)


def topics() -> tuple[np.ndarray, np.ndarray, str]:
    """The bytes to train on, those of the held-out topics, and a fingerprint: Python's versions differ in them.

    Raises:
        InnerloopError: if this Python was installed without them.
    """
    try:
        found: dict[str, str] = import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise InnerloopError(
            "The recipe ttt-text reads pydoc_data.topics of the standard library, which this Python was installed "
            "without; install it (Debian: libpython3-stdlib), or use ttt-recall."
        ) from error
    names = sorted(found)
    parts = [
        "\n\n".join(found[name] for i, name in enumerate(names) if (i % HELD_OUT == HELD_OUT - 1) == held).encode()
        for held in (False, True)
    ]
    fingerprint = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    training, held = (np.frombuffer(part, np.uint8) for part in parts)
    return training, held, fingerprint
