r"""What a row gives of a model: an (init, update) pair, and what uses what was learned; and the parts that make it."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import optax
from jax import Array

from innerloop.core import rules
from innerloop.core.adapt import adapt
from innerloop.core.adjoints import FirstOrder, Implicit
from innerloop.core.evaluate import evaluate
from innerloop.core.layout import Layout
from innerloop.core.names import RUNNING, SCALE_AND_SHIFT
from innerloop.core.outer import Diagnostics, MetaState, MetaStep, init
from innerloop.models.base import Model
from innerloop.types import (
    Adapted,
    Adjoint,
    Batch,
    InnerRule,
    Loss,
    Meta,
    MetaLoss,
    PerStep,
    PRNGKey,
    Task,
    TaskDistribution,
)

PUBLISHED_RATE = 0.1
"""The inner step size from which MAML++ learns step sizes with the outer step size itself."""


class MetaLearner(NamedTuple):
    """An algorithm on a model: the pair `init`, `update`, and what uses what was learned.

    Attributes:
        update: one meta-step, `(state, tasks) -> (state, metrics)`; see `innerloop.repeat`.
        model: the network, with what the algorithm asks of it.
        loss: the inner loss.
        query_loss: the loss on the query set.
        rule: the inner rule.
        steps: inner steps in training.
        adjoint: how the meta-gradient flows back through the inner loop.
        meta_loss: the loss of one task after adaptation.
        optimizer: the outer optimiser.
        diagnostics: what is to be computed where training is logged, for `innerloop.repeat`; `None` for nothing.
        finite_tasks: which tasks of the next meta-step have a finite gradient, and what they are:
            `(state, tasks) -> (finite, drawn)`; see `innerloop.core.outer.finite_tasks`.
    """

    update: MetaStep
    model: Model
    loss: Loss
    query_loss: Loss
    rule: InnerRule
    steps: int
    adjoint: Adjoint
    meta_loss: MetaLoss
    optimizer: optax.GradientTransformation
    diagnostics: Diagnostics | None
    finite_tasks: Callable[[MetaState, TaskDistribution], tuple[Array, Task]]

    def init(self, key: PRNGKey) -> MetaState:
        """The state before the first meta-step, which the key fixes."""
        params_key, run_key = jax.random.split(key)
        return init(self.model.init(params_key), self.rule, self.optimizer, run_key)

    @property
    def forward(self) -> Adjoint:
        """Runs the inner loop where nothing is differentiated: that of `Implicit` is another than the others'."""
        return self.adjoint if isinstance(self.adjoint, Implicit) else FirstOrder()

    def adapt(
        self, meta: Meta, support: Batch | PerStep, key: PRNGKey, *, steps: int | None = None, trajectory: bool = False
    ) -> Adapted:
        """Adapt what was learned to one task, see `innerloop.adapt`.

        Args:
            meta: what was learned, `state.meta`.
            support: the task's support set.
            key: randomness of the loss.
            steps: inner steps; those of training unless given.
            trajectory: also return the parameters after every step.
        """
        return adapt(
            self.loss,
            meta,
            support,
            key,
            rule=self.rule,
            steps=self.steps if steps is None else steps,
            adjoint=self.forward,
            trajectory=trajectory,
        )

    def evaluate(
        self,
        meta: Meta,
        tasks: TaskDistribution,
        key: PRNGKey,
        *,
        steps: int | None = None,
        num_tasks: int = 600,
        query_losses: Mapping[str, Loss] | None = None,
        layout: Layout = Layout(),
    ) -> dict[str, Array]:
        """Adaptation curves over held-out tasks, see `innerloop.evaluate`.

        Args:
            meta: what was learned, `state.meta`.
            tasks: the distribution of held-out tasks.
            key: fixes the tasks.
            steps: inner steps; those of training unless given.
            num_tasks: number of tasks.
            query_losses: the losses to evaluate by; `{"query": query_loss}` unless given.
            layout: how the tasks are laid out.
        """
        return evaluate(
            self.loss,
            meta,
            tasks,
            key,
            rule=self.rule,
            steps=self.steps if steps is None else steps,
            num_tasks=num_tasks,
            query_losses=query_losses or {"query": self.query_loss},
            layout=layout,
            adjoint=self.forward,
        )


def adapted_leaves(rule: InnerRule, model: Model, *, adapt_normalisation: bool) -> InnerRule:
    """The rule without what the inner loop leaves alone in a network that normalises: running averages, and scale and
    shift unless asked for.
    """
    if model.moments is None:
        return rule

    def where(path: str, leaf: Any) -> bool:
        parts = path.split("/")
        return parts[0] != RUNNING and (adapt_normalisation or parts[-1] not in SCALE_AND_SHIFT)

    return rules.masked(rule, where)


def partitioned(
    optimizer: optax.GradientTransformation, *, rule_share: float, running_decay: float | None
) -> optax.GradientTransformation:
    r"""The outer optimiser, with smaller steps for what the rule learns, and moving averages beside it.

    Step sizes that are learned are changed in proportion to where they start, at most by the outer step size itself, as
    MAML++ does from 0.1 on: Adam's step of 0.001 would make step sizes that start at 0.001 jump about, and training
    diverge.

    Args:
        optimizer: the optimiser of everything else.
        rule_share: the factor of its steps for what the rule learns.
        running_decay: of the stored averages of normalisation, which follow their own rate; `None` if there are none.
    """
    if rule_share == 1 and running_decay is None:
        return optimizer
    parts: dict[Hashable, optax.GradientTransformation] = {
        "network": optimizer,
        "rates": optax.chain(optimizer, optax.scale(rule_share)),
        RUNNING: optax.sgd(1 - (running_decay or 0.0)),
    }

    def labels(meta: Meta) -> Meta:
        def of_params(path: Any, _: Any) -> str:
            return RUNNING if running_decay is not None and path[0].key == RUNNING else "network"

        of_rule = jax.tree.map(lambda _: "rates" if rule_share < 1 else "network", meta.rule)
        return Meta(jax.tree_util.tree_map_with_path(of_params, meta.params), of_rule)

    return optax.partition(parts, labels)
