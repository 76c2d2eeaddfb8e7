"""SimSiam: one view of an image predicts the projection of another, which takes no gradient (Chen & He 2021, arXiv
2011.10566)."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddm_embed.diffusion.agreement import cosine
from ddm_embed.diffusion.prediction import Level
from ddm_embed.methods import views
from ddm_embed.methods.method import Method, Parts, Vector
from ddm_embed.methods.views import AgreementTerms, TwoViews, build_projector, check_compared, project, see_views
from ddm_embed.models.auxiliary import Mlp
from ddm_embed.models.build import Network


def compare(networks, params, target_params, x0, view):
    a, b = (project(networks, params, image) for image in (x0, view))
    guesses = (networks.heads["predictor"](params, rows) for rows in (a, b))
    agreement = symmetric(*guesses, a, b)
    return -jnp.mean(agreement), AgreementTerms(agreement)


def symmetric(guess_a: Vector, guess_b: Vector, a: Vector, b: Vector) -> Level:
    """cos(q(a), b) / 2 + cos(q(b), a) / 2 with a and b fixed, [batch]: Chen & He 2021, arXiv 2011.10566, eq. 4."""
    a, b = jax.lax.stop_gradient((a, b))
    return (cosine(guess_a, b) + cosine(guess_b, a)) / 2


def build(config: ConfigDict, parts: Parts) -> dict[str, Network]:
    """The projector ends in a batch norm, the predictor is a bottleneck of a quarter of the entries."""
    entries = config.objective.projection
    predictor = Mlp(max(1, entries // 4), entries)
    predictor = Network(predictor, ((entries,),), predictor.flops(entries))
    return build_projector(config, parts, layers=3, last_norm=True) | {"predictor": predictor}


def simsiam(c: ConfigDict) -> None:
    """SimSiam: Chen & He 2021, arXiv 2011.10566, eq. 4.

    L = -E [cos(q(p), p') + cos(q(p'), p)] / 2, p and p' of two views of an image, p = MLP(E(x0)); the right of each
    cosine takes no gradient. The MLP has three layers with batch norm, each 4 times as wide as z, as theirs of 2,048
    behind CIFAR-10's ResNet-18; q has two, the first a quarter as wide. Their rate of q is constant, ours follows the
    schedule. It lives by its views: where the config draws none, they are `crop`s here. Expect less than of `byol`,
    whose target is a moving average, and a collapse now and then.
    """
    c.objective.name = "simsiam"
    c.objective.hidden = c.objective.projection = 4 * c.embedding.dim
    see_views(c)


METHOD = Method(
    name="simsiam",
    objective=lambda config: TwoViews(compare),
    card=lambda config: "SimSiam: one view of an image predicts the projection of another, which takes no gradient",
    presets={"simsiam": simsiam},
    fields=views.FIELDS,
    check=check_compared,
    build=build,
    passes=lambda config: {"encoder": 6, "projector": 6, "predictor": 6},
)
