"""The comparison with other libraries, as far as it goes without them."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import innerloop as il
from benchmarks.peers import __main__ as program
from benchmarks.peers import page, with_innerloop, with_jax
from benchmarks.peers.arithmetic import multiply_adds, operations
from benchmarks.peers.measure import relative_error
from benchmarks.peers.problems import CASES, MINIIMAGENET, OMNIGLOT, SINUSOID, Convnet, problem
from networks import some_slow

SMALL = {
    "sinusoid": replace(SINUSOID, tasks=2, steps=2),
    "omniglot": replace(OMNIGLOT, network=Convnet((12, 12, 1), filters=4, blocks=2), tasks=2),
    "miniimagenet": replace(
        MINIIMAGENET, network=Convnet((8, 8, 3), filters=4, pooled=True, blocks=2), tasks=2, steps=1
    ),
}


@pytest.mark.parametrize("name", some_slow(SMALL, "omniglot", "miniimagenet"))
def test_ours_and_jax_by_hand_give_the_same_meta_gradient(name, x64):
    numbers = with_innerloop.in_double(problem(SMALL[name]))
    ours, by_hand = with_innerloop.exact(numbers), with_jax.mean_of_gradients(numbers)
    for each in (ours, by_hand):
        each.run()
    assert relative_error(by_hand.gradient(), ours.gradient()) < 1e-10


def test_problems_are_the_same_every_time():
    one, other = (problem(CASES["sinusoid-5"]) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one[1:], other[1:])


@pytest.mark.parametrize("pooled", [False, True])
def test_matrix_products_are_most_of_a_forward_pass(pooled):
    network = Convnet(pooled=pooled)
    numbers = problem(replace(OMNIGLOT, network=network, tasks=1))
    forward = jax.jit(with_innerloop.model_of(network).apply)
    compiled = forward.lower(with_innerloop.params_of(numbers), numbers.support.x[0]).compile()
    counted = numbers.case.support * 2 * sum(multiply_adds(network))
    assert counted < compiled.cost_analysis()["flops"] < 1.2 * counted


@pytest.mark.parametrize(("adjoint", "exact"), [(il.FirstOrder(), False), (il.Reverse(), True)])
def test_matrix_products_are_most_of_a_meta_gradient(adjoint, exact):
    case = replace(OMNIGLOT, network=Convnet(blocks=2), tasks=1)
    numbers = problem(case)
    gradient = jax.jit(il.meta_gradient(with_innerloop.meta_loss_of(case, adjoint)))
    meta = il.Meta(with_innerloop.params_of(numbers), ())
    compiled = gradient.lower(meta, with_innerloop.tasks_of(numbers), jax.random.key(0)).compile()
    counted = operations(case, exact=exact)
    assert counted < compiled.cost_analysis()["flops"] < 1.2 * counted


def test_a_curve_is_drawn_without_what_failed():
    point = {"seconds": 0.01, "peak_bytes": 10**8}
    sizes = {"1": point, "2": point, "5": {"failed": "out of memory"}}
    drawn = page.plot("sinusoid-steps", {"curves": {"sinusoid-steps": {"innerloop": sizes, "higher": {"1": point}}}})
    assert drawn.startswith("<svg")
    assert "higher" in drawn


def test_a_part_that_is_measured_again_leaves_the_others_and_says_where_it_was_measured(tmp_path, monkeypatch):
    environment = {"machine": {"processor": "one", "cores": 2}, "versions": {"jax": "1"}}
    part = {"ended": "2026-01-01", "minutes": 2, "commit": "a" * 40}
    earlier = {"environment": environment, "settings": {"limit": 60.0}, "measured": {"sinusoid-1": part}}
    monkeypatch.setattr(page, "RESULT", tmp_path / "peers.json")
    page.RESULT.write_text(json.dumps(earlier))
    fresh = {"settings": {"limit": 60.0}}
    assert program.kept(fresh, ["sinusoid-5"]) == earlier
    assert program.kept(fresh, program.PARTS) is fresh
    with pytest.raises(il.InnerloopError, match="was measured with limit 60; take the same"):
        program.kept({"settings": {"limit": 150.0}}, ["sinusoid-5"])
    assert page.circumstances(earlier) == "one with 2 cores; jax 1; commit aaaaaaaaaa; until 2026-01-01, 2 minutes."
    other = environment | {"machine": {"processor": "other", "cores": 2}}
    earlier["measured"]["sinusoid-5"] = part | {"environment": other}
    assert [line.split(" ")[:2] for line in page.circumstances(earlier).split("\n\n")] == [
        ["sinusoid-1:", "one"],
        ["sinusoid-5:", "other"],
    ]
