"""What was measured of a run, for its model card: the results of its probes, under what, and where they came from."""

from pathlib import Path
from typing import NamedTuple

from ddm_embed import config as config_lib
from ddm_embed.compare.runs import Measure, Result, measures, read_runs
from ddm_embed.errors import UserError
from ddm_embed.results import main_protocol
from ddm_embed.runs.outcome import ProbeFolder, probes


class Measured(NamedTuple):
    """results: of the probes that can be read, the default's first. left_out: why others are not, a line each."""

    results: list[Result]
    left_out: list[str]


def read(workdir: Path) -> Measured:
    """The results of all probes of a run; one that says nothing of its test images is left out with the reason."""
    results, left_out = [], []
    for probe in probes(workdir):
        try:
            results += read_runs([workdir], probe.name)
        except UserError as error:
            reason, _, _ = str(error).removeprefix(f"{probe.path}/").partition("; ")
            left_out.append(f"probe `{probe.name}`: {_without_labels(probe) or reason}")
    first = config_lib.probe_default().name
    return Measured(sorted(results, key=lambda result: result.probe != first), left_out)


def _without_labels(probe: ProbeFolder) -> str | None:
    """Why a probe ran no protocol, where it says so."""
    try:
        results = probe.read_results("probe again")
    except (OSError, UserError):
        return None
    return results["warnings"][0] if "protocols" not in results and results.get("warnings") else None


def best_level(measured: Measured, feature: str) -> tuple[float, str] | None:
    """(t, who found it): where the first probe's main protocol held a feature best, on held-out training images."""
    for result in measured.results:
        points = [
            point
            for point in result.results.get("profile") or []
            if point["feature"] == feature and point["t"] is not None
        ]
        points = [point for point in points if point["protocol"] == main_protocol(result.results)]
        if points:
            best = max(points, key=lambda point: point["validation_accuracy"])
            step = result.results["checkpoint_step"]
            return float(best["t"]), f"--feature; t by probe {result.probe} of step {step}"
    return None


def own_and_baselines(result: Result) -> list[tuple[Measure, Measure | None]]:
    """Every test accuracy of the run's features, each with that of the pixels under the same protocol, if measured."""
    found = measures(result)
    pixels = {measure.protocol: measure for measure in found if measure.baseline == "pixels"}
    return [(measure, pixels.get(measure.protocol)) for measure in found if measure.baseline is None]


def held_out(result: Result, feature: str, t: float) -> dict[str, float]:
    """{protocol: accuracy on held-out training images} of one feature at one level, where the profile has it."""
    points = result.results.get("profile") or []
    return {p["protocol"]: p["validation_accuracy"] for p in points if (p["feature"], p["t"]) == (feature, t)}


def spread(result: Result, protocol: str) -> float | None:
    """The standard deviation of a test accuracy over the draws that the protocol makes, where it makes several."""
    return result.results["protocols"][protocol].get("test_accuracy_std")
