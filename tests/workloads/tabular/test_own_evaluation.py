"""What scores are made of, against scikit-learn and by counting."""

import numpy as np
import pytest

from innerloop.tabular.draws import stratified
from innerloop.tabular.identity import identities
from innerloop.tabular.rows import Rows, part_named, split, usable
from innerloop.workloads.tabular.audit import roc_area
from innerloop.workloads.tabular.metrics import average_precision, metrics_of

RNG = np.random.default_rng(0)


def test_areas_are_those_of_scikit_learn_also_with_ties():
    metrics = pytest.importorskip("sklearn.metrics")
    for levels in (3, 1000):
        positive, scores = RNG.random(200) < 0.3, RNG.integers(0, levels, 200) / levels
        assert average_precision(positive, scores) == pytest.approx(metrics.average_precision_score(positive, scores))
        assert roc_area(positive, scores) == pytest.approx(metrics.roc_auc_score(positive, scores))


@pytest.mark.parametrize("size", [4, 16, 17, 90])
def test_support_sets_have_the_classes_in_proportion_and_one_of_each_at_least(size):
    target = np.array(["a"] * 70 + ["b"] * 25 + ["c"] * 3, object)
    support, query = stratified(target, size, 0)
    assert sorted([*support, *query]) == list(range(98))
    assert len(support) == size
    labels, counts = np.unique(target[support].astype(str), return_counts=True)
    assert labels.tolist() == ["a", "b", "c"]
    exact = size * np.array([70, 25, 3]) / 98
    assert (np.abs(counts - exact) <= 1.5).all()
    assert not np.array_equal(support, stratified(target, size, 1)[0])


def test_scores_of_a_perfect_and_of_a_constant_prediction():
    target, sure = np.array(["no", "yes", "no", "yes"], object), np.eye(2)[[0, 1, 0, 1]]
    assert metrics_of(target, ("no", "yes"), sure) == {"delta-AUPRC": 0.5, "accuracy": 1.0}
    assert metrics_of(target, ("no", "yes"), np.full((4, 2), 0.5))["delta-AUPRC"] == 0
    values = RNG.normal(3, 2, 50)
    assert metrics_of(values, (), values) == {"relative error": 0.0, "correlation": pytest.approx(1)}
    constant = metrics_of(values, (), np.full(50, values.mean()))
    assert constant == {"relative error": pytest.approx(1), "correlation": pytest.approx(0, abs=1e-9)}


def rows(tasks=10, each=6):
    target = np.array((["a", "b"] * each * tasks)[: tasks * each], object)
    owners = np.repeat(np.arange(tasks), each).astype(np.int32)
    return Rows({"x": np.arange(float(tasks * each))}, target, owners, tuple(f"t{i}" for i in range(tasks)))


def test_tasks_are_split_and_never_rows():
    parts = split(rows(30), seed=3)
    names = [set(parts[part].names) for part in ("train", "valid", "test")]
    assert [len(each) for each in names] == [24, 3, 3]
    assert len(set.union(*names)) == 30
    for part in parts.values():
        assert set(part.columns["x"] // 6) == {int(name[1:]) for name in part.names}
    given = split(rows(3)._replace(parts=("train", "test", "train")), seed=0)
    assert {part: each.names for part, each in given.items()} == {"train": ("t0", "t2"), "test": ("t1",)}
    assert part_named(" Validation ") == "valid"


def test_what_cannot_be_learned_from_is_left_out_by_name():
    some = rows(4)
    some.target[:6] = "a"
    kept, left_out = usable(some, 6)
    assert kept.names == ("t1", "t2", "t3")
    assert left_out == [("t0", "one class only")]
    assert kept.tasks.tolist() == np.repeat([0, 1, 2], 6).tolist()


def test_labels_of_any_type_agree_as_texts():
    same = (1, 1.0, "1", np.int64(1), np.float32(1))
    assert [identities([value]).tolist() for value in same] == [["1"]] * len(same)
    assert [identities([value]).tolist() for value in (True, "TRUE", np.True_)] == [["true"]] * 3
    assert identities([None, "", float("nan")]).tolist() == [None] * 3
    assert identities([0.5]).tolist() == ["0.5"]
