"""The page of what holds a training: from kept results alone, with what diverged counted and not averaged."""

from benchmarks import stability


def test_what_diverged_is_counted_and_not_averaged(monkeypatch):
    settings = {"inner__steps": 50, "inner__learning_rate": 0.03}
    common = {"algorithm": "maml++", "part": "test", "seconds_per_meta_step": 0.05}
    rows = [
        {**common, "settings": settings, "losses": [1.0, None, 3.0]},
        {**common, "settings": settings | stability.GROWTH, "losses": [1.0, 2.0, 3.0]},
        {**common, "settings": settings | stability.SEARCH, "losses": [None]},
    ]
    result = {"command": "the command", "commit": "0123456789abc", "machine": {"processor": "a processor"}}
    monkeypatch.setattr(stability, "read", lambda name: result | {"rows": rows} if name == "long" else None)
    text = stability.page()
    assert "| 50 | 0.03 | none | 2 of 3 | 2 (1 to 3) | 50.00 |" in text
    assert "| 50 | 0.03 | growth 1 | 3 of 3 | 2 (1 to 3) | 50.00 |" in text
    assert "| 50 | 0.03 | searched | 0 of 1 |  | 50.00 |" in text
    assert "(`the command`, commit 0123456789, a processor)" in text
    assert "*validation* tasks" not in text


def test_a_row_that_was_measured_before_is_not_measured_again(monkeypatch):
    monkeypatch.setattr(stability, "measured", lambda algorithm, seeds, part, **settings: (algorithm, settings))
    anil, bounded, imaml = list(stability.rows())[:3]
    assert [anil[0], bounded[0], imaml[0]] == ["anil", "anil", "imaml"]
    known = {"algorithm": "anil", "settings": anil[1], "losses": [0.5]}
    assert list(stability.rows([known]))[:2] == [known, bounded]
