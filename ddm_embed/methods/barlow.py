"""Barlow Twins: two views of an image agree in every entry, and no two entries agree (Zbontar et al. 2021, arXiv
2103.03230)."""

import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from ddm_embed.diffusion.agreement import cosine
from ddm_embed.fields import Field
from ddm_embed.methods import views
from ddm_embed.methods.method import Method, Vector
from ddm_embed.methods.views import AgreementTerms, TwoViews, build_projector, check_compared, project, see_views

FIELDS = views.FIELDS | {
    "objective.redundancy": Field(
        0.005, "lambda of barlow, on correlations between different entries", least=0.0, added=True
    )
}


def make_objective(config: ConfigDict) -> TwoViews:
    def compare(networks, params, target_params, x0, view):
        a, b = (project(networks, params, image) for image in (x0, view))
        return barlow_twins(a, b, config.objective.redundancy), AgreementTerms(cosine(a, b))

    return TwoViews(compare)


def barlow_twins(a: Vector, b: Vector, redundancy: float) -> Float[Array, ""]:
    """(sum_i (1 - C_ii)^2 + redundancy sum_{i != j} C_ij^2) / dim, C the correlations of the entries of a with those of
    b over the batch: Zbontar et al. 2021, arXiv 2103.03230, eq. 1 and 2."""
    a, b = (standardised(rows.astype(jnp.float32)) for rows in (a, b))
    correlation = jnp.matmul(a.T, b, precision="highest") / len(a)
    same = jnp.diagonal(correlation)
    others = jnp.sum(correlation**2) - jnp.sum(same**2)
    return (jnp.sum((1 - same) ** 2) + redundancy * others) / len(same)


def standardised(rows: Vector) -> Vector:
    """Batch norm without parameters, with its 1e-5."""
    rows = rows - jnp.mean(rows, axis=0)
    return rows / jnp.sqrt(jnp.mean(rows**2, axis=0) + 1e-5)


def barlow(c: ConfigDict) -> None:
    """Barlow Twins: Zbontar et al. 2021, arXiv 2103.03230, eq. 1.

    L = (sum_i (1 - C_ii)^2 + 0.005 sum_{i != j} C_ij^2) / d, C_ij the correlation over the batch of entry i of p with
    entry j of p', p and p' of two views of an image, p = MLP(E(x0)) of d entries. The MLP has three layers with batch
    norm, each 4 times as wide as z, as theirs of 8,192 behind ResNet-50; the factor 1 / d is ours, so that clipping
    does the same at any width. It lives by its views: where the config draws none, they are `crop`s here. Expect it
    beside `simclr`, and better the wider the MLP.
    """
    c.objective.name = "barlow"
    c.objective.hidden = c.objective.projection = 4 * c.embedding.dim
    see_views(c)


METHOD = Method(
    name="barlow",
    objective=make_objective,
    card=lambda config: "Barlow Twins: two views of an image agree in every entry, and no two entries agree",
    presets={"barlow": barlow},
    fields=FIELDS,
    check=check_compared,
    build=lambda config, parts: build_projector(config, parts, layers=3),
    passes=lambda config: {"encoder": 6, "projector": 6},
)
