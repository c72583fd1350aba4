"""Task distributions: pytrees with a pure `sample(key, num_tasks)`."""

from innerloop.tasks.images import Batches, Episodes, with_rotations
from innerloop.tasks.phantoms import Phantoms
from innerloop.tasks.sinusoid import Sinusoids
from innerloop.tasks.wrappers import Minibatched, WithSupportStatistics

__all__ = ["Batches", "Episodes", "Minibatched", "Phantoms", "Sinusoids", "WithSupportStatistics", "with_rotations"]
