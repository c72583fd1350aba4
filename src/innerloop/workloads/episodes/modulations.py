"""Images as a data set of vectors: the contexts that CAVIA fits to phantoms, beside what the phantoms are."""

import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from innerloop.core.adapt import adapt
from innerloop.core.names import CONTEXT
from innerloop.core.outer import sample_task
from innerloop.files import write_bytes
from innerloop.tasks.phantoms import ELLIPSE, Phantoms
from innerloop.types import Meta
from innerloop.workloads.episodes.build import Experiment

FILE = "modulations.npz"
SEED = 40_000
"""Fixes the phantoms, which are neither those of training nor those of the tests."""


def write(experiment: Experiment, meta: Meta, folder: Path) -> Path | None:
    """Write the data set beside an exported model, if the configuration asks for one.

    Args:
        experiment: what was trained.
        meta: what was learned.
        folder: of the model.

    Returns:
        The file, `np.load`-able without pickle; `None` if none was asked for.

    Raises:
        InnerloopError: if it cannot be written.
    """
    count = experiment.config.evaluation.modulations
    if not count:
        return None
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **fitted(experiment, meta, count))
    write_bytes(folder / FILE, buffer.getvalue())
    return folder / FILE


def fitted(experiment: Experiment, meta: Meta, count: int) -> dict[str, np.ndarray]:
    """Contexts fitted to projections of new phantoms.

    Args:
        experiment: what was trained, an algorithm that adapts a context.
        meta: what was learned.
        count: number of phantoms.

    Returns:
        `modulations` `[phantoms, context]`; `ellipses` `[phantoms, ellipses, 6]` and `columns`, what these numbers are;
        `psnr` of the image that each context makes, in dB, `[phantoms]`.
    """
    evaluation = experiment.config.evaluation
    phantoms = experiment.distribution("test", evaluation.shots[0], 0)
    assert isinstance(phantoms, Phantoms)
    judge = experiment.eval_losses["query"]

    def one(index: Array) -> tuple[Array, Array, Array]:
        sample_key, task_key = jax.random.split(jax.random.fold_in(jax.random.key(SEED, impl="threefry2x32"), index))
        task = sample_task(phantoms, sample_key)
        run = adapt(
            experiment.loss,
            meta,
            task.support,
            task_key,
            rule=experiment.rule,
            steps=evaluation.steps,
            adjoint=experiment.forward,
        )
        _, metrics = judge(run.params, task.query, task_key)
        return run.params[CONTEXT], phantoms.ellipses(sample_key, 1)[0], metrics["psnr"]

    found = jax.jit(lambda indices: lax.map(one, indices))(jnp.arange(count))
    modulations, ellipses, psnr = (np.asarray(part, np.float32) for part in found)
    return {"modulations": modulations, "ellipses": ellipses, "columns": np.array(ELLIPSE), "psnr": psnr}
