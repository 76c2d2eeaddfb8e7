"""Whether one run is better than another: standard errors, paired tests, their correction for many pairs; and which
rows of a comparison are best."""

from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from ddm_embed.compare.runs import Measure
from ddm_embed.results import Results, has_collapsed

Right = Bool[np.ndarray, " test"]
LEVEL = 0.05

Cells = dict[str, list[Measure]]


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


class Row(NamedTuple):
    """One config, or a baseline: under a column's name, one measure a seed, in the seeds' order."""

    name: str
    baseline: bool
    cells: Cells

    @property
    def results(self) -> list[Results]:
        """What its runs' probes found."""
        return [measure.result.results for cell in self.cells.values() for measure in cell]

    @property
    def collapsed(self) -> list[int]:
        """The training seeds of its runs whose codes have collapsed: a row with one is not ranked."""
        found = [] if self.baseline else self.results
        return sorted({one["seeds"]["train"] for one in found if has_collapsed(one)})


class Pair(NamedTuple):
    """Two rows of a column tested against each other; p-values corrected after Holm over the table's tests of a kind.

    seeds_test is the t-test over shared seeds; image_tests is McNemar's for each of them: seed, test, corrected p.
    fixed: whether neither row varies with a training seed.
    """

    column: str
    first: str
    second: str
    seeds_test: Paired | None
    seeds_p: float | None
    image_tests: list[tuple[int, Discordant, float]]
    fixed: bool = False

    @property
    def verdict(self) -> float | None:
        """The corrected p-value that decides, or None where no test was possible.

        That over seeds, of which there must be two: a test over images tells two trained networks apart, and two seeds
        of one method are two such. Where nothing was trained it is that over images, the largest of all shared seeds',
        and 1 where these do not agree on which is better.
        """
        if not self.fixed:
            return self.seeds_p
        ways = {np.sign(test.only_first - test.only_second) for _, test, _ in self.image_tests}
        if not ways:
            return None
        return max(p for _, _, p in self.image_tests) if len(ways) == 1 else 1.0


def summary(cell: list[Measure]) -> tuple[float, float | None, int]:
    """Mean, standard error over seeds (None for one) and number of seeds."""
    return *mean_and_error([measure.accuracy for measure in cell]), len(cell)


def _shared(first: Row, second: Row, column: str) -> list[tuple[int, Measure, Measure]]:
    """Measures to pair: of one training seed; with a baseline, of one probe seed."""
    a, b = first.cells.get(column, []), second.cells.get(column, [])
    if first.baseline == second.baseline:
        others = {measure.seed: measure for measure in b}
        return [(m.seed, m, others[m.seed]) for m in a if m.seed in others]
    if first.baseline:
        return [(seed, m, n) for seed, n, m in _shared(second, first, column)]
    others = {measure.probe_seed: measure for measure in b}
    return [(m.seed, m, others[m.probe_seed]) for m in a if m.probe_seed in others]


def pair_up(rows: list[Row], columns: list[str]) -> tuple[list[Pair], list[str]]:
    """All pairs of rows in each column that a test is possible for; and what hinders others. Baselines are tested with
    one another over images alone."""
    pairs, notes = [], []
    for column in columns:
        for first, second in combinations(rows, 2):
            shared = _shared(first, second, column)
            seeds_test, fixed = None, first.baseline and second.baseline
            if not fixed:
                seeds_test = paired([m.accuracy for _, m, _ in shared], [n.accuracy for _, _, n in shared])
            image_tests = []
            for seed, m, n in shared:
                obstacle = _no_image_test(m, n)
                if obstacle:
                    notes.append(f"{first.name} and {second.name} under {column}, seed {seed}: {obstacle}")
                elif m.right is not None and n.right is not None:
                    image_tests.append((seed, mcnemar(m.right, n.right), 1.0))
            if seeds_test or image_tests:
                pairs.append(Pair(column, first.name, second.name, seeds_test, None, image_tests, fixed))
    by_seeds = iter(holm([p.seeds_test.p for p in pairs if p.seeds_test and p.seeds_test.p is not None]))
    by_images = iter(holm([test.p for pair in pairs for _, test, _ in pair.image_tests]))
    corrected = [
        pair._replace(
            seeds_p=next(by_seeds) if pair.seeds_test and pair.seeds_test.p is not None else None,
            image_tests=[(seed, test, next(by_images)) for seed, test, _ in pair.image_tests],
        )
        for pair in pairs
    ]
    return corrected, notes


def _no_image_test(m: Measure, n: Measure) -> str | None:
    """Why kept predictions cannot be paired: where both are right they must name the same class."""
    if m.right is None or n.right is None:
        return None
    same = "no test over images: their predictions are not of the same test images"
    if m.right.shape != n.right.shape:
        return same
    both = m.right & n.right
    known = m.predicted is not None and n.predicted is not None
    return same if known and np.any(m.predicted[both] != n.predicted[both]) else None


def find_best(rows: list[Row], columns: list[str], pairs: list[Pair]) -> tuple[set[tuple[str, str]], list[str]]:
    """Where every other row was tested against the highest: that, and what is not significantly below; and why
    nothing is marked elsewhere."""
    verdicts = {(pair.column, frozenset((pair.first, pair.second))): pair.verdict for pair in pairs}
    best, notes = set(), []
    for column in columns:
        means = {row.name: summary(row.cells[column])[0] for row in rows if column in row.cells}
        if len(means) < 2:
            continue
        top = max(means, key=means.get)
        p = {name: verdicts.get((column, frozenset((top, name)))) for name in means if name != top}
        untested = [name for name, value in p.items() if value is None]
        if untested:
            notes.append(
                f"{column}: nothing is marked best, since {top} cannot be tested against {', '.join(untested)}: "
                "they share fewer than two training seeds whose differences vary"
            )
            continue
        best |= {(name, column) for name in (top, *(name for name, value in p.items() if value >= LEVEL))}
    return best, notes
