"""The mean over runs that differ in nothing but their seed, and its interval."""

import numpy as np

STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""The 97.5 % quantile of Student's t, by the number of seeds."""


def over_seeds(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of `[seeds, ...]` and the half-width of its 95 % interval."""
    quantile = STUDENT.get(len(means), 1.96)
    return means.mean(axis=0), quantile * means.std(axis=0, ddof=1) / np.sqrt(len(means))
