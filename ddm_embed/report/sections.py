"""The sections of the report, in their order: functions of what the page is made of that give HTML.

A section is a function and one line at the end of this file. One from elsewhere calls `register` itself, for instance
in the config file that the probe is given, and comes last.
"""

import dataclasses
import json
from collections.abc import Callable
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ddm_embed.probe.atlas import Atlas
from ddm_embed.report import charts, document, tables
from ddm_embed.results import Point, Results, baseline_of

MEASURES = {
    "rankme": "RankMe (effective rank)",
    "alignment": "alignment (lower: views closer)",
    "uniformity": "uniformity (lower: more even)",
    "retrieval_map": "retrieval mAP",
}
PICTURES = 1_000_000  # bytes, of all samples together


@dataclasses.dataclass(frozen=True)
class Given:
    """What the page is made of.

    Attributes:
      results: what results.json holds; what is null or missing there is left out. atlas: what `probe.atlas` describes,
        or empty. samples: PNG files to show, by name. folder: W/probe/NAME.
    """

    results: Results
    atlas: Atlas
    samples: dict[str, bytes]
    folder: Path

    @cached_property
    def classes(self) -> list[str] | None:
        """The classes' names."""
        return self.results.get("classes") and [str(name) for name in self.results["classes"]]

    @cached_property
    def measures(self) -> dict[str, Any]:
        """What was measured without labels; may be empty."""
        return self.results.get("measures") or {}

    @cached_property
    def styles(self) -> dict[str, charts.Style]:
        """How each feature is drawn."""
        points = [*(self.results.get("profile") or []), *(self.measures.get("profile") or [])]
        return charts.styles([point["feature"] for point in points])


@dataclasses.dataclass(frozen=True)
class Section:
    """title, note: text; a note may depend on what is given. draw: HTML, empty to leave the section out. beside: the
    section before it that it stands next to, where there is room."""

    title: str
    draw: Callable[[Given], str]
    note: str | Callable[[Given], str]
    beside: str | None

    def html(self, name: str, given: Given) -> str:
        """The section, empty where it has no content."""
        content = self.draw(given)
        note = self.note(given) if callable(self.note) else self.note
        return document.section(name, self.title, content, note) if content else ""


SECTIONS: dict[str, Section] = {}


def register(
    name: str,
    title: str,
    draw: Callable[[Given], str],
    note: str | Callable[[Given], str] = "",
    beside: str | None = None,
) -> None:
    """Adds a section at the end, or replaces the one of the same name; links lead to it as #name. See `Section`."""
    SECTIONS[name] = Section(title, draw, note, beside)


def profile(given: Given) -> str:
    """A chart a protocol, behind tabs, and all numbers as a table."""
    results, styles, raw = given.results, given.styles, tables.raw(given.results)
    panels, points = {}, results.get("profile") or []
    for name in dict.fromkeys(point["protocol"] for point in points):
        own = [p for p in points if p["protocol"] == name and p["t"] is not None]
        baseline = baseline_of(results, name)
        pixels = baseline and baseline.selected.get("validation_accuracy")
        chosen = ((results.get("protocols") or {}).get(name) or {}).get("selected") or {}
        mark = None if chosen.get("t") is None else (chosen["t"], chosen["validation_accuracy"])
        drawn = _lines(own, "validation_accuracy", styles)
        levels = {} if pixels is None else {raw: pixels}
        joint = max((p for p in points if p["protocol"] == name and p.get("levels")), key=_held_out, default=None)
        levels |= {} if joint is None else {joint["feature"]: _held_out(joint)}
        if drawn:
            chart = charts.lines(drawn, "held-out accuracy", True, levels, mark)
            panels[name] = chart + _numbers(drawn, f"{name}: held-out accuracy in %", 100, 2)
    shown = [name for name in styles if any(p["feature"] == name and p["t"] is not None for p in points)]
    return charts.legend({n: styles[n] for n in shown}) + document.tabs("protocol", panels) if panels else ""


def _held_out(point: Point) -> float:
    return point["validation_accuracy"] or 0


def _lines(points: list[dict], field: str, styles: dict[str, charts.Style]) -> list[charts.Line]:
    found = []
    for name in dict.fromkeys(p["feature"] for p in points):
        own = sorted((p["t"], p[field]) for p in points if p["feature"] == name and _known(p.get(field)))
        found += [charts.Line(name, own, styles[name])] if own else []
    return found


def _known(number: Any) -> bool:
    return number is not None and bool(np.isfinite(number))


def _numbers(drawn: list[charts.Line], caption: str, scale: float, digits: int) -> str:
    times = sorted({t for line in drawn for t, _ in line.points})
    rows = []
    for line in drawn:
        at = dict(line.points)
        rows.append([escape(line.name), *(f"{scale * at[t]:.{digits}f}" if t in at else "" for t in times)])
    content = document.table(["t", *(f"{t:g}" for t in times)], rows, caption)
    return f"<details><summary>All numbers</summary>{content}</details>"


def label_free(given: Given) -> str:
    """A small chart a measure, over t, and what they say of memorisation."""
    measures, styles = given.measures, given.styles
    points = measures.get("profile") or []
    parts = []
    for field, title in MEASURES.items():
        drawn = _lines(points, field, styles)
        if drawn:
            chart = charts.lines(drawn, title, sizes=((360, 250),))
            parts.append(f"<div>{chart}{_numbers(drawn, title, 1, 3)}</div>")
    if not parts:
        return ""
    found = {point["feature"]: styles[point["feature"]] for point in points}
    memory, told = measures.get("memorisation"), ""
    if memory and memory.get("feature"):
        falls = (
            "falls steadily from its lowest t, as that of a network that has memorised its images does, and that of an "
            "easy task too"
            if memory.get("falls_steadily")
            else "does not fall steadily from its lowest t, which does not rule out that images were memorised"
        )
        told = f"The profile of {escape(memory['feature'])} {falls}; it is highest at t="
        told += f"{tables.value(memory.get('peak_t'))}."
        told = f'<p class="note">{told}</p>'
    return f'{charts.legend(found)}<div class="small-charts">{"".join(parts)}</div>{told}'


def similarity(given: Given) -> str:
    """The CKA heat map."""
    cka = given.measures.get("cka") or {}
    if not cka.get("keys"):
        return ""
    return charts.matrix(
        np.asarray(cka["matrix"], float), [(f, t) for f, t in cka["keys"]], "Linear CKA between features"
    )


def confusion(given: Given) -> str:
    """The matrix of classes, or of many the pairs most often confused."""
    return tables.confusion(given.results, given.atlas.get("confusion"))


def neighbours(given: Given) -> str:
    """A card a query: the image, and a row a noise level of its neighbours; other classes than its own are marked."""
    atlas, classes = given.atlas, given.classes
    if "strips/images" not in atlas:
        return ""
    own, others = atlas.get("strips/query_labels"), atlas.get("strips/labels")
    labelled = classes is not None and own is not None and others is not None
    cards = []
    for place, query in enumerate(atlas["strips/queries"]):
        name = classes[own[place]] if labelled else f"query {place + 1}"
        rows = []
        for level, t in enumerate(atlas["strips/times"]):
            images, kinds = atlas["strips/images"][level, place], others[level, place] if labelled else None
            shown = "".join(
                _image(
                    image, classes[kinds[i]] if labelled else f"neighbour {i + 1}", labelled and kinds[i] != own[place]
                )
                for i, image in enumerate(images)
            )
            same = f"<small>{np.sum(kinds == own[place])}/{len(images)}</small>" if labelled else ""
            rows.append(f'<div class="strip"><span>t={t:g}{same}</span>{shown}</div>')
        head = f'<div class="query">{_image(query, f"query: {name}", False)}<b>{escape(name)}</b></div>'
        cards.append(f'<li class="card">{head}<div class="strips">{"".join(rows)}</div></li>')
    return f'<ul class="cards">{"".join(cards)}</ul>'


def of_neighbours(given: Given) -> str:
    atlas = given.atlas
    of = f"by cosine, of {atlas['strips/feature']}" if "strips/images" in atlas else ""
    frames = " Dashed frames are of other classes; n/k counts the query's own." if "strips/labels" in atlas else ""
    return f"The nearest images {of}, at several noise levels.{frames}"


def _image(image: UInt8[np.ndarray, "height width channel"], name: str, other: bool) -> str:
    mark = ' class="other"' if other else ""
    name = escape(f"{name} (another class)" if other else name)
    return f'<img{mark} src="{document.picture(image)}" alt="{name}" title="{name}">'


def map_of(given: Given) -> str:
    """PCA and t-SNE, one behind the other's tab, the legend of classes, and the images for who points at one."""
    atlas, classes = given.atlas, given.classes
    if "map/pca" not in atlas:
        return ""
    labels = atlas.get("map/labels")
    names = classes if labels is not None else None
    first, second = (f"{100 * share:.0f} %" for share in atlas["map/explained"])
    told = f"first two principal components: {first} and {second} of the variance"
    drawn = {"PCA": (atlas["map/pca"], told)}
    if "map/tsne" in atlas:
        told = f"t-SNE, perplexity {float(atlas['map/perplexity']):g}, begun from PCA, seed {int(atlas['map/seed'])}"
        drawn = {"t-SNE": (atlas["map/tsne"], f"{told}; distances between groups mean little")} | drawn
    panels = {
        name: charts.scatter(points, labels, names, f"{name} map of the images") + f'<p class="note">{told}</p>'
        for name, (points, told) in drawn.items()
    }
    legend = _class_legend(labels, names) if names else ""
    thumbnails = _sprite(atlas["map/thumbnails"]) if "map/thumbnails" in atlas else ""
    data = f' data-names="{escape(json.dumps(names))}"' if names else ""
    return f'<div class="atlas"{data}><div>{document.tabs("map", panels)}</div><div>{legend}{thumbnails}</div></div>'


def of_map(given: Given) -> str:
    atlas = given.atlas
    at = f" of {atlas['map/feature']} at t={atlas['map/t']:g}" if "map/pca" in atlas else ""
    return f"Standardised features{at}. {atlas.get('map/note', '')}"


def _class_legend(labels: np.ndarray, names: list[str]) -> str:
    present = np.unique(labels)
    items = "".join(
        f'<button type="button" aria-pressed="true" data-class="{kind}" style="--c:{charts.class_style(kind)[0]}">'
        f'<i class="{charts.class_style(kind)[1]}"></i>{escape(names[kind])}</button>'
        for kind in present[:40]
    )
    more = f'<p class="note">and {len(present) - 40} more classes</p>' if len(present) > 40 else ""
    again = '<p class="note">Colours repeat; point at an image for its class.</p>' if len(present) > 20 else ""
    return (
        f'<div class="legend tall" role="group" aria-label="Classes; press to show or hide">{items}</div>{more}{again}'
    )


def _sprite(images: UInt8[np.ndarray, "number height width channel"]) -> str:
    """All images of the map in one; page.js shows the one pointed at."""
    count, height, width, channels = images.shape
    across = int(np.ceil(np.sqrt(count)))
    down = -(-count // across)
    grid = np.zeros((down * across, height, width, channels), np.uint8)
    grid[:count] = images
    grid = grid.reshape(down, across, height, width, channels).transpose(0, 2, 1, 3, 4)
    uri = document.picture(grid.reshape(down * height, across * width, channels))
    return (
        f'<div class="pointed" aria-hidden="true" data-sprite="{uri}" data-cell="{across} {down} {width} {height}">'
        "<i></i><span>Point at the map to see an image.</span></div>"
    )


def samples(given: Given) -> str:
    """Pictures of W/samples, each under its name."""
    most = min(250_000, PICTURES // max(len(given.samples), 1))
    figures = (
        f'<figure><img class="figure" src="{document.picture_file(data, most)}" alt="{escape(name)}">'
        f"<figcaption>{escape(name.replace('_', ' '))}</figcaption></figure>"
        for name, data in given.samples.items()
    )
    return f'<div class="figures">{"".join(figures)}</div>' if given.samples else ""


HELD_OUT = "On held-out training images. What is highest here was chosen; test images had no part in it."
FITTED = "Each head's choice, fitted again on all training images. ± is the deviation over draws of the noise."
SEVERAL = "Several noise levels read at once, against the best single one."
SHARES = "Test images, main protocol, first draw of the noise. A row is a true class; shades are shares of it."
ALIKE = (
    "Linear CKA between all features at all noise levels; within a feature t grows to the right and downwards. "
    "1: equal up to rotation and scale."
)
DEPENDS = "What the numbers depend on, and the command that gives them again."

register("profile", "Accuracy over noise level", profile, HELD_OUT)
register("protocols", "Protocols", lambda given: tables.protocols(given.results), FITTED)
register("readers", "Readers of the trajectory", lambda given: tables.readers(given.results), SEVERAL, "protocols")
register(
    "confusion",
    "Confusion of classes",
    lambda given: tables.confusion(given.results, given.atlas.get("confusion")),
    SHARES,
)
register("neighbours", "Nearest neighbours", neighbours, of_neighbours)
register("map", "Map of the images", map_of, of_map)
register("cka", "Similarity of features", similarity, ALIKE, "map")
register("measures", "Measures without labels", label_free)
register("samples", "Pictures", samples)
register("manifest", "Manifest", lambda given: tables.manifest(given.results, given.folder), DEPENDS)
