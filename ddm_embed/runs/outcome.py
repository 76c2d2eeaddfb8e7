"""What is measured and drawn of a run: W/probe/NAME and W/samples. Imports no JAX: a comparison reads these alone."""

import dataclasses
from pathlib import Path

import numpy as np

from ddm_embed import results as results_lib
from ddm_embed.results import Results
from ddm_embed.runs.files import read_arrays, read_bytes, write_arrays, write_whole

PROBES, PICTURES = "probe", "samples"  # in a run directory
RESULTS, PREDICTIONS, ATLAS = "results.json", "predictions.npz", "atlas.npz"  # in a probe's folder


@dataclasses.dataclass(frozen=True)
class ProbeFolder:
    """The folder of one probe, W/probe/NAME."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def profile(self) -> Path:
        """Where the picture of accuracy over noise level is drawn."""
        return self.path / "profile.png"

    def make(self) -> None:
        """Makes the folder. Raises OSError if it cannot be written."""
        self.path.mkdir(parents=True, exist_ok=True)

    def is_done(self) -> bool:
        """Whether the probe has finished: its results are written last."""
        return (self.path / RESULTS).exists()

    def read_results(self, mend: str, required: tuple[str, ...] = ()) -> Results:
        """The results, of the form that `results` describes.

        Args:
          mend: what the user can do about results that are not as they should be. required: as of `results.read`.

        Raises:
          UserError: they are not. FileNotFoundError, NotADirectoryError: there are none.
        """
        file = self.path / RESULTS
        return results_lib.read(read_bytes(file, mend), file, mend, required)

    def write_results(self, results: Results) -> None:
        write_whole(self.path / RESULTS, results_lib.write(results))

    def read_predictions(self, mend: str) -> dict[str, np.ndarray]:
        """Classes given to the test images, by protocol; empty where none were kept.

        Raises:
          UserError: the file is not readable.
        """
        file = self.path / PREDICTIONS
        return read_arrays(file, mend) if file.is_file() else {}

    def write_predictions(self, arrays: dict[str, np.ndarray]) -> None:
        write_arrays(self.path / PREDICTIONS, arrays)

    def write_atlas(self, arrays: dict[str, np.ndarray]) -> None:
        write_arrays(self.path / ATLAS, arrays)

    def write_report(self, html: str) -> Path:
        """Writes report.html; its path."""
        path = self.path / "report.html"
        write_whole(path, html)
        return path

    def pictures(self) -> dict[str, bytes]:
        """PNG files of the run that the folder lies in, by name: the last of training, then those of `sample`."""
        drawn = sorted((self.path.parents[1] / PICTURES).glob("*.png"))
        shown = [path for path in drawn if path.stem.isdigit()][-1:] + [p for p in drawn if not p.stem.isdigit()]
        return {path.stem: path.read_bytes() for path in shown}


def probes(workdir: Path) -> list[ProbeFolder]:
    """The folders of a run's probes, by name, whether they have finished or not."""
    folder = workdir / PROBES
    return [ProbeFolder(place) for place in sorted(folder.iterdir()) if place.is_dir()] if folder.is_dir() else []
