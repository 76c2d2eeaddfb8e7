"""Charts as inline SVG: lines over noise level, points of a map, a matrix as an image.

They are whole without a script. page.js reads the data attributes, to show values under the pointer.
"""

import json
import math
import re
from collections.abc import Iterable
from html import escape
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ddm_embed.report.document import picture

# From light to dark on white and from dark to light on black: what lies deeper stands out more.
SHADES = {
    "encoder": (((96, 160, 214), (8, 60, 130)), ((58, 116, 186), (170, 210, 255))),
    "denoiser": (((232, 140, 50), (150, 45, 0)), ((186, 98, 40), (255, 200, 140))),
    "encoder_2x2": (((90, 180, 120), (0, 90, 50)), ((50, 140, 80), (170, 240, 190))),
    "denoiser_2x2": (((170, 130, 210), (90, 30, 140)), ((130, 90, 180), (220, 190, 250))),
    "encoder_max": (((80, 180, 180), (0, 95, 95)), ((50, 140, 140), (160, 235, 235))),
    "denoiser_max": (((220, 120, 150), (140, 20, 60)), ((170, 80, 110), (255, 180, 200))),
}
# Ten classes: Okabe and Ito 2008 and, for the last three, Tol's muted scheme, which keep apart from them.
CLASSES = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7d00", "#882255", "#777777", "#5b3fbf",
)  # fmt: skip


class Style(NamedTuple):
    """How a feature is drawn: CSS colours on light and on dark, and whether its line is dashed."""

    light: str
    dark: str
    dashed: bool

    def css(self) -> str:
        return f"--l:{self.light};--d:{self.dark}"


class Line(NamedTuple):
    """One line of a chart: its name, its values over t, and how it is drawn."""

    name: str
    points: list[tuple[float, float]]
    style: Style


def styles(features: Iterable[str]) -> dict[str, Style]:
    """z in the colour of text, the encoder's layers in blue, the denoiser's in orange, dashed; of what is pooled by
    quarters in green and violet, with the largest entries in teal and rose; deeper is stronger."""
    places = {name: layer_of(name) for name in features}
    found = {}
    for name, place in places.items():
        if place is None or place[0] not in SHADES:
            found[name] = Style("#111827", "#f3f4f6", False)
            continue
        group, layer = place
        depth = max(other[1] for other in places.values() if other and other[0] == group)
        share = (layer - 1) / max(depth - 1, 1)
        light, dark = (
            "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(*ends, strict=True))
            for ends in SHADES[group]
        )
        found[name] = Style(light, dark, group.startswith("denoiser"))
    return found


def layer_of(feature: str) -> tuple[str, int] | None:
    """The group of a layer's feature, such as encoder or encoder_2x2, and the layer's number; None of z."""
    found = re.fullmatch(r"([a-z]+)_(\d+)(_2x2|_max)?", feature)
    return found and (found[1] + (found[3] or ""), int(found[2]))


def legend(features: dict[str, Style]) -> str:
    """Buttons that show and hide the lines of a name in all charts."""
    items = "".join(
        f'<button type="button" aria-pressed="true" data-line="{escape(name)}" style="{style.css()}">'
        f'<svg class="key" viewBox="0 0 26 8" aria-hidden="true"><path class="line{" dashed" * style.dashed}" '
        f'd="M1 4H25"/></svg>{escape(name)}</button>'
        for name, style in features.items()
    )
    return f'<div class="legend" role="group" aria-label="Features; press to show or hide">{items}</div>'


def lines(
    drawn: list[Line],
    label: str,
    percent: bool = False,
    levels: dict[str, float] | None = None,
    chosen: tuple[float, float] | None = None,
    sizes: tuple[tuple[int, int], ...] = ((1240, 430), (360, 300)),
) -> str:
    """Lines over t; in two sizes, for a wide screen and for a phone, of which the style sheet shows one.

    Args:
      drawn: the lines. label: what is measured, for the axis and for who cannot see it. percent: values are shares.
      levels: named horizontal lines, such as a baseline. chosen: a point (t, value) that is marked.
      sizes: width and height of each drawing.
    """
    values = [v for line in drawn for _, v in line.points] + list((levels or {}).values())
    if not values:
        return ""
    data = [{"n": line.name, "c": line.style.css(), "p": [[t, round(v, 5)] for t, v in line.points]} for line in drawn]
    kinds = ("for-wide", "for-narrow") if len(sizes) > 1 else ("",)
    drawings = "".join(
        _draw(drawn, label, percent, levels or {}, chosen, size, kind) for size, kind in zip(sizes, kinds, strict=True)
    )
    described = escape(json.dumps({"lines": data, "percent": percent}), quote=True)
    return f'<div class="chart" data-chart="{described}">{drawings}</div>'


def _draw(drawn, label, percent, levels, chosen, size, kind) -> str:
    width, height = size
    left, right, top, bottom = 46, width - 14, 26, height - 34
    ts = [t for line in drawn for t, _ in line.points] or [0.0, 1.0]
    values = [v for line in drawn for _, v in line.points] + list(levels.values())
    t0, t1 = min(ts), max(ts) if max(ts) > min(ts) else min(ts) + 1
    ticks = nice_ticks(min(values), max(values), 6)
    v0, v1 = min(ticks[0], *values), max(ticks[-1], *values)

    def x(t: float) -> float:
        return round(left + (t - t0) / (t1 - t0) * (right - left), 1)

    def y(v: float) -> float:
        return round(bottom - (v - v0) / (v1 - v0) * (bottom - top), 1)

    parts = [f'<text class="axis" x="4" y="14">{escape(label)}{" (%)" if percent else ""}</text>']
    step = ticks[1] - ticks[0]
    digits = max(0, -math.floor(math.log10(step * (100 if percent else 1)) + 1e-9))
    for tick in ticks:
        shown = f"{tick * 100 if percent else tick:.{digits}f}"
        parts.append(f'<path class="grid" d="M{left} {y(tick)}H{right}"/>')
        parts.append(f'<text x="{left - 6}" y="{y(tick) + 4}" text-anchor="end">{shown}</text>')
    for tick in nice_ticks(t0, t1, 8 if width > 500 else 6):
        if t0 - 1e-9 <= tick <= t1 + 1e-9:
            parts.append(f'<text x="{x(tick)}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text class="axis" x="{right}" y="{height - 4}" text-anchor="end">noise level t</text>')
    for line in drawn:
        path = "M" + "L".join(f"{x(t)} {y(v)}" for t, v in line.points)
        dots = "".join(f"M{x(t)} {y(v)}h0" for t, v in line.points)
        name, dashed = escape(line.name), " dashed" * line.style.dashed
        parts.append(
            f'<g data-line="{name}" style="{line.style.css()}"><title>{name}</title><path class="line{dashed}" '
            f'd="{path}"/><path class="dots" d="{dots}"/></g>'
        )
    for name, value in levels.items():
        parts.append(f'<path class="level" d="M{left} {y(value)}H{right}"/>')
        parts.append(f'<text class="level-name" x="{right}" y="{y(value) - 5}" text-anchor="end">{escape(name)}</text>')
    if chosen:
        parts.append(f'<circle class="chosen" cx="{x(chosen[0])}" cy="{y(chosen[1])}" r="8"/>')
        place = "end" if x(chosen[0]) > 0.7 * width else "start"
        shift = -12 if place == "end" else 12
        at = f'x="{x(chosen[0]) + shift}" y="{y(chosen[1]) - 9}" text-anchor="{place}"'
        parts.append(f'<text class="chosen-name" {at}>chosen</text>')
    parts.append(f'<path class="cursor" d="M0 {top}V{bottom}" visibility="hidden"/>')
    box = f"{left} {right} {t0} {t1}"
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" tabindex="0" data-box="{box}" '
        f'aria-label="{escape(label)} over noise level t, a line a feature">{"".join(parts)}</svg>'
    )


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers 1, 2 or 5 times a power of ten apart, from at or below `low` to at or above `high`."""
    if not high > low:
        low, high = low - 0.5 * max(abs(low), 1e-3), high + 0.5 * max(abs(high), 1e-3)
    rough = (high - low) / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def scatter(
    points: Float[np.ndarray, "point 2"], labels: Int[np.ndarray, " point"] | None, names: list[str] | None, label: str
) -> str:
    """Points of a map, coloured by class: one path a class, so that thousands are small; ten colours, then squares."""
    size, edge = 640, 14
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (size - 2 * edge) / max(float(np.max(high - low)), 1e-30)
    places = np.rint((points - (low + high) / 2) * scale * [1, -1] + size / 2).astype(int)  # up is up
    kinds = np.zeros(len(points), int) if labels is None else labels
    parts = []
    for kind in np.unique(kinds):
        path = "".join(f"M{x} {y}h0" for x, y in places[kinds == kind])
        name = f"<title>{escape(names[kind])}</title>" if names and labels is not None else ""
        colour, shape = class_style(kind)
        told = f'class="point {shape}" data-class="{kind}" style="--c:{colour}"'
        parts.append(f'<path {told} d="{path}">{name}</path>')
    data = escape(json.dumps({"at": places.ravel().tolist(), "of": kinds.tolist() if labels is not None else None}))
    return (
        f'<svg class="map" viewBox="0 0 {size} {size}" role="img" aria-label="{escape(label)}" data-map="{data}">'
        f'{"".join(parts)}<circle class="chosen" r="7" visibility="hidden"/></svg>'
    )


def class_style(kind: int) -> tuple[str, str]:
    """Colour and shape of a class on the map."""
    return CLASSES[kind % len(CLASSES)], "square" if kind // len(CLASSES) % 2 else "round"


def matrix(values: Float[np.ndarray, "key key"], keys: list[tuple[str, float]], label: str) -> str:
    """A square matrix of shares between features at noise levels, as one image with the features' names beside it.

    What is not finite is grey.
    """
    from matplotlib import colormaps

    values = np.asarray(values, float)
    known = np.isfinite(values)
    values = np.clip(np.where(known, values, 0), 0, 1)
    colours = np.where(known[..., None], colormaps["viridis"](values)[..., :3], 0.55)
    uri = picture(np.rint(255 * colours).astype(np.uint8), small=True)
    left, size, top = 84, 360, 6
    cell = size / len(keys)
    groups: dict[str, list[int]] = {}
    for place, (feature, _) in enumerate(keys):
        groups.setdefault(feature, []).append(place)
    parts = [f'<image href="{uri}" x="{left}" y="{top}" width="{size}" height="{size}" preserveAspectRatio="none"/>']
    shown = 0.0
    for feature, places in groups.items():
        middle = (min(places) + max(places) + 1) / 2 * cell
        edge = f"{min(places) * cell:.1f}"
        if min(places):
            parts.append(
                f'<path class="seam" d="M{left} {top + float(edge)}h{size}M{left + float(edge)} {top}v{size}"/>'
            )
        if middle - shown >= 10 or not min(places):  # names that would overlap are left to the tooltip
            shown, name = middle, escape(feature)
            parts.append(f'<text x="{left - 5}" y="{top + middle + 4:.1f}" text-anchor="end">{name}</text>')
            turned = f"translate({left + middle + 4:.1f} {top + size + 6}) rotate(-90)"
            parts.append(f'<text transform="{turned}" text-anchor="end">{name}</text>')
    grades = "".join(f'<i style="background:{_hex(colormaps["viridis"](s / 10))}"></i>' for s in range(11))
    data = ""
    if len(keys) <= 250:
        quantised = np.where(known, np.rint(254 * values), 255).astype(np.uint8).tobytes().hex()  # 255: not known
        data = escape(
            json.dumps({"keys": [f"{f} at t={t:g}" for f, t in keys], "hex": quantised, "box": [left, top, size]})
        )
    return (
        f'<div class="matrix"><svg viewBox="0 0 {left + size + 6} {top + size + 84}" role="img" '
        f'aria-label="{escape(label)}" data-matrix="{data}">{"".join(parts)}</svg>'
        f'<p class="scale"><span>0</span>{grades}<span>1</span></p></div>'
    )


def _hex(colour: tuple[float, ...]) -> str:
    return "#" + "".join(f"{round(255 * c):02x}" for c in colour[:3])
