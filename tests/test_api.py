"""The public names, with their signatures, as they stand in a file; `make golden` writes it anew."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import innerloop
from golden.regenerate import public_api

ROOT = Path(__file__).parents[1]


def test_the_public_api_is_what_the_golden_file_says():
    golden = (ROOT / "tests" / "golden" / "api.txt").read_text()
    assert public_api() == golden, "the public API changed; if it was meant to, run: make golden"


def test_no_name_is_missing_or_told_to_type_checkers_alone():
    """What type checkers are told, what is listed, and what is found are the same."""
    tree = ast.parse((ROOT / "src" / "innerloop" / "__init__.py").read_text())
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told == set(innerloop.__all__)
    for name in told:
        assert getattr(innerloop, name) is not None
    assert set(innerloop.__all__) <= set(dir(innerloop))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        innerloop.nothing  # noqa: B018


def test_importing_innerloop_does_not_load_jax():
    code = "import sys, innerloop; assert innerloop.__version__; print('jax' in sys.modules, 'numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]
