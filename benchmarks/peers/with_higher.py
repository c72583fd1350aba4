"""The meta-step with higher: a loop over tasks."""

import higher
import torch

from benchmarks.peers.implementations import MetaStep
from benchmarks.peers.problems import Problem
from benchmarks.peers.with_torch import Prepared, loss


def by_higher(problem: Problem) -> MetaStep:
    """higher's patched copy of the module, and its differentiable SGD."""
    this = Prepared(problem)
    inner = torch.optim.SGD(this.net.parameters(), this.rate)

    def backward() -> None:
        for support_x, support_y, query_x, query_y in zip(*this.tasks, strict=True):
            with higher.innerloop_ctx(this.net, inner, copy_initial_weights=False) as (net, optimizer):
                for _ in range(this.steps):
                    optimizer.step(loss(net(support_x), support_y))
                this.mean(loss(net(query_x), query_y)).backward()

    return this.meta_step(backward)
