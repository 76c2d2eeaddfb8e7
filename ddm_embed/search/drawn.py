"""Pictures of a search: the query and its neighbours, a row a noise level; and a map of the file."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped

from ddm_embed import trace
from ddm_embed.data.splits import sample_positions
from ddm_embed.embed.layout import Embeddings
from ddm_embed.probe import atlas
from ddm_embed.search.nearest import Level

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def neighbours(
    found: Embeddings, levels: list[Level], query: Shaped[np.ndarray, "height width channel"], own: str, show: Show
) -> "Figure":
    """The query at the left, and its neighbours in a row a level, the highest noise above; framed by label.

    Args:
      found: the file's content. levels: from `nearest.nearest`. query: as `show` gives images. own: its label, or "".
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
    drawn = trace.draw(np.concatenate([query, *there.values()]), *TRACE)
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
