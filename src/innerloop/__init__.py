"""innerloop: gradient-based meta-learning in JAX.

The names below are loaded on first use (PEP 562), so that the program answers `--help` without loading JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from innerloop import models, ops, rl, tasks
    from innerloop.core import losses, rules
    from innerloop.core.adapt import adapt
    from innerloop.core.adjoints import Annealed, ConjugateGradient, FirstOrder, Implicit, Mixed, Reverse, Truncated
    from innerloop.core.algorithms import ALGORITHMS, Algorithm, MetaLearner, algorithm
    from innerloop.core.evaluate import evaluate, summarise
    from innerloop.core.layout import Layout
    from innerloop.core.lifetime import Lifetime, LifetimeState, lifetimes
    from innerloop.core.metagrad import implicit_diagnostics, meta_loss
    from innerloop.core.objectives import last_step, multi_step, online, reptile
    from innerloop.core.outer import MetaState, MetaStep, init, meta_gradient, meta_step, repeat, sample_task
    from innerloop.errors import InnerloopError
    from innerloop.exported import load
    from innerloop.tabular.estimator import FewShotClassifier, FewShotRegressor, TabularMetaLearner
    from innerloop.types import (
        Adapted,
        Adjoint,
        Examples,
        InnerRule,
        InnerState,
        Loss,
        Meta,
        MetaLoss,
        Objective,
        PerStep,
        StatefulLoss,
        Task,
        TaskDistribution,
    )

__version__ = "0.2.0"

_HOMES = {
    "core.adapt": "adapt",
    "core.adjoints": "Annealed ConjugateGradient FirstOrder Implicit Mixed Reverse Truncated",
    "core.algorithms": "ALGORITHMS Algorithm MetaLearner algorithm",
    "core.evaluate": "evaluate summarise",
    "core.layout": "Layout",
    "core.lifetime": "Lifetime LifetimeState lifetimes",
    "core.metagrad": "implicit_diagnostics meta_loss",
    "core.objectives": "last_step multi_step online reptile",
    "core.outer": "MetaState MetaStep init meta_gradient meta_step repeat sample_task",
    "errors": "InnerloopError",
    "exported": "load",
    "tabular.estimator": "FewShotClassifier FewShotRegressor TabularMetaLearner",
    "types": "Adapted Adjoint Examples InnerRule InnerState Loss Meta MetaLoss Objective PerStep StatefulLoss "
    "Task TaskDistribution",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}
_MODULES = {
    "losses": "core.losses",
    "rules": "core.rules",
    "models": "models",
    "ops": "ops",
    "rl": "rl",
    "tasks": "tasks",
}

__all__ = [*_MODULES, *(name for name in _HOME if name not in _MODULES)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = import_module(f"innerloop.{_MODULES[name]}")
    elif name in _HOME:
        value = getattr(import_module(f"innerloop.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
