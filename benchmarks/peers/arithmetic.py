r"""The arithmetic of a meta-step: the multiplications and additions of its matrix products, and of nothing else.

A layer $y = xW$ with $m$ multiply-adds for an example costs $2m$ operations in each product of that size.
Their number is

- forward, $y = xW$: 1;
- backward, $\bar W = x^\top \bar y$ and $\bar x = \bar y W^\top$: 2, but 1 in the first layer, where $x$ is data;
- Hessian-vector product, the derivatives of these three, each of them the sum of two products: 6, but in the first
  layer, where $\dot x = 0$ and $\bar x$ is not wanted, 2.

An inner step takes the first two on the support set, and its derivative the third; the query set takes the first two.
What is computed again instead of being kept is not counted, so the count is a floor for every method.
"""

from benchmarks.peers.problems import Case, Convnet


def multiply_adds(network: Convnet) -> list[int]:
    """Of each layer, for one example."""
    sides = network.sides()
    outputs = sides[:-1] if network.pooled else sides[1:]
    depths = [network.image[2], *[network.filters] * network.blocks]
    convolutions = [
        height * width * 9 * depth * network.filters for (height, width), depth in zip(outputs, depths, strict=False)
    ]
    return [*convolutions, network.features() * network.ways]


def operations(case: Case, *, exact: bool = True) -> int:
    """Of one meta-step, exact or first-order."""
    first, *others = multiply_adds(case.network)
    gradient = 2 * (2 * first + 3 * sum(others))
    derivative = 2 * (2 * first + 6 * sum(others)) if exact else 0
    of_task = case.steps * case.support * (gradient + derivative) + case.query * gradient
    return case.tasks * of_task
