"""Which feature, at which noise level, is a run's embedding: the probe's choice where there is one."""

from pathlib import Path
from typing import NamedTuple

from ddm_embed import config as config_lib
from ddm_embed.models.build import Models, base_of
from ddm_embed.results import Results, of_one_level
from ddm_embed.runs.outcome import probes

# Where nothing has chosen: z and the encoder are of most use at low to middle levels, on every dataset tried so far.
USUAL = 0.2


class Choice(NamedTuple):
    """feature: such as z, encoder_2 or denoiser_1. t: its noise level. by: who chose them, in words."""

    feature: str
    t: float
    by: str


def choose(workdir: Path, models: Models, timeless: bool) -> tuple[Choice, tuple[float, ...]]:
    """The run's choice, and all the noise levels that its probe read.

    The probe of the default name counts, else the one whose results are newest; without any it is z, or where there is
    none the encoder's last layer or the denoiser's middle block, at t = 0.2.

    Args:
      workdir: the run directory. models: its networks. timeless: whether no feature depends on t.
    """
    levels = (0.0,) if timeless else tuple(config_lib.probe_default().times)
    for name, results in _probes(workdir):
        chosen = of_one_level(results) or {}
        if base_of(str(chosen.get("feature"))) in models.features and chosen.get("t") is not None:
            times = (results.get("protocol") or {}).get("times") or levels
            read = (0.0,) if timeless else tuple(float(t) for t in times)
            by = f"probe {name} of step {results.get('checkpoint_step')}"
            if chosen is not results["selected"]:
                by += f", of one level; it chose {results['selected']['feature']}"
            return Choice(chosen["feature"], float(chosen["t"]), by), read
    return Choice(usual_feature(models), 0.0 if timeless else USUAL, "nobody: the run has not been probed"), levels


def usual_feature(models: Models) -> str:
    """What is read of a run that has not been probed."""
    names = models.features
    if "z" in names:
        return "z"
    return names[-1] if models.denoiser is None else f"denoiser_{-(-models.denoiser.depth // 2)}"


def _probes(workdir: Path) -> list[tuple[str, Results]]:
    """(name, results) of all probes: the default's first, then from the newest on."""
    found, first = [], config_lib.probe_default().name
    for probe in probes(workdir):
        try:
            results = probe.read_results("probe again, or delete it")
        except FileNotFoundError:
            continue  # not yet written
        created = (results.get("manifest") or {}).get("created")
        if isinstance(created, str):  # else by a version that did not date them
            found.append((probe.name == first, created, probe.name, results))
    return [(name, results) for _, _, name, results in sorted(found, key=lambda f: f[:3], reverse=True)]
