"""The meta-step with TorchOpt: a loop over tasks."""

import torchopt

from benchmarks.peers.implementations import MetaStep
from benchmarks.peers.problems import Problem
from benchmarks.peers.with_torch import Prepared, loss


def by_torchopt(problem: Problem) -> MetaStep:
    """TorchOpt's differentiable SGD, which changes the module in place; its state is put back after each task."""
    this = Prepared(problem)
    inner = torchopt.MetaSGD(this.net, this.rate)
    start, inner_start = torchopt.extract_state_dict(this.net), torchopt.extract_state_dict(inner)

    def backward() -> None:
        for support_x, support_y, query_x, query_y in zip(*this.tasks, strict=True):
            for _ in range(this.steps):
                inner.step(loss(this.net(support_x), support_y))
            this.mean(loss(this.net(query_x), query_y)).backward()
            torchopt.recover_state_dict(this.net, start)
            torchopt.recover_state_dict(inner, inner_start)

    return this.meta_step(backward)
