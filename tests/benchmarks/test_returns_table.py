"""The table of published returns beside ours: what belongs together, intervals, and how much is missing."""

import numpy as np
import pytest

from benchmarks import iteration_ratio, rl_pictures
from benchmarks import reinforcement as page
from innerloop.runs.recipe import Published


def run(seed=0, returns=(-50.0, 290.0), changes="", method="maml", steps=100, baseline=100, oracle=0):
    rows = [{"method": method, "per_task": [list(returns)] * 4}]
    settings = {"baseline_iterations": baseline, "oracle_iterations": oracle}
    evaluation = {"tables": [{"rows": rows}], "settings": settings}
    return {
        "recipe": "rl-cheetah-direction",
        "seed": seed,
        "changes": changes,
        "meta_steps": steps,
        "training_seconds": 60.0,
        "evaluation": evaluation,
    }


def test_runs_with_the_same_settings_are_seeds_of_one_row():
    found = page.rows_of([run(0), run(1), run(0, changes="--published")], "maml")
    assert {name: len(several) for name, several in found.items()} == {"": 2, "as published": 1}


def test_of_several_baselines_the_longest_counts_and_a_run_for_baselines_is_no_result():
    runs = [run(method="oracle"), run(method="oracle", baseline=1000, steps=1, returns=(440.0,)), run(steps=1)]
    ((found, values),) = page.rows_of(runs, "oracle")[""]
    assert found["evaluation"]["settings"]["baseline_iterations"] == 1000
    assert values.mean() == 440
    runs += [run(method="oracle", baseline=100, oracle=2000, steps=1, returns=(450.0,))]
    ((found, values),) = page.rows_of(runs, "oracle")[""]
    assert [page.trained_for(found, method) for method in ("oracle", "pre-trained")] == [2000, 100]
    assert values.mean() == 450
    assert page.rows_of(runs, "maml") == {}


def test_the_interval_is_over_goals_for_one_seed_and_over_seeds_for_several():
    mean, half = page.interval_of([np.array([[1.0], [3.0]])])
    assert (mean, half) == (2.0, pytest.approx(1.96 / 2**0.5))
    mean, half = page.interval_of([np.array([[1.0], [3.0]]), np.array([[4.0], [4.0]]), np.array([[0.0], [0.0]])])
    assert (mean, half) == (2.0, pytest.approx(4.303 * 2 / 3**0.5))


def test_a_row_says_by_how_much_it_falls_short():
    figures = [Published("MAML", 20, step, value, 1.0, "") for step, value in enumerate((-50.0, 293.2))]
    line = page.ours_beside("MAML", "", [(run(), np.full((4, 2), (-50.0, 290.0)))], figures)
    assert line == "| MAML, ours | -50.0 ± 0.0 | 290.0 ± 0.0 |  |  | 3.2 | 100 | 1:00 |"


def test_pictures_are_of_the_recipe_as_it_is_and_what_is_missing_is_said(monkeypatch):
    runs = [run(1), run(0), run(0, changes="--outer.update ppo"), run(0, steps=1)]
    runs = [each | {"algorithm": "maml"} for each in runs]
    assert [each["seed"] for each in rl_pictures.chosen(runs, "rl-cheetah-direction")] == [0, 1]
    monkeypatch.setattr(rl_pictures, "kept", lambda: runs)
    said = "\n".join(rl_pictures.section())
    assert "100 iterations, seed 0, 1" in said
    assert "![returns on each goal](images/rl-cheetah-direction-goals.svg)" in said
    assert said.count("Not yet measured.") == 4


def test_a_tree_is_held_against_another_round_by_round():
    before = [{"seconds": second, "simulator": 1.0} for second in (4.0, 8.0, 5.0)]
    after = [{"seconds": second, "simulator": 1.0} for second in (2.0, 2.0, 2.0)]
    found = iteration_ratio.row([before, after], ["one", "other"])
    assert found["ratio"] == 0.4
    assert found["seconds"] == [5.0, 2.0]
    assert found["outside_of_simulator"] == [0.8, 0.5]
