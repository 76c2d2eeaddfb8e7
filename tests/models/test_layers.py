import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from ddm_embed.models.layers import Attention, Block, TimeEmbedding, positions


def test_a_new_block_is_the_identity():
    block = Block(16, 2, 4.0, False, "xla", jnp.float32)
    x, condition = jax.random.normal(jax.random.key(0), (2, 5, 16)), jnp.ones((2, 16))
    params = jax.jit(block.init)(jax.random.key(1), x, condition)
    np.testing.assert_array_equal(jax.jit(block.apply)(params, x, condition), x)


def test_attention_is_softmax_of_scaled_products():
    layer = Attention(8, 2, False, "xla", jnp.float32)
    x = jax.random.normal(jax.random.key(0), (3, 5, 8))
    params = jax.jit(layer.init)(jax.random.key(1), x)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])
    qkv = np.einsum("bnw,wsv->bnsv", np.asarray(x, np.float64), p["qkv"]["kernel"]) + p["qkv"]["bias"]
    q, k, v = rearrange(qkv, "b n s (h d) -> s b h n d", h=2)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(4)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = rearrange(weights @ v, "b h n d -> b n (h d)") @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(jax.jit(layer.apply)(params, x), expected, atol=1e-5)


def test_normalised_queries_and_keys_make_attention_blind_to_their_scale():
    layer = Attention(8, 2, True, "xla", jnp.float32)
    x = jax.random.normal(jax.random.key(0), (3, 5, 8))
    params = jax.jit(layer.init)(jax.random.key(1), x)
    scale = np.reshape([10.0, 10.0, 1.0], (3, 1))  # queries and keys, not values
    params["params"]["qkv"]["bias"] = jnp.zeros((3, 8))
    scaled = jax.tree.map(lambda a: a, params)
    scaled["params"]["qkv"] = params["params"]["qkv"] | {"kernel": params["params"]["qkv"]["kernel"] * scale}
    apply = jax.jit(layer.apply)
    np.testing.assert_allclose(apply(params, x), apply(scaled, x), atol=1e-4)


def test_positions_are_all_different_and_neighbours_alike():
    table = positions(4, 6, 32)
    assert table.shape == (24, 32)
    products = table @ table.T
    assert np.all(np.argmax(products, axis=1) == np.arange(24))
    assert products[0, 1] > products[0, 3] and products[0, 6] > products[0, 18]


def test_time_embedding_tells_neighbouring_steps_of_the_chain_apart():
    layer = TimeEmbedding(16, jnp.float32)
    t = jnp.arange(1001) / 1000
    out = np.asarray(jax.jit(lambda t: layer.init_with_output(jax.random.key(0), t)[0])(t))
    gaps = np.linalg.norm(np.diff(out, axis=0), axis=-1)
    assert out.shape == (1001, 16) and gaps.min() > 1e-5
