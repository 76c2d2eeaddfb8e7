"""A probe's results: printed as text, and written as JSON, as a picture and as one page, report.html, that needs no
network and no other file."""

from html import escape
from pathlib import Path
from typing import Any

from ddm_embed.drawing import save
from ddm_embed.probe.atlas import Atlas
from ddm_embed.probe.evaluate import Evaluation
from ddm_embed.report import charts, document, tables
from ddm_embed.report.sections import SECTIONS, Given
from ddm_embed.report.tables import percent, raw, value
from ddm_embed.results import (
    BASELINES,
    STANDARDISED,
    Results,
    at_levels,
    baseline_key,
    baseline_of,
    main_protocol,
    varied,
)
from ddm_embed.runs.outcome import ProbeFolder

TITLES = {"ridge": "ridge (linear probe)", "knn": "{neighbours} nearest neighbours", "logistic": "logistic regression"}


def publish(evaluation: Evaluation, folder: Path) -> None:
    """Prints the table, writes the results, and prints, last, the line that sums them up."""
    results = evaluation.results
    for text in results["warnings"]:
        print(f"warning: {text}")
    if "protocols" in results:
        print(table(results), flush=True)
    write(evaluation, folder)
    print(f"results: {folder}/results.json, {folder}/report.html")
    print(last_line(results))


def write(evaluation: Evaluation, folder: Path) -> None:
    """Writes results.json, predictions.npz, atlas.npz, profile.png and report.html into the folder, W/probe/NAME."""
    probe, results = ProbeFolder(folder), evaluation.results
    probe.write(results, evaluation.predictions, evaluation.atlas)
    if "protocols" in results:
        draw_profile(results, probe.profile)
    write_page(results, evaluation.atlas, probe.pictures(), folder)


def table(results: Results) -> str:
    """Each feature at its best noise level under each protocol, the baselines, and what was chosen; accuracies."""
    shown = with_profile(results)
    best = {}
    for entry in (entry for entry in results["profile"] if entry["protocol"] in shown):
        key = entry["feature"], entry["protocol"]
        if key not in best or entry["validation_accuracy"] > best[key]["validation_accuracy"]:
            best[key] = entry
    lines = [f"{'held-out training images':<26}" + "".join(f"{name:>12}{'at t':>6}" for name in shown)]
    for feature in dict.fromkeys(name for name, _ in best):
        cells = [best.get((feature, name)) for name in shown]
        lines.append(f"  {feature:<24}" + "".join(_cell(cell) for cell in cells))
    for name in BASELINES:
        cells = [results["baseline_choices"].get(baseline_key(name, protocol)) for protocol in shown]
        lines.append(f"  {name.replace('pixels', raw(results)):<24}" + "".join(_cell(cell) for cell in cells))
    lines.append("")
    lines.append(f"{'test images':<26}{'accuracy':>12}{'+-':>9}  over    chosen")
    for name, protocol in results["protocols"].items():
        chosen = protocol["selected"]
        where = ", ".join(filter(None, (chosen["feature"], at_levels(chosen))))
        where += "" if chosen["hyper"] is None else f", {protocol['hyper']}={chosen['hyper']:g}"
        spread = protocol["test_accuracy_std"]
        spread = f"{'-':>9}" if spread is None else f"{spread:9.4f}"
        lines.append(f"  {name:<24}{protocol['test_accuracy']:12.4f}{spread}  {varied(protocol):<6}  {where}")
    for name, accuracy in results["baselines"].items():
        chosen = (results["baseline_choices"].get(name) or {}).get("feature")
        how = f"{'standardised':>29}" if chosen == STANDARDISED else ""
        lines.append(f"  {name.replace('pixels', raw(results)):<24}{accuracy:12.4f}{how}")
    timing = results["timing"]
    lines.append(
        f"features: {timing['features_s']:.1f} s, {timing['features_gib']:.2f} GiB, kept in {timing['kept']}; "
        f"heads: {timing['heads_s']:.1f} s"
    )
    return "\n".join(lines)


def with_profile(results: Results) -> list[str]:
    """The protocols that judge every feature at every noise level."""
    points = [entry["protocol"] for entry in results["profile"] if entry["t"] is not None]
    counts = {name: points.count(name) for name in results["protocols"]}
    return [name for name, count in counts.items() if 0 < count == max(counts.values())]


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return f"{'':18}"
    t = "" if entry["t"] is None else f"{entry['t']:.2f}"
    return f"{entry['validation_accuracy']:12.4f}{t:>6}"


def last_line(results: Results) -> str:
    if "protocols" not in results:
        return "not probed with labels: " + results["warnings"][0]
    chosen = results["selected"]
    where = ", ".join(filter(None, (f"feature={chosen['feature']}", at_levels(chosen))))
    pixels = baseline_of(results, main_protocol(results))
    where += f"; {raw(results)} {pixels.accuracy:.4f}" if pixels else ""
    spread = results["test_accuracy_std"]
    over = varied(results["protocols"][main_protocol(results)])
    spread = "" if spread is None else f" +- {spread:.4f} over {over}"
    return f"test accuracy {results['test_accuracy']:.4f}{spread} ({where})"


def draw_profile(results: Results, path: Path) -> None:
    """Accuracy over noise level, a line a feature, a panel a protocol that has a profile."""
    from matplotlib.figure import Figure

    protocols = with_profile(results)
    if not protocols:
        return  # few labels alone, for instance, choose feature by feature of each draw
    figure = Figure(figsize=(1.6 + 4.7 * len(protocols), 4.6), layout="constrained")
    panels = figure.subplots(1, len(protocols), squeeze=False)[0]
    for axes, name in zip(panels, protocols, strict=True):
        entries = [entry for entry in results["profile"] if entry["protocol"] == name and entry["t"] is not None]
        for feature, style in _styles([entry["feature"] for entry in entries]).items():
            points = [(e["t"], e["validation_accuracy"]) for e in entries if e["feature"] == feature]
            axes.plot(*zip(*points, strict=True), label=feature, marker="." if len(points) == 1 else None, **style)
        baseline = baseline_of(results, name)
        if baseline:
            axes.axhline(baseline.selected["validation_accuracy"], color="0.4", linestyle=":", label=raw(results))
        joint = [e["validation_accuracy"] for e in results["profile"] if e["protocol"] == name and e.get("levels")]
        if joint:
            axes.axhline(max(joint), color="0.4", linestyle="--", label="several levels")
        chosen = results["protocols"][name]["selected"]
        if chosen["t"] is not None:  # several levels side by side have no place on the axis
            axes.plot(
                chosen["t"], chosen["validation_accuracy"], "o", markersize=11, markerfacecolor="none", color="black",
                label="chosen",
            )  # fmt: skip
        axes.set_title(TITLES.get(name, name).format(**results["protocols"][name]["settings"]), fontsize=11)
        axes.set_xlabel("noise level t  (0: the clean image, 1: noise)")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy on held-out training images")
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    pixels = baseline_of(results, main_protocol(results))
    figure.suptitle(
        f"{results['dataset']}, step {results['checkpoint_step']}: test accuracy {results['test_accuracy']:.4f}"
        + (f", from {raw(results)} {pixels.accuracy:.4f}" if pixels else "")
    )
    save(figure, path)


def _styles(features: list[str]) -> dict[str, dict[str, Any]]:
    """z black; encoder layers blue, denoiser blocks orange, by quarters green and violet, with the largest entries
    grey and red; deeper is darker."""
    from matplotlib import colormaps

    colours = {"encoder": "Blues", "denoiser": "Oranges", "encoder_2x2": "Greens", "denoiser_2x2": "Purples"}
    colours |= {"encoder_max": "Greys", "denoiser_max": "Reds"}
    places = {name: charts.layer_of(name) for name in features}
    styles = {}
    for name, place in places.items():
        if place is None or place[0] not in colours:
            styles[name] = {"color": "black", "linewidth": 2}
            continue
        group, layer = place
        depth = sum(other is not None and other[0] == group for other in places.values())
        styles[name] = {"color": colormaps[colours[group]](0.35 + 0.6 * layer / depth)}
    return styles


def write_page(results: Results, atlas: Atlas | None, samples: dict[str, bytes], folder: Path) -> Path:
    """Writes report.html into the folder, W/probe/NAME, and returns its path.

    Args:
      results: what results.json holds. Parts that are null or missing are left out of the page.
      atlas: what `probe.atlas` describes, or None.
      samples: PNG files to show, by name.
    """
    return ProbeFolder(folder).write_report(page(results, atlas or {}, samples, folder))


def page(results: Results, atlas: Atlas, samples: dict[str, bytes], folder: Path) -> str:
    """The page as HTML."""
    given = Given(results, atlas, samples, folder)
    kept = {name: html for name, section in SECTIONS.items() if (html := section.html(name, given))}
    links = "".join(f'<a href="#{name}">{SECTIONS[name].title}</a>' for name in kept)
    rows: dict[str, str] = {}  # those that stand beside one another, under the first one's name
    for name, html in kept.items():
        first = SECTIONS[name].beside or name
        rows[first] = rows.get(first, "") + html
    wide = {section.beside for section in SECTIONS.values()}
    content = "".join(f'<div class="beside">{row}</div>' if name in wide else row for name, row in rows.items())
    body = f'{headline(results)}<nav aria-label="Sections">{links}</nav><main>{content}</main>'
    return document.document(f"{results['manifest']['run']}: {results['dataset']}", body)


def headline(results: Results) -> str:
    """What was measured, the accuracy, what was chosen, the pixels, and what there is to be warned of."""
    chosen = results.get("selected") or {}
    cards = []
    if results.get("test_accuracy") is not None:
        draws = len(results.get("test_accuracy_draws") or [])
        over = varied((results.get("protocols") or {}).get(main_protocol(results)) or {})
        told_of = [escape(main_protocol(results) or "")]
        if results.get("test_accuracy_std") is not None and draws:
            told_of.append(f"&plusmn; {100 * results['test_accuracy_std']:.2f} over {draws} draws of the {over}")
        cards.append(("Test accuracy", percent(results["test_accuracy"]), ", ".join(filter(None, told_of))))
    if chosen:
        t = at_levels(chosen) or "no noise level"
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
            "have memorised its training images, or the task is easy; the profile alone cannot tell"
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
