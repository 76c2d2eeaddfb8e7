"""The contract of an encoder architecture, and the sizes that all networks of a run share."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

Shape = tuple[int, int, int]  # (height, width, channel); (1, length, channel) of sequences


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a run's transformers, and how they compute; as in `layers.Trunk`."""

    width: int
    depth: int
    heads: int
    patch: int
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    attention: str = "xla"
    remat: str = "none"
    scan: bool = False
    dtype: jnp.dtype = jnp.float32

    def trunk(self) -> dict[str, Any]:
        """What a `layers.Trunk` takes, but for its depth."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "depth"}


class Code(NamedTuple):
    """dim: entries of z. sphere: z on the unit sphere. gaussian: a code with a mean and a log-variance."""

    dim: int
    sphere: bool = True
    gaussian: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """One kind of encoder, named by `config.model.encoder`.

    Attributes:
      form: what its names look like, for messages.
      takes: whether a name is one of its.
      make: (name, depth or None, code, sizes) -> a Flax module with the fields of `Code`, the number `layers` of its
        layers, `flops(image_shape)` for a forward pass, and `__call__(image, t) -> encoder.Embedding`.
      masks: whether its `__call__` also takes the places of the only tokens to see, as `encoder.Encoder`'s does.
      channels: a number that mesh.fsdp must divide; None where the model's width is all.
    """

    form: str
    takes: Callable[[str], bool]
    make: Callable[[str, int | None, Code, Sizes], Any]
    masks: bool = False
    channels: int | None = None
