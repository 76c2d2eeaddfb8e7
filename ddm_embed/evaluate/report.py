"""A probe's results as JSON, as a picture and as text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddm_embed.figure import save
from ddm_embed.files import write_whole


def publish(results: dict[str, Any], folder: Path) -> None:
    """Prints the table, writes the results, and prints, last, the line that sums them up."""
    print(table(results), flush=True)
    write(results, folder)
    print(f"results: {folder}/results.json, {folder}/profile.png")
    print(last_line(results))


def write(results: dict[str, Any], folder: Path) -> None:
    """Writes results.json and profile.png into the folder."""
    draw_profile(results, folder / "profile.png")
    write_whole(folder / "results.json", json.dumps(results, indent=1) + "\n")


def table(results: dict[str, Any]) -> str:
    """Each feature at its best noise level, the baselines, and what was chosen; accuracies."""
    best = {}
    for entry in results["profile"]:
        key = entry["feature"], entry["head"]
        if key not in best or entry["validation_accuracy"] > best[key]["validation_accuracy"]:
            best[key] = entry
    lines = [f"{'held-out training images':<26}{'ridge':>8}{'at t':>7}{'kNN':>9}{'at t':>7}"]
    for feature in dict.fromkeys(name for name, _ in best):
        ridge, knn = best[feature, "ridge"], best[feature, "knn"]
        lines.append(
            f"  {feature:<24}{ridge['validation_accuracy']:8.4f}{ridge['t']:7.2f}"
            f"{knn['validation_accuracy']:9.4f}{knn['t']:7.2f}"
        )
    for name in ("pixels", "pca"):
        ridge, knn = (results["baseline_choices"][key] for key in (name, f"{name}_knn"))
        lines.append(f"  {name:<24}{ridge['validation_accuracy']:8.4f}{'':7}{knn['validation_accuracy']:9.4f}")
    knn = results["knn"]
    lines.append(f"{'test images':<26}{'ridge':>8}{'':7}{'kNN':>9}")
    lines.append(f"  {'chosen embedding':<24}{results['test_accuracy']:8.4f}{'':7}{knn['test_accuracy']:9.4f}")
    for name in ("pixels", "pca"):
        scores = results["baselines"]
        lines.append(f"  {name:<24}{scores[name]:8.4f}{'':7}{scores[name + '_knn']:9.4f}")
    return "\n".join(lines)


def last_line(results: dict[str, Any]) -> str:
    chosen = results["selected"]
    return (
        f"test accuracy {results['test_accuracy']:.4f} +- {results['test_accuracy_std']:.4f} "
        f"(feature={chosen['feature']}, t={chosen['t']:g}; pixels {results['baselines']['pixels']:.4f})"
    )


def draw_profile(results: dict[str, Any], path: Path) -> None:
    """Accuracy over noise level, a line a feature: ridge on the left, nearest neighbours on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = {"ridge": "ridge (linear probe)", "knn": f"{results['protocol']['knn']['neighbours']} nearest neighbours"}
    for axes, (head, title) in zip(panels, titles.items(), strict=True):
        entries = [entry for entry in results["profile"] if entry["head"] == head]
        for feature, style in _styles([entry["feature"] for entry in entries]).items():
            points = [(e["t"], e["validation_accuracy"]) for e in entries if e["feature"] == feature]
            axes.plot(*zip(*points, strict=True), label=feature, **style)
        baseline = results["baseline_choices"]["pixels" if head == "ridge" else f"pixels_{head}"]
        axes.axhline(baseline["validation_accuracy"], color="0.4", linestyle=":", label="pixels")
        chosen = results["selected"] if head == "ridge" else results["knn"]
        axes.plot(
            chosen["t"], chosen["validation_accuracy"], "o", markersize=11, markerfacecolor="none", color="black",
            label="chosen",
        )  # fmt: skip
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("noise level t  (0: the clean image, 1: noise)")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy on held-out training images")
    panels[1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    figure.suptitle(
        f"{results['dataset']}, step {results['checkpoint_step']}: test accuracy "
        f"{results['test_accuracy']:.4f}, from pixels {results['baselines']['pixels']:.4f} (ridge)"
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
