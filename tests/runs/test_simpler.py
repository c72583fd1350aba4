"""A report says where a simpler model does as well."""

import numpy as np
import pytest

from innerloop.runs import simpler
from innerloop.runs.workload import Comparable

OURS = np.array([1.0, 2.0, 3.0, 4.0])


def said(theirs, ours=OURS, *, lower=False, baselines=("plain",)):
    scores = [
        Comparable("score", np.stack([0 * np.array(ours), ours], axis=1), lower),
        Comparable("score", np.asarray(theirs)[:, None], lower, "plain"),
        Comparable("score", np.asarray(theirs)[:, None], lower, "told more"),
        Comparable("another score", np.asarray(theirs)[:, None], lower, "plain"),
    ]
    return [each.split(":")[0] for each in simpler.remarks(scores, baselines, digits=2)]


def test_what_counts_is_the_difference_on_each_task_where_adaptation_ends():
    assert said(OURS - 0.1) == []
    assert said(OURS + 0.1) == ["a simpler model does better"]  # though tasks differ by far more than that
    assert said(OURS + np.array([0.1, -0.1, 0.1, -0.1])) == ["a simpler model does as well"]


def test_lower_may_be_better():
    assert said(OURS + 0.1, lower=True) == []
    assert said(OURS - 0.1, lower=True) == ["a simpler model does better"]


def test_a_baseline_that_is_told_more_is_not_compared_and_one_task_decides_nothing():
    assert said(OURS + 0.1, baselines=()) == []
    assert said([2.0], ours=[1.0]) == []
    assert said([np.nan, 1.0, 1.0, 1.0]) == []


def test_the_sentence_has_both_scores_and_the_difference():
    scores = [Comparable("return", OURS[:, None], False), Comparable("return", OURS[:, None] + 1, False, "plain")]
    (sentence,) = simpler.remarks(scores, ["plain"], digits=1)
    assert sentence == "a simpler model does better: plain (return 3.5, this one 2.5; difference 1.0 ± 0.0)"


@pytest.mark.parametrize("digits", [0, 3])
def test_scores_have_the_digits_of_the_table(digits):
    scores = [Comparable("loss", OURS[:, None], True), Comparable("loss", OURS[:, None], True, "plain")]
    assert f"{0.0:.{digits}f} ± {0.0:.{digits}f}" in simpler.remarks(scores, ["plain"], digits=digits)[0]
