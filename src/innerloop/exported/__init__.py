"""Trained models that leave the program: folders that `innerloop export` writes, read by the library alone."""

from pathlib import Path
from typing import TYPE_CHECKING

from innerloop import artifacts
from innerloop.errors import InnerloopError

if TYPE_CHECKING:
    from innerloop.exported.episodes import EpisodesModel
    from innerloop.exported.policy import PolicyModel
    from innerloop.tabular.estimator import TabularMetaLearner


def load(folder: str | Path) -> "TabularMetaLearner | EpisodesModel | PolicyModel | artifacts.Artifact":
    """The model in a folder that `innerloop export RUN --out FOLDER` wrote. Nothing in it is executed.

    Args:
        folder: the folder, or the directory of a run that is trained to the end.

    Returns:
        What was learned, by the kind of the run: on tables and folders of images of one's own a `TabularMetaLearner`,
        on episodes of Omniglot, miniImageNet or sinusoids an `EpisodesModel`, of reinforcement learning a
        `PolicyModel`. The first two have `adapt(x, y)`, which gives an object with `predict(x)`. Of weights of examples
        and of streams it is an `Artifact`, whose `arrays` hold what was learned by name.

    Raises:
        InnerloopError: if there is no model, it is damaged, or of another version.

    Example:
        >>> import innerloop as il
        >>> model = il.load("model")  # doctest: +SKIP
        >>> model.adapt(x_support, y_support).predict(x_query)  # doctest: +SKIP
    """
    path = artifacts.of_run(Path(folder))
    if (path / "model.json").exists():  # of a version that exported learners of tables alone
        from innerloop.tabular.estimator import TabularMetaLearner

        return TabularMetaLearner.load(path)
    stored = artifacts.read(path)
    if stored.kind == "tabular":
        from innerloop.tabular.artifact import from_artifact
        from innerloop.tabular.estimator import TabularMetaLearner

        return TabularMetaLearner.from_learned(from_artifact(stored))
    if stored.kind == "episodes":
        from innerloop.exported import episodes

        return episodes.from_artifact(stored)
    if stored.kind == "policy":
        from innerloop.exported import policy

        return policy.from_artifact(stored)
    if stored.kind == "streams":
        return stored
    raise InnerloopError(f"{path} holds a model of the kind {stored.kind!r}, which this version does not know.")
