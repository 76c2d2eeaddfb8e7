"""Heads fitted to their optimum: ridge, logistic, knn."""

from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from ddm_embed.heads import linear
from ddm_embed.probe.bench import Head, check_numbers

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
    return _by_strength("ridge", config.strengths, settings, fit_predict)


def logistic(config: ConfigDict) -> Head:
    """Multinomial logistic regression with an L2 penalty on standardised features, by L-BFGS to convergence.

    scikit-learn's `LogisticRegression(C=1 / (strength * number))` on `StandardScaler`'s output; the probe of Radford et
    al. 2021 (arXiv 2103.00020, app. A.3), whose strengths are searched on held-out images as here.
    """

    def fit_predict(fit, labels, queries, strengths, key, classes):
        fit, queries = linear.standardise(fit, queries)
        found = linear.logistic(fit, labels, strengths, classes, TOLERANCE)
        return linear.linear_predict(queries, found.weights, found.intercepts)

    settings = {
        "head": "multinomial logistic regression, L2",
        "features": "standardised",
        "solver": f"L-BFGS to a gradient of {TOLERANCE:g}, at most {sum(linear.ROUNDS)} steps",
    }
    return _by_strength("logistic", config.logistic_strengths, settings, fit_predict)


def check_logistic(config: ConfigDict) -> None:
    check_numbers(config, "logistic_strengths")


def knn(config: ConfigDict) -> Head:
    """Votes of the nearest training images by cosine of centred features, each weighing exp(cosine / temperature).

    k = 20 and temperature 0.07 unless configured: Wu et al. 2018 (arXiv 1805.01978, eq. 8), with the k
    that Caron et al. 2021 (arXiv 2104.14294, app. F.1) found best.
    """

    def fit_predict(fit, labels, queries, hypers, key, classes):
        return linear.nearest(fit, labels, queries, classes, config.neighbours, config.temperature)[None]

    settings = {"head": "nearest neighbours", "features": "centred", "metric": "cosine"}
    settings |= {"neighbours": config.neighbours, "temperature": config.temperature}
    return Head("knn", None, (float("nan"),), settings, fit_predict, pooled=True)


def _by_strength(name: str, strengths: tuple[float, ...], settings: dict, fit_predict: Callable) -> Head:
    settings |= {"strengths": list(strengths), "penalty": "strength * images that it was chosen on, for all images too"}
    return Head(name, "strength", tuple(strengths), settings, fit_predict, pooled=True, per_image=True)
