"""The classifier: what the encoder learns where it is told the training images' classes."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ddm_embed.diffusion.prediction import Image, Level
from ddm_embed.methods.diffusion import Params
from ddm_embed.methods.networks import Networks, static


class Labels(NamedTuple):
    """label [batch]: each image's class, counted from 0."""

    label: Int[Array, " batch"]


class ClassTerms(NamedTuple):
    """accuracy [batch]: whether the likeliest class is the image's."""

    accuracy: Level


@dataclasses.dataclass(frozen=True)
class Supervised:
    """E [-log softmax(W E(x0) + b)_y], cross-entropy of a linear classifier on the code; its batches have labels."""

    def draw(
        self, key: Key[Array, ""], x0: Image, view: Image, dim: int, logits: None, label: Int[Array, " batch"]
    ) -> Labels:
        """Nothing is random here; the labels are split with the batch."""
        return Labels(label)

    def loss(
        self, networks: Networks, params: Params, target_params: Params, x0: Image, draws: Labels
    ) -> tuple[Float[Array, ""], ClassTerms]:
        """The mean loss and its terms; see `diffusion.objective.Objective.loss`."""
        logits = networks.classify(params, static(networks, params, x0).z).astype(jnp.float32)
        likelihood = jnp.take_along_axis(jax.nn.log_softmax(logits), draws.label[:, None], axis=1)
        right = jnp.argmax(logits, axis=1) == draws.label
        return -jnp.mean(likelihood), ClassTerms(right.astype(jnp.float32))
