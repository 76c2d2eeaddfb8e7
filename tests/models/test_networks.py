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


def shaken(params):
    """The parameters with noise on all of them: a fresh model's gates are zero, which hides what depends on what."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    return jax.tree.unflatten(
        tree, [a + 0.1 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    )


def test_a_new_denoiser_predicts_zero_and_returns_every_blocks_tokens():
    models = tiny_models(SHAPE)
    params = models.init(jax.random.key(0))
    xt, t, z = jnp.ones((2, 8, 12, 3)), jnp.array([0.1, 0.9]), jnp.ones((2, 8))
    image, features = models.denoiser.apply({"params": params["denoiser"]}, xt, t, z)
    assert image.shape == xt.shape and image.dtype == jnp.float32 and not np.any(image)
    assert [f.shape for f in features] == [(2, 6, 16)] * 2


def test_a_patch_is_put_back_where_it_was_taken_from():
    """With the identity from token to pixels, only the patch that changed changes."""
    models = tiny_models(SHAPE, **ALONE)
    params = shaken(models.init(jax.random.key(0)))["denoiser"]
    for layer in range(2):  # no attention: tokens do not mix
        params[f"block_{layer}"]["attention"]["out"] = jax.tree.map(
            jnp.zeros_like, params[f"block_{layer}"]["attention"]["out"]
        )
    t = jnp.array([0.5])
    one = models.denoiser.apply({"params": params}, jnp.zeros((1, 8, 12, 3)), t, None)[0]
    other = models.denoiser.apply({"params": params}, jnp.zeros((1, 8, 12, 3)).at[0, 5, 9].set(1.0), t, None)[0]
    changed = np.any(np.asarray(one != other)[0], axis=-1)
    assert changed[4:8, 8:12].all() and changed.sum() == 16


@pytest.mark.parametrize("what", ["t", "z", "image"])
def test_every_input_reaches_the_denoisers_output(what):
    models = tiny_models(SHAPE)
    params = shaken(models.init(jax.random.key(0)))
    inputs = {"image": jnp.ones((1, 8, 12, 3)), "t": jnp.array([0.3]), "z": jnp.ones((1, 8))}
    other = inputs | {what: inputs[what] * 0.5}

    def apply(i):
        return models.denoiser.apply({"params": params["denoiser"]}, i["image"], i["t"], i["z"])[0]

    assert float(jnp.max(jnp.abs(apply(inputs) - apply(other)))) > 1e-4


@pytest.mark.parametrize("sphere", [True, False])
def test_codes_lie_on_the_sphere_if_asked_and_depend_on_the_noise_level(sphere):
    models = tiny_models(SHAPE, **{"embedding.sphere": sphere, "model.encoder_depth": 3})
    params = shaken(models.init(jax.random.key(0)))["encoder"]
    image = jax.random.normal(jax.random.key(1), (4, 8, 12, 3))
    early, late = (models.encoder.apply({"params": params}, image, jnp.full(4, t)) for t in (0.1, 0.9))
    norms = np.linalg.norm(early.z, axis=-1)
    assert np.allclose(norms, 1.0, atol=1e-5) == sphere
    assert len(early.tokens) == 3 and early.z.dtype == jnp.float32
    assert float(jnp.max(jnp.abs(early.z - late.z))) > 1e-3


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
    assert set(models.init(jax.random.key(0))) == {"denoiser"}
    assert set(models.forward_flops()) == {"denoiser"}


def test_variant_names():
    assert parse_variant("XL/16") == ("XL", 16)
    assert set(VARIANTS) == {"Ti", "S", "B", "L", "XL"}
    for wrong in ("S", "S/", "S/0", "S/x", "M/2", "/2"):
        with pytest.raises(ValueError, match="NAME/PATCH"):
            parse_variant(wrong)
