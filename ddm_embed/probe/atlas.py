"""What embeddings look like: a map of images in two dimensions, and each image's nearest neighbours over noise level.

An atlas is a dictionary of arrays, kept as atlas.npz. Any part may be missing.

    map/pca           float32 [point, 2]  first two principal components of the standardised features
    map/tsne          float32 [point, 2]  t-SNE of the same; absent where there are too few images for it
    map/positions     int32 [point]       which images, in the order that they were given in
    map/explained     float32 [2]         share of the variance along each principal component
    map/perplexity    float32 []          of t-SNE; 0 without
    map/seed          int32 []            of the choice of images and of t-SNE
    map/feature       str []              which feature
    map/t             float32 []          at which noise level
    map/note          str []              what was left out, and why; may be empty
    map/labels        int32 [point]       class of each image; absent without labels
    map/thumbnails    uint8 [point, height, width, channel]  the images, 32 pixels high and wide at most; sequences as
                                          lines over time, here and below

    strips/feature    str []              which feature
    strips/times      float32 [time]      the noise levels
    strips/queries    uint8 [query, height, width, channel]  the images whose neighbours are shown
    strips/images     uint8 [time, query, neighbour, height, width, channel]  the neighbours, nearest first
    strips/query_labels     int32 [query]  absent without labels
    strips/labels     int32 [time, query, neighbour]  absent without labels

    confusion         int64 [pair, 3]  of more classes than results.json takes: a class, what its images were taken for,
                                       how many; pairs without any are left out
"""

import logging

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from ddm_embed import drawing
from ddm_embed.data.splits import sample_positions
from ddm_embed.data.types import Stored
from ddm_embed.errors import UserError
from ddm_embed.features.bank import Bank, Key

logger = logging.getLogger("ddm_embed")

POINTS = 2000  # of a map
PERPLEXITY = 30.0  # scikit-learn's default, of at most a third of the other points
FEWEST = 4  # points that t-SNE is asked for
THUMBNAIL = 32  # pixels
SHOWN = 64  # pixels, of a neighbour
QUERIES, NEIGHBOURS, LEVELS = 6, 8, 5  # images whose neighbours are shown, how many, at how many noise levels
AMONG = 10_000  # images that neighbours are sought among, at most

Atlas = dict[str, Shaped[np.ndarray, "..."]]
Features = Float[np.ndarray, "number dim"]
Images = UInt8[np.ndarray, "number height width channel"]


def make_atlas(
    bank: Bank,
    images: Stored,
    labels: Int[np.ndarray, " number"] | None,
    key: Key,
    rows: Int[np.ndarray, " mapped"],
    seed: int,
) -> Atlas:
    """A map of the images at `rows` by one feature, and neighbours of a few of them among all others over noise level.

    Args:
      bank: features of the images. labels: their classes, which place nothing. key: the feature, mapped at its t.
    """

    def some(positions):
        return None if labels is None else labels[positions]

    try:
        atlas = make_map(np.asarray(bank.one(key))[rows], images[rows], some(rows), key.name, key.t, seed)
    except UserError as error:
        logger.warning("no map: %s", error)
        return {}
    queries = np.random.default_rng(seed).permutation(rows)[: min(QUERIES, len(rows) // 2)]
    others = np.setdiff1d(np.arange(len(images)), queries)[:AMONG]
    shown = np.linspace(0, len(bank.times) - 1, min(LEVELS, len(bank.times))).round().astype(int)
    columns = {t: np.asarray(bank.one(Key(key.name, t))) for t in np.asarray(bank.times)[shown].tolist()}
    strips = make_strips(
        {t: (x[others], x[queries]) for t, x in columns.items()}, images[others], images[queries],
        None if labels is None else (labels[others], labels[queries]), key.name, min(NEIGHBOURS, len(others)),
    )  # fmt: skip
    return atlas | strips


def maps(features: Features, labels: Int[np.ndarray, " number"] | None, seed: int) -> Atlas:
    """A map of the images, or of a seeded 2000 of them, by principal components and by t-SNE.

    Args:
      features: [number, dim]. labels: [number], not used to place anything. seed: of the choice and of t-SNE.

    Returns:
      `pca`, `tsne`, `positions`, `explained`, `perplexity`, `seed`, `note` and `labels`, as above without `map/`.

    Raises:
      UserError: fewer than two images, features that are not finite, or that are the same for all images.

    Source: van der Maaten and Hinton 2008, JMLR 9; principal components to begin with after Kobak and Berens 2019,
      Nature Communications 10, 5416.
    """
    from sklearn.decomposition import PCA

    if len(features) < 2:
        raise UserError(f"a map needs 2 images or more; here are {len(features)}")
    _check_finite(features, "the map")
    positions = sample_positions(len(features), POINTS, seed)
    x = standardised(features[positions])
    if not np.any(x):
        raise UserError("the features are the same for every image, so there is no map of them; train longer")
    notes = [f"{len(positions)} of {len(features)} images"] if len(positions) < len(features) else []
    if x.shape[1] < 2:
        x = np.pad(x, ((0, 0), (0, 1)))
        notes.append("the feature has one dimension")
    pca = PCA(n_components=2, svd_solver="full").fit(x)
    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    found = {
        "pca": pca.transform(x).astype(np.float32),
        "positions": positions.astype(np.int32),
        "explained": pca.explained_variance_ratio_.astype(np.float32),
        "seed": np.int32(seed),
    }
    if len(x) < FEWEST:
        notes.append(f"no t-SNE: {len(x)} images are too few, it takes {FEWEST}")
        perplexity = 0.0
    else:
        found["tsne"] = _tsne(x, perplexity, seed)
    if labels is not None:
        found["labels"] = np.asarray(labels)[positions].astype(np.int32)
    return found | {"perplexity": np.float32(perplexity), "note": np.asarray("; ".join(notes))}


def standardised(features: Features) -> Features:
    """Each column less its mean and over its standard deviation; constant ones become 0. As heads.standardise does."""
    x = np.asarray(features, np.float64)
    deviation = x.std(axis=0)
    scale = np.where(deviation > 1e-6 * deviation.max(initial=0), 1 / np.maximum(deviation, 1e-30), 0.0)
    return ((x - x.mean(axis=0)) * scale).astype(np.float32)


def _tsne(x: Features, perplexity: float, seed: int) -> Float[np.ndarray, "number 2"]:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # its threads wait by spinning: where cores are shared, several are slower than one
        return TSNE(n_components=2, init="pca", perplexity=perplexity, random_state=seed).fit_transform(x)


def neighbours(features: Features, queries: Float[np.ndarray, "query dim"], k: int) -> Int[np.ndarray, "query k"]:
    """Positions of the k nearest features by cosine after subtracting their mean, nearest first; of equals the first.

    Raises:
      UserError: features that are not finite, or fewer than k of them.
    """
    _check_finite(features, "the neighbours")
    _check_finite(queries, "the neighbours")
    if not 1 <= k <= len(features):
        raise UserError(f"{k} neighbours are asked for, of {len(features)} images; ask for 1 to {len(features)}")
    return np.argsort(-similarities(features, queries), axis=1, kind="stable")[:, :k].astype(np.int32)


def similarities(features: Features, queries: Float[np.ndarray, "query dim"]) -> Float[np.ndarray, "query number"]:
    """Cosines between queries and features, after subtracting the features' mean from both."""
    mean = features.mean(axis=0)
    stored, asked = (_unit(np.asarray(x - mean, np.float32)) for x in (features, queries))
    return asked @ stored.T


def _unit(x: Features) -> Features:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def make_map(
    features: Features, images: Stored, labels: Int[np.ndarray, " number"] | None, feature: str, t: float, seed: int
) -> Atlas:
    """The atlas' `map/` part, of images [number, height, width, channel] and their features [number, dim]."""
    found = maps(features, labels, seed)
    found["thumbnails"] = shrink(images[found["positions"]], THUMBNAIL)
    found |= {"feature": np.asarray(feature), "t": np.float32(t)}
    return {f"map/{name}": array for name, array in found.items()}


def make_strips(
    features: dict[float, tuple[Features, Float[np.ndarray, "query dim"]]],
    images: Stored,
    query_images: Stored,
    labels: tuple[Int[np.ndarray, " number"], Int[np.ndarray, " query"]] | None,
    feature: str,
    k: int,
) -> Atlas:
    """The atlas' `strips/` part.

    Args:
      features: under each t, those of the images and of the queries.
      images: among which neighbours are sought. query_images: others, such as held-out training images.
      labels: of the images and of the queries, or None. feature: its name. k: neighbours of each query.
    """
    found = np.stack([neighbours(stored, asked, k) for stored, asked in features.values()])  # (T, Q, K)
    shape, reach = images.shape[1:], drawing.reach_of(images) if images.dtype == np.float32 else None
    strips = {
        "feature": np.asarray(feature),
        "times": np.asarray(list(features), np.float32),
        "queries": shrink(query_images, SHOWN, reach),
        "images": shrink(images[found].reshape(-1, *shape), SHOWN, reach),
    }
    strips["images"] = strips["images"].reshape(*found.shape, *strips["images"].shape[1:])
    if labels is not None:
        strips |= {"labels": labels[0][found].astype(np.int32), "query_labels": labels[1].astype(np.int32)}
    return {f"strips/{name}": array for name, array in strips.items()}


def shrink(images: Stored, most: int, reach: float | None = None) -> Images:
    """Images whose longer side is `most` pixels, where it was more; only the first channel of other than 3 is kept.

    Sequences are drawn as lines, up to `reach` standard deviations; see `drawing.draw_lines`.
    """
    if images.dtype == np.float32:
        return drawing.draw_lines(images[:, 0], 3 * most // 4, most, reach)
    from PIL import Image

    images = images if images.shape[-1] == 3 else images[..., :1]
    height, width = images.shape[1:3]
    if max(height, width) <= most:
        return images
    size = max(1, round(width * most / max(height, width))), max(1, round(height * most / max(height, width)))
    small = [Image.fromarray(i if i.shape[-1] == 3 else i[..., 0]).resize(size, Image.Resampling.BOX) for i in images]
    return np.stack([np.asarray(i) for i in small]).reshape(len(images), size[1], size[0], -1)


def _check_finite(features: Features, what: str) -> None:
    bad = int(np.sum(~np.all(np.isfinite(features), axis=1)))
    if bad:
        raise UserError(f"the features of {bad} of {len(features)} images are not finite, so {what} cannot be drawn")
