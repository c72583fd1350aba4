"""Training reproduces its recorded loss curves; `make golden` records them anew."""

import json

import numpy as np
import pytest

from golden.regenerate import HERE, RECIPES, curve
from networks import some_slow


@pytest.mark.optimised
@pytest.mark.parametrize("name", some_slow(RECIPES, "shapes"))
def test_loss_curve(name):
    recorded = json.loads((HERE / f"{name}.json").read_text())
    np.testing.assert_allclose(curve(name), recorded, rtol=1e-6)  # other processors round differently
    assert min(recorded) < 0.9 * recorded[0]
