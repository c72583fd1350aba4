"""Learners of images beside what needs no training, on the same episodes."""

import jax
import numpy as np

from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.design import Design
from innerloop.tabular.features import Feature, Preparation
from innerloop.tabular.learner import initial
from innerloop.tabular.rows import Rows
from innerloop.workloads.tabular import image_evaluation
from innerloop.workloads.tabular.verdict import OURS, UNTRAINED


def test_the_nearest_image_and_the_untrained_learner_see_the_same_episodes(monkeypatch):
    monkeypatch.setattr(image_evaluation, "EPISODES", 10)
    random = np.random.default_rng(0)
    patterns = random.integers(0, 256, (6, 1, 16))
    pixels = np.clip(patterns + random.normal(0, 5, (6, 5, 16)), 0, 255).astype(np.uint8).reshape(30, 16)
    classes = np.repeat(np.array(list("abcdef"), object), 5)
    rows = Rows({"image": pixels}, classes, np.zeros(30, np.int32), ("all",), image=(4, 4, 1))
    design = Design(widths=(4,), steps=1, image=(4, 4, 1), shared_labels=False)
    preparation = Preparation((Feature("image", "counts", 16, tuple(range(16))),))
    learned = TrainedLearner(design, preparation, initial(design, preparation.sizes, 3, jax.random.key(0)))
    found = image_evaluation.evaluate_images(learned, rows, 3, (1, 2), 2, learned)
    means = {(row["method"], row["size"]): row["metrics"]["accuracy"][0] for row in found.values["rows"]}
    assert means[image_evaluation.NEAREST, 1] == means[image_evaluation.NEAREST, 2] == 1.0
    assert means[OURS, 2] == means[UNTRAINED, 2]
    differences = {row["method"]: row["metrics"]["accuracy"][0] for row in found.values["differences"]}
    assert differences[UNTRAINED] == 0.0
    assert differences[image_evaluation.NEAREST] <= 0.0
