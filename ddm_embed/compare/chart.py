"""A comparison as a picture: a panel a protocol with every seed's accuracy, and the profile over noise level."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ddm_embed.compare.significance import Row, summary
from ddm_embed.compare.table import Column, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Okabe and Ito 2008, "Color Universal Design", without yellow, which is too light on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")
LINES = ("-", "--", ":", "-.")
BASELINE = "0.45"
ACROSS = 3  # panels side by side


def draw(tables: list[Table]) -> "Figure":
    """One block a dataset: accuracy of each row under each protocol, then held-out accuracy over t of the main one."""
    from matplotlib.figure import Figure

    heights = [sum(_heights(table)) for table in tables]
    figure = Figure(figsize=(12, sum(heights)), layout="constrained", facecolor="white")
    for block, table in zip(
        figure.subfigures(len(tables), 1, height_ratios=heights, squeeze=False)[:, 0], tables, strict=True
    ):
        _draw_table(block, table)
    return figure


def _panels(table: Table) -> list[Column]:
    """The columns that compare something; all of them where none does."""
    configs = [row for row in table.rows if not row.baseline]
    comparing = [column for column in table.columns if sum(column.name in row.cells for row in configs) > 1]
    return comparing or table.columns


def _heights(table: Table) -> tuple[float, float]:
    """Inches, of the panels and of the profile."""
    lines = -(-len(_panels(table)) // ACROSS)
    return 0.5 + lines * (0.9 + 0.27 * len(table.rows)), 3.8


def _draw_table(block: "SubFigure", table: Table) -> None:
    columns = _panels(table)
    across = min(ACROSS, len(columns))
    lines = -(-len(columns) // across)
    rest = "; columns of a single config are in the table alone" if len(columns) < len(table.columns) else ""
    block.suptitle(
        f"{table.dataset}: accuracy on test images; dots are seeds, bars mean ± standard error{rest}", fontsize=12
    )
    upper, lower = block.subfigures(2, 1, height_ratios=_heights(table))
    panels = upper.subplots(lines, across, sharey=True, squeeze=False)
    styles = dict(zip((row.name for row in table.rows), _styles(table.rows), strict=True))
    for axes, column in zip(panels.flat, columns, strict=False):
        for place, row in enumerate(table.rows):
            _draw_row(axes, place, row, column.name, styles[row.name])
        axes.set_title(column.name, fontsize=11)
        axes.set_yticks(range(len(table.rows)), [row.name for row in table.rows], fontsize=9)
        axes.set_ylim(len(table.rows) - 0.4, -0.6)
        axes.grid(axis="x", alpha=0.3)
        axes.grid(axis="y", alpha=0.12)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    for axes in panels.flat[len(columns) :]:
        axes.set_visible(False)
    _draw_profiles(lower.subplots(), table, styles)


def _styles(rows: list[Row]) -> Iterator[dict[str, str]]:
    runs = 0
    for row in rows:
        if row.baseline:
            yield {"color": BASELINE, "marker": "|", "linestyle": ":"}
            continue
        yield {
            "color": COLOURS[runs % len(COLOURS)],
            "marker": MARKERS[runs % len(MARKERS)],
            "linestyle": LINES[runs // len(COLOURS) % len(LINES)],
        }
        runs += 1


def _draw_row(axes: "Axes", place: int, row: Row, column: str, style: dict[str, str]) -> None:
    if column not in row.cells:
        return
    mean, error, _ = summary(row.cells[column])
    values = [measure.accuracy for measure in row.cells[column]]
    shape = {"color": style["color"], "marker": style["marker"], "linestyle": "none"}
    if row.baseline:
        axes.plot([mean], [place], markersize=13, markeredgewidth=2.2, **shape)
        axes.axvline(mean, color=style["color"], linewidth=0.8, linestyle=style["linestyle"], zorder=0)
        return
    if len(values) == 1:
        axes.plot(values, [place], markersize=7.5, **shape)
        return
    axes.errorbar([mean], [place], xerr=[error], capsize=4, markersize=5, elinewidth=1.8, **shape)
    axes.plot(values, [place + 0.24] * len(values), markersize=3.5, alpha=0.65, **(shape | {"marker": "o"}))


def _draw_profiles(axes: "Axes", table: Table, styles: dict[str, dict[str, str]]) -> None:
    main = table.columns[0]
    drawn = False
    for row in table.rows:
        if row.baseline or main.name not in row.cells:
            continue
        curve, features = _profile(row, main.name, main.protocol)
        if curve:
            # Matplotlib leaves a label that begins with "_" out of the legend.
            label = f"{' ' * row.name.startswith('_')}{row.name} ({', '.join(features)})"
            axes.plot(curve.keys(), curve.values(), label=label, markersize=5, linewidth=1.6, **styles[row.name])
            drawn = True
    axes.set_title(
        f"best feature over noise level, {main.name}, held-out training images, mean over seeds", fontsize=11
    )
    axes.set_xlabel("noise level t  (0: the clean image, 1: noise)")
    axes.set_ylabel("accuracy")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if drawn:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9, frameon=False)
    else:
        axes.text(0.5, 0.5, "no profile", ha="center", transform=axes.transAxes, color="0.4")


def _profile(row: Row, column: str, protocol: str) -> tuple[dict[float, float], list[str]]:
    """Held-out accuracy at every t that all seeds have, of each seed's best feature, their mean; and those features."""
    curves, features = [], []
    for measure in row.cells[column]:
        points = [
            p for p in measure.result.results.get("profile") or [] if p["protocol"] == protocol and p["t"] is not None
        ]
        if not points:
            continue
        feature = max(points, key=lambda point: point["validation_accuracy"])["feature"]
        features += [] if feature in features else [feature]
        curves.append({p["t"]: p["validation_accuracy"] for p in points if p["feature"] == feature})
    shared = [t for t in curves[0] if all(t in curve for curve in curves)] if curves else []
    return {t: sum(curve[t] for curve in curves) / len(curves) for t in sorted(shared)}, features
