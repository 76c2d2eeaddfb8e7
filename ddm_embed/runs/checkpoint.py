"""Checkpoints with Orbax: written while training goes on, whole or not at all, and verified before they are trusted.

W/checkpoints/STEP holds two items, `train` (step, parameters, optimizer state) and `ema`, so that the probe reads the
second alone; the config's JSON; and `digest.json`, the SHA-256 of each file (on a store its size), written before Orbax
renames the whole, or marks it as such on a store.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, Self

import jax
import orbax.checkpoint as ocp

from ddm_embed.errors import UserError, store_errors
from ddm_embed.parallel import distributed
from ddm_embed.runs.files import absolute, check_name, is_store, move, read_json, sizes, write_json, write_whole

logger = logging.getLogger("ddm_embed")

FOLDER, ASIDE = "checkpoints", "corrupt"  # in a run directory
DIGEST = "digest.json"
SAVE_SECONDS = 24 * 3600  # slow storage is no failure; one of several processes has its watchdog
REWRITTEN = "_CHECKPOINT_METADATA"  # Orbax stamps the time of the commit into it after the digest is taken


class State(Protocol):
    """What training carries from step to step, a Flax struct; arrays, or their shapes, dtypes and shardings."""

    step: Any
    params: Any
    ema_params: Any
    opt_state: Any

    def replace(self, **fields: Any) -> Self: ...


class Checkpoints:
    """The checkpoints of a run directory.

    Args:
      workdir: the run directory.
      keep: how many of the newest are kept. notes: what the run noted when it began, by file: written again at a save
        where it has gone, so that a directory that was deleted or emptied meanwhile holds a whole run.
    """

    def __init__(self, workdir: Path, keep: int, notes: Mapping[Path, bytes] = MappingProxyType({})):
        self._workdir = absolute(workdir)  # Orbax takes no relative path
        self._directory = self._workdir / FOLDER
        self._aside = self._workdir / ASIDE
        self._keep, self._notes = keep, notes
        self._manager: ocp.CheckpointManager | None = None
        self._first: tuple[Path, dict[str, Any]] | None = None  # this process's first save, and the shapes it has
        self._trusted = False  # whether that was looked at

    def restore(self, abstract: State) -> State | None:
        """The newest sound checkpoint, on the devices; None if the run has none yet.

        A damaged one is moved to W/corrupt and the one before it is taken.

        Args:
          abstract: shapes, dtypes and shardings of the state.

        Raises:
          UserError: all checkpoints are damaged, or the newest sound one does not fit the model.
        """
        step = distributed.from_lead(self._newest_sound)
        if step is None:
            return None
        wanted = {"train": _train_item(abstract), "ema": abstract.ema_params}
        for item, tree in wanted.items():
            _check_shapes(self._directory / str(step) / item, tree)
        arguments = {item: ocp.args.StandardRestore(tree) for item, tree in wanted.items()}
        restored = self._open().restore(step, args=ocp.args.Composite(**arguments))
        return abstract.replace(ema_params=restored["ema"], **restored["train"])

    def save(self, step: int, state: State, config_json: str) -> None:
        """Begins to write a checkpoint; returns once the arrays are copied, so that the state may be donated.

        The first is looked at, as a reader would, before the second and at the end: training does not wait for it.

        Raises:
          UserError: this save, or the one before it in the background, failed.
        """
        self._look_at_first()
        gone = [file for file in self._notes if not file.exists()] if distributed.is_lead() else []
        if gone:
            logger.warning("%s was deleted or emptied: %s and more are gone; training goes on", self._workdir, gone[0])
        for file in gone:
            write_whole(file, self._notes[file])
        items = {"train": _train_item(state), "ema": state.ema_params}
        with _failed_save(self._directory):
            self._open().save(
                step,
                args=ocp.args.Composite(
                    **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
                    config=ocp.args.JsonSave(json.loads(config_json)),
                ),
            )
        if self._first is None:
            shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), items)
            self._first = self._directory / str(step), shapes

    def _look_at_first(self) -> None:
        if self._first is None or self._trusted:
            return
        self.latest()  # waits
        folder, shapes = self._first
        if not distributed.from_lead(folder.exists):  # deleted since: then the next is the first
            self._first = None
            return
        problem = distributed.from_lead(lambda: damage(folder))
        if problem is not None:
            raise UserError(f"{folder} cannot be read again ({problem}); training stopped: use another --workdir")
        for item, tree in shapes.items():
            _check_shapes(folder / item, tree)
        self._trusted = True

    def check(self) -> None:
        """Raises UserError if a save in the background has failed."""
        if self._manager is not None:
            with _failed_save(self._directory):
                self._manager.check_for_errors()

    def latest(self) -> Path | None:
        """The newest checkpoint, once a save under way is wholly written; None if there is none."""
        if self._manager is not None:
            with _failed_save(self._directory):
                self._manager.wait_until_finished()
        steps = checkpoint_steps(self._workdir)
        return self._directory / str(steps[-1]) if steps else None

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          UserError: it could not be.
        """
        if self._manager is not None:
            with _failed_save(self._directory):
                self._manager.wait_until_finished()
                self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        """Closes; where all went well, the first save is looked at if it has not been."""
        try:
            if kind is None:
                self._look_at_first()
        finally:
            self.close()

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(
                    timeout_secs=SAVE_SECONDS, post_finalization_callback=self._write_digest
                ),
            )
            self._manager = ocp.CheckpointManager(self._directory, options=options)
        return self._manager

    def _write_digest(self) -> None:
        """Called by Orbax when the files of a save are written, and not yet renamed or marked as whole."""
        for folder in self._directory.iterdir():
            if not ocp.utils.is_checkpoint_finalized(folder):
                write_json(folder / DIGEST, _digest(folder))

    def _newest_sound(self) -> int | None:
        steps = checkpoint_steps(self._workdir)
        for step in reversed(steps):
            problem = damage(self._directory / str(step))
            if problem is None:
                return step
            place = self._aside / str(step)
            while place.exists():
                place = place.with_name(place.name + "+")
            logger.warning("checkpoint %d is damaged (%s); moved to %s, taking the one before", step, problem, place)
            move(self._directory / str(step), place)
        if steps:
            raise UserError(
                f"every checkpoint was damaged; they are in {self._aside}. Run again to train from the beginning"
            )
        return None


def restore_ema(workdir: Path, abstract: Any) -> tuple[int, Any]:
    """(step, EMA parameters) of the newest sound checkpoint; changes nothing in the run directory.

    Args:
      workdir: the run directory.
      abstract: shapes, dtypes and shardings of the parameters.

    Raises:
      UserError: there is no sound checkpoint, or it does not fit the model.
    """
    directory = absolute(workdir) / FOLDER
    passed: set[int] = set()

    def listed() -> list[int]:
        return [step for step in checkpoint_steps(workdir) if step not in passed]

    def newest() -> int:
        while steps := listed():
            problem = damage(directory / str(steps[-1]))
            if problem is None:
                return steps[-1]
            if steps[-1] in listed()[-1:]:  # else training has saved another since, and deleted this one
                logger.warning("checkpoint %d is damaged (%s); taking the one before", steps[-1], problem)
                passed.add(steps[-1])
        raise UserError(f"{directory} holds no sound checkpoint; train first")

    while True:
        folder = directory / str(step := distributed.from_lead(newest))
        try:
            with _quiet(), ocp.StandardCheckpointer() as checkpointer:
                _check_shapes(folder / "ema", abstract)
                params = checkpointer.restore(folder / "ema", abstract)
        except Exception:  # Orbax says in many ways that a file has gone
            if jax.process_count() > 1 or _is_whole(folder):
                raise
        else:
            if jax.process_count() > 1 or _is_whole(folder):  # of files that have gone there are zeros
                return step, params


def _is_whole(folder: Path) -> bool:
    """Whether all files of a checkpoint are still there: training deletes the older ones."""
    try:
        return all((folder / name).exists() for name in read_json(folder / DIGEST, ""))
    except (FileNotFoundError, UserError):
        return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Orbax warns that an item of a checkpoint, restored by itself, has no metadata of its own; it needs none."""
    absl_logger = logging.getLogger("absl")
    level = absl_logger.level
    absl_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        absl_logger.setLevel(level)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None; compares each with the digest taken when it was written.

    A store such as gs:// checks what it keeps, and reading all of it takes long: there sizes are compared.
    """
    # A store that does not answer says nothing of its files.
    absent = FileNotFoundError if is_store(folder) else OSError
    documents = {}
    for name in (DIGEST, REWRITTEN):
        try:
            documents[name] = read_json(folder / name, "")
        except (absent, UserError):
            return f"{name} is missing or unreadable"
        if not documents[name]:
            return f"{name} is empty"
    expected = documents[DIGEST]
    try:
        found = _digest(folder)
    except absent as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    for name in expected:
        if name not in found:
            return f"{name} is missing"
        if found[name] != expected[name]:
            return f"{name} has changed since it was written"
    return None


@contextmanager
def _failed_save(directory: Path) -> Iterator[None]:
    """Orbax passes on what the file system said as an OSError, or as TensorStore's ValueError; and the loss of another
    process, for which it waits in a save, as a TimeoutError."""
    try:
        yield
    except (OSError, ValueError, *store_errors()) as error:
        if distributed.lost_another(error):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(
            f"a checkpoint could not be written to {directory} ({reason}); training stopped. "
            "Earlier checkpoints are whole: make room and run the same command again"
        ) from error


def _train_item(state: State) -> dict[str, Any]:
    return {"step": state.step, "params": state.params, "opt_state": state.opt_state}


def checkpoint_steps(workdir: Path) -> list[int]:
    """The steps whose checkpoints are wholly written, in order."""
    directory = workdir / FOLDER
    if not directory.exists():
        return []
    steps = []
    for folder in directory.iterdir():
        if folder.name.isdigit():
            with suppress(FileNotFoundError, ValueError):  # training has deleted it since
                steps += [int(folder.name)] if ocp.utils.is_checkpoint_finalized(folder) else []
    return sorted(steps)


def _digest(folder: Path) -> dict[str, str]:
    if is_store(folder):
        return {
            name: f"{size} bytes"
            for name, size in sizes(folder).items()
            if name.rpartition("/")[2] not in (DIGEST, REWRITTEN)
        }
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name not in (DIGEST, REWRITTEN))
    digest = {}
    for file in files:
        with file.open("rb") as content:
            digest[str(file.relative_to(folder))] = hashlib.file_digest(content, "sha256").hexdigest()
    return digest


def _check_shapes(item: Path, abstract: Any) -> None:
    """Orbax casts dtypes without a word, so shapes and dtypes are compared here."""
    with _quiet(), ocp.StandardCheckpointer() as checkpointer:
        saved = checkpointer.metadata(item).item_metadata
    if saved is None:
        check_name(item)
        raise UserError(f"{item} cannot be read: its metadata are missing; train again, or restore the checkpoint")
    saved = saved.tree
    saved = {_name(path): (leaf.shape, leaf.dtype) for path, leaf in jax.tree_util.tree_leaves_with_path(saved)}
    wanted = {_name(path): (leaf.shape, leaf.dtype) for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)}
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise UserError(
                f"{item}: {name} was saved as {_show(saved.get(name))}, the model has {_show(wanted.get(name))}; "
                "the checkpoint is of another version of the code or config"
            )


def _name(path: tuple) -> str:
    return "/".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)


def _show(leaf: tuple | None) -> str:
    return "nothing" if leaf is None else f"{leaf[1]}{list(leaf[0])}"
