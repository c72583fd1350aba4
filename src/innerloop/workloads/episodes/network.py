"""The configured network."""

from innerloop import models
from innerloop.errors import InnerloopError
from innerloop.models import Model, NetworkDescription
from innerloop.workloads.episodes.config import Config, GlyphTasks, MiniImageNetTasks, OmniglotTasks, PhantomTasks
from innerloop.workloads.episodes.data import glyphs, miniimagenet, omniglot

IMAGE_SHAPES = {
    OmniglotTasks: (omniglot.SIDE, omniglot.SIDE, 1),
    GlyphTasks: (glyphs.SIDE, glyphs.SIDE, 1),
    MiniImageNetTasks: (miniimagenet.SIDE, miniimagenet.SIDE, 3),
}


def network(config: Config, outputs: int | None = None, more_inputs: int = 0) -> Model:
    """The configured network.

    Args:
        config: the experiment.
        outputs: number of outputs, if not that of the tasks.
        more_inputs: number of inputs beside those of the tasks, of a multilayer perceptron.
    """
    return models.from_description(described_network(config, outputs, more_inputs))


def described_network(config: Config, outputs: int | None = None, more_inputs: int = 0) -> NetworkDescription:
    """The configured network as plain values, see `network`.

    Raises:
        InnerloopError: if the configuration gives none.
    """
    net, image = config.network, IMAGE_SHAPES.get(type(config.tasks))
    points = (config.tasks.resolution, 2) if isinstance(config.tasks, PhantomTasks) else None
    if net.kind != "mlp" and image is None and points is None:
        raise InnerloopError(f"--network.kind {net.kind} takes images; for these tasks use mlp.")
    if net.kind == "resnet12" and net.normalisation == "none":
        raise InnerloopError(
            "--network.kind resnet12 does not train without normalisation; choose one with --network.normalisation."
        )
    return NetworkDescription(
        kind=net.kind,
        inputs=image or points or (1,),
        outputs=outputs or ways_of(config) or 1,
        widths=net.widths,
        downsample=net.downsample,
        normalised=net.normalisation != "none",
        scale=net.scale,
        shift=net.shift,
        running=net.normalisation == "running",
        more_inputs=more_inputs,
        precision=net.precision,
        convolution="lax" if config.layout.convolution == "lax" else "patches",
        frequencies=net.frequencies,
        bandwidth=net.bandwidth,
    )


def ways_of(config: Config) -> int:
    """The classes of a training task; 0 of a regression."""
    return config.tasks.ways if isinstance(config.tasks, OmniglotTasks | MiniImageNetTasks | GlyphTasks) else 0
