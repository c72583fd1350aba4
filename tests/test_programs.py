"""Compiled programs are kept for the library too, without touching the settings of who calls it."""

import threading
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from innerloop import FewShotRegressor, programs
from innerloop.tabular import adaptation, learner
from learners import task, untrained


@pytest.fixture(autouse=True)
def as_a_caller_finds_jax(tmp_path, monkeypatch) -> Iterator[None]:
    monkeypatch.setenv("INNERLOOP_CACHE", str(tmp_path))
    before = {name: getattr(jax.config, name) for name in programs.SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def settings():
    return [getattr(jax.config, name) for name in programs.SETTINGS]


def compiled(run) -> tuple[int, int]:
    """Programs that came from the cache, and others, of what a call computes."""
    seen: list[str] = []
    listener = lambda event, **_: seen.append(event)  # noqa: E731
    jax.clear_caches()
    jax.monitoring.register_event_listener(listener)
    try:
        run()
    finally:
        jax.monitoring.unregister_event_listener(listener)
    return tuple(seen.count(f"/jax/compilation_cache/cache_{what}") for what in ("hits", "misses"))  # pyright: ignore


def test_a_program_is_compiled_once_and_the_callers_settings_stay(tmp_path):
    x = jnp.arange(20.0).reshape(10, 2)
    run = lambda: FewShotRegressor().fit(x, x[:, 0]).predict(x)  # noqa: E731
    first, again = compiled(run), compiled(run)
    assert first[1] > 0
    assert again == (sum(first), 0)
    assert settings() == [None, 1.0]
    kept = len(list((tmp_path / "xla").glob("*-cache")))
    jax.jit(lambda x: x + 17)(1.0)
    assert len(list((tmp_path / "xla").glob("*-cache"))) == kept
    (entry, *_) = (tmp_path / "xla").glob("*-cache")
    entry.write_bytes(entry.read_bytes()[:-1] + b"x")
    assert compiled(run)[1] == 1  # what is damaged is compiled again


def test_threads_share_it_and_the_last_one_gives_it_back(tmp_path):
    with programs.kept():
        inside = [str(tmp_path / "xla"), 0.0]
        assert settings() == inside

        def other() -> None:
            with programs.kept():
                assert settings() == inside

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert settings() == inside
    assert settings() == [None, 1.0]


def test_what_the_user_told_jax_holds(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    with programs.kept():
        assert settings() == [str(tmp_path / "own"), 1.0]
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        with programs.kept():
            assert settings() == [None, 1.0]
    finally:
        jax.config.update("jax_enable_compilation_cache", True)


def test_a_home_that_cannot_be_written_to_is_no_reason_not_to_predict(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INNERLOOP_CACHE", str(tmp_path / "file" / "below"))
    with programs.kept():
        assert settings() == [None, 1.0]


def test_there_is_one_program_for_each_bucket_of_sizes():
    learned = untrained("regression")
    random = np.random.default_rng(0)

    def once(known: int, asked: int) -> None:
        rows, _ = task(known + asked)
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        support, query = (
            {name: part[at] for name, part in columns.items()} for at in (slice(known), slice(known, None))
        )
        adaptation.adapt(learned, support, random.normal(size=known), np.ones(known)).targets(query)

    once(16, 60)
    before = learner.adapt_tasks._cache_size(), learner.outputs_of_members._cache_size()
    for known, asked in ((9, 1), (12, 64), (15, 33)):
        once(known, asked)
    assert (learner.adapt_tasks._cache_size(), learner.outputs_of_members._cache_size()) == before
    once(17, 5)
    assert learner.adapt_tasks._cache_size() == before[0] + 1
