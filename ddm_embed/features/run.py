"""The handle to a trained run: its networks and parameters on this process's devices, images in, features out."""

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Shaped
from ml_collections import ConfigDict

from ddm_embed import config as config_lib
from ddm_embed import methods
from ddm_embed.data.augment import to_float
from ddm_embed.data.sequences import Scale
from ddm_embed.data.types import Stored
from ddm_embed.diffusion.process import Process
from ddm_embed.errors import UserError
from ddm_embed.features.bank import Bank
from ddm_embed.features.choice import Choice, choose
from ddm_embed.features.extract import (
    FeaturesOf,
    Reading,
    in_batches,
    is_noiseless,
    is_static,
    make_extract,
    make_features,
    sees_clean,
)  # fmt: skip
from ddm_embed.methods.build import make_models, make_networks, make_objective
from ddm_embed.methods.method import Networks, Objective
from ddm_embed.models import patches
from ddm_embed.models.build import POOLINGS, Models
from ddm_embed.parallel.mesh import BATCH_AXES, make_mesh
from ddm_embed.reproducible import reproducible
from ddm_embed.runs import files
from ddm_embed.runs.checkpoint import restore_ema
from ddm_embed.runs.directory import RunDirectory
from ddm_embed.validate import check_feature, validate

NOISE_SEED = 0  # of the one draw of noise that all embedded images share, where a feature sees noise
CPU_BATCH, LARGEST_BATCH = 64, 1024  # images a device; a CPU gains nothing from more, and a single image would wait
USED_BY: set[int] = set()  # the processes, this one or one that it was forked of, whose devices were asked for
MEMORY_SHARE = 8  # of a device's memory, the most that a batch's activations are let take

ImageBatch = Shaped[np.ndarray, "number height width channel"]
Program = Callable[[Any, Shaped[Array, "batch height width channel"], Float[Array, ""]], Float[Array, "batch dim"]]


class Run:
    """A trained run, opened to be used. What is costly is made when it is first asked for, and kept.

    Args:
      config: the run's. image_shape: (height, width, channel), of sequences (1, length, channel). params: averaged
        parameters, on the host or on the devices. step: the checkpoint's. place: where it was opened: a run directory
        or an export. scale: of sequences, else None. classes: how many a supervised run tells apart, else None.
        chosen: feature and t that are read unless others are asked for, and all noise levels that the probe read; from
        the results of the probes in `place` if None. mesh: of this process's devices if None.
    """

    def __init__(
        self,
        config: ConfigDict,
        image_shape: tuple[int, int, int],
        params: Any,
        step: int,
        place: str,
        scale: Scale | None = None,
        classes: int | None = None,
        chosen: tuple[Choice, tuple[float, ...]] | None = None,
        mesh: Mesh | None = None,
    ):
        self.config, self.image_shape, self.step, self.place = config, tuple(image_shape), step, place
        self.scale, self.classes = scale, classes
        self.mesh = local_mesh() if mesh is None else mesh
        self._params = params
        if chosen is not None:
            self._chosen = chosen
        self._programs: dict[tuple[str, int], Callable] = {}
        self._extracts: dict[Reading, Callable[..., Bank]] = {}
        self._widths: dict[str, int] = {}  # to trace a program takes as long as to embed a thousand small images

    def replace(self, **changes: Any) -> "Run":
        """The same run but for some of the arguments it was made of."""
        return Run(**(self._arguments() | {"params": self._params, "mesh": self.mesh} | changes))

    def __getstate__(self) -> dict[str, Any]:
        config = config_lib.to_json(self.config)
        return self._arguments() | {"config": config, "params": self.host_params(), "chosen": self._chosen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        config = config_lib.from_json(state["config"], config_lib.default())
        self.__init__(**state | {"config": config})

    def _arguments(self) -> dict[str, Any]:
        names = ("config", "image_shape", "step", "place", "scale", "classes")
        return {name: getattr(self, name) for name in names} | {"chosen": vars(self).get("_chosen")}

    @cached_property
    def params(self) -> Any:
        """Averaged parameters, whole on every device of the mesh."""
        self._params = jax.device_put(self._params, NamedSharding(self.mesh, P()))
        return self._params

    def host_params(self) -> Any:
        """The parameters as arrays of NumPy."""
        return jax.device_get(self._params)

    @cached_property
    def _chosen(self) -> tuple[Choice, tuple[float, ...]]:
        return choose(files.place(self.place), self.models, self.timeless)

    @property
    def choice(self) -> Choice:
        """Feature and t that are read unless others are asked for: the probe's."""
        return self._chosen[0]

    @property
    def levels(self) -> tuple[float, ...]:
        """All noise levels that the probe read."""
        return self._chosen[1]

    @cached_property
    def models(self) -> Models:
        return make_models(self.config, self.image_shape, classes=self.classes)

    @cached_property
    def networks(self) -> Networks:
        return make_networks(self.models, self.config)

    @cached_property
    def objective(self) -> Objective | None:
        return make_objective(self.config)

    @cached_property
    def process(self) -> Process | None:
        """The forward process; None of a method that knows no noise levels."""
        method = methods.of(self.config)
        return method.process(self.config) if method.process else None

    @cached_property
    def features_of(self) -> FeaturesOf:
        """(params, x0, eps, t) -> features by name, of `extract.make_features`."""
        return make_features(self.networks, self.process, sees_clean(self.config))

    @property
    def names(self) -> list[str]:
        """The features that it offers."""
        return self.models.features

    def pooled(self, ways: Sequence[str] = POOLINGS) -> list[str]:
        """`names`, and layers pooled in these ways, of `models.build.POOLINGS`; other ways are none of a layer."""
        if not set(ways) & set(POOLINGS):  # to trace takes a while
            return self.names
        image, t = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
        found = jax.eval_shape(self.features_of, self._params, image, image, t)
        return self.names + [f"{name}_{way}" for way in ways for name in self.names if f"{name}_{way}" in found]

    def check_feature(self, feature: str) -> None:
        """Raises UserError unless the run has this feature."""
        if feature not in self.names:  # to trace takes a while
            check_feature(feature, self.pooled())

    def noiseless(self, feature: str) -> bool:
        """Whether a feature sees no noise."""
        return is_noiseless(self.config, feature)

    def static(self, feature: str) -> bool:
        """Whether a feature is the same at all noise levels."""
        return is_static(self.config, feature)

    @property
    def timeless(self) -> bool:
        """Whether all its features are the same at all noise levels."""
        return all(self.static(name) for name in self.names)

    def width(self, feature: str) -> int:
        """How many entries a feature has."""
        if feature not in self._widths:
            image, t = jax.ShapeDtypeStruct((1, *self.image_shape), self.dtype), jax.ShapeDtypeStruct((), jnp.float32)
            self._widths[feature] = jax.eval_shape(self.program(feature), self._params, image, t).shape[1]
        return self._widths[feature]

    @property
    def dtype(self) -> np.dtype:
        """Of the images that it takes: uint8, or float32 of sequences."""
        return np.dtype(np.uint8 if self.scale is None else np.float32)

    def fingerprint(self) -> str:
        """SHA-256 of what embeddings depend on: config, step, parameters."""
        scale = self.scale and self.scale.to_json()  # the repr of arrays depends on how NumPy is told to print
        digest = hashlib.sha256(f"{config_lib.identity(self.config)}{self.step}{scale}".encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.host_params()):
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
        self.check_feature(feature)
        features_of = self.features_of
        if platform is not None:
            models = make_models(self.config, self.image_shape, platform, self.classes)
            features_of = make_features(make_networks(models, self.config), self.process, sees_clean(self.config))

        @reproducible()
        def program(params, image, t):
            x0 = to_float(image)  # (B, H, W, C)
            eps = jax.random.normal(jax.random.key(NOISE_SEED), self.image_shape)
            return features_of(params, x0, jnp.broadcast_to(eps, x0.shape), t)[feature]

        return program

    @reproducible()
    def embed(
        self,
        images: ImageBatch,
        times: Sequence[float],
        feature: str | None = None,
        batch_size: int | None = None,
    ) -> Float[np.ndarray, "number time dim"]:
        """Embeddings of images at noise levels, float32 [number, time, dim].

        An embedding depends on the image alone: features that see noise see the same noise for every image, whatever
        stands beside it in the batch. A program is compiled once a shape.

        Args:
          images: of `image_shape` and `dtype`. times: noise levels in [0, 1]. feature: the chosen one if None.
          batch_size: the most images at a time; what suits the device if None.

        Raises:
          UserError: another shape or type, a level outside [0, 1], or no such feature.
        """
        check_not_forked()
        feature = self.choice.feature if feature is None else feature
        self.check_feature(feature)
        check_levels(times)
        if images.shape[1:] != self.image_shape or images.dtype != self.dtype:
            raise UserError(
                f"images of {images.dtype} {list(images.shape[1:])}; expected {self.dtype} {list(self.image_shape)}"
            )
        most = -(-(batch_size or self.batch_size()) // self.mesh.size) * self.mesh.size
        levels = [np.float32(t) for t in times]

        def plan(left: int) -> tuple[int, Callable]:
            size, program = self._compiled(feature, min(most, left), most)
            return size, lambda image, start: [program(self.params, image, t) for t in levels]

        found = np.empty((len(images), len(levels), self.width(feature)), np.float32)
        for start, count, batches in in_batches(images, self.mesh, plan):
            for place, batch in enumerate(batches):
                found[start : start + count, place] = np.asarray(batch)[:count]
        return found

    @reproducible()
    def read(self, images: Stored, times: tuple[float, ...], draw: int, names: list[str], reading: Reading) -> Bank:
        """Features of all images at all levels as the probe reads them: see `extract.make_extract`.

        Args:
          images: of `image_shape` and `dtype`. draw: of the noise, which is another for each image. names: of features.
        """
        if reading not in self._extracts:
            self._extracts[reading] = make_extract(self.features_of, self.mesh, reading)
        return self._extracts[reading](self.params, images, times, draw, names)

    def batch_size(self) -> int:
        """Images a batch, over all devices: a power of two a device, for whose activations there is ample memory."""
        mesh = self.mesh
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

    def _compiled(self, feature: str, number: int, most: int) -> tuple[int, Callable]:
        """(size, program): the smallest compiled batch that holds so many images, or a new one of a power of two."""
        sizes = [size for name, size in self._programs if name == feature and number <= size <= most]
        if sizes:
            return min(sizes), self._programs[feature, min(sizes)]
        mesh = self.mesh
        size = min(most, mesh.size << max(0, (-(-number // mesh.size) - 1).bit_length()))
        whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(BATCH_AXES))
        jitted = jax.jit(self.program(feature), in_shardings=(whole, split, whole), out_shardings=split)
        image = jax.ShapeDtypeStruct((size, *self.image_shape), self.dtype)
        level = jax.ShapeDtypeStruct((), jnp.float32)
        compiled = jitted.lower(self.params, image, level).compile()
        self._programs[feature, size] = compiled
        return size, compiled


def check_levels(times: Sequence[float]) -> None:
    """Raises UserError unless there are noise levels, all between 0 and 1."""
    if not len(times) or not all(0 <= t <= 1 for t in times):
        raise UserError(f"t={list(times)}: expected noise levels between 0 (the clean image) and 1 (noise)")


def local_mesh() -> Mesh:
    """This process's devices. Raises UserError in a fork of a process that used JAX."""
    check_not_forked()
    USED_BY.add(os.getpid())
    return make_mesh(jax.local_device_count(), 1, devices=jax.local_devices())


def check_not_forked() -> None:
    """Raises UserError in a fork of a process that used JAX: without that one's threads it would wait for ever."""
    if USED_BY and os.getpid() not in USED_BY:
        raise UserError(
            "JAX was in use when this process was forked, and would hang here; start processes with "
            'multiprocessing.get_context("spawn"), or use threads'
        )


@reproducible()
def open_run(workdir: Path, config: ConfigDict | None = None) -> Run:
    """The averaged parameters of a run's newest sound checkpoint, restored onto this process's devices.

    Args:
      workdir: the run directory. config: the run's, where it has been read.

    Raises:
      UserError: there is no run, no sound checkpoint, or one that does not fit the config.
    """
    directory = RunDirectory(workdir)
    config = directory.read_config() if config is None else config
    validate(config)
    data = directory.read_data()
    classes = len(directory.read_classes()) if methods.of(config).reads_labels else None
    image_shape = tuple(data["image_shape"])
    scale = Scale.from_json(data["scale"]) if data.get("scale") else None
    mesh = local_mesh()
    models = make_models(config, image_shape, classes=classes)
    whole, shapes = NamedSharding(mesh, P()), jax.eval_shape(models.init, jax.random.key(0))
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole), shapes)
    step, params = restore_ema(workdir, abstract)
    return Run(config, image_shape, params, step, str(workdir), scale, classes, mesh=mesh)
