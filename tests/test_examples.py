"""The examples run, and the lines of README.md with them."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))


def test_sinusoid(capsys):
    import sinusoid

    losses = sinusoid.main(2000)
    assert losses[10] < 0.8 * losses[0]
    assert "after 10 inner steps" in capsys.readouterr().out


@pytest.mark.slow
def test_learned_loss():
    import learned_loss

    plain, learned = learned_loss.main(500)
    assert learned < plain


@pytest.mark.slow
@pytest.mark.optimised
def test_transformer():
    import transformer

    assert transformer.main(36) > 0.6


def test_the_first_lines(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    exec(code.replace("10_000", "300"), {})
    before, after = map(float, capsys.readouterr().out.split())
    assert after < before


def test_every_example_is_one_short_file():
    for path in (ROOT / "examples").glob("*.py"):
        assert len(path.read_text().splitlines()) < 200


@pytest.mark.slow
@pytest.mark.optimised
def test_navigation():
    import navigation

    returns = navigation.main(3)
    assert returns.shape == (4,)
    assert returns[1] > returns[0]
