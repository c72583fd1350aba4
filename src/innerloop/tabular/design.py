"""What a learner of tables is, as plain values."""

from dataclasses import dataclass
from typing import Literal

from innerloop.errors import InnerloopError

ALGORITHMS = ("maml", "fomaml", "joint")
"""Rows of the table of algorithms that a learner can be trained by."""


@dataclass(frozen=True)
class Design:
    """What a learner is. With its parameters it is all that adaptation needs.

    Attributes:
        kind: what is predicted.
        widths: layers of the encoder, the last of which is the embedding.
        adapted: further layers, which the inner loop adapts together with the head.
        start: how a task's head begins; `shrunk` is the head that all tasks share, moved towards the support set as
            far as its rows tell, see `innerloop.tabular.shrunk`.
        algorithm: a row of the table of algorithms: how the meta-gradient flows; `joint` takes no inner steps.
        steps: inner steps.
        learning_rate: their size at the beginning of training, which learns it.
        dropout: share of the encoder's activations that training drops.
        dropout_inputs: share of the input features that training drops.
        image: height, width and channels, if the rows are images, which the encoder then reads by convolutions;
            `widths` are then the filters of blocks that halve the image each.
        shared_labels: whether a class means the same in every task; if not, nothing is learned of any one class.
        targets: units of a regression's targets: those of each support set, or of all training rows.
        pooled: how many of the last numbers of a row are what a model of all training rows together predicts: one for
            each output of the head, or none.
    """

    kind: Literal["classification", "regression"] = "classification"
    widths: tuple[int, ...] = (512, 256)
    adapted: tuple[int, ...] = ()
    start: Literal["prototypes", "ridge", "zero", "shrunk"] = "prototypes"
    algorithm: str = "maml"
    steps: int = 3
    learning_rate: float = 0.3
    dropout: float = 0.1
    dropout_inputs: float = 0.0
    image: tuple[int, int, int] | None = None
    shared_labels: bool = True
    targets: Literal["support", "global"] = "support"
    pooled: int = 0

    def require(self) -> None:
        """Refuse a design that cannot work.

        Raises:
            InnerloopError: naming the setting.
        """
        if self.algorithm not in ALGORITHMS:
            raise InnerloopError(f"algorithm is {self.algorithm!r}; a learner is trained by {', '.join(ALGORITHMS)}.")
        if not self.widths or min(self.widths + self.adapted) < 1:
            raise InnerloopError(f"widths is {self.widths}; give at least one layer, each at least 1 wide.")
        if self.kind == "regression" and self.start == "prototypes":
            raise InnerloopError("start='prototypes' needs classes; for regression use 'ridge'.")
        if self.start == "shrunk" and self.adapted:
            raise InnerloopError("start='shrunk' adapts the head alone; leave out adapted, or choose another start.")
        if self.image is not None and min(self.image[:2]) >> len(self.widths) == 0:
            raise InnerloopError(
                f"A {self.image[0]}x{self.image[1]} image is too small for {len(self.widths)} blocks that halve it."
            )
