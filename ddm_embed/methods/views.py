"""What methods that compare two views of an image share: the other view, and a projection of the code."""

from typing import NamedTuple

from ml_collections import ConfigDict

from ddm_embed.diffusion.prediction import Image
from ddm_embed.errors import UserError
from ddm_embed.fields import Field
from ddm_embed.methods.method import Parts, check_without_noise, see_x0
from ddm_embed.models.auxiliary import Mlp
from ddm_embed.models.build import Network

FIELDS = {
    "objective.projection": Field(128, "entries of the projection by which two views are compared", least=1),
    "objective.hidden": Field(512, "hidden units of that projection, and of a predictor", least=1),
}


class OtherView(NamedTuple):
    """view [batch, height, width, channel]: each image once more, as another draw of the augmentation shows it."""

    view: Image


def build_projector(config: ConfigDict, parts: Parts) -> dict[str, Network]:
    dim, entries = parts.code.dim, config.objective.projection
    projector = Mlp(config.objective.hidden, entries)
    return {"projector": Network(projector, ((dim,),), projector.flops(dim))}


def check_views(config: ConfigDict) -> None:
    """Raises UserError where there are no views to compare, or noise is asked for."""
    check_without_noise(config)
    if config.data.augment == "none":
        raise UserError(
            f"config.objective.name={config.objective.name} compares two views of an image, and config.data.augment="
            "none draws none; set config.data.augment to simclr, or another"
        )


def see_views(c: ConfigDict) -> None:
    """In a preset: the image and no noise level, in two views; crops where the config draws none."""
    see_x0(c)
    if c.data.augment == "none":
        c.data.augment = "crop"
