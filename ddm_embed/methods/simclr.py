"""SimCLR: two views of an image are to be alike, and unlike all others (Chen et al. 2020, arXiv 2002.05709)."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from ddm_embed.diffusion.agreement import nt_xent
from ddm_embed.diffusion.prediction import Image
from ddm_embed.methods import views
from ddm_embed.methods.method import Method, Networks, Params, Parts, static
from ddm_embed.methods.views import ContrastTerms, OtherView, build_projector, check_compared, see_views
from ddm_embed.models.build import Network

FIELDS = {"objective.temperature": views.TEMPERATURE} | views.FIELDS | {"objective.norm": views.NORM}


@dataclasses.dataclass(frozen=True)
class SimClr:
    """NT-Xent over the whole batch: Chen et al. 2020, arXiv 2002.05709, eq. 1.

    Attributes:
      temperature: what cosines are divided by.
    """

    temperature: float = 0.5

    def draw(self, key: Key[Array, ""], x0: Image, view: Image, dim: int) -> OtherView:
        """A step's random numbers; see `method.Objective`."""
        return OtherView(view)

    def loss(
        self, networks: Networks, params: Params, target_params: Params, x0: Image, draws: OtherView
    ) -> tuple[Float[Array, ""], ContrastTerms]:
        """The mean loss and its terms; see `method.Objective`. It is no sum over examples."""
        a, b = (networks.heads["projector"](params, static(networks, params, image).z) for image in (x0, draws.view))
        loss, accuracy = nt_xent(a, b, self.temperature)
        return jnp.mean(loss), ContrastTerms(accuracy)


def build(config: ConfigDict, parts: Parts) -> dict[str, Network]:
    """Two layers, both batch-normed, as in the authors' code."""
    norm = config.objective.norm
    return build_projector(config, parts, norm=norm, last_norm=norm == "batch")


def simclr(c: ConfigDict) -> None:
    """SimCLR: Chen et al. 2020, arXiv 2002.05709, eq. 1.

    L = E -log exp(cos(p, p') / tau) / sum exp(cos(p, p_k) / tau), p and p' of two views of an image, p_k of all other
    views in the batch, p = MLP(E(x0)), two layers with batch norm, tau = 0.5 as in their runs on CIFAR-10. It lives by
    its views: where the config draws none, they are `crop`s here. Expect much of data.augment=simclr on photographs,
    little of weak views.
    """
    c.objective.name, c.objective.norm = "simclr", "batch"
    see_views(c)


METHOD = Method(
    name="simclr",
    objective=lambda config: SimClr(config.objective.temperature),
    card=lambda config: "SimCLR: two views of an image get like embeddings",
    presets={"simclr": simclr},
    fields=FIELDS,
    check=check_compared,
    build=build,
    passes=lambda config: {"encoder": 6, "projector": 6},
)
