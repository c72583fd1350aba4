r"""The family as a table: each algorithm is one row that names its values and its paper, and a row runs.

An algorithm is what is differentiated, and how. Every row goes through the same `adapt` and the same `meta_loss`; what
is particular about it is a value in the table. `algorithm(name)(model, criterion, ...)` gives what trains with it.
"""

from innerloop.core.algorithms.learner import MetaLearner
from innerloop.core.algorithms.row import Algorithm, Network, OuterTraits, build
from innerloop.core.algorithms.table import ALGORITHMS, PIECES, PLUS, algorithm

__all__ = ["ALGORITHMS", "PIECES", "PLUS", "Algorithm", "MetaLearner", "Network", "OuterTraits", "algorithm", "build"]
