"""Whether one run is better than another: standard errors, paired tests, and their correction for many pairs."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

Right = Bool[np.ndarray, " test"]


class Paired(NamedTuple):
    """Differences over shared seeds: their mean, its standard error, the two-sided p-value and the number of seeds.

    p is None where the differences are equal and not 0: they leave nothing to judge their spread by.
    """

    difference: float
    error: float
    p: float | None
    number: int


class Discordant(NamedTuple):
    """Test images that only the first gets right, that only the second does, and the two-sided exact p-value."""

    only_first: int
    only_second: int
    p: float


def mean_and_error(values: list[float]) -> tuple[float, float | None]:
    """The mean and its standard error s / sqrt(n), s with n - 1 degrees of freedom; None for a single value."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return float(np.mean(values)), error


def paired(first: list[float], second: list[float]) -> Paired | None:
    """Student's t-test on the differences `first - second` of accuracies of equal seeds; None for fewer than two."""
    if len(first) < 2:
        return None
    from scipy.stats import ttest_rel

    differences = np.subtract(first, second)
    mean, error = mean_and_error(list(differences))
    if np.ptp(differences) <= 1e-12 * np.max(np.abs(differences), initial=0):
        return Paired(mean, 0.0, 1.0 if mean == 0 else None, len(first))
    return Paired(mean, error, float(ttest_rel(first, second).pvalue), len(first))


def mcnemar(first: Right, second: Right) -> Discordant:
    """McNemar's exact test: of the images that one gets right and the other wrong, either is as likely to be the one.

    Source: McNemar 1947, Psychometrika 12, 153-157; the exact form is a binomial test on the discordant pairs.

    Args:
      first, second: [test], whether each test image was classified rightly; the same images in the same order.
    """
    from scipy.stats import binomtest

    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return Discordant(only_first, only_second, p)


def holm(p_values: list[float]) -> list[float]:
    """p-values adjusted for their number, in the order given; the chance of any false finding stays below the level.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))))
    return adjusted.tolist()
