"""How well a learner of images adapts to classes that it has not seen, beside what does without training."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from innerloop.errors import InnerloopError
from innerloop.runs.results import Result
from innerloop.tabular import learner
from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.episodes import ClassEpisodes
from innerloop.tabular.rows import Rows
from innerloop.types import Task
from innerloop.workloads.tabular.metrics import SHARE, score_name, summary
from innerloop.workloads.tabular.verdict import OURS, UNTRAINED

EPISODES, EPISODES_AT_ONCE = 200, 10
"""Episodes that are drawn from test images."""
NEAREST = "nearest neighbour of pixels"


def evaluate_images(
    learned: TrainedLearner,
    rows: Rows,
    ways: int,
    shots: Sequence[int],
    queries: int,
    untrained: TrainedLearner | None = None,
) -> Result:
    """The accuracy on episodes drawn from test images, as `evaluate` gives it, beside the nearest image's class."""
    methods: dict[str, Callable[[ClassEpisodes], np.ndarray]] = {OURS: partial(_episode_scores, learned, ways=ways)}
    if untrained is not None:
        methods[UNTRAINED] = partial(_episode_scores, untrained, ways=ways)
    methods[NEAREST] = _nearest_scores
    table, differences, curves, kept = [], [], {}, {}
    for number in shots:
        try:
            drawn = ClassEpisodes.from_rows(
                learned.preparation.encode(rows.columns),
                rows.target,
                rows.tasks,
                ways=ways,
                shots=(number,),
                queries=queries,
            )
        except InnerloopError as error:
            raise InnerloopError(f"The test part does not give such episodes: {error}") from error
        found = {method: measure(drawn) for method, measure in methods.items()}
        own = found[OURS][:, -1]
        for method, scores in found.items():
            row = {"method": method, "size": number}
            table.append({**row, "tasks": len(scores), "metrics": summary({"accuracy": scores})})
            kept[score_name(method, "accuracy", number)] = scores
            if method != OURS:
                differences.append({**row, "metrics": summary({"accuracy": own - scores[:, -1]})})
        curves[str(number)] = {"accuracy": found[OURS].mean(axis=0).tolist()}
    return Result({"interval": SHARE, "rows": table, "differences": differences, "curves": curves, "tasks": {}}, kept)


def _over_episodes(drawn: ClassEpisodes, right: Callable[[Task], Array]) -> np.ndarray:
    """A score of each of the episodes that every method sees, `[episodes, ...]`."""
    scores = jax.jit(lambda key: right(drawn.sample(key, EPISODES_AT_ONCE)))
    keys = [jax.random.key(i) for i in range(EPISODES // EPISODES_AT_ONCE)]
    return np.concatenate([np.asarray(scores(key)) for key in keys])


def _nearest_scores(drawn: ClassEpisodes) -> np.ndarray:
    """The accuracy of the class of the support image whose pixels are nearest, `[episodes, 1]`."""

    def right(task: Task) -> Array:
        known, asked = (jnp.asarray(part.x.counts, jnp.float32) for part in (task.support, task.query))
        products = jnp.einsum("eqp,esp->eqs", asked, known)
        distances = jnp.sum(known**2, axis=-1)[:, None] - 2 * products
        distances = jnp.where(task.support.weight[:, None] > 0, distances, jnp.inf)
        nearest = jnp.take_along_axis(task.support.y, distances.argmin(axis=-1), axis=1)
        return (nearest == task.query.y).mean(axis=-1)[:, None]

    return _over_episodes(drawn, right)


def _episode_scores(learned: TrainedLearner, drawn: ClassEpisodes, ways: int) -> np.ndarray:
    """The accuracy after 0, 1, ..., k inner steps, `[episodes, steps + 1]`."""
    design = learned.design

    def right(task: Task) -> Array:
        adapted = learner.adapt_tasks(design, ways, learned.meta, task.support, trajectory=True)
        logits = learner.outputs_along(design, ways, learned.meta, adapted, task.query.x)
        return (logits.argmax(axis=-1) == task.query.y[:, None]).mean(axis=-1)

    return _over_episodes(drawn, right)
