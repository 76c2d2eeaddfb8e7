"""Arms of self-conditional diffusion against the papers' losses, written out in NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from conftest import tiny_config

from ddm_embed import arms
from ddm_embed.methods.build import make_models, make_networks, make_objective
from ddm_embed.methods.method import Networks
from ddm_embed.models.encoder import Embedding
from ddm_embed.models.layers import Block, TimeEmbedding

X0, VIEW = jax.random.uniform(jax.random.key(0), (2, 32, 4, 4, 1), minval=-1)
ALPHA_BAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])  # of DDPM, by step


def arm_config(arm, **changes):
    config = tiny_config(**changes)
    arms.apply(arm, config)
    return config


def levels(draws):
    """DDPM's alpha bar at the levels drawn."""
    return ALPHA_BAR[np.rint(np.asarray(draws.t, np.float64) * 1000).astype(int)][:, None, None, None]


def noised(draws):
    level = levels(draws)
    return np.sqrt(level) * np.asarray(X0, np.float64) + np.sqrt(1 - level) * np.asarray(draws.eps, np.float64)


def test_soda_denoises_one_view_by_the_clean_code_of_the_other():
    config = arm_config("soda")
    weights = {"encoder": jax.random.normal(jax.random.key(1), (16, 8))}
    weights["denoiser"] = jax.random.normal(jax.random.key(2), (8, 16))
    networks = Networks(
        lambda params, xt, t, z: (0.5 * xt + (z @ params["denoiser"]).reshape(xt.shape), ()),
        lambda params, image, t: Embedding(image.reshape(len(image), -1) @ params["encoder"], ()),
    )
    objective = make_objective(config)
    draws = objective.draw(jax.random.key(3), X0, VIEW, 8)
    assert 0 < np.sum(draws.withheld) < 12
    loss, terms = jax.jit(lambda: objective.loss(networks, weights, None, X0, draws))()

    encoder, denoiser = (np.asarray(weights[name], np.float64) for name in ("encoder", "denoiser"))
    z = np.where(draws.withheld, 0.0, np.asarray(VIEW, np.float64).reshape(32, 16) @ encoder)
    level, guess = levels(draws), 0.5 * noised(draws) + (z @ denoiser).reshape(X0.shape)
    velocity = np.sqrt(level) * np.asarray(draws.eps) - np.sqrt(1 - level) * np.asarray(X0)
    expected = np.mean((velocity - guess) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(terms.denoising, expected, rtol=1e-5)
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)


def dense(x, params):
    return x @ np.asarray(params["kernel"], np.float64) + params["bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def test_ddae_pp_tells_the_later_blocks_of_the_middle_one():
    config = arm_config("ddae-pp", **{"model.depth": 3})
    models, objective = make_models(config, (4, 4, 1)), make_objective(config)
    shapes = jax.eval_shape(models.init, jax.random.key(0))
    rng = np.random.default_rng(0)  # a fresh model's gates are zero
    params = jax.tree.map(lambda a: np.float32(rng.normal(size=a.shape) / np.sqrt(1 + a.size // a.shape[-1])), shapes)
    draws = objective.draw(jax.random.key(3), X0, VIEW, 8)
    networks = make_networks(models, config)

    def both(params):
        _, tokens = networks.denoise(params, noised(draws).astype(np.float32), draws.t, None)
        return objective.loss(networks, params, None, X0, draws)[0], tokens

    loss, tokens = jax.jit(both)(params)

    own = params["denoiser"]
    condition = TimeEmbedding(16, jnp.float32).apply({"params": own["time"]}, draws.t)
    pooled = norm(np.asarray(tokens[1], np.float64).mean(1)) * own["own_norm"]["scale"] + own["own_norm"]["bias"]
    told = np.asarray(condition) + dense(pooled, own["own"])
    for layer, given in ((1, condition), (2, told)):
        block = Block(16, 2, 4.0, False, "xla", jnp.float32)
        after = block.apply({"params": own[f"block_{layer}"]}, tokens[layer - 1], jnp.asarray(given, jnp.float32))
        np.testing.assert_allclose(tokens[layer], after, rtol=1e-4, atol=1e-4)
    shift, scale = np.split(dense(silu(told), own["modulation"])[:, None], 2, axis=-1)
    pixels = dense(norm(np.asarray(tokens[2], np.float64)) * (1 + scale) + shift, own["pixels"])
    expected = np.mean((np.asarray(draws.eps) - pixels.reshape(X0.shape)) ** 2)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    plain = make_models(arm_config("ddae", **{"model.depth": 3}), (4, 4, 1))
    assert models.forward_flops()["denoiser"] - plain.forward_flops()["denoiser"] == 2 * 16 * 16
    assert shapes["denoiser"].keys() - jax.eval_shape(plain.init, jax.random.key(0))["denoiser"].keys() == {
        "own", "own_norm",
    }  # fmt: skip
