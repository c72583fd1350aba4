"""Rules on some of the parameters: the head, the body, or any others; and the counter of inner steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from innerloop.core.names import COUNTER, OFFSETS, head_of, paths_of
from innerloop.core.trees import path_name
from innerloop.errors import InnerloopError
from innerloop.types import InnerRule, Mask, Params, RuleParams, Step

Where = Callable[[str, Any], bool]
"""`(path, leaf) -> adapt it?`, with paths such as `"conv1/kernel"`."""


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
    return _restricted(rule, lambda params: head_of(params, head))


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
    return _restricted(rule, lambda params: jax.tree.map(lambda found: not found, head_of(params, head)))


def class_copies(rule: InnerRule, head: str | None = None) -> InnerRule:
    r"""The same rule on a network of `models.shared_head`: each class adapts its copy of the head that all share.

    Args:
        rule: the rule to restrict.
        head: the name of the last layer, see `head_only`.

    Returns:
        The restricted rule, which adapts the body and the classes' offsets from the shared head.

    Raises:
        InnerloopError: when used, if there is no such layer; the message lists the paths.

    Reference:
        Ye, Chao: How to Train Your MAML to Excel in Few-Shot Classification, 2021, arXiv 2106.16245.
    """

    def all_but_shared(params: Params) -> Mask:
        body = jax.tree.map(lambda found: not found, head_of(params["network"], head))
        return {"network": body, OFFSETS: jax.tree.map(lambda _: True, params[OFFSETS])}

    return _restricted(rule, all_but_shared)


def counting(rule: InnerRule) -> InnerRule:
    """The same rule, which also counts its steps in the parameter `step`, for a network of `models.per_step`.

    The counter is a parameter like others, a float, so that the trajectory, vectorisation and saving need not know of
    it; its update is 1, whatever its gradient.

    Args:
        rule: the rule for all other parameters.

    Returns:
        A rule for parameters that are a dict with the entry `step`; it learns nothing more.
    """

    def without_counter(tree: Any) -> Any:
        return {**tree, COUNTER: None}

    def one_more(gradient: Array) -> Array:
        return jnp.ones_like(gradient)

    def transform(learned: RuleParams, step: Step) -> optax.GradientTransformation:
        inner = rule.transform(learned, step)

        def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            updates, state = inner.update(without_counter(gradients), state, without_counter(params))
            return dict(updates, **{COUNTER: one_more(gradients[COUNTER])}), state  # pyright: ignore

        return optax.GradientTransformation(lambda params: inner.init(without_counter(params)), update)  # pyright: ignore[reportArgumentType]

    return rule._replace(
        init=lambda params: rule.init(without_counter(params)),
        transform=transform,
        adapts=lambda params: {**rule.adapts(without_counter(params)), COUNTER: True},
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
                f"The inner rule's mask leaves nothing to adapt; the parameters are: {paths_of(params)}."
            )
        return mask

    def init(params: Params) -> RuleParams:
        return rule.init(jax.tree.map(lambda leaf, keep: leaf if keep else None, params, adapts(params)))

    return rule._replace(init=init, adapts=adapts)
