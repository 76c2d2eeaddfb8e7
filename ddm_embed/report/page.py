"""A probe's results as one page, report.html, that needs no network and no other file."""

from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ddm_embed.probe.atlas import Atlas
from ddm_embed.report import charts, document, tables
from ddm_embed.report import images as pictures
from ddm_embed.report.document import section
from ddm_embed.report.tables import percent, value
from ddm_embed.results import Results, baseline_of, main_protocol
from ddm_embed.runs.outcome import ProbeFolder

MEASURES = {
    "rankme": "RankMe (effective rank)",
    "alignment": "alignment (lower: views closer)",
    "uniformity": "uniformity (lower: more even)",
    "retrieval_map": "retrieval mAP",
}


def write_page(results: Results, atlas: Atlas | None, samples: list[Path], folder: Path) -> Path:
    """Writes report.html into the folder, W/probe/NAME, and returns its path.

    Args:
      results: what results.json holds. Parts that are null or missing are left out of the page.
      atlas: what `evaluate.atlas` describes, or None.
      samples: PNG files to show.
    """
    return ProbeFolder(folder).write_report(page(results, atlas or {}, samples, folder))


def page(results: Results, atlas: Atlas, samples: list[Path], folder: Path) -> str:
    """The page as HTML."""
    classes = results.get("classes") and [str(name) for name in results["classes"]]
    measures = results.get("measures") or {}
    names = [p["feature"] for p in [*(results.get("profile") or []), *(measures.get("profile") or [])]]
    styles = charts.styles(names)
    at = f" of {atlas['map/feature']} at t={atlas['map/t']:g}" if "map/pca" in atlas else ""
    note = str(atlas.get("map/note", ""))
    strips = f"by cosine, of {atlas['strips/feature']}" if "strips/images" in atlas else ""
    frames = " Dashed frames are of other classes; n/k counts the query's own." if "strips/labels" in atlas else ""
    parts = {
        "profile": ("Accuracy over noise level", profile(results, styles), "On held-out training images. What is "
                    "highest here was chosen; test images had no part in it."),
        "protocols": ("Protocols", tables.protocols(results), "Each head's choice, fitted again on all training "
                      "images. ± is the deviation over draws of the noise."),
        "readers": ("Readers of the trajectory", tables.readers(results), "Several noise levels read at once, "
                    "against the best single one."),
        "confusion": ("Confusion of classes", tables.confusion(results), "Test images, main protocol, first draw "
                      "of the noise. A row is a true class; shades are shares of it."),
        "neighbours": ("Nearest neighbours", pictures.neighbours(atlas, classes), f"The nearest images {strips}, "
                       f"at several noise levels.{frames}"),
        "map": ("Map of the images", pictures.map_of(atlas, classes), f"Standardised features{at}. {note}"),
        "cka": ("Similarity of features", similarity(measures), "Linear CKA between all features at all noise levels; "
                "within a feature t grows to the right and downwards. 1: equal up to rotation and scale."),
        "measures": ("Measures without labels", label_free(measures, styles), ""),
        "samples": ("Pictures", pictures.samples(samples), ""),
        "manifest": ("Manifest", tables.manifest(results, folder), "What the numbers depend on, and the command "
                     "that gives them again."),
    }  # fmt: skip
    kept = {name: section(name, *part) for name, part in parts.items() if part[1]}
    links = "".join(f'<a href="#{name}">{parts[name][0]}</a>' for name in kept)
    for beside in (("protocols", "readers"), ("map", "cka")):
        pair = [kept.pop(name) for name in beside if name in kept]
        if pair:
            kept[beside[0]] = f'<div class="beside">{"".join(pair)}</div>'
    content = "".join(kept[name] for name in parts if name in kept)
    body = f'{headline(results)}<nav aria-label="Sections">{links}</nav><main>{content}</main>'
    return document.document(f"{results['manifest']['run']}: {results['dataset']}", body)


def headline(results: Results) -> str:
    """What was measured, the accuracy, what was chosen, the pixels, and what there is to be warned of."""
    chosen = results.get("selected") or {}
    cards = []
    if results.get("test_accuracy") is not None:
        draws = (results.get("protocol") or {}).get("noise_draws")
        told_of = [escape(main_protocol(results) or "")]
        if results.get("test_accuracy_std") is not None and draws:
            told_of.append(f"&plusmn; {100 * results['test_accuracy_std']:.2f} over {draws} draws of the noise")
        cards.append(("Test accuracy", percent(results["test_accuracy"]), ", ".join(filter(None, told_of))))
    if chosen:
        t = "no noise level" if chosen.get("t") is None else f"t = {chosen['t']:g}"
        settled = f", {_hyper(results)} {value(chosen['hyper'])}" if chosen.get("hyper") is not None else ""
        cards.append(("Chosen", escape(chosen["feature"]), f"{t}{settled}, on held-out training images"))
    pixels = baseline_of(results, main_protocol(results))
    if pixels and results.get("test_accuracy") is not None:
        gain = 100 * (results["test_accuracy"] - pixels.accuracy)
        cards.append(
            (f"From {tables.raw(results)}", percent(pixels.accuracy), f"the same head; features {gain:+.2f} points")
        )
    cards.append(
        ("Checkpoint", f"step {results['checkpoint_step']:,}".replace(",", "&thinsp;"), escape(_seeds(results)))
    )
    shown = "".join(f"<div><dt>{name}</dt><dd>{big}<small>{small}</small></dd></div>" for name, big, small in cards)
    memory = (results.get("measures") or {}).get("memorisation") or {}
    warnings = list(results.get("warnings") or [])
    if memory.get("falls_steadily"):
        warnings.append(
            f"the profile of {memory.get('feature')} falls steadily from t={memory.get('peak_t')}: the network may "
            "have memorised its training images"
        )
    if not results.get("protocols"):
        warnings.append("the dataset has no labels: what follows is measured without them")
    notes = "".join(f'<p class="warning">{escape(line)}</p>' for line in warnings)
    name = f"{escape(results['manifest']['run'])} <small>probe {escape(results['name'])}</small>"
    kind = f"What the embeddings of {escape(results['dataset'])} are worth"
    return f'<header><p class="kind">{kind}</p><h1>{name}</h1><dl class="facts">{shown}</dl>{notes}</header>'


def _hyper(results: Results) -> str:
    main = next(iter((results.get("protocols") or {}).values()), {})
    return escape(main.get("hyper") or "setting")


def _seeds(results: Results) -> str:
    return "seeds: " + ", ".join(f"{name} {seed}" for name, seed in (results.get("seeds") or {}).items())


def profile(results: Results, styles: dict[str, charts.Style]) -> str:
    """A chart a protocol, behind tabs, and all numbers as a table."""
    raw = tables.raw(results)
    panels, points = {}, results.get("profile") or []
    for name in dict.fromkeys(point["protocol"] for point in points):
        own = [p for p in points if p["protocol"] == name and p["t"] is not None]
        baseline = baseline_of(results, name)
        pixels = baseline and baseline.selected.get("validation_accuracy")
        chosen = ((results.get("protocols") or {}).get(name) or {}).get("selected") or {}
        mark = None if chosen.get("t") is None else (chosen["t"], chosen["validation_accuracy"])
        drawn = _lines(own, "validation_accuracy", styles)
        levels = {} if pixels is None else {raw: pixels}
        if drawn:
            chart = charts.lines(drawn, "held-out accuracy", True, levels, mark)
            panels[name] = chart + _numbers(drawn, f"{name}: held-out accuracy in %", 100, 2)
    shown = [name for name in styles if any(p["feature"] == name for p in points)]
    return charts.legend({n: styles[n] for n in shown}) + pictures.tabs("protocol", panels) if panels else ""


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


def label_free(measures: dict[str, Any], styles: dict[str, charts.Style]) -> str:
    """A small chart a measure, over t, and what they say of memorisation."""
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
        falls = "falls steadily from" if memory.get("falls_steadily") else "does not fall steadily from its value at"
        told = (
            f"The profile of {escape(memory['feature'])} {falls} the clean image, a sign of memorised training images; "
            f"it is highest at t={value(memory.get('peak_t'))}."
        )
        told = f'<p class="note">{told}</p>'
    return f'{charts.legend(found)}<div class="small-charts">{"".join(parts)}</div>{told}'


def similarity(measures: dict[str, Any]) -> str:
    """The CKA heat map."""
    cka = measures.get("cka") or {}
    if not cka.get("keys"):
        return ""
    return charts.matrix(
        np.asarray(cka["matrix"], float), [(f, t) for f, t in cka["keys"]], "Linear CKA between features"
    )
