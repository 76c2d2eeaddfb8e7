"""Losses of self-supervised rivals against the papers' pseudo-code, written out in NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config, tiny_models
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from ddm_embed import arms, methods
from ddm_embed.embedder import Embedder
from ddm_embed.errors import UserError
from ddm_embed.methods.barlow import barlow_twins
from ddm_embed.methods.build import make_objective
from ddm_embed.methods.dino import sinkhorn
from ddm_embed.methods.method import Networks
from ddm_embed.methods.moco import contrast
from ddm_embed.methods.simsiam import symmetric
from ddm_embed.methods.vicreg import vicreg_terms
from ddm_embed.models.auxiliary import Prototypes
from ddm_embed.models.encoder import Embedding
from ddm_embed.train.loop import train
from ddm_embed.validate import validate

RIVALS = ("moco", "simsiam", "barlow", "vicreg", "dino")
A, B, P, Q = np.random.default_rng(0).normal(size=(4, 9, 5)) * [0.3, 1, 2, 1, 5] + [0, 1, 0, -2, 0]


def close(value, expected):
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def softmax(rows, axis):
    e = np.exp(rows - rows.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@pytest.mark.parametrize("redundancy", [0.005, 1.0])
def test_barlow_twins_is_algorithm_1_over_the_entries(redundancy):
    a, b = ((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) for x in (A, B))
    c = a.T @ b / len(a)
    difference = (c - np.eye(5)) ** 2
    difference[~np.eye(5, dtype=bool)] *= redundancy
    close(barlow_twins(jnp.asarray(A), jnp.asarray(B), redundancy), difference.sum() / 5)


def test_vicreg_is_algorithm_1():
    apart = ~np.eye(5, dtype=bool)
    covariance = sum((np.cov(x.T)[apart] ** 2).sum() / 5 for x in (A, B))  # over n - 1
    std = [np.sqrt(x.var(0, ddof=1) + 1e-4) for x in (A, B)]
    expected = (
        ((A - B) ** 2).mean(),
        sum(np.maximum(0, 1 - s).mean() / 2 for s in std),
        covariance,
    )
    assert expected[1] > 0.05  # some entries vary less than 1
    close(vicreg_terms(jnp.asarray(A), jnp.asarray(B)), expected)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_moco_is_algorithm_1_one_query_at_a_time(temperature):
    loss, accuracy = contrast(jnp.asarray(A), jnp.asarray(B), temperature)
    cosines = unit(A) @ unit(B).T
    expected = [-2 * temperature * np.log(softmax(row / temperature, 0)[i]) for i, row in enumerate(cosines)]
    close(loss, expected)
    close(accuracy, cosines.argmax(1) == np.arange(9))
    moved = jax.grad(lambda key: contrast(jnp.asarray(A), key, temperature)[0].sum())(jnp.asarray(B))
    assert not np.any(moved)


def test_simsiam_is_algorithm_1_and_its_targets_take_no_gradient():
    expected = ((unit(P) * unit(B)).sum(1) + (unit(Q) * unit(A)).sum(1)) / 2
    close(symmetric(*map(jnp.asarray, (P, Q, A, B))), expected)
    moved = jax.grad(lambda a, b: symmetric(jnp.asarray(P), jnp.asarray(Q), a, b).sum(), argnums=(0, 1))
    assert not np.any(moved(jnp.asarray(A), jnp.asarray(B)))


def test_assignments_are_those_of_sinkhorn_knopp_in_dinov2():
    q = np.exp(A / 0.5).T  # (K, B)
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(1, keepdims=True) * 5
        q /= q.sum(0, keepdims=True) * 9
    close(sinkhorn(jnp.asarray(A) / 0.5), (q * 9).T)
    many = np.asarray(sinkhorn(jnp.asarray(A) / 0.5, 200))
    close(many.sum(1), np.ones(9))
    np.testing.assert_allclose(many.sum(0), np.full(5, 9 / 5), rtol=1e-3)


def test_prototypes_are_directions():
    params = Prototypes(7).init(jax.random.key(0), jnp.zeros((1, 5)))["params"]
    close(Prototypes(7).apply({"params": params}, jnp.asarray(A)), unit(A) @ unit(np.asarray(params["kernel"]).T).T)


def linear(name):
    return lambda params, z: z @ params[name]


LINEAR = Networks(
    encode=lambda params, image, t: Embedding(image.reshape(len(image), -1) @ params["encoder"], ()),
    heads={name: linear(name) for name in ("projector", "predictor", "prototypes")},
)
PARAMS, AVERAGE = (
    {name: jax.random.normal(key, (4, 4)) for name, key in zip(("encoder", *LINEAR.heads), keys, strict=True)}
    for keys in jax.random.split(jax.random.key(0), (2, 4))
)
IMAGES = jax.random.normal(jax.random.key(1), (2, 6, 2, 2, 1))


def loss(arm):
    config = tiny_config()
    arms.apply(arm, config)
    objective = make_objective(config)
    draws = objective.draw(jax.random.key(2), *IMAGES, 4)
    return objective.loss(LINEAR, PARAMS, AVERAGE, IMAGES[0], draws)[0]


def seen(params, *heads):
    """What leaves the last head, of each view."""
    params = {name: np.asarray(weights, np.float64) for name, weights in params.items()}
    z = np.asarray(IMAGES, np.float64).reshape(2, 6, 4) @ params["encoder"]
    for head in heads:
        z = z @ params[head]
    return z


def test_each_rival_compares_what_its_paper_compares():
    """Which view, through which heads, with whose parameters; both ways."""
    p, q = seen(PARAMS, "projector"), seen(PARAMS, "projector", "predictor")
    keys = seen(AVERAGE, "projector")[::-1]
    both = sum(
        -0.4 * np.log(np.diag(softmax(unit(a) @ unit(b).T / 0.2, 1))).mean() for a, b in zip(q, keys, strict=True)
    )
    close(loss("moco"), both)
    close(loss("simsiam"), -(unit(q) * unit(p[::-1])).sum(-1).mean())
    close(loss("barlow"), barlow_twins(*map(jnp.asarray, p), 0.005))
    close(loss("vicreg"), np.dot([25, 25, 1], vicreg_terms(*map(jnp.asarray, p))))
    teacher = seen(AVERAGE, "projector", "prototypes")[::-1].reshape(12, 4)
    assigned = np.asarray(sinkhorn(jnp.asarray(teacher / 0.04)))
    student = softmax(seen(PARAMS, "projector", "prototypes").reshape(12, 4) / 0.1, 1)
    close(loss("dino"), -(assigned * np.log(student + 1e-300)).sum(1).mean())


@pytest.mark.parametrize("arm", RIVALS)
def test_a_rival_needs_a_whole_batch_of_two_views(arm):
    for changes, message in (
        ({"data.augment": "none"}, f"objective.name={arm} compares two views"),
        ({"train.accumulate": 2}, "set config.train.accumulate=1"),
        ({"train.batch_size": 1}, "use 2 or more"),
    ):
        config = tiny_config()
        arms.apply(arm, config)
        validate(config)
        config.update_from_flattened_dict(changes)
        with pytest.raises(UserError, match=message):
            validate(config)


@pytest.mark.parametrize("arm", RIVALS)
def test_every_network_of_a_rival_has_its_share_of_the_operations(arm):
    models = tiny_models((8, 8, 1), arm)
    assert models.forward_flops().keys() == methods.METHODS[arm].passes(None).keys() == models.networks.keys()
    heads = {name: network for name, network in models.networks.items() if name != "encoder"}
    for name, network in heads.items():
        kernels = [a for a in jax.tree.leaves(jax.eval_shape(models.init, jax.random.key(0))[name]) if a.ndim == 2]
        assert network.flops == 2 * sum(a.size for a in kernels)


def told_by_z(arm, workdir):
    """The share of held-out digits that a ridge classifier tells by z after 300 steps of this arm."""
    sizes = {"model.width": 32, "embedding.dim": 32, "train.batch_size": 64, "train.steps": 300}
    config = tiny_config(**sizes | {"optimizer.learning_rate": 3e-3, "optimizer.ema_decay": 0.99})
    arms.apply(arm, config)
    assert train(config, workdir).finished
    images, labels = load_digits(return_X_y=True)
    images = np.uint8(images.reshape(-1, 8, 8, 1) * 255 / 16)
    z = StandardScaler().fit_transform(Embedder.from_run(workdir).transform(images))
    return RidgeClassifier().fit(z[::2], labels[::2]).score(z[1::2], labels[1::2])


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return told_by_z("random", tmp_path_factory.mktemp("random") / "run")


@pytest.mark.slow
@pytest.mark.parametrize("arm", RIVALS)
def test_a_rival_learns_to_tell_digits_that_it_has_no_labels_of(arm, untrained, tmp_path):
    learned = told_by_z(arm, tmp_path / "run")
    assert learned > untrained + 0.01
