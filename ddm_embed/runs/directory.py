"""The handle to a run directory: made once with the exact config and dataset, and refused to a run of another."""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import NotRequired, TypedDict

import jax
import numpy as np
from jaxtyping import Num
from ml_collections import ConfigDict

from ddm_embed import config as config_lib
from ddm_embed.data.sequences import Scale
from ddm_embed.data.sources import names_place, open_source
from ddm_embed.data.types import Source
from ddm_embed.errors import UserError
from ddm_embed.json_reader import sealed
from ddm_embed.parallel import distributed
from ddm_embed.runs import checkpoint, outcome
from ddm_embed.runs.files import (
    check_name,
    check_no_links,
    is_store,
    locked,
    read_json,
    replacing,
    stamps,
    write_json,
    write_whole,
)
from ddm_embed.runs.provenance import Versions, versions

CONFIG, VERSIONS, DATA, CLASSES = "config.json", "versions.json", "data.json", "classes.json"
PARAMETERS = "parameters.txt"
MEND = "restore it, or train again"


class _Scale(TypedDict):
    mean: list[float]
    std: list[float]


class Data(TypedDict):
    """data.json: how many images, test_images None without any, validation_images left out without any;
    (height, width, channel) of one; `Scale.to_json`."""

    train_images: NotRequired[int]
    validation_images: NotRequired[int]
    test_images: NotRequired[int | None]
    image_shape: list[int]
    digest: NotRequired[str]
    scale: NotRequired[_Scale | None]


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """A run directory; what is in it says `ddm_embed.runs`. `path` is a disk's or a store's, see `files.place`."""

    path: Path

    def is_locked(self) -> bool:
        """Whether another process of this machine trains in the directory."""
        lock = self.path / ".lock"
        try:
            with locked(lock) if lock.exists() else nullcontext():
                return False
        except BlockingIOError:
            return True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the directory and keeps it to this run; the lock goes with its first process, however that ends.

        A store such as gs:// knows no locks: there nothing keeps two runs apart.

        Raises:
          UserError: it cannot be written, checkpoints could not be read from it, or another run of this machine is
            training in it.
        """
        with ExitStack() as stack:
            with distributed.together():
                check_name(self.path)
                try:
                    self.path.mkdir(parents=True, exist_ok=True)
                    if distributed.is_lead() and not is_store(self.path):
                        check_no_links(self.path)
                        stack.enter_context(locked(self.path / ".lock"))
                except BlockingIOError as error:
                    raise UserError(
                        f"--workdir {self.path}: another process is training in it; wait for it or stop it"
                    ) from error
                except OSError as error:
                    reason = error.strerror or error
                    raise UserError(f"--workdir {self.path} cannot be written ({reason}); choose another") from error
            yield

    def prepare(self, config: ConfigDict) -> None:
        """Notes the config and the versions of a new run, or checks that the run that is here is of this config.

        Raises:
          UserError: the config differs in a field that shapes the result.
        """
        saved = self.path / CONFIG
        if saved.exists() and (checkpoint.checkpoint_steps(self.path) or (self.path / checkpoint.ASIDE).exists()):
            self.check_config(config)
        elif checkpoint.checkpoint_steps(self.path):
            raise UserError(
                f"--workdir {self.path} holds checkpoints but no config.json; restore it or use another --workdir"
            )
        else:  # new, or nothing came of it: whatever was tried may be tried differently
            (self.path / DATA).unlink(missing_ok=True)
            write_json(saved, sealed(config.to_dict()), indent=2)
            write_json(self.path / VERSIONS, versions(), indent=2)

    def check_shared(self) -> None:
        """Raises UserError if this process does not see what the first one wrote."""
        if not (self.path / CONFIG).exists():
            raise UserError(
                f"--workdir {self.path}: process {jax.process_index()} does not see what process 0 wrote there; give a "
                "directory that all share, on gs:// or a shared file system"
            )

    def check_config(self, config: ConfigDict) -> None:
        """Raises UserError if the run here is of a config that differs in a field that shapes the result."""
        saved = self.read_config()
        if _may_have_moved(saved.data.name, config.data.name):  # `check_data` tells whether it has, or is another
            saved.data.name = config.data.name
        changed = config_lib.differences(saved, config)
        if changed:
            raise UserError(
                f"--workdir {self.path} holds a run of another config: {'; '.join(changed)}. "
                "Use its config again to resume it, or another --workdir"
            )

    def read_config(self) -> ConfigDict:
        """The config that the run was started with.

        Raises:
          UserError: there is no run here, or its config cannot be read.
        """
        file = self.path / CONFIG
        try:
            saved = read_json(file, "restore it or use another --workdir")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"--workdir {self.path} holds no run (no {CONFIG}); train one first") from error
        return config_lib.from_dict(saved, config_lib.default())

    def open_data(self, config: ConfigDict, moved: str | None = None) -> Source:
        """The dataset of the run that is here, wherever it lies now.

        Args:
          config: the run's. moved: where it lies now, as in `config.data.name`; None: where the run found it, or in the
            run directory itself if the run keeps it.

        Raises:
          UserError: it is not there, or is another one.
        """
        config = config.copy_and_resolve_references()
        if moved is not None and not _may_have_moved(config.data.name, moved):
            raise UserError(
                f"config.data={moved!r}: the run was trained on {config.data.name}; give the place where that lies now"
            )
        own = config.data.name.startswith("arrays:") and any(self.arrays.glob("train_*.npy"))
        config.data.name = moved or (f"arrays:{self.arrays}" if own else config.data.name)
        source = open_source(config)
        self.check_data(source)
        return source

    def check_data(self, source: Source) -> None:
        """Notes the dataset's sizes, or compares them with what the run began with.

        Raises:
          UserError: it has changed: another order of images would follow, and images that were trained on might be
            tested.
        """
        sizes = {
            "train_images": len(source.train),
            "test_images": None if source.test is None else len(source.test),
            "image_shape": list(source.image_shape),
        }
        if source.validation is not None:
            sizes["validation_images"] = len(source.validation)
        if source.digest is not None:
            sizes["digest"] = source.digest
        if source.scale is not None:
            sizes["scale"] = source.scale.to_json()
        if not (self.path / DATA).exists():
            write_json(self.path / DATA, sealed(sizes))
            return
        before = self.read_data()
        for name in ("validation_images", "digest"):  # earlier versions did not note them
            before.setdefault(name, sizes.get(name))
        same = {name: before.get(name) == value for name, value in sizes.items()}
        same["scale"] = Scale.alike(Scale.from_json(before.get("scale")), source.scale)
        if not all(same.values()):
            told = {name: (before.get(name), sizes.get(name)) for name in same if not same[name]}
            if "digest" in told:
                told["digest"] = ("of some names or values", "of others")
            changed = ", ".join(f"{name} was {old}, is {new}" for name, (old, new) in told.items())
            raise UserError(f"{source.name} has changed since the run in {self.path} began ({changed}); bring it back")

    def read_data(self) -> Data:
        """What the run noted of its dataset.

        Raises:
          UserError: the run has not begun, or the note cannot be read.
        """
        try:
            noted = read_json(self.path / DATA, MEND, Data)
        except FileNotFoundError as error:
            raise UserError(f"--workdir {self.path} holds a run that has not begun (no {DATA}); train it") from error
        shape = noted["image_shape"]
        if len(shape) != 3 or min(shape) < 1:
            raise UserError(f"{self.path / DATA}: image_shape is {shape}, expected height, width and channels; {MEND}")
        return noted

    def note_classes(self, values: tuple[int, ...]) -> None:
        """Notes the labels of a supervised run, or compares them with what the run began with.

        Raises:
          UserError: they have changed.
        """
        if not (self.path / CLASSES).exists():
            write_json(self.path / CLASSES, values)
        elif (before := self.read_classes()) != values:
            raise UserError(f"{self.path / CLASSES}: the run began with the classes {before}, now they are {values}")

    def read_classes(self) -> tuple[int, ...]:
        """The labels of a supervised run, in the order of its classifier's outputs.

        Raises:
          UserError: the file is missing, or cannot be read.
        """
        file = self.path / CLASSES
        try:
            return tuple(read_json(file, MEND, list[int]))
        except FileNotFoundError as error:
            raise UserError(f"{file} is missing: the run's classifier cannot be read without it; restore it") from error

    def notes(self) -> dict[Path, bytes]:
        """What the run has noted of itself, by file, as it stands there."""
        files = [self.path / name for name in (CONFIG, VERSIONS, DATA, CLASSES, PARAMETERS)]
        return {file: file.read_bytes() for file in files if file.exists()}

    def read_versions(self) -> Versions:
        """What the run was started with; empty where that was not noted, or cannot be read: nothing depends on it."""
        try:
            return read_json(self.path / VERSIONS, MEND, Versions)
        except (FileNotFoundError, UserError):
            return {}

    def write_parameters(self, overview: str) -> Path:
        """Writes the list of parameters; the path of the file."""
        path = self.path / PARAMETERS
        write_whole(path, overview + "\n")
        return path

    @property
    def arrays(self) -> Path:
        """Where images or sequences lie that were given as arrays: the PATH of config.data.name=arrays:PATH."""
        return self.path.absolute() / "data"

    def keep_arrays(self, shown: Num[np.ndarray, "number *shape"]) -> None:
        """Writes images [number, height, width, channel] or sequences [number, length, channel] to where the run reads
        them; those of a run that has begun stay.

        Raises:
          UserError: the run here has begun with others.
        """
        file = self.arrays / f"train_{'sequences' if shown.ndim == 3 else 'images'}.npy"
        if (self.path / DATA).exists():
            if not file.exists() or not np.array_equal(np.load(file, mmap_mode="r"), shown):
                raise UserError(
                    f"workdir={str(self.path)!r} holds a run of other images; name another, or delete that one"
                )
            return
        self.arrays.mkdir(parents=True, exist_ok=True)
        for before in self.arrays.glob("train_*.npy"):  # of a start that was refused
            before.unlink()
        with replacing(file) as temporary, temporary.open("xb") as content:
            np.save(content, shown)

    def picture(self, name: str | int) -> Path:
        """Where a picture is drawn: under its name, or the number of training steps after which training draws it."""
        return self.path / outcome.PICTURES / (f"{name:08d}.png" if isinstance(name, int) else f"{name}.png")

    def make_pictures(self) -> None:
        """Makes the folder of the pictures. Raises OSError if it cannot be written."""
        check_no_links(self.path)
        (self.path / outcome.PICTURES).mkdir(exist_ok=True)

    def probe(self, name: str) -> outcome.ProbeFolder:
        """The folder of the probe of this name, whether it is there or not."""
        return outcome.ProbeFolder(self.path / outcome.PROBES / name)

    def probes(self) -> list[outcome.ProbeFolder]:
        """The folders of all probes, by name, whether they have finished or not."""
        return outcome.probes(self.path)

    def stamps(self) -> tuple[tuple[str, int, int], ...]:
        """Of all that readers of a run depend on (see `files.stamps`): others, once it has gone on or been probed."""
        saved = self.path / checkpoint.FOLDER
        found = [probe.path / outcome.RESULTS for probe in self.probes()]
        return stamps([*(self.path / name for name in (CONFIG, DATA, CLASSES)), saved, *saved.glob("*"), *found])


def _may_have_moved(before: str, now: str) -> bool:
    """Whether two names of data may be those of one dataset that lies in another place."""
    return before.partition(":")[0] == now.partition(":")[0] and names_place(before)
