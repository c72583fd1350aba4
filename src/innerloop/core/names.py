"""The names by which parameters are told apart: the head of a network, and the parts that some algorithms add."""

import re

import jax

from innerloop.core.trees import path_name
from innerloop.errors import InnerloopError
from innerloop.types import Mask, Params

HEADS = ("head", "classifier", "readout", "logits", "output")
"""What a network's last layer is called, unless told otherwise; the first of these that occurs."""

NUMBERED = re.compile(r"((?:.*/)?(?:layers/|[Dd]ense_?|[Ll]inear_?))(\d+)/")
"""How libraries number their dense layers: `layers/2` in Equinox, `Dense_2` in Flax Linen."""

CONTEXT = "context"
"""The parameters that CAVIA adapts, see `models.with_context`."""

LORA = "lora"
"""The low-rank additions to a network's matrices, see `models.lora`."""

COUNTER = "step"
"""The parameter that counts inner steps, see `models.per_step`."""

PROTOTYPES = "prototypes"
"""The parameters that a prototypical network adapts, see `models.prototypical`."""

OFFSETS = "offsets"
"""What each class adds to a head that all classes share, see `models.shared_head`."""

RUNNING = "running"
"""The stored averages of normalisation, see `models.with_running_statistics`."""

SCALE_AND_SHIFT = ("scale", "shift")
"""The parameters of normalisation layers."""


def head_of(params: Params, name: str | None = None) -> Mask:
    """The mask of a network's last layer, which is found by its name.

    Args:
        params: the network's parameters; `None` in the place of those that another mask leaves out, which may be the
            last layer's own.
        name: a part of the paths of the layer's parameters, such as `"head"` or `"layers/2"`. Unless given: the layer
            that is called as one of `HEADS`, or else the last one of the only series of numbered dense layers.

    Raises:
        InnerloopError: if there is no such layer; the message lists the paths.
    """
    paths = [path_name(path) for path, _ in jax.tree.leaves_with_path(params, is_leaf=lambda leaf: leaf is None)]
    names = [name] if name else [head for head in HEADS if any(_has(path, head) for path in paths)]
    if not names:
        places = [match.groups() for path in paths if (match := NUMBERED.match(path))]
        if len({series for series, _ in places}) == 1:
            series, number = max(places, key=lambda place: int(place[1]))
            names = [f"{series}{number}"]
    if not names or not any(_has(path, names[0]) for path in paths):
        wanted = f"is called {name!r}" if name else "looks like a network's last layer"
        raise InnerloopError(
            f"No parameter {wanted}; the parameters are: {paths_of(params)}. Name the part of the path that is the "
            'head, as in rules.head_only(rule, head="layers/2").'
        )
    return jax.tree.map_with_path(lambda path, _: _has(path_name(path), names[0]), params)


def paths_of(params: Params) -> str:
    """The paths of all leaves, in a phrase."""
    return ", ".join(path_name(path) for path, _ in jax.tree.leaves_with_path(params))


def _has(path: str, part: str) -> bool:
    """Whether a path has these components, one after the other."""
    return f"/{part}/" in f"/{path}/"
