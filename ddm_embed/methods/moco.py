"""MoCo v3: one view of an image finds the other among all of the batch, as a moving average encodes them (Chen et al.
2021, arXiv 2104.02057)."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddm_embed.diffusion.prediction import Level
from ddm_embed.methods import views
from ddm_embed.methods.method import Method, Parts, Vector
from ddm_embed.methods.views import (
    ContrastTerms,
    TwoViews,
    build_projector,
    check_compared,
    follow_slowly,
    project,
    see_views,
)
from ddm_embed.models.auxiliary import Mlp
from ddm_embed.models.build import Network
from ddm_embed.models.encoder import unit


def make_objective(config: ConfigDict) -> TwoViews:
    temperature = config.objective.temperature

    def compare(networks, params, target_params, x0, view):
        queries = (project(networks, params, image, "predictor") for image in (x0, view))
        keys = (project(networks, target_params, image) for image in (view, x0))
        there, back = (contrast(query, key, temperature) for query, key in zip(queries, keys, strict=True))
        return jnp.mean(there[0] + back[0]), ContrastTerms((there[1] + back[1]) / 2)

    return TwoViews(compare)


def contrast(query: Vector, key: Vector, temperature: float) -> tuple[Level, Level]:
    """(loss, accuracy), [batch] each, of finding each query's key among all keys, which take no gradient.

    -2 temperature log exp(cos(q_i, k_i) / temperature) / sum_j exp(cos(q_i, k_j) / temperature): Chen et al. 2021,
    arXiv 2104.02057, eq. 1 and alg. 1.
    """
    query, key = unit(query), jax.lax.stop_gradient(unit(key))
    logits = jnp.matmul(query, key.T, precision="highest") / temperature
    loss = -2 * temperature * jnp.diagonal(jax.nn.log_softmax(logits))
    return loss, (jnp.argmax(logits, axis=1) == jnp.arange(len(query))).astype(jnp.float32)


def build(config: ConfigDict, parts: Parts) -> dict[str, Network]:
    """Three layers and two, all batch-normed, the last ones too."""
    entries = config.objective.projection
    predictor = Mlp(config.objective.hidden, entries, last_norm=True)
    predictor = Network(predictor, ((entries,),), predictor.flops(entries))
    return build_projector(config, parts, layers=3, last_norm=True) | {"predictor": predictor}


def moco(c: ConfigDict) -> None:
    """MoCo v3: Chen et al. 2021, arXiv 2104.02057, eq. 1.

    L = 2 tau E -log exp(cos(q, k+) / tau) / sum exp(cos(q, k) / tau) + the same with the views exchanged. Here
    q = h(p(E(x))) is of one view, k = p'(E'(x')) of the other views in the batch, k+ of the same image, and tau = 0.2;
    E' and p' have the moving average of the parameters, whose decay goes from 0.99, or 1 - 60 / steps if less, to 1
    along a cosine. p has three layers and h two, all with batch norm, 256 wide at the end and before that 4 times as
    wide as z, where theirs are 4,096 behind a width of 384. Their frozen embedding of patches is left out. It lives by
    its views: where the config draws none, they are `crop`s here. Expect it beside `simclr`.
    """
    c.objective.name = "moco"
    c.objective.hidden, c.objective.projection = 4 * c.embedding.dim, 256
    c.objective.temperature = 0.2
    follow_slowly(c)
    see_views(c)


METHOD = Method(
    name="moco",
    objective=make_objective,
    card=lambda config: "MoCo v3: one view of an image finds the other among the batch, by a moving average's codes",
    presets={"moco": moco},
    fields={"objective.temperature": views.TEMPERATURE} | views.FIELDS,
    check=check_compared,
    build=build,
    passes=lambda config: {"encoder": 8, "projector": 8, "predictor": 6},
)
