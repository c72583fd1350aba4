"""What a run records of the machine and of the source that it ran from."""

import subprocess

from innerloop.runs import machine


def test_a_copy_without_its_repository_is_of_the_commit_that_it_was_built_from(monkeypatch):
    def no_repository(*arguments, **keywords):
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(subprocess, "run", no_repository)
    assert machine.commit() is None
    monkeypatch.setenv("INNERLOOP_COMMIT", "0123abc")
    assert machine.commit() == "0123abc"
