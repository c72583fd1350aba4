"""The page of 20 ways: curves over time and over meta-steps, from kept results alone."""

from benchmarks import twenty_ways as page


def result(changes, scores, minutes):
    points = [
        {"minutes": minutes * (i + 1), "meta_steps": 500 * (i + 1), page.SCORE: score} for i, score in enumerate(scores)
    ]
    machine = {"platform": "cpu", "cores": 2}
    common = {"recipe": "omniglot-20way-1shot", "algorithm": "maml+da", "changes": changes, "meta_steps": 1500}
    return {**common, "course": points, "environment": {"machine": machine, "command": []}}


def test_each_setting_has_its_scores_by_time_and_by_steps_and_when_it_was_good():
    slow, fast = result("", [0.1, 0.2, 0.3], 30), result("--inner.learning-rate 0.5", [0.6, 0.96, 0.97], 10)
    lines = page.table([fast, slow])
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:6]]
    assert cells[0][0] == "`maml+da --inner.learning-rate 0.5`"
    assert cells[0][1] == "1,500 of 60,000 (2 %)"
    assert cells[0][2:6] == ["60.0", "97.0", "", ""]
    assert cells[0][6:9] == ["60.0", "96.0", ""]
    assert cells[0][11] == "20:00, 1,000"
    assert cells[1][2:6] == ["", "10.0", "20.0", ""]
    assert cells[1][11] == ""
    assert "<svg" in page.picture([fast, slow])
    assert page.table([]) == ["*Not yet measured.*"]
