import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_on_eight

from ddm_embed.methods.byol import Byol
from ddm_embed.methods.method import Networks
from ddm_embed.methods.simclr import SimClr, nt_xent
from ddm_embed.models.auxiliary import Mlp
from ddm_embed.models.encoder import Embedding

X0, VIEW = jax.random.normal(jax.random.key(0), (2, 6, 2, 2, 1))
LINEAR = Networks(
    encode=lambda params, image, t: Embedding(image.reshape(len(image), -1) @ params["encoder"], ()),
    heads={
        "projector": lambda params, z: z @ params["projector"],
        "predictor": lambda params, p: p @ params["predictor"],
    },
)


def weights(seed):
    names = "encoder", "projector", "predictor"
    return {name: jax.random.normal(jax.random.key(3 * seed + i), (4, 4)) for i, name in enumerate(names)}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_contrast_is_equation_1_summed_pair_by_pair(temperature, decoupled):
    a, b = np.random.default_rng(0).normal(size=(2, 7, 5))
    rows = unit(np.stack([a, b], axis=1).reshape(14, 5))  # 2k and 2k + 1 are a pair, as in the paper

    def one_way(i, j):
        others = sum(np.exp(rows[i] @ rows[k] / temperature) for k in range(14) if k != i and (k != j or not decoupled))
        return -np.log(np.exp(rows[i] @ rows[j] / temperature) / others)

    expected = [(one_way(2 * k, 2 * k + 1) + one_way(2 * k + 1, 2 * k)) / 2 for k in range(7)]
    loss, accuracy = nt_xent(jnp.asarray(a), jnp.asarray(b), temperature, decoupled)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    nearest = [max((k for k in range(14) if k != i), key=lambda k: rows[i] @ rows[k]) for i in range(14)]
    assert float(accuracy.mean()) == pytest.approx(np.mean([nearest[i] == i ^ 1 for i in range(14)]))


def test_equal_views_far_from_others_are_found_and_cost_little():
    loss, accuracy = nt_xent(jnp.eye(8), jnp.eye(8), 0.05)
    assert float(loss.max()) < 1e-4 and float(accuracy.min()) == 1.0


def test_the_contrast_compares_the_projections_of_both_views():
    params, objective = weights(0), SimClr(0.5)
    draws = objective.draw(jax.random.key(1), X0, VIEW, 4)
    loss, _ = objective.loss(LINEAR, params, None, X0, draws)
    a, b = (LINEAR.heads["projector"](params, image.reshape(6, -1) @ params["encoder"]) for image in (X0, VIEW))
    assert float(loss) == pytest.approx(float(nt_xent(a, b, 0.5)[0].mean()), rel=1e-6)


def test_byols_loss_is_the_squared_distance_of_unit_vectors_both_ways():
    params, target = weights(0), weights(1)
    objective = Byol()
    loss, terms = objective.loss(LINEAR, params, target, X0, objective.draw(jax.random.key(1), X0, VIEW, 4))
    p, q = (jax.tree.map(np.asarray, tree) for tree in (params, target))
    x, y = np.asarray(X0).reshape(6, 4), np.asarray(VIEW).reshape(6, 4)

    def one_way(a, b):
        guess = unit(a @ p["encoder"] @ p["projector"] @ p["predictor"])
        return np.sum((guess - unit(b @ q["encoder"] @ q["projector"])) ** 2, axis=-1)

    distances = one_way(x, y) + one_way(y, x)
    assert float(loss) == pytest.approx(distances.mean(), rel=1e-5)
    np.testing.assert_allclose(4 - 4 * terms.agreement, distances, atol=1e-5)


def test_byols_target_takes_no_gradient():
    objective, params = Byol(), weights(0)
    draws = objective.draw(jax.random.key(1), X0, VIEW, 4)

    def loss(params, frozen):
        return objective.loss(LINEAR, params, params if frozen is None else frozen, X0, draws)[0]

    shared, fixed = jax.grad(loss)(params, None), jax.grad(loss)(params, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), shared, fixed)


@pytest.mark.slow
def test_one_loss_curve_on_any_mesh():
    """A contrast is over the batch of all devices; whole, because BYOL, MAE and the classifier lie otherwise too."""
    from pathlib import Path

    report = run_on_eight(Path(__file__).with_name("arms_on_eight.py"), "simclr", "byol", "mae", "supervised", "vae")
    for arm, (one, many) in report.items():
        np.testing.assert_allclose(one, many, atol=1e-4, err_msg=arm)
        assert one[-1] != one[0]


def test_heads_norm_by_the_whole_batch_as_batch_norm_does():
    z = jax.random.normal(jax.random.key(0), (12, 5)) * 3 + 1
    module = Mlp(hidden=7, dim=4, layers=3, last_norm=True)
    params = module.init(jax.random.key(1), jnp.zeros((1, 5)))["params"]
    params = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(2), a.shape), params)
    numbers = jax.tree.map(np.asarray, params)

    def norm(x, scale, bias=0.0):
        return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * scale + bias

    h = np.asarray(z)
    for dense, scale in (("in", "norm"), ("hidden_1", "norm_1")):
        h = h @ numbers[dense]["kernel"] + numbers[dense]["bias"]
        h = np.maximum(norm(h, numbers[scale]["scale"], numbers[scale]["bias"]), 0)
    expected = norm(h @ numbers["out"]["kernel"], numbers["last_norm"]["scale"])
    np.testing.assert_allclose(module.apply({"params": params}, z), expected, atol=1e-5)
    assert module.flops(5) == 2 * (5 * 7 + 7 * 7 + 7 * 4)
