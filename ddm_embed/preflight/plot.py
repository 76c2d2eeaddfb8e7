"""Weak scaling as a figure."""

from typing import TYPE_CHECKING

from ddm_embed.preflight.compiled import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def scaling(rows: list[Estimate], title: str) -> "Figure":
    """Operations, and bytes sent, of one chip and step over the number of chips; rows that do not fit are left out."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row.cost is not None]
    chips = [row.chips for row in rows]
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(chips, [row.cost.flops / 1e12 for row in rows], "o-", color="C0", label="as compiled")
    left.plot(chips, [row.model_flops / 1e12 for row in rows], "s--", color="C1", label="the model's own")
    left.set_ylabel("TFLOP a chip and step")
    left.legend(loc="lower right", fontsize=9)
    right.plot(chips, [row.cost.sent / 1e9 for row in rows], "o-", color="C0")
    right.set_ylabel("GB sent by a chip in a step")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(chips, [str(count) for count in chips])
        axes.minorticks_off()
        axes.set_xlabel("chips")
        axes.set_ylim(0, 1.2 * max(axes.get_ylim()[1], 1e-9))
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    return figure
