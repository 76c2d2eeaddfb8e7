"""VICReg: two views of an image are alike, every entry varies, and no two entries together (Bardes et al. 2022, arXiv
2105.04906)."""

import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from ddm_embed.diffusion.agreement import cosine
from ddm_embed.fields import Field
from ddm_embed.methods import views
from ddm_embed.methods.method import Method, Vector
from ddm_embed.methods.views import AgreementTerms, TwoViews, build_projector, check_compared, project, see_views

FIELDS = views.FIELDS | {
    "objective.invariance": Field(25.0, "vicreg's weight of the distance between views", least=0.0, added=True),
    "objective.variance": Field(25.0, "and of the entries' standard deviations below 1", least=0.0, added=True),
    "objective.covariance": Field(1.0, "and of the covariances between entries", least=0.0, added=True),
}


def make_objective(config: ConfigDict) -> TwoViews:
    weights = config.objective.invariance, config.objective.variance, config.objective.covariance

    def compare(networks, params, target_params, x0, view):
        a, b = (project(networks, params, image) for image in (x0, view))
        total = sum(weight * term for weight, term in zip(weights, vicreg_terms(a, b), strict=True))
        return total, AgreementTerms(cosine(a, b))

    return TwoViews(compare)


def vicreg_terms(a: Vector, b: Vector) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """(invariance, variance, covariance): Bardes et al. 2022, arXiv 2105.04906, eq. 1 to 5, as in their code: means
    over entries, the variance term a mean over the two views and the covariance term their sum."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    variance = covariance = 0.0
    for rows in (a, b):
        rows = rows - jnp.mean(rows, axis=0)
        within = jnp.matmul(rows.T, rows, precision="highest") / (len(rows) - 1)
        own = jnp.diagonal(within)
        variance += jnp.mean(jnp.maximum(1 - jnp.sqrt(own + 1e-4), 0)) / 2
        covariance += (jnp.sum(within**2) - jnp.sum(own**2)) / len(own)
    return jnp.mean((a - b) ** 2), variance, covariance


def vicreg(c: ConfigDict) -> None:
    """VICReg: Bardes et al. 2022, arXiv 2105.04906, eq. 6.

    L = 25 |p - p'|^2 + 25 mean_i max(0, 1 - std p_i) + sum_{i != j} cov(p_i, p_j)^2 / d, p and p' of two views of an
    image, p = MLP(E(x0)) of d entries, |.|^2 a mean over them, the last term summed over both views. The MLP has three
    layers with batch norm, each 4 times as wide as z, as theirs of 8,192 behind ResNet-50. It lives by its views: where
    the config draws none, they are `crop`s here. Expect it beside `barlow`.
    """
    c.objective.name = "vicreg"
    c.objective.hidden = c.objective.projection = 4 * c.embedding.dim
    see_views(c)


METHOD = Method(
    name="vicreg",
    objective=make_objective,
    card=lambda config: "VICReg: two views of an image are alike, every entry varies, and no two entries together",
    presets={"vicreg": vicreg},
    fields=FIELDS,
    check=check_compared,
    build=lambda config, parts: build_projector(config, parts, layers=3),
    passes=lambda config: {"encoder": 6, "projector": 6},
)
