"""Measures of features without a classifier: effective rank, spread, likeness of layers, retrieval, a profile's shape.

Every measure refuses degenerate features with a `UserError`. Inside `jit` or `vmap` there are no values to look at:
call `check_features` on the stacked features first.
"""

import logging
import math
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from ddm_embed.data.augment import augment
from ddm_embed.data.types import Stored
from ddm_embed.errors import UserError
from ddm_embed.features.bank import Bank
from ddm_embed.features.extract import Reading
from ddm_embed.features.run import Run
from ddm_embed.parallel import distributed
from ddm_embed.train import progress

logger = logging.getLogger("ddm_embed")

VIEWS = (1001, 1002)  # draws of the two views' noise, which no other draw is

Matrix = Float[Array, "number dim"]
Labels = Int[Array, " number"]
Scalar = Float[Array, ""]


class Retrieval(NamedTuple):
    """Mean average precision over the queries that have something to find; how many had nothing."""

    mean_average_precision: Scalar
    left_out: Int[Array, ""]


def measure(
    run: Run,
    reading: Reading,
    bank: Bank,
    rows: Int[np.ndarray, " measured"],
    images: Stored,
    labels: Int[np.ndarray, " measured"] | None,
) -> dict[str, Any]:
    """RankMe, alignment, uniformity and, with labels, retrieval's mAP of every feature at every level, and their CKA.

    Args:
      run: alignment is between two views of its `data.augment`, crops where it has none, each with noise of its own.
      reading: how features are read. bank: features, of which `rows` are measured. images, labels: of those rows.

    Returns:
      {"images": how many, "profile": [{"feature", "t", "rankme", "alignment", "uniformity", "retrieval_map"}, ...],
      "cka": {"keys": [[feature, t], ...], "matrix": [[...]]}}. A feature that is not defined for (one code for all
      images) has None, and is left out of the CKA.
    """
    begin = time.perf_counter()
    seen = zip(views(images, run.config), VIEWS, strict=True)
    first, second = (run.read(view, bank.times, draw, run.names, reading) for view, draw in seen)
    profile, sound = [], []
    for key in bank.keys:
        x = bank.one(key)[rows]
        entry = {"feature": key.name, "t": key.t}
        try:
            check_features(x, fewest=3, name=f"feature {key.name} at t={key.t:g}")
            entry["rankme"] = float(rankme(x))
            entry["alignment"] = float(alignment(first.one(key), second.one(key)))
            entry["uniformity"] = float(uniformity(x))
            entry["retrieval_map"] = None
            if labels is not None and len(np.unique(labels)) > 1:
                entry["retrieval_map"] = float(retrieval_map(x, jnp.asarray(labels)).mean_average_precision)
            sound.append(key)
        except UserError as error:
            logger.warning("not measured: %s", error)
            entry |= dict.fromkeys(("rankme", "alignment", "uniformity", "retrieval_map"))
        profile.append(entry)
        distributed.progress()
    sound.sort(key=lambda key: list(bank.columns).index(key.name))  # noise levels of one feature side by side
    cka = linear_cka([bank.one(key)[rows] for key in sound]) if sound else np.zeros((0, 0))
    logger.info("measured %d features of %d images in %.1f s", len(profile), len(rows), time.perf_counter() - begin)
    return {
        "images": len(rows),
        "profile": profile,
        "cka": {"keys": [list(key) for key in sound], "matrix": np.round(np.asarray(cka, float), 4).tolist()},
    }


def views(images: Stored, run: ConfigDict) -> tuple[Stored, Stored]:
    """Two views of each image, as the run's training draws them, in the images' own type."""
    kind = run.data.augment if run.data.augment != "none" else "crop"

    drawn_alike = jax.jit(augment, static_argnums=(2, 3))

    def view(draw: int) -> Stored:
        parts = []
        for start in range(0, len(images), 512):
            key = jax.random.fold_in(jax.random.key(draw), start)
            drawn = drawn_alike(key, jnp.asarray(images[start : start + 512]), kind, run.data.crop_padding)
            if images.dtype == np.uint8:
                drawn = jnp.clip(jnp.round((drawn + 1) * 127.5), 0, 255)
            parts.append(np.asarray(drawn, images.dtype))
        return np.concatenate(parts)

    return view(VIEWS[0]), view(VIEWS[1])


def check_features(features: Float[Array, "*many number dim"], fewest: int = 2, name: str = "features") -> None:
    """Refuses features that no measure is defined on; `many` are stacked layers or noise levels.

    Raises:
      UserError: fewer than `fewest` images; a value that is not finite; or the same code for all images.
    """
    shape = np.shape(features)
    if len(shape) < 2 or 0 in shape or shape[-2] < fewest:
        raise UserError(f"{name} of shape {shape}: expected [.., number, dim] with at least {fewest} images; give more")
    x = jnp.asarray(features)
    wrong = int(jnp.sum(~jnp.isfinite(x)))
    if wrong:
        raise UserError(
            f"{name}: {wrong} of {x.size} values are not finite; the checkpoint or the noise level is broken"
        )
    constant = int(jnp.sum(jnp.all(x == x[..., :1, :], axis=(-2, -1))))
    if constant:
        which = f" in {constant} of {x.size // (shape[-1] * shape[-2])} feature arrays" if len(shape) > 2 else ""
        raise UserError(f"{name}: all {shape[-2]} images have the same code{which}; the network has collapsed")


def rankme(x: Matrix, epsilon: float = 1e-7) -> Scalar:
    """The effective number of dimensions in use, between 1 and min(number, dim).

    Compare it at the same number of images, many more than dims. For formula and source see `train.progress.rankme`.

    Raises:
      UserError: see `check_features`.
    """
    _check(x)
    return progress.rankme(x, epsilon)


def alignment(a: Matrix, b: Matrix, alpha: float = 2) -> Scalar:
    """The mean distance to the power alpha between two views' unit codes, row by row: 0 is best, 4 the most at alpha=2.

    Source: Wang & Isola 2020, arXiv 2005.10242, eq. for L_align.

    Raises:
      UserError: see `check_features`; or shapes that differ; or a code of length zero.
    """
    if np.shape(a) != np.shape(b):
        raise UserError(
            f"alignment: views of shapes {np.shape(a)} and {np.shape(b)}; expected one code per image in each"
        )
    for view, name in ((a, "the first view"), (b, "the second view")):
        _check(view, name=name, directions=True)
    return _alignment(a, b, alpha)


@jax.jit
def _alignment(a: Matrix, b: Matrix, alpha: float) -> Scalar:
    return jnp.mean(jnp.linalg.norm(_direction(a) - _direction(b), axis=1) ** alpha)


def uniformity(x: Matrix, t: float = 2, chunk: int = 500) -> Scalar:
    """The log of the mean Gaussian potential exp(-t |xi - xj|^2) over pairs of unit codes: 0 at worst, lower is better.

    Compares `chunk` images with all at a time: memory of chunk x number, time of number^2 dim.

    Source: Wang & Isola 2020, arXiv 2005.10242, eq. for L_uniform.

    Raises:
      UserError: see `check_features`; or a code of length zero.
    """
    _check(x, directions=True)
    return _uniformity(x, t, chunk)


@partial(jax.jit, static_argnames="chunk")
def _uniformity(x: Matrix, t: float, chunk: int) -> Scalar:
    number, points = len(x), _direction(x)

    def potential(i):
        with jax.default_matmul_precision("highest"):
            distance = 2 - 2 * points @ points[i]  # squared, on the unit sphere
        return jax.nn.logsumexp(jnp.where(jnp.arange(number) == i, -jnp.inf, -t * jnp.maximum(distance, 0)))

    rows = jax.lax.map(potential, jnp.arange(number), batch_size=min(chunk, number))
    return jax.nn.logsumexp(rows) - math.log(number * (number - 1))


def linear_cka(features: list[Matrix]) -> Float[Array, "key key"]:
    """How alike each two of `key` feature arrays of the same images are, up to rotation and scale: 1 on the diagonal.

    |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F) of centred features, which is the cosine of the flattened Gram matrices X X^T
    and Y Y^T. Those are made some rows at a time: 2 number^2 key (dim + key) operations, and 256 MiB beyond the stacked
    features, padded to the longest dim. The cross products Y^T X of the formula cost key^2 number dim^2, more below
    number = key dim^2 / (2 dim + 2 key): 27,000 images at 221 keys of 384. Biased upwards where dim is near number.

    Source: Kornblith et al. 2019, arXiv 1905.00414, eq. 3 to 5 and the linear kernel.

    Args:
      features: arrays of [number, dim], whose dims may differ; a few thousand images are enough.

    Raises:
      UserError: see `check_features`; or fewer than three images, whose CKA is 1 whatever they are; or none at all.
    """
    if not len(features) or len({len(x) for x in features}) > 1:
        raise UserError(f"linear_cka: arrays of {[len(x) for x in features]} images; expected the same images in each")
    for i, x in enumerate(features):
        _check(x, fewest=3, name=f"features[{i}]")
    width = max(x.shape[1] for x in features)
    chunk = max(1, min(len(features[0]), 2**26 // (len(features) * len(features[0]))))
    return _linear_cka([jnp.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in features], chunk)


@partial(jax.jit, static_argnames="chunk")
def _linear_cka(features: list[Matrix], chunk: int) -> Float[Array, "key key"]:
    with jax.default_matmul_precision("highest"):
        x = jnp.stack([_centred(x) for x in features])  # (K, N, D)
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % chunk), (0, 0)))  # rows of zeros add nothing to a Gram matrix

        def add(cross, start):
            gram = jnp.einsum("knd,kmd->knm", jax.lax.dynamic_slice_in_dim(x, start, chunk, axis=1), x)
            return cross + jnp.einsum("inm,jnm->ij", gram, gram), None

        cross, _ = jax.lax.scan(add, jnp.zeros((len(x), len(x))), jnp.arange(0, x.shape[1], chunk))
    norm = jnp.sqrt(jnp.diagonal(cross))
    return jnp.minimum(cross / (norm[:, None] * norm), 1)


def retrieval_map(
    features: Matrix,
    labels: Labels,
    queries: Float[Array, "query dim"] | None = None,
    query_labels: Int[Array, " query"] | None = None,
    chunk: int = 500,
) -> Retrieval:
    """Mean average precision of finding a query's class by the cosine of centred features.

    Average precision is the mean over the images of a query's class of the precision down to each, equal cosines
    counted together, as in scikit-learn's `average_precision_score`. Without queries, every image looks for the others.
    A query whose class has no image to find, such as a class's only member, is left out of the mean.

    Args:
      features: [number, dim], searched. labels: [number].
      queries: [query, dim]; None for the features themselves, each left out of its own search. query_labels: [query].
      chunk: queries compared at a time: memory of chunk x number.

    Raises:
      UserError: see `check_features`; or images of one class; or no query with anything to find.
    """
    alone = queries is None
    if not alone and query_labels is None:
        raise UserError("retrieval_map: queries without query_labels; give both or neither")
    queries, query_labels = (features, labels) if alone else (queries, query_labels)
    _check(features)
    if not isinstance(queries, jax.core.Tracer) and not bool(jnp.all(jnp.isfinite(jnp.asarray(queries)))):
        raise UserError("retrieval_map: queries hold values that are not finite; look at the checkpoint")
    if not any(isinstance(array, jax.core.Tracer) for array in (labels, query_labels)):
        classes, counts = np.unique(np.asarray(labels), return_counts=True)
        if len(classes) < 2:
            raise UserError(f"retrieval_map: all {len(labels)} images are of class {classes[0]}; expected at least two")
        if not np.isin(np.asarray(query_labels), classes[counts > alone]).any():
            raise UserError("retrieval_map: no query has another image of its class to find; give more images")
    return _retrieval_map(features, labels, queries, query_labels, alone, chunk)


@partial(jax.jit, static_argnames=("alone", "chunk"))
def _retrieval_map(features, labels, queries, query_labels, alone, chunk) -> Retrieval:
    number, mean = len(features), jnp.mean(features, axis=0)
    stored, sought = _direction(features - mean), _direction(queries - mean)

    def average_precision(query):
        i, label = query
        with jax.default_matmul_precision("highest"):
            score = stored @ sought[i]
        itself = (jnp.arange(number) == i) & alone
        score, order = jax.lax.sort_key_val(jnp.where(itself, jnp.inf, -score), jnp.arange(number))  # itself comes last
        hit = (labels[order] == label) & ~itself[order]
        # Images at one cosine are found together: each counts the precision down to the last of them.
        last = jnp.append(score[1:] != score[:-1], True)
        end = jax.lax.cummin(jnp.where(last, jnp.arange(number), number), reverse=True)
        precision = (jnp.cumsum(hit) / (1 + jnp.arange(number)))[end]
        found = jnp.sum(hit)
        return jnp.sum(precision * hit) / jnp.maximum(found, 1), found > 0

    each = (jnp.arange(len(queries)), query_labels)
    precision, counts = jax.lax.map(average_precision, each, batch_size=min(chunk, len(queries)))
    return Retrieval(jnp.sum(precision * counts) / jnp.sum(counts), jnp.sum(~counts))


def memorisation(profile: list[tuple[float, float]], number: int, errors: float = 2.0) -> dict:
    """Whether accuracy over the noise level falls steadily, as when a model has memorised its training images.

    The features of a diffusion model that generalises are best at an intermediate noise level; one that memorises
    falls from the first level on (Li et al. 2025, "Understanding Representation Dynamics of Diffusion Models via
    Low-Dimensional Modeling", arXiv 2502.05743). A profile is said to fall steadily if all of these hold, where
    "clearly" is by more than `errors` standard errors of a difference of two shares of `number` images, taken as
    independent (the same images make them agree more, so that "clearly" errs to the safe side):

    1. no level is above the lowest t's;
    2. the lowest t is clearly above the last level, and above the one a quarter of the way (of m levels, m // 4 later);
    3. no level is clearly above an earlier one.

    A flat profile, one that noise bends, and one that falls only after a plateau therefore give no warning. It is a
    hint, not a test of memorisation: an easy task read at too few levels, or from too high a t on, looks the same.

    Args:
      profile: (t, validation accuracy in 0..1) at three or more noise levels, in any order.
      number: images that each accuracy is a share of.
      errors: how many standard errors are clear.

    Returns:
      "falls_steadily"; "peak_t" and "peak", of the best level (the lowest of equals); "lowest_t" and "at_zero", its
      accuracy; "last", at the highest t; "rise" = peak - at_zero; "fall" = at_zero - last; "standard_error" of at_zero.

    Raises:
      UserError: fewer than three levels, two of the same t, an accuracy outside 0..1, or no images.
    """
    t, accuracy = np.array(sorted(profile), float).reshape(-1, 2).T
    if len(t) < 3 or len(np.unique(t)) < len(t):
        raise UserError(f"profile at t={t.tolist()}: expected three or more different noise levels; add to the times")
    if number < 1 or not np.all((accuracy >= 0) & (accuracy <= 1)):
        raise UserError(f"profile of {accuracy.tolist()} on {number} images: expected shares in 0..1 of at least one")
    # One success and one failure added: a share of 0 or 1 of few images is not certain (Agresti & Coull 1998).
    share = (accuracy * number + 1) / (number + 2)
    variance = share * (1 - share) / number
    clear = errors * np.sqrt(variance[:, None] + variance)
    above = accuracy[:, None] - accuracy  # [i, j]: by how much level i is above level j
    peak, quarter = int(np.argmax(accuracy)), max(1, len(t) // 4)
    falls = peak == 0 and all(above[0, i] > clear[0, i] for i in (quarter, -1))
    falls = falls and not np.any(np.tril(above > clear, -1))
    return {
        "falls_steadily": bool(falls),
        "peak_t": float(t[peak]),
        "peak": float(accuracy[peak]),
        "lowest_t": float(t[0]),
        "at_zero": float(accuracy[0]),
        "last": float(accuracy[-1]),
        "rise": float(accuracy[peak] - accuracy[0]),
        "fall": float(accuracy[0] - accuracy[-1]),
        "standard_error": float(np.sqrt(variance[0])),
    }


def _check(x: Matrix, fewest: int = 2, name: str = "features", directions: bool = False) -> None:
    if isinstance(x, jax.core.Tracer):
        return
    check_features(x, fewest, name)
    zero = int(jnp.sum(jnp.all(jnp.asarray(x) == 0, axis=1)))
    if directions and zero:
        raise UserError(f"{name}: {zero} of {len(x)} codes are zero and have no direction; look at the checkpoint")


def _centred(x: Matrix) -> Matrix:
    """Less the mean, and of Frobenius norm one, so that a product of Gram matrices stays within float32."""
    x = x - jnp.mean(x, axis=0)
    return x / jnp.linalg.norm(x)


def _direction(x: Matrix) -> Matrix:
    """Rows of length one; a row of zeros stays."""
    norm = jnp.linalg.norm(x, axis=1, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1)
