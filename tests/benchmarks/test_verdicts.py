"""The sentence about tables of which it is known what helps."""

import numpy as np
import pytest

from benchmarks import grouped_tables
from innerloop.tabular.plan import Choices
from innerloop.tabular.prepare import prepare
from innerloop.tabular.rows import Rows
from innerloop.workloads.tabular import evaluation
from innerloop.workloads.tabular.comparison import rivals_of
from innerloop.workloads.tabular.verdict import verdict

SIZES = (5, 20)
KNOWN = {
    "no-differences": "A pooled model does as well (",
    "intercepts": "A pooled model does as well (",
    "unrelated": "The tasks share nothing that helps: a model of each task alone does as well",
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_verdict_on_tables_of_which_it_is_known_what_helps(name, monkeypatch):
    """Of the learner as it begins: what training adds is measured by `python -m benchmarks.grouped_tables`."""
    pytest.importorskip("sklearn")
    columns = grouped_tables.TABLES[name].make()
    names, first, tasks = np.unique(columns["task"], return_index=True, return_inverse=True)
    features = {column: columns[column] for column in columns if column.startswith("x")}
    rows = Rows(features, columns["target"], tasks, tuple(names), tuple(columns["split"][first]))
    data = prepare(rows, Choices(preset="fast", evaluation_sizes=SIZES, pooled="none"))
    learned = data.learned(data.fitting().start(0).best)
    chosen = {rival: found for rival, found in rivals_of(data).items() if rival not in ("random forest", "mixed model")}
    found = evaluation.evaluate(learned, data.parts["test"], SIZES, 1, others=chosen)
    assert verdict(found.values).startswith(KNOWN[name])
