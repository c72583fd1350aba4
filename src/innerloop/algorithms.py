r"""The family as a table: each algorithm is one row that names its values and its paper.

An algorithm is what is differentiated, and how. Every row goes through the same `adapt` and the same `meta_loss`.
"""

from collections.abc import Callable
from typing import NamedTuple

from innerloop import rules
from innerloop.adjoint import Adjoint, FirstOrder, Mixed, Truncated
from innerloop.errors import InnerloopError
from innerloop.metagrad import Objective, last_step, meta_loss, towards_adapted
from innerloop.types import InnerRule, Loss, MetaLoss


class Algorithm(NamedTuple):
    """One row.

    Attributes:
        rule: the inner rule, from its (initial) step size.
        adjoint: how the meta-gradient flows back through the inner loop.
        objective: what is done with the adapted parameters.
        summary: what distinguishes it, in one line.
        reference: author, title, year, arXiv.
        adapts: whether it takes inner steps in training; joint training does not.
    """

    rule: Callable[[float], InnerRule]
    adjoint: Adjoint
    objective: Objective
    summary: str
    reference: str
    adapts: bool = True


MAML = "Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017, arXiv 1703.03400"

# fmt: off
ALGORITHMS: dict[str, Algorithm] = {
    "maml": Algorithm(
        rules.sgd, Mixed(), last_step, "exact second-order meta-gradient", MAML),
    "fomaml": Algorithm(
        rules.sgd, FirstOrder(), last_step, "first-order: the query gradient at the adapted parameters", MAML),
    "truncated-maml": Algorithm(
        rules.sgd, Truncated(last=1), last_step, "exact through the last inner step alone",
        "Shaban et al.: Truncated Back-propagation for Bilevel Optimization, 2019, arXiv 1810.10667"),
    "meta-sgd": Algorithm(
        rules.meta_sgd, Mixed(), last_step, "MAML with a learned step size for every parameter",
        "Li et al.: Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, 2017, arXiv 1707.09835"),
    "reptile": Algorithm(
        rules.sgd, FirstOrder(), towards_adapted, "moves the initialisation towards the adapted parameters",
        "Nichol, Achiam, Schulman: On First-Order Meta-Learning Algorithms, 2018, arXiv 1803.02999"),
    "joint": Algorithm(
        rules.sgd, FirstOrder(), last_step, "no inner loop: one model for all tasks, the paper's pre-training", MAML,
        adapts=False),
}
# fmt: on


def algorithm(name: str) -> Algorithm:
    """The row of that name.

    Raises:
        InnerloopError: if there is none; the message lists the names.
    """
    if name not in ALGORITHMS:
        raise InnerloopError(f"There is no algorithm {name!r}; choose one of: {', '.join(ALGORITHMS)}.")
    return ALGORITHMS[name]


def build(row: Algorithm, loss: Loss, *, rule: InnerRule, steps: int, query_loss: Loss | None = None) -> MetaLoss:
    """The meta-loss of an algorithm.

    Args:
        row: the algorithm.
        loss: the inner loss.
        rule: its inner rule, `row.rule(learning_rate)`, perhaps masked.
        steps: number of inner steps.
        query_loss: the loss on the query set; `loss` unless given.
    """
    return meta_loss(
        loss,
        rule=rule,
        steps=steps if row.adapts else 0,
        adjoint=row.adjoint,
        objective=row.objective,
        query_loss=query_loss,
    )
