"""How the processes of a run find one another: explicit flags, Cloud TPU, SLURM, or a JobSet on Kubernetes."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ddm_embed.errors import UserError

CLUSTERS = ("auto", "none", "tpu", "slurm", "jobset")
JOBSET = ("JOBSET_NAME", "REPLICATED_JOB_NAME", "JOB_COMPLETION_INDEX", "JOBSET_PROCESSES")
PORT = 8476  # of process 0, where nothing else says


class Start(NamedTuple):
    """What `jax.distributed.initialize` is given, and how it was found out. may_be_alone: JAX finding no cluster
    after all is no error."""

    how: str
    arguments: dict[str, Any]
    may_be_alone: bool = False


def find(
    cluster: str,
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    environ: Mapping[str, str],
    tpu: bool,
) -> Start | None:
    """How to start as one of several processes, or None for one that is alone.

    Args:
      cluster: one of `CLUSTERS`; auto goes by the environment.
      coordinator_address: HOST:PORT of process 0. process_id: this process's number. num_processes: how many there are;
        without the other two, how many are expected.
      environ: the environment's variables.
      tpu: whether this machine has a TPU.

    Raises:
      UserError: flags or variables that do not go together.
    """
    if coordinator_address is not None or process_id is not None:
        if None in (coordinator_address, num_processes, process_id):
            raise UserError("--coordinator_address, --num_processes and --process_id go together; give all three")
        if cluster not in ("auto", "none"):
            raise UserError(f"--cluster {cluster} and --coordinator_address both say where the others are; give one")
        if not 0 <= process_id < num_processes:
            raise UserError(f"--process_id {process_id}: expected 0 to {num_processes - 1} (--num_processes - 1)")
        host, colon, port = coordinator_address.rpartition(":")
        if not (host and colon and port.isdigit()):
            raise UserError(f"--coordinator_address {coordinator_address}: expected HOST:PORT")
        explicit = {
            "coordinator_address": coordinator_address, "num_processes": num_processes, "process_id": process_id
        }  # fmt: skip
        return Start("flags", explicit | {"cluster_detection_method": "deactivate"})
    if cluster == "slurm" or (cluster == "auto" and int(environ.get("SLURM_NTASKS", 1)) > 1):
        if "SLURM_STEP_NODELIST" not in environ:
            raise UserError(
                f"SLURM_NTASKS={environ.get('SLURM_NTASKS')}, and this process is none of a step's tasks; start it "
                "with srun, or as a single process with --cluster none"
            )
        return Start("SLURM", {"cluster_detection_method": "slurm"})
    if cluster == "tpu" or (cluster == "auto" and tpu):
        return Start("Cloud TPU metadata", {}, may_be_alone=cluster == "auto")
    if cluster == "jobset" or (cluster == "auto" and "JOBSET_NAME" in environ):
        missing = [name for name in JOBSET if not environ.get(name)]
        if missing:
            raise UserError(f"a JobSet's process needs {', '.join(missing)} in its environment; see launch/jobset.yaml")
        name, job, index, number = (environ[name] for name in JOBSET)
        return find("none", f"{name}-{job}-0-0.{name}:{PORT}", int(number), int(index), {}, tpu=False)
    return None


def has_tpu() -> bool:
    """Whether this machine has a TPU and the library to drive it."""
    devices = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
    return bool(devices) and importlib.util.find_spec("libtpu") is not None
