r"""How the meta-gradient flows back through the inner loop: a value handed to `adapt`.

Write one inner update as $\theta_{t+1} = u(\theta_t, g(\theta_t))$ with the inner gradient
$g(\theta) = \nabla_\theta L(\theta, z)$, where $z$ is all else that the loss sees: data, keys, parameters that are not
adapted. Reverse mode through the update needs, for a cotangent $v$ of $g$, the products

$$ \frac{\partial g}{\partial\theta}^{\!\top} v = H v \qquad\text{and}\qquad \frac{\partial g}{\partial z}^{\!\top} v .
$$

An adjoint says how these are computed, and how the loop over the updates is run.
"""

from innerloop.core.adjoints.implicit import ConjugateGradient, Implicit
from innerloop.core.adjoints.mixed import Mixed, mixed_value_and_grad
from innerloop.core.adjoints.unrolled import Annealed, FirstOrder, Reverse, Truncated
from innerloop.types import Adjoint

__all__ = [
    "Adjoint",
    "Annealed",
    "ConjugateGradient",
    "FirstOrder",
    "Implicit",
    "Mixed",
    "Reverse",
    "Truncated",
    "mixed_value_and_grad",
]
