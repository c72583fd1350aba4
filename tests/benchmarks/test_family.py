"""The pages of the family come from its table and from kept results alone."""

from benchmarks import algorithm_pages as pages
from benchmarks import family
from innerloop import ALGORITHMS
from innerloop.algorithms import PIECES


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
    monkeypatch.setattr(pages, "kept", lambda name: None)
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


def test_what_was_measured_is_shown_with_where_it_comes_from(monkeypatch):
    monkeypatch.setattr(pages, "kept", result)
    text = pages.index()
    assert "0.5 (0), 1 of 2 diverged; 10 ms, 5.0 MiB" in text
    assert "| sinusoid | [`maml`](maml.md) | 5 | 8 | all | 5.0 MiB |" in text
    assert "`the command`, commit 0123456789, a processor with 2 cores, jax 1." in text
    assert "1 diverged" in pages.steps_figure(result("steps"))


def test_what_is_measured_is_what_the_recipes_set():
    for algorithm in (*family.SEARCHED, *family.LONG):
        config = family.sinusoids(algorithm, inner__steps=7)
        assert (config.algorithm, config.inner.steps, config.layout.shards) == (algorithm, 7, 1)
