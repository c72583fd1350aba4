r"""What is done with the adapted parameters: the meta-objective, a value handed to `meta_loss`."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from innerloop.core.trees import merge, split
from innerloop.errors import InnerloopError
from innerloop.types import Adapted, Batch, Mask, Meta, Metrics, Objective, PRNGKey, Progress, QueryLoss, Scalar


def _last_step(
    loss: QueryLoss, meta: Meta, adapted: Adapted, mask: Mask, query: Batch, key: PRNGKey, progress: Progress
) -> tuple[Scalar, Metrics]:
    value, metrics = loss(adapted.params, query, key)
    return value, {"loss": value, **metrics}


def _reptile(
    loss: QueryLoss, meta: Meta, adapted: Adapted, mask: Mask, query: Batch, key: PRNGKey, progress: Progress
) -> tuple[Scalar, Metrics]:
    end, shared = split(adapted.params, mask)
    target = lax.stop_gradient(end)
    distance = jax.tree.map(lambda start, end: 0.5 * jnp.sum((start - end) ** 2), split(meta.params, mask)[0], target)
    value, metrics = loss(merge(target, shared), query, key)
    return jax.tree.reduce(jnp.add, distance) + value, {"loss": value, **metrics}


last_step = Objective(_last_step)
r"""The query loss after the last inner step, $L(\theta_k, \text{query})$: the objective of MAML."""

reptile = Objective(_reptile)
r"""$\tfrac12 \lVert\theta - \theta_k\rVert^2$ with $\theta_k$ held fixed, whose gradient is that of Reptile, plus the
query loss as a function of the leaves that the inner loop leaves alone, which would otherwise not be learned."""


def multi_step(anneal_fraction: float = 0.15) -> Objective:
    r"""The query loss after *every* inner step, weighted, so that the gradient need not come from the far end alone.

    $$ \sum_{t=1}^{k} w_t\, L(\theta_t, \text{query}), \qquad w_t = \frac{1 - s}{k} \ (t < k), \qquad
       w_k = 1 - \frac{(k - 1)(1 - s)}{k}, \qquad s = \min\Bigl(\frac{\text{progress}}{f}, 1\Bigr) : $$

    all steps alike at the beginning of training, and from the share $f$ of it on the last step alone, when the
    others are no longer computed. (The released code moves the weights once an epoch, and leaves 0.03/k with each early
    step.)

    Args:
        anneal_fraction: $f$, the share of training over which the weights move to the last step, positive.

    Raises:
        InnerloopError: if it is no such share.

    Reference:
        Antoniou, Edwards, Storkey: How to Train Your MAML, 2018, arXiv 1810.09502, section 4.
    """
    if not 0 < anneal_fraction <= 1:
        raise InnerloopError(
            f"multi_step(anneal_fraction={anneal_fraction}) needs a share of training between 0 and 1."
        )

    def value(
        loss: QueryLoss, meta: Meta, adapted: Adapted, mask: Mask, query: Batch, key: PRNGKey, progress: Progress
    ) -> tuple[Scalar, Metrics]:
        if progress is None:
            raise InnerloopError(
                "multi_step changes over training, so it must be told how far that is: use meta_step(iterations=...), "
                "or hand the progress, from 0 to 1, to the meta-loss."
            )
        path, states = jax.tree.map(lambda leaf: leaf[1:], (adapted.trajectory, adapted.states))
        steps = jax.tree.leaves(path)[0].shape[0]

        def all_steps() -> tuple[Scalar, Metrics]:
            values, metrics = jax.vmap(lambda params, state: loss(params, query, key, state))(path, states)
            early = (1 - jnp.clip(progress / anneal_fraction, 0.0, 1.0)) / steps
            weights = jnp.full(steps, early).at[-1].set(1 - (steps - 1) * early).astype(values.dtype)
            metrics = jax.tree.map(lambda leaf: leaf[-1], metrics)
            return weights @ values, {"loss": values[-1], **metrics}

        def last() -> tuple[Scalar, Metrics]:
            return _last_step(loss, meta, adapted, mask, query, key, progress)

        return lax.cond(progress < anneal_fraction, all_steps, last) if steps else last()

    return Objective(value, trajectory=True, needs_progress=True)


def online(weights: Sequence[float] | None = None) -> Objective:
    r"""The inner losses themselves, each of a batch *before* the update on it: learning to learn online.

    $$ \sum_{t=0}^{k-1} w_t\, L(\theta_t, \text{support}_t) $$

    The parameters after the last update count for nothing, and neither does the query set, which may be `None`. With
    `PerStep` chunks of a stream this is the loss of a sequence model that trains at test time. `Mixed` and `Reverse`
    are exact; adjoints that take inner gradients for known numbers have no derivative of inner losses, and refuse.

    Args:
        weights: $w$, one number for each inner step; $1/k$ each unless given.

    Raises:
        InnerloopError: if a weight is not finite; when used, if there are no inner steps or another number of them.

    Reference:
        Tandon et al.: End-to-End Test-Time Training for Long Context, 2025, arXiv 2512.23675.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from innerloop import Meta, PerStep, Task, meta_loss, online, rules
        >>> loss = lambda theta, batch, key: (0.5 * jnp.sum((theta - batch) ** 2), {})
        >>> stream = Task(support=PerStep(jnp.array([1.0, 2.0])), query=None)
        >>> streamed = meta_loss(loss, rule=rules.sgd(0.5), steps=2, objective=online())
        >>> value, _ = streamed(Meta(jnp.array(0.0), ()), stream, jax.random.key(0))
        >>> print(value)  # (0.5 * 1**2 + 0.5 * (2 - 0.5)**2) / 2
        0.8125
    """
    given = None if weights is None else tuple(float(weight) for weight in weights)
    if given is not None and not all(math.isfinite(weight) for weight in given):
        raise InnerloopError(f"online(weights={given}) needs finite numbers.")

    def value(
        loss: QueryLoss, meta: Meta, adapted: Adapted, mask: Mask, query: Batch, key: PRNGKey, progress: Progress
    ) -> tuple[Scalar, Metrics]:
        losses = adapted.losses
        steps = losses.shape[0]
        if not steps:
            raise InnerloopError("online is made of the inner losses, and there are none with steps=0; use 1 or more.")
        if given is not None and len(given) != steps:
            raise InnerloopError(f"online has {len(given)} weights for {steps} inner steps; give one for each.")
        shares = jnp.full(steps, 1 / steps) if given is None else jnp.asarray(given)
        total = shares.astype(losses.dtype) @ losses
        return total, {"loss": total, **jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), adapted.metrics)}

    return Objective(value)
