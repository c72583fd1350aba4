"""Golden loss curves of two tiny recipes, and the public API. `make golden` records them anew after a meant change."""

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import innerloop as il
from innerloop import losses, models, rules, tasks

HERE = Path(__file__).parent
RECORDS, STEPS = 8, 10


def sinusoid() -> tuple[il.Loss, models.Model, tasks.Sinusoids, int]:
    model = models.mlp(1, (16, 16), 1, initializer=models.glorot)
    return losses.supervised(model, losses.squared_error), model, tasks.Sinusoids(5, 5), 2


def shapes() -> tuple[il.Loss, models.Model, tasks.Episodes, int]:
    """Episodes of noisy patterns, one pattern for each class, for the normalised four-convolution network."""
    rng = np.random.default_rng(0)
    patterns = rng.uniform(0, 150, (12, 1, 16, 16, 1))
    images = np.clip(patterns + rng.uniform(0, 100, (12, 6, 16, 16, 1)), 0, 255).astype(np.uint8)
    episodes = tasks.Episodes.from_labels(
        images.reshape(-1, 16, 16, 1), np.repeat(np.arange(12), 6), ways=3, shots=1, queries=2
    )
    model = models.convnet((16, 16, 1), 3, filters=8)
    return losses.supervised(model, losses.cross_entropy), model, episodes, 1


RECIPES: dict[str, Callable[[], tuple[il.Loss, models.Model, il.TaskDistribution, int]]] = {
    "sinusoid": sinusoid,
    "shapes": shapes,
}


def curve(name: str) -> list[float]:
    """The loss after adaptation, averaged over every ten meta-steps.

    In double precision: in single precision the rounding of another processor grows to some per cent on the way.
    """
    with jax.enable_x64(True):
        return _curve(name)


def _curve(name: str) -> list[float]:
    loss, model, distribution, steps = RECIPES[name]()
    rule, optimizer = rules.sgd(0.05), optax.adam(3e-3)
    step = il.meta_step(il.meta_loss(loss, rule=rule, steps=steps), optimizer, meta_batch=8)
    key = jax.random.key(0, impl="threefry2x32")
    state = il.init(model.init(key), rule, optimizer, key)
    run = jax.jit(il.repeat(step))
    history = []
    for _ in range(RECORDS):
        state, metrics = run(state, distribution, np.int32(STEPS))
        history.append(float(metrics["loss_after"]))
    return history


def public_api() -> str:
    """Every public name with its signature, a line each, sorted; of classes also their public methods."""
    lines = []
    for name in sorted(il.__all__):
        value = getattr(il, name)
        if inspect.ismodule(value):
            members = {member: getattr(value, member) for member in public_members(value)}
            lines += [described(f"{name}.{member}", value) for member, value in sorted(members.items())]
        else:
            lines.append(described(name, value))
        if inspect.isclass(value):
            methods = {
                member: method
                for member, method in vars(value).items()
                if inspect.isfunction(method) and (member == "__call__" or not member.startswith("_"))
                if method.__module__.startswith("innerloop")  # and not what a protocol brings along
            }
            lines += [described(f"{name}.{member}", method) for member, method in sorted(methods.items())]
    return "\n".join(lines) + "\n"


def public_members(module: Any) -> list[str]:
    """What a module offers: what it lists, or what is defined in it."""
    defined = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return [name for name in getattr(module, "__all__", defined) if not inspect.ismodule(getattr(module, name))]


def described(name: str, value: Any) -> str:
    """A name with its signature, as far as it has one."""
    ours = getattr(value, "__module__", "").startswith("innerloop")  # what JAX offers it may change
    if not (ours and (inspect.isclass(value) or inspect.isfunction(value))):
        return f"{name}: {type(value).__name__}"
    try:
        signature = inspect.signature(inspect.unwrap(value))
    except ValueError:
        return name
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty, default=plain(parameter.default))
        for parameter in signature.parameters.values()
    ]
    return f"{name}{inspect.Signature(parameters)}"


class Plain:
    """A default as text that is the same everywhere."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def plain(default: Any) -> Any:
    """A default value without what differs from process to process."""
    if default is inspect.Parameter.empty:
        return default
    return Plain(re.sub(r"<function ([^ ]+) at 0x[0-9a-f]+>", r"\1", re.sub(r" at 0x[0-9a-f]+", "", repr(default))))


if __name__ == "__main__":
    (HERE / "api.txt").write_text(public_api())
    for recipe in RECIPES:
        (HERE / f"{recipe}.json").write_text(json.dumps(curve(recipe)) + "\n")
