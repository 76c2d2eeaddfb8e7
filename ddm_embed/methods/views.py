"""What methods that compare two views of an image share: the other view, and a projection of the code."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from ddm_embed.diffusion.prediction import Image, Level
from ddm_embed.errors import UserError
from ddm_embed.fields import Field
from ddm_embed.methods.method import Networks, Params, Parts, Vector, check_without_noise, see_x0, static
from ddm_embed.models.auxiliary import Mlp
from ddm_embed.models.build import Network

FIELDS = {
    "objective.projection": Field(128, "entries of the projection by which two views are compared", least=1),
    "objective.hidden": Field(512, "hidden units of that projection, and of a predictor", least=1),
}
TEMPERATURE = Field(0.5, "what cosines are divided by; simclr's, and other arms set theirs", least=0.001)
NORM = Field(
    "layer",
    "in the heads: layer, or batch as published, by the statistics of the whole batch",
    choices=("layer", "batch"),
    added=True,
)


class OtherView(NamedTuple):
    """view [batch, height, width, channel]: each image once more, as another draw of the augmentation shows it."""

    view: Image


class AgreementTerms(NamedTuple):
    """agreement [batch]: cosine of what is compared of an image's two views, a mean over the directions."""

    agreement: Level


class ContrastTerms(NamedTuple):
    """accuracy [batch]: share of an image's two views whose nearest among the others is its partner."""

    accuracy: Level


@dataclasses.dataclass(frozen=True)
class TwoViews:
    """A loss of two views of each image that draws nothing else.

    Attributes:
      compare: (networks, params, target_params, x0, view) -> what `method.Objective.loss` gives.
    """

    compare: Callable[[Networks, Params, Params, Image, Image], tuple[Float[Array, ""], NamedTuple]]

    def draw(self, key: Key[Array, ""], x0: Image, view: Image, dim: int) -> OtherView:
        """A step's random numbers; see `method.Objective`."""
        return OtherView(view)

    def loss(
        self, networks: Networks, params: Params, target_params: Params, x0: Image, draws: OtherView
    ) -> tuple[Float[Array, ""], NamedTuple]:
        """The mean loss and its terms; see `method.Objective`."""
        return self.compare(networks, params, target_params, x0, draws.view)


def project(networks: Networks, params: Params, image: Image, *heads: str) -> Vector:
    """The code of each image as it leaves the last of these heads, the projector first."""
    z = static(networks, params, image).z
    for name in ("projector", *heads):
        z = networks.heads[name](params, z)
    return z


def build_projector(config: ConfigDict, parts: Parts, **how: Any) -> dict[str, Network]:
    """A projection of the code; `how` as `Mlp` takes it."""
    dim, entries = parts.code.dim, config.objective.projection
    projector = Mlp(config.objective.hidden, entries, **how)
    return {"projector": Network(projector, ((dim,),), projector.flops(dim))}


def check_views(config: ConfigDict) -> None:
    """Raises UserError where there are no views to compare, or noise is asked for."""
    check_without_noise(config)
    if config.data.augment == "none":
        raise UserError(
            f"config.objective.name={config.objective.name} compares two views of an image, and config.data.augment="
            "none draws none; set config.data.augment to simclr, or another"
        )


def check_compared(config: ConfigDict) -> None:
    """Raises UserError of what `check_views` and `check_whole_batch` refuse."""
    check_views(config)
    check_whole_batch(config)


def check_whole_batch(config: ConfigDict) -> None:
    """Raises UserError where a batch is split, or of one image, of a method whose loss is no sum over images."""
    name = config.objective.name
    if config.train.accumulate > 1:
        raise UserError(
            f"config.train.accumulate={config.train.accumulate} splits the batch, and config.objective.name={name} "
            "compares each image with all others in it; set config.train.accumulate=1"
        )
    if config.train.batch_size < 2:
        raise UserError(
            f"config.train.batch_size=1: config.objective.name={name} compares an image with others; use 2 or more"
        )


def see_views(c: ConfigDict) -> None:
    """In a preset: the image and no noise level, in two views; crops where the config draws none."""
    see_x0(c)
    draw_views(c)


def follow_slowly(c: ConfigDict) -> None:
    """In a preset: the decay of the moving average, the target, goes to 1 along a cosine from 0.99, as published of
    long runs; of a run of less than 6,000 steps from 1 - 60 / steps, at least 0.7, as an average that is probed must
    have left the initialisation behind."""
    c.optimizer.ema_decay = min(0.99, max(0.7, 1 - 60 / c.train.steps))
    c.optimizer.ema_schedule = "cosine"


def draw_views(c: ConfigDict) -> None:
    """In a preset: crops where the config draws no views."""
    if c.data.augment == "none":
        c.data.augment = "crop"
