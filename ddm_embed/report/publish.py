"""A probe's results as JSON, as a picture and as text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddm_embed.drawing import save
from ddm_embed.probe.evaluate import Evaluation
from ddm_embed.report.page import write_page
from ddm_embed.report.tables import raw
from ddm_embed.results import BASELINES, Results, baseline_key, baseline_of, main_protocol
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
    probe = ProbeFolder(folder)
    if "protocols" in evaluation.results:
        draw_profile(evaluation.results, probe.profile)
        probe.write_predictions(evaluation.predictions)
    if evaluation.atlas:
        probe.write_atlas(evaluation.atlas)
    write_page(evaluation.results, evaluation.atlas, probe.pictures(), folder)
    probe.write_results(evaluation.results)


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
    lines.append(f"{'test images':<26}{'accuracy':>12}{'+-':>9}   chosen")
    for name, protocol in results["protocols"].items():
        chosen = protocol["selected"]
        where = chosen["feature"] + ("" if chosen["t"] is None else f", t={chosen['t']:g}")
        where += "" if chosen["hyper"] is None else f", {protocol['hyper']}={chosen['hyper']:g}"
        lines.append(f"  {name:<24}{protocol['test_accuracy']:12.4f}{protocol['test_accuracy_std']:9.4f}   {where}")
    for name, accuracy in results["baselines"].items():
        lines.append(f"  {name.replace('pixels', raw(results)):<24}{accuracy:12.4f}")
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
    where = f"feature={chosen['feature']}" + ("" if chosen["t"] is None else f", t={chosen['t']:g}")
    pixels = baseline_of(results, main_protocol(results))
    where += f"; {raw(results)} {pixels.accuracy:.4f}" if pixels else ""
    return f"test accuracy {results['test_accuracy']:.4f} +- {results['test_accuracy_std']:.4f} ({where})"


def draw_profile(results: Results, path: Path) -> None:
    """Accuracy over noise level, a line a feature, a panel a protocol that has a profile."""
    from matplotlib.figure import Figure

    protocols = with_profile(results)
    if not protocols:
        return  # few labels alone, for instance, choose feature by feature of each draw
    figure = Figure(figsize=(1.6 + 4.7 * len(protocols), 4.6), layout="constrained")
    panels = figure.subplots(1, len(protocols), squeeze=False)[0]
    for axes, name in zip(panels, protocols, strict=True):
        entries = [entry for entry in results["profile"] if entry["protocol"] == name]
        for feature, style in _styles([entry["feature"] for entry in entries]).items():
            points = [(e["t"], e["validation_accuracy"]) for e in entries if e["feature"] == feature]
            axes.plot(*zip(*points, strict=True), label=feature, marker="." if len(points) == 1 else None, **style)
        baseline = baseline_of(results, name)
        if baseline:
            axes.axhline(baseline.selected["validation_accuracy"], color="0.4", linestyle=":", label=raw(results))
        chosen = results["protocols"][name]["selected"]
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
    """z black; encoder layers from light to dark blue, denoiser blocks from light to dark orange."""
    from matplotlib import colormaps

    maps: dict[str, Callable] = {"encoder": colormaps["Blues"], "denoiser": colormaps["Oranges"]}
    names = list(dict.fromkeys(features))
    styles = {}
    for name in names:
        group, _, layer = name.partition("_")
        if group not in maps:
            styles[name] = {"color": "black", "linewidth": 2}
            continue
        depth = sum(other.startswith(group) for other in names)
        styles[name] = {"color": maps[group](0.35 + 0.6 * int(layer) / depth)}
    return styles
