"""innerloop: gradient-based meta-learning in JAX.

The names below load JAX on first use, so that the program answers `--help` at once.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from innerloop import losses, models, ops, rl, rules, tasks
    from innerloop.adapt import adapt
    from innerloop.adjoint import (
        Adjoint,
        Annealed,
        ConjugateGradient,
        FirstOrder,
        Implicit,
        Mixed,
        Reverse,
        Truncated,
    )
    from innerloop.algorithms import ALGORITHMS, Algorithm, algorithm
    from innerloop.errors import InnerloopError
    from innerloop.estimator import FewShotClassifier, FewShotRegressor, MetaLearner
    from innerloop.evaluate import evaluate, summarise
    from innerloop.layout import Layout
    from innerloop.metagrad import Objective, last_step, meta_loss, multi_step, towards_adapted
    from innerloop.outer import MetaState, MetaStep, init, meta_gradient, meta_step, repeat
    from innerloop.types import (
        Adapted,
        Examples,
        InnerRule,
        Loss,
        Meta,
        MetaLoss,
        PerStep,
        Task,
        TaskDistribution,
    )

__version__ = "0.1.0"

_HOMES = {
    "adapt": ["adapt"],
    "adjoint": ["Adjoint", "Annealed", "ConjugateGradient", "FirstOrder", "Implicit", "Mixed", "Reverse", "Truncated"],
    "algorithms": ["ALGORITHMS", "Algorithm", "algorithm"],
    "errors": ["InnerloopError"],
    "estimator": ["FewShotClassifier", "FewShotRegressor", "MetaLearner"],
    "evaluate": ["evaluate", "summarise"],
    "layout": ["Layout"],
    "metagrad": ["Objective", "last_step", "meta_loss", "multi_step", "towards_adapted"],
    "outer": ["MetaState", "MetaStep", "init", "meta_gradient", "meta_step", "repeat"],
    "types": [
        "Adapted",
        "Examples",
        "InnerRule",
        "Loss",
        "Meta",
        "MetaLoss",
        "PerStep",
        "Task",
        "TaskDistribution",
    ],
}
_MODULES = ["losses", "models", "ops", "rl", "rules", "tasks"]

__all__ = [
    "ALGORITHMS",
    "Adapted",
    "Adjoint",
    "Algorithm",
    "Annealed",
    "ConjugateGradient",
    "Examples",
    "FewShotClassifier",
    "FewShotRegressor",
    "FirstOrder",
    "Implicit",
    "InnerRule",
    "InnerloopError",
    "Layout",
    "Loss",
    "Meta",
    "MetaLearner",
    "MetaLoss",
    "MetaState",
    "MetaStep",
    "Mixed",
    "Objective",
    "PerStep",
    "Reverse",
    "Task",
    "TaskDistribution",
    "Truncated",
    "adapt",
    "algorithm",
    "evaluate",
    "init",
    "last_step",
    "losses",
    "meta_gradient",
    "meta_loss",
    "meta_step",
    "models",
    "multi_step",
    "ops",
    "repeat",
    "rl",
    "rules",
    "summarise",
    "tasks",
    "towards_adapted",
]


class _Lazy(ModuleType):
    """The package, resolving its public names on first use.

    They are properties of the module's class because `adapt` and `evaluate` are also names of submodules, which
    importing a submodule would otherwise put in the functions' place.
    """


def _lazy(module: str, name: str | None = None) -> Any:
    def get(_: ModuleType) -> Any:
        loaded = import_module(f"innerloop.{module}")
        return getattr(loaded, name) if name else loaded

    def replace(_: ModuleType, value: Any) -> None:
        if not isinstance(value, ModuleType):  # what the import system puts there is expected, and not wanted
            raise AttributeError(f"innerloop.{name or module} cannot be replaced; import and patch its module instead")

    return property(get, replace)


for _home, _names in _HOMES.items():
    for _name in _names:
        setattr(_Lazy, _name, _lazy(_home, _name))
for _name in _MODULES:
    setattr(_Lazy, _name, _lazy(_name))
sys.modules[__name__].__class__ = _Lazy
