r"""Inner rules: what one update of the inner loop is.

A rule builds an `optax.GradientTransformation` from its parameters and the step index. Because the parameters are data,
the outer loop can learn them; because the result is optax, any optax optimiser is an inner optimiser.
"""

import re
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import optax

from innerloop.core.trees import differentiable, is_differentiable, path_name
from innerloop.errors import InnerloopError
from innerloop.types import InnerRule, Mask, Params, RuleParams, Step

Where = Callable[[str, Any], bool]
"""`(path, leaf) -> adapt it?`, with paths such as `"conv1/kernel"`."""

HEADS = ("head", "classifier", "readout", "logits", "output")
"""What a network's last layer is called, unless told otherwise; the first of these that occurs."""

NUMBERED = re.compile(r"((?:.*/)?(?:layers/|[Dd]ense_?|[Ll]inear_?))(\d+)/")
"""How libraries number their dense layers: `layers/2` in Equinox, `Dense_2` in Flax Linen."""

CONTEXT = "context"
"""The name of the parameters that CAVIA adapts, see `models.with_context`."""

COUNTER = "step"
"""The name of the parameter that counts inner steps, see `models.per_step`."""


def sgd(learning_rate: float) -> InnerRule:
    r"""Gradient descent with a constant step: $\theta' = \theta - \alpha \nabla L(\theta)$.

    Args:
        learning_rate: the step size $\alpha$, positive.

    Returns:
        The rule of MAML. It learns nothing.

    Raises:
        InnerloopError: if the step size is negative or not finite.

    Reference:
        Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017, equation 1.

    Example:
        >>> from innerloop.core import rules
        >>> rules.sgd(0.01).init({"w": 1.0})
        ()
    """
    return from_optax(optax.sgd(_step_size(learning_rate)))


def from_optax(optimizer: optax.GradientTransformation) -> InnerRule:
    r"""Any optax optimiser inside, with its state started afresh for each task.

    Adaptive optimisers divide by $\sqrt{\nu}$, whose derivative at a zero gradient is infinite. Give them a positive
    `eps_root` (`optax.adam(1e-3, eps_root=1e-8)`), or exact meta-gradients come out as NaN.

    Args:
        optimizer: for example `optax.adam(1e-3, eps_root=1e-8)`, `optax.sgd(0.1, momentum=0.9)` or a chain.

    Returns:
        A rule that learns nothing.
    """
    return InnerRule(init=lambda params: (), transform=lambda rule, step: optimizer, adapts=differentiable)


def learned(make: Callable[[RuleParams], optax.GradientTransformation], initial: RuleParams) -> InnerRule:
    """An optax optimiser whose hyperparameters the outer loop learns.

    Args:
        make: builds the optimiser from the hyperparameters; they arrive as arrays that carry gradients.
        initial: the hyperparameters to start from, a pytree of numbers.

    Returns:
        A rule with `initial` as its parameters.

    Example:
        >>> import optax
        >>> from innerloop.core import rules
        >>> rule = rules.learned(lambda h: optax.sgd(h["rate"], momentum=h["momentum"]), {"rate": 0.1, "momentum": 0.9})
    """

    def init(params: Params) -> RuleParams:
        return jax.tree.map(
            lambda leaf: jnp.array(leaf, float), initial
        )  # new arrays, since a training step may donate them

    return InnerRule(init=init, transform=lambda rule, step: make(rule), adapts=differentiable)


def meta_sgd(learning_rate: float) -> InnerRule:
    r"""A learned step size for every single parameter: $\theta' = \theta - \alpha \odot \nabla L(\theta)$.

    Args:
        learning_rate: the value at which every entry of $\alpha$ starts.

    Returns:
        A rule whose parameters have the structure of the adapted leaves.

    Raises:
        InnerloopError: if the step size is negative or not finite.

    Reference:
        Li et al.: Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, 2017, arXiv 1707.09835.
    """
    _step_size(learning_rate)

    def transform(rates: RuleParams, step: Step) -> optax.GradientTransformation:
        scale = lambda gradients: jax.tree.map(lambda rate, g: -rate * g, rates, gradients)  # noqa: E731
        return optax.stateless(lambda gradients, _: scale(gradients))

    return InnerRule(
        init=lambda params: jax.tree.map(
            lambda leaf: jnp.full_like(leaf, learning_rate) if is_differentiable(leaf) else None, params
        ),
        transform=transform,
        adapts=differentiable,
    )


def per_layer_per_step(learning_rate: float, steps: int) -> InnerRule:
    r"""A learned step size for every array of parameters and every inner step:
    $\theta^l_{t+1} = \theta^l_t - \alpha^l_t \nabla_{\theta^l} L(\theta_t)$.

    At more steps than it learned the step sizes of the last one are used again. Where the outer loop uses Adam, whose
    step is the same for all it learns, scale its step for `Meta.rule` down (`optax.partition`) if it is not small
    beside `learning_rate`: step sizes that jump about let training diverge. The program does.

    Args:
        learning_rate: the value at which every $\alpha^l_t$ starts.
        steps: number of inner steps that have a step size of their own, at least 1.

    Returns:
        A rule whose parameters are an array `[steps]` for each adapted leaf.

    Raises:
        InnerloopError: if the step size is negative or not finite, or the number of steps is not positive.

    Reference:
        Antoniou, Edwards, Storkey: How to Train Your MAML, 2018, arXiv 1810.09502, section 4.

    Example:
        >>> import jax.numpy as jnp
        >>> from innerloop.core import rules
        >>> print(rules.per_layer_per_step(0.5, steps=2).init({"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)}))
        {'bias': Array([0.5, 0.5], dtype=float32), 'kernel': Array([0.5, 0.5], dtype=float32)}
    """
    _step_size(learning_rate)
    if steps < 1:
        raise InnerloopError(f"per_layer_per_step(steps={steps}) has nothing to learn; use 1 step or more.")

    def init(params: Params) -> RuleParams:
        rates = lambda leaf: jnp.full(steps, learning_rate, leaf.dtype) if is_differentiable(leaf) else None  # noqa: E731
        return jax.tree.map(rates, params)

    def transform(rates: RuleParams, step: Step) -> optax.GradientTransformation:
        now = jnp.minimum(step, steps - 1)
        scale = lambda gradients: jax.tree.map(lambda rate, g: -rate[now] * g, rates, gradients)  # noqa: E731
        return optax.stateless(lambda gradients, _: scale(gradients))

    return InnerRule(init=init, transform=transform, adapts=differentiable, learned_steps=steps)


def alfa(learning_rate: float) -> InnerRule:
    r"""Step sizes and weight decay that a small network generates anew at every inner step from the task's state.

    For the arrays of parameters $l = 1, \dots, n$,

    $$ \theta^l_{t+1} = \beta^l_t\, \theta^l_t - \alpha^l_t\, \nabla_{\theta^l} L(\theta_t), \qquad
       \alpha^l_t = \alpha^l a^l_t, \quad \beta^l_t = \beta^l b^l_t, \qquad (a_t, b_t) = g(\tau_t), $$

    where $\tau_t$ are the means over each array of the parameters and of their gradient, $2n$ numbers, and $g$ is a
    network with two hidden layers of $2n$ units. It starts at $g = 1$, so that the rule starts as gradient descent.
    Learned are $g$ and the step sizes $\alpha^l$ and factors $\beta^l$.

    Args:
        learning_rate: the value at which every $\alpha^l$ starts.

    Returns:
        A rule whose parameters are the network $g$ and the $\alpha^l$ and $\beta^l$, each `[n]`.

    Raises:
        InnerloopError: if the step size is negative or not finite.

    Reference:
        Baik et al.: Meta-Learning with Adaptive Hyperparameters, 2020, arXiv 2011.00209.
    """
    _step_size(learning_rate)

    def init(params: Params) -> RuleParams:
        leaves = [leaf for leaf in jax.tree.leaves(params) if is_differentiable(leaf)]
        n, dtype = len(leaves), jnp.result_type(*leaves)
        width = 2 * n
        first, second = jax.random.split(jax.random.key(0))  # any draw will do, as long as the units differ
        return {
            "rate": jnp.full(n, learning_rate, dtype),
            "keep": jnp.ones(n, dtype),
            "hidden1": jax.random.normal(first, (width, width), dtype) / jnp.sqrt(width).astype(dtype),
            "hidden2": jax.random.normal(second, (width, width), dtype) / jnp.sqrt(width).astype(dtype),
            "output": jnp.zeros((width, width), dtype),
        }

    def transform(learned: RuleParams, step: Step) -> optax.GradientTransformation:
        def update(gradients: Params, params: Params | None) -> Params:
            now, slopes = jax.tree.leaves(params), jax.tree.leaves(gradients)
            state = jnp.stack([jnp.mean(each) for each in (*now, *slopes)])
            for layer in ("hidden1", "hidden2"):
                state = jax.nn.relu(state @ learned[layer])
            a, b = jnp.split(1 + state @ learned["output"], 2)
            rates, keeps = learned["rate"] * a, learned["keep"] * b
            changes = [
                (keep - 1) * each - rate * g for each, g, rate, keep in zip(now, slopes, rates, keeps, strict=True)
            ]
            return jax.tree.unflatten(jax.tree.structure(gradients), changes)

        return optax.stateless(update)

    return InnerRule(init=init, transform=transform, adapts=differentiable)


def meta_curvature(learning_rate: float) -> InnerRule:
    r"""Gradient descent with a learned preconditioner: $\theta' = \theta - \alpha\, M(\nabla L(\theta))$.

    A gradient with the axes `[..., inputs, outputs]` is multiplied along its outputs by a matrix, along its inputs by a
    second one, and, where there are axes before these (the positions of a convolution's kernel), along them by a third:

    $$ M(G) = G \times_3 M_o \times_2 M_i \times_1 M_f . $$

    A vector has $M_o$ alone. All matrices start as the identity.

    Args:
        learning_rate: the step size $\alpha$.

    Returns:
        A rule whose parameters are the matrices of each adapted leaf.

    Raises:
        InnerloopError: if the step size is negative or not finite.

    Reference:
        Park, Oliva: Meta-Curvature, 2019, arXiv 1902.03356.
    """
    _step_size(learning_rate)

    def merged(shape: Sequence[int]) -> tuple[int, ...]:
        """The shape with the axes before the last two in one; those of size 1 stay, for the sake of plainness."""
        return tuple(shape) if len(shape) <= 2 else (prod(shape[:-2]), *shape[-2:])

    def matrices(leaf: Any) -> list[Any] | None:
        return [jnp.eye(size, dtype=leaf.dtype) for size in merged(leaf.shape)] if is_differentiable(leaf) else None

    def precondition(gradient: Any, factors: list[Any]) -> Any:
        result = gradient.reshape(merged(gradient.shape))
        for axis, factor in enumerate(factors):
            result = jnp.moveaxis(jnp.tensordot(result, factor, (axis, 1)), -1, axis)
        return -learning_rate * result.reshape(gradient.shape)

    def transform(learned: RuleParams, step: Step) -> optax.GradientTransformation:
        return optax.stateless(lambda gradients, _: jax.tree.map(precondition, gradients, learned))

    return InnerRule(init=lambda params: jax.tree.map(matrices, params), transform=transform, adapts=differentiable)


def head_only(rule: InnerRule, head: str | None = None) -> InnerRule:
    r"""The same rule on the network's last layer alone (ANIL: almost no inner loop).

    Args:
        rule: the rule to restrict.
        head: the name of the last layer, a part of its parameters' paths such as `"head"` or `"layers/2"`. Unless
            given: the layer called head, classifier, readout, logits or output, or else the last one of the only
            series of numbered dense layers (`layers/2` in Equinox, `Dense_2` in Flax Linen).

    Returns:
        The restricted rule; the body is shared by all tasks.

    Raises:
        InnerloopError: when used, if there is no such layer; the message lists the paths.

    Reference:
        Raghu et al.: Rapid Learning or Feature Reuse?, 2019, arXiv 1909.09157.
    """
    return _restricted(rule, lambda params: _head(params, head))


def body_only(rule: InnerRule, head: str | None = None) -> InnerRule:
    r"""The same rule on all but the network's last layer (BOIL: body only inner loop).

    Args:
        rule: the rule to restrict.
        head: the name of the last layer, see `head_only`.

    Returns:
        The restricted rule; the head is shared by all tasks.

    Raises:
        InnerloopError: when used, if there is no such layer; the message lists the paths.

    Reference:
        Oh et al.: BOIL: Towards Representation Change for Few-shot Learning, 2020, arXiv 2008.08882.
    """
    return _restricted(rule, lambda params: jax.tree.map(lambda found: not found, _head(params, head)))


def counting(rule: InnerRule) -> InnerRule:
    """The same rule, which also counts its steps in the parameter `step`, for a network of `models.per_step`.

    Args:
        rule: the rule for all other parameters.

    Returns:
        A rule for parameters that are a dict with the entry `step`; it learns nothing more.
    """

    def others(tree: Any) -> Any:
        return {**tree, COUNTER: None}

    def transform(learned: RuleParams, step: Step) -> optax.GradientTransformation:
        inner = rule.transform(learned, step)

        def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            updates, state = inner.update(others(gradients), state, others(params))
            return dict(updates, **{COUNTER: jnp.ones_like(gradients[COUNTER])}), state  # pyright: ignore

        return optax.GradientTransformation(lambda params: inner.init(others(params)), update)  # pyright: ignore[reportArgumentType]

    return rule._replace(
        init=lambda params: rule.init(others(params)),
        transform=transform,
        adapts=lambda params: {**rule.adapts(others(params)), COUNTER: True},
    )


def masked(rule: InnerRule, where: Where) -> InnerRule:
    """The same rule on some of the leaves. The others are shared by all tasks, and no gradient is taken for them.

    Args:
        rule: the rule to restrict.
        where: `(path, leaf) -> bool`, true for the leaves that the inner loop adapts; it restricts a mask already
            there.

    Returns:
        The restricted rule; its own parameters cover the adapted leaves alone.

    Raises:
        InnerloopError: when used, if no leaf is left; the message lists the paths.

    Example:
        >>> from innerloop.core import rules
        >>> head_only = rules.masked(rules.sgd(0.1), lambda path, leaf: path.startswith("head/"))
    """

    return _restricted(rule, lambda params: jax.tree.map_with_path(lambda path, x: where(path_name(path), x), params))


def _restricted(rule: InnerRule, mask_of: Callable[[Params], Mask]) -> InnerRule:
    """The rule on the leaves of a further mask."""

    def adapts(params: Params) -> Mask:
        mask = jax.tree.map(lambda before, new: bool(before) and bool(new), rule.adapts(params), mask_of(params))
        if not any(jax.tree.leaves(mask)):
            raise InnerloopError(
                f"The inner rule's mask leaves nothing to adapt; the parameters are: {_paths(params)}."
            )
        return mask

    def init(params: Params) -> RuleParams:
        return rule.init(jax.tree.map(lambda leaf, keep: leaf if keep else None, params, adapts(params)))

    return rule._replace(init=init, adapts=adapts)


def _head(params: Params, name: str | None) -> Mask:
    """The mask of a network's last layer, which is found by its name."""
    paths = [path_name(path) for path, _ in jax.tree.leaves_with_path(params)]
    names = [name] if name else [each for each in HEADS if any(_has(path, each) for path in paths)]
    if not names:
        places = [match.groups() for path in paths if (match := NUMBERED.match(path))]
        if len({series for series, _ in places}) == 1:
            series, number = max(places, key=lambda place: int(place[1]))
            names = [f"{series}{number}"]
    if not names or not any(_has(path, names[0]) for path in paths):
        wanted = f"is called {name!r}" if name else "looks like a network's last layer"
        raise InnerloopError(
            f"No parameter {wanted}; the parameters are: {_paths(params)}. Name the part of the path that is the head, "
            'as in rules.head_only(rule, head="layers/2").'
        )
    return jax.tree.map_with_path(lambda path, _: _has(path_name(path), names[0]), params)


def _has(path: str, part: str) -> bool:
    """Whether a path has these components, one after the other."""
    return f"/{part}/" in f"/{path}/"


def _paths(params: Params) -> str:
    return ", ".join(path_name(path) for path, _ in jax.tree.leaves_with_path(params))


def _step_size(learning_rate: float) -> float:
    if not 0 <= learning_rate < float("inf"):
        raise InnerloopError(f"The inner learning rate is {learning_rate}; it must be a finite number of at least 0.")
    return learning_rate
