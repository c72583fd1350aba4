r"""One row of the table of algorithms: what it is made of, and how it is put together on a model."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import optax
from jax import lax

from innerloop import models
from innerloop.core import losses, outer, rules
from innerloop.core.adjoints import Annealed, Implicit
from innerloop.core.algorithms.learner import PUBLISHED_RATE, MetaLearner, adapted_leaves, partitioned
from innerloop.core.layout import Layout
from innerloop.core.metagrad import implicit_diagnostics, meta_loss
from innerloop.core.names import CONTEXT, OFFSETS
from innerloop.errors import InnerloopError
from innerloop.models.base import Model
from innerloop.types import (
    Adjoint,
    InnerRule,
    Loss,
    Meta,
    MetaLoss,
    Metrics,
    Objective,
    PRNGKey,
    Progress,
    Scalar,
    Task,
)

Network = Literal["any", "per-step", "context", "prototypes", "shared-head"]
"""What an algorithm asks of the network: nothing; or what `models.per_step` (if it normalises), `models.with_context`,
`models.prototypical` or `models.shared_head` give it."""

FROM_ZERO: dict[str, str] = {"context": CONTEXT, "shared-head": OFFSETS}
"""The part of the parameters that begins at zero for every task and is not learned, in networks that have one."""


def gradient_descent(rate: float, steps: int) -> InnerRule:
    """The inner rule of MAML, and of each row that has no other."""
    return rules.sgd(rate)


class OuterTraits(NamedTuple):
    """What is particular about the outer update.

    Attributes:
        radius: of the ball in which the meta-gradient is taken where the meta-loss is largest, see `meta_step`.
        cosine: whether the outer step size falls to zero along a cosine over training.
        rates: whether what the rule learns are step sizes or makes them, which then take outer steps in proportion to
            where they start.
    """

    radius: float = 0.0
    cosine: bool = False
    rates: bool = False

    def rule_share(self, inner_rate: float) -> float:
        """The share of the outer step size with which what the rule learns is changed."""
        return min(1.0, inner_rate / PUBLISHED_RATE) if self.rates else 1.0


class Algorithm(NamedTuple):
    r"""One row. Called with a model, a criterion and the settings, it gives what trains.

    Attributes:
        rule: the inner rule, from its (initial) step size and the number of inner steps in training.
        adjoint: how the meta-gradient flows back through the inner loop.
        objective: what is done with the adapted parameters.
        summary: what distinguishes it, in one line.
        reference: author, title, year, arXiv.
        maths: what it does, in symbols: $\theta$ is learned, $\theta_t$ adapted by $t$ inner steps of the loss $L$ on
            the support set $S$, $Q$ the query set.
        cost: time and memory beside those of MAML.
        use: when it is the one to take.
        outer: what is particular about the outer update.
        network: what it asks of the network.
        adapts: whether it takes inner steps in training; joint training does not.
    """

    rule: Callable[[float, int], InnerRule]
    adjoint: Adjoint
    objective: Objective
    summary: str
    reference: str
    maths: str
    cost: str
    use: str
    outer: OuterTraits = OuterTraits()
    network: Network = "any"
    adapts: bool = True

    @property
    def needs_iterations(self) -> bool:
        """Whether it changes over training, and so must know how long that is."""
        return self.objective.needs_progress or self.outer.cosine or isinstance(self.adjoint, Annealed)

    def with_adam(self) -> "Algorithm":
        """The same row with Adam inside in the place of gradient descent, its first decay 0, as Reptile takes it.

        Raises:
            InnerloopError: if the row's own rule is what makes it what it is.
        """
        if self.rule is not gradient_descent:
            raise InnerloopError(
                "The inner rule of this algorithm is what makes it what it is; take sgd as its inner optimiser."
            )
        # The root of the second moment has no derivative at 0: what is added stands for Adam's own epsilon.
        return self._replace(
            rule=lambda rate, steps: rules.from_optax(optax.adam(rate, b1=0.0, eps=0.0, eps_root=1e-16))
        )

    def bounded(self, *, growth: float = 0.0, norm: float = 0.0) -> "Algorithm":
        """The same row with a bound on the inner gradient, see `rules.bounded`.

        Args:
            growth: the largest norm of an inner gradient, relative to that of the task's first; 0 for no bound.
            norm: the largest norm of an inner gradient; 0 for no bound.

        Raises:
            InnerloopError: if both are given, or the row finds prototypes, whose one step must not be scaled.
        """
        if not (growth or norm):
            return self
        if self.network == "prototypes":
            raise InnerloopError(
                "Prototypes are found by one exact step, which must not be scaled; leave the bound out."
            )
        return self._replace(
            rule=lambda rate, steps: rules.bounded(self.rule(rate, steps), growth=growth or None, norm=norm or None)
        )

    def __call__(
        self,
        model: Model,
        criterion: losses.Criterion,
        *,
        inner_rate: float,
        steps: int,
        optimizer: optax.GradientTransformation,
        meta_batch: int,
        iterations: int | None = None,
        layout: Layout = Layout(),
        statistics: losses.Statistics = "batch",
        adapt_normalisation: bool = False,
        running_decay: float = 0.9,
        context: int | None = None,
        features: int | None = None,
        ways: int | None = None,
    ) -> MetaLearner:
        r"""The algorithm on a model: network wrapper, rule, meta-loss, outer optimiser and schedule.

        This is what `innerloop train --algorithm NAME` trains, bit for bit.

        Args:
            model: the network; for CAVIA one with `context` more inputs than the tasks have, for prototypical networks
                an embedding with `features` outputs.
            criterion: the loss of each example, such as `losses.squared_error`.
            inner_rate: the (initial) inner step size.
            steps: inner steps in training.
            optimizer: any optax optimiser, such as `optax.adam(1e-3)`.
            meta_batch: tasks in a meta-step.
            iterations: meta-steps of the whole training; needed where the algorithm changes over it.
            layout: how the tasks are laid out.
            statistics: whose statistics a normalising network takes, see `losses.supervised`.
            adapt_normalisation: whether the inner loop adapts scale and shift of normalisation.
            running_decay: decay of stored averages, in a network that has them.
            context: numbers in CAVIA's context vector.
            features: numbers in the embedding of a prototypical network.
            ways: classes of a task, of a prototypical network.

        Returns:
            What trains, adapts and evaluates.

        Raises:
            InnerloopError: for a setting that is missing, or that the algorithm has no use for.

        Example:
            >>> import innerloop as il, jax, optax
            >>> from innerloop import losses, models, tasks
            >>> maml = il.algorithm("maml")(
            ...     models.mlp(1, (40, 40), 1), losses.squared_error,
            ...     inner_rate=0.01, steps=1, optimizer=optax.adam(1e-3), meta_batch=25,
            ... )
            >>> state, metrics = jax.jit(maml.update)(maml.init(jax.random.key(0)), tasks.Sinusoids())
            >>> int(state.step)
            1
        """
        if self.needs_iterations and iterations is None:
            raise InnerloopError(
                "This algorithm changes over training, so it must be told how long that is: give iterations=, the "
                "number of meta-steps."
            )
        self._require_sizes(context=context, features=features, ways=ways)
        prototypes = self.network == "prototypes"
        taken = min(steps, 1) if prototypes else steps  # the mean of a class is reached in one
        whole = self._wrapped(model, steps, context or 0, features or 0, ways or 0)
        query_loss = losses.supervised(whole, criterion, statistics)
        loss = losses.supervised(whole, losses.to_prototype, statistics) if prototypes else query_loss
        rule = adapted_leaves(self.rule(inner_rate, taken), model, adapt_normalisation=adapt_normalisation)
        if self._has_parameters_per_step(model):
            rule = rules.counting(rule)
        if self.outer.cosine and iterations is not None:
            falling = optax.scale_by_schedule(optax.cosine_decay_schedule(1.0, iterations))
            optimizer = optax.chain(optimizer, falling)
        optimizer = partitioned(
            optimizer,
            rule_share=self.outer.rule_share(inner_rate),
            running_decay=None if whole.running is None else running_decay,
        )
        value = build(self, loss, rule=rule, steps=taken, query_loss=query_loss)
        update = outer.meta_step(
            value,
            optimizer,
            meta_batch=meta_batch,
            layout=layout,
            iterations=iterations,
            radius=self.outer.radius,
        )
        diagnostics = None
        if isinstance(self.adjoint, Implicit) and taken:
            of_task = implicit_diagnostics(loss, rule=rule, steps=taken, adjoint=self.adjoint, query_loss=query_loss)
            diagnostics = outer.diagnostics(of_task, num_tasks=meta_batch, layout=layout)
        return MetaLearner(
            update=update,
            model=whole,
            loss=loss,
            query_loss=query_loss,
            rule=rule,
            steps=taken,
            adjoint=self.adjoint,
            meta_loss=value,
            optimizer=optimizer,
            diagnostics=diagnostics,
            finite_tasks=outer.finite_tasks(value, meta_batch=meta_batch, layout=layout, iterations=iterations),
        )

    def _has_parameters_per_step(self, model: Model) -> bool:
        return self.network == "per-step" and model.moments is not None

    def _wrapped(self, model: Model, steps: int, context: int, features: int, ways: int) -> Model:
        """The network with what the algorithm asks of it."""
        if self.network == "context":
            return models.with_context(model, context)
        if self.network == "prototypes":
            return models.prototypical(model, features, ways)
        if self.network == "shared-head":
            return models.shared_head(model)
        return models.per_step(model, steps) if self._has_parameters_per_step(model) else model

    def _require_sizes(self, **given: int | None) -> None:
        """Refuse sizes of a network that are missing or that this one does not have."""
        wanted = {"context": ("context",), "prototypes": ("features", "ways")}.get(self.network, ())
        for name, value in given.items():
            if value is None and name in wanted:
                raise InnerloopError(f"This algorithm asks for {name}=, a size of its network; give it.")
            if value is not None and name not in wanted:
                raise InnerloopError(f"This algorithm has no use for {name}={value}; leave it out.")


def build(row: Algorithm, loss: Loss, *, rule: InnerRule, steps: int, query_loss: Loss | None = None) -> MetaLoss:
    """The meta-loss of an algorithm, for a loss and a rule of one's own.

    Args:
        row: the algorithm.
        loss: the inner loss.
        rule: its inner rule, `row.rule(inner_rate, steps)`, perhaps masked.
        steps: number of inner steps.
        query_loss: the loss on the query set; `loss` unless given.
    """
    value = meta_loss(
        loss,
        rule=rule,
        steps=steps if row.adapts else 0,
        adjoint=row.adjoint,
        objective=row.objective,
        query_loss=query_loss,
    )
    return _from_zero(value, FROM_ZERO[row.network]) if row.network in FROM_ZERO else value


def _from_zero(value: MetaLoss, name: str) -> MetaLoss:
    """The meta-loss that does not learn the part of the parameters with which every task begins at zero."""

    def held(meta: Meta, task: Task, key: PRNGKey, progress: Progress = None) -> tuple[Scalar, Metrics]:
        params: dict[str, Any] = {**meta.params, name: lax.stop_gradient(meta.params[name])}
        return value(meta._replace(params=params), task, key, progress)

    return held
