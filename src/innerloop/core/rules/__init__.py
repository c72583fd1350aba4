r"""Inner rules: what one update of the inner loop is.

A rule builds an `optax.GradientTransformation` from its parameters and the step index. Because the parameters are data,
the outer loop can learn them; because the result is optax, any optax optimiser is an inner optimiser.
"""

from innerloop.core.names import CONTEXT, COUNTER
from innerloop.core.rules.basic import from_optax, sgd
from innerloop.core.rules.bounds import bounded
from innerloop.core.rules.learned import alfa, meta_curvature, meta_sgd, per_layer_per_step, trainable
from innerloop.core.rules.masks import Where, body_only, class_copies, counting, head_only, masked
from innerloop.types import InnerRule

__all__ = [
    "CONTEXT",
    "COUNTER",
    "InnerRule",
    "Where",
    "alfa",
    "body_only",
    "bounded",
    "class_copies",
    "counting",
    "from_optax",
    "head_only",
    "masked",
    "meta_curvature",
    "meta_sgd",
    "per_layer_per_step",
    "sgd",
    "trainable",
]
