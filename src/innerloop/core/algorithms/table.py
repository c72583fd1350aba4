r"""The table: each published algorithm is one row that names its values and its paper."""

from collections.abc import Callable
from typing import Any

from innerloop.core import rules
from innerloop.core.adjoints import Annealed, FirstOrder, Implicit, Mixed, Truncated
from innerloop.core.algorithms.row import Algorithm, OuterTraits, gradient_descent
from innerloop.core.names import CONTEXT, PROTOTYPES
from innerloop.core.objectives import last_step, multi_step, reptile
from innerloop.core.rules import body_only, class_copies, head_only, masked
from innerloop.errors import InnerloopError
from innerloop.types import InnerRule


def _per_step(rate: float, steps: int) -> InnerRule:
    return rules.per_layer_per_step(rate, max(steps, 1))


MAML = "Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017, arXiv 1703.03400"
PLUS = "Antoniou, Edwards, Storkey: How to Train Your MAML, 2018, arXiv 1810.09502"

# fmt: off
ALGORITHMS: dict[str, Algorithm] = {
    "maml": Algorithm(
        gradient_descent, Mixed(), last_step, "exact second-order meta-gradient", MAML,
        maths=r"\min_\theta \mathbb{E}\, L(\theta_k, Q), \qquad \theta_{t+1} = \theta_t - \alpha \nabla L(\theta_t, "
              r"S), \quad \theta_0 = \theta",
        cost="the measure of the others; memory grows by the adapted parameters with every inner step",
        use="The reference, and a good first choice where the inner step size is known."),
    "fomaml": Algorithm(
        gradient_descent, FirstOrder(), last_step, "first-order: the query gradient at the adapted parameters", MAML,
        maths=r"\theta \leftarrow \theta - \eta\, \mathbb{E}\, \nabla L(\theta_k, Q), \qquad \theta_{t+1} = "
              r"\theta_t - \alpha \nabla L(\theta_t, S)",
        cost="no Hessian-vector products; memory does not grow with the number of inner steps",
        use="Where MAML is too slow, or the inner loop too long for its memory."),
    "truncated-maml": Algorithm(
        gradient_descent, Truncated(last=1), last_step, "exact through the last inner step alone",
        "Shaban et al.: Truncated Back-propagation for Bilevel Optimization, 2019, arXiv 1810.10667",
        maths=r"\theta \leftarrow \theta - \eta\, \mathbb{E}\, (I - \alpha \nabla^2 L(\theta_{k-1}, S))\, \nabla "
              r"L(\theta_k, Q)",
        cost="Hessian-vector products for one inner step; memory does not grow with their number",
        use="Long inner loops, where the first-order gradient is too coarse."),
    "maml++": Algorithm(
        _per_step, Annealed(), multi_step(), "MAML with the five pieces that make it stable", PLUS,
        maths=r"\min_{\theta, \alpha} \mathbb{E} \sum_{t=1}^k w_t L(\theta_t, Q), \qquad \theta^l_{t+1} = "
              r"\theta^l_t - \alpha^l_t \nabla_{\theta^l} L(\theta_t, S)",
        outer=OuterTraits(cosine=True, rates=True), network="per-step",
        cost="a third of training at the price of first order; a query pass for every inner step at its beginning",
        use="Several inner steps, or a step size that is not known."),
    "meta-sgd": Algorithm(
        lambda rate, _: rules.meta_sgd(rate), Mixed(), last_step,
        "MAML with a learned step size for every parameter",
        "Li et al.: Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, 2017, arXiv 1707.09835",
        maths=r"\min_{\theta, \alpha} \mathbb{E}\, L(\theta_k, Q), \qquad \theta_{t+1} = \theta_t - \alpha \odot "
              r"\nabla L(\theta_t, S)",
        outer=OuterTraits(rates=True),
        cost="as MAML, with twice as much to learn",
        use="One or few inner steps that are to reach far, with enough tasks to learn the step sizes from."),
    "alfa": Algorithm(
        lambda rate, _: rules.alfa(rate), Mixed(), last_step,
        "MAML whose step sizes and weight decay are generated anew at every inner step",
        "Baik et al.: Meta-Learning with Adaptive Hyperparameters, 2020, arXiv 2011.00209",
        maths=r"\theta_{t+1} = \beta_t \theta_t - \alpha_t \nabla L(\theta_t, S), \qquad (\alpha_t, \beta_t) = "
              r"g(\overline{\theta_t}, \overline{\nabla L(\theta_t, S)})",
        outer=OuterTraits(rates=True),
        cost="as MAML, and a small network at every inner step",
        use="Tasks that differ in how far they should be adapted."),
    "meta-curvature": Algorithm(
        lambda rate, _: rules.meta_curvature(rate), Mixed(), last_step,
        "MAML with a learned preconditioner of the inner gradient",
        "Park, Oliva: Meta-Curvature, 2019, arXiv 1902.03356",
        maths=r"\theta_{t+1} = \theta_t - \alpha\, M \nabla L(\theta_t, S), \qquad M = M_o \otimes M_i \otimes M_f "
              r"\text{ learned}",
        cost="as MAML, and a matrix product along each axis of each gradient; large for wide layers",
        use="As Meta-SGD, where parameters of a layer should move together."),
    "anil": Algorithm(
        lambda rate, _: head_only(rules.sgd(rate)), Mixed(), last_step,
        "MAML that adapts the last layer alone",
        "Raghu et al.: Rapid Learning or Feature Reuse?, 2019, arXiv 1909.09157",
        maths=r"\theta = (\text{body}, \text{head}), \qquad \text{head}_{t+1} = \text{head}_t - \alpha "
              r"\nabla_{\text{head}} L(\theta_t, S)",
        cost="inner steps through one layer; the body runs once backward for the outer step",
        use="Large networks, where the tasks can share their features."),
    "boil": Algorithm(
        lambda rate, _: body_only(rules.sgd(rate)), Mixed(), last_step,
        "MAML that adapts all but the last layer",
        "Oh et al.: BOIL: Towards Representation Change for Few-shot Learning, 2020, arXiv 2008.08882",
        maths=r"\theta = (\text{body}, \text{head}), \qquad \text{body}_{t+1} = \text{body}_t - \alpha "
              r"\nabla_{\text{body}} L(\theta_t, S)",
        cost="as MAML",
        use="Test tasks that need other features than those of training."),
    "unicorn-maml": Algorithm(
        lambda rate, _: class_copies(rules.sgd(rate)), Mixed(), last_step,
        "MAML with one head vector for all classes, of which each class begins with a copy",
        "Ye, Chao: How to Train Your MAML to Excel in Few-Shot Classification, 2021, arXiv 2106.16245",
        maths=r"\theta = (\text{body}, w), \qquad w_{c,0} = w \text{ for every class } c, \qquad "
              r"(\text{body}, w_c)_{t+1} = (\text{body}, w_c)_t - \alpha \nabla L(\theta_t, S)",
        network="shared-head",
        cost="as MAML",
        use="Classification, where the order of an episode's classes means nothing: predictions do not depend on it."),
    "cavia": Algorithm(
        lambda rate, _: masked(rules.sgd(rate), lambda path, _: path == CONTEXT), Mixed(), last_step,
        "adapts a context vector beside the input alone, from zero for every task",
        "Zintgraf et al.: Fast Context Adaptation via Meta-Learning, 2018, arXiv 1810.03642",
        maths=r"\min_\theta \mathbb{E}\, L(\theta, c_k, Q), \qquad c_{t+1} = c_t - \alpha \nabla_c L(\theta, c_t, "
              r"S), \quad c_0 = 0",
        network="context",
        cost="little memory for a task, whatever the network: the adapted parameters are a few numbers",
        use="Tasks that differ in a few hidden quantities, and when many adapted models are kept."),
    "imaml": Algorithm(
        gradient_descent, Implicit(regularisation=1.0), last_step,
        "the implicit gradient at the minimum of a regularised inner loss",
        "Rajeswaran, Finn, Kakade, Levine: Meta-Learning with Implicit Gradients, 2019, arXiv 1909.04630",
        maths=r"\theta^* = \arg\min_\phi L(\phi, S) + \tfrac\lambda2 \lVert\phi - \theta\rVert^2, \qquad "
              r"\theta \leftarrow \theta - \eta\, \mathbb{E}\, \lambda\, (\nabla^2 L(\theta^*, S) + \lambda I)^{-1} "
              r"\nabla L(\theta^*, Q)",
        cost="a linear solve of up to 20 Hessian-vector products instead of one for each inner step; constant memory",
        use="Inner loops that run until they have converged."),
    "reptile": Algorithm(
        gradient_descent, FirstOrder(), reptile, "moves the initialisation towards the adapted parameters",
        "Nichol, Achiam, Schulman: On First-Order Meta-Learning Algorithms, 2018, arXiv 1803.02999",
        maths=r"\theta \leftarrow \theta + \eta\, \mathbb{E}\, (\theta_k - \theta), \qquad \theta_{t+1} = \theta_t "
              r"- \alpha \nabla L(\theta_t, S)",
        cost="the cheapest meta-gradient; it needs several inner steps",
        use="Where not even the query gradient is to be taken at the adapted parameters."),
    "sharp-maml": Algorithm(
        gradient_descent, Mixed(), last_step,
        "MAML whose meta-gradient is taken at the worst point nearby (its outer variant)",
        "Abbas et al.: Sharp-MAML: Sharpness-Aware Model-Agnostic Meta Learning, 2022, arXiv 2206.03996",
        maths=r"\min_\theta \max_{\lVert\epsilon\rVert \le \rho} \mathbb{E}\, L(\theta_k(\theta + \epsilon), Q)",
        outer=OuterTraits(radius=0.05),
        cost="twice the time of MAML",
        use="Few training tasks, which MAML would learn by heart."),
    "joint": Algorithm(
        gradient_descent, FirstOrder(), last_step,
        "no inner loop: one model for all tasks, then fine-tuned on each", MAML,
        maths=r"\min_\theta \mathbb{E}\, L(\theta, Q), \qquad \text{and } \theta_{t+1} = \theta_t - \alpha \nabla "
              r"L(\theta_t, S) \text{ at test}",
        adapts=False,
        cost="an ordinary training step",
        use="The baseline that meta-learning has to beat, in regression. (Labels of an episode mean nothing outside of "
            "it, so classification has the baseline that pre-trains on all classes, which every evaluation shows.)"),
    "protonet": Algorithm(
        lambda *_: masked(rules.sgd(1.0), lambda path, _: path == PROTOTYPES), Mixed(), last_step,
        "no gradients: nearest mean of the support features (one exact inner step)",
        "Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning, 2017, arXiv 1703.05175",
        maths=r"p(y = k \mid x) \propto \exp(-\lVert f_\theta(x) - c_k\rVert^2), \qquad c_k = \text{mean of } "
              r"f_\theta \text{ over class } k \text{ of } S",
        network="prototypes",
        cost="one pass over the support set; nothing is adapted but a mean",
        use="The reference without gradients, in classification."),
}

PIECES: dict[str, tuple[str, Callable[[Algorithm], Algorithm]]] = {
    "msl": ("multi-step loss", lambda row: row._replace(objective=multi_step())),
    "lslr": (
        "learned step sizes for each layer and step",
        lambda row: row._replace(rule=_per_step, outer=row.outer._replace(rates=True)),
    ),
    "bnps": ("normalisation with scale and shift of each step", lambda row: row._replace(network="per-step")),
    "da": ("derivative-order annealing", lambda row: row._replace(adjoint=Annealed())),
    "ca": ("cosine annealing of the outer step size", lambda row: row._replace(outer=row.outer._replace(cosine=True))),
}
"""The pieces of MAML++, each on its own: `maml+msl+lslr` is MAML with two of them, `maml++` is MAML with all."""
# fmt: on


def algorithm(name: str) -> Algorithm:
    """The row of that name, or a row with pieces of MAML++, such as `"maml+lslr"`.

    Raises:
        InnerloopError: if there is none, or a piece would replace what makes the row what it is; the message lists the
            names.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    base, *pieces = name.split("+")
    if base not in ALGORITHMS or not pieces:
        raise InnerloopError(f"There is no algorithm {base!r}; choose one of: {', '.join(ALGORITHMS)}.")
    row, plain = ALGORITHMS[base], ALGORITHMS["maml"]
    if not row.adapts or isinstance(row.adjoint, Implicit) or row.objective is reptile:
        raise InnerloopError(
            f"{base!r} does not differentiate through inner steps, so it has no use for MAML++'s pieces."
        )
    for piece in pieces:
        if piece not in PIECES:
            raise InnerloopError(f"There is no piece {piece!r} of MAML++ in {name!r}; choose of: {', '.join(PIECES)}.")
        title, add = PIECES[piece]
        changed = add(row)
        names = ("rule", "adjoint", "objective", "network")
        values = zip(names, _choices(changed), _choices(row), _choices(plain), strict=True)
        for name_of_value, new, own, usual in values:
            if new != own != usual:
                raise InnerloopError(
                    f"{title[0].upper()}{title[1:]} would replace the {name_of_value} of {base!r}, by which it differs "
                    f"from MAML; leave out {piece!r}."
                )
        row = changed._replace(summary=f"{row.summary}, with {title}", reference=PLUS)
    return row


def _choices(row: Algorithm) -> tuple[Any, ...]:
    """The values by which a row may differ from MAML and that a piece may replace."""
    return row.rule, row.adjoint, row.objective, row.network
