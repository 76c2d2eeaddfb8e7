"""What pictures are drawn of: codes, and sampling with a trained run, jitted, batches split over the mesh."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from ddm_embed.diffusion import prediction as prediction_lib
from ddm_embed.diffusion import sampler as sampler_lib
from ddm_embed.diffusion.prediction import Image, Level
from ddm_embed.features.extract import in_batches, sees_clean
from ddm_embed.features.run import Run
from ddm_embed.models.patches import is_sequence
from ddm_embed.parallel.mesh import BATCH_AXES

Code = Float[Array, "batch dim"]
Made = Float[np.ndarray, "batch height width channel"]  # images in [-1, 1], or noise

STREAMS = ("start", "steps", "encoder", "denoiser", "code")  # independent random numbers of one seed
BATCH = 256  # images a pass, over all devices


class Shown(NamedTuple):
    """images, train: images in [-1, 1], of which no one is in both. labels: those of `train`, None where there are
    none. names: of the classes, by label. beside: other runs on the same data, to set beside the first."""

    images: Made
    train: Made
    labels: Int[np.ndarray, " number"] | None
    names: tuple[str, ...] | None = None
    beside: tuple[Run, ...] = ()


class Told(NamedTuple):
    """What the denoiser is told of each image, arrays of one length or None.

    z [batch, dim]: a code that is the same at every t. image, eps [batch, height, width, channel]: in its place, the
    image whose code at each t is told, and the noise under which an encoder of noised images sees it. other, share:
    told between the codes of `image` (share 0) and `other` (share 1), [batch]. All None: nothing; a run with an encoder
    is told a withheld code. Of a Gaussian code the mean is told.
    """

    z: Code | None = None
    image: Image | None = None
    eps: Image | None = None
    other: Image | None = None
    share: Level | None = None


def stream(seed: int, name: str) -> Key[Array, ""]:
    """The key of one of `STREAMS`."""
    return jax.random.fold_in(jax.random.key(seed), STREAMS.index(name))


def tell_of(images: Made, seed: int) -> Told:
    """The images' own codes, each image under one draw of noise at every t."""
    eps = jax.random.normal(stream(seed, "encoder"), images.shape)
    return Told(image=images, eps=np.asarray(eps))


def embed(trained: Run, params: Any, image: Image, eps: Image, t: Level) -> Any:
    """The embedding of images in [-1, 1] at t [batch], seen as in training: clean, or noised by eps."""
    if not sees_clean(trained.config):
        image = prediction_lib.noised(image, eps, *trained.objective.process.marginal(t))
    return trained.networks.encode(params, image, t)


def interpolate(a: Code, b: Code, share: Level, sphere: bool) -> Code:
    """Codes from a (share 0) to b (share 1), [batch, dim]: on a line, or on the great circle between unit vectors.

    The latter is slerp (Shoemake 1985, "Animating rotation with quaternion curves").
    """
    share = share[:, None]
    if not sphere:
        return (1 - share) * a + share * b
    angle = jnp.arccos(jnp.clip(jnp.sum(a * b, axis=-1, keepdims=True), -1, 1))
    near = jnp.sin(angle) < 1e-4  # alike, or opposite, where no great circle is the shortest
    sine = jnp.where(near, 1.0, jnp.sin(angle))
    along = (jnp.sin((1 - share) * angle) * a + jnp.sin(share * angle) * b) / sine
    return jnp.where(near, jnp.where(share < 0.5, a, b), along)


def tell(trained: Run, params: Any, told: Told, t: Level) -> Code | None:
    """The z at t that `told` stands for."""
    if trained.networks.encode is None:
        return None
    if told.z is not None:
        return told.z
    if told.image is None:
        return jnp.zeros((len(t), trained.config.embedding.dim))
    z = embed(trained, params, told.image, told.eps, t).z
    if told.other is None:
        return z
    other = embed(trained, params, told.other, told.eps, t).z
    return interpolate(z, other, told.share, trained.config.embedding.sphere)


def denoiser(trained: Run, params: Any, told: Told) -> sampler_lib.Denoise:
    """(x_t, t) -> prediction, as the samplers take it."""
    return lambda xt, t: trained.networks.denoise(params, xt, t, tell(trained, params, told, t))[0]


def guess_in_one_step(
    trained: Run, params: Any, image: Image, eps: Image, told: Told, t: Array | float
) -> tuple[Image, Image]:
    """The image and the noise that the denoiser guesses from x_t at one t.

    An encoder of x_t itself sees the noise eps of x_t; one of another view has its own, `told.eps`.
    """
    level = jnp.full(len(image), t, jnp.float32)
    alpha, sigma = trained.objective.process.marginal(level)
    xt = prediction_lib.noised(image, eps, alpha, sigma)
    if trained.config.embedding.input == "xt" and told.image is not None:
        told = told._replace(eps=eps)
    output, _ = trained.networks.denoise(params, xt, level, tell(trained, params, told, level))
    arguments = trained.objective.prediction, output, xt, alpha, sigma
    return prediction_lib.to_x0(*arguments), prediction_lib.to_eps(*arguments)


def draw_noise(trained: Run, number: int, seed: int) -> Made:
    """What sampling starts from, [number, height, width, channel]."""
    noise = trained.objective.process.prior(stream(seed, "start"), (number, *trained.models.image_shape))
    return np.asarray(noise)


def sample(
    trained: Run, x: Made, told: Told, sampler: str, steps: int, seed: int, clip: bool = True
) -> Float[np.ndarray, "batch height width channel"]:
    """Images from noise x [batch, height, width, channel], on the host; see `sampler.sample`.

    Guesses of images are held within [-1, 1], those of sequences, which know no bounds, are not. What `encode` gave
    comes back as it was with `clip=False`: the ODE forth held no guess within bounds. The step of the Langevin
    corrector is a mean over a pass, so its images depend a little on what else is in it.
    """
    process, kind, key = trained.objective.process, trained.objective.prediction, stream(seed, "steps")
    clip = clip and bounded(trained)

    def body(params, batch):
        x, told = batch
        return sampler_lib.sample(denoiser(trained, params, told), process, kind, x, key, sampler, steps, clip)

    return over_batch(trained, body)((x, told))


def bounded(trained: Run) -> bool:
    """Whether what the run is of lies within [-1, 1], as images do and sequences do not."""
    return not is_sequence(trained.models.image_shape)


def encode(trained: Run, image: Made, told: Told, sampler: str, steps: int) -> Made:
    """The noise [batch, height, width, channel] that the probability-flow ODE carries images in [-1, 1] to."""
    process, kind = trained.objective.process, trained.objective.prediction

    def body(params, batch):
        image, told = batch
        return sampler_lib.encode(denoiser(trained, params, told), process, kind, image, sampler, steps)

    return over_batch(trained, body)((image, told))


def over_batch(trained: Run, body: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """A jitted function of a tree of arrays of one length: body(params, tree), split over the mesh, on the host.

    At most `BATCH` rows pass at a time, in passes of one size.
    """
    split, whole = NamedSharding(trained.mesh, P(BATCH_AXES)), NamedSharding(trained.mesh, P())
    compiled = jax.jit(body, in_shardings=(whole, split), out_shardings=split)

    def call(batch):
        number, devices = len(jax.tree.leaves(batch)[0]), trained.mesh.size
        size = -(-min(number, BATCH) // devices) * devices
        passes = in_batches(
            batch, trained.mesh, lambda left: (size, lambda part, start: compiled(trained.params, part))
        )
        return jax.tree.map(lambda *a: np.concatenate(a)[:number], *(jax.device_get(found) for _, _, found in passes))

    return call


def levels(trained: Run, config: ConfigDict) -> list[float]:
    """The noise levels at which codes are looked at: one stands for all of a static code of the image."""
    return [config.times[0]] if trained.static("z") else list(config.times)


def embed_at(trained: Run, images: Made, times: list[float], seed: int) -> Float[np.ndarray, "time number dim"]:
    """z of images at each t, [time, number, dim]; of a Gaussian code the mean."""

    def body(params, told):
        def at(t):
            return embed(trained, params, told.image, told.eps, jnp.full(len(told.image), t)).z

        return jax.lax.map(at, jnp.asarray(times, jnp.float32)).swapaxes(0, 1)

    return over_batch(trained, body)(tell_of(images, seed)).swapaxes(0, 1)


def whose(trained: Run) -> str:
    return f"{trained.config.name}, step {trained.step}"


def way(config: ConfigDict) -> str:
    return f"{config.sampler}, {config.steps} steps"


def rmse(a: Made, b: Made) -> str:
    return f"RMSE {np.sqrt(np.mean((a - b) ** 2)):.2f}"
