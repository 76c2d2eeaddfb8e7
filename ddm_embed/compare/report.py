"""A comparison as text, Markdown, CSV and HTML, and its files."""

import base64
import csv
import io
import json
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

from ddm_embed.compare.chart import draw
from ddm_embed.compare.runs import Measure
from ddm_embed.compare.significance import LEVEL, Pair, Row, summary
from ddm_embed.compare.table import Table
from ddm_embed.drawing import png
from ddm_embed.report import document
from ddm_embed.results import Results
from ddm_embed.runs.files import write_whole

WIDTH = 120  # of a line of text
LISTED = 12  # pairs that the text shows, where there are more only some; the files hold all

ERRORS = "± is the standard error over training seeds, s/√n, - where there is but one; (n) is their number."
TESTS = (
    "Over seeds: two-sided paired t-tests on the test accuracies of equal training seeds. Over images: McNemar's exact "
    "tests on the test images that only one of two gets right, for each seed, in the first draw of the noise; they "
    "speak of the trained networks, not of other seeds. A baseline has no training seed and is paired with each run "
    "that was probed with its probe's seed. p is two-sided, corrected after Holm over its kind in the table."
)
HEAD = (
    "protocol",
    "first",
    "second",
    "seeds",
    "difference",
    "p over seeds",
    "only first / only second right, p over images",
)
NUMBER = (
    "dataset", "protocol", "row", "run", "probe", "train_seed", "probe_seed", "test_accuracy", "feature", "t", "hyper",
    "checkpoint_step", "train_flops", "config_hash", "commit", "versions", "python", "device",
)  # fmt: skip
TRAINED = ("steps", "training FLOPs")
A_NUMBER = re.compile(r"-?\d+(\.\d*)?(e[+-]?\d+)?")
CELL = ("dataset", "row", "protocol", "mean", "standard_error", "n", "best", *NUMBER[3:], "definition")


def write(tables: list[Table], left_out: list[str], folder: Path) -> list[Path]:
    """Writes compare.md, .csv, .png and .html into the folder; their paths."""
    figure = png(draw(tables))
    files = {
        "compare.md": markdown(tables, left_out),
        "compare.csv": to_csv(tables),
        "compare.png": figure,
        "compare.html": html(tables, left_out, figure),
    }
    for name, data in files.items():
        write_whole(folder / name, data)
    return [folder / name for name in files]


def text(tables: list[Table], left_out: list[str]) -> str:
    """What the terminal shows: the tables, what to know about them, and the tests."""
    parts = []
    for table in tables:
        parts.append(f"{table.dataset}: accuracy on test images\n{_in_blocks(_columns(table))}")
        parts.append("\n".join([ERRORS, *_marks(table, "*"), *remarks(table)]))
        if table.pairs:
            main, chosen = table.columns[0].name, _against_best(table)
            rest = f"\nall {len(table.pairs)} pairs are in compare.md" if len(chosen) < len(table.pairs) else ""
            title = f"{main}, each against the highest" if rest else "tests"
            parts.append(f"{title}\n{_aligned([list(HEAD), *map(pair_cells, chosen)])}{rest}\n{TESTS}")
    return "\n\n".join(parts + [f"left out: {line}" for line in left_out])


def _columns(table: Table) -> list[list[str]]:
    """The table's columns, the rows' names first; what is best has a star."""
    columns = [["", *(row.name for row in table.rows)]]
    for column in table.columns:
        stars = (" *" if (row.name, column.name) in table.best else "" for row in table.rows)
        shown = (cell(row, column.name) + star for row, star in zip(table.rows, stars, strict=True))
        columns.append([column.name, *shown])
    return columns + [[name, *shown] for name, *shown in zip(TRAINED, *map(_trained, table.rows), strict=True)]


def _trained(row: Row) -> list[str]:
    """How long a row's runs were trained, under TRAINED; nothing for a baseline, nor FLOPs that were not written."""
    one = row.results[0]
    return ["", ""] if row.baseline else [str(one["checkpoint_step"]), _flops(one)]


def _flops(results: Results) -> str:
    return "" if results.get("train_flops") is None else f"{results['train_flops']:.4g}"


def _in_blocks(columns: list[list[str]]) -> str:
    """Columns in as many blocks as the terminal's width asks for, each with the rows' names."""
    names, *rest = columns
    blocks, room = [[names]], 0
    for column in rest:
        width = max(map(len, column)) + 2
        if room < width and len(blocks[-1]) > 1:
            blocks.append([names])
        if len(blocks[-1]) == 1:
            room = WIDTH - max(map(len, names))
        blocks[-1].append(column)
        room -= width
    return "\n\n".join(_aligned([list(line) for line in zip(*block, strict=True)]) for block in blocks)


def _against_best(table: Table) -> list[Pair]:
    """All pairs where they are few; else those of the first column that hold its highest row."""
    if len(table.pairs) <= LISTED:
        return table.pairs
    main = table.columns[0].name
    top = max(
        (row for row in table.rows if main in row.cells and not row.collapsed),
        key=lambda row: summary(row.cells[main])[0],
    ).name
    return [pair for pair in table.pairs if pair.column == main and top in (pair.first, pair.second)]


def cell(row: Row, column: str) -> str:
    """ "0.9720 ± 0.0031 (3)", or nothing where the row has no number in the column."""
    if column not in row.cells:
        return ""
    mean, error, number = summary(row.cells[column])
    if row.baseline:
        return f"{mean:.4f}"
    return f"{mean:.4f} ± {'-' if error is None else f'{error:.4f}'} ({number})"


def remarks(table: Table) -> list[str]:
    """Warnings, footnotes of columns and notes."""
    return [f"warning: {line}" for line in table.warnings] + footnotes(table) + table.notes


def footnotes(table: Table) -> list[str]:
    """In what second columns are not like the first of their protocol; those of one difference together."""
    columns: dict[str, list[str]] = {}
    for column in table.columns:
        if column.difference:
            columns.setdefault(column.difference, []).append(column.name)
    return [f"{', '.join(names)}, unlike the column without a number: {text}" for text, names in columns.items()]


def pair_cells(pair: Pair) -> list[str]:
    """A pair's line under HEAD."""
    test = pair.seeds_test
    difference = f"{test.difference:+.4f} ± {test.error:.4f}" if test else "-"
    images = "; ".join(
        f"{'' if len(pair.image_tests) == 1 else f'seed {seed}: '}{found.only_first} / {found.only_second}, {_p(p)}"
        for seed, found, p in pair.image_tests
    )
    seeds = str(test.number if test else len(pair.image_tests))
    return [pair.column, pair.first, pair.second, seeds, difference, _p(pair.seeds_p), images or "-"]


def _p(value: float | None) -> str:
    return "-" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _marks(table: Table, how: str) -> list[str]:
    if not table.best:
        return []
    return [
        f"{how}: the highest of its column, and what is not significantly below it over training seeds (corrected "
        f"p < {LEVEL}); baselines among themselves over images."
    ]


def numbers(table: Table) -> Iterator[tuple[str, Row, Measure]]:
    """Every number of a table with its column and row."""
    for column in table.columns:
        for row in table.rows:
            for measure in row.cells.get(column.name, []):
                yield column.name, row, measure


def manifest_cells(dataset: str, column: str, row: Row, measure: Measure) -> list[str]:
    """A number's line under NUMBER."""
    results, manifest, chosen = measure.result.results, measure.result.manifest, measure.selected
    return [
        dataset,
        column,
        row.name,
        str(measure.result.run),
        measure.result.probe,
        "" if row.baseline else str(measure.seed),
        str(measure.probe_seed),
        f"{measure.accuracy:.6f}",
        *("" if chosen.get(name) is None else str(chosen[name]) for name in ("feature", "t", "hyper")),
        str(results["checkpoint_step"]),
        "" if row.baseline else _flops(results),
        manifest["config_hash"][:12],
        (manifest["commit"] or "unknown")[:10] + (" + changes" if manifest["dirty"] else ""),
        " ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
        str(manifest.get("python", "")),
        str(manifest["device"]),
    ]


def to_csv(tables: list[Table]) -> str:
    """One line a row and protocol: mean, standard error, n, and what its seeds were measured by, `;` between."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CELL)
    for table in tables:
        for row in table.rows:
            for column in table.columns:
                if column.name not in row.cells:
                    continue
                mean, error, number = summary(row.cells[column.name])
                lines = [manifest_cells(table.dataset, column.name, row, m)[3:] for m in row.cells[column.name]]
                best = "yes" if (row.name, column.name) in table.best else ""
                spread = "" if error is None or row.baseline else f"{error:.6f}"
                head = [table.dataset, row.name, column.name, f"{mean:.6f}", spread, number, best]
                merged = (";".join(dict.fromkeys(v) if len(set(v)) == 1 else v) for v in zip(*lines, strict=True))
                cells = [*head, *merged, json.dumps(column.definition, sort_keys=True)]
                writer.writerow([_inert(cell) for cell in cells])
    return out.getvalue()


def _inert(cell: str | int) -> str | int:
    """A cell that no spreadsheet takes for a formula, as OWASP advises (CSV injection); numbers stay."""
    text = str(cell)
    return f"'{text}" if text.startswith(tuple("=+-@\t\r")) and not A_NUMBER.fullmatch(text) else cell


def markdown(tables: list[Table], left_out: list[str]) -> str:
    """The same as a Markdown file, with the figure beside it and every number's manifest."""
    parts = ["# Comparison of runs", "![Accuracy of each run](compare.png)"]
    for table in tables:
        parts += in_short(table)
        if table.pairs:
            parts += ["### Tests", TESTS, markdown_table(HEAD, [pair_cells(pair) for pair in table.pairs])]
        lines = [manifest_cells(table.dataset, *number) for number in numbers(table)]
        parts += ["### Every number", markdown_table(NUMBER[1:], [line[1:] for line in lines])]
    parts += [f"Left out: {_plain(line)}" for line in left_out]
    return "\n\n".join(parts) + "\n"


def in_short(table: Table) -> list[str]:
    """Paragraphs of Markdown: the accuracies, and what to know about them."""
    rows = []
    for row in table.rows:
        cells = [(cell(row, c.name), (row.name, c.name) in table.best) for c in table.columns]
        rows.append([row.name, *(f"**{shown}**" if bold else shown for shown, bold in cells), *_trained(row)])
    head = ["accuracy on test images", *(c.name for c in table.columns), *TRAINED]
    shown = markdown_table(head, rows, bold=True)
    notes = (f"- {_plain(line)}" for line in remarks(table))
    return [f"## {_plain(table.dataset)}", shown, ERRORS, *_marks(table, "Bold"), *notes]


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text)


def markdown_table(head, rows: list[list[str]], bold: bool = False) -> str:
    """A table of Markdown; with `bold`, cells such as **this** are."""

    def line(cells) -> str:
        return "| " + " | ".join(cells) + " |"

    def shown(value: str) -> str:
        return f"**{_plain(value[2:-2])}**" if bold and value.startswith("**") else _plain(value)

    return "\n".join([line(map(_plain, head)), line(["---"] * len(head)), *(line(map(shown, row)) for row in rows)])


def html(tables: list[Table], left_out: list[str], figure: bytes) -> str:
    """The same as a page, whole in one file."""
    uri = "data:image/png;base64," + base64.b64encode(figure).decode()
    datasets = ", ".join(table.dataset for table in tables)
    count = len({measure.result.run for table in tables for _, _, measure in numbers(table)})
    parts = [f'<header><p class="kind">Comparison of runs</p><h1>{escape(datasets)}</h1><p>{count} runs</p></header>']
    parts += [f'<p class="warning">Left out: {escape(line)}</p>' for line in left_out]
    for place, table in enumerate(tables):
        parts.append(document.section(f"accuracy-{place}", f"Accuracy on {table.dataset}", _html_table(table)))
        tests = document.table(HEAD, [map(escape, pair_cells(pair)) for pair in table.pairs], "Paired tests", 3)
        parts.append(document.section(f"tests-{place}", "Paired tests", tests if table.pairs else "", TESTS))
        lines = [map(escape, manifest_cells(table.dataset, *number)[1:]) for number in numbers(table)]
        every = document.table(NUMBER[1:], lines, "Every number and what it was measured by", 99)
        parts.append(
            document.section(
                f"numbers-{place}",
                "Every number",
                f"<details open><summary>{len(lines)} numbers</summary>{every}</details>",
            )
        )
    described = "Accuracy of each run under each protocol, and over noise level"
    picture = f'<img class="figure least" alt="{described}" src="{uri}">'
    picture = f'<div class="wide" tabindex="0" role="region" aria-label="{described}">{picture}</div>'
    parts.append(document.section("figure", "Figure", picture))
    return document.document(f"Comparison: {datasets}", "<main>" + "".join(parts) + "</main>")


def _html_table(table: Table) -> str:
    rows = []
    for row in table.rows:
        shown = []
        for column in table.columns:
            value = escape(cell(row, column.name))
            title = " | ".join(
                f"seed {m.seed}: {m.accuracy:.4f}, {m.selected.get('feature', '')} t={m.selected.get('t')}, "
                f"step {m.result.results['checkpoint_step']}, config {m.result.manifest['config_hash'][:7]}, "
                f"commit {(m.result.manifest['commit'] or 'unknown')[:7]}"
                for m in row.cells.get(column.name, [])
            )
            mark = "strong" if (row.name, column.name) in table.best else "span"
            shown.append(f'<{mark} title="{escape(title)}">{value}</{mark}>')
        rows.append([escape(row.name), *shown, *_trained(row)])
    head = ["run", *(c.name for c in table.columns), *TRAINED]
    content = document.table(head, rows, f"Accuracy on {table.dataset}'s test images")
    warnings = "".join(f'<p class="warning">{escape(line)}</p>' for line in table.warnings)
    lines = [ERRORS, *_marks(table, "Bold"), *footnotes(table), *table.notes]
    notes = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'{warnings}{content}<ul class="note">{notes}</ul>'


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip() for row in rows)
