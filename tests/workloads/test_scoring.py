"""Scores as they are printed."""

from innerloop.workloads.episodes import recipes, report


def test_a_table_stays_within_80_columns_where_training_diverged():
    values = {"mean": [2.79, 1.2e22, float("inf"), float("nan")], "interval": [0.1, 3.4e21, float("nan"), float("nan")]}
    row = {"method": "maml", "judge": "query", "metrics": {"loss": values}}
    result = {
        "recipe": "sinusoid",
        "algorithm": "maml",
        "metric": "loss",
        "factor": 1,
        "unit": "mean squared error",
        "test_tasks": 600,
        "tables": [{"shots": 20, "rows": [row]}],
    }
    (table,) = report.tables(result, recipes.configure("sinusoid"))
    said = table.as_text()
    assert "2.79 ± 0.10" in said
    assert "1.2e+22 ± 3.4e+21" in said
    assert max(map(len, said.splitlines())) <= 80
