"""The numbers that probes left in run directories, each with what it was measured under and by."""

from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ddm_embed.errors import UserError
from ddm_embed.results import BASELINES, Chosen, Results, baseline_of, encoder_key
from ddm_embed.runs.outcome import ProbeFolder, probes

FIELDS = ("dataset", "seeds", "checkpoint_step", "protocol", "protocols", "manifest", "seeds.train", "seeds.probe")
MANIFEST = tuple(f"manifest.{name}" for name in ("run", "config_hash", "commit", "dirty", "versions", "device"))


class Result(NamedTuple):
    """What a probe left in W/probe/NAME: results.json, and the arrays of predictions.npz, empty where there is none."""

    run: Path
    probe: str
    results: Results
    predictions: dict[str, np.ndarray]

    @property
    def manifest(self) -> dict[str, Any]:
        return self.results["manifest"]


class Measure(NamedTuple):
    """One test accuracy under one protocol, and all that says where it came from.

    baseline names what was read in place of a run's features, such as pixels; it is None for the run's own. definition
    is all that two numbers must share to be compared. right [test] and predicted [test] are of the first draw, None
    where no predictions were kept.
    """

    result: Result
    protocol: str
    baseline: str | None
    accuracy: float
    selected: Chosen
    definition: dict[str, Any]
    right: Bool[np.ndarray, " test"] | None
    predicted: Int[np.ndarray, " test"] | None

    @property
    def seed(self) -> int:
        """Of the training; a baseline has none, but the probe's, which drew what it was fitted on."""
        return self.result.results["seeds"]["train" if self.baseline is None else "probe"]

    @property
    def probe_seed(self) -> int:
        return self.result.results["seeds"]["probe"]


def read_runs(runs: list[Path], probe: str | None) -> list[Result]:
    """Every probe of the runs, or the one of that name.

    Raises:
      UserError: a run or its results are missing, unreadable or of an older form; every such file has a line.
    """
    found, problems = [], []
    for run in dict.fromkeys(runs):
        try:
            found += _read_run(run, probe)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n       ".join(problems))
    return found


def _read_run(run: Path, probe: str | None) -> list[Result]:
    if not run.is_dir():
        raise UserError(f"{run}: no such run directory; give those that training made, such as runs/digits")
    again = f"python -m ddm_embed.probe --workdir {run}"
    found = [folder for folder in probes(run) if probe in (None, folder.name)]
    if not found:
        name = f" --config.name={probe}" if probe else ""
        raise UserError(f"{run}/probe/{probe or '*'}/results.json: missing; run the probe first: {again}{name}")
    return [_read_probe(run, folder, f"{again} --config.name={folder.name}") for folder in found]


def _read_probe(run: Path, folder: ProbeFolder, again: str) -> Result:
    mend = f"write it again: {again}"
    try:
        results = folder.read_results(mend, FIELDS + MANIFEST)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: missing; the probe has not finished: {again}") from error
    return Result(run, folder.name, results, folder.read_predictions(results, mend))


def measures(result: Result) -> list[Measure]:
    """Every test accuracy of a probe: of the run's features, and of the pixels under the same protocols."""
    results = result.results
    protocols = results["protocols"] or {}
    found = [
        _measure(result, name, None, name, entry["test_accuracy"], entry.get("selected"))
        for name, entry in protocols.items()
    ]
    for baseline, protocol in product(BASELINES, protocols):
        one = baseline_of(results, protocol, baseline)
        found += [_measure(result, protocol, baseline, one.key, one.accuracy, one.selected)] if one else []
    # Beside what is best of all features stands what is best of the encoder's: methods differ in how many they offer.
    chosen = {name: entry["encoder"] for name, entry in protocols.items() if entry.get("encoder")}
    for measure in [measure for measure in found if measure.protocol in chosen]:
        if measure.baseline is None:
            own = chosen[measure.protocol]
            measure = measure._replace(accuracy=own["test_accuracy"], selected=own["selected"], right=None)
        found.append(measure._replace(protocol=encoder_key(measure.protocol), predicted=None))
    return [measure for measure in found if measure.accuracy is not None]


def _measure(
    result: Result, protocol: str, baseline: str | None, key: str, accuracy: float, selected: Chosen | None
) -> Measure:
    results, arrays = result.results, result.predictions
    shared = {name: value for name, value in (results["protocol"] or {}).items() if name != "name"}
    definition = shared | _flat(results["protocols"][protocol].get("settings") or {})
    first = [np.atleast_2d(arrays[name])[0] if name in arrays else None for name in (f"{key}/right", key)]
    return Measure(result, protocol, baseline, accuracy, selected or {}, definition, *first)


def _flat(settings: dict[str, Any], prefix: str = "settings.") -> dict[str, Any]:
    flat = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
