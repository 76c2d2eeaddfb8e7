"""A run directory: made once with the exact config, and refused to a run of another."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ddm_embed import config as config_lib
from ddm_embed.errors import UserError
from ddm_embed.parallel import distributed
from ddm_embed.runs import files
from ddm_embed.runs.checkpoint import checkpoint_steps
from ddm_embed.runs.provenance import versions


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps the run directory to this run; the lock goes with its first process, however that ends.

    A store such as gs:// knows no locks: there nothing keeps two runs apart.

    Raises:
      UserError: it cannot be written, or another run of this machine is training in it.
    """
    with ExitStack() as stack:
        with distributed.together():
            try:
                workdir.mkdir(parents=True, exist_ok=True)
                if distributed.is_lead() and not files.is_store(workdir):
                    lock = stack.enter_context((workdir / ".lock").open("w"))
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"--workdir {workdir}: another process is training in it; wait for it or stop it"
                ) from error
            except OSError as error:
                reason = error.strerror or error
                raise UserError(f"--workdir {workdir} cannot be written ({reason}); choose another") from error
        yield


def prepare_workdir(workdir: Path, config: ConfigDict) -> None:
    """Writes config.json and versions.json into a new run's directory, or checks that the run in it is this one.

    Raises:
      UserError: it holds a run whose config differs in a field that shapes the result.
    """
    saved = workdir / "config.json"
    if saved.exists() and (checkpoint_steps(workdir) or (workdir / "corrupt").exists()):
        check_config(workdir, config)
    elif checkpoint_steps(workdir):
        raise UserError(
            f"--workdir {workdir} holds checkpoints but no config.json; restore it or use another --workdir"
        )
    else:  # new, or nothing came of it: whatever was tried may be tried differently
        (workdir / "data.json").unlink(missing_ok=True)
        files.write_whole(saved, config_lib.to_json(config))
        files.write_whole(workdir / "versions.json", json.dumps(versions(), indent=2) + "\n")


def check_shared(workdir: Path) -> None:
    """Raises UserError if this process does not see what the first one wrote."""
    if not (workdir / "config.json").exists():
        raise UserError(
            f"--workdir {workdir}: process {jax.process_index()} does not see what process 0 wrote there; give a "
            "directory that all share, on gs:// or a shared file system"
        )


def check_config(workdir: Path, config: ConfigDict) -> None:
    """Raises UserError if the run in the directory is of a config that differs in a field that shapes the result."""
    changed = config_lib.differences(config_lib.read(workdir), config)
    if changed:
        raise UserError(
            f"--workdir {workdir} holds a run of another config: {'; '.join(changed)}. "
            "Use its config again to resume it, or another --workdir"
        )
