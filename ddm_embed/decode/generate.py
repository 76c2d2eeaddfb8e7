"""Sampling with a trained run: jitted, one scan a sampler, batches split over the mesh."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from ddm_embed.diffusion import prediction as prediction_lib
from ddm_embed.diffusion import sampler as sampler_lib
from ddm_embed.diffusion.prediction import Image, Level
from ddm_embed.parallel.mesh import BATCH_AXES
from ddm_embed.trained import Trained

Code = Float[Array, "batch dim"]


class Told(NamedTuple):
    """What the denoiser is told of each image, arrays of one length or None.

    z [batch, dim]: a code that is the same at every t. image [batch, height, width, channel]: in its place, the image
    whose code at each t is told. other, share: told between the codes of `image` (share 0) and `other` (share 1),
    [batch]. All None: nothing; a run with an encoder is told a withheld code.
    """

    z: Code | None = None
    image: Image | None = None
    other: Image | None = None
    share: Level | None = None


def see(trained: Trained, image: Image, t: Level) -> Image:
    """What the encoder sees of images in [-1, 1] at t [batch]: themselves or, where it sees noise, under one fixed draw
    of it."""
    if trained.config.embedding.input == "x0":
        return image
    eps = jax.random.normal(jax.random.key(0), image.shape)
    return prediction_lib.noised(image, eps, *trained.objective.process.marginal(t))


def embed(trained: Trained, params: Any, image: Image, t: Level) -> Code:
    """z [batch, dim] of images in [-1, 1] at t [batch]; of a Gaussian code the mean."""
    return trained.networks.encode(params, see(trained, image, t), t).z


def interpolate(a: Code, b: Code, share: Level, sphere: bool) -> Code:
    """Codes from a (share 0) to b (share 1), [batch, dim]: on a line, or on the great circle between unit vectors.

    The latter is slerp (Shoemake 1985, "Animating rotation with quaternion curves").
    """
    share = share[:, None]
    if not sphere:
        return (1 - share) * a + share * b
    angle = jnp.arccos(jnp.clip(jnp.sum(a * b, axis=-1, keepdims=True), -1, 1))
    near = jnp.sin(angle) < 1e-4  # alike, or opposite, where every great circle is as short
    sine = jnp.where(near, 1.0, jnp.sin(angle))
    along = (jnp.sin((1 - share) * angle) * a + jnp.sin(share * angle) * b) / sine
    return jnp.where(near, a, along)


def tell(trained: Trained, params: Any, told: Told, t: Level) -> Code | None:
    """The z at t that `told` stands for."""
    if trained.networks.encode is None:
        return None
    if told.z is not None:
        return told.z
    if told.image is None:
        return jnp.zeros((len(t), trained.config.embedding.dim))
    z = embed(trained, params, told.image, t)
    if told.other is None:
        return z
    return interpolate(z, embed(trained, params, told.other, t), told.share, trained.config.embedding.sphere)


def denoiser(trained: Trained, params: Any, told: Told) -> sampler_lib.Denoise:
    """(x_t, t) -> prediction, as the samplers take it."""
    return lambda xt, t: trained.networks.denoise(params, xt, t, tell(trained, params, told, t))[0]


def guess_in_one_step(
    trained: Trained, params: Any, image: Image, eps: Image, told: Told, t: Array | float
) -> tuple[Image, Image]:
    """The image and the noise that the denoiser guesses from x_t at one t."""
    level = jnp.full(len(image), t, jnp.float32)
    alpha, sigma = trained.objective.process.marginal(level)
    xt = prediction_lib.noised(image, eps, alpha, sigma)
    output, _ = trained.networks.denoise(params, xt, level, tell(trained, params, told, level))
    arguments = trained.objective.prediction, output, xt, alpha, sigma
    return prediction_lib.to_x0(*arguments), prediction_lib.to_eps(*arguments)


def draw_noise(trained: Trained, number: int, seed: int) -> Image:
    """What sampling starts from, [number, height, width, channel]."""
    return trained.objective.process.prior(jax.random.key(seed), (number, *trained.models.image_shape))


def sample(
    trained: Trained, x: Image, told: Told, sampler: str, steps: int, seed: int, clip: bool = True
) -> Float[np.ndarray, "batch height width channel"]:
    """Images from noise x [batch, height, width, channel], on the host; see `sampler.sample`.

    What `encode` gave comes back as it was with `clip=False`: the ODE forth held no guess within [-1, 1].
    """
    process, kind, key = trained.objective.process, trained.objective.prediction, jax.random.key(seed)

    def body(params, batch):
        x, told = batch
        return sampler_lib.sample(denoiser(trained, params, told), process, kind, x, key, sampler, steps, clip)

    return over_batch(trained, body)((x, told))


def encode(trained: Trained, image: Image, told: Told, sampler: str, steps: int) -> Float[np.ndarray, "batch ..."]:
    """The noise [batch, height, width, channel] that the probability-flow ODE carries images in [-1, 1] to."""
    process, kind = trained.objective.process, trained.objective.prediction

    def body(params, batch):
        image, told = batch
        return sampler_lib.encode(denoiser(trained, params, told), process, kind, image, sampler, steps)

    return over_batch(trained, body)((image, told))


def over_batch(trained: Trained, body: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """A jitted function of a tree of arrays of one length: body(params, tree), split over the mesh, on the host.

    A length that the mesh does not divide is filled up by repeating the first rows.
    """
    split, whole = NamedSharding(trained.mesh, P(BATCH_AXES)), NamedSharding(trained.mesh, P())
    compiled = jax.jit(body, in_shardings=(whole, split), out_shardings=split)

    def call(batch):
        number = len(jax.tree.leaves(batch)[0])
        rows = np.arange(-(-number // trained.mesh.size) * trained.mesh.size) % number
        full = jax.tree.map(lambda a: jax.device_put(np.asarray(a)[rows], split), batch)
        return jax.tree.map(lambda a: a[:number], jax.device_get(compiled(trained.params, full)))

    return call
