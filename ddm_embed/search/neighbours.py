"""A query looked up in a file of embeddings: what lies nearest to it at every noise level, how that changes over the
levels, and pictures of both: the query and its neighbours, a row a level, and a map of the file."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from ddm_embed import drawing
from ddm_embed.data.image_file import open_image
from ddm_embed.data.splits import sample_positions
from ddm_embed.embed.layout import Embeddings
from ddm_embed.embed.listing import Input, Unreadable, list_images
from ddm_embed.errors import UserError
from ddm_embed.features.run import Run
from ddm_embed.probe import atlas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUERIES = 500  # images whose neighbours' labels are compared with their own
PIXEL_QUERIES = 32  # images whose neighbours' pixels are: these have to be read
SEED = 0  # of the choice of these images
CELL = 1.0  # inches
TRACE = (72, 96)  # pixels, of a sequence
SAME, OTHER, UNKNOWN = "#009e73", "#d55e00", "#bbbbbb"  # frames of neighbours
# Okabe and Ito 2008 and, for the last three, Tol's muted scheme, as in the report.
COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7d00", "#882255", "#777777", "#5b3fbf",
)  # fmt: skip
SHAPES = "os^Dv"  # one after the other where there are more classes than colours
ROWS = 7  # levels of a picture, at most: the first, the last, and some evenly between
MAP_LEVELS = 3
LEGEND = 20  # classes that are named beside a map

Show = Callable[[str], Shaped[np.ndarray, "height width channel"] | None]
LOOKED_AT = 128  # pixels, of the longer side of an image in a picture
THREADS = min(16, os.cpu_count() or 1)


class Level(NamedTuple):
    """The k nearest at one noise level, nearest first: positions in the file, and cosines."""

    t: float
    positions: Int[np.ndarray, " k"]
    similarity: Float[np.ndarray, " k"]


class Change(NamedTuple):
    """How alike images and their neighbours are at one noise level, image by image.

    agreement: share of neighbours with the image's own label, of images that have one. distance: mean over neighbours
    of the root mean square difference of pixels (0 to 255; of sequences in standard deviations), of images that can be
    read. Either is empty where it is not known.
    """

    t: float
    agreement: Float[np.ndarray, " labelled"]
    distance: Float[np.ndarray, " readable"]


def nearest(found: Embeddings, query: Float[np.ndarray, "time dim"], k: int, own: int | None) -> list[Level]:
    """The k nearest images at each level by cosine, after subtracting the mean over the file.

    Args:
      found: a file's content. query: an embedding of the same feature and levels. k: how many.
      own: the query's own position in the file, which is left out; None if it is not there.

    Raises:
      UserError: there are fewer than k others.
    """
    others = len(found.names) - (own is not None)
    if not 1 <= k <= others:
        raise UserError(f"--k={k}: the file has {others} images to choose from; ask for 1 to {others}")
    levels = []
    for place, t in enumerate(found.times):
        similarity = atlas.similarities(found.embedding[:, place], query[place : place + 1])[0]
        if own is not None:
            similarity[own] = -np.inf
        order = np.argsort(-similarity, kind="stable")[:k]
        levels.append(Level(float(t), order.astype(np.int32), similarity[order]))
    return levels


def most_frequent(labels: Sequence[str]) -> tuple[str, int]:
    """The label that most have, and how many; of equals the nearest's."""
    return Counter(labels).most_common(1)[0]


def changes(
    found: Embeddings, k: int, read: Callable[[str], Input] | None, threads: int
) -> tuple[list[Change], Change]:
    """How alike images of the file and their k nearest are, at each level; and pairs drawn at random (`t` is NaN).

    Args:
      found: a file's content. k: neighbours of each. read: an image by its name; None where they are gone. threads:
      that read.
    """
    number = len(found.names)
    k = min(k, number - 1)
    queries = sample_positions(number, QUERIES, SEED)
    watched = sample_positions(len(queries), PIXEL_QUERIES, SEED)
    labels = np.array(found.labels, object)
    known = (labels[queries] != "") & (len(set(found.labels)) > 1)
    random = _others(queries, number, k)
    tables = [_neighbours(found.embedding[:, place], queries, k) for place in range(len(found.times))]
    pixels = _read(found, read, queries[watched], [table[watched] for table in (*tables, random)], threads)

    def change(t: float, table: Int[np.ndarray, "query k"]) -> Change:
        same = (labels[table] == labels[queries][:, None])[known]
        apart = [
            [_distance(pixels[query], pixels[other]) for other in row if other in pixels] or [np.nan]
            for query, row in zip(queries[watched], table[watched], strict=True)
            if query in pixels
        ]
        return Change(t, same.mean(axis=1), np.array([np.mean(row) for row in apart]))

    return [change(float(t), table) for t, table in zip(found.times, tables, strict=True)], change(float("nan"), random)


def _neighbours(
    features: Float[np.ndarray, "number dim"], queries: Int[np.ndarray, " query"], k: int
) -> Int[np.ndarray, "query k"]:
    similarity = atlas.similarities(features, features[queries])
    similarity[np.arange(len(queries)), queries] = -np.inf
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def _others(queries: Int[np.ndarray, " query"], number: int, k: int) -> Int[np.ndarray, "query k"]:
    draws = np.random.default_rng(SEED).integers(0, number - 1, (len(queries), k))
    return draws + (draws >= queries[:, None])


def _read(found, read, queries, tables, threads) -> dict[int, Float[np.ndarray, "height width channel"]]:
    """Those of the images that can be read, by position."""
    if read is None:
        return {}

    def one(position: int) -> np.ndarray | None:
        try:
            return read(found.names[position]).astype(np.float32)
        except Unreadable:  # moved or changed since: the others are compared
            return None

    positions = sorted({int(i) for table in (queries, *tables) for i in np.ravel(table)})
    with ThreadPoolExecutor(threads) as pool:
        images = list(pool.map(one, positions))
    return {position: image for position, image in zip(positions, images, strict=True) if image is not None}


def _distance(a: Float[np.ndarray, "height width channel"], b: Float[np.ndarray, "height width channel"]) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def table(found: list[Change], chance: Change) -> str:
    """The changes over the levels as text, and what they amount to in words."""
    found = sorted(found, key=lambda change: -change.t)
    lines = [f"{'t':>8}  {'same label':>10}  {'pixel distance':>14}"]
    for name, change in [(f"{change.t:g}", change) for change in found] + [("any two", chance)]:
        agreement = f"{100 * np.mean(change.agreement):.1f} %" if len(change.agreement) else "-"
        distance = f"{np.nanmean(change.distance):.3g}" if _any(change.distance) else "-"
        lines.append(f"{name:>8}  {agreement:>10}  {distance:>14}")
    high, low = found[0], found[-1]
    if len(found) > 1 and len(high.agreement):
        said = difference(100 * high.agreement, 100 * low.agreement, "more often", "as often", "less often", " points")
        lines.append(f"t = {high.t:g} against t = {low.t:g}: neighbours share the label {said}")
    if len(found) > 1 and _any(high.distance - low.distance):
        said = difference(high.distance, low.distance, "farther apart", "as far apart", "nearer", "")
        lines.append(f"t = {high.t:g} against t = {low.t:g}: neighbours are {said} in pixels")
    return "\n".join(lines)


def difference(
    high: Float[np.ndarray, " query"], low: Float[np.ndarray, " query"], more: str, same: str, less: str, unit: str
) -> str:
    """Whether the one is larger, and by how much on average over the same images; within two standard errors it is
    not."""
    apart = (high - low)[np.isfinite(high - low)]
    mean, error = float(np.mean(apart)), float(np.std(apart) / np.sqrt(max(len(apart) - 1, 1)))
    how = (more if mean > 0 else less) if abs(mean) > 2 * error else same
    return f"{how} ({mean:+.2g}{unit}, standard error {error:.1g})"


def _any(values: Float[np.ndarray, " query"]) -> bool:
    return bool(np.any(np.isfinite(values)))


def draw(
    found: Embeddings, levels: list[Level], query: Shaped[np.ndarray, "height width channel"], own: str, show: Show
) -> "Figure":
    """The query at the left, and its neighbours in a row a level, the highest noise above; framed by label.

    Args:
      found: the file's content. levels: from `nearest`. query: as `show` gives images. own: its label, or "".
      show: an image by its name, to be looked at; None where it is gone.
    """
    from matplotlib.figure import Figure

    levels = sorted(levels, key=lambda level: -level.t)
    if len(levels) > ROWS:
        levels = [levels[i] for i in np.linspace(0, len(levels) - 1, ROWS).round().astype(int)]
    k = len(levels[0].positions)
    figure = Figure(figsize=(CELL * (k + 1) + 1.0, (CELL + 0.3) * len(levels) + 0.5), layout="constrained")
    grid = figure.subplots(len(levels), k + 1, squeeze=False)
    images = {i: show(found.names[i]) for i in {int(i) for level in levels for i in level.positions}}
    query, images = _as_pictures(query, images)
    for row, level in zip(grid, levels, strict=True):
        _draw(row[0], query, f"query {own}".strip(), "black")
        row[0].set_ylabel(f"t = {level.t:g}", rotation=0, ha="right", va="center", fontsize=10)
        for axes, position, similarity in zip(row[1:], level.positions, level.similarity, strict=True):
            label = found.labels[position]
            colour = UNKNOWN if not own or not label else SAME if label == own else OTHER
            _draw(axes, images[int(position)], f"{_short(label)} {similarity:.2f}".strip(), colour)
    figure.suptitle(f"nearest neighbours by {found.metadata['feature']}, from high noise to low")
    return figure


def _as_pictures(query, images) -> tuple:
    """Sequences as lines over time, all on one scale; images as they are."""
    there = {i: image for i, image in images.items() if image is not None}
    if query is None or query.dtype == np.uint8:
        return query, images
    drawn = drawing.draw_lines(np.concatenate([query, *there.values()]), *TRACE)
    return drawn[0], images | dict(zip(there, drawn[1:], strict=True))


def _draw(axes: "Axes", image: Shaped[np.ndarray, "height width channel"] | None, title: str, colour: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8, pad=2)
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2)
    if image is None:
        axes.text(0.5, 0.5, "gone", ha="center", va="center", transform=axes.transAxes, fontsize=8)
    else:
        grey = image.shape[2] not in (3, 4)
        shown = image[..., 0] if grey else image[..., :3]
        axes.imshow(shown, cmap="gray" if grey else None, vmin=0, vmax=255, interpolation="nearest")


def _short(text: str) -> str:
    return text if len(text) <= 12 else text[:11] + "…"


def map_of(found: Embeddings, query: Float[np.ndarray, "time dim"] | None, seed: int) -> "Figure":
    """Principal components and t-SNE of the file, or of a sample of it, at up to three levels; the query is a star."""
    from matplotlib.figure import Figure

    places = np.unique(np.linspace(0, len(found.times) - 1, min(MAP_LEVELS, len(found.times))).round().astype(int))
    places = places[np.argsort(-found.times[places])]
    positions = sample_positions(len(found.names), atlas.POINTS - (query is not None), seed)
    labels = [found.labels[i] for i in positions]
    classes = sorted(set(labels) - {""})
    figure = Figure(figsize=(10.5, 4.4 * len(places) + 0.4), layout="constrained")
    for row, place in zip(figure.subplots(len(places), 2, squeeze=False), places, strict=True):
        features = found.embedding[positions, place]
        if query is not None:
            features = np.concatenate([features, query[place : place + 1]])
        maps = atlas.maps(features, None, seed)
        first, second = (f"{100 * share:.0f} %" for share in maps["explained"])
        told = {
            "pca": f"principal components ({first} and {second} of the variance)",
            "tsne": f"t-SNE, perplexity {float(maps['perplexity']):g}",
        }
        for axes, name in zip(row, told, strict=True):
            if name in maps:
                _points(axes, maps[name], labels, classes, query is not None)
                axes.set_title(f"t = {found.times[place]:g}: {told[name]}", fontsize=9)
            else:
                axes.set_axis_off()
    if len(classes) > 1:
        handles, names = figure.axes[0].get_legend_handles_labels()
        more = [] if len(classes) <= LEGEND else [f"and {len(classes) - LEGEND} more"]
        figure.legend(handles[:LEGEND], names[:LEGEND], loc="outside right upper", fontsize=8, title=" ".join(more))
    figure.suptitle(f"{len(positions)} of {len(found.names)} images by {found.metadata['feature']}")
    return figure


def _points(axes: "Axes", points: Float[np.ndarray, "point 2"], labels: list[str], classes: list[str], star) -> None:
    kinds = np.array(labels, object)
    own, points = (points[-1], points[:-1]) if star else (None, points)
    blank = kinds == ""
    axes.scatter(*points[blank].T, s=8, color="#0072b2" if not classes else UNKNOWN)
    for place, name in enumerate(classes):
        shape, colour = SHAPES[place // len(COLOURS) % len(SHAPES)], COLOURS[place % len(COLOURS)]
        axes.scatter(*points[kinds == name].T, s=8, color=colour, marker=shape, label=_short(name))
    if star:
        axes.scatter(*own, s=160, marker="*", color="black", edgecolor="white", zorder=3)
    axes.set_xticks([])
    axes.set_yticks([])


def find_query(
    query: str, found: Embeddings, run: Run, root: Path, file: str
) -> tuple[Float[np.ndarray, "time dim"], Input | None, int | None]:
    """(embedding, what to draw, position in the file): an image of the file has the last, another one has the second.

    Args:
      root: where the images of the file are. file: its name.

    Raises:
      UserError: it is neither a file nor a name, or cannot be read.
    """
    path, places = Path(query), {name: i for i, name in enumerate(found.names)}
    if not path.is_file():
        if query not in places:
            raise UserError(f"--query {query}: neither a file nor the name of an image in {file}")
        return found.embedding[places[query]], None, places[query]
    try:
        name = path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        name = None
    if name in places:
        return found.embedding[places[name]], None, places[name]
    listing = list_images(path, run)
    if len(listing.names) != 1:
        raise UserError(f"--query {query}: {len(listing.names)} rows; expected one, or the name of a row in the file")
    try:
        image = listing.read(0)
    except Unreadable as error:
        raise UserError(f"--query {query}: {error}") from error
    embedding = run.embed(image[None], found.metadata["t"], found.metadata["feature"])
    return embedding[0], look_at(path, lambda _: image, ""), None


def look_at(file: Path, read, name: str) -> Input:
    """An image as its file has it, small; a row of an array, or a sequence, as the model takes it."""
    from PIL import ImageOps

    image = read(name)  # also says if it cannot be read
    if file.suffix == ".npy":
        return image
    with open_image(file) as opened:
        opened = ImageOps.exif_transpose(opened)
        if opened.mode not in ("L", "RGB"):  # as the model takes it: what else there is has a way of its own to grey
            return image
        opened.thumbnail((LOOKED_AT, LOOKED_AT))
        return np.atleast_3d(np.asarray(opened))


def print_levels(found: Embeddings, levels: list[Level], query: str, label: str) -> None:
    known = any(found.labels)
    of = f", labelled {label}" if label else ""
    print(f"nearest to {query}{of}, in {found.metadata['feature']}, among {len(found.names)} images (cosine)")
    width = max((len(found.labels[i]) for level in levels for i in level.positions), default=0)
    for level in sorted(levels, key=lambda level: -level.t):
        labels = [found.labels[i] for i in level.positions]
        most, count = most_frequent(labels)
        print(f"\nt = {level.t:g}" + (f"  ({count} of {len(labels)}: {most or 'no label'})" if known else ""))
        for rank, (i, similarity) in enumerate(zip(level.positions, level.similarity, strict=True), 1):
            print(
                f"{rank:>4}  {similarity:6.3f}  " + (f"{found.labels[i]:<{width}}  " if known else "") + found.names[i]
            )


def print_changes(found: Embeddings, k: int, root: Path, read, unit: str) -> None:
    over, chance = changes(found, k, read, THREADS)
    queries = min(len(found.names), QUERIES)
    print(
        f"\nover the noise levels: {queries} images of the file against their {k} nearest others; pixels, of "
        + (f"{min(queries, PIXEL_QUERIES)} of them, {unit}" if read else f"none: {root} is not there")
    )
    print(table(over, chance), flush=True)
