"""The recipe of neural fields: images of phantoms from a few of their projections."""

from innerloop.runs.recipe import Recipe
from innerloop.workloads.episodes.config import Config, Evaluation, Inner, Log, Network, Outer, PhantomTasks


def tomography() -> Config:
    return Config(
        tasks=PhantomTasks(shots=20, queries=256, resolution=64),
        network=Network(kind="field", widths=(64,) * 4, frequencies=64, bandwidth=30.0),
        inner=Inner(learning_rate=10.0, steps=12, batch=64),
        outer=Outer(iterations=2_000, meta_batch=1, learning_rate=1e-3, schedule="linear"),
        evaluation=Evaluation(tasks=20, shots=(5,), steps=10, baseline_iterations=1_000),
        log=Log(every=20, validate_every=20),
        algorithm="reptile",
    )


RECIPE = Recipe(
    tomography,
    "tomography: images of random heads (Shepp-Logan) from a few projections by a neural field, with Reptile",
    rows={},
    as_published={},
)
