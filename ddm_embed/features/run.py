"""The handle to a trained encoder: batches of the device's size, compiled once a shape, deterministic."""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Shaped
from ml_collections import ConfigDict

from ddm_embed import config as config_lib
from ddm_embed.data.augment import to_float
from ddm_embed.data.sequences import Scale
from ddm_embed.errors import UserError
from ddm_embed.features.choice import Choice, check_feature
from ddm_embed.features.extract import make_features
from ddm_embed.methods import system
from ddm_embed.models import patches
from ddm_embed.models.build import Models
from ddm_embed.parallel.mesh import BATCH_AXES, make_mesh

NOISE_SEED = 0  # of the one draw of noise that all images share, where a feature sees noise
IN_FLIGHT = 2  # batches handed to the devices ahead of the one whose result is awaited
CPU_BATCH, LARGEST_BATCH = 64, 1024  # images a device; a CPU gains nothing from more, and a single image would wait
MEMORY_SHARE = 8  # of a device's memory, the most that a batch's activations are let take

ImageBatch = Shaped[np.ndarray, "number height width channel"]
Program = Callable[[Any, Shaped[Array, "batch height width channel"], Float[Array, ""]], Float[Array, "batch dim"]]


class Frozen:
    """A trained encoder on this process's devices.

    An embedding depends on the image alone: features that see noise see the same noise for every image, whatever
    stands beside it in the batch.

    Attributes:
      config: the run's. image_shape: (height, width, channel), of sequences (1, length, channel). params: averaged
      parameters. step: the checkpoint's. choice: feature and t that are read unless others are asked for. levels: all
      noise levels that the probe read. scale: of sequences, else None. place: where it was opened. classes: how many
      a supervised run tells apart, else None.
    """

    def __init__(
        self,
        config: ConfigDict,
        image_shape: tuple[int, int, int],
        params: Any,
        step: int,
        choice: Choice,
        levels: tuple[float, ...],
        scale: Scale | None,
        place: str,
        classes: int | None = None,
    ):
        self.config, self.image_shape, self.params, self.step = config, tuple(image_shape), params, step
        self.choice, self.levels, self.scale, self.place, self.classes = choice, levels, scale, place, classes
        self._programs: dict[tuple[str, int], Callable] = {}
        self._placed: Any = None
        self._widths: dict[str, int] = {}  # to trace a program takes as long as to embed a thousand small images

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return kept | {"config": config_lib.to_json(self.config), "params": jax.tree.map(np.asarray, self.params)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        config = config_lib.from_json(state["config"], config_lib.default())
        self.__init__(**state | {"config": config})

    @property
    def models(self) -> Models:
        return self._models(None)

    @property
    def names(self) -> list[str]:
        """The features that it offers."""
        return self.models.features

    def width(self, feature: str) -> int:
        """How many entries a feature has."""
        if feature not in self._widths:
            image, t = jax.ShapeDtypeStruct((1, *self.image_shape), self.dtype), jax.ShapeDtypeStruct((), jnp.float32)
            self._widths[feature] = jax.eval_shape(self.program(feature), self.params, image, t).shape[1]
        return self._widths[feature]

    @property
    def dtype(self) -> np.dtype:
        """Of the images that it takes: uint8, or float32 of sequences."""
        return np.dtype(np.uint8 if self.scale is None else np.float32)

    def fingerprint(self) -> str:
        """SHA-256 of what embeddings depend on: config, step, parameters."""
        scale = self.scale and self.scale.to_json()  # the repr of arrays depends on how NumPy is told to print
        digest = hashlib.sha256(f"{config_lib.to_json(self.config)}{self.step}{scale}".encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
        return digest.hexdigest()

    def program(self, feature: str, platform: str | None = None) -> Program:
        """A pure function (params, image, t) -> [batch, dim] float32, of images as they are stored and one t for all.

        Args:
          feature: one of `names`. platform: "cpu", "gpu" or "tpu", which decides in what it computes where the config
            leaves that open; the default backend's if None.

        Raises:
          UserError: there is no such feature.
        """
        models = self._models(platform)
        check_feature(feature, models.features)
        features_of = make_features(
            system.make_networks(models, self.config), system.make_process(self.config), self.config.embedding.input
        )

        def program(params, image, t):
            x0 = to_float(image)  # (B, H, W, C)
            eps = jax.random.normal(jax.random.key(NOISE_SEED), self.image_shape)
            return features_of(params, x0, jnp.broadcast_to(eps, x0.shape), t)[feature]

        return program

    def embed(
        self,
        images: ImageBatch,
        times: Sequence[float],
        feature: str | None = None,
        batch_size: int | None = None,
    ) -> Float[np.ndarray, "number time dim"]:
        """Embeddings of images at noise levels, float32 [number, time, dim].

        Args:
          images: of `image_shape` and `dtype`. times: noise levels in [0, 1]. feature: the chosen one if None.
          batch_size: the most images at a time; what suits the device if None.

        Raises:
          UserError: another shape or type, a level outside [0, 1], or no such feature.
        """
        feature = self.choice.feature if feature is None else feature
        check_feature(feature, self.names)
        check_levels(times)
        if images.shape[1:] != self.image_shape or images.dtype != self.dtype:
            raise UserError(
                f"images of {images.dtype} {list(images.shape[1:])}; expected {self.dtype} {list(self.image_shape)}"
            )
        mesh = self._mesh()
        most = -(-(batch_size or self.batch_size()) // mesh.size) * mesh.size
        split, levels = NamedSharding(mesh, P(BATCH_AXES)), [np.float32(t) for t in times]
        params = self._on_devices(mesh)
        found = np.empty((len(images), len(levels), self.width(feature)), np.float32)
        waiting: deque[tuple[int, int, list[Array]]] = deque()

        def collect() -> None:
            start, count, batches = waiting.popleft()
            for place, batch in enumerate(batches):
                found[start : start + count, place] = np.asarray(batch)[:count]

        start = 0
        while start < len(images):
            size, program = self._compiled(feature, min(most, len(images) - start), most, mesh)
            chunk = images[start : start + size]
            full = np.zeros((size, *self.image_shape), self.dtype)
            full[: len(chunk)] = chunk
            image = jax.device_put(full, split)
            waiting.append((start, len(chunk), [program(params, image, t) for t in levels]))
            start += len(chunk)
            if len(waiting) > IN_FLIGHT:
                collect()
        while waiting:
            collect()
        return found

    def batch_size(self) -> int:
        """Images a batch, over all devices: a power of two a device, for whose activations there is ample memory."""
        mesh = self._mesh()
        device = mesh.devices.flat[0]
        limit = (device.memory_stats() or {}).get("bytes_limit")
        if device.platform == "cpu" or not limit:
            return CPU_BATCH * mesh.size
        trunk = self.models.denoiser or self.models.encoder
        tokens = patches.tokens(self.image_shape, getattr(trunk, "patch", 1))
        width, heads = getattr(trunk, "width", 256), getattr(trunk, "heads", 0)
        of_one = 4 * tokens * (16 * width + heads * tokens)  # a block's activations and attention, in float32
        fits = max(1, int(limit / MEMORY_SHARE / of_one))
        return min(LARGEST_BATCH, 1 << (fits.bit_length() - 1)) * mesh.size

    def _models(self, platform: str | None) -> Models:
        return system.make_models(self.config, self.image_shape, platform, self.classes)

    def _mesh(self) -> Mesh:
        return make_mesh(jax.local_device_count(), 1, devices=jax.local_devices())

    def _on_devices(self, mesh: Mesh) -> Any:
        if self._placed is None:
            self._placed = jax.device_put(self.params, NamedSharding(mesh, P()))
        return self._placed

    def _compiled(self, feature: str, number: int, most: int, mesh: Mesh) -> tuple[int, Callable]:
        """(size, program): the smallest compiled batch that holds so many images, or a new one of a power of two."""
        sizes = [size for name, size in self._programs if name == feature and number <= size <= most]
        if sizes:
            return min(sizes), self._programs[feature, min(sizes)]
        size = min(most, mesh.size << max(0, (-(-number // mesh.size) - 1).bit_length()))
        whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(BATCH_AXES))
        jitted = jax.jit(self.program(feature), in_shardings=(whole, split, whole), out_shardings=split)
        image = jax.ShapeDtypeStruct((size, *self.image_shape), self.dtype)
        level = jax.ShapeDtypeStruct((), jnp.float32)
        compiled = jitted.lower(self._on_devices(mesh), image, level).compile()
        self._programs[feature, size] = compiled
        return size, compiled


def check_levels(times: Sequence[float]) -> None:
    """Raises UserError unless there are noise levels, all between 0 and 1."""
    if not len(times) or not all(0 <= t <= 1 for t in times):
        raise UserError(f"t={list(times)}: expected noise levels between 0 (the clean image) and 1 (noise)")
