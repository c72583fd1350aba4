"""Phantoms of computed tomography: an image is to be found from a few of its projections."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from innerloop.errors import InnerloopError
from innerloop.tasks.images import distinct
from innerloop.types import Examples, PRNGKey, Task

ELLIPSE = ("density", "semi-axis x", "semi-axis y", "centre x", "centre y", "angle")
"""What the numbers of an ellipse are. Lengths are in sides of the image, angles in radians."""

HEAD = np.array(
    [
        [1.0, 0.69, 0.92, 0.0, 0.0, 0.0],
        [-0.8, 0.6624, 0.8740, 0.0, -0.0184, 0.0],
        [-0.2, 0.11, 0.31, 0.22, 0.0, -18.0],
        [-0.2, 0.16, 0.41, -0.22, 0.0, 18.0],
        [0.1, 0.21, 0.25, 0.0, 0.35, 0.0],
        [0.1, 0.046, 0.046, 0.0, 0.1, 0.0],
        [0.1, 0.046, 0.046, 0.0, -0.1, 0.0],
        [0.1, 0.046, 0.023, -0.08, -0.605, 0.0],
        [0.1, 0.023, 0.023, 0.0, -0.606, 0.0],
        [0.1, 0.023, 0.046, 0.06, -0.605, 0.0],
    ]
)
"""The ellipses of Shepp and Logan with Toft's densities: skull, brain, and what is in it; from -1 to 1, in degrees."""


@jax.tree_util.register_static
@dataclass(frozen=True)
class Phantoms:
    r"""Heads of random ellipses, seen by parallel rays from a few directions.

    The image is the unit square around 0. A ray at the distance $t$ from the middle, from the direction $\vartheta$, is
    given as points on it, $x = t\,(\cos\vartheta, \sin\vartheta) + s\,(-\sin\vartheta, \cos\vartheta)$; its target is
    the line integral $\int f\,ds$ of the density, which of ellipses is known exactly. A query is a single point, whose
    target is the density there. A network of the mean over the points, `models.neural_field`, serves both.

    Args:
        views: directions, of `resolution` rays each.
        resolution: pixels along a side of the image, rays of a view, and points of a ray.
        queries: pixels of the query, drawn at random; 0 for the whole image, row by row.
        angles: directions drawn uniformly, or evenly spaced over half a turn.

    Raises:
        InnerloopError: if there is no view, fewer than two pixels along a side, or not as many pixels as queries.

    Reference:
        Shepp, Logan: The Fourier Reconstruction of a Head Section, 1974; with the densities of Toft: The Radon
        Transform, 1996. As tasks: Tancik et al.: Learned Initializations for Optimizing Coordinate-Based Neural
        Representations, 2020, arXiv 2012.02189.

    Example:
        >>> import jax
        >>> from innerloop.tasks import Phantoms
        >>> task = Phantoms(views=5, resolution=16).sample(jax.random.key(0), num_tasks=2)
        >>> task.support.x.shape, task.support.y.shape, task.query.x.shape
        ((2, 80, 16, 2), (2, 80, 1), (2, 256, 1, 2))
    """

    views: int = 20
    resolution: int = 64
    queries: int = 0
    angles: Literal["random", "even"] = "random"

    def __post_init__(self) -> None:
        if self.views < 1 or self.resolution < 2:
            raise InnerloopError(
                f"Phantoms needs at least 1 view and 2 pixels along a side, not views={self.views}, "
                f"resolution={self.resolution}."
            )
        if not 0 <= self.queries <= self.resolution**2:
            raise InnerloopError(
                f"queries is {self.queries}, but an image of {self.resolution} x {self.resolution} has "
                f"{self.resolution**2} pixels; ask for at most as many, or 0 for all."
            )

    def sample(self, key: PRNGKey, num_tasks: int) -> Task:
        """Draw tasks: rays `[tasks, views * resolution, resolution, 2]` and pixels `[tasks, pixels, 1, 2]`."""
        return jax.vmap(self._task)(jax.random.split(key, num_tasks))

    def ellipses(self, key: PRNGKey, num_tasks: int) -> Array:
        """What the phantoms are that `sample` draws with the same key, `[tasks, ellipses, 6]`; see `ELLIPSE`."""
        keys = jax.random.split(key, num_tasks)
        return jax.vmap(lambda key: random_head(jax.random.split(key, 3)[0]))(keys)

    def _task(self, key: PRNGKey) -> Task:
        head_key, angle_key, query_key = jax.random.split(key, 3)
        ellipses = random_head(head_key)
        if self.angles == "even":
            angles = jnp.arange(self.views) * (jnp.pi / self.views)
        else:
            angles = jax.random.uniform(angle_key, (self.views,), maxval=jnp.pi)
        places = middles(self.resolution)
        offsets, angles = jnp.tile(places, self.views), jnp.repeat(angles, self.resolution)
        across = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        along = jnp.stack([-jnp.sin(angles), jnp.cos(angles)], axis=-1)
        rays = offsets[:, None, None] * across[:, None] + places[:, None] * along[:, None]
        pixels = image_points(self.resolution)
        if self.queries:
            pixels = pixels[distinct(query_key, len(pixels), self.queries)]
        support = Examples(rays, integrals(ellipses, angles, offsets)[:, None])
        return Task(support, Examples(pixels[:, None], density(ellipses, pixels)[:, None]))


def random_head(key: PRNGKey) -> Array:
    """A head of another size and turn, with what is in it elsewhere, larger or smaller, denser or lighter."""
    whole_key, turn_key, axes_key, centre_key, angle_key, density_key = jax.random.split(key, 6)
    uniform = jax.random.uniform
    rho, axes, centres, angles = jnp.split(jnp.asarray(HEAD, float), [1, 3, 5], axis=1)
    inner = jnp.arange(len(HEAD))[:, None] > 1  # skull and brain stay where they are in each other
    axes = axes * jnp.where(inner, uniform(axes_key, axes.shape, minval=0.7, maxval=1.1), 1.0)
    centres = centres + jnp.where(inner, uniform(centre_key, centres.shape, minval=-0.04, maxval=0.04), 0.0)
    turns = jnp.where(inner, uniform(angle_key, angles.shape, minval=-0.2, maxval=0.2), 0.0)
    rho = rho * jnp.where(inner, uniform(density_key, rho.shape, minval=0.4, maxval=1.0), 1.0)
    scale = uniform(whole_key, (), minval=0.7, maxval=1.0) / 2
    turn = uniform(turn_key, (), minval=-0.4, maxval=0.4)
    turned = jnp.array([[jnp.cos(turn), jnp.sin(turn)], [-jnp.sin(turn), jnp.cos(turn)]])
    return jnp.concatenate([rho, scale * axes, scale * centres @ turned, jnp.radians(angles) + turns + turn], axis=1)


def density(ellipses: Array, points: Array) -> Array:
    """The sum of the densities of the ellipses that each point `[..., 2]` lies in."""
    rho, axes, centres, angles = _parts(ellipses)
    away = points[..., None, :] - centres
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    along = (away[..., 0] * cosine + away[..., 1] * sine) / axes[:, 0]
    across = (away[..., 1] * cosine - away[..., 0] * sine) / axes[:, 1]
    return jnp.sum(jnp.where(along**2 + across**2 <= 1, rho, 0.0), axis=-1)


def integrals(ellipses: Array, angles: Array, offsets: Array) -> Array:
    r"""The line integrals of the density along rays, $\sum_i 2\rho_i a_i b_i \sqrt{w_i^2 - t_i^2} / w_i^2$.

    Args:
        ellipses: `[ellipses, 6]`.
        angles: the direction of each ray's normal, $\vartheta$, `[rays]`.
        offsets: the distance of each ray from the middle, $t$, `[rays]`.
    """
    rho, axes, centres, turns = _parts(ellipses)
    normal = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    distance = offsets[:, None] - normal @ centres.T
    between = angles[:, None] - turns
    width = (axes[:, 0] * jnp.cos(between)) ** 2 + (axes[:, 1] * jnp.sin(between)) ** 2
    chord = 2 * axes[:, 0] * axes[:, 1] * jnp.sqrt(jnp.maximum(width - distance**2, 0.0)) / width
    return chord @ rho


def middles(count: int) -> Array:
    """The middles of so many equal parts of the image's side."""
    return (jnp.arange(count) + 0.5) / count - 0.5


def image_points(resolution: int) -> Array:
    """The middles of the pixels, from the top left, row by row, `[resolution**2, 2]`."""
    places = middles(resolution)
    y, x = jnp.meshgrid(places[::-1], places, indexing="ij")
    return jnp.stack([x.ravel(), y.ravel()], axis=-1)


def _parts(ellipses: Array) -> tuple[Array, Array, Array, Array]:
    return ellipses[:, 0], ellipses[:, 1:3], ellipses[:, 3:5], ellipses[:, 5]
