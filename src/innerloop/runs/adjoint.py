"""An algorithm's adjoint, computed as the layout of a run says."""

from dataclasses import replace

from innerloop.core.adjoints import Adjoint, Annealed, Implicit, Mixed, Reverse, Truncated
from innerloop.errors import InnerloopError
from innerloop.runs.fields import Layout


def as_laid_out(adjoint: Adjoint, layout: Layout, *, algorithm: str, steps: int) -> Adjoint:
    """The adjoint, computed as the configured layout says.

    Args:
        adjoint: the algorithm's.
        layout: the configured layout.
        algorithm: the algorithm's name, for what is said of a mistake.
        steps: inner steps.

    Raises:
        InnerloopError: if the layout chooses among exact derivatives and the algorithm takes none.
    """
    if isinstance(adjoint, Truncated | Annealed):
        return replace(adjoint, adjoint=as_laid_out(adjoint.adjoint, layout, algorithm=algorithm, steps=steps))
    if layout.adjoint != "auto" and not isinstance(adjoint, Mixed):
        raise InnerloopError(
            f"--layout.adjoint is {layout.adjoint}, but --algorithm {algorithm} takes no exact second "
            "derivatives; leave it out."
        )
    if layout.levels and (layout.adjoint == "reverse" or not isinstance(adjoint, Mixed)):
        taken = "--layout.adjoint reverse" if isinstance(adjoint, Mixed) else f"--algorithm {algorithm}"
        raise InnerloopError(
            f"--layout.levels is {layout.levels}, but {taken} has no steps to recompute in segments; leave one of them "
            "out."
        )
    if layout.levels and layout.loop == "unrolled":
        raise InnerloopError(
            f"--layout.levels is {layout.levels}, which scans the inner steps; leave out --layout.loop unrolled."
        )
    chosen = Reverse() if layout.adjoint == "reverse" else adjoint
    if layout.levels:
        return replace(chosen, levels=layout.levels)  # pyright: ignore
    if layout.loop == "auto":
        return chosen
    if isinstance(adjoint, Implicit):
        raise InnerloopError(
            f"--layout.loop has no effect with --algorithm {algorithm}, whose inner loop is always scanned; leave it "
            "out."
        )
    return replace(chosen, unroll=steps if layout.loop == "unrolled" else 0)  # pyright: ignore
