"""What features say without labels, at every layer and noise level: the measures that a report draws over t."""

import logging
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from ddm_embed.data.augment import augment
from ddm_embed.errors import UserError
from ddm_embed.features.bank import Bank, Key
from ddm_embed.features.extract import Reading
from ddm_embed.features.run import Run
from ddm_embed.parallel import distributed
from ddm_embed.probe import measures
from ddm_embed.probe.atlas import Atlas, make_map, make_strips
from ddm_embed.probe.bench import Pixels

logger = logging.getLogger("ddm_embed")

QUERIES, NEIGHBOURS, LEVELS = 6, 8, 5  # images whose neighbours are shown, how many, at how many noise levels
AMONG = 10_000  # images that neighbours are sought among, at most
VIEWS = (1001, 1002)  # draws of the two views' noise, which no other draw is


def measure(
    run: Run,
    reading: Reading,
    bank: Bank,
    rows: Int[np.ndarray, " measured"],
    images: Pixels,
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
            measures.check_features(x, fewest=3, name=f"feature {key.name} at t={key.t:g}")
            entry["rankme"] = float(measures.rankme(x))
            entry["alignment"] = float(measures.alignment(first.one(key), second.one(key)))
            entry["uniformity"] = float(measures.uniformity(x))
            entry["retrieval_map"] = None
            if labels is not None and len(np.unique(labels)) > 1:
                entry["retrieval_map"] = float(measures.retrieval_map(x, jnp.asarray(labels)).mean_average_precision)
            sound.append(key)
        except UserError as error:
            logger.warning("not measured: %s", error)
            entry |= dict.fromkeys(("rankme", "alignment", "uniformity", "retrieval_map"))
        profile.append(entry)
        distributed.progress()
    sound.sort(key=lambda key: list(bank.columns).index(key.name))  # noise levels of one feature side by side
    cka = measures.linear_cka([bank.one(key)[rows] for key in sound]) if sound else np.zeros((0, 0))
    logger.info("measured %d features of %d images in %.1f s", len(profile), len(rows), time.perf_counter() - begin)
    return {
        "images": len(rows),
        "profile": profile,
        "cka": {"keys": [list(key) for key in sound], "matrix": np.round(np.asarray(cka, float), 4).tolist()},
    }


def make_atlas(
    bank: Bank,
    images: Pixels,
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


def views(images: Pixels, run: ConfigDict) -> tuple[Pixels, Pixels]:
    """Two views of each image, as the run's training draws them, in the images' own type."""
    kind = run.data.augment if run.data.augment != "none" else "crop"

    drawn_alike = jax.jit(augment, static_argnums=(2, 3))

    def view(draw: int) -> Pixels:
        parts = []
        for start in range(0, len(images), 512):
            key = jax.random.fold_in(jax.random.key(draw), start)
            drawn = drawn_alike(key, jnp.asarray(images[start : start + 512]), kind, run.data.crop_padding)
            if images.dtype == np.uint8:
                drawn = jnp.clip(jnp.round((drawn + 1) * 127.5), 0, 255)
            parts.append(np.asarray(drawn, images.dtype))
        return np.concatenate(parts)

    return view(VIEWS[0]), view(VIEWS[1])
