"""DINO: a view of an image is assigned to prototypes as a moving average assigns another view (Caron et al. 2021, arXiv
2104.14294), with Sinkhorn-Knopp for the centring."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from ddm_embed.diffusion.prediction import Level
from ddm_embed.fields import Field
from ddm_embed.methods import views
from ddm_embed.methods.method import Method, Parts
from ddm_embed.methods.views import TwoViews, build_projector, check_compared, follow_slowly, project, see_views
from ddm_embed.models.auxiliary import Prototypes
from ddm_embed.models.build import Network

Cosines = Float[Array, "batch class"]

FIELDS = views.FIELDS | {
    "objective.temperature": views.TEMPERATURE,
    "objective.teacher_temperature": Field(0.07, "the same of dino's moving average", least=0.001, added=True),
    "objective.prototypes": Field(256, "that dino assigns images to", least=2, added=True),
}


class AssignmentTerms(NamedTuple):
    """agreement [batch]: share of an image's views whose likeliest prototype is the moving average's of the other view.
    entropy [batch]: of the moving average's assignments, in nats."""

    agreement: Level
    entropy: Level


def make_objective(config: ConfigDict) -> TwoViews:
    student, teacher = config.objective.temperature, config.objective.teacher_temperature

    def compare(networks, params, target_params, x0, view):
        guess = [project(networks, params, image, "prototypes") for image in (x0, view)]
        target = [project(networks, target_params, image, "prototypes") for image in (view, x0)]
        target = jax.lax.stop_gradient(sinkhorn(jnp.concatenate(target) / teacher))
        guess = jax.nn.log_softmax(jnp.concatenate(guess) / student)
        agreement = jnp.argmax(guess, axis=1) == jnp.argmax(target, axis=1)
        entropy = -jnp.sum(jax.scipy.special.xlogy(target, target), axis=1)
        terms = (jnp.mean(term.reshape(2, -1), axis=0) for term in (agreement, entropy))
        return -jnp.mean(jnp.sum(target * guess, axis=1)), AssignmentTerms(*terms)

    return TwoViews(compare)


def sinkhorn(logits: Cosines, iterations: int = 3) -> Cosines:
    """Assignments, rows that add up to 1, whose columns are about as heavy as one another: exp(logits) with columns and
    then rows made equal in turn (Caron et al. 2020, arXiv 2006.09882, sec. 3.1 and app. A)."""
    for _ in range(iterations):
        logits = jax.nn.log_softmax(jax.nn.log_softmax(logits, axis=0), axis=1)
    return jnp.exp(logits)


def build(config: ConfigDict, parts: Parts) -> dict[str, Network]:
    """Three layers, and prototypes on the sphere."""
    entries, number = config.objective.projection, config.objective.prototypes
    prototypes = Network(Prototypes(number), ((entries,),), 2 * entries * number)
    return build_projector(config, parts, layers=3) | {"prototypes": prototypes}


def dino(c: ConfigDict) -> None:
    """DINO: Caron et al. 2021, arXiv 2104.14294, eq. 3.

    L = E -sum_k P'(x')_k log P(x)_k + the same with the views x and x' exchanged, halved; P = softmax(cos(p(E(x)), w_k)
    / 0.1) over the prototypes w_k, P' the same of the parameters' moving average at 0.04, its weights made equal over
    the batch by three rounds of Sinkhorn-Knopp, as in DINOv2 (arXiv 2304.07193). The average's decay goes from 0.99, or
    1 - 60 / steps if less, to 1 along a cosine. p has three layers, with batch norm, 4 times as wide as z and at last
    256; theirs has GELUs and no norm. There are 256 prototypes for their 65,536, and no small crops. It lives by its
    views: where the config draws none, they are `crop`s here. Expect it to need longer runs than the others, large
    batches and strong views.
    """
    c.objective.name = "dino"
    c.objective.hidden, c.objective.projection = 4 * c.embedding.dim, 256
    c.objective.temperature, c.objective.teacher_temperature = 0.1, 0.04
    follow_slowly(c)
    see_views(c)


METHOD = Method(
    name="dino",
    objective=make_objective,
    card=lambda config: "DINO: a view of an image is assigned to prototypes as a moving average assigns another view",
    presets={"dino": dino},
    fields=FIELDS,
    check=check_compared,
    build=build,
    passes=lambda config: {"encoder": 8, "projector": 8, "prototypes": 8},
)
