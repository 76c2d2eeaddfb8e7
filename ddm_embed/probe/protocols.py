"""The named protocols: each an exact preset, so that figures under one name may stand in one column."""

from collections.abc import Callable
from functools import partial

import jax
from ml_collections import ConfigDict

from ddm_embed import config as config_lib
from ddm_embed.errors import UserError
from ddm_embed.heads import linear
from ddm_embed.heads.linear import ROUNDS, logistic
from ddm_embed.heads.recipes import RECIPES
from ddm_embed.probe.bench import Bench, Judged
from ddm_embed.probe.by_recipe import by_recipe, fine_tuned, recipe_of
from ddm_embed.probe.engine import Head, judge
from ddm_embed.probe.few_labels import few_shots, propagation, semi_supervised
from ddm_embed.probe.trajectory import READERS, trajectory

TOLERANCE = 1e-6  # of logistic regression's gradient


def ridge(config: ConfigDict) -> Head:
    """Ridge regression onto one-hot labels on standardised features, in closed form, at every strength.

    scikit-learn's `Ridge(alpha=strength * number)` on `StandardScaler`'s output (Hastie et al. 2009, "The Elements of
    Statistical Learning", sec. 4.2, eq. 3.47).
    """

    def fit_predict(fit, labels, queries, strengths, key, classes):
        fit, queries = linear.standardise(fit, queries)
        return linear.linear_predict(queries, *linear.ridge(fit, jax.nn.one_hot(labels, classes), strengths))

    settings = {"head": "ridge regression onto one-hot labels", "features": "standardised", "solver": "closed form"}
    return Head("ridge", "strength", tuple(config.strengths), settings | _grid(config.strengths), fit_predict)


def logistic_regression(config: ConfigDict) -> Head:
    """Multinomial logistic regression with an L2 penalty on standardised features, by L-BFGS to convergence.

    scikit-learn's `LogisticRegression(C=1 / (strength * number))` on `StandardScaler`'s output; the probe of Radford et
    al. 2021 (arXiv 2103.00020, app. A.3), whose strengths are searched on held-out images as here.
    """

    def fit_predict(fit, labels, queries, strengths, key, classes):
        fit, queries = linear.standardise(fit, queries)
        found = logistic(fit, labels, strengths, classes, TOLERANCE)
        return linear.linear_predict(queries, found.weights, found.intercepts)

    settings = {
        "head": "multinomial logistic regression, L2",
        "features": "standardised",
        "solver": f"L-BFGS to a gradient of {TOLERANCE:g}, at most {sum(ROUNDS)} steps",
    }
    strengths = config.logistic_strengths
    return Head("logistic", "strength", tuple(strengths), settings | _grid(strengths), fit_predict)


def knn(config: ConfigDict) -> Head:
    """Votes of the nearest training images by cosine of centred features, each weighing exp(cosine / temperature).

    k = 20 and temperature 0.07 unless configured: Wu et al. 2018 (arXiv 1805.01978, eq. 8), with the k
    that Caron et al. 2021 (arXiv 2104.14294, app. F.1) found best.
    """

    def fit_predict(fit, labels, queries, hypers, key, classes):
        return linear.nearest(fit, labels, queries, classes, config.neighbours, config.temperature)[None]

    settings = {"head": "nearest neighbours", "features": "centred", "metric": "cosine"}
    settings |= {"neighbours": config.neighbours, "temperature": config.temperature}
    return Head("knn", None, (float("nan"),), settings, fit_predict)


def _grid(strengths) -> dict:
    return {"strengths": list(strengths)}


HEADS: dict[str, Callable[[ConfigDict], Head]] = {"ridge": ridge, "logistic": logistic_regression, "knn": knn}


def _cached(name: str) -> Callable[[Bench], dict[str, Judged]]:
    return lambda bench: {name: judge(HEADS[name](bench.config), bench)}


PROTOCOLS: dict[str, Callable[[Bench], dict[str, Judged]]] = {name: _cached(name) for name in HEADS} | {
    "ddae": partial(by_recipe, "ddae"),
    "mae": partial(by_recipe, "mae"),
    "dinov2": partial(by_recipe, "dinov2"),
    "mlp": partial(by_recipe, "mlp"),
    "fewshot": few_shots,
    "propagation": propagation,
    "finetune": lambda bench: fine_tuned(bench, judge(ridge(bench.config), bench)),
    "semi": semi_supervised,
    "trajectory": lambda bench: trajectory(bench, ridge(bench.config)),
}


def check(config: ConfigDict) -> None:
    """Refuses a probe's config that names what there is not, or numbers that no head takes, before anything is read.

    Raises:
      UserError: naming the first field that is wrong.
    """
    protocols, readers = config_lib.names(config.protocols), config_lib.names(config.readers)
    for field, names, known in (("protocols", protocols, PROTOCOLS), ("readers", readers, READERS)):
        if not names or any(name not in known for name in names):
            raise UserError(f"config.{field}={','.join(names)}: use one or more of {', '.join(known)}")
    for name in RECIPES:
        recipe_of(name, config)
    for field in ("logistic_strengths", "reader_rates", "learned_t_rates"):
        if not config[field] or not all(isinstance(v, (int, float)) and v > 0 for v in config[field]):
            raise UserError(f"config.{field}={tuple(config[field])}: expected one or more numbers above 0")
    for field in ("shots", "reader_levels"):
        if not config[field] or not all(isinstance(v, int) and v > 0 for v in config[field]):
            raise UserError(f"config.{field}={tuple(config[field])}: expected one or more whole numbers above 0")
