"""What is measured and drawn of a run: W/probe/NAME and W/samples. Imports no JAX: a comparison reads these alone."""

import dataclasses
from hashlib import sha256
from pathlib import Path

import numpy as np

from ddm_embed import results as results_lib
from ddm_embed.errors import UserError
from ddm_embed.results import Results
from ddm_embed.runs.files import check_no_links, pack, read_arrays, read_bytes, write_whole

PROBES, PICTURES = "probe", "samples"  # in a run directory
RESULTS, PREDICTIONS, ATLAS = "results.json", "predictions.npz", "atlas.npz"  # in a probe's folder
PAGE = "report.html"


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
        """Makes the folder. Raises OSError if it cannot be written, UserError where the run directory has links."""
        check_no_links(self.path.parents[1])
        self.path.mkdir(parents=True, exist_ok=True)

    def is_done(self) -> bool:
        """Whether the probe has finished: its page is written last."""
        return (self.path / RESULTS).exists() and (self.path / PAGE).exists()

    def read_results(self, mend: str, required: tuple[str, ...] = ()) -> Results:
        """The results, of the form that `results` describes.

        Args:
          mend: what the user can do about results that are not as they should be. required: as of `results.read`.

        Raises:
          UserError: they are not. FileNotFoundError, NotADirectoryError: there are none.
        """
        file = self.path / RESULTS
        return results_lib.read(read_bytes(file, mend), file, mend, required)

    def write(self, results: Results, predictions: dict[str, np.ndarray], atlas: dict[str, np.ndarray]) -> None:
        """Writes what was found in place of what an earlier probe left, before anything is drawn of it.

        A probe that is killed in between leaves predictions that are not of its results, which readers refuse.
        """
        for name in (PAGE, self.profile.name, *([] if predictions else [PREDICTIONS]), *([] if atlas else [ATLAS])):
            (self.path / name).unlink(missing_ok=True)
        digest = None
        if predictions:
            content = pack(predictions)
            digest = sha256(content).hexdigest()
            write_whole(self.path / PREDICTIONS, content)
        if atlas:
            write_whole(self.path / ATLAS, pack(atlas))
        write_whole(self.path / RESULTS, results_lib.write(results | {"predictions": digest}))

    def read_predictions(self, results: Results, mend: str) -> dict[str, np.ndarray]:
        """Classes given to the test images, by protocol; empty where none were kept.

        Raises:
          UserError: the file is not readable, or not of these results.
        """
        file = self.path / PREDICTIONS
        if not file.is_file():
            return {}
        if "predictions" in results and sha256(read_bytes(file, mend)).hexdigest() != results["predictions"]:
            raise UserError(f"{file}: not of the results beside it; a probe was stopped between the two; {mend}")
        return read_arrays(file, mend)

    def write_report(self, html: str) -> Path:
        """Writes report.html; its path."""
        path = self.path / PAGE
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
