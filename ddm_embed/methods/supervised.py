"""A classifier: what the encoder learns where it is told the training images' classes. A bound, no rival."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from ddm_embed.diffusion.prediction import Image, Level
from ddm_embed.fields import Field
from ddm_embed.methods.method import Method, Networks, Params, Parts, see_x0, static
from ddm_embed.models.build import Network


class Labels(NamedTuple):
    """label [batch]: each image's class, counted from 0."""

    label: Int[Array, " batch"]


class ClassTerms(NamedTuple):
    """accuracy [batch]: whether the likeliest class is the image's."""

    accuracy: Level


@dataclasses.dataclass(frozen=True)
class Supervised:
    """E [-log softmax(W E(x0) + b)_y], cross-entropy of a linear classifier on the code; its batches have labels."""

    def draw(self, key: Key[Array, ""], x0: Image, view: Image, dim: int, label: Int[Array, " batch"]) -> Labels:
        """Nothing is random here; the labels are split with the batch."""
        return Labels(label)

    def loss(
        self, networks: Networks, params: Params, target_params: Params, x0: Image, draws: Labels
    ) -> tuple[Float[Array, ""], ClassTerms]:
        """The mean loss and its terms; see `method.Objective`."""
        logits = networks.heads["classifier"](params, static(networks, params, x0).z).astype(jnp.float32)
        likelihood = jnp.take_along_axis(jax.nn.log_softmax(logits), draws.label[:, None], axis=1)
        right = jnp.argmax(logits, axis=1) == draws.label
        return -jnp.mean(likelihood), ClassTerms(right.astype(jnp.float32))


def build(config: ConfigDict, parts: Parts) -> dict[str, Network]:
    dim = parts.code.dim
    return {"classifier": Network(nn.Dense(parts.classes), ((dim,),), 2 * dim * parts.classes)}


def supervised(c: ConfigDict) -> None:
    """A classifier: L = E -log softmax(W E(x0) + b)_y. The one arm that reads the training images' labels.

    Expect more than of any other: a bound on what the encoder can hold, no rival. A fifth of the training images is not
    trained on: the probe chooses by these, since of images that it was trained on all layers and levels seem good.
    """
    c.objective.name, c.objective.held_out = "supervised", 0.2
    see_x0(c)


METHOD = Method(
    name="supervised",
    objective=lambda config: Supervised(),
    card=lambda config: "a classifier: **trained with the labels of its images**",
    presets={"supervised": supervised},
    build=build,
    reads_labels=True,
    fields={
        "objective.held_out": Field(
            0.0,
            "share of the training images that supervised is not trained on and the probe chooses by; unused where "
            "there are validation images",
            least=0.0,
            most=0.9,
            added=True,
        )
    },
    tags=(),
)
