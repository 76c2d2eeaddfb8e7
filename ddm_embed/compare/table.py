"""Several runs' probe results side by side: rows are configs, over their seeds; columns are equal protocols."""

import json
import re
from collections import Counter
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

from ddm_embed.compare.runs import Measure, Result, measures
from ddm_embed.compare.significance import Cells, Pair, Row, find_best, pair_up
from ddm_embed.errors import UserError


class Column(NamedTuple):
    """Numbers that may be compared: of one protocol, under one definition.

    name is unique: a protocol's second column is NAME (2), and difference says in what it is not like the first.
    """

    name: str
    protocol: str
    definition: dict[str, Any]
    difference: str | None


class Table(NamedTuple):
    """All runs on one dataset. best: the (row, column) names that no other is significantly better than."""

    dataset: str
    columns: list[Column]
    rows: list[Row]
    pairs: list[Pair]
    best: set[tuple[str, str]]
    notes: list[str]
    warnings: list[str]


def compare(results: list[Result]) -> tuple[list[Table], list[str]]:
    """A table a dataset; and what is in none of them, in words.

    Raises:
      UserError: nothing has labels, or one seed of one config was measured twice under one protocol.
    """
    left_out = [
        f"{one.run} (probe {one.probe}): {one.results['dataset']} has no labels, so there is no accuracy to compare"
        for one in results
        if not one.results["protocols"]
    ]
    kept = [one for one in results if one.results["protocols"]]
    if not kept:
        raise UserError("; ".join(left_out) or "no run is given; there is nothing to compare")
    datasets = dict.fromkeys(one.results["dataset"] for one in kept)
    return [_table(name, [one for one in kept if one.results["dataset"] == name]) for name in datasets], left_out


def _table(dataset: str, results: list[Result]) -> Table:
    found = [measure for one in results for measure in measures(one)]
    columns = _columns(found)
    configs = _config_rows(found, columns)
    baselines, differing = _baseline_rows(found, columns, {row.name for row in configs})
    rows, names = configs + baselines, [column.name for column in columns]
    ranked = [row for row in rows if not row.collapsed]
    pairs, untested = pair_up(ranked, names)
    best, unmarked = find_best(ranked, names, pairs)
    unranked = [
        f"{row.name} is not ranked or tested: its codes have collapsed (seed {', '.join(map(str, row.collapsed))})"
        for row in rows
        if row.collapsed
    ]
    return Table(dataset, columns, rows, pairs, best, unranked + differing + untested + unmarked, _warnings(rows))


def _columns(found: list[Measure]) -> list[Column]:
    """One a protocol and definition; of a protocol's definitions the one with the most numbers has the plain name."""
    columns = []
    for protocol in dict.fromkeys(measure.protocol for measure in found if measure.baseline is None):
        counts = Counter(_text(m.definition) for m in found if m.protocol == protocol and m.baseline is None)
        usual, *others = (json.loads(text) for text, _ in counts.most_common())  # of equals the first to appear
        columns.append(Column(protocol, protocol, usual, None))
        for number, other in enumerate(others, 2):
            columns.append(Column(f"{protocol} ({number})", protocol, other, _differences(other, usual)))
    return columns


def _text(definition: dict[str, Any]) -> str:
    return json.dumps(definition, sort_keys=True)


def _differences(one: dict[str, Any], other: dict[str, Any]) -> str:
    def show(definition: dict[str, Any], name: str) -> str:
        return json.dumps(definition[name]) if name in definition else "unset"

    names = [name for name in other | one if show(one, name) != show(other, name)]
    return "; ".join(f"{name} is {show(one, name)}, not {show(other, name)}" for name in names)


def _cells(found: list[Measure], columns: list[Column]) -> Cells:
    cells: Cells = {}
    for column in columns:
        same = [m for m in found if m.protocol == column.protocol and _text(m.definition) == _text(column.definition)]
        if same:
            cells[column.name] = sorted(same, key=lambda measure: measure.seed)
    return cells


def _config_rows(found: list[Measure], columns: list[Column]) -> list[Row]:
    """Runs of equal config and step are a row; in order of appearance."""
    groups: dict[tuple[str, int], list[Measure]] = {}
    for measure in found:
        if measure.baseline is None:
            key = measure.result.manifest["config_hash"], measure.result.results["checkpoint_step"]
            groups.setdefault(key, []).append(measure)
    rows = []
    for name, group in zip(_names(groups), groups.values(), strict=True):
        cells = _cells(group, columns)
        for column, cell in cells.items():
            _check_seeds(column, cell)
        rows.append(Row(name, False, cells))
    return rows


def _check_seeds(column: str, cell: list[Measure]) -> None:
    for one, other in pairwise(cell):
        if one.seed == other.seed:
            places = " and ".join(f"{m.result.run}/probe/{m.result.probe}" for m in (one, other))
            raise UserError(
                f"{places} measure the same config and training seed {one.seed} under {column}: they are one sample, "
                "not two; name one of the runs, or one of the probes with --probe"
            )


def _names(groups: dict[tuple[str, int], list[Measure]]) -> list[str]:
    """A name a group: of its runs; where two are alike, of its directories; then with step and config hash."""

    def joined(names: list[str]) -> str:
        names = list(dict.fromkeys(names))
        if len(names) == 1:
            return names[0]
        alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
        start = re.sub(r"[_\-. ]+(seed|s)?[_\-. =]*$", "", "".join(letters[0] for letters in alike))
        return start if len(start) > 2 else ", ".join(names)

    ways = (
        lambda key, group: joined([m.result.manifest["run"] for m in group]),
        lambda key, group: joined([m.result.run.name for m in group]),
        lambda key, group: f"{joined([m.result.run.name for m in group])} @{key[1]} #{key[0][:7]}",
    )
    for way in ways:
        names = [way(key, group) for key, group in groups.items()]
        if len(set(names)) == len(names):
            break
    return names


def _baseline_rows(found: list[Measure], columns: list[Column], taken: set[str]) -> tuple[list[Row], list[str]]:
    """Baselines know no training seed: each is measured once a protocol and a seed of the probe, whatever the run;
    and where runs disagree on one."""
    rows, notes = [], []
    for name in dict.fromkeys(m.baseline for m in found if m.baseline is not None):
        cells = {}
        for column, cell in _cells([m for m in found if m.baseline == name], columns).items():
            once = {measure.seed: measure for measure in reversed(cell)}
            values = {m.seed: {n.accuracy for n in cell if n.seed == m.seed} for m in cell}
            for seed, differing in values.items():
                if len(differing) > 1:
                    notes.append(
                        f"{name} under {column} was measured as {' and '.join(f'{v:.4f}' for v in sorted(differing))} "
                        f"with probe seed {seed}; {once[seed].accuracy:.4f} of {once[seed].result.run} is shown"
                    )
            cells[column] = [once[seed] for seed in sorted(once)]
        rows.append(Row(f"{name} (baseline)" if name in taken else name, True, cells))
    return rows, notes


def _warnings(rows: list[Row]) -> list[str]:
    """What the table's runs do not have in common though it may shape a number."""
    results = [(row.name, m.result) for row in rows if not row.baseline for cell in row.cells.values() for m in cell]
    lines = []
    for field in ("commit", "versions", "python", "device"):
        values: dict[str, list[str]] = {}
        for name, one in results:
            value = one.manifest.get(field)
            text = (
                ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value or "unknown")
            )
            names = values.setdefault(text[:10] if field == "commit" else text, [])
            names += [] if name in names else [name]
        if len(values) > 1:
            listed = "; ".join(f"{value} ({', '.join(names)})" for value, names in values.items())
            lines.append(f"runs differ in {field}: {listed}")
    changed = list(dict.fromkeys(name for name, one in results if one.manifest["dirty"]))
    if changed:
        lines.append(f"measured with changes that are in no commit: {', '.join(changed)}")
    return lines
