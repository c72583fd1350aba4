"""The pages of the family come from its table and from kept results alone."""

import json

from benchmarks import algorithm_pages as pages
from benchmarks import family
from benchmarks import family_tables as tables
from benchmarks import tables as runs
from innerloop import ALGORITHMS
from innerloop.core.algorithms import PIECES
from innerloop.workloads.episodes.family import SINUSOID


def result(name):
    machine = {"processor": "a processor", "cores": 2}
    rows = [
        {"algorithm": each, "inner_steps": steps, "losses": [0.5, None], "diverged": 1, "seconds_per_meta_step": 0.01}
        | {"temporary_bytes": 2**20 * steps, "recipe": "sinusoid", "meta_batch": 8}
        for each in ("maml", "maml+msl")
        for steps in (1, 5)
    ]
    settings = {"seeds": 2, "iterations": 7, "meta_batch": 8, "rate": 0.25}
    common = {"command": "the command", "commit": "0123456789abc", "machine": machine, "versions": {"jax": "1"}}
    return {**common, "settings": settings, "rows": rows} if name in ("steps", "memory") else None


def test_every_row_has_a_page_with_its_maths_and_its_place_in_the_table(monkeypatch):
    monkeypatch.setattr(tables, "kept", lambda name: None)
    monkeypatch.setattr(runs, "told", lambda: [])
    files = {path.name: text for path, text in pages.everything().items()}
    assert len(files) == len(ALGORITHMS) + 1
    for name, row in ALGORITHMS.items():
        text = files[f"{pages.file_name(name)}.md"]
        for wanted in (
            f"$$ {row.maths} $$",
            row.cost,
            row.use,
            row.reference,
            f"--algorithm {name}",
            "not yet measured",
        ):
            assert wanted in text
        assert f"({pages.file_name(name)}.md)" in files["index.md"]
    assert all(f"| `{piece}` |" in files["index.md"] for piece in PIECES)
    assert "head_only(rules.sgd(rate)), Mixed(), last_step, ...)" in files["anil.md"]


def test_the_page_of_an_algorithm_tells_of_its_runs_and_of_what_does_not_suit_it(monkeypatch):
    monkeypatch.setattr(tables, "kept", lambda name: None)
    text = "\n".join(tables.measured("protonet"))
    assert "| `omniglot-20way-1shot` seed 0 | protonet" in text
    assert "not yet measured" not in text
    assert "Sinusoids: a task has no classes, which this row needs." in text
    assert "Runs of the recipes" not in "\n".join(tables.measured("unicorn-maml"))


def test_what_was_measured_is_shown_with_where_it_comes_from(monkeypatch):
    monkeypatch.setattr(tables, "kept", result)
    text = pages.index()
    assert "0.5 (0), 1 of 2 diverged; 10 ms, 5.0 MiB" in text
    assert "| sinusoid | [`maml`](maml.md) | 5 | 8 | all | 5.0 MiB |" in text
    assert "`the command`, commit 0123456789, a processor with 2 cores, jax 1." in text
    assert "1 diverged" in tables.steps_figure(result("steps"))


def comparison(metric):
    """What `innerloop compare` keeps of two rows, the second better beyond doubt."""
    sign = 1 if metric == "accuracy" else -1
    costs = {"seeds": [0, 1], "diverged": [], "seconds_per_meta_step": 0.01, "compile_seconds": 2.0, "memory": 2**20}
    costs |= {"meta_steps": 1000, "inner_steps": 5, "inner_rate": 0.5}
    row = {"seeds": [0, 1], "steps": 1, "mean": 0.5, "interval": 0.01, "by_seed": [0.5, 0.5], "spread": 0.0}
    row["curve"] = {"mean": [0.9, 0.5], "interval": [0.01, 0.01]}
    better = row | {"label": "maml++", "mean": 0.5 + 0.1 * sign}
    better["difference"] = {"mean": 0.1 * sign, "interval": 0.01, "error": 0.01, "decided": True}
    kept = {
        "recipe": "sinusoid",
        "metric": metric,
        "factor": 100.0 if metric == "accuracy" else 1.0,
        "unit": "% correct" if metric == "accuracy" else "mean squared error",
        "reference": "maml",
        "test": {"tasks": 600},
        "groups": {"maml": costs, "maml++": costs | {"seconds_per_meta_step": 0.02}},
        "remarks": [],
        "tables": [
            {
                "shots": 5,
                "judge": "query",
                "rows": [row | {"label": "maml"}, better],
            }
        ],
        "command": "compare --time-limit 20m",
        "commit": "0123456789abc",
        "machine": {"processor": "a processor", "cores": 2},
        "versions": {"jax": "1"},
    }
    return tables.as_compared(kept)


def test_the_advice_comes_from_the_comparisons(monkeypatch):
    for metric in ("loss", "accuracy"):
        monkeypatch.setattr(
            tables, "kept", lambda name, metric=metric: comparison(metric) if name == "sinusoid" else None
        )
        text = pages.index()
        for wanted in (
            "Sinusoids, 20m of training for each row",
            "Best first: `maml++`, `maml`.",
            "Better than `maml` beyond two standard errors: `maml++`.",
            "Worse: none.",
            "`maml`, 1.00 of the time of `maml`",
            "| [`maml`](maml.md) | 1 | 0.67 |",
            "Omniglot: *not yet measured*.",
        ):
            assert wanted in text
        assert "family-sinusoid.svg" in tables.pictures()


def test_the_setting_with_the_lowest_validation_loss_is_chosen(monkeypatch, tmp_path):
    rows = [
        {"algorithm": name, "settings": {"inner.learning_rate": rate}, "loss": loss}
        for name, rate, loss in (("maml", 0.1, 2.0), ("maml", 0.2, 1.0), ("maml", 0.3, None), ("anil", 0.1, 3.0))
    ]
    (tmp_path / "family-search.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(family, "RESULTS", tmp_path)
    assert family.chosen() == {"maml": {"inner.learning_rate": 0.2}, "anil": {"inner.learning_rate": 0.1}}


def test_what_diverged_later_is_out_with_all_that_is_no_gentler(monkeypatch, tmp_path):
    settings = lambda rate, steps: {"inner.learning_rate": rate, "inner.steps": steps}  # noqa: E731
    rows = [
        {"algorithm": "maml", "settings": settings(rate, steps), "loss": loss}
        for rate, steps, loss in ((0.1, 5, 3.0), (0.1, 10, 2.0), (0.2, 10, 1.0), (0.2, 5, 2.5))
    ]
    place = tmp_path / "family-search.json"
    place.write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(family, "RESULTS", tmp_path)
    groups = {"maml": {"diverged": [], "meta_steps": 7}}
    family.note_unstable(groups, family.chosen())
    assert family.chosen() == {"maml": settings(0.2, 10)}
    family.note_unstable({"maml": groups["maml"] | {"diverged": [1]}}, {"maml": settings(0.1, 10)})
    assert family.chosen() == {"maml": settings(0.2, 5)}


def test_what_is_measured_is_what_the_recipes_set():
    for algorithm in (*family.SEARCHED, *family.LONG):
        config = family.sinusoids(algorithm, inner__steps=7)
        assert (config.algorithm, config.inner.steps, config.layout.shards) == (algorithm, 7, 1)
    for algorithm in family.LONG_ON_IMAGES:
        config = family.changed(family.configured("omniglot-5way-1shot", algorithm), family.ON_IMAGES)
        assert (config.algorithm, config.network.widths) == (algorithm, (16,) * 4)


def test_the_rows_of_the_sinusoid_recipe_are_what_the_search_chose():
    assert {name: values for name, values in family.chosen().items() if name != "maml"} == SINUSOID
