"""BYOL: one view of an image predicts the embedding of another (Grill et al. 2020, arXiv 2006.07733)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from ddm_embed.diffusion.agreement import cosine
from ddm_embed.diffusion.prediction import Image
from ddm_embed.methods import views
from ddm_embed.methods.method import Method, Networks, Params, Parts, static
from ddm_embed.methods.views import (
    AgreementTerms,
    OtherView,
    build_projector,
    check_views,
    check_whole_batch,
    follow_slowly,
    see_views,
)
from ddm_embed.models.auxiliary import Mlp
from ddm_embed.models.build import Network


@dataclasses.dataclass(frozen=True)
class Byol:
    """E [2 - 2 cos(q(p(E(x))), p'(E'(x')))] + the same with x and x' exchanged: Grill et al. 2020, arXiv 2006.07733,
    eq. 2, where E' and p' have the parameters' moving average and take no gradient."""

    def draw(self, key: Key[Array, ""], x0: Image, view: Image, dim: int) -> OtherView:
        """A step's random numbers; see `method.Objective`."""
        return OtherView(view)

    def loss(
        self, networks: Networks, params: Params, target_params: Params, x0: Image, draws: OtherView
    ) -> tuple[Float[Array, ""], AgreementTerms]:
        """The mean loss and its terms; see `method.Objective`."""
        project, predict = networks.heads["projector"], networks.heads["predictor"]

        def agreement(image: Image, other: Image) -> Float[Array, " batch"]:
            guess = predict(params, project(params, static(networks, params, image).z))
            target = project(target_params, static(networks, target_params, other).z)
            return cosine(guess, jax.lax.stop_gradient(target))

        there, back = agreement(x0, draws.view), agreement(draws.view, x0)
        return jnp.mean(4 - 2 * there - 2 * back), AgreementTerms((there + back) / 2)


def check(config: ConfigDict) -> None:
    check_views(config)
    if config.objective.norm == "batch":
        check_whole_batch(config)


def build(config: ConfigDict, parts: Parts) -> dict[str, Network]:
    """Two layers each, the first one normed."""
    entries, norm = config.objective.projection, config.objective.norm
    predictor = Mlp(config.objective.hidden, entries, norm=norm)
    predictor = Network(predictor, ((entries,),), predictor.flops(entries))
    return build_projector(config, parts, norm=norm) | {"predictor": predictor}


def byol(c: ConfigDict) -> None:
    """BYOL: Grill et al. 2020, arXiv 2006.07733, eq. 2.

    L = E [2 - 2 cos(q(p(E(x))), p'(E'(x')))] + the same with the views x and x' exchanged; E' and p' have the moving
    average of the parameters, whose decay goes from 0.99 (theirs for 300 epochs), or 1 - 60 / steps if less, to 1 along
    a cosine. q and p have two layers, 4,096 and 256 wide, with batch norm, without which it collapses in short runs. It
    lives by its views: where the config draws none, they are `crop`s here. Expect about what contrast between images
    gives, from smaller batches too.
    """
    c.objective.name, c.objective.norm = "byol", "batch"
    c.objective.hidden, c.objective.projection = 4096, 256
    follow_slowly(c)
    see_views(c)


METHOD = Method(
    name="byol",
    objective=lambda config: Byol(),
    card=lambda config: "BYOL: one view of an image predicts the embedding of another",
    presets={"byol": byol},
    fields=views.FIELDS | {"objective.norm": views.NORM},
    check=check,
    build=build,
    passes=lambda config: {"encoder": 8, "projector": 8, "predictor": 6},
)
