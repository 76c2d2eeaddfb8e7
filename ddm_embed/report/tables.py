"""The tables of the report: protocols, confusion of classes, readers of the trajectory, and the manifest."""

import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from jaxtyping import Int

from ddm_embed.report import document
from ddm_embed.results import BASELINES, STANDARDISED, Baseline, Results, baseline_of, trajectory_readers

LARGEST_TABLE = 40  # classes of a confusion matrix that is shown whole
PAIRS = 12  # most confused pairs that are listed


def percent(share: float | None, digits: int = 2) -> str:
    """ "87.13 %", or a dash where there is none."""
    return "-" if share is None else f"{100 * share:.{digits}f}&nbsp;%"


def value(found: Any) -> str:
    """A setting, HTML: numbers short, what is nested as JSON, a dash for none."""
    if found is None:
        return "-"
    if isinstance(found, float):
        return f"{found:.4g}"
    return escape(found if isinstance(found, str) else json.dumps(found))


def raw(results: Results) -> str:
    """What embeddings are compared with: the pixels of images, the raw signal of sequences."""
    return "raw signal" if results.get("kind") == "sequences" else "pixels"


def _as_read(baseline: Baseline | None) -> str:
    return " <small>standardised</small>" if baseline and baseline.selected.get("feature") == STANDARDISED else ""


def protocols(results: Results) -> str:
    """Test accuracy of every protocol, what it chose, and the same heads on pixels."""
    rows = []
    for name, found in (results.get("protocols") or {}).items():
        chosen = found.get("selected") or {}
        compared = [baseline_of(results, name, baseline) for baseline in BASELINES]
        spread = found.get("test_accuracy_std")
        spread = "" if spread is None else f" <small>&plusmn;&nbsp;{100 * spread:.2f}</small>"
        accuracy = found.get("test_accuracy")
        bar = "" if accuracy is None else f'<i class="bar" style="--v:{accuracy:.4f}"></i>'
        hyper = "-" if chosen.get("hyper") is None else f"{escape(found.get('hyper') or '')} {value(chosen['hyper'])}"
        rows.append([
            escape(name), f"{percent(accuracy)}{spread}{bar}", value(chosen.get("feature")), value(chosen.get("t")),
            hyper, percent(chosen.get("validation_accuracy")),
            *(percent(one and one.accuracy) + _as_read(one) for one in compared),
        ])  # fmt: skip
    if not rows:
        return ""
    head = ("protocol", "test accuracy", "feature", "t", "setting", "held out", raw(results), "PCA", "random ReLU")
    listed = "".join(
        f"<dt>{escape(name)}</dt><dd>{value(found.get('settings'))}</dd>"
        for name, found in results["protocols"].items()
    )
    settings = f'<details><summary>Settings of each</summary><dl class="plain">{listed}</dl></details>'
    return document.table(head, rows, "Test accuracy of each protocol's choice") + settings


def confusion(results: Results, sparse: Int[np.ndarray, "pair 3"] | None = None) -> str:
    """The matrix where it is small enough to read, and the pairs that are most often confused.

    Args:
      sparse: the atlas's, of more classes than the results hold.
    """
    counts = results.get("confusion")
    if counts:
        counts = np.asarray(counts)
        sparse = np.column_stack([*np.nonzero(counts), counts[np.nonzero(counts)]])
    if sparse is None or not len(sparse):
        return ""
    number = len(results["classes"] if counts is None else counts)
    names = [str(name) for name in results.get("classes") or range(number)]
    totals = np.bincount(sparse[:, 0], sparse[:, 2], number).astype(int)
    wrong, large = sparse[sparse[:, 0] != sparse[:, 1]], number > LARGEST_TABLE
    most = wrong[np.argsort(-wrong[:, 2], kind="stable")][: 3 * PAIRS if large else PAIRS]
    rows = [[escape(names[i]), escape(names[j]), str(n), percent(n / totals[i], 1)] for i, j, n in most]
    pairs = document.table(("true class", "taken for", "images", "of the class"), rows, "Most confused pairs", 2)
    if large:
        own = sparse[sparse[:, 0] == sparse[:, 1]]
        right = np.bincount(own[:, 0], own[:, 2], number)
        share = [(right[i] / totals[i], i) for i in np.flatnonzero(totals)]
        worst = [[escape(names[i]), percent(found, 1), str(totals[i])] for found, i in sorted(share)[: 3 * PAIRS]]
        return (
            f'<div class="pair">{pairs}{document.table(("class", "right", "images"), worst, "Hardest classes")}</div>'
        )
    return f'<div class="pair">{_matrix(counts, totals, names)}{pairs if rows else ""}</div>'


def _matrix(counts: Int[np.ndarray, "class class"], totals: Int[np.ndarray, " class"], names: list[str]) -> str:
    def cell(i: int, j: int) -> str:
        share = counts[i, j] / totals[i] if totals[i] else 0.0
        kind = "right" if i == j else "wrong"
        title = f"{names[i]} taken for {names[j]}: {counts[i, j]} of {totals[i]}"
        shown = "" if len(counts) > 16 or not counts[i, j] else counts[i, j]
        deep = " deep" if share > 0.5 else ""
        return f'<td class="{kind}{deep}" style="--v:{np.sqrt(share):.3f}" title="{escape(title)}">{shown}</td>'

    heads = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(cell(i, j) for j in range(len(counts)))}</tr>'
        for i, name in enumerate(names)
    )
    caption = "Images by true class (rows) and predicted class (columns)"
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{caption}"><table class="confusion">'
        f"<caption>{caption}</caption><thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def readers(results: Results) -> str:
    """The readers of several noise levels, and what each gains over the best single one."""
    found = trajectory_readers(results)
    if not found.keys() - {"single"}:
        return ""
    single = found.get("single", {}).get("test_accuracy")
    rows = []
    for name, entry in found.items():
        chosen, test = entry.get("selected") or {}, entry.get("test_accuracy")
        levels = (chosen.get("feature") or "").partition("@")[2]  # as in z@5
        levels = f"k={levels}" if chosen.get("t") is None else f"t={value(chosen['t'])}"
        hyper = "-" if chosen.get("hyper") is None else f"{escape(entry.get('hyper') or '')} {value(chosen['hyper'])}"
        gain = "" if name == "single" or None in (test, single) else f"{100 * (test - single):+.2f}"
        called = "best single t" if name == "single" else name
        held = percent(chosen.get("validation_accuracy"))
        rows.append([escape(called), escape(levels), hyper, held, percent(test), gain])
    head = ("reader", "noise levels", "setting", "held out", "test accuracy", "gain, points")
    feature = (next(iter(found.values())).get("settings") or {}).get("feature", "the feature")
    return document.table(head, rows, f"Readers of {feature}")


def manifest(results: Results, folder: Path) -> str:
    """All that the numbers depend on, and the command that gives them again."""
    told = results["manifest"]
    groups = {
        "manifest": told,
        "protocol": results.get("protocol"),
        "seeds": results.get("seeds"),
        "timing": results.get("timing"),
    }
    rows = [[escape(key), value(found)] for name, group in groups.items() for key, found in _flat(name, group or {})]
    workdir = folder.parent.parent if folder.parent.name == "probe" else Path("runs") / told["run"]
    seed = (results.get("seeds") or {}).get("probe")
    lines = [] if not told.get("commit") else [f"git checkout {quote(told['commit'])}"]
    flags = ["--workdir", str(workdir), f"--config.name={results['name']}"] + (
        [] if seed is None else [f"--config.seed={seed}"]
    )
    lines.append("python -m ddm_embed.probe " + " ".join(map(quote, flags)))
    dirty = '<p class="warning">Measured with changes that are in no commit.</p>' if told.get("dirty") else ""
    command = f'<div class="command"><pre><code>{escape(chr(10).join(lines))}</code></pre></div>'
    return f"{dirty}{command}" + document.table(("what", "value"), rows, "What the numbers depend on", 99)


def _flat(prefix: str, group: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, found in group.items():
        if isinstance(found, dict):
            yield from _flat(f"{prefix}.{name}", found)
        else:
            yield f"{prefix}.{name}", found
