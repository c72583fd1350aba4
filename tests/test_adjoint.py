"""Every adjoint against closed forms, and the exact ones against each other and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from innerloop import (
    Annealed,
    ConjugateGradient,
    FirstOrder,
    Implicit,
    Meta,
    Mixed,
    PerStep,
    Reverse,
    Task,
    Truncated,
    adapt,
    implicit_diagnostics,
    losses,
    meta_loss,
    models,
    rules,
)
from innerloop.core.adjoints import mixed_value_and_grad
from innerloop.core.trees import differentiable
from innerloop.errors import InnerloopError
from networks import NETWORKS, some_slow, vectors
from oracles import adapted, finite_difference, maml_gradient, quadratic_loss, quadratic_task, relative_error

pytestmark = pytest.mark.usefixtures("x64")

KEY = jax.random.key(0)
LOOPS = [pytest.param(0, id="scan"), pytest.param(9, id="unrolled")]
RULES = {
    "sgd": lambda: rules.sgd(0.1),
    "momentum": lambda: rules.from_optax(optax.sgd(0.1, momentum=0.9)),
    "nesterov": lambda: rules.from_optax(optax.sgd(0.1, momentum=0.9, nesterov=True)),
    "adam": lambda: rules.from_optax(optax.adam(0.01, eps_root=1e-8)),
    "rmsprop": lambda: rules.from_optax(optax.rmsprop(0.01, eps_in_sqrt=True)),
    "adamw-clipped": lambda: rules.from_optax(
        optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.01, eps_root=1e-8, weight_decay=0.1))
    ),
    "schedule": lambda: rules.from_optax(optax.sgd(optax.cosine_decay_schedule(0.1, 5))),
    "meta-sgd": lambda: rules.meta_sgd(0.1),
    "bounded": lambda: rules.bounded(rules.meta_sgd(0.1), growth=0.5),
    "learned-adam": lambda: rules.trainable(
        lambda h: optax.adam(h["rate"], b1=h["decay"], eps_root=1e-8), {"rate": 0.01, "decay": 0.8}
    ),
    "step-per-step": lambda: rules.InnerRule(
        init=lambda params: jnp.array([0.1, 0.05, 0.2]),
        transform=lambda rates, step: optax.sgd(rates[step]),
        adapts=differentiable,
    ),
    "head-only": lambda: rules.masked(rules.meta_sgd(0.1), lambda path, leaf: path.startswith("head")),
}


def gradient(adjoint, loss, rule, steps, meta, task):
    """The meta-gradient in everything that `meta` holds."""
    return jax.jit(jax.grad(lambda m: meta_loss(loss, rule=rule, steps=steps, adjoint=adjoint)(m, task, KEY)[0]))(meta)


@pytest.mark.parametrize("unroll", LOOPS)
@pytest.mark.parametrize("steps", [0, 1, 3, 7])
@pytest.mark.parametrize(
    ("make", "exact_steps"),
    [
        (lambda unroll: Reverse(unroll), None),
        (lambda unroll: Mixed(unroll), None),
        (lambda unroll: Mixed(segment=3 if unroll else 1), None),
        (lambda unroll: FirstOrder(unroll), 0),
        (lambda unroll: Truncated(2, Mixed(unroll)), 2),
        (lambda unroll: Truncated(2, Reverse(unroll)), 2),
        (lambda unroll: Truncated(0), 0),
    ],
    ids=["reverse", "mixed", "mixed-segmented", "first-order", "truncated-mixed", "truncated-reverse", "truncated-0"],
)
def test_closed_form(make, exact_steps, steps, unroll):
    theta, task = jnp.arange(4.0), quadratic_task(1)
    actual = gradient(make(unroll), quadratic_loss, rules.sgd(0.1), steps, Meta(theta, ()), task).params
    assert relative_error(actual, maml_gradient(theta, task, 0.1, steps, exact_steps)) < 1e-10


@pytest.mark.parametrize("steps", [1, 3])
def test_closed_form_of_one_step_size_for_each_parameter(steps):
    theta, task, rates = jnp.arange(4.0), quadratic_task(2), jnp.array([0.1, 0.2, 0.05, 0.0])
    actual = gradient(Mixed(), quadratic_loss, rules.meta_sgd(0.1), steps, Meta(theta, rates), task)
    assert relative_error(actual.params, maml_gradient(theta, task, rates, steps)) < 1e-10

    def after(rates):
        return quadratic_loss(adapted(theta, task, rates, steps), task.query, KEY)[0]

    assert relative_error(actual.rule, jax.grad(after)(rates)) < 1e-10


def implicit(steps=400, task=None, loss=quadratic_loss, meta=None, **options):
    """The implicit meta-gradient of a converged inner loop, its metrics, and its diagnostics."""
    settings = {"rule": rules.sgd(0.1), "steps": steps, "adjoint": Implicit(regularisation=0.7, **options)}
    meta, task = Meta(jnp.arange(4.0), ()) if meta is None else meta, task or quadratic_task(0)
    gradient, metrics = jax.jit(jax.grad(meta_loss(loss, **settings), has_aux=True))(meta, task, KEY)
    told = jax.jit(implicit_diagnostics(loss, **settings))(meta, task, KEY)
    np.testing.assert_allclose(told["stationarity"], metrics["stationarity"], rtol=1e-12)
    return gradient, told


def test_implicit_gradient_of_quadratics():
    """λ (A + λI)⁻¹ B (θ* - b), with θ* = (A + λI)⁻¹ (A a + λθ)."""
    theta, task = jnp.arange(4.0), quadratic_task(0)
    (a, A), (b, B), eye = task.support, task.query, 0.7 * jnp.eye(4)
    end = jnp.linalg.solve(A + eye, A @ a + 0.7 * theta)
    expected = 0.7 * jnp.linalg.solve(A + eye, B @ (end - b))
    gradient, metrics = implicit(solver=ConjugateGradient(10, 1e-12))
    assert relative_error(gradient.params, expected) < 1e-10
    assert metrics["unsolved"] == 0
    assert metrics["stationarity"] < 1e-10


def test_implicit_gradient_is_that_of_the_minimum():
    """By finite differences through a converged inner loop, also in parameters that it leaves alone, and data."""

    def loss(params, batch, key):
        value, _ = quadratic_loss(params["fast"], batch, key)
        return value + 0.1 * jnp.sum(jnp.cos(params["fast"] * params["shared"])), {}

    rule = rules.masked(rules.sgd(0.1), lambda path, _: path == "fast")
    value = meta_loss(loss, rule=rule, steps=400, adjoint=Implicit(0.7, ConjugateGradient(40, 1e-12)))
    params, task = {"fast": jnp.arange(4.0), "shared": jnp.array([0.5, -1.0, 2.0, 0.1])}, quadratic_task(0)
    whole = jax.jit(lambda params: value(Meta(params, ()), task, KEY)[0])
    slope, direction = finite_difference(whole, params)
    gradient = jax.jit(jax.grad(whole))(params)
    along = sum(jnp.vdot(gradient[name], direction[name]) for name in params)
    np.testing.assert_allclose(along, slope, rtol=1e-7)


def test_implicit_gradient_in_data_and_in_what_the_loss_closes_over():
    """With θ* = (sA + λI)⁻¹ (sA a + λθ): in the support set's centre and curvature, in a factor s that the loss closes
    over, and in the query set, each by the closed form.
    """
    theta, coef, task = jnp.arange(4.0), 0.7, quadratic_task(0)

    def closed_form(theta, support, query, scale):
        (a, A), (b, B) = support, query
        A, B = (A + A.T) / 2, (B + B.T) / 2  # as the loss takes them
        end = jnp.linalg.solve(scale * A + coef * jnp.eye(4), scale * A @ a + coef * theta)
        return 0.5 * (end - b) @ B @ (end - b)

    def implicit_value(theta, support, query, scale):
        def loss(params, batch, key):
            offset = params - batch.centre
            return 0.5 * scale * offset @ batch.curvature @ offset, {}

        adjoint = Implicit(coef, ConjugateGradient(10, 1e-12))
        value = meta_loss(loss, rule=rules.sgd(0.1), steps=400, adjoint=adjoint, query_loss=quadratic_loss)
        return value(Meta(theta, ()), Task(support, query), KEY)[0]

    arguments = theta, task.support, task.query, jnp.asarray(1.3)
    expected = jax.grad(closed_form, (0, 1, 2, 3))(*arguments)
    actual = jax.jit(jax.grad(implicit_value, (0, 1, 2, 3)))(*arguments)
    for ours, theirs in zip(actual, expected, strict=True):
        assert relative_error(ours, theirs) < 1e-10
    batched = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), arguments)
    ours, theirs = (jax.vmap(jax.grad(of, (0, 1, 2, 3)))(*batched) for of in (implicit_value, closed_form))
    assert relative_error(ours, theirs) < 1e-10


def test_an_unsolved_system_and_an_unfinished_inner_loop_are_told():
    _, metrics = implicit(solver=ConjugateGradient(1, 1e-12))
    assert metrics["unsolved"] == 1
    _, metrics = implicit(steps=1)
    assert metrics["unsolved"] == 0
    assert metrics["stationarity"] > 0.1


def test_a_searched_inner_loop_ends_at_its_minimum_where_a_plain_one_diverges():
    """A step size of twenty times what gradient descent holds: the search ends at θ*, and the gradient is that of θ*.

    No step may raise the regularised loss, and the trajectory is what was taken.
    """
    theta, task, coef = jnp.arange(4.0), quadratic_task(0), 0.7
    (a, A), (b, B), eye = task.support, task.query, coef * jnp.eye(4)
    end = jnp.linalg.solve(A + eye, A @ a + coef * theta)
    expected = coef * jnp.linalg.solve(A + eye, B @ (end - b))
    steep = rules.sgd(20 * 2 / float(jnp.linalg.eigvalsh(A + eye)[-1]))
    found = {}
    for search in (False, True):
        adjoint = Implicit(coef, ConjugateGradient(10, 1e-12), line_search=search)
        value = jax.jit(jax.grad(meta_loss(quadratic_loss, rule=steep, steps=300, adjoint=adjoint), has_aux=True))
        found[search] = value(Meta(theta, ()), task, KEY)
    assert not relative_error(found[False][0].params, expected) < 1
    assert relative_error(found[True][0].params, expected) < 1e-8
    assert found[True][1]["stationarity"] < 1e-8
    adapted = adapt(
        quadratic_loss, Meta(theta, ()), task.support, KEY, rule=steep, steps=40, adjoint=adjoint, trajectory=True
    )
    path = adapted.trajectory
    values = jax.vmap(lambda phi: quadratic_loss(phi, task.support, KEY)[0] + coef / 2 * jnp.sum((phi - theta) ** 2))
    assert (jnp.diff(values(path)) <= 0).all()
    assert (path[1] == path[0]).all()  # refused
    np.testing.assert_array_equal(path[-1], adapted.params)
    plain = jax.vmap(lambda phi: quadratic_loss(phi, task.support, KEY)[0])(path[:-1])
    np.testing.assert_allclose(adapted.losses, plain, rtol=1e-12)


def test_what_implicit_cannot_do_is_refused():
    with pytest.raises(InnerloopError, match=r"Implicit\(regularisation=-1.0\) needs a positive number"):
        Implicit(-1.0)
    with pytest.raises(InnerloopError, match="at least 1 step"):
        ConjugateGradient(0)
    task = quadratic_task(0)
    with pytest.raises(InnerloopError, match="needs one support batch for all inner steps"):
        implicit(steps=1, task=task._replace(support=PerStep(jax.tree.map(lambda leaf: leaf[None], task.support))))


def test_annealed_must_know_how_far_training_is():
    with pytest.raises(InnerloopError, match=r"Annealed changes over training.*meta_step\(iterations=\.\.\.\)"):
        gradient(Annealed(), quadratic_loss, rules.sgd(0.1), 1, Meta(jnp.arange(4.0), ()), quadratic_task(0))


@pytest.mark.parametrize("name", some_slow(RULES, "adamw-clipped", "nesterov", "learned-adam"))
def test_every_rule(name):
    """Mixed equals Reverse equals finite differences, in the initialisation and in the rule's own parameters."""
    rule, task = RULES[name](), vectors()
    model = models.mlp(3, (8,), 2, activation=jnp.tanh, initializer=models.glorot)
    loss = losses.supervised(model, losses.squared_error)
    params = model.init(KEY)
    meta = Meta(params, rule.init(params))
    agree(loss, rule, meta, task, steps=3)
    reverse, scanned = (gradient(adjoint, loss, rule, 3, meta, task) for adjoint in (Reverse(), Mixed(unroll=0)))
    assert relative_error(scanned, reverse) < 1e-10


@pytest.mark.parametrize(
    "name",
    some_slow(
        NETWORKS,
        "resnet12",
        "nnx-transformer",
        "nnx-recurrent",
        "convnet-stride",
        "convnet-unnormalised",
        "linen-conv",
        "equinox-gru",
    ),
)
def test_every_network(name):
    model, task, criterion, step = NETWORKS[name]()
    loss = losses.supervised(model, criterion)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), jax.jit(model.init)(KEY))
    smooth_adam = rules.from_optax(optax.adam(0.01, eps_root=1e-2))  # smooth on the scale of the finite differences
    agree(loss, smooth_adam, Meta(params, ()), task, steps=2, step=step)


def agree(loss, rule, meta, task, steps, step=5e-4):
    """Mixed equals Reverse, and the derivative along a random direction equals finite differences."""
    reverse = gradient(Reverse(), loss, rule, steps, meta, task)
    assert relative_error(gradient(Mixed(), loss, rule, steps, meta, task), reverse) < 1e-10
    value = jax.jit(lambda meta: meta_loss(loss, rule=rule, steps=steps)(meta, task, KEY)[0])
    slope, direction = finite_difference(value, meta, step=step)
    predicted = jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, reverse, direction))
    assert abs(predicted - slope) < 1e-10 * optax.tree.norm(reverse)


def test_learned_loss_parameters_data_and_weights():
    """The loss may close over what is learned, and floats among its data get their derivative too."""
    theta, task = jnp.arange(3.0), vectors(3, 3)

    def after(adjoint, learned):
        def loss(params, batch, key):
            error = jnp.tanh(batch.x * params) - batch.y * learned["scale"]
            return jnp.mean((error**2) ** learned["power"]) + jnp.sum(learned["decay"] * params**2), {}

        support = task.support._replace(x=learned["x"])
        state = adapt(loss, Meta(theta, ()), support, KEY, rule=rules.sgd(0.1), steps=3, adjoint=adjoint)
        return jnp.sum(jnp.sin(state.params)) + jnp.sum(state.losses**2)

    learned = {"scale": 0.7, "power": 2.3, "decay": jnp.array([0.1, 0.2, 0.3]), "x": task.support.x}
    learned = jax.tree.map(jnp.asarray, learned)
    reverse = jax.grad(lambda learned: after(Reverse(), learned))(learned)
    mixed = jax.grad(lambda learned: after(Mixed(), learned))(learned)
    assert relative_error(mixed, reverse) < 1e-10
    slope, direction = finite_difference(lambda learned: after(Reverse(), learned), learned)
    predicted = jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, mixed, direction))
    assert abs(predicted - slope) < 1e-10 * optax.tree.norm(mixed)


def test_first_order_takes_the_inner_gradient_for_a_number():
    """Whatever it depends on: parameters, data, leaves that are not adapted, values that the loss closes over."""
    theta, task = jnp.arange(4.0), quadratic_task(3)

    def end(theta, scale):
        loss = lambda params, batch, key: (scale * quadratic_loss(params, batch, key)[0], {})  # noqa: E731
        rule = rules.sgd(0.1)
        state = adapt(loss, Meta(theta, ()), task.support, KEY, rule=rule, steps=2, adjoint=FirstOrder())
        return jnp.sum(state.params) + jax.lax.stop_gradient(jnp.sum(state.losses))

    of_theta, of_scale = jax.grad(end, (0, 1))(theta, 2.0)
    np.testing.assert_array_equal(of_theta, jnp.ones(4))
    assert of_scale == 0


NO_LOSSES = [FirstOrder(), FirstOrder(0), Truncated(1), Truncated(0), Annealed(), Implicit()]
NAMES = r"(FirstOrder|Truncated\(last=\d\)|Annealed) takes inner gradients .* jax.lax.stop_gradient|Implicit has .* end"
WRAPPED = {
    "plainly": lambda f: f,
    "jit": jax.jit,
    "vmap": lambda f: lambda t, *rest: jnp.sum(jax.vmap(lambda t: f(t, *rest))(jnp.stack([t, t]))),
    "scan": lambda f: lambda *at: jax.lax.scan(lambda total, _: (total + f(*at), None), 0.0, jnp.arange(2))[0],
    "checkpoint": jax.checkpoint,
}


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("adjoint", NO_LOSSES, ids=str)
def test_a_derivative_of_inner_losses_that_is_not_known_is_refused(adjoint, wrap):
    """In the start, in data, in what the loss closes over; and nobody else is disturbed."""
    task = quadratic_task(3)

    def value(theta, centre, scale, used):
        loss = lambda params, batch, key: (scale * quadratic_loss(params, batch, key)[0], {})  # noqa: E731
        support = task.support._replace(centre=centre)
        settings = {"rule": rules.sgd(0.1), "steps": 3, "adjoint": adjoint, "progress": 0.1}
        state = adapt(loss, Meta(theta, ()), support, KEY, **settings)
        return jnp.sum(state.params) + (jnp.sum(state.losses) if used else jax.lax.stop_gradient(state.losses[0]))

    arguments = jnp.arange(4.0), task.support.centre, jnp.asarray(2.0)
    for argument in range(3):
        with pytest.raises(InnerloopError, match=NAMES):
            jax.grad(WRAPPED[wrap](lambda *at: value(*at, used=True)), argument)(*arguments)
    gradient = jax.grad(WRAPPED[wrap](lambda *at: value(*at, used=False)))(*arguments)
    assert gradient.any()
    value(*arguments, used=True)  # where nothing is differentiated they are numbers


def test_the_trajectory_of_an_implicit_gradient_is_refused():
    task = quadratic_task(3)

    def half_way(theta):
        settings = {"rule": rules.sgd(0.1), "steps": 3, "adjoint": Implicit(), "trajectory": True}
        return jnp.sum(adapt(quadratic_loss, Meta(theta, ()), task.support, KEY, **settings).trajectory[1])

    with pytest.raises(InnerloopError, match="Implicit has the derivative of the inner loop's end and not of the way"):
        jax.grad(half_way)(jnp.arange(4.0))


def test_late_losses_of_a_truncated_loop_are_exact():
    """Where all steps are late, nothing is refused."""
    theta, task = jnp.arange(4.0), quadratic_task(3)

    def losses_of(adjoint, theta):
        state = adapt(quadratic_loss, Meta(theta, ()), task.support, KEY, rule=rules.sgd(0.1), steps=2, adjoint=adjoint)
        return jnp.sum(state.losses)

    exact, truncated = (jax.grad(lambda t, of=of: losses_of(of, t))(theta) for of in (Reverse(), Truncated(2)))
    assert relative_error(truncated, exact) < 1e-12


@pytest.mark.parametrize("adjoint", [FirstOrder(), Truncated(1), Implicit()], ids=str)
def test_forward_mode_through_what_has_none_is_refused_in_a_sentence(adjoint):
    value = meta_loss(quadratic_loss, rule=rules.sgd(0.1), steps=2, adjoint=adjoint)
    of_theta = lambda theta: value(Meta(theta, ()), quadratic_task(0), KEY)[0]  # noqa: E731
    with pytest.raises(InnerloopError, match="has no forward mode"):
        jax.jvp(of_theta, (jnp.arange(4.0),), (jnp.ones(4),))


def test_second_derivative_of_the_implicit_value():
    """λ² (A + λI)⁻¹ B (A + λI)⁻¹, in reverse mode twice; forward over reverse mode is refused."""
    theta, coef, task = jnp.arange(4.0), 0.7, quadratic_task(0)
    value = meta_loss(
        quadratic_loss, rule=rules.sgd(0.1), steps=400, adjoint=Implicit(coef, ConjugateGradient(10, 1e-12))
    )
    of_theta = lambda theta: value(Meta(theta, ()), task, KEY)[0]  # noqa: E731
    inverse = jnp.linalg.inv(task.support.curvature + coef * jnp.eye(4))
    expected = coef**2 * inverse @ task.query.curvature @ inverse
    assert relative_error(jax.jacrev(jax.grad(of_theta))(theta), expected) < 1e-10
    with pytest.raises(InnerloopError, match="Implicit has no forward mode"):
        jax.jvp(jax.grad(of_theta), (theta,), (jnp.ones(4),))


def test_gradient_through_the_inner_losses():
    """An objective may use the support losses along the way; their cotangent flows back as well."""
    theta, task = jnp.arange(4.0), quadratic_task(3)

    def path_length(adjoint, theta):
        state = adapt(quadratic_loss, Meta(theta, ()), task.support, KEY, rule=rules.sgd(0.1), steps=3, adjoint=adjoint)
        return jnp.sum(state.losses * jnp.arange(1.0, 4.0))

    expected = jax.grad(lambda theta: path_length(Reverse(), theta))(theta)
    assert relative_error(jax.grad(lambda theta: path_length(Mixed(), theta))(theta), expected) < 1e-12


@pytest.mark.parametrize("unroll", LOOPS)
def test_one_batch_for_each_step(unroll):
    theta, tasks = jnp.arange(4.0), [quadratic_task(seed) for seed in range(3)]
    support = PerStep(jax.tree.map(lambda *leaves: jnp.stack(leaves), *[task.support for task in tasks]))

    def end(adjoint, theta):
        state = adapt(quadratic_loss, Meta(theta, ()), support, KEY, rule=rules.sgd(0.1), steps=3, adjoint=adjoint)
        return state.params

    expected = theta
    for task in tasks:
        expected = adapted(expected, task, 0.1, 1)
    assert relative_error(end(Mixed(unroll), theta), expected) < 1e-12
    jacobian = jax.jacrev(lambda theta: end(Mixed(unroll), theta))(theta)
    by_hand = jnp.eye(4)
    for task in tasks:
        by_hand = (jnp.eye(4) - 0.1 * task.support.curvature) @ by_hand
    assert relative_error(jacobian, by_hand) < 1e-12


def test_mixed_under_vmap_with_labels_closed_over():
    """Integer labels that are batched and closed over do not leak out of the custom derivative."""

    def end(theta, label):
        loss = lambda params, batch, key: (jnp.sum((params[label] - 1) ** 2 * jnp.sum(params)), {})  # noqa: E731
        return adapt(loss, Meta(theta, ()), jnp.zeros(1), KEY, rule=rules.sgd(0.1), steps=2).params

    labels, theta = jnp.arange(3), jnp.arange(1.0, 4.0)
    batched = jax.jit(jax.vmap(jax.jacrev(end), (None, 0)))(theta, labels)
    looped = jnp.stack([jax.jacrev(end)(theta, label) for label in labels])
    np.testing.assert_allclose(batched, looped, rtol=1e-12)


def test_hessian_vector_product_of_the_meta_loss():
    """Forward mode over the meta-gradient works through Mixed, as trust-region methods need."""
    theta, task = jnp.arange(4.0), quadratic_task(4)

    def product(adjoint, v):
        grad = jax.grad(
            lambda t: meta_loss(quadratic_loss, rule=rules.sgd(0.1), steps=2, adjoint=adjoint)(Meta(t, ()), task, KEY)[
                0
            ]
        )
        return jax.jvp(grad, (theta,), (v,))[1]

    v = jnp.ones(4)
    assert relative_error(product(Mixed(), v), product(Reverse(), v)) < 1e-12


def test_metrics_pass_through_and_carry_no_gradient():
    def loss(params, z):
        return jnp.sum(params**2), (None, {"size": jnp.sum(params), "count": jnp.int32(3)})

    (value, (_, metrics)), grad = mixed_value_and_grad(loss)(jnp.ones(2), None)
    assert (float(value), float(metrics["size"]), int(metrics["count"]), grad.tolist()) == (2.0, 2.0, 3, [2.0, 2.0])


def temporary_bytes(adjoint, steps):
    """Of the compiled meta-gradient of a network whose activations outweigh its parameters."""
    model, task = models.mlp(3, (16, 16), 2), vectors(examples=4000)
    loss, params = losses.supervised(model, losses.squared_error), model.init(KEY)
    value = meta_loss(loss, rule=rules.sgd(0.1), steps=steps, adjoint=adjoint)
    compiled = jax.jit(jax.grad(lambda t: value(Meta(t, ()), task, KEY)[0])).lower(params).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_of_a_long_inner_loop():
    """Mixed keeps parameters and no activations; Reverse keeps them of every step."""
    one, many = (temporary_bytes(Mixed(unroll=0), steps) for steps in (2, 60))
    parameters = 8 * sum(leaf.size for leaf in jax.tree.leaves(models.mlp(3, (16, 16), 2).init(KEY)))
    assert many <= one + 1.1 * 60 * parameters
    assert temporary_bytes(Mixed(segment=8), 60) <= one + 1.1 * 20 * parameters
    assert temporary_bytes(Reverse(unroll=0), 60) > 10 * many


@pytest.mark.parametrize("adjoint", [Implicit(), Truncated(last=1), FirstOrder()], ids=lambda each: type(each).__name__)
def test_memory_that_does_not_grow_with_the_inner_loop(adjoint):
    few, many = (temporary_bytes(adjoint, steps) for steps in (5, 100))
    assert many <= 1.1 * few


def test_first_order_takes_no_second_derivative():
    """The compiled first-order meta-gradient of a network costs less arithmetic than the exact one."""
    model = models.mlp(3, (32, 32), 2)
    loss, task, params = losses.supervised(model, losses.squared_error), vectors(), model.init(KEY)

    def flops(adjoint):
        grad = jax.grad(
            lambda t: meta_loss(loss, rule=rules.sgd(0.1), steps=1, adjoint=adjoint)(Meta(t, ()), task, KEY)[0]
        )
        return jax.jit(grad).lower(params).compile().cost_analysis()["flops"]

    assert flops(FirstOrder()) < 0.6 * flops(Mixed())


@pytest.mark.parametrize("adjoint", [Mixed(), Mixed(unroll=0), Mixed(segment=2)], ids=str)
@pytest.mark.parametrize("transform", [jax.jacfwd, lambda f: lambda x: jax.jvp(f, (x,), (x,))], ids=["jacfwd", "jvp"])
def test_forward_mode_through_mixed_is_refused_in_a_sentence(adjoint, transform):
    loss = lambda params, batch, key: (jnp.mean(jnp.tanh(params * batch) ** 2), {})  # noqa: E731
    through_mixed = meta_loss(loss, rule=rules.sgd(0.1), steps=3, adjoint=adjoint)
    task = Task(jnp.ones(3), jnp.ones(3))
    of_params = lambda params: through_mixed(Meta(params, ()), task, jax.random.key(0))[0]  # noqa: E731
    with pytest.raises(InnerloopError, match=r"Mixed has no forward mode .* use adjoint=Reverse\(\)"):
        transform(of_params)(1.0)
    third = jax.grad(jax.grad(jax.grad(of_params)))(1.0)
    reverse = meta_loss(loss, rule=rules.sgd(0.1), steps=3, adjoint=Reverse())
    exact = jax.grad(jax.grad(jax.grad(lambda params: reverse(Meta(params, ()), task, jax.random.key(0))[0])))(1.0)
    assert float(third) == pytest.approx(float(exact), rel=1e-4)
