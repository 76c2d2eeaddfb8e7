import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_models

from ddm_embed.config import default
from ddm_embed.methods.build import make_models
from ddm_embed.models.build import VARIANTS, parse_variant
from ddm_embed.models.encoder import unit

SHAPE = (8, 12, 3)
ALONE = {"embedding.input": "none"}  # a denoiser without an encoder


def shaken(models):
    """Random parameters, with numpy: a fresh model's gates are zero, which hides what depends on what."""
    rng, shapes = np.random.default_rng(9), jax.eval_shape(models.init, jax.random.key(0))
    return jax.tree.map(lambda a: np.float32(rng.normal(size=a.shape) / np.sqrt(1 + a.size // a.shape[-1])), shapes)


def run(network, params, *inputs):
    return jax.jit(lambda params, *inputs: network.apply({"params": params}, *inputs))(params, *inputs)


def test_a_new_denoiser_predicts_zero_and_returns_every_blocks_tokens():
    models = tiny_models(SHAPE)
    params = jax.jit(models.init)(jax.random.key(0))
    xt, t, z = jnp.ones((2, 8, 12, 3)), jnp.array([0.1, 0.9]), jnp.ones((2, 8))
    image, features = run(models.denoiser, params["denoiser"], xt, t, z)
    assert image.shape == xt.shape and image.dtype == jnp.float32 and not np.any(image)
    assert [f.shape for f in features] == [(2, 6, 16)] * 2


def test_a_patch_is_put_back_where_it_was_taken_from():
    """With the identity from token to pixels, only the patch that changed changes."""
    models = tiny_models(SHAPE, **ALONE)
    params = shaken(models)["denoiser"]
    for layer in range(2):  # no attention: tokens do not mix
        params[f"block_{layer}"]["attention"]["out"] = jax.tree.map(
            jnp.zeros_like, params[f"block_{layer}"]["attention"]["out"]
        )
    images = np.zeros((2, 8, 12, 3), np.float32)
    images[1, 5, 9] = 1.0
    one, other = run(models.denoiser, params, images, jnp.array([0.5, 0.5]), None)[0]
    changed = np.any(np.asarray(one != other), axis=-1)
    assert changed[4:8, 8:12].all() and changed.sum() == 16


def test_every_input_reaches_the_denoisers_output():
    """Four at a time: as given, and with another t, z and image."""
    models = tiny_models(SHAPE)
    params = shaken(models)["denoiser"]
    t, z, image = jnp.full(4, 0.3), jnp.ones((4, 8)), jnp.ones((4, 8, 12, 3))
    t, z, image = t.at[1].multiply(0.5), z.at[2].multiply(0.5), image.at[3].multiply(0.5)
    given, *others = run(models.denoiser, params, image, t, z)[0]
    for name, other in zip(("t", "z", "image"), others, strict=True):
        assert float(jnp.max(jnp.abs(other - given))) > 1e-4, name


@pytest.mark.parametrize("sphere", [True, False])
def test_codes_lie_on_the_sphere_if_asked_and_depend_on_the_noise_level(sphere):
    models = tiny_models(SHAPE, **{"embedding.sphere": sphere, "model.encoder_depth": 3})
    image = np.random.default_rng(1).normal(size=(4, 8, 12, 3)).astype(np.float32)
    times = jnp.repeat(jnp.array([0.1, 0.9]), 4)
    found = run(models.encoder, shaken(models)["encoder"], np.concatenate([image, image]), times)
    norms = np.linalg.norm(found.z, axis=-1)
    assert np.allclose(norms, 1.0, atol=1e-5) == sphere
    assert len(found.tokens) == 3 and found.z.dtype == jnp.float32
    assert float(jnp.max(jnp.abs(found.z[:4] - found.z[4:]))) > 1e-3


def test_scaling_to_length_one_survives_zero_and_bfloat16():
    z = jnp.array([[0.0, 0.0], [3e-20, 4e-20], [3e18, 4e18]], jnp.bfloat16)
    assert bool(jnp.all(jnp.isfinite(unit(z))))
    assert np.all(np.isfinite(jax.grad(lambda z: unit(z).sum())(jnp.zeros((1, 4)))))


LARGER = {"embedding.dim": 64, "model.width": 192, "model.heads": 3, "model.depth": 3, "model.encoder_depth": 3}


# Parameters of the class-conditional DiT/2 on 32x32x4 latents (Peebles & Xie 2023, table 4: 33M, 130M, 458M, 675M).
# Theirs has 1,001 class vectors and predicts a variance too; ours a two-layer path for z: neither changes 2 %.
@pytest.mark.parametrize(("name", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_denoisers_are_as_large_as_the_papers(name, millions):
    config = default()
    config.model.variant = f"{name}/2"
    models = make_models(config, (32, 32, 4))
    shapes = jax.eval_shape(models.init, jax.random.key(0))["denoiser"]
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("consistency", [False, True])
def test_counted_operations_agree_with_the_compilers(consistency):
    models = tiny_models((32, 32, 3), **{"consistency.weight": float(consistency)} | LARGER)
    params = jax.eval_shape(models.init, jax.random.key(0))

    def forward(params, x, t):
        z = models.encoder.apply({"params": params["encoder"]}, x, t).z
        if consistency:
            z = models.module("predictor").apply({"params": params["predictor"]}, z, t)
        return models.denoiser.apply({"params": params["denoiser"]}, x, t, z)[0]

    x = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32)
    analysis = jax.jit(forward).lower(params, x, jax.ShapeDtypeStruct((4,), jnp.float32)).cost_analysis()
    # The compiler also counts what is not a matrix product: softmax, norms, gelu.
    assert sum(models.forward_flops().values()) * 4 == pytest.approx(analysis["flops"], rel=0.05)


@pytest.mark.parametrize("objective", ["vae", "byol", "mae", "supervised"])
def test_counted_operations_of_baselines_agree_with_the_compilers(objective):
    models = tiny_models((32, 32, 3), objective, classes=10, **LARGER)
    params = jax.eval_shape(models.init, jax.random.key(0))
    order = jnp.tile(jnp.arange(64), (4, 1))

    def forward(params, x, t):
        def apply(name, *arguments):
            return models.module(name).apply({"params": params[name]}, *arguments)

        if objective == "mae":
            return apply("decoder", apply("encoder", x, t, order[:, :16]).tokens[-1], order, t)
        z, _, log_variance = apply("encoder", x, t)
        if objective == "vae":
            return apply("decoder", x, t, z)[0], log_variance
        return apply("classifier", z) if objective == "supervised" else apply("predictor", apply("projector", z))

    x = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32)
    lowered = jax.jit(forward).lower(params, x, jax.ShapeDtypeStruct((4,), jnp.float32))
    # Compiled: what MAE does not use of the encoder, its z, is left out.
    analysis = lowered.compile().cost_analysis()
    assert set(models.forward_flops()) == set(params)
    assert sum(models.forward_flops().values()) * 4 == pytest.approx(analysis["flops"], rel=0.05)


def test_features_of_a_baseline_are_those_of_what_it_trains():
    layers = ["encoder_1", "encoder_2"]
    for objective, names in (
        ("vae", ["z", *layers]),
        ("byol", ["z", *layers]),
        ("none", ["z", *layers]),
        ("mae", layers),
    ):
        models = tiny_models(SHAPE, objective, **{"model.encoder_depth": 2})
        assert models.features == names and models.denoiser is None


def test_a_denoiser_alone_has_no_other_parameters():
    models = tiny_models(SHAPE, **ALONE)
    assert set(jax.eval_shape(models.init, jax.random.key(0))) == {"denoiser"}
    assert set(models.forward_flops()) == {"denoiser"}


def test_variant_names():
    assert parse_variant("XL/16") == ("XL", 16)
    assert set(VARIANTS) == {"Ti", "S", "B", "L", "XL"}
    for wrong in ("S", "S/", "S/0", "S/x", "M/2", "/2"):
        with pytest.raises(ValueError, match="NAME/PATCH"):
            parse_variant(wrong)
