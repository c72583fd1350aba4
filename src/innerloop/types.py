"""The contract: what the parts of innerloop hand to each other.

MAML differentiates through an inner loop. The inner loop is one pure function, `innerloop.adapt`; what
makes one algorithm differ from another is a *value* handed to it. This page names the types of these values.
All of them are pytrees or pure functions, so they pass through `jit`, `vmap`, `grad` and `shard_map` unchanged.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import optax
from jax import Array
from jaxtyping import Bool, Float, Int, Key, PyTree

Params: TypeAlias = PyTree
"""Any pytree of arrays. This is all that "model-agnostic" means: nothing below looks inside."""

RuleParams: TypeAlias = PyTree
"""What an inner rule may learn: step sizes, preconditioners, or `()` if it learns nothing."""

Batch: TypeAlias = PyTree
"""Any pytree of arrays with leaves `[examples, ...]`. Only the loss looks inside."""

Mask: TypeAlias = PyTree[bool | Bool[Array, ""]]
"""The structure of `Params` with a boolean for each leaf."""

Scalar: TypeAlias = Float[Array, ""]
Metrics: TypeAlias = dict[str, Any]
"""Named diagnostics. No gradient flows through them."""

PRNGKey: TypeAlias = Key[Array, ""]
Step: TypeAlias = int | Int[Array, ""]
Progress: TypeAlias = float | Float[Array, ""] | None
"""The share of training that is done, from 0 to 1, for what changes over training; `None` where nobody counts."""

State: TypeAlias = PyTree
"""What a loss hands on to the next inner step beside the parameters; `None` where it hands on nothing."""

Distribution_co = TypeVar("Distribution_co", covariant=True)


class Task(NamedTuple):
    """One task: adapt on `support`, evaluate on `query`. Many tasks are the same tree with a leading `[tasks]` axis."""

    support: Batch
    query: Batch


class Examples(NamedTuple):
    """A labelled batch, the `Batch` of the supervised losses.

    Attributes:
        x: inputs, `[examples, ...]`.
        y: targets, `[examples, ...]`.
        weight: weight of each example in the mean, `[examples]`; `None` weighs all alike. Zero drops padding.
        reference: inputs whose statistics normalise `x` in a network that normalises by batch; `None`: those of `x`.
    """

    x: PyTree[Array]
    y: PyTree[Array]
    weight: Float[Array, " examples"] | None = None
    reference: PyTree[Array] | None = None


class PerStep(NamedTuple):
    """A support set with one batch for each inner step: leaves `[steps, examples, ...]`."""

    batches: Batch


@runtime_checkable
class Loss(Protocol):
    """The loss of one task. It sees no task axis; the library vectorises."""

    def __call__(self, params: Params, batch: Batch, key: PRNGKey, /) -> tuple[Scalar, Metrics]: ...


class StatefulLoss(NamedTuple):
    """A loss that hands a state from each inner step to the next: a recurrent state, running statistics, a window.

    Each inner loop starts from `init`, so nothing goes from one task to another. Every leaf keeps its shape and type.
    Floating-point leaves are differentiated through, others (counters, keys) are carried along.

    Attributes:
        loss: `(params, batch, key, state) -> (scalar, metrics, state)`.
        init: `params -> state`, the state before the first inner step; it may be learned, as a leaf of the parameters.
    """

    loss: Callable[[Params, Batch, PRNGKey, State], tuple[Scalar, Metrics, State]]
    init: Callable[[Params], State]


@runtime_checkable
class QueryLoss(Protocol):
    """The loss by which adapted parameters are judged: `state` is the one at the end of the loop unless given."""

    def __call__(
        self, params: Params, batch: Batch, key: PRNGKey, state: State = None, /
    ) -> tuple[Scalar, Metrics]: ...


class InnerRule(NamedTuple):
    """What one inner update is.

    Attributes:
        init: `params -> rule_params`, the part of the rule that the outer loop may learn.
        transform: `(rule_params, step) -> optax.GradientTransformation`, the update at inner step `step`.
        adapts: `params -> mask`, the leaves that the inner loop changes. The others are shared by all tasks.
        learned_steps: number of inner steps that it has parameters for, of a rule that learns each step apart. Beyond
            them those of the last one are used again. `None`: all steps are alike.
    """

    init: Callable[[Params], RuleParams]
    transform: Callable[[RuleParams, Step], optax.GradientTransformation]
    adapts: Callable[[Params], Mask]
    learned_steps: int | None = None


class Meta(NamedTuple):
    """What the outer loop learns: the initialisation and the parameters of the inner rule."""

    params: Params
    rule: RuleParams


class InnerState(NamedTuple):
    """Where an inner loop stands: all that it needs to go on.

    Attributes:
        params: the adapted leaves, `None` in the place of the others.
        rule: what the rule keeps from step to step, such as a momentum.
        state: what the loss hands on, see `StatefulLoss`.
        step: number of updates made.
    """

    params: Params
    rule: PyTree
    state: State
    step: Step


class Adapted(NamedTuple):
    """The result of an inner loop of `steps` updates.

    Attributes:
        params: the adapted parameters.
        losses: support loss before each update, `[steps]`.
        metrics: support metrics before each update, leaves `[steps, ...]`.
        trajectory: the parameters after 0, 1, ..., `steps` updates, leaves `[steps + 1, ...]`, when asked for.
        diagnostics: what the adjoint tells of the inner loop, by name; `stationarity` under `Implicit`.
        states: the states of a `StatefulLoss` after 0, 1, ..., `steps` updates, with the trajectory.
        end: where the loop stands, for `adapt(..., start=)` to go on from; `end.state` is the state at its end.
    """

    params: Params
    losses: Float[Array, " steps"]
    metrics: Metrics
    trajectory: Params | None = None
    diagnostics: Metrics = {}  # noqa: RUF012 - never changed
    states: State = None
    end: InnerState = InnerState(None, None, None, 0)


InnerLoss: TypeAlias = Callable[[Params, Any], tuple[Scalar, tuple[State, Metrics]]]
"""`(params, z) -> (loss, (state, metrics))`: the loss of one inner step, with all that it sees beside the parameters in
`z`. The state goes on to the next step and is differentiated through, the metrics are not."""

InnerGradient: TypeAlias = Callable[[Params, Any], tuple[tuple[Scalar, tuple[State, Metrics]], Params]]
"""`(params, z) -> ((loss, (state, metrics)), inner gradient)`"""

InnerUpdate: TypeAlias = Callable[[InnerGradient, Any, Any], tuple[Any, tuple[Scalar, Any]]]
"""`(gradient, carry, x) -> (carry, (loss, outputs))`: one inner update, in the manner of `lax.scan`, with any inner
gradient. The parameters are the first part of the carry, the rule's state is the second, the loss's state the third."""


class InnerRun(NamedTuple):
    """What an adjoint hands back of an inner loop.

    Attributes:
        carry: parameters, rule's state and loss's state after the last update.
        losses: the inner loss before each update, `[steps]`.
        outputs: what else the updates put out, leaves `[steps, ...]`.
        diagnostics: what the adjoint tells of the loop, by name. No gradient flows through them.
    """

    carry: Any
    losses: Float[Array, " steps"]
    outputs: Any
    diagnostics: Metrics = {}  # noqa: RUF012 - never changed


@runtime_checkable
class Adjoint(Protocol):
    """Runs an inner loop in such a way that its derivative is the one that the adjoint stands for."""

    def run(self, update: InnerUpdate, loss: InnerLoss, carry: Any, xs: Any, progress: Progress = None, /) -> InnerRun:
        """Apply `update` over the leading axis of `xs`, as `lax.scan` does.

        Args:
            update: one inner update, written against any inner gradient.
            loss: the inner loss whose gradient `update` asks for.
            carry: the state before the first update: the parameters, what the rule keeps, and what the loss hands on.
            xs: what changes from step to step, leaves `[steps, ...]`.
            progress: the share of training done, for an adjoint that changes over training.

        Returns:
            The state after the last update, the losses and what else the updates put out.
        """
        ...


class Objective(NamedTuple):
    """What is done with the adapted parameters.

    Attributes:
        value: `(loss, meta, adapted, mask, query, key, progress) -> (scalar, metrics)`, differentiated with respect to
            `meta`; `mask` marks the leaves that the inner loop adapts, and the metrics include the query loss of the
            adapted parameters as `loss`.
        trajectory: whether it needs the parameters after every inner step.
        needs_progress: whether it changes over training.
    """

    value: Callable[[QueryLoss, Meta, Adapted, Mask, Batch, PRNGKey, Progress], tuple[Scalar, Metrics]]
    trajectory: bool = False
    needs_progress: bool = False


@runtime_checkable
class MetaLoss(Protocol):
    """The loss of one task as a function of what the outer loop learns; its gradient is the meta-gradient."""

    def __call__(
        self, meta: Meta, task: Task, key: PRNGKey, progress: Progress = None, /
    ) -> tuple[Scalar, Metrics]: ...


@runtime_checkable
class TaskDistribution(Protocol):
    """A source of tasks: a pytree (data in its leaves) with a pure method that runs inside `jit`."""

    def sample(self, key: PRNGKey, num_tasks: int) -> Task: ...
