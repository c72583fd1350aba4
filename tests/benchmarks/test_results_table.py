"""The tables of README.md and docs/results.md: shares of a schedule, both judges, and what validation chose."""

from benchmarks import tables

ROW = {"learning_rate": 0.1, "metrics": {"accuracy": {"mean": [0.2] * 6, "interval": [0.01] * 6}}}


def result(**changes):
    rows = [
        {**ROW, "method": method, "judge": judge}
        for method in ("maml++", "maml++, 5 best together")
        for judge in ("transductive", "inductive")
    ]
    rows[1]["metrics"] = {"accuracy": {"mean": [0.1] * 6, "interval": [0.02] * 6}}
    machine = {"platform": "cpu", "cores": 2}
    evaluation = {"metric": "accuracy", "factor": 100.0, "tables": [{"shots": 1, "rows": rows}]}
    common = {"recipe": "omniglot-20way-1shot", "algorithm": "maml++", "seed": 0, "meta_steps": 30_000}
    common |= {"tasks_per_second": 9.0, "training_seconds": 60.0, "evaluation": evaluation}
    return common | {"environment": {"machine": machine, "command": ["innerloop", "train"]}} | changes


def test_a_row_names_its_share_and_both_judges_and_the_ensemble():
    cells = [cell.strip() for cell in tables.row_of(result()).split("|")[1:-1]]
    assert cells[2] == "30,000 of 60,000 (50 %)"
    assert cells[4] == "**20.00 ± 1.00 %<br>5 best together: 20.00 ± 1.00 %**"
    assert cells[5] == "10.00 ± 2.00 %"
    assert cells[6] == "97.65 %"


def test_the_whole_schedule_is_that_of_the_settings():
    assert tables.of_schedule(result(meta_steps=60_000)) == "60,000"
    environment = {"command": ["innerloop", "train", "--published"]}
    assert tables.of_schedule(result(algorithm="imaml", meta_steps=20_000, environment=environment)) == "20,000"
    assert tables.of_schedule(result(algorithm="imaml", meta_steps=20_000)) == "20,000 of 60,000 (33 %)"


def test_what_was_broken_off_at_the_start_has_a_row_only_where_nothing_is_longer(monkeypatch):
    runs = [result(meta_steps=steps) for steps in (600, 3_000, 60_000)]
    monkeypatch.setattr(tables, "results", lambda: runs)
    assert tables.told() == runs[1:]
    monkeypatch.setattr(tables, "results", lambda: runs[:1])
    assert tables.told() == runs[:1]


def scored(seed, mean):
    evaluation = result()["evaluation"]
    rows = [
        row | {"metrics": {"accuracy": {"mean": [mean] * 6, "interval": [0.9] * 6}}}
        for row in evaluation["tables"][0]["rows"]
    ]
    return result(seed=seed, evaluation=evaluation | {"tables": [{"shots": 1, "rows": rows}]})


def test_runs_that_differ_in_their_seed_have_one_row_with_the_interval_over_seeds(monkeypatch):
    monkeypatch.setattr(tables, "results", lambda: [scored(0, 0.2), scored(1, 0.3), scored(2, 0.4)])
    (row,) = tables.short(tables.told())
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[0] == "`omniglot-20way-1shot` 3 seeds"
    assert cells[4].startswith("**30.00 ± 24.84 %")  # 4.303 x 10 / sqrt(3)
    assert len(tables.told()) == 3


def test_of_reinforcement_learning_the_short_table_has_the_recipes_as_they_are(monkeypatch):
    tried = scored(0, 0.2) | {"recipe": "rl-navigation-2d", "algorithm": "maml", "meta_steps": 100}
    monkeypatch.setattr(tables, "results", lambda: [tried | {"changes": "--published"}, tried | {"changes": ""}])
    assert len(tables.short(tables.told())) == 1
    assert len(tables.told()) == 2


def test_an_evaluation_with_other_settings_than_the_command_asked_for_is_told():
    command = [
        "innerloop",
        "train",
        "--evaluation.no-baselines",
        "--evaluation.oracle-iterations=2000",
        "--run-dir=a=b",
    ]
    evaluation = {"settings": {"baselines": False, "oracle_iterations": 900}}
    told = tables.evaluated_otherwise({"environment": {"command": command}, "evaluation": evaluation})
    assert told == " Then `innerloop evaluate RUN --evaluation.oracle-iterations=900`."
    evaluation["settings"]["oracle_iterations"] = 2000
    assert not tables.evaluated_otherwise({"environment": {"command": command}, "evaluation": evaluation})
