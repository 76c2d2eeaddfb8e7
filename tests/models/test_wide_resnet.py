import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from ddm_embed.models.build import find_encoder
from ddm_embed.models.wide_resnet import Block, WideResNet, parse

IMAGES = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
TIMES = jnp.array([0.1, 0.5, 0.9])


def tiny(depth=10, dim=8, **changes):
    return WideResNet(depth, 1, dim, **changes)


def shapes_of(model, image_shape=(32, 32, 3)):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)), jnp.zeros(1))["params"]


def drawn(model):
    """Parameters of a network some way into training: no bias is zero and the time weighs as much as the image."""
    random = np.random.default_rng(1)

    def draw(path, leaf):
        name, owner = path[-1].key, path[0].key
        if name == "kernel":
            gain = 4 if owner == "time" else 1
            return gain * random.normal(size=leaf.shape).astype(np.float32) / math.sqrt(leaf.size / leaf.shape[-1])
        return (name == "scale") + 0.1 * random.normal(size=leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(model, IMAGES.shape[1:]))


@functools.cache
def applied(model):
    return jax.jit(lambda params, images, t: model.apply({"params": params}, images, t))


def traced(model, shape):
    params = shapes_of(model, shape)
    return jax.jit(lambda p, x, t: model.apply({"params": p}, x, t)).trace(params, jnp.zeros((1, *shape)), jnp.zeros(1))


def furthest(a, b):
    return float(np.max(np.abs(np.asarray(a) - np.asarray(b))))


# Zagoruyko & Komodakis 2016 (arXiv 1605.07146): 16-8 and 28-10. The others are those of the same network in
# PyTorch, as semi-supervised learning uses it. The published counts have norms and a classifier of ten classes too.
@pytest.mark.parametrize(("depth", "k", "millions"), [(28, 2, 1.47), (28, 4, 5.85), (16, 8, 11.0), (28, 10, 36.5)])
def test_the_convolutions_are_as_large_as_the_papers(depth, k, millions):
    shapes = shapes_of(WideResNet(depth, k))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes) if leaf.ndim == 4)
    n, w = (depth - 4) // 6, 16 * k
    # 3x3 convolutions: the first, those that widen, and those of one width; then the three shortcuts.
    kernels = 3 * 16 + 16 * w + 2 * w * w + 8 * w * w + (2 * n - 1) * (1 + 4 + 16) * w * w
    assert count == 9 * kernels + 16 * w + 2 * w * w + 8 * w * w
    assert count / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize(("k", "size"), [(2, 128), (4, 256)])
def test_the_code_is_read_from_as_many_features_as_the_papers_code_has(k, size):
    assert shapes_of(WideResNet(28, k, 40))["code"]["kernel"].shape == (size, 40)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (30, 30, 3), (9, 5, 2)])
def test_images_of_any_size_give_a_code_and_three_groups_of_tokens(shape):
    model, images = tiny(), jnp.ones((2, *shape))
    out = jax.eval_shape(model.apply, {"params": shapes_of(model, shape)}, images, jnp.ones(2))
    halves = [(-(-shape[0] // s)) * (-(-shape[1] // s)) for s in (1, 2, 4)]
    assert out.z.shape == (2, 8) and out.z.dtype == jnp.float32 and out.log_variance is None
    assert [x.shape for x in out.tokens] == [(2, n, 16 << i) for i, n in enumerate(halves)]
    assert len(out.tokens) == model.layers


@pytest.mark.parametrize(("size", "channels", "stride"), [(6, 8, 1), (6, 16, 2), (5, 8, 2)])
def test_a_block_is_its_formula(size, channels, stride):
    """Eight channels in, two groups of four; the shortcut is taken after the first norm where the shape changes."""
    random = np.random.default_rng(0)
    x, condition = random.normal(size=(2, size, size, 8)), random.normal(size=(2, 3))
    block = Block(channels, stride, jnp.float32)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x, condition)["params"]
    p = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), shapes)

    def normed(x, scale, bias):
        groups = x.reshape(2, -1, x.shape[-1] // 4, 4)
        variance = groups.var(axis=(1, 3), keepdims=True)
        groups = (groups - groups.mean(axis=(1, 3), keepdims=True)) / np.sqrt(variance + 1e-6)
        return np.maximum(groups.reshape(x.shape) * scale + bias, 0)

    def convolved(x, kernel, stride=1):
        def channel(image, o):
            return sum(correlate2d(image[..., i], kernel[..., i, o], "same") for i in range(image.shape[-1]))

        out = np.stack([[channel(image, o) for o in range(kernel.shape[-1])] for image in x])
        # Of a stride of two, an even side is padded at its end alone.
        first = int(stride == 2 and size % 2 == 0 and len(kernel) == 3)
        return out.transpose(0, 2, 3, 1)[:, first::stride, first::stride]

    h = normed(x, **p["norm_in"])
    shortcut = convolved(h, p["shortcut"]["kernel"], stride) if "shortcut" in p else x
    h = convolved(h, p["conv_in"]["kernel"], stride)
    h = h + (condition @ p["time"]["kernel"] + p["time"]["bias"])[:, None, None]
    expected = shortcut + convolved(normed(h, **p["norm_out"]), p["conv_out"]["kernel"])
    assert ("shortcut" in p) == (channels != 8 or stride != 1)
    np.testing.assert_allclose(jax.jit(block.apply)({"params": p}, x, condition), expected, atol=1e-3)


def test_image_and_noise_level_reach_the_code():
    model = tiny()
    apply, params = applied(model), drawn(model)
    z = apply(params, IMAGES, TIMES).z
    assert furthest(z, apply(params, IMAGES * 0.5 + 0.1, TIMES).z) > 1e-3
    assert furthest(z, apply(params, IMAGES, TIMES * 0.5).z) > 1e-3


def test_every_block_is_told_the_noise_level_by_itself():
    model = tiny(depth=16)
    apply, params = applied(model), drawn(model)
    blocks = [name for name in params if name.startswith("group_")]
    assert len(blocks) == 6

    def effect_of_time(*told):
        deaf = {b: params[b] | {"time": jax.tree.map(jnp.zeros_like, params[b]["time"])} for b in blocks}
        some = params | deaf | {b: params[b] for b in told}
        early, late = (apply(some, IMAGES, jnp.full(3, t)).z for t in (0.1, 0.9))
        return furthest(early, late)

    assert effect_of_time() == 0
    assert all(effect_of_time(block) > 1e-3 for block in blocks)


@pytest.mark.parametrize("sphere", [True, False])
def test_codes_lie_on_the_sphere_if_asked(sphere):
    model = tiny(sphere=sphere)
    norms = jnp.linalg.norm(applied(model)(drawn(model), IMAGES, TIMES).z, axis=-1)
    assert np.allclose(norms, 1.0, atol=1e-5) == sphere


def test_a_gaussian_codes_variance_is_one_at_first_and_always_finite():
    model = tiny(gaussian=True)
    first = jax.jit(lambda key: model.init(key, IMAGES, TIMES)["params"]["log_variance"])(jax.random.key(1))
    for layer, expected in (
        (first, 0),
        ({"kernel": first["kernel"], "bias": jnp.full(8, 1e4)}, 10),
        ({"kernel": first["kernel"], "bias": jnp.full(8, -1e4)}, -20),
    ):
        out = applied(model)(drawn(model) | {"log_variance": layer}, IMAGES, TIMES)
        assert out.log_variance.dtype == jnp.float32 and out.log_variance.shape == out.z.shape
        np.testing.assert_array_equal(out.log_variance, expected)


def test_a_gaussian_codes_mean_is_the_code_that_is_not_gaussian():
    plain, gaussian = tiny(), tiny(gaussian=True)
    params = drawn(gaussian)
    expected = applied(plain)({name: params[name] for name in shapes_of(plain)}, IMAGES, TIMES).z
    np.testing.assert_allclose(applied(gaussian)(params, IMAGES, TIMES).z, expected, atol=1e-6)


def test_bfloat16_convolutions_give_a_float32_code_close_to_float32s():
    params = drawn(tiny())
    exact = applied(tiny())(params, IMAGES, TIMES).z
    out = applied(tiny(dtype=jnp.bfloat16))(params, IMAGES, TIMES)
    assert out.z.dtype == jnp.float32 and out.tokens[-1].dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes_of(tiny(dtype=jnp.bfloat16))))
    cosine = jnp.sum(exact * out.z, axis=-1)  # both are of length one
    assert float(jnp.min(cosine)) > 0.999


def test_an_images_code_does_not_depend_on_the_others_of_its_batch():
    model = tiny()
    apply, params = applied(model), drawn(model)
    z = apply(params, IMAGES, TIMES).z
    others = apply(params, IMAGES.at[1:].multiply(50.0), TIMES.at[1:].set(0.3)).z
    np.testing.assert_allclose(others[0], z[0], atol=1e-6)
    assert furthest(others[1], z[1]) > 1e-3


def test_gradients_reach_every_parameter_and_are_finite():
    model = tiny(sphere=False)
    weights = jax.random.normal(jax.random.key(3), (3, 8))

    def loss(params):
        return jnp.sum(weights * model.apply({"params": params}, IMAGES, TIMES).z)

    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(drawn(model))):
        assert np.all(np.isfinite(gradient)) and np.any(gradient), jax.tree_util.keystr(path)


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize(("depth", "k", "shape"), [(10, 1, (8, 8, 1)), (16, 2, (30, 29, 3))])
def test_counted_operations_are_those_of_every_traced_product(depth, k, shape, gaussian):
    model = WideResNet(depth, k, 24, gaussian=gaussian)
    total = 0
    for equation in traced(model, shape).jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            kernel, out = equation.invars[1].aval, equation.outvars[0].aval
            total += 2 * out.size * kernel.size // kernel.shape[-1]  # [..., in, out]: the products behind one number
    assert WideResNet(depth, k, 24, gaussian=gaussian).flops(shape) == total


def test_counted_operations_agree_with_the_compilers():
    shape = (128, 128, 3)  # large and wide: the compiler leaves out the padding, but counts norms and relu
    analysis = traced(WideResNet(10, 8, 24), shape).lower().cost_analysis()
    assert WideResNet(10, 8, 24).flops(shape) == pytest.approx(analysis["flops"], rel=0.03)


def test_names():
    assert parse("wrn-28-2") == (28, 2) and parse("wrn-10-1") == (10, 1) and parse("wrn-40-10") == (40, 10)
    wrongs = ["wrn-28", "wrn-28-0", "wrn-27-2", "wrn-4-2", "WRN-28-2", "wrn-28-2\n", "wrn--28-2", "S/4", ""]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"is not wrn-DEPTH-WIDENING with DEPTH 6n \+ 4, such as wrn-28-2, or"):
            find_encoder(wrong)


def test_a_depth_that_is_not_6n_plus_4_is_refused():
    for refused in (lambda: shapes_of(WideResNet(12, 1)), lambda: WideResNet(4, 1, 8).flops((8, 8, 1))):
        with pytest.raises(ValueError, match=r"is not 6n \+ 4; use 10, 16"):
            refused()
