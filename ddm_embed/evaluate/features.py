"""Frozen features of images at a noise level: z, and the pooled tokens of every encoder layer and denoiser block."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from ddm_embed.data.augment import to_float
from ddm_embed.diffusion import prediction as prediction_lib
from ddm_embed.diffusion.objective import Networks
from ddm_embed.diffusion.process import Process
from ddm_embed.models.build import Models
from ddm_embed.parallel import distributed
from ddm_embed.parallel.mesh import BATCH_AXES

Features = dict[str, Float[Array, "number dim"]]


def make_extract(
    networks: Networks, process: Process, encoder_input: str, mesh: Mesh, batch_size: int, seed: int
) -> Callable[..., Features]:
    """A function (params, images, t, draw, names) -> features of all images, float32 [number, dim] under each name.

    Names are `z`, `encoder_1` ... `encoder_L`, `denoiser_1` ... `denoiser_L`, counted from the input; what is not named
    is not computed. The noise of an image depends on the seed, `draw` and its position, not on the batch size or the
    number of devices; it is the same at every t. The encoder sees what it saw in training; for `view`, the noised image
    itself. Several processes take the batches in turns, each on its own devices, and all return all features.

    Args:
      networks: the run's networks.
      process: its forward process.
      encoder_input: its `embedding.input`.
      mesh: batches are split over it.
      batch_size: images a pass; a multiple of the mesh's size.
      seed: of the noise.
    """

    def extract(params, image, position, t, draw, names):
        x0 = to_float(image)  # (B, H, W, C)
        key = jax.random.fold_in(jax.random.key(seed), draw)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(position)
        eps = jax.vmap(lambda k: jax.random.normal(k, x0.shape[1:]))(keys)
        level = jnp.full(len(x0), t)
        xt = prediction_lib.noised(x0, eps, *process.marginal(level))
        features, z = {}, None
        if networks.encode is not None:
            embedding = networks.encode(params, x0 if encoder_input == "x0" else xt, level)
            features["z"] = z = embedding.z
            features |= {f"encoder_{i}": pool(layer) for i, layer in enumerate(embedding.tokens, 1)}
        _, tokens = networks.denoise(params, xt, level, z)
        features |= {f"denoiser_{i}": pool(layer) for i, layer in enumerate(tokens, 1)}
        return tuple(features[name] for name in names)

    split, whole = NamedSharding(mesh, P(BATCH_AXES)), NamedSharding(mesh, P())
    compiled = jax.jit(extract, in_shardings=(whole, split, split, whole, whole), out_shardings=split, static_argnums=5)

    def extract_all(params, images, t, draw, names) -> Features:
        parts, processes = [], jax.process_count()
        rounds = -(-len(images) // (batch_size * processes))
        for start in batch_size * (processes * np.arange(rounds) + jax.process_index()):
            chunk = images[start : start + batch_size]
            position = np.arange(start, start + batch_size, dtype=np.int32)
            full = np.pad(chunk, ((0, batch_size - len(chunk)), (0, 0), (0, 0), (0, 0)))
            parts.append(compiled(params, full, position, np.float32(t), np.int32(draw), tuple(names)))
            distributed.progress()
        columns = (distributed.in_turns(jnp.stack(column)) for column in zip(*parts, strict=True))
        columns = (rearrange(column, "round batch dim -> (round batch) dim")[: len(images)] for column in columns)
        return dict(zip(names, columns, strict=True))

    return extract_all


def feature_names(models: Models) -> list[str]:
    """All that a run has, from the input on."""
    encoder = models.encoder and ["z", *(f"encoder_{i}" for i in range(1, models.encoder.layers + 1))]
    return (encoder or []) + [f"denoiser_{i}" for i in range(1, models.denoiser.depth + 1)]


def pool(tokens: Float[Array, "batch token dim"]) -> Float[Array, "batch dim"]:
    """The mean over tokens, in float32."""
    return jnp.mean(tokens.astype(jnp.float32), axis=1)
